"""How the pictures of the report look: colors, marks, and the rows and panels that they share."""

import textwrap
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
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
    "legend.handlelength": 3,
    "lines.linewidth": 1.6,
    "savefig.dpi": 200,
    "svg.hashsalt": "normlab",
    # Fonts as journals want them, which other programs can edit.
    "pdf.fonttype": 42,
    # No text here is a formula, though a name may look like one.
    "text.parse_math": False,
}

WIDTH = 7.0
"""Of a figure, in inches: that of a page with margins."""

COLUMN = 3.5
"""Of a figure in a column of a paper of two."""

MOST_GROUPS = 6
"""How many groups of runs a figure can tell apart; of more it shows the first."""

MOST_DOTS = 256
"""Layers of more channels are drawn without a dot for each."""

BINS = 10
"""Bins of the histograms of gates, as wide as the published shares are."""

NAME = 6.3
"""How many letters of a layer's name there is room for in an inch of a figure: a third of its width. Of longer names
the end is shown."""

BESIDE = 0.25
"""Inches beside a plot and the names of its rows that belong to neither."""

MOST_LINES, FEWEST_LETTERS = 4, 24
"""Texts of more lines are not broken, nor are lines to fewer letters, however little room there is."""

_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Without a date equal values make equal files."""

Groups = dict[str, int]
"""The groups that are shown, each with the number of its color."""


def save(figure: Figure, path: Path, formats: Sequence[str]) -> list[Path]:
    """Write a figure in each of the formats, such as ``png``, and return the files."""
    paths = [path.with_suffix(f".{name}") for name in formats]
    for target, name in zip(paths, formats, strict=True):
        with replacing(target) as partial:
            figure.savefig(partial, format=name, metadata=_UNDATED.get(name))
        # The second file has the layout of the first, which takes as long to find as a file to draw.
        figure.set_layout_engine("none")
    return paths


def fitting(count: int, width: float) -> int:
    """Return how many of ``count`` things that stand side by side in a figure of the usual width one has room for."""
    return max(1, int(count * width / WIDTH))


def panels(count: int, most: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Make plots side by side, and below each other where there is no room.

    Args:
        count: How many.
        most: How many stand side by side in a figure of the usual width.
        width: Of the figure.
        height: Of a line of plots.
        options: For ``Figure.subplots``.
    """
    columns = min(count, fitting(most, width))
    lines = -(-count // columns)
    figure = Figure(figsize=(width, lines * height), layout="constrained")
    every = figure.subplots(lines, columns, squeeze=False, **options).ravel().tolist()
    for axes in every[count:]:
        axes.remove()
    return figure, every[:count]


def padded(kind: MixingKind) -> tuple[float, float]:
    """Return the range of a kind with a margin at both ends."""
    margin = 0.02 * (kind.high - kind.low)
    return kind.low - margin, kind.high + margin


def curve(axes: Axes, rows: DataFrame, column: str, color: str, dash: object) -> None:
    """Draw mean and standard deviation over the runs of a group, as far as all of them go, and what there is beyond."""
    every = rows.pivot_table(index="step", columns="run", values=column, observed=True)
    by_run = every.dropna()
    for run in every if len(by_run) < len(every) else ():
        axes.plot(every[run].dropna(), color=color, linestyle=dash, linewidth=0.6, alpha=0.6)
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
    rows: DataFrame, groups: Groups, draw: Callable[[Axes, Groups, list[str]], None], height: float, width: float
) -> Figure:
    """Make one plot with a row for each layer, or several of them, where groups have different layers."""
    alike: dict[tuple[str, ...], Groups] = {}
    for name, index in groups.items():
        own = rows[rows["group"] == name].drop_duplicates("layer").sort_values("depth")
        if len(own):
            alike.setdefault(tuple(own["layer"]), {})[name] = index
    tall = max(len(layers) * (height + 0.045 * (len(shown) - 1)) for layers, shown in alike.items())
    figure, every = panels(len(alike), len(alike), width, 0.8 + tall)
    for axes, (layers, shown) in zip(every, alike.items(), strict=True):
        draw(axes, shown, list(layers))
        name_rows(axes, list(layers))
        axes.grid(visible=False, axis="y")
    legend(figure, groups)
    return figure


