"""The main findings as pictures for papers and slides, in the colors of the report."""

from collections.abc import Callable, Sequence
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

from mixing_analysis.values import (
    THIRDS,
    Run,
    at_last_step,
    correlations,
    differences,
    histogram,
    summaries,
    with_thirds,
)
from norms.kinds import STATISTICS
from training.files import replacing

PUBLISHED = {
    "network": {"below": 0.10, "above": 0.72},
    "first": {"below": 0.21},
    "last": {"below": 0.07},
}
"""About which shares of the gates ended in [0, 0.1] and in [0.9, 1], in the whole network and in thirds of its depth.

Source:
    Read off figure 2 of Nam & Kim 2018, which speaks of lower and upper layers.
"""

MOST_GROUPS = 6
"""How many groups of runs a figure can tell apart; of more it shows the first."""

MOST_DOTS = 256
"""Layers of more channels are drawn without a dot for each."""

MOST_PANELS = 9
"""How many differences of groups are drawn, unless the first two groups differ in more ways."""

BINS = 10
"""Bins of the histograms of rho, as wide as the published shares are."""

COLORS = {"instance": "#bb5566", "layer": "#ddaa33", "batch": "#004488"}
GROUP_COLORS = ("#1d1f24", "#0f8f7e", "#8a55b5", "#8a5a2e", "#dd96c8", "#93b02c")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (7, 3)), (0, (2, 3)), (0, (9, 3, 2, 3)), (0, (12, 4)), (0, (4, 2)))
INK, SOFT, RULE = "#1d1f24", "#5d6068", "#e2e0da"
RHO = LinearSegmentedColormap.from_list("rho", [COLORS["instance"], "#eae7e0", COLORS["batch"]])
"""From instance to batch normalization, through a gray that is as far from both."""

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
}

WIDTH = 7.0
"""Of a figure, in inches: that of a page with margins."""

Groups = dict[str, int]
"""The groups that are shown, each with the number of its color."""


def write(table: DataFrame, runs: Sequence[Run], folder: str | Path) -> list[Path]:
    """Draw what the runs have learned, each figure as PNG and SVG.

    Runs of a group are averaged. Of networks with different layers, each has axes of its own.

    Args:
        table: The values of all runs, see :data:`mixing_analysis.values.COLUMNS`.
        runs: The runs of the table.
        folder: Where the files go; it is made.

    Returns:
        The files: those of ``rho_histogram``, ``rho_layers``, ``rho_channels``, ``rho_training``, ``rho_gamma``,
        ``switch_layers``, ``switch_training`` and ``differences`` for which there are values.
    """
    written = []
    with mpl.rc_context(STYLE):
        for name, draw in drawings(table, runs).items():
            figure = draw()
            if figure is not None:
                written += _save(figure, Path(folder) / name)
    return written


def drawings(table: DataFrame, runs: Sequence[Run]) -> dict[str, Callable[[], Figure | None]]:
    """Say what can be drawn of the runs.

    Args:
        table: See :func:`write`.
        runs: See :func:`write`.

    Returns:
        From a figure's name to what draws it; that returns None if its values are nowhere together.
    """
    names = list(dict.fromkeys(run.group for run in runs))[:MOST_GROUPS]
    groups = {name: index for index, name in enumerate(names)}
    table = table[table["group"].isin(names)]
    last = with_thirds(at_last_step(table))
    over_time = table.groupby("run", observed=True)["step"].nunique().gt(1).any()
    found: dict[str, Callable[[], Figure | None]] = {}
    if (table["kind"] == "rho").any():
        found |= {
            "rho_histogram": lambda: _histograms(last, groups),
            "rho_layers": lambda: _layers(last, groups),
            "rho_channels": lambda: _channels(last, groups),
            "rho_gamma": lambda: _gamma(table, groups),
        }
    if over_time and table["kind"].isin(["rho", "rho_summary"]).any():
        found["rho_training"] = lambda: _rho_training(table, groups)
    if (table["kind"] == "mean_weight").any():
        found["switch_layers"] = lambda: _bars(last, groups)
        if over_time:
            found["switch_training"] = lambda: _switch_training(table, groups)
    if len(groups) > 1:
        found["differences"] = lambda: _differences(table, groups)
    return found


def _save(figure: Figure, path: Path) -> list[Path]:
    paths = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for target in paths:
        kind = target.suffix.removeprefix(".")
        with replacing(target) as partial:
            # Without a date equal values make equal files.
            figure.savefig(partial, format=kind, metadata={"Date": None} if kind == "svg" else None)
        # The second file has the layout of the first, which takes as long to find as a file to draw.
        figure.set_layout_engine("none")
    return paths


