"""Measure how time and memory of a training step grow with what is trained.

Each panel and each table changes one thing of a small style network or GAN, and leaves the others as they are. Each
point is a process of its own with one thread, forked from one that has imported everything. Time is what the process
takes of the processor from the start of a step to that of the next, Lightning included and the reading of images left
out: the median over steps, and then over rounds, in which all points take turns. For the logged steps it is the mean,
and of train.py with metrics.csv, mixing values and an offline W&B run. Memory is by how much the training has raised
the peak of what is resident.

The dashed line is the ideal: each image, pixel and weight costs as much as where there are most of them, and nothing
besides. More styles, classes, learned norms and logged steps would ideally cost nothing.

    python benchmarks/growth.py --results growth.jsonl --figure docs/growth.svg --markdown benchmarks/growth.md
"""

import argparse
import contextlib
import importlib
import io
import json
import logging
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

import norms
from benchmarks import pages
from experiments import plots
from lightning_modules import GAN, StyleTransfer
from mixing_analysis.plots import COLORS, key
from training.command import main as train

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2
LOGGED = 200
"""Steps of a training that logs."""
TIME, MEMORY = COLORS["batch"], COLORS["instance"]
IDEAL: dict[str, Any] = {"color": plots.SOFT, "linewidth": 1, "linestyle": (0, (4, 3))}
Case = tuple[pl.LightningModule, dict[str, torch.Tensor]]


class Axis(NamedTuple):
    """Hold one thing that grows."""

    label: str
    values: tuple[int, ...]
    power: int
    """Of the value, with which the cost would ideally grow."""
    build: Callable[[int], Case] | None
    """What makes the module and a batch; None for logged steps."""


def style(batch: int = 4, size: int = 64, width: int = 16, styles: int = 1, learned: int = 0, kind: str = "") -> Case:
    """Build a style network; so many of its norms are of a learned kind."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(styles):
            Image.effect_noise((64, 64), 20 + number).save(f"{folder}/{number:05}.png")
        pictures = {"styles": [folder]} if styles > 1 else {"style": f"{folder}/00000.png"}
        widths = [width, 2 * width, 4 * width]
        module = StyleTransfer(**pictures, style_size=64, norm="batch", widths=widths, channels_last=True)
        module.setup("fit")
    if learned:
        layers = [name for name, layer in module.transformer.named_modules() if isinstance(layer, nn.BatchNorm2d)]
        norms.convert(module.transformer, kind, where=lambda name, _: name in layers[:learned])
    return module, {"image": torch.rand(batch, 3, size, size)}


def gan(batch: int = 16, size: int = 32, width: int = 64, classes: int = 0) -> Case:
    """Build a GAN; its width is that of its widest layer."""
    torch.manual_seed(0)
    sizes = {"width": width / 512, "image_size": size}
    module = GAN("cnn32", architecture_options=sizes, num_classes=classes, n_dis=1, channels_last=True)
    labels = {"label": torch.randint(classes, (batch,))} if classes else {}
    return module, {"image": torch.rand(batch, 3, size, size), **labels}


AXES = {
    "style-batch": Axis("style: batch", (1, 2, 4, 8, 16, 32), 1, lambda n: style(batch=n)),
    "style-resolution": Axis("style: side in pixels", (32, 64, 128, 256), 2, lambda n: style(size=n)),
    "style-width": Axis("style: channels", (4, 8, 16, 32, 64), 2, lambda n: style(width=n)),
    "gan-batch": Axis("GAN: batch", (4, 8, 16, 32, 64, 128), 1, lambda n: gan(batch=n)),
    "gan-resolution": Axis("GAN: side in pixels", (16, 32, 64, 128), 2, lambda n: gan(size=n)),
    "gan-width": Axis("GAN: channels", (64, 128, 256, 512), 2, lambda n: gan(width=n)),
    "styles": Axis("style: number of styles", (1, 4, 16, 64, 256), 0, lambda n: style(styles=n)),
    "classes": Axis("GAN: number of classes", (10, 100, 1000, 10_000, 100_000), 0, lambda n: gan(classes=n)),
    "logged": Axis("GAN: steps logged of 100", (1, 2, 5, 10, 20, 50, 100), 0, None),
    "batch_instance": Axis(
        "style: batch-instance norms", (0, 1, 2, 4, 8, 15), 0, lambda n: style(learned=n, kind="batch_instance")
    ),
    "switchable": Axis(
        "style: switchable norms", (0, 1, 2, 4, 8, 15), 0, lambda n: style(learned=n, kind="switchable")
    ),
}


class Watch(pl.Callback):
    """Note at every step what the process has taken of the processor."""

    starts: ClassVar[list[float]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Note it."""
        self.starts.append(time.process_time())


