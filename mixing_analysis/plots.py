"""How the pictures of the report look: colors, marks, and the rows and panels that they share."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from pandas import DataFrame

from norms.kinds import MixingKind
from training.files import replacing

COLORS = {"instance": "#bb5566", "layer": "#ddaa33", "batch": "#004488"}
GROUP_COLORS = ("#1d1f24", "#0f8f7e", "#8a55b5", "#8a5a2e", "#dd96c8", "#93b02c")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (7, 3)), (0, (2, 3)), (0, (9, 3, 2, 3)), (0, (12, 4)), (0, (4, 2)))
INK, SOFT, RULE = "#1d1f24", "#5d6068", "#e2e0da"
LOW, HIGH = COLORS["instance"], COLORS["batch"]
RAMP = LinearSegmentedColormap.from_list("ramp", [LOW, "#eae7e0", HIGH])
"""From the low to the high end of a kind's range, through a gray that is as far from both."""

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
    "savefig.dpi": 200,
    "svg.hashsalt": "normlab",
    # No text here is a formula, though a name may look like one.
    "text.parse_math": False,
}

WIDTH = 7.0
"""Of a figure, in inches: that of a page with margins."""

Groups = dict[str, int]
"""The groups that are shown, each with the number of its color."""


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG, and return the files."""
    paths = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for target in paths:
        kind = target.suffix.removeprefix(".")
        with replacing(target) as partial:
            # Without a date equal values make equal files.
            figure.savefig(partial, format=kind, metadata={"Date": None} if kind == "svg" else None)
        # The second file has the layout of the first, which takes as long to find as a file to draw.
        figure.set_layout_engine("none")
    return paths


def padded(kind: MixingKind) -> tuple[float, float]:
    """Return the range of a kind with a margin at both ends."""
    margin = 0.02 * (kind.high - kind.low)
    return kind.low - margin, kind.high + margin


def curve(axes: Axes, rows: DataFrame, column: str, color: str, dash: object) -> None:
    """Draw mean and standard deviation over the runs of a group, as far as all of them go."""
    by_run = rows.pivot_table(index="step", columns="run", values=column, observed=True).dropna()
    mean = by_run.mean(axis=1)
    axes.plot(mean.index, mean, color=color, linestyle=dash)
    if by_run.shape[1] > 1:
        spread = by_run.std(axis=1)
        axes.fill_between(mean.index, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)


def colors_of(labels: Sequence[str]) -> dict[str, str]:
    """Give the weight of each label a color: its own if they all have one."""
    return (
        {label: COLORS[label] for label in labels}
        if set(labels) <= COLORS.keys()
        else dict(zip(labels, cycle((*COLORS.values(), *GROUP_COLORS[1:])), strict=False))
    )


def by_architecture(
    rows: DataFrame, groups: Groups, draw: Callable[[Axes, Groups, list[str]], None], height: float
) -> Figure:
    """Make one plot with a row for each layer, or several of them, where groups have different layers."""
    alike: dict[tuple[str, ...], Groups] = {}
    for name, index in groups.items():
        own = rows[rows["group"] == name].drop_duplicates("layer").sort_values("depth")
        if len(own):
            alike.setdefault(tuple(own["layer"]), {})[name] = index
    tall = max(len(layers) * (height + 0.045 * (len(shown) - 1)) for layers, shown in alike.items())
    figure = Figure(figsize=(WIDTH, 0.8 + tall), layout="constrained")
    for axes, (layers, shown) in zip(figure.subplots(1, len(alike), squeeze=False)[0], alike.items(), strict=True):
        draw(axes, shown, list(layers))
        name_rows(axes, list(layers))
        axes.grid(visible=False, axis="y")
    legend(figure, groups)
    return figure


def panel_grid(layers: list[list[str]]) -> tuple[Figure, list[Axes]]:
    """Make plots side by side and below each other, each with a row for each of its layers."""
    columns = min(3, len(layers))
    lines = -(-len(layers) // columns)
    figure = Figure(figsize=(WIDTH, lines * (0.8 + 0.16 * max(map(len, layers)))), layout="constrained")
    every = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axes in every[len(layers) :]:
        axes.remove()
    for index, (axes, names) in enumerate(zip(every, layers, strict=False)):
        name_rows(axes, names, named=index % columns == 0 or names != layers[index - 1])
    return figure, every[: len(layers)]


def name_rows(axes: Axes, layers: list[str], named: bool = True) -> None:
    """Name the rows of a plot by layers, from the input down to the output."""
    axes.set_yticks(np.arange(len(layers)), layers if named else [""] * len(layers))
    axes.set_ylim(len(layers) - 0.4, -0.6)


def offset(place: int, count: int) -> float:
    """Return how far from the middle of a row one of several series is drawn."""
    return (place + 0.5) / count * 0.76 - 0.38


def mark(axes: Axes, x: pd.Series, y: np.ndarray, index: int) -> None:
    """Draw the large marks of a series."""
    axes.plot(
        x, y, MARKERS[index], color=GROUP_COLORS[index], markersize=5.5, markeredgecolor="white", markeredgewidth=0.7
    )


def legend(figure: Figure, groups: Groups, published: str | None = None) -> None:
    """Name the groups, if there are several, and say what the dashed shares are."""
    handles: list[Artist] = [
        mpl.lines.Line2D([], [], color=GROUP_COLORS[index], marker=MARKERS[index], linestyle=DASHES[index])
        for index in groups.values()
        if len(groups) > 1
    ]
    names = [name for name in groups if len(groups) > 1]
    if published is not None:
        handles.append(mpl.patches.Patch(facecolor="none", edgecolor=SOFT, linestyle="--"))
        names.append(published)
    if handles:
        key(figure, handles, names, loc="outside lower center", ncols=min(3, len(handles)))


def key(owner: Axes | Figure, handles: Sequence[Artist], names: Sequence[str], **options: Any) -> None:
    """Say in a legend of axes or of a figure what handles stand for, whatever they are called."""
    # A legend would leave out what begins with an underscore.
    made = owner.legend(handles, [" "] * len(handles), **options)
    for text, name in zip(made.get_texts(), names, strict=True):
        text.set_text(name)