def _histograms(last: DataFrame, groups: Groups) -> Figure:
    parts = {
        "network": "Whole network",
        **dict(zip(THIRDS, ("Lower third", "Middle third", "Upper third"), strict=True)),
    }
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    every = figure.subplots(1, len(parts), sharey=True)
    for axes, (part, title) in zip(every, parts.items(), strict=True):
        rows = last if part == "network" else last[last["third"] == part]
        _published(axes, PUBLISHED.get(part, {}))
        counts = histogram(rows, ["group"], BINS)
        for name, index in groups.items():
            shares = counts.loc[counts["group"] == name, "share"].to_numpy()
            if not len(shares):
                continue
            if len(groups) == 1:
                centers = (np.arange(BINS) + 0.5) / BINS
                axes.bar(centers, shares, 0.9 / BINS, color=RHO(centers), label=name)
            else:
                edges = np.linspace(0, 1, BINS + 1)
                axes.stairs(shares, edges, color=GROUP_COLORS[index], linewidth=1.4, label=name)
        axes.set(title=title, xlim=(0, 1), xticks=[0, 0.5, 1], xlabel="rho")
        axes.grid(visible=False, axis="x")
    every[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    every[0].set_ylabel("share of the gates")
    _legend(figure, groups, published=True)
    return figure


def _published(axes: Axes, shares: dict[str, float]) -> None:
    for side, left in (("below", 0.0), ("above", 1 - 1 / BINS)):
        if side in shares:
            axes.bar(
                left + 0.5 / BINS, shares[side], 0.9 / BINS, facecolor="none", edgecolor=SOFT, linestyle="--", zorder=3
            )


def _layers(last: DataFrame, groups: Groups) -> Figure:
    described = summaries(last, ["run", "group", "layer", "depth"])
    gates = last[last["kind"] == "rho"]

    def draw(axes: Axes, shown: Groups, layers: list[str]) -> None:
        for place, (name, index) in enumerate(shown.items()):
            own = described[described["group"] == name]
            folded = own.groupby("depth", observed=True)[["mean", "q25", "q75"]].mean()
            rows = np.arange(len(folded)) + _offset(place, len(shown))
            if len(shown) == 1 and own["run"].nunique() == 1 and own["count"].max() <= MOST_DOTS:
                _dots(axes, gates[gates["group"] == name], list(folded.index))
            elif own["run"].nunique() > 1:
                where = own["depth"].map(dict(zip(folded.index, rows, strict=True)))
                axes.plot(own["mean"], where, "|", color=GROUP_COLORS[index], markersize=8)
            axes.hlines(rows, folded["q25"], folded["q75"], color=GROUP_COLORS[index], linewidth=1.8)
            _mark(axes, folded["mean"], rows, index)
        axes.set(xlim=(-0.02, 1.02), xlabel="rho: 0 is instance, 1 is batch normalization")

    return _by_architecture(gates, groups, draw, height=0.24)


def _dots(axes: Axes, gates: DataFrame, depths: list[int]) -> None:
    row = gates["depth"].map({depth: row for row, depth in enumerate(depths)}).to_numpy(float)
    # Multiples of the golden ratio are spread evenly, however many there are.
    jitter = (gates["channel"].to_numpy(float) * 0.618034) % 1 - 0.5
    axes.scatter(gates["value"], row + 0.62 * jitter, c=gates["value"], cmap=RHO, vmin=0, vmax=1, s=7, linewidths=0.2)
    axes.collections[-1].set_edgecolor(SOFT)


def _channels(last: DataFrame, groups: Groups) -> Figure:
    gates = last[last["kind"] == "rho"]
    shown = [name for name in groups if (gates["group"] == name).any()]
    layers = [gates[gates["group"] == name].sort_values("depth")["layer"].unique().tolist() for name in shown]
    figure, every = _panels(layers)
    for axes, name, rows in zip(every, shown, layers, strict=True):
        own = gates[gates["group"] == name]
        for row, layer in enumerate(rows):
            values = np.sort(own.loc[own["layer"] == layer, "value"].to_numpy())
            place = (0, 1, row + 0.45, row - 0.45)
            axes.imshow(values[None], cmap=RHO, vmin=0, vmax=1, aspect="auto", extent=place, interpolation="nearest")
        axes.set(title=name, xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), xlabel="channels, sorted by rho")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(visible=False)
    bar = figure.colorbar(mpl.cm.ScalarMappable(cmap=RHO), ax=every, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_label("rho")
    return figure


def _gamma(table: DataFrame, groups: Groups) -> Figure | None:
    found = correlations(table)
    if found.empty:
        return None

    def draw(axes: Axes, shown: Groups, layers: list[str]) -> None:
        for place, (name, index) in enumerate(shown.items()):
            own = found[found["group"] == name]
            rows = own["layer"].map({layer: row for row, layer in enumerate(layers)}).to_numpy(float)
            rows = rows + _offset(place, len(shown))
            axes.hlines(rows, 0, own["pearson"], color=GROUP_COLORS[index], linewidth=1, alpha=0.5)
            _mark(axes, own["pearson"], rows, index)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set(xlim=(-1.05, 1.05), xlabel="correlation of rho with gamma, over channels")

    rows = table[table["kind"].eq("rho") & table["run"].isin(found["run"].unique())]
    return _by_architecture(rows, groups, draw, height=0.2)


def _rho_training(table: DataFrame, groups: Groups) -> Figure:
    described = summaries(table)
    described["weight"] = described["count"].clip(lower=1)
    sums = ["mean", "share_below_0.1", "share_above_0.9"]
    weighted = described.assign(**{name: described[name] * described["weight"] for name in sums})
    network = weighted.groupby(["group", "run", "step"], observed=True)[[*sums, "weight"]].sum()
    network = network[sums].div(network["weight"], axis=0).reset_index()
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    means, shares = figure.subplots(1, 2)
    for name, index in groups.items():
        own = network[network["group"] == name]
        if own.empty:
            continue
        if len(groups) == 1:
            layers = described.pivot_table(index="step", columns="depth", values="mean", observed=True)
            means.plot(layers.index, layers, color=SOFT, linewidth=0.6, alpha=0.6)
        _curve(means, own, "mean", GROUP_COLORS[index], DASHES[index])
        for side, statistic in (("below_0.1", "instance"), ("above_0.9", "batch")):
            _curve(shares, own, f"share_{side}", COLORS[statistic], DASHES[index])
    means.set(title="Mean rho", ylim=(-0.02, 1.02), xlabel="step")
    shares.set(title="Share of the gates", ylim=(-0.02, 1.02), xlabel="step")
    shares.plot([], [], color=COLORS["instance"], label="below 0.1")
    shares.plot([], [], color=COLORS["batch"], label="above 0.9")
    shares.legend()
    _legend(figure, groups)
    return figure


def _curve(axes: Axes, rows: DataFrame, column: str, color: str, dash: object) -> None:
    """Mean and standard deviation over the runs of a group, as far as all of them go."""
    by_run = rows.pivot_table(index="step", columns="run", values=column, observed=True).dropna()
    mean = by_run.mean(axis=1)
    axes.plot(mean.index, mean, color=color, linestyle=dash)
    if by_run.shape[1] > 1:
        spread = by_run.std(axis=1)
        axes.fill_between(mean.index, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)


def _bars(last: DataFrame, groups: Groups) -> Figure:
    rows = last[last["kind"].isin(["mean_weight", "var_weight"])]
    shown = [name for name in groups if (rows["group"] == name).any()]
    layers = {name: rows[rows["group"] == name].sort_values("depth")["layer"].unique().tolist() for name in shown}
    heights = [0.6 + 0.19 * len(layers[name]) for name in shown]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    every = figure.subplots(len(shown), 2, squeeze=False, sharex=True, height_ratios=heights)
    for pair, name in zip(every, shown, strict=True):
        for axes, (kind, words) in zip(pair, (("mean_weight", "means"), ("var_weight", "variances")), strict=True):
            own = rows[(rows["group"] == name) & (rows["kind"] == kind)]
            mean = own.pivot_table(index="layer", columns="statistic", values="value", observed=True)
            mean = mean.reindex(index=layers[name], columns=list(STATISTICS), fill_value=0.0)
            left = np.zeros(len(mean))
            for statistic in STATISTICS:
                width = mean[statistic].to_numpy(float)
                axes.barh(np.arange(len(mean)), width, 0.8, left, color=COLORS[statistic], edgecolor="white")
                left += width
            for third in (1 / 3, 2 / 3):
                axes.axvline(third, color="white", linewidth=0.8, linestyle="--")
            _rows(axes, layers[name], named=kind == "mean_weight")
            axes.set(xlim=(0, 1), title=f"{name}: {words}" if len(shown) > 1 else f"Weights of {words}")
            axes.grid(visible=False)
    handles = [mpl.patches.Patch(color=COLORS[statistic], label=statistic) for statistic in STATISTICS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _switch_training(table: DataFrame, groups: Groups) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    every = figure.subplots(1, 2, sharey=True)
    for axes, (kind, words) in zip(every, (("mean_weight", "means"), ("var_weight", "variances")), strict=True):
        rows = table[table["kind"] == kind]
        for name, index in groups.items():
            for statistic in STATISTICS:
                own = rows[(rows["group"] == name) & (rows["statistic"] == statistic)]
                if own.empty:
                    continue
                if len(groups) == 1:
                    layers = own.pivot_table(index="step", columns="layer", values="value", observed=True)
                    axes.plot(layers.index, layers, color=COLORS[statistic], linewidth=0.6, alpha=0.5)
                means = own.groupby(["run", "step"], observed=True)["value"].mean().reset_index()
                _curve(axes, means, "value", COLORS[statistic], DASHES[index])
        axes.axhline(1 / 3, color=SOFT, linewidth=0.6, linestyle=":")
        axes.set(title=f"Weights of {words}", xlabel="step")
    every[0].set_ylim(bottom=0)
    handles = [mpl.lines.Line2D([], [], color=COLORS[statistic], label=statistic) for statistic in STATISTICS]
    every[1].legend(handles=handles)
    _legend(figure, groups)
    return figure


def _differences(table: DataFrame, groups: Groups) -> Figure | None:
    first, *others = groups
    panels: list[tuple[str, str, str, DataFrame]] = []
    for other in others:
        found = differences(table, first, other).sort_values("depth")
        by_kind = found.groupby(["kind", "statistic"], observed=True, sort=False, dropna=False)
        if not panels or len(panels) + len(by_kind) <= MOST_PANELS:
            panels += [(other, kind, statistic, rows) for (kind, statistic), rows in by_kind]
    if not panels:
        return None
    figure, every = _panels([rows["layer"].tolist() for *_, rows in panels])
    for axes, (other, kind, statistic, rows) in zip(every, panels, strict=True):
        places = np.arange(len(rows))
        clear = (rows["low"] > 0) | (rows["high"] < 0)
        axes.hlines(places, rows["low"], rows["high"], color=INK, linewidth=1.4)
        fill = np.where(clear, INK, "white")
        axes.scatter(rows["difference"], places, s=18, facecolor=fill, edgecolor=INK, linewidth=1, zorder=3)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        moment = "means" if kind == "mean_weight" else "variances"
        axes.set(title="mean rho" if kind == "rho" else f"{statistic}, {moment}", xlabel=f"{other} minus {first}")
    return figure


def _by_architecture(
    rows: DataFrame, groups: Groups, draw: Callable[[Axes, Groups, list[str]], None], height: float
) -> Figure:
    """One plot with a row for each layer, or several of them, where groups have different layers."""
    alike: dict[tuple[str, ...], Groups] = {}
    for name, index in groups.items():
        own = rows[rows["group"] == name].drop_duplicates("layer").sort_values("depth")
        if len(own):
            alike.setdefault(tuple(own["layer"]), {})[name] = index
    tall = max(len(layers) * (height + 0.045 * (len(shown) - 1)) for layers, shown in alike.items())
    figure = Figure(figsize=(WIDTH, 0.8 + tall), layout="constrained")
    for axes, (layers, shown) in zip(figure.subplots(1, len(alike), squeeze=False)[0], alike.items(), strict=True):
        draw(axes, shown, list(layers))
        _rows(axes, list(layers))
        axes.grid(visible=False, axis="y")
    _legend(figure, groups)
    return figure


def _panels(layers: list[list[str]]) -> tuple[Figure, list[Axes]]:
    """Plots side by side and below each other, each with a row for each of its layers."""
    columns = min(3, len(layers))
    lines = -(-len(layers) // columns)
    figure = Figure(figsize=(WIDTH, lines * (0.8 + 0.16 * max(map(len, layers)))), layout="constrained")
    every = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axes in every[len(layers) :]:
        axes.remove()
    for index, (axes, names) in enumerate(zip(every, layers, strict=False)):
        _rows(axes, names, named=index % columns == 0 or names != layers[index - 1])
    return figure, every[: len(layers)]


def _rows(axes: Axes, layers: list[str], named: bool = True) -> None:
    """Name the rows of a plot by layers, from the input down to the output."""
    axes.set_yticks(np.arange(len(layers)), layers if named else [""] * len(layers))
    axes.set_ylim(len(layers) - 0.4, -0.6)


def _offset(place: int, count: int) -> float:
    return (place + 0.5) / count * 0.76 - 0.38


def _mark(axes: Axes, x: pd.Series, y: np.ndarray, index: int) -> None:
    axes.plot(
        x, y, MARKERS[index], color=GROUP_COLORS[index], markersize=5.5, markeredgecolor="white", markeredgewidth=0.7
    )


def _legend(figure: Figure, groups: Groups, published: bool = False) -> None:
    handles: list[Artist] = [
        mpl.lines.Line2D([], [], color=GROUP_COLORS[index], marker=MARKERS[index], linestyle=DASHES[index], label=name)
        for name, index in groups.items()
        if len(groups) > 1
    ]
    if published:
        label = "Nam & Kim 2018, read off figure 2"
        handles.append(mpl.patches.Patch(facecolor="none", edgecolor=SOFT, linestyle="--", label=label))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
