"""Time the steps of a training in one process and in two, each with half of the images.

Every row is a training by ``train.py`` on the CPU. A figure is the median of the steps after the first two, from the
end of one to the end of the next, so that the loading of images and the waiting for each other count.

    python benchmarks/processes.py --markdown benchmarks/processes.md
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"style_transfer": 4, "gan": 64, "classifier": 64}
"""Names of configurations, and images in a step of all processes, for a GAN those of an update."""
SETTINGS: dict[str, tuple[int, int, list[str]]] = {
    "one process, one thread": (1, 1, []),
    "one process, two threads": (1, 2, []),
    "two processes": (2, 1, []),
    "two processes, synchronized norms": (2, 1, ["--trainer.sync_batchnorm", "true"]),
}
"""Processes, threads of each, and further options."""


class Stopwatch(pl.Callback):
    """Print the median seconds of a step when a training ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Print the median."""
        steps = [after - before for before, after in zip(self.times[1:], self.times[2:], strict=False)]
        if trainer.is_global_zero:
            print(f"median {statistics.median(steps)}", flush=True)


def measure(config: str, processes: int, threads: int, options: list[str], steps: int) -> float:
    """Return the median seconds of a step of a training in a new folder."""
    command = [sys.executable, str(ROOT / "train.py"), "fit", "--config", str(ROOT / "configs" / f"{config}.yaml")]
    command += ["--trainer.accelerator", "cpu", "--trainer.max_steps", str(steps), *options]
    command += ["--trainer.devices", str(processes), "--data.batch_size", str(CONFIGS[config] // processes)]
    command += ["--trainer.callbacks", "benchmarks.processes.Stopwatch"]
    variables = {"OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )
    medians = [line for line in done.stdout.splitlines() if line.startswith("median ")]
    if done.returncode or not medians:
        raise RuntimeError(done.stderr[-2000:])
    return float(medians[0].split()[1])


def main() -> None:
    """Measure, and print a table as Markdown."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    described = str(__doc__).partition("\n\n")[2].strip()
    versions = f"torch {torch.__version__}, Lightning {pl.__version__}, Python {platform.python_version()}"
    lines = ["# One process and two", "", described, "", f"On {os.cpu_count()} cores; {versions}.", ""]
    lines += ["| training | images in a step | processes | step | relative to one thread |", "| --- " * 5 + "|"]
    print("\n".join(lines[-2:]))
    for config in args.configs:
        first = 0.0
        for name, (processes, threads, options) in SETTINGS.items():
            seconds = measure(config, processes, threads, options, args.steps)
            first = first or seconds
            row = [config, str(CONFIGS[config]), name, f"{seconds * 1e3:.0f} ms", f"{seconds / first:.2f}"]
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
            if args.markdown:
                args.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
