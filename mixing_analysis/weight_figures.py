"""Pictures of values with labels, such as the weights of a switch."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame

from mixing_analysis.kinds import word
from mixing_analysis.plots import (
    DASHES,
    SOFT,
    WIDTH,
    Groups,
    colors_of,
    curve,
    fitting,
    is_first,
    key,
    legend,
    name_rows,
    panels,
)
from norms.kinds import MixingKind


def bars(last: DataFrame, groups: Groups, kinds: Sequence[MixingKind], width: float = WIDTH) -> Figure:
    """Draw the weights of each layer as a divided bar."""
    labels, colors = list(kinds[0].labels), colors_of(kinds[0].labels)
    rows = last[last["kind"].isin([kind.name for kind in kinds])]
    shown = [name for name in groups if (rows["group"] == name).any()]
    layers = {name: rows[rows["group"] == name].sort_values("depth")["layer"].unique().tolist() for name in shown}
    columns = len(kinds) if width >= WIDTH else 1
    heights = [0.6 + 0.19 * len(layers[name]) for name in shown for _ in range(len(kinds) // columns)]
    figure = Figure(figsize=(width, sum(heights) + 0.4), layout="constrained")
    every = figure.subplots(len(heights), columns, squeeze=False, sharex=True, height_ratios=heights)
    for side, name in zip(every.reshape(len(shown), len(kinds)), shown, strict=True):
        for axes, kind in zip(side, kinds, strict=True):
            own = rows[(rows["group"] == name) & (rows["kind"] == kind.name)]
            mean = own.pivot_table(index="layer", columns="statistic", values="value", observed=True)
            mean = mean.reindex(index=layers[name], columns=labels, fill_value=0.0)
            left = np.zeros(len(mean))
            for label, color in colors.items():
                weight = mean[label].to_numpy(float)
                axes.barh(np.arange(len(mean)), weight, 0.8, left, color=color, edgecolor="white")
                left += weight
            for equal in range(1, len(labels)):
                axes.axvline(equal / len(labels), color="white", linewidth=0.8, linestyle="--")
            name_rows(axes, layers[name], named=is_first(axes))
            title = f"{name}: {word(kind)}" if len(shown) > 1 else f"Weights of {word(kind)}"
            axes.set(xlim=(0, max(1, left.max())), title=title)
            axes.grid(visible=False)
    handles = [mpl.patches.Patch(color=color) for color in colors.values()]
    key(figure, handles, labels, loc="outside lower center", ncols=min(fitting(6, width), len(handles)))
    return figure


def training(table: DataFrame, groups: Groups, kinds: Sequence[MixingKind], width: float = WIDTH) -> Figure:
    """Draw the mean weights over the training."""
    figure, every = panels(len(kinds), len(kinds), width, 2.6, sharey=True)
    colors = colors_of(kinds[0].labels)
    for axes, kind in zip(every, kinds, strict=True):
        rows = table[table["kind"] == kind.name]
        for name, index in groups.items():
            for label, color in colors.items():
                own = rows[(rows["group"] == name) & (rows["statistic"] == label)]
                if own.empty:
                    continue
                if len(groups) == 1:
                    layers = own.pivot_table(index="step", columns="layer", values="value", observed=True)
                    axes.plot(layers.index, layers, color=color, linewidth=0.6, alpha=0.5)
                means = own.groupby(["run", "step"], observed=True)["value"].mean().reset_index()
                curve(axes, means, "value", color, DASHES[index])
        if kind.neutral is not None:
            axes.axhline(kind.neutral, color=SOFT, linewidth=0.6, linestyle=":")
        axes.set(title=f"Weights of {word(kind)}", xlabel="step")
    every[0].set_ylim(bottom=kinds[0].low)
    key(every[-1], [mpl.lines.Line2D([], [], color=color) for color in colors.values()], list(colors))
    legend(figure, groups)
    return figure
