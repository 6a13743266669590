"""Tell what grows in the trainings that soak.py has made.

It writes tables of growth over the second half of the steps, of files and of the time from a command to the first step,
and draws what was noted.

    OMP_NUM_THREADS=1 python benchmarks/soak.py
    python benchmarks/soak_report.py --figure docs/soak.svg --markdown benchmarks/soak.md
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
from pathlib import Path
from statistics import median
from typing import Any

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import theilslopes

from experiments.plots import panels, save, styled
from mixing_analysis.plots import DASHES, GROUP_COLORS, INK, RULE
from training.checkpoint_files import CheckpointFiles, read_checkpoint

TRAINING = "OMP_NUM_THREADS=1 python benchmarks/soak.py"

DESCRIPTION = """A tiny style network and a tiny GAN, each trained by `train.py fit` with all that accompanies a
training: metrics, W&B offline, the guard, mixing values every 50 steps, a sample picture, a validation and a checkpoint
every 500, the best checkpoint, and of the GAN its singular values and scores. A run has four processes: one makes the
first twentieth of the steps, one goes on to the end, of which the tables and the figure tell, and two go on for ten
steps more, the second with as many rows and mixing values as a million steps leave.

Flat is what grows by less than 2 % over the second half of the steps, gray in the figure. That growth is the slope
through the medians of ten windows, as Theil and Sen take it, with its interval of 95 %, times the length of the half,
and relative to the median. A machine with other work gets slower and faster, but the number of calls of functions in a
step of Python stays the same. Files grow with what is logged, and are to take as many bytes a step all the time."""

WINDOWS, MOST = 10, 0.02

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
    "anonymous": "memory without libraries, MB",
    "children's rss": "memory of W&B's process, MB",
    "open files": "open files",
    "threads": "threads",
    "children": "child processes",
    "objects": "Python objects",
}
"""What is noted between steps, and what it is called."""

CLOCKS = ("ms by the clock", "ms of the processor", "function calls")

Series = tuple[list[float], list[float]]
"""Steps, and a value for each."""

PANELS = {
    "Memory, MB": {"in use": "rss", "without libraries": "anonymous", "of W&B's process": "children's rss"},
    "Counts": {"open files": "open files", "threads": "threads", "child processes": "children"},
    "A plain step, ms": {"by the clock": f"plain step, {CLOCKS[0]}", "of the processor": f"plain step, {CLOCKS[1]}"},
}
"""Panels of the figure, and what they show."""

PARTS = {
    "W&B's history": ["W&B: history"],
    "pictures, twice": ["samples", "W&B: pictures"],
    "checkpoints": ["checkpoints"],
    "metrics.csv, mixing values": ["metrics.csv", "mixing"],
}
"""What the panel of files shows."""


def read(record: Path) -> tuple[list[dict[str, Any]], np.ndarray, dict[str, Any]]:
    """Return the samples, the seconds or calls of each step, and what was timed once."""
    samples = [json.loads(line) for line in record.with_suffix(".jsonl").read_text().splitlines()]
    return samples, np.load(record.with_suffix(".npy")), json.loads(record.with_suffix(".json").read_text())


def growth(steps: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """Return by how much values grow over their steps, relative to their median, and an interval of 95 % for it."""
    at, windows = windowed(steps, values, WINDOWS)
    slope = theilslopes(windows, at)
    scale = (steps[-1] - steps[0]) / (float(np.median(windows)) or 1)
    return slope.slope * scale, slope.low_slope * scale, slope.high_slope * scale


def windowed(steps: Sequence[float], values: Sequence[float], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Take the medians of so many windows."""
    parts = np.array_split(np.arange(len(steps)), min(count, len(steps)))
    at, windows = (np.array([np.median(np.asarray(each)[part]) for part in parts]) for each in (steps, values))
    return at, windows


def series(record: Path) -> dict[str, Series]:
    """Return all that was noted between steps and of steps, by name; times in ms."""
    samples, times, once = read(record)
    at = [each["step"] for each in samples]
    found: dict[str, Series] = {key: (at, [each[key] for each in samples]) for key in LABELS}
    steps = np.arange(len(times)) + once["start"]["step"]
    for kind, is_one in KINDS.items():
        # The first steps of a process warm up.
        chosen = np.array([step for step in steps[20:] if is_one(step)], dtype=int)
        for name, values, unit in zip(CLOCKS, times[chosen - steps[0]].T, (1e3, 1e3, 1), strict=True):
            there = ~np.isnan(values)
            found[f"{kind}, {name}"] = chosen[there].tolist(), (unit * values[there]).tolist()
    return found


def flatness(found: Mapping[str, Series], half: float) -> list[list[str]]:
    """Return the rows of the table of what has to be flat."""
    rows = []
    for name, (steps, values) in found.items():
        late = [(step, value) for step, value in zip(steps, values, strict=True) if step >= half]
        if len(late) > 1:
            grown, low, high = growth(*zip(*late, strict=True))
            middle = median(value for _, value in late)
            told = f"{grown:+.2%} ({low:+.1%} to {high:+.1%})"
            rows.append([LABELS.get(name, name), f"{middle:,.4g}", told, verdict(grown, low, high)])
    return rows