def measure(name: str, value: int, steps: int) -> tuple[float, float]:
    """Train in this process; return the seconds of a step, and the memory that the training has added, in MB."""
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    build, before = AXES[name].build, _peak()
    if build is None:
        return statistics.mean(_logging(100 // value)), _peak() - before
    module, batch = build(value)
    trainer = pl.Trainer(
        max_steps=steps + WARM_UP + 1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watch()],
    )
    trainer.fit(module, DataLoader([batch] * (steps + WARM_UP + 1), batch_size=None))
    return statistics.median(b - a for a, b in pairwise(Watch.starts[WARM_UP:])), _peak() - before


def _logging(interval: int) -> list[float]:
    """Train by train.py; return the seconds of all steps but the first."""
    # Of the same name as in the command, and not that of this process.
    watch: Any = importlib.import_module("benchmarks.growth").Watch
    settings = {
        "--config": "gan",
        "--trainer.max_steps": LOGGED + WARM_UP,
        "--trainer.accelerator": "cpu",
        "--trainer.callbacks": "benchmarks.growth.Watch",
        "--trainer.log_every_n_steps": interval,
        "--mixing.every_n_steps": interval,
        "--model.architecture_options.width": 0.25,
        "--data.batch_size": 8,
    }
    os.environ["WANDB_MODE"] = "offline"
    told = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        status = train(["fit", f"--runs_dir={folder}", *(f"{key}={value}" for key, value in settings.items())])
    if status:
        raise SystemExit(f"train.py ended with status {status}")
    return [b - a for a, b in pairwise(watch.starts[WARM_UP:])]


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def run(options: argparse.Namespace) -> None:
    """Measure all points, each in a process of its own, and add a line to the results for each."""
    os.environ["PYTHONPATH"] = str(ROOT)  # where the process that is forked finds what it imports
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.growth", "wandb", "training.cli"])
    for _ in range(options.rounds):
        for name in options.axes:
            for value in AXES[name].values:
                with ProcessPoolExecutor(1, context) as pool:
                    seconds, megabytes = pool.submit(measure, name, value, options.steps).result()
                point = {"axis": name, "value": value, "seconds": seconds, "megabytes": megabytes}
                with options.results.open("a") as file:
                    file.write(json.dumps(point) + "\n")


Points = dict[str, list[tuple[int, float, float]]]


def read(results: Path) -> Points:
    """Return the medians of seconds and megabytes of all points, by axis and in order."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    found: Points = {name: [] for name in AXES}
    for name, points in found.items():
        for value in AXES[name].values:
            rounds = [line for line in lines if (line["axis"], line["value"]) == (name, value)]
            if rounds:
                medians = (statistics.median(line[key] for line in rounds) for key in ("seconds", "megabytes"))
                points.append((value, *medians))
    return {name: points for name, points in found.items() if points}


def rows(name: str, points: list[tuple[int, float, float]]) -> list[tuple[str, ...]]:
    """Return the rows of an axis's table."""
    first = points[0]
    found = []
    for value, seconds, megabytes in points:
        ideal = (value / first[0]) ** AXES[name].power if AXES[name].power else 1
        growth = f"{seconds / first[1]:.2f}", f"{megabytes / first[2]:.2f}", f"{ideal:g}"
        found.append((f"{value:,}", f"{seconds * 1e3:.1f} ms", f"{megabytes:.0f} MB", *growth))
    return found


def fixed_and_further(points: list[tuple[int, float, float]], power: int) -> tuple[float, float]:
    """Fit ``seconds = fixed + further * value**power``, with the least squares of relative errors."""
    values, seconds = (np.array(column, float) for column in list(zip(*points, strict=True))[:2])
    terms = np.stack([np.ones(len(values)), values**power], axis=1) / seconds[:, None]
    fixed, further = np.linalg.lstsq(terms, np.ones(len(values)), rcond=None)[0]
    return float(fixed), float(further)


def draw(found: Points, path: Path) -> None:
    """Draw a panel for each axis."""
    with plots.styled():
        figure, (*panels, last) = plots.panels(len(found) + 1, columns=3, height=1.75)
        for axes, (name, points) in zip(panels, found.items(), strict=True):
            _panel(axes, AXES[name], points)
        lines = [Line2D([], [], color=color, marker="o", markersize=3) for color in (TIME, MEMORY)]
        lines.append(Line2D([], [], **IDEAL))
        key(last, lines, ["time of a step", "memory", "ideal time"], loc="center left")
        last.axis("off")
        plots.save(figure, path)


def _panel(axes: Axes, axis: Axis, points: list[tuple[int, float, float]]) -> None:
    values = [value for value, _, _ in points]
    _, seconds, megabytes = points[0]
    if values[0] == 0:
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    else:
        axes.set_xscale("log")
    axes.set_yscale("log")
    ends = []
    for color, column, text in (
        (TIME, 1, _duration(points[-1][1])),
        (MEMORY, 2, f"{points[-1][2]:,.0f} MB"),
    ):
        heights = [point[column] / points[0][column] for point in points]
        axes.plot(values, heights, "o-", color=color, markersize=3)
        ends.append((heights[-1], plots.Look(text, color)))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.7), max(high, 3))
    # Through the last point of what grows, where the fixed cost weighs least, or else through the first.
    last = points[-1][1] / seconds
    ideal = [last * (value / values[-1]) ** axis.power if axis.power else 1.0 for value in values]
    axes.plot(values, ideal, **IDEAL, scaley=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [f"{value}" if value < 1000 else f"{value // 1000}k" for value in values])
    axes.yaxis.set_major_locator(LogLocator(10 if axes.get_ylim()[1] > 20 else 2))
    axes.yaxis.set_major_formatter("x {x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title(axis.label)
    axes.set_xlabel(f"from {_duration(seconds)} and {megabytes:.0f} MB")
    plots.name_ends(axes, ends)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def main() -> None:
    """Measure, and write table and figure."""
    options = _parse()
    run(options)
    found = read(options.results)
    if options.figure:
        draw(found, options.figure)
    if options.markdown:
        lines = pages.heading("How cost grows", __doc__ or "", 1)
        if options.figure:
            lines += [f"![]({os.path.relpath(options.figure, options.markdown.parent)})", ""]
        columns = "value", "step", "memory", "step grows by", "memory grows by", "ideally"
        for name, points in found.items():
            lines += [f"## {AXES[name].label}", "", *pages.table(columns, rows(name, points))]
            if power := AXES[name].power:
                fixed, further = fixed_and_further(points, power)
                of_what = "value" if power == 1 else f"value^{power}"
                lines += [f"Fitted: {fixed * 1e3:.1f} ms + {further * 1e3:.3g} ms x {of_what}.", ""]
        options.markdown.write_text("\n".join(lines))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--axes", nargs="*", choices=list(AXES), default=list(AXES), metavar="AXIS", help=", ".join(AXES)
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="steps of a point in a round")
    parser.add_argument("--results", type=Path, required=True, help="file to add all points to, and to read them from")
    parser.add_argument("--figure", type=Path, help="SVG file to draw")
    parser.add_argument("--markdown", type=Path, help="file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
