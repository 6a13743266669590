"""What layers learn as a film: its frames are the steps of the training."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pandas import DataFrame
from PIL import Image

from mixing_analysis.kinds import families, word
from mixing_analysis.plots import (
    BINS,
    GROUP_COLORS,
    MARKERS,
    MOST_GROUPS,
    RAMP,
    SOFT,
    WIDTH,
    Groups,
    colors_of,
    key,
    legend,
    name_rows,
    offset,
    padded,
    size_of,
)
from mixing_analysis.values import Run, histogram, kinds_of, numbered, summaries
from norms.kinds import MixingKind
from training.files import replacing
from training.moving import CONTAINERS, Frame, Pace, encode, write_animation

FORMATS = ("gif", "mp4")

MOST_FRAMES = 50
"""Of more steps some are left out, evenly."""

SECONDS = 6
"""About how long a film of many frames is."""

HOLD = 1.5
"""For how many seconds the last frame stays."""

MOST_GATES = 1_000
"""A network of more gates has no dot for each: they would make the file large."""

DPI = 90

TALLEST = 6.0
"""Of a film, in inches; more layers have lower rows."""


class Film(NamedTuple):
    """Hold a figure, what moves in it, and how it is moved to one of its steps."""

    figure: Figure
    moving: list[Artist]
    move: Callable[[int], None]
    steps: list[int]


def write(table: DataFrame, runs: Sequence[Run], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the training as animation or video: ``rho_evolution.gif``, ``switch_evolution.mp4``, and so on.

    Args:
        table: The values of all runs, see :data:`mixing_analysis.values.COLUMNS`.
        runs: The runs of the table.
        folder: Where the files go; it is made.
        formats: Some of :data:`FORMATS`.

    Returns:
        The files: none of values that are known at one step only.
    """
    written = []
    for name, film in films(table, runs).items():
        images = list(_images(film))
        seconds = min(0.8, SECONDS / len(images))
        rate = Fraction(1 / seconds).limit_denominator(100)
        images += images[-1:] * int(HOLD * rate)
        frames = [Frame(image, None, number / rate, 1 / rate) for number, image in enumerate(images)]
        for suffix in formats:
            path = folder / f"{name}_evolution.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in CONTAINERS:
                with replacing(path) as partial:
                    encode(frames, partial, path.suffix, Pace(rate), CONTAINERS[path.suffix])
            else:
                write_animation(frames, path, plays=0)
            written.append(path)
    return written


def films(table: DataFrame, runs: Sequence[Run]) -> dict[str, Film]:
    """Say what can be filmed: of each kind with a value in every channel, and of each family of other kinds.

    The first of the groups, and those of the same layers, are shown: of gates up to six, of weights the first alone.
    """
    found = {}
    kinds = kinds_of(runs)
    for members in [[kind] for kind in kinds if kind.per_channel] + list(families(kinds).values()):
        rows = table[table["kind"].isin([kind.name for kind in members])]
        layers = _layers(rows)
        alike = [name for name in layers if layers[name] == next(iter(layers.values()))]
        alike = alike[: MOST_GROUPS if members[0].per_channel else 1]
        rows = rows[rows["group"].isin(alike)]
        steps = np.unique(rows["step"])
        if len(steps) < 2:
            continue
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, MOST_FRAMES).round().astype(int))]
        latest = _latest(rows, steps)
        rows = rows.merge(latest[["run", "step"]].drop_duplicates(), on=["run", "step"])
        groups = {name: index for index, name in enumerate(alike)}
        if members[0].per_channel:
            found[members[0].name] = _gates(rows, latest, groups, members[0], layers[alike[0]])
        else:
            name = next(name for name, own in families(kinds).items() if own == members)
            found[name] = _weights(rows, latest, alike[0], members, layers[alike[0]])
    return found


def _layers(rows: DataFrame) -> dict[str, list[str]]:
    """Return the layers of each group, in order."""
    layers = rows[["group", "layer", "depth"]].drop_duplicates().sort_values("depth")
    return {str(name): own["layer"].tolist() for name, own in layers.groupby("group", observed=True)}


def _latest(rows: DataFrame, steps: np.ndarray) -> DataFrame:
    """Say of which step each run is shown in a frame: the last that it has values of by then, or its first."""
    parts = []
    for (run, group), own in rows.groupby(["run", "group"], observed=True)["step"]:
        known = np.unique(own)
        place = np.maximum(0, np.searchsorted(known, steps, "right") - 1)
        parts.append(DataFrame({"run": run, "group": group, "frame": range(len(steps)), "step": known[place]}))
    latest = pd.concat(parts, ignore_index=True)
    latest.attrs["steps"] = steps.tolist()
    return latest.astype({"run": rows["run"].dtype, "group": rows["group"].dtype})


