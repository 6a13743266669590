"""How learned values go with where a layer stands: its depth, channels, kernel size and resolution."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from mixing_analysis.effects import ALPHA, holm
from mixing_analysis.kinds import word
from mixing_analysis.plots import (
    GROUP_COLORS,
    MARKERS,
    WIDTH,
    Groups,
    colors_of,
    key,
    legend,
    padded,
    panels,
    subtitled,
)
from mixing_analysis.ranks import RankCorrelation, numbers, spearman
from mixing_analysis.values import Run, at_last_step, summaries
from norms.kinds import MixingKind
from training.layer_shapes import LayerShape

Place = Callable[[Run, str, LayerShape | None], float]


def _channels(run: Run, layer: str, shape: LayerShape | None) -> float:
    return (run.architecture[layer] if shape is None else shape.out_channels) or float("nan")


def _mean(sizes: Sequence[int] | None) -> float:
    return float("nan") if not sizes else float(np.exp(np.mean(np.log(sizes))))


LEAST_LAYERS = 4
"""Of fewer layers there is no telling what goes with what."""

MOST_PANELS = 16
"""Of more groups with weights the first are drawn."""

SPREAD = 0.25
"""How far, in powers of two, layers with the same channels are drawn apart."""

PROPERTIES: dict[str, Place] = {
    "depth": lambda run, layer, _: float(list(run.architecture).index(layer)),
    "channels": _channels,
    "kernel size": lambda _, __, shape: _mean(shape and shape.kernel_size),
    "resolution": lambda _, __, shape: _mean(shape and shape.resolution),
}
"""What is known of a layer: the last two, of the convolution before it and of its input, if the run has recorded it. Of
different sizes in two directions it is the geometric mean."""


@dataclass(frozen=True)
class Relation:
    """Hold, for the layers of a group of runs, a property beside what was learned.

    Attributes:
        group: The runs, over which values are averaged.
        kind: The kind of the values.
        label: The label whose weight they are; empty for the mean of the channels.
        name: One of :data:`PROPERTIES`.
        layers: The layers' names.
        x: The property of each.
        y: The value of each.
        halves: The quartiles of its channels, two for each; None for weights.
        rank: The correlation over the layers, which are no independent draws.
    """

    group: str
    kind: MixingKind
    label: str
    name: str
    layers: list[str]
    x: np.ndarray
    y: np.ndarray
    halves: np.ndarray | None
    rank: RankCorrelation


def relations(table: DataFrame, runs: Sequence[Run], kinds: Sequence[MixingKind]) -> list[Relation]:
    """Relate the values of the last steps to the properties of layers.

    Args:
        table: The values of all runs, see :data:`mixing_analysis.values.COLUMNS`.
        runs: The runs of the table.
        kinds: Which values: one kind with a value in every channel, or a family of others.

    Returns:
        A relation for each group of :data:`LEAST_LAYERS` or more layers, kind, label and property that is known and not
        the same in all layers.
    """
    last = at_last_step(table)
    values = [(kind, label, own) for kind in kinds for label, own in _values(last, kind).items()]
    found = []
    for group in dict.fromkeys(run.group for run in runs):
        members = [run for run in runs if run.group == group]
        run = next((run for run in members if run.shapes), members[0])
        for kind, label, own in values:
            if group not in own or len(own[group]) < LEAST_LAYERS:
                continue
            layers = own[group].index.tolist()
            y = own[group]["mean"].to_numpy(float)
            halves = own[group][["q25", "q75"]].to_numpy(float) if kind.per_channel else None
            for name, place in PROPERTIES.items():
                x = np.array([place(run, layer, run.shapes.get(layer)) for layer in layers])
                if len(set(x[np.isfinite(x)])) > 1:
                    found.append(Relation(group, kind, label, name, layers, x, y, halves, spearman(x, y)))
    return found


def _values(last: DataFrame, kind: MixingKind) -> dict[str, dict[str, DataFrame]]:
    """Return the layers' values, averaged over runs, by label, then by group."""
    if kind.per_channel:
        described = summaries(last, kind, ["run", "group", "layer", "depth"]).assign(label="")
        columns = ["mean", "q25", "q75"]
    else:
        rows = last[last["kind"] == kind.name]
        described = rows.rename(columns={"statistic": "label", "value": "mean"})
        columns = ["mean"]
    by = ["label", "group", "depth", "layer"]
    means = described.groupby(by, observed=True)[columns].mean().reset_index().astype({"layer": str})
    found: dict[str, dict[str, DataFrame]] = {}
    for (label, group), own in means.groupby(["label", "group"], observed=True):
        found.setdefault(str(label), {})[str(group)] = own.set_index("layer")
    return {label: found[label] for label in kind.labels or ("",) if label in found}


