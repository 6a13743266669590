"""Tell what grows in the trainings that soak.py has made.

Flat is what grows by less than 2 % over the second half of the steps. That growth is the slope through the medians of
ten windows, as Theil and Sen take it, times the length of the half, and relative to the median. Files grow with what is
logged: flat are their bytes per step, from the third quarter to the fourth.

    OMP_NUM_THREADS=1 python benchmarks/soak.py
    python benchmarks/soak_report.py --markdown benchmarks/soak.md
"""

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from statistics import median
from typing import Any

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytorch_lightning as pl
import torch
from scipy.stats import theilslopes

from experiments.plots import panels, save, styled
from mixing_analysis.plots import GROUP_COLORS, RULE
from training.checkpoint_files import CheckpointFiles, read_checkpoint

TRAINING = "OMP_NUM_THREADS=1 python benchmarks/soak.py"

DESCRIPTION = """A tiny style network and a tiny GAN, each trained by `train.py fit` with all that accompanies a training: metrics, W&B
offline, the guard, mixing values every 50 steps, a sample picture, a validation and a checkpoint every 500, the best
checkpoint, and of the GAN its singular values and scores. A run has three processes: one makes the first twentieth of
the steps, one goes on to the end, which is what the tables tell of, and one goes on for ten steps more.

Flat is what grows by less than 2 % over the second half of the steps, gray in the figure. That growth is the slope
through the medians of ten windows, as Theil and Sen take it, times the length of the half, and relative to the median.
Files grow with what is logged: their bytes per step stay the same."""

WINDOWS, MOST = 10, 0.02

SMALL_FILES = 0.05
"""Files of fewer MB are not drawn."""

KINDS: dict[str, Callable[[int], bool]] = {
    "plain step": lambda step: step % 50 != 0 and step % 10 != 9,
    "step with a row of metrics": lambda step: step % 10 == 9 and step % 100 != 99,
    "step with mixing values": lambda step: step % 50 == 0 and step % 500 != 0,
    "step with a validation": lambda step: step % 500 == 499,
    "step with a picture and a checkpoint": lambda step: step % 500 == 0,
}
"""Kinds of steps, by how many were done before; what is done between two steps belongs to the second."""


LABELS = {
    "rss": "memory in use, MB",
    "uss": "memory of its own, MB",
    "children's rss": "memory of W&B's process, MB",
    "open files": "open files",
    "threads": "threads",
    "children": "child processes",
    "objects": "Python objects",
}
"""What is noted between steps, and what it is called."""

CLOCKS = ("ms by the clock", "ms of the processor")

PANELS = {
    "memory, MB": ("rss", "uss", "children's rss"),
    "counts": ("open files", "threads", "children"),
    "plain steps": tuple(f"plain step, {clock}" for clock in CLOCKS),
}
"""Panels of the figure above that of files, and what they show."""


def read(record: Path) -> tuple[list[dict[str, Any]], np.ndarray, dict[str, Any]]:
    """Return the samples, the seconds of each step by clock and processor, and what was timed once."""
    samples = [json.loads(line) for line in record.with_suffix(".jsonl").read_text().splitlines()]
    return samples, np.load(record.with_suffix(".npy")), json.loads(record.with_suffix(".json").read_text())


def growth(steps: Sequence[float], values: Sequence[float]) -> float:
    """Return by how much values grow over their steps, relative to their median, by the medians of windows."""
    parts = np.array_split(np.arange(len(steps)), min(WINDOWS, len(steps)))
    at, windows = (np.array([np.median(np.asarray(each)[part]) for part in parts]) for each in (steps, values))
    middle = float(np.median(windows))
    return float(theilslopes(windows, at).slope) * (steps[-1] - steps[0]) / middle if middle else float(windows[-1])