def _gates(rows: DataFrame, latest: DataFrame, groups: Groups, kind: MixingKind, layers: list[str]) -> Film:
    by = ["group", "frame"]
    described = summaries(rows, kind, ["run", "step", "depth"]).merge(latest, on=["run", "step"])
    means = described.groupby([*by, "depth"], observed=True)[["mean", "q25", "q75"]].mean()
    counts = histogram(rows, kind, ["run", "step"], BINS).merge(latest, on=["run", "step"])
    shares = counts.groupby([*by, "left"], observed=True)["count"].sum()
    shares = shares / shares.groupby(by, observed=True).transform("sum")
    figure, (whole, depth) = _stage(len(layers), [2, 3])
    edges = np.linspace(kind.low, kind.high, BINS + 1)
    whole.set(title="Whole network", xlim=edges[[0, -1]], ylim=(0, min(1.0, 1.08 * shares.max())), xlabel=kind.name)
    whole.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    whole.set_ylabel("share of the gates")
    name_rows(depth, layers, named=_has_names(depth, len(layers)))
    depth.set(title="Layer by layer", xlim=padded(kind), xlabel=kind.name)
    depth.grid(visible=False, axis="y")
    if len(groups) == 1:
        colors = RAMP((np.arange(BINS) + 0.5) / BINS)
        bars = whole.bar((edges[:-1] + edges[1:]) / 2, 0, 0.9 * (edges[1] - edges[0]), color=colors)
    outlines = [whole.stairs(np.zeros(BINS), edges, color=GROUP_COLORS[i], linewidth=1.4) for i in groups.values()]
    halves = [depth.hlines([], [], [], color=GROUP_COLORS[i], linewidth=1.8) for i in groups.values()]
    marks = [
        depth.plot([], [], MARKERS[i], color=GROUP_COLORS[i], markersize=5.5, markeredgecolor="white")[0]
        for i in groups.values()
    ]
    places = np.arange(len(layers))
    dots, single = [], rows["run"].nunique() == 1 and counts.groupby("frame")["count"].sum().max() <= MOST_GATES
    if single:
        rows = rows.merge(latest, on=["run", "step"])
        own = dict(iter(rows.groupby("frame")))
        dots = [depth.scatter([], [], c=[], cmap=RAMP, vmin=kind.low, vmax=kind.high, s=7, linewidths=0.2)]
        dots[0].set_edgecolor(SOFT)
    legend(figure, groups)

    def move(frame: int) -> None:
        for name, index in groups.items():
            heights = shares.loc[(name, frame)].to_numpy()
            if len(groups) == 1:
                for bar, height in zip(bars, heights, strict=True):
                    bar.set_height(height)
            else:
                outlines[index].set_data(heights)
            found = means.loc[(name, frame)]
            y = places + offset(index, len(groups))
            ends = zip(found["q25"], found["q75"], y, strict=True)
            halves[index].set_segments([[(low, row), (high, row)] for low, high, row in ends])
            marks[index].set_data(found["mean"], y)
        for each in dots:
            part = own[frame]
            row = np.searchsorted(np.unique(part["depth"]), part["depth"])
            # Multiples of the golden ratio are spread evenly, however many there are.
            jitter = (part["channel"].to_numpy(float) * 0.618034) % 1 - 0.5
            each.set_offsets(np.column_stack([part["value"], row + 0.62 * jitter]))
            each.set_array(part["value"].to_numpy())

    moving = [*(bars if len(groups) == 1 else outlines), *dots, *halves, *marks]
    return Film(figure, moving, move, latest.attrs["steps"])


def _weights(rows: DataFrame, latest: DataFrame, group: str, kinds: Sequence[MixingKind], layers: list[str]) -> Film:
    rows = rows.merge(latest, on=["run", "step"])
    by = ["frame", "kind", "statistic", "depth"]
    codes, means = numbered(rows, by)
    means["value"] = np.bincount(codes, rows["value"]) / np.bincount(codes)
    weights = means.set_index(by)["value"].unstack("depth").fillna(0.0)
    figure, every = _stage(len(layers), [1] * len(kinds))
    labels, colors = kinds[0].labels, colors_of(kinds[0].labels)
    bars = {}
    for axes, kind in zip(every, kinds, strict=True):
        for label in labels:
            bars[kind.name, label] = axes.barh(np.arange(len(layers)), 0, 0.8, color=colors[label], edgecolor="white")
        name_rows(axes, layers, named=kind is kinds[0] and _has_names(axes, len(layers)))
        axes.set(xlim=(0, 1), title=f"Weights of {word(kind)}")
        axes.grid(visible=False)
    figure.suptitle(group, fontsize=8, color=SOFT, x=0.01, ha="left")
    handles = [mpl.patches.Patch(color=color) for color in colors.values()]
    key(figure, handles, labels, loc="outside lower center", ncols=len(handles))

    def move(frame: int) -> None:
        for kind in kinds:
            left = np.zeros(len(layers))
            for label in labels:
                there = (frame, kind.name, label) in weights.index
                widths = weights.loc[(frame, kind.name, label)].to_numpy() if there else np.zeros(len(layers))
                for bar, start, width in zip(bars[kind.name, label], left, widths, strict=True):
                    bar.set(x=start, width=width)
                left += widths

    return Film(figure, [bar for own in bars.values() for bar in own], move, latest.attrs["steps"])


def _stage(layers: int, widths: Sequence[float]) -> tuple[Figure, list[Axes]]:
    height = min(TALLEST, max(2.6, 1.1 + 0.2 * layers))
    figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=DPI)
    return figure, figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0].tolist()


def _has_names(axes: Axes, layers: int) -> bool:
    return layers * 0.12 < size_of(axes)[1] - 1


def _images(film: Film) -> Iterator[Image.Image]:
    """Draw the frames; what does not move is drawn once."""
    canvas: Any = FigureCanvasAgg(film.figure)
    step = film.figure.text(0.995, 0.995, "", ha="right", va="top", fontsize=9, animated=True)
    for artist in film.moving:
        artist.set_animated(True)
    canvas.draw()
    still = canvas.copy_from_bbox(film.figure.bbox)
    for frame, number in enumerate(film.steps):
        canvas.restore_region(still)
        film.move(frame)
        step.set_text(f"step {number:,} of {film.steps[-1]:,}")
        for artist in (*film.moving, step):
            film.figure.draw_artist(artist)
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        # Encoders of videos want even numbers of pixels.
        yield image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2))