def describe(table: DataFrame, runs: Sequence[Run], kinds: Sequence[MixingKind]) -> list[dict[str, Any]]:
    """Return the relations as the page shows them: groups, kinds and labels by their numbers, layers in their order.

    A relation is clear if it holds after Holm's correction over all that are returned.
    """
    groups = list(dict.fromkeys(run.group for run in runs))
    found = relations(table, runs, kinds)
    clear = holm(np.array([each.rank.p for each in found])) < ALPHA
    return [
        {
            "group": groups.index(each.group),
            "member": list(kinds).index(each.kind),
            "label": each.kind.labels.index(each.label) if each.label else None,
            "name": each.name,
            "x": numbers(each.x),
            "y": numbers(each.y),
            "halves": None if each.halves is None else [numbers(half) for half in each.halves],
            "rank": str(each.rank),
            "r": numbers([each.rank.r])[0],
            "clear": bool(holds),
        }
        for each, holds in zip(found, clear, strict=True)
    ]


def draw(
    table: DataFrame, runs: Sequence[Run], groups: Groups, kinds: Sequence[MixingKind], width: float = WIDTH
) -> Figure | None:
    """Draw a small plot for each property: of gates with all groups, of weights for each kind of the first groups."""
    found = relations(table, [run for run in runs if run.group in groups], kinds)
    if not found:
        return None
    parts: dict[tuple[str, ...], list[Relation]] = {}
    for each in found:
        parts.setdefault((each.name,) if kinds[0].per_channel else (each.group, each.kind.name, each.name), []).append(
            each
        )
    shown = list(parts.values())[:MOST_PANELS]
    figure, every = panels(len(shown), 2, width, 1.8 + 0.12 * max(map(len, shown)), sharey=True)
    colors = colors_of(kinds[0].labels)
    for axes, own in zip(every, shown, strict=True):
        _panel(axes, own, groups, colors)
        axes.set_ylim(_reach(kinds[0], [each for own in shown for each in own]))
    if kinds[0].per_channel:
        legend(figure, groups)
    else:
        handles = [mpl.patches.Patch(color=color) for color in colors.values()]
        key(figure, handles, list(colors), loc="outside lower center", ncols=len(handles))
    return figure


def beside(x: np.ndarray) -> np.ndarray:
    """Lay layers with the same number of channels beside each other, evenly in (-0.5, 0.5), and one alone at 0."""
    places = np.zeros(len(x))
    for value in np.unique(x):
        alike = x == value
        places[alike] = (np.arange(alike.sum()) + 0.5) / alike.sum() - 0.5
    return places


def _panel(axes: Axes, own: Sequence[Relation], groups: Groups, colors: Mapping[str, str]) -> None:
    lines = []
    for each in own:
        index = groups[each.group] if each.kind.per_channel else 0
        color = GROUP_COLORS[index] if each.kind.per_channel else colors[each.label]
        x = each.x * 2 ** (SPREAD * beside(each.x)) if each.name != "depth" else each.x
        if each.halves is not None:
            axes.vlines(x, *each.halves.T, color=color, linewidth=1, alpha=0.4)
        look: dict[str, Any] = {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.5}
        axes.plot(x, each.y, MARKERS[index], color=color, **look)
        who = each.label or (each.group if len(groups) > 1 else "")
        lines.append((f"{who}: {each.rank}" if who else str(each.rank), color))
    first = own[0]
    if first.name != "depth":
        ticks = np.unique([value for each in own for value in each.x if np.isfinite(value)])
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks[:: -(-len(ticks) // 6)], [f"{tick:.3g}" for tick in ticks[:: -(-len(ticks) // 6)]])
        axes.minorticks_off()
        axes.set_xlim(ticks[0] / 2**SPREAD, ticks[-1] * 2**SPREAD)
    else:
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    what = first.kind.name if first.kind.per_channel else f"weights of {word(first.kind)}"
    whose = f"{first.group}: " if len(groups) > 1 and not first.kind.per_channel else ""
    subtitled(axes, f"{whose}{what} and {first.name}", lines)
    axes.set(xlabel=first.name)


def _reach(kind: MixingKind, shown: Sequence[Relation]) -> tuple[float, float]:
    """Return from where to where values are drawn: as far as they lie, but at least a fifth of the range."""
    values = np.concatenate([each.y if each.halves is None else each.halves.ravel() for each in shown])
    low, high, least = np.nanmin(values), np.nanmax(values), 0.2 * (kind.high - kind.low)
    more = max(0.08 * (high - low), (least - (high - low)) / 2)
    bottom, top = padded(kind)
    return max(bottom, low - more), min(top, high + more)