def verdict(grown: float, low: float, high: float) -> str:
    """Say what a growth, with its interval, comes to."""
    if abs(grown) < MOST:
        return "flat"
    if low < 0 < high:
        return "not told from noise"
    return "**grows**" if grown > 0 else "falls"


def files(samples: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of the table of files: of the parts that grow, of checkpoints, and of all else together."""
    end = samples[-1]["step"]
    quarters = [next(each["files"] for each in samples if each["step"] >= share * end) for share in (0.5, 0.75, 1)]
    named = {"checkpoints"} | {
        part for part, (size, _) in quarters[-1].items() if size - quarters[0].get(part, [0])[0] > end
    }
    parts = {part if part in named else "all else": np.zeros((3, 2)) for part in quarters[-1]}
    for quarter, found in enumerate(quarters):
        for part, sizes in found.items():
            parts[part if part in named else "all else"][quarter] += sizes
    return [[part, *_told(sizes, end / 4)] for part, sizes in sorted(parts.items(), key=lambda item: -item[1][-1][0])]


def _told(sizes: np.ndarray, steps: float) -> list[str]:
    """Tell of bytes and files at the half, three quarters and the end of a training, so many steps apart."""
    (third, _), (fourth, more) = np.diff(sizes, axis=0) / steps
    change = f"{fourth / third - 1:+.1%}" if third else "-"
    million = f"{fourth:,.1f} MB, {1e6 * more:,.0f} files" if fourth else "as much"
    return [f"{sizes[-1][0]:,.0f}", f"{sizes[-1][1]:,.0f}", f"{third:,.1f}", f"{fourth:,.1f}", change, million]


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
    """Draw what was noted over the steps: quantities by color, and each run with dashes of its own."""
    with styled():
        figure, axes = panels(len(PANELS) + 1, 2, 2.1)
        for (name, records), dashes in zip(runs.items(), DASHES, strict=False):
            found, samples = series(records[1]), read(records[1])[0]
            steps = [each["step"] for each in samples]
            curves = [{label: found[key] for label, key in panel.items()} for panel in PANELS.values()]
            sizes = [{part: size / 1e6 for part, (size, _) in each["files"].items()} for each in samples]
            curves.append(
                {
                    label: (steps, [sum(each.get(part, 0) for part in parts) for each in sizes])
                    for label, parts in PARTS.items()
                }
            )
            for panel, shown in zip(axes, curves, strict=True):
                for (label, values), color in zip(shown.items(), GROUP_COLORS, strict=False):
                    text = label if name == next(iter(runs)) else None
                    panel.plot(*windowed(*values, 100), color=color, linestyle=dashes, label=text)
        for panel, title in zip(axes, [*PANELS, "Files, MB"], strict=True):
            panel.axvspan(steps[-1] / 2, steps[-1], color=RULE, alpha=0.4, linewidth=0)
            panel.set_title(title)
            panel.set_ylim(0, 1.6 * panel.get_ylim()[1])  # with room for the legend
            panel.set_xlabel("steps")
            panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            panel.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
            panel.legend(loc="upper left", labelspacing=0.25)
        handles = [Line2D([], [], color=INK, linestyle=dashes) for _, dashes in zip(runs, DASHES, strict=False)]
        figure.legend(handles, list(runs), loc="outside upper right", ncols=len(runs))
        save(figure, file)


def found_in(folder: Path) -> dict[str, list[Path]]:
    """Return the records of each run in a folder, one of each process."""
    names = [path.name.removesuffix("-3.json") for path in sorted(folder.glob("*-3.json"), reverse=True)]
    return {name: [folder / f"{name}-{number}" for number in range(4)] for name in names}


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
        f"On {platform.machine()}, {os.cpu_count()} cores, one thread, at the end with {load}; "
        f"torch {torch.__version__}, Lightning {pl.__version__}, Python {platform.python_version()}.",
    ]
    if options.figure and options.markdown:
        figure = os.path.relpath(options.figure, options.markdown.parent)
        parts += ["", f"![Memory, counts, times and files over the steps]({figure})"]
    restarts = []
    for name, records in runs.items():
        samples = read(records[1])[0]
        rows = flatness(series(records[1]), samples[-1]["step"] / 2)
        parts += ["", f"## {name}: the second half", ""]
        parts += _table(["", "median", "growth over the half", "verdict"], rows)
        parts += ["", f"## {name}: files", ""]
        columns = ["", "bytes", "files", "bytes a step, 3rd quarter", "4th quarter", "change", "a million more steps"]
        parts += _table(columns, files(samples))
        for number, record in enumerate(records):
            once = read(record)[2]
            start, saved = once["start"], once["checkpoint"]
            size, seconds = f"{saved['bytes'] / 1e6:.2f} MB", f"{saved['seconds']:.3f} s"
            restarts.append(
                [
                    name,
                    "the files of 1,000,000" if number == 3 else f"{start['step']:,}",
                    f"{start['seconds']:.1f} s",
                    f"{start['cpu']:.1f} s",
                    size,
                    seconds,
                ]
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
    parser.add_argument("--figure", type=Path, help="SVG file to draw")
    parser.add_argument("--markdown", type=Path, help="file to write")
    options = parser.parse_args()
    told = report(options)
    print(told)
    if options.markdown:
        options.markdown.write_text(told)
    if options.figure:
        draw(found_in(options.folder), options.figure)


if __name__ == "__main__":
    main()
