"""Figures of what rho and the switch weights become in style transfer."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from pandas import DataFrame

from experiments.plots import SMALL, Look, curves, name_ends, panels
from experiments.style_gates import CELLS, STYLE, ends
from experiments.verdicts import against
from mixing_analysis.plots import BINS, COLORS, GROUP_COLORS, INK, SOFT
from mixing_analysis.published import PUBLISHED
from norms.kinds import RHO

MAIN, LONG, WIDTH, LOSS, MANY = CELLS.values()

SHOWN = {"first": "in", "down": "down ", "residual": "block ", "up": "up "}
"""How the parts of the network are called below figures."""


MOMENTS = {"mean_weight": "means", "var_weight": "variances"}
"""What the kinds of switch weights are weights of."""


TITLES = {MAIN: "300 steps", MANY: "300 steps, one for all styles", LONG: "800 steps"}
"""How trainings are called above figures."""

THIRDS = ("first third", "middle", "last third")

MARGIN = 0.04
"""Room for intervals above and below the switch weights."""


def histograms(table: DataFrame) -> Drawing:
    """Draw the histogram of rho of three cells, with intervals over seeds, and what was published of classification.

    Args:
        table: Rows of :func:`experiments.style_gates.values` of the last steps.
    """
    figure, axes = panels(3, columns=3, height=2.5, sharey=True)
    edges = np.linspace(0, 1, BINS + 1)
    middles, width = (edges[:-1] + edges[1:]) / 2, edges[1]
    known = PUBLISHED["rho"].shares["network"]
    for each, cell in zip(axes, (MAIN, MANY, LONG), strict=True):
        rho = table[(table["kind"] == RHO.name) & (table["cell"] == cell)]
        counted = [np.histogram(own["value"], edges)[0] / len(own) for _, own in rho.groupby("seed")]
        if counted:
            seeds = np.stack(counted)
            each.bar(middles, seeds.mean(axis=0), 0.9 * width, color=GROUP_COLORS[2], alpha=0.55)
            for middle, shares in zip(middles, seeds.T, strict=True):
                interval = against(shares)
                each.plot([middle] * 2, [max(interval.low, 0), interval.high], color=GROUP_COLORS[2], linewidth=1)
        each.bar([middles[0], middles[-1]], [known["below"], known["above"]], width, fill=False, ec=INK, linewidth=1)
        each.set_title(TITLES[cell])
        each.set_xlabel("rho: 0 instance, 1 batch")
    each = axes[0]
    each.set_ylim(0, max(each.get_ylim()[1], 1.1 * known["above"]))
    each.set_ylabel("share of the channels")
    each.annotate(
        "published of a\nclassifier (ends)",
        (0.9, known["above"]),
        xytext=(-6, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=SMALL,
        color=INK,
    )
    return figure


def movement(networks: DataFrame, rows: DataFrame) -> Drawing:
    """Draw rho over the longer trainings: the mean of parts of the network, and the shares near the ends and between.

    Args:
        networks: Rows of :func:`experiments.style_gates.rho_of_networks`.
        rows: Rows of :func:`experiments.style_gates.rho_of_layers`.
    """
    figure, (left, right) = panels(2, height=2.8)
    own = rows[rows["cell"] == LONG]
    parts = own.assign(part=[THIRDS[3 * depth // (own["depth"].max() + 1)] for depth in own["depth"]])
    means = parts.groupby(["part", "seed", "step"], sort=False)["value"].mean().reset_index()
    shares = networks[networks["cell"] == LONG].assign(between=lambda each: 1 - each["above"] - each["below"])
    moving = shares.melt(["seed", "step"], ["above", "between", "below"], "part")
    for axes, each, names in ((left, means, {}), (right, moving, {"above": "in [0.9, 1]", "below": "in [0, 0.1]"})):
        axes.set_ylim(0, 1.02)
        if len(each):
            curves(axes, each.assign(folder=each["seed"]), "part", names)
    left.set_title("Mean rho of layers")
    right.set_title("Share of channels")
    return figure


def layers(rows: DataFrame) -> Drawing:
    """Draw the mean rho of each layer: by style in networks of one style, in one of three, and by what else was varied.

    Args:
        rows: Rows of :func:`experiments.style_gates.rho_of_layers` of the last steps.
    """
    figure, axes = panels(3, columns=3, height=3.1, sharey=True)
    axes[0].set_ylim(-0.03, 1.03)
    styles = list(rows["style"].drop_duplicates())
    by_style = {style: Look(style, GROUP_COLORS[1 + place]) for place, style in enumerate(styles)}
    for each, cell, title in (
        (axes[0], MAIN, "A network per style"),
        (axes[1], MANY, "One for all styles"),
    ):
        own = rows[rows["cell"] == cell]
        over_layers(each, own, [(look, own[own["style"] == style]) for style, look in by_style.items()])
        each.set_title(title)
    night = rows[rows["style"] == STYLE]
    varied = {MAIN: "300 steps", WIDTH: "twice as wide", LOSS: "other losses", LONG: "800 steps"}
    looks = [Look(label, color) for label, color in zip(varied.values(), (INK, *GROUP_COLORS[3:]), strict=False)]
    over_layers(
        axes[2], night, [(look, night[night["cell"] == cell]) for look, cell in zip(looks, varied, strict=True)]
    )
    axes[2].set_title(f"Style {STYLE}")
    axes[0].set_ylabel("mean rho of the layer")
    return figure


def switches(rows: DataFrame) -> Drawing:
    """Draw the switch weights of the networks of a style each: by layer at the end, and over steps.

    Args:
        rows: Rows of :func:`experiments.style_gates.switch_of_layers`.
    """
    figure, axes = panels(4, columns=2, height=2.5, sharey=True)
    rows = rows[rows["cell"] == MAIN]
    reached = ends(rows).groupby(["kind", "statistic", "depth"])["value"].mean()
    axes[0].set_ylim(min(reached.min(), 1 / 3) - MARGIN, max(reached.max(), 1 / 3) + MARGIN)
    for place, (kind, title) in enumerate(MOMENTS.items()):
        own = rows[rows["kind"] == kind]
        last = ends(own)
        over_layers(axes[place], last, [(Look(name, COLORS[name]), last[last["statistic"] == name]) for name in COLORS])
        axes[place].set_title(f"{title.capitalize()}, by layer")
        moving = own.groupby(["statistic", "seed", "step"], sort=False)["value"].mean().reset_index()
        if len(moving):
            curves(axes[2 + place], moving.assign(folder=moving["seed"]), "statistic")
        axes[2 + place].set_title(f"{title.capitalize()}, all layers")
        for each in axes[place::2]:
            each.axhline(1 / 3, color=SOFT, linewidth=0.8, linestyle=":")
    for each in axes[::2]:
        each.set_ylabel("weight")
    return figure


def over_layers(axes: Axes, rows: DataFrame, series: Sequence[tuple[Look, DataFrame]]) -> None:
    """Draw a value over the layers of a network: a line through the means over seeds, and 95 % intervals.

    Args:
        axes: Where.
        rows: All that is drawn, for its layers.
        series: How each line looks, and its rows, with ``depth``, ``seed`` and ``value``; several values of a seed in a
            layer, as of several styles, are averaged.
    """
    named: Mapping[int, str] = dict(zip(rows["depth"], rows["layer"], strict=True))
    lines = []
    for place, (look, own) in enumerate(series):
        if own.empty:
            continue
        wide = own.pivot_table(index="seed", columns="depth", values="value")
        shift = 0.12 * (place - (len(series) - 1) / 2)
        for depth, shares in wide.items():
            interval = against(shares)
            axes.plot([depth + shift] * 2, [interval.low, interval.high], color=look.color, linewidth=1, alpha=0.6)
        axes.plot(wide.columns + shift, wide.mean(), color=look.color, linewidth=1.5, marker="o", markersize=2.5)
        lines.append((float(wide.mean().iloc[-1]), look))
    axes.set_xticks(sorted(named), [_short(named[depth]) for depth in sorted(named)], rotation=90, fontsize=SMALL)
    name_ends(axes, lines)


def _short(layer: str) -> str:
    """Call a layer as there is room for, such as ``block 1a`` for ``residual1.norm1``."""
    part, _, norm = layer.partition(".")
    name = part.rstrip("0123456789")
    return SHOWN.get(name, name) + part.removeprefix(name) + {"norm1": "a", "norm2": "b"}.get(norm, "")
