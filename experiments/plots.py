"""Forms of figures that pages share: curves, points, histograms and bands, with the same color for a norm everywhere.

A figure is begun by :func:`panels`, the functions here draw into its axes, and :func:`save` writes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from pandas import DataFrame

from mixing_analysis import plots
from mixing_analysis.plots import COLORS, GROUP_COLORS, INK, STYLE, WIDTH
from mixing_analysis.plots import SOFT as SOFT


class Look(NamedTuple):
    """Hold how a category looks in all figures.

    Attributes:
        label: What it is called.
        color: Its color.
        marker: The mark of one of its seeds.
    """

    label: str
    color: str
    marker: str = "o"


NORMS = {
    "none": Look("none", INK, "X"),
    "batch": Look("batch", COLORS["batch"], "o"),
    "instance": Look("instance", COLORS["instance"], "s"),
    "layer": Look("layer", COLORS["layer"], "^"),
    "group": Look("group", "#0f8f7e", "D"),
    "batch_instance": Look("batch-instance", "#8a55b5", "v"),
    "switchable": Look("switchable", "#93b02c", "P"),
    "batch_renorm": Look("batch renorm", "#5aa9e6", "p"),
    "mean_only_batch": Look("mean-only batch", "#dd96c8", "<"),
    "decorrelated_batch": Look("decorrelated", "#8a5a2e", ">"),
    "weight": Look("weight", "#e07b39", "h"),
    "spectral": Look("spectral", "#a0a4ad", "d"),
    "conditional": Look("conditional", "#3f7f4c", "8"),
    "layer_pixel": Look("layer per pixel", "#b8a27a", "H"),
    "experiments.layers_noise.NoisyBatchNorm": Look("batch + noise", "#e2559b", "*"),
}
"""How each norm looks, in the order in which they are shown."""

POINTS = 100
"""Curves of more points are averaged over as many parts of the training."""

GAP = 9.5
"""Points between the middles of labels below each other."""

SMALL = 7


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save in the style of all figures within this context."""
    with mpl.rc_context({**STYLE, "path.simplify_threshold": 0.3}):
        yield