def series(record: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Return all that was noted between steps and of steps, by name, as steps and values; times in ms."""
    samples, times, once = read(record)
    found = {key: ([each["step"] for each in samples], [each[key] for each in samples]) for key in LABELS}
    steps = np.arange(len(times)) + once["start"]["step"]
    for kind, is_one in KINDS.items():
        # The first steps of a process warm up, and what comes after the last is not of a step.
        chosen = [step for step in steps[20:-1] if is_one(step)]
        for column, clock in enumerate(CLOCKS):
            found[f"{kind}, {clock}"] = ([*map(float, chosen)], [*(1e3 * times[chosen - steps[0], column])])
    return found


def flatness(found: Mapping[str, tuple[list[float], list[float]]], half: float) -> list[list[str]]:
    """Return the rows of the table of what has to be flat."""
    rows = []
    for name, (steps, values) in found.items():
        late = [(step, value) for step, value in zip(steps, values, strict=True) if step >= half]
        if len(late) > 1:
            grown = growth(*zip(*late, strict=True))
            middle = median(value for _, value in late)
            verdict = "flat" if grown < MOST else "**grows**"
            rows.append([LABELS.get(name, name), f"{middle:,.4g}", f"{grown:+.2%}", verdict])
    return rows


def files(samples: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of the table of files."""
    steps = samples[-1]["step"]
    quarters = [next(each["files"] for each in samples if each["step"] >= share * steps) for share in (0.5, 0.75, 1)]
    rows = []
    for part, (size, count) in sorted(quarters[-1].items(), key=lambda item: -item[1][0]):
        sizes = [each.get(part, (0, 0))[0] for each in quarters]
        rates = [(late - early) / (steps / 4) for early, late in pairwise(sizes)]
        per_file = (count - quarters[0].get(part, (0, 0))[1]) / (steps / 2)
        change = f"{rates[1] / rates[0] - 1:+.1%}" if rates[0] else "-"
        million = f"{rates[1]:,.1f} MB in {1e6 * per_file:,.0f} more files" if rates[1] else "no more"
        rows.append([part, f"{size:,}", f"{count:,}", *(f"{rate:,.1f}" for rate in rates), change, million])
    return rows


def checkpoint_times() -> list[list[str]]:
    """Time the writing and reading of checkpoints of some sizes; the disk has what was written."""
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for size in (1, 10, 100):
            path, seconds = Path(folder, "last.ckpt"), []
            state = {"state_dict": {str(n): torch.rand(250_000) for n in range(size)}}
            for _ in range(5):
                start = time.perf_counter()
                CheckpointFiles().save_checkpoint(state, path)
                written = time.perf_counter()
                read_checkpoint(path, mmap=False)
                seconds.append((written - start, time.perf_counter() - written))
            rows.append([f"{size} MB", *(f"{median(each):.3f} s" for each in zip(*seconds, strict=True))])
    return rows


def draw(runs: Mapping[str, list[Path]], file: Path) -> None:
    """Draw what was noted over the steps, a column of panels for each run."""
    with styled():
        figure, axes = panels((len(PANELS) + 1) * len(runs), len(runs), 1.8)
        for column, (name, records) in enumerate(runs.items()):
            found, samples = series(records[1]), read(records[1])[0]
            steps = [each["step"] for each in samples]
            shown = {title: {key: found[key] for key in keys} for title, keys in PANELS.items()}
            parts = {part: [each["files"].get(part, [0])[0] / 1e6 for each in samples] for part in samples[-1]["files"]}
            shown["files, MB"] = {part: (steps, sizes) for part, sizes in parts.items() if sizes[-1] > SMALL_FILES}
            for panel, (title, curves) in zip(axes[column :: len(runs)], shown.items(), strict=True):
                panel.axvspan(steps[-1] / 2, steps[-1], color=RULE, alpha=0.4, linewidth=0)
                for key, color in zip(curves, cycle(GROUP_COLORS)):
                    label = LABELS.get(key, key).removeprefix("plain step, ").removesuffix(", MB")
                    panel.plot(*_windowed(*curves[key]), color=color, label=label)
                panel.set_ylim(0)
                panel.set_title(f"{name}: {title}")
                panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        for panel in axes[-len(runs) :]:
            panel.set_xlabel("steps")
        save(figure, file)


def _windowed(steps: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Take the medians of a hundred windows, which a figure can show."""
    parts = np.array_split(np.arange(len(steps)), min(100, len(steps)))
    at, windows = (np.array([np.median(np.asarray(each)[part]) for part in parts]) for each in (steps, values))
    return at, windows


def found_in(folder: Path) -> dict[str, list[Path]]:
    """Return the records of each run in a folder, one of each process."""
    names = [path.name.removesuffix("-2.json") for path in sorted(folder.glob("*-2.json"), reverse=True)]
    return {name: [folder / f"{name}-{number}" for number in range(3)] for name in names}


def report(options: argparse.Namespace) -> str:
    """Write all tables, as Markdown."""
    runs = found_in(options.folder)
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown load"
    parts = [
        "# Long trainings: what grows",
        "",
        *DESCRIPTION.split("\n"),
        "",
        *(f"    {command}" for command in (TRAINING, shlex.join(["python", *sys.argv]))),
        "",
        f"On {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, at the end with {load}; "
        f"torch {torch.__version__}, Lightning {pl.__version__}, Python {platform.python_version()}.",
    ]
    if options.markdown:
        parts += ["", f"![What was noted over the steps]({options.markdown.stem}.svg)"]
    restarts = []
    for name, records in runs.items():
        samples = read(records[1])[0]
        rows = flatness(series(records[1]), samples[-1]["step"] / 2)
        parts += ["", f"## {name}: the second half", ""]
        parts += _table(["", "median", "growth over the half", "verdict"], rows)
        parts += ["", f"## {name}: files", ""]
        columns = ["", "bytes", "files", "bytes a step, 3rd quarter", "4th quarter", "change", "a million steps take"]
        parts += _table(columns, files(samples))
        for record in records:
            once = read(record)[2]
            start, saved = once["start"], once["checkpoint"]
            size, seconds = f"{saved['bytes'] / 1e6:.2f} MB", f"{saved['seconds']:.3f} s"
            restarts.append(
                [name, f"{start['step']:,}", f"{start['seconds']:.1f} s", f"{start['cpu']:.1f} s", size, seconds]
            )
    parts += ["", "## From the command to the first step", ""]
    columns = ["", "steps done", "by the clock", "of the processor", "a checkpoint", "is written in"]
    parts += _table(columns, restarts)
    parts += ["", "## Checkpoints", "", *_table(["size", "written in", "checked and read in"], checkpoint_times()), ""]
    return "\n".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def main() -> None:
    """Read what was noted, and print and write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    told = report(options)
    print(told)
    if options.markdown:
        options.markdown.write_text(told)
        draw(found_in(options.folder), options.markdown.with_suffix(".svg"))


if __name__ == "__main__":
    main()