def size_of(axes: Axes) -> tuple[float, float]:
    """Return width and height of the figure of a plot, in inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches().tolist()
    return width, height


def is_first(axes: Axes) -> bool:
    """Return whether no other plot stands to the left of this one."""
    place = axes.get_subplotspec()
    return place is not None and place.is_first_col()


def panel_grid(layers: list[list[str]], width: float) -> tuple[Figure, list[Axes]]:
    """Make plots side by side and below each other, each with a row for each of its layers."""
    figure, every = panels(len(layers), 3, width, 0.8 + 0.16 * max(map(len, layers)))
    columns = min(len(layers), fitting(3, width))
    for index, (axes, names) in enumerate(zip(every, layers, strict=True)):
        name_rows(axes, names, named=index % columns == 0 or names != layers[index - 1])
        axes.locator_params(axis="x", nbins=5 if width / columns >= WIDTH else 3)
    return figure, every


def name_rows(axes: Axes, layers: Sequence[str], named: bool = True) -> None:
    """Name the rows of a plot by layers, from the input down to the output."""
    fits = int(NAME * size_of(axes)[0])
    names = [name if len(name) <= fits else f"…{name[1 - fits :]}" for name in layers]
    axes.set_yticks(np.arange(len(layers)), names if named else [""] * len(layers))
    axes.set_ylim(len(layers) - 0.4, -0.6)


def break_lines(figure: Figure) -> None:
    """Break titles of plots and names of axes that would be cut off, or run into those of the next plot."""
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    names: dict[int, float] = {}  # how wide they are, by column
    placed = {axes: place for axes in figure.axes if (place := axes.get_subplotspec()) is not None}
    for axes, place in placed.items():
        widths = [text.get_window_extent(renderer).width for text in axes.get_yticklabels()]
        names[place.colspan.start] = max(names.get(place.colspan.start, 0.0), *widths, 0.0)
    for axes, place in placed.items():
        room = (figure.bbox.width - sum(names.values())) / place.get_gridspec().ncols - BESIDE * figure.dpi
        titles = [each for each in axes.findobj(Text) if each.get_text() == axes.get_title("left")]
        for text in (*titles, axes.xaxis.label):
            width, words = text.get_window_extent(renderer).width, text.get_text()
            if room < width < MOST_LINES * room:  # a name that is longer yet would leave no room for the plot
                most = max(FEWEST_LETTERS, int(0.9 * len(words) * room / width))
                text.set_text("\n".join(textwrap.wrap(words, most, max_lines=2, placeholder=" …")))


def offset(place: int, count: int) -> float:
    """Return how far from the middle of a row one of several series is drawn."""
    return (place + 0.5) / count * 0.76 - 0.38


def mark(axes: Axes, x: pd.Series, y: np.ndarray, index: int) -> None:
    """Draw the large marks of a series."""
    axes.plot(
        x, y, MARKERS[index], color=GROUP_COLORS[index], markersize=5.5, markeredgecolor="white", markeredgewidth=0.7
    )


def subtitled(axes: Axes, title: str, lines: Sequence[tuple[str, str]]) -> None:
    """Write a title, and below it smaller lines of text, each with its color."""
    axes.set_title(title, pad=5 + 8 * len(lines))
    for place, (text, color) in enumerate(reversed(lines)):
        above: dict[str, Any] = {"xytext": (0, 4 + 8 * place), "textcoords": "offset points"}
        axes.annotate(text, (0, 1), xycoords="axes fraction", fontsize=6.5, color=color, **above)


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
        key(
            figure,
            handles,
            names,
            loc="outside lower center",
            ncols=min(fitting(3, figure.get_figwidth()), len(handles)),
        )


def key(owner: Axes | Figure, handles: Sequence[Artist], names: Sequence[str], **options: Any) -> None:
    """Say in a legend of axes or of a figure what handles stand for, whatever they are called."""
    # A legend would leave out what begins with an underscore.
    made = owner.legend(handles, [" "] * len(handles), **options)
    for text, name in zip(made.get_texts(), names, strict=True):
        text.set_text(name)
