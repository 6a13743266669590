"""Time whole training steps by the norm that a network has, as multiples of the same step with batch normalization.

A step is what Lightning times as a batch: forward pass, loss, gradients and optimizer, without the loading of images.
In each round every norm trains for a few steps of which the first is not counted; rounds of the norms take turns, so
that whatever else slows the machine slows all. A figure is the ratio of the medians over rounds, followed by the
interquartile range of the ratios of single rounds. The share of the norms is the time that all their layers take when
each runs alone on input of the same shapes, forward and, where the step differentiates, backward.

    python benchmarks/steps.py --threads 2 --markdown benchmarks/steps.md
"""

import argparse
import importlib
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytorch_lightning as pl
import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import pages

ROOT = Path(__file__).resolve().parents[1]
REFERENCE, TARGET = "batch", 1.05
TARGETED = ("batch_instance", "switchable")
RUNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "default style run": ("style_transfer", {}, {}),
    "published style network": ("style_transfer", {"widths": [32, 64, 128], "start": None}, {"image_size": 256}),
    "default GAN": ("gan", {}, {}),
}
"""By name, a config and what is changed of the arguments of its model and its data."""
COLUMNS = ("norm", "step", "relative to batch", "share of the norms")


class Row(NamedTuple):
    """Hold what was measured of a norm: median seconds of a step, quartiles of ratios, seconds of the norms alone."""

    norm: str
    seconds: float
    ratio: float
    low: float
    high: float
    of_norms: float

    def cells(self) -> list[str]:
        """Return the row as text; a ratio that misses its target is followed by it."""
        ratio = f"{self.ratio:.3f} ({self.low:.3f}-{self.high:.3f})"
        if self.norm in TARGETED and self.ratio > TARGET:
            ratio += f" > {TARGET}"
        return [self.norm, f"{self.seconds * 1e3:.1f} ms", ratio, f"{self.of_norms / self.seconds:.1%}"]


def now(device: str) -> float:
    """Look at the clock, once a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Stopwatch(pl.Callback):
    """Time the steps of a training, and notes what its norms get in the last of them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.calls: list[tuple[nn.Module, torch.Size, bool]] = []
        self._start = 0.0

    def on_train_batch_start(self, _: Any, module: pl.LightningModule, *__: Any) -> None:
        """Start the clock."""
        self.calls.clear()
        self._start = now(module.device.type)

    def on_train_batch_end(self, _: Any, module: pl.LightningModule, *__: Any) -> None:
        """Stop the clock."""
        self.seconds.append(now(module.device.type) - self._start)

    def watch(self, module: nn.Module) -> None:
        """Let the norms of a module note each call: the layer, its input's shape, whether gradients follow."""

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            self.calls.append((layer, inputs[0].shape, torch.is_grad_enabled()))

        for layer in module.modules():
            # The norms of this package and of torch.nn have no base in common.
            if hasattr(layer, "num_features") or isinstance(layer, nn.GroupNorm):
                layer.register_forward_hook(note)


def build(run: str, norm: str) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """Build the module and the data of a run's config with another norm."""
    name, model_changes, data_changes = RUNS[run]
    config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    model = _make(config["model"], {**model_changes, "norm": norm})
    return model, _make(config["data"], {**data_changes, "batches_per_step": model.batches_per_step})


def train(module: pl.LightningModule, data: pl.LightningDataModule, steps: int, watch: Stopwatch, device: str) -> float:
    """Train for ``steps`` steps after a first one; return the median seconds of a step."""
    watch.seconds.clear()
    trainer = pl.Trainer(
        max_steps=steps + 1,
        accelerator=device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[watch],
    )
    trainer.fit(module, datamodule=data)
    return statistics.median(watch.seconds[1:])


def time_alone(calls: Sequence[tuple[nn.Module, torch.Size, bool]], repeats: int, device: str = "cpu") -> float:
    """Return the seconds that calls of layers take, each alone: the sum of the medians."""
    total = 0.0
    for layer, shape, differentiates in calls:
        layer.to(device).train()
        x, grad = (torch.randn(shape, device=device, requires_grad=each) for each in (differentiates, False))
        times = []
        for _ in range(repeats + 1):
            start = now(device)
            with torch.set_grad_enabled(differentiates):
                y = layer(x)
            if differentiates:
                y.backward(grad)
            times.append(now(device) - start)
        total += statistics.median(times[1:])
    return total


def measure(run: str, options: argparse.Namespace) -> list[Row]:
    """Compare all norms in a run."""
    torch.manual_seed(0)
    candidates = {norm: build(run, norm) for norm in dict.fromkeys([REFERENCE, *options.norms])}
    watches = {norm: Stopwatch() for norm in candidates}
    seconds: dict[str, list[float]] = {norm: [] for norm in candidates}
    for _ in range(options.rounds):
        for norm, (module, data) in candidates.items():
            seconds[norm].append(train(module, data, options.steps, watches[norm], options.device))
    rows = []
    for norm, (module, data) in candidates.items():
        watches[norm].watch(module)
        train(module, data, 1, watches[norm], options.device)
        calls = list(watches[norm].calls)
        median = statistics.median(seconds[norm])
        pairs = zip(seconds[norm], seconds[REFERENCE], strict=True)
        low, _, high = statistics.quantiles((own / other for own, other in pairs), n=4)
        ratio = median / statistics.median(seconds[REFERENCE])
        rows.append(Row(norm, median, ratio, low, high, time_alone(calls, options.steps, options.device)))
    return rows


def report(tables: dict[str, list[Row]], threads: int, device: str) -> str:
    """Write the markdown file."""
    lines = [
        *pages.heading("Training steps compared", __doc__ or "", threads, device),
        f"The target is {TARGET} for {' and '.join(TARGETED)}; a figure that misses it is followed by it.",
        "",
    ]
    for run, rows in tables.items():
        lines += [f"## {run[0].upper()}{run[1:]}", "", f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
        lines += [*(f"| {' | '.join(row.cells())} |" for row in rows), ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, and print and write the tables."""
    options = _parse()
    torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    tables: dict[str, list[Row]] = {}
    for run in options.runs:
        tables[run] = measure(run, options)
        table = Table(*COLUMNS, title=run)
        for row in tables[run]:
            table.add_row(*row.cells())
        Console().print(table)
        if options.markdown:
            # After each run, so that what was measured outlives an interruption.
            options.markdown.write_text(report(tables, options.threads, options.device))


def _make(part: dict[str, Any], changes: dict[str, Any]) -> Any:
    package, _, name = part["class_path"].rpartition(".")
    return getattr(importlib.import_module(package), name)(**{**part.get("init_args", {}), **changes})


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", nargs="+", choices=list(RUNS), default=list(RUNS), metavar="RUN", help=str(list(RUNS))
    )
    parser.add_argument("--norms", nargs="+", default=[*TARGETED, "instance"], help="any names of norms.build")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=8, help="steps of a norm in a round")
    parser.add_argument("--quick", action="store_true", help="few and short rounds, to see whether it works")
    parser.add_argument("--markdown", type=Path, help="file to write")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps = 2, 2
    return options


if __name__ == "__main__":
    main()