def panels(count: int = 1, columns: int = 2, height: float = 2.6, **options: Any) -> tuple[Figure, list[Axes]]:
    """Make plots side by side, and below each other where there are more.

    Args:
        count: How many.
        columns: How many stand side by side.
        height: Of a line of plots, in inches.
        options: For ``Figure.subplots``, such as ``sharey``.
    """
    return plots.panels(count, columns, WIDTH, height, **options)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as SVG or JPEG, as ``path`` ends; equal values make equal files.

    The texts of an SVG are paths, and look alike everywhere.
    """
    return plots.save(figure, path, [path.suffix.removeprefix(".")])[0]


def looks(values: Sequence[Any] | pd.Series, labels: Mapping[Any, str] | None = None) -> dict[Any, Look]:
    """Say how each of some categories looks: norms as everywhere, and in their order; others as they come.

    Args:
        values: The categories, each as often as it likes.
        labels: What some of them are called instead.
    """
    known = list(dict.fromkeys(value for value in values if not pd.isna(value)))
    if all(value in NORMS for value in known):
        found = {value: look for value, look in NORMS.items() if value in known}
    else:
        places = enumerate(known)
        found = {
            value: Look(str(value), GROUP_COLORS[place % len(GROUP_COLORS)], plots.MARKERS[place % len(plots.MARKERS)])
            for place, value in places
        }
    return {value: look._replace(label=(labels or {}).get(value, look.label)) for value, look in found.items()}


def curves(axes: Axes, frame: DataFrame, by: str, labels: Mapping[Any, str] | None = None) -> None:
    """Draw a metric over steps: a thin line for each seed, a thick one for their mean, named at its end.

    Args:
        axes: Where.
        frame: What :meth:`experiments.reading.Runs.curves` returns, or some of its rows.
        by: The column whose values are told apart by color, such as ``norm``.
        labels: What some of its values are called.
    """
    ends = []
    for value, look in looks(frame[by], labels).items():
        seeds = _thinned(frame[frame[by] == value])
        for _, seed in seeds.items() if seeds.shape[1] > 1 else ():
            axes.plot(seed.dropna().index, seed.dropna(), color=look.color, linewidth=0.6, alpha=0.45)
        mean = seeds.mean(axis=1).dropna()
        axes.plot(mean.index, mean, color=look.color, linewidth=1.8)
        ends.append((float(mean.iloc[-1]), look))
    axes.set_xlabel("steps")
    axes.margins(x=0.01)
    name_ends(axes, ends)


def points(axes: Axes, frame: DataFrame, by: str, metric: str, labels: Mapping[Any, str] | None = None) -> None:
    """Draw a row per category: a mark for each seed, and a bar at their mean.

    Args:
        axes: Where.
        frame: A row per run.
        by: The column of the categories.
        metric: The column of the values.
        labels: What some of the categories are called.
    """
    found = looks(frame[by], labels)
    for place, (value, look) in enumerate(found.items()):
        values = frame.loc[frame[by] == value, metric].dropna().to_numpy(float)
        if not len(values):
            axes.annotate(
                "none ended well",
                (0.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=SMALL,
                color=SOFT,
            )
            continue
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot([values.mean()] * 2, [place - 0.32, place + 0.32], color=look.color, linewidth=2.4)
        axes.plot(
            values,
            place + spread,
            look.marker,
            color=look.color,
            markersize=5.5,
            alpha=0.75,
            markeredgecolor="white",
            markeredgewidth=0.4,
        )
    axes.set_yticks(range(len(found)), [look.label for look in found.values()], color=INK)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def swept(
    axes: Axes,
    frame: DataFrame,
    x: str,
    by: str,
    metric: str,
    labels: Mapping[Any, str] | None = None,
    log: bool = True,
) -> None:
    """Draw a metric over a number that was swept: a mark for each seed, and a line through their means.

    Args:
        axes: Where.
        frame: A row per run.
        x: The column of the number.
        by: The column whose values are told apart by color.
        metric: The column of the values; where it is NaN for all seeds the line ends.
        labels: What some of the values of ``by`` are called.
        log: Whether the number is shown by its logarithm.
    """
    if log:
        axes.set_xscale("log")
    ends = []
    for value, look in looks(frame[by], labels).items():
        rows = frame[frame[by] == value].sort_values(x)
        axes.plot(rows[x], rows[metric], look.marker, color=look.color, markersize=3.5, alpha=0.5, markeredgewidth=0)
        mean = rows.groupby(x)[metric].mean()
        axes.plot(mean.index, mean, color=look.color, linewidth=1.8)
        if mean.notna().any():
            ends.append((float(mean.dropna().iloc[-1]), look))
    ticks = sorted(frame[x].dropna().unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(x)
    name_ends(axes, ends)


def histogram(axes: Axes, values: Any, look: Look, low: float = 0.0, high: float = 1.0, bins: int = plots.BINS) -> None:
    """Draw which share of values falls into each of some bins.

    Args:
        axes: Where; several histograms can be drawn over each other.
        values: The values.
        look: Its color and name.
        low: The low end of the first bin.
        high: The high end of the last; values beyond the ends count in the first and the last bin.
        bins: How many.
    """
    values = np.clip(np.asarray(values, float).ravel(), low, high)
    counts, edges = np.histogram(values, bins, (low, high))
    axes.stairs(counts / max(len(values), 1), edges, fill=True, color=look.color, alpha=0.25)
    axes.stairs(counts / max(len(values), 1), edges, color=look.color, linewidth=1.4, label=look.label)
    axes.set_ylabel("share")


def logarithmic(axes: Axes) -> None:
    """Show heights by their logarithm, with plain numbers beside it; before anything is drawn.

    Args:
        axes: Where.
    """
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def bands(
    axes: Axes, frame: DataFrame, by: str, columns: Sequence[str], labels: Mapping[Any, str] | None = None
) -> None:
    """Draw percentiles over steps: the middle one as a line, named at its end, and the area between the outer ones.

    Args:
        axes: Where.
        frame: A row per step and run, with ``step`` and the columns of the percentiles, whose means over runs are
            drawn.
        by: The column whose values are told apart by color.
        columns: The percentiles from the lowest to the highest, an odd number of them.
        labels: What some of the values of ``by`` are called.
    """
    ends, half = [], len(columns) // 2
    for value, look in looks(frame[by], labels).items():
        mean = _thin(frame[frame[by] == value].groupby("step")[list(columns)].mean())
        for low, high in zip(columns[:half], reversed(columns), strict=False):
            axes.fill_between(mean.index, mean[low], mean[high], color=look.color, alpha=0.18, linewidth=0)
        axes.plot(mean.index, mean[columns[half]], color=look.color, linewidth=1.8)
        ends.append((float(mean[columns[half]].iloc[-1]), look))
    axes.set_xlabel("steps")
    axes.margins(x=0.01)
    name_ends(axes, ends)


def name_ends(axes: Axes, ends: Sequence[tuple[float, Look]]) -> None:
    """Write names to the right of axes, each at its height, and apart from each other.

    All must be drawn before, since the limits of the axes are final then.

    Args:
        axes: The axes.
        ends: The heights, in data, and how each looks.
    """
    axes.autoscale_view()
    axes.set_ylim(axes.get_ylim())
    _, height = plots.size_of(axes)
    place = axes.get_subplotspec()
    lines = place.get_gridspec().nrows if place is not None else 1
    gap = GAP / (72 * 0.75 * height / lines)
    to_axes = axes.transScale + axes.transLimits
    wanted = sorted((float(to_axes.transform((axes.get_xlim()[1], y))[1]), look) for y, look in ends if np.isfinite(y))
    for where, (_, look) in zip(_apart([y for y, _ in wanted], gap), wanted, strict=True):
        axes.annotate(
            look.label,
            (1, where),
            xytext=(4, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=look.color,
            annotation_clip=False,
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move sorted heights as little as keeps them ``gap`` apart and, as far as there is room, between 0 and 1."""
    groups: list[list[float]] = []  # of those that touch, which stay around their middle
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _low(groups[-1], gap) < _low(groups[-2], gap) + gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    return [_low(group, gap) + gap * index for group in groups for index in range(len(group))]


def _low(group: Sequence[float], gap: float) -> float:
    """Return the height of the lowest of a group."""
    size = gap * (len(group) - 1)
    return max(min(sum(group) / len(group) - size / 2, 1 - size), 0.0)


def _thinned(frame: DataFrame) -> DataFrame:
    """Return a column per run and a row per step, or per part of the training."""
    return _thin(frame.pivot_table(index="step", columns="folder", values="value", dropna=False))


def _thin(rows: DataFrame) -> DataFrame:
    if len(rows) <= POINTS:
        return rows
    steps = rows.index.to_numpy(float)
    part = np.minimum((steps - steps[0]) / (steps[-1] - steps[0]) * POINTS, POINTS - 1).astype(int)
    return rows.assign(step=steps).groupby(part).mean().set_index("step")
