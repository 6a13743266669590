"""The same small plot many times: of each style of a network of many, and of each pair of settings."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from mixing_analysis.kinds import word
from mixing_analysis.plots import (
    DASHES,
    GROUP_COLORS,
    INK,
    WIDTH,
    Groups,
    colors_of,
    fitting,
    key,
    legend,
    padded,
    panels,
)
from mixing_analysis.ranks import numbers
from mixing_analysis.values import Run, at_last_step, summaries
from norms.kinds import MixingKind
from training.repetitions import settings_of
from training.terminal import printable

CONDITIONS = "norms"
"""Stands in a layer's name between its place and the condition whose own norm it is; see
:class:`norms.NormPerCondition`."""

MOST_STYLES, MOST_VALUES = 24, 6
"""How many styles, and how many values of a setting, are drawn."""


def profiles(table: DataFrame, kinds: Sequence[MixingKind]) -> DataFrame:
    """Average the values of layers at the last step over the runs of each group.

    Returns:
        The columns group, layer, kind, label (empty for the mean of channels), mean, and q25, q75 (NaN for weights),
        ordered by group and depth.
    """
    last = at_last_step(table)
    parts = []
    for kind in kinds:
        if kind.per_channel:
            described = summaries(last, kind, ["run", "group", "layer", "depth"]).assign(label="")
        else:
            rows = last[last["kind"] == kind.name]
            described = rows.rename(columns={"statistic": "label", "value": "mean"}).astype({"label": str})
            described = described.assign(q25=np.nan, q75=np.nan)
        by = ["group", "layer", "depth", "label"]
        means = described.groupby(by, observed=True)[["mean", "q25", "q75"]].mean().reset_index()
        parts.append(means.assign(kind=kind.name))
    found = pd.concat(parts, ignore_index=True).astype({"group": str, "layer": str})
    return found.sort_values(["group", "depth"], kind="stable", ignore_index=True)


def by_style(profile: DataFrame) -> DataFrame:
    """Return the rows of layers that a condition has for itself, with the columns ``place`` and ``style``."""
    parts = profile["layer"].str.split(".")
    own = parts.map(lambda names: CONDITIONS in names[1:-1])
    found = profile[own].copy()
    before = parts[own].map(lambda names: len(names) - 1 - names[::-1].index(CONDITIONS))
    pairs = list(zip(parts[own], before, strict=True))
    found["place"] = [".".join(names[:end]) for names, end in pairs]
    found["style"] = [names[end + 1] for names, end in pairs]
    return found


def describe_styles(table: DataFrame, runs: Sequence[Run], kinds: Sequence[MixingKind]) -> list[dict[str, Any]]:
    """Return the values of each style over the depth as the page shows them, groups, kinds and labels by number."""
    found = by_style(profiles(table, kinds))
    if found["style"].nunique() < 2:
        return []
    groups, members = list(dict.fromkeys(run.group for run in runs)), {kind.name: kind for kind in kinds}
    return [
        {
            "style": style,
            "group": groups.index(group),
            "member": list(members).index(kind),
            "label": members[kind].labels.index(label) if label else None,
            "places": own["place"].tolist(),
            "y": numbers(own["mean"]),
            "halves": [numbers(half) for half in own[["q25", "q75"]].to_numpy(float)],
        }
        for (style, group, kind, label), own in found.groupby(["style", "group", "kind", "label"], sort=False)
    ]


def draw_styles(table: DataFrame, groups: Groups, kinds: Sequence[MixingKind], width: float = WIDTH) -> Figure | None:
    """Draw the values over the depth for each style that has norms of its own; of weights, those of the first group."""
    found = by_style(profiles(table, kinds))
    gates = kinds[0].per_channel
    shown = groups if gates else dict(list(groups.items())[:1])
    found = found[found["group"].isin(list(shown))]
    styles = list(dict.fromkeys(found["style"]))[:MOST_STYLES]
    if len(styles) < 2:
        return None
    figure, every = panels(len(styles), 4, width, 1.6, sharex=True, sharey=True)
    for axes, style in zip(every, styles, strict=True):
        for name, index in shown.items():
            own = found[(found["style"] == style) & (found["group"] == name)]
            _lines(axes, own, kinds, GROUP_COLORS[index], DASHES[index])
        axes.set(title=style)
    _finish(figure, every, kinds, min(len(styles), fitting(4, width)))
    if gates:
        legend(figure, groups)
    return figure


def crossed(settings: Mapping[str, Mapping[str, str]]) -> tuple[str, str] | None:
    """Choose the two settings in which groups differ that set most of them apart, and leave fewest pairs empty.

    Args:
        settings: From each group to its settings.

    Returns:
        Their names, the one of more values first; None if no two settings differ independently.
    """
    names = sorted({name for own in settings.values() for name in own})
    values = {name: [own.get(name, "") for own in settings.values()] for name in names}
    differing = [name for name in names if len(set(values[name])) > 1]
    best: tuple[tuple[int, int], tuple[str, str]] | None = None
    for first, second in combinations(differing, 2):
        cells = len(set(zip(values[first], values[second], strict=True)))
        one, other = len(set(values[first])), len(set(values[second]))
        if cells > max(one, other) and (best is None or (cells, -one * other) > best[0]):
            best = (cells, -one * other), (first, second) if one >= other else (second, first)
    return best and best[1]


def draw_settings(
    table: DataFrame, runs: Sequence[Run], kinds: Sequence[MixingKind], width: float = WIDTH
) -> Figure | None:
    """Draw the values over the depth for each pair of the two settings in which the groups of runs differ."""
    settings = {run.group: dict(settings_of(run.config)) for run in runs if run.config is not None}
    pair = crossed(settings)
    if pair is None:
        return None
    profile = profiles(table, kinds)
    cells = {group: tuple(own.get(name, "") for name in pair) for group, own in settings.items()}
    rows, columns = (sorted({cell[side] for cell in cells.values()})[:MOST_VALUES] for side in (0, 1))
    size = width, 0.5 + 1.3 * len(rows)
    figure = Figure(figsize=size, layout="constrained")
    every = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    for axes, (row, column) in zip(every.ravel(), product(rows, columns), strict=True):
        for group in [group for group, cell in cells.items() if cell == (row, column)]:
            _lines(axes, profile[profile["group"] == group], kinds, INK, "-")
        if row == rows[0]:
            axes.set_title(_said(pair[1], column))
        if column == columns[0]:
            axes.set_ylabel(_said(pair[0], row))
    _finish(figure, every.ravel().tolist(), kinds, len(columns))
    return figure


def _said(name: str, value: str) -> str:
    words = printable(value).rpartition("/")[2]
    last = words.rpartition(".")[2]
    words = last if last[:1].isupper() else words  # of a class
    return f"{printable(name).rpartition('.')[2]} {words[:24]}"


def _lines(axes: Axes, rows: DataFrame, kinds: Sequence[MixingKind], color: str, dash: object) -> None:
    """Draw values over the depth: of gates with their middle half, of weights a line for each label."""
    colors = colors_of(kinds[0].labels)
    for place, kind in enumerate(kinds):
        for label, own in rows[rows["kind"] == kind.name].groupby("label", sort=False):
            depth = np.arange(len(own))
            line = color if kind.per_channel else colors[str(label)]
            axes.plot(
                depth, own["mean"], color=line, linestyle=dash if kind.per_channel else DASHES[place], linewidth=1.2
            )
            if kind.per_channel:
                axes.fill_between(depth, own["q25"], own["q75"], color=line, alpha=0.15, linewidth=0)


def _finish(figure: Figure, every: Sequence[Axes], kinds: Sequence[MixingKind], columns: int) -> None:
    every[0].set_ylim(padded(kinds[0]))
    every[0].xaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=True))
    what = kinds[0].name if kinds[0].per_channel else "weights"
    for axes in every[-columns:]:  # which have none below them
        axes.set_xlabel(f"{what} over depth")
        axes.tick_params(labelbottom=True)
    if kinds[0].per_channel:
        return
    colors = colors_of(kinds[0].labels)
    handles = [mpl.lines.Line2D([], [], color=color) for color in colors.values()]
    handles += [mpl.lines.Line2D([], [], color=INK, linestyle=DASHES[place]) for place in range(len(kinds))]
    names = [*colors, *(word(kind) for kind in kinds)]
    key(figure, handles, names, loc="outside lower center", ncols=min(fitting(5, figure.get_figwidth()), len(handles)))
