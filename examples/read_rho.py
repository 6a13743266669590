"""Read what a run has learned: python examples/read_rho.py [RUN], where RUN is a run folder of a classifier.

Without RUN a classifier is trained for some seconds first.
"""

import os
import sys

import pandas

import norms
from lightning_modules import Classifier
from training.command import main
from training.run import Run


def train() -> str:
    """Train the default classifier of digits for a few steps, with fewer channels."""
    os.environ.setdefault("WANDB_MODE", "disabled")
    tiny = ["--model.widths=[8,16,16,32]", "--trainer.max_steps=40", "--data.batch_size=32"]
    if status := main(["fit", "--config", "classifier", "--name=read_rho", *tiny]):
        sys.exit(status)
    return "runs/read_rho"


run = Run.find(sys.argv[1] if len(sys.argv) > 1 else train())
model = run.load(Classifier)

# A row for each value: layer, depth, kind, channel, statistic, value.
values = pandas.DataFrame(norms.mixing_values(model))
rho = values[values.kind == "rho"]
print(f"{len(rho)} rhos in {rho.layer.nunique()} layers of {run.folder}")
print(rho.groupby("layer", sort=False).value.describe()[["mean", "min", "max"]].round(2))

print("\nhow many channels have which rho, 0 for instance and 1 for batch normalized:")
for interval, count in rho.value.value_counts(bins=[i / 10 for i in range(11)], sort=False).items():
    print(f"up to {interval.right:.1f} {'#' * -(-60 * count // len(rho))} {count}")

print("\nand over the training, from metrics.csv:")
metrics = pandas.read_csv(run.metrics)
means = metrics[[name for name in metrics if name.startswith("rho/") and name.endswith("/mean")]].dropna()
print(means.mean(axis=1).round(3).to_list())
