"""The main findings as pictures for papers and slides, in the colors of the report."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from mixing_analysis import evolution, layer_relations, multiples, outcomes, weight_figures
from mixing_analysis.comparisons import OF_GATES, compare, correlations
from mixing_analysis.effects import ALPHA
from mixing_analysis.kinds import LOGGED, families, word
from mixing_analysis.plots import (
    BINS,
    COLUMN,
    DASHES,
    GROUP_COLORS,
    HIGH,
    INK,
    LOW,
    MOST_DOTS,
    MOST_GROUPS,
    RAMP,
    SOFT,
    STYLE,
    WIDTH,
    Groups,
    break_lines,
    by_architecture,
    curve,
    is_first,
    legend,
    mark,
    offset,
    padded,
    panel_grid,
    panels,
    save,
)
from mixing_analysis.published import Published, published
from mixing_analysis.values import THIRDS, Run, at_last_step, histogram, kinds_of, summaries, with_thirds
from norms.errors import unknown
from norms.kinds import MixingKind
from training.moving import check_packages

FORMATS = ("png", "svg", "pdf", *evolution.FORMATS)
"""What figures are written as."""

DEFAULT_FORMATS = FORMATS[:-1]
"""All but the video, which wants a package of its own."""

Drawing = Callable[..., Figure | None]
"""Draws a figure; its keyword ``width`` is in inches."""

STRIP = 512
"""Pixels of the strip that the sorted channels of a layer are drawn as."""

MOST_PANELS = 9
"""How many differences of groups are drawn, unless the first two groups differ in more ways."""


def write(
    table: DataFrame, runs: Sequence[Run], folder: str | Path, formats: Sequence[str] = DEFAULT_FORMATS
) -> list[Path]:
    """Draw what the runs have learned, each figure in each of the formats.

    Runs of a group are averaged. Of networks with different layers, each has axes of its own. Beside each PDF there is
    one for a column of 3.5 inches, ``rho_layers_column.pdf``.

    Args:
        table: The values of all runs, see :data:`mixing_analysis.values.COLUMNS`.
        runs: The runs of the table.
        folder: Where the files go; it is made.
        formats: Some of :data:`FORMATS`. The moving ones are of :mod:`mixing_analysis.evolution` alone.

    Returns:
        The files: of each kind with a value in every channel, such as rho, those of ``rho_histogram``, ``rho_layers``,
        ``rho_channels``, ``rho_training`` and ``rho_gamma``; of each family of other kinds, such as the weights of a
        switch, ``switch_layers`` and ``switch_training``; of both ``..._relations``, ``..._styles``, ``..._settings``
        and ``..._evolution``; and ``differences`` and ``outcomes``; as far as there are values for them.

    Raises:
        SettingError: If a format is unknown, or is a video and PyAV is missing.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
        check_packages(Path(f"figures.{name}"))
    still = [name for name in formats if name not in evolution.FORMATS]
    moving = [name for name in formats if name in evolution.FORMATS]
    written = []
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A name may have letters that the font lacks, in whose place it draws boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        # A name may be so long that it leaves no room for plots, which then lie over it.
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        for name, draw in drawings(table, runs).items() if still else ():
            figure = draw()
            if figure is None:
                continue
            path = Path(folder) / name
            written += save(figure, path, still)
            column = draw(width=COLUMN) if "pdf" in still else None
            if column is not None:
                written += save(column, path.with_name(f"{name}_column"), ["pdf"])
        if moving:
            written += evolution.write(table, runs, Path(folder), moving)
    return written


def drawings(table: DataFrame, runs: Sequence[Run]) -> dict[str, Drawing]:
    """Say what can be drawn of the runs.

    Args:
        table: See :func:`write`.
        runs: See :func:`write`.

    Returns:
        From a figure's name to what draws it, at the ``width`` in inches that it is given; that returns None if its
        values are nowhere together.
    """
    names = list(dict.fromkeys(run.group for run in runs))[:MOST_GROUPS]
    groups = {name: index for index, name in enumerate(names)}
    every, table = table, table[table["group"].isin(names)]
    last = with_thirds(at_last_step(table))
    over_time = table.groupby("run", observed=True)["step"].nunique().gt(1).any()
    kinds, shown = kinds_of(runs), [run for run in runs if run.group in groups]
    found: dict[str, Drawing] = {}
    for kind in kinds:
        if (table["kind"] == kind.name).any() and kind.per_channel:
            found |= {
                f"{kind.name}_histogram": partial(_histograms, last, groups, kind, published(kind, shown)),
                f"{kind.name}_layers": partial(_layers, last, groups, kind),
                f"{kind.name}_channels": partial(_channels, last, groups, kind),
                f"{kind.name}_gamma": partial(_gamma, table, groups, kind),
            }
            found |= _of_any(kind.name, every, table, runs, groups, [kind])
        if over_time and kind.per_channel and table["kind"].isin([kind.name, kind.name + LOGGED]).any():
            found[f"{kind.name}_training"] = partial(_gate_training, table, groups, kind)
    for name, members in families(kinds).items():
        if table["kind"].isin([kind.name for kind in members]).any():
            found[f"{name}_layers"] = partial(weight_figures.bars, last, groups, members)
            found |= _of_any(name, every, table, runs, groups, members)
            if over_time:
                found[f"{name}_training"] = partial(weight_figures.training, table, groups, members)
    if len(groups) > 1:
        found["differences"] = partial(_differences, table, runs, groups, kinds)
    if len(runs) >= outcomes.FEWEST_RUNS:
        found["outcomes"] = partial(outcomes.draw, every, runs, groups)
    return {name: partial(_drawn, draw) for name, draw in found.items()}


def _drawn(draw: Drawing, **options: float) -> Figure | None:
    figure = draw(**options)
    if figure is not None:
        break_lines(figure)
    return figure


def _of_any(
    name: str, every: DataFrame, table: DataFrame, runs: Sequence[Run], groups: Groups, kinds: Sequence[MixingKind]
) -> dict[str, Drawing]:
    """Say what can be drawn of a kind with a value in every channel as well as of a family of others."""
    return {
        f"{name}_relations": partial(layer_relations.draw, table, runs, groups, kinds),
        f"{name}_styles": partial(multiples.draw_styles, table, groups, kinds),
        f"{name}_settings": partial(multiples.draw_settings, every, runs, kinds),
    }


def _histograms(
    last: DataFrame, groups: Groups, kind: MixingKind, known: Published | None, width: float = WIDTH
) -> Figure:
    parts = {
        "network": "Whole network",
        **dict(zip(THIRDS, ("Lower third", "Middle third", "Upper third"), strict=True)),
    }
    figure, every = panels(len(parts), len(parts), width, 2.3, sharey=True)
    edges = np.linspace(kind.low, kind.high, BINS + 1)
    for axes, (part, title) in zip(every, parts.items(), strict=True):
        rows = last if part == "network" else last[last["third"] == part]
        _published(axes, {} if known is None else known.shares.get(part, {}))
        counts = histogram(rows, kind, ["group"], BINS)
        for name, index in groups.items():
            shares = counts.loc[counts["group"] == name, "share"].to_numpy()
            if not len(shares):
                continue
            if len(groups) == 1:
                colors = RAMP((np.arange(BINS) + 0.5) / BINS)
                axes.bar((edges[:-1] + edges[1:]) / 2, shares, 0.9 * (edges[1] - edges[0]), color=colors, label=name)
            else:
                axes.stairs(shares, edges, color=GROUP_COLORS[index], linewidth=1.4, label=name)
        axes.set(title=title, xlim=edges[[0, -1]], xticks=edges[[0, BINS // 2, -1]], xlabel=kind.name)
        axes.grid(visible=False, axis="x")
        if is_first(axes):
            axes.set_ylabel("share of the gates")
    every[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    legend(figure, groups, None if known is None else f"{known.subject}: {known.source}")
    return figure


def _published(axes: Axes, shares: Mapping[str, float]) -> None:
    for side, left in (("below", 0.0), ("above", 1 - 1 / BINS)):
        if side in shares:
            axes.bar(
                left + 0.5 / BINS, shares[side], 0.9 / BINS, facecolor="none", edgecolor=SOFT, linestyle="--", zorder=3
            )


def _layers(last: DataFrame, groups: Groups, kind: MixingKind, width: float = WIDTH) -> Figure:
    described = summaries(last, kind, ["run", "group", "layer", "depth"])
    gates = last[last["kind"] == kind.name]
    ends = "{0}: {1.low:g} is {2}, {1.high:g} is {3} normalization"
    words = ends.format(kind.name, kind, *kind.end_names) if kind.end_names else kind.name

    def draw(axes: Axes, shown: Groups, layers: list[str]) -> None:
        for place, (name, index) in enumerate(shown.items()):
            own = described[described["group"] == name]
            folded = own.groupby("depth", observed=True)[["mean", "q25", "q75"]].mean()
            rows = np.arange(len(folded)) + offset(place, len(shown))
            if len(shown) == 1 and own["run"].nunique() == 1 and own["count"].max() <= MOST_DOTS:
                _dots(axes, gates[gates["group"] == name], list(folded.index), kind)
            elif own["run"].nunique() > 1:
                where = own["depth"].map(dict(zip(folded.index, rows, strict=True)))
                axes.plot(own["mean"], where, "|", color=GROUP_COLORS[index], markersize=8)
            axes.hlines(rows, folded["q25"], folded["q75"], color=GROUP_COLORS[index], linewidth=1.8)
            mark(axes, folded["mean"], rows, index)
        axes.set(xlim=padded(kind), xlabel=words)

    return by_architecture(gates, groups, draw, 0.24, width)


def _dots(axes: Axes, gates: DataFrame, depths: list[int], kind: MixingKind) -> None:
    row = gates["depth"].map({depth: row for row, depth in enumerate(depths)}).to_numpy(float)
    # Multiples of the golden ratio are spread evenly, however many there are.
    jitter = (gates["channel"].to_numpy(float) * 0.618034) % 1 - 0.5
    look: dict[str, Any] = {"cmap": RAMP, "vmin": kind.low, "vmax": kind.high, "s": 7, "linewidths": 0.2}
    axes.scatter(gates["value"], row + 0.62 * jitter, c=gates["value"], **look)
    axes.collections[-1].set_edgecolor(SOFT)


def _channels(last: DataFrame, groups: Groups, kind: MixingKind, width: float = WIDTH) -> Figure:
    gates = last[last["kind"] == kind.name]
    look: dict[str, Any] = {"cmap": RAMP, "vmin": kind.low, "vmax": kind.high, "interpolation": "nearest"}
    shown = [name for name in groups if (gates["group"] == name).any()]
    layers = [gates[gates["group"] == name].sort_values("depth")["layer"].unique().tolist() for name in shown]
    figure, every = panel_grid(layers, width)
    for axes, name, rows in zip(every, shown, layers, strict=True):
        own = gates[gates["group"] == name]
        values = [np.sort(own.loc[own["layer"] == layer, "value"].to_numpy()) for layer in rows]
        strips = np.stack([each[np.arange(STRIP) * len(each) // STRIP] for each in values])
        axes.imshow(strips, aspect="auto", extent=(0, 1, len(rows) - 0.5, -0.5), **look)
        axes.hlines(np.arange(1, len(rows)) - 0.5, 0, 1, color="white", linewidth=0.8)
        axes.set(title=name, xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), xlabel=f"channels, sorted by {kind.name}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(visible=False)
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(kind.low, kind.high), RAMP)
    bar = figure.colorbar(scale, ax=every, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_label(kind.name)
    return figure


def _gamma(table: DataFrame, groups: Groups, kind: MixingKind, width: float = WIDTH) -> Figure | None:
    found = correlations(table, kind)
    if found.empty:
        return None

    def draw(axes: Axes, shown: Groups, layers: list[str]) -> None:
        for place, (name, index) in enumerate(shown.items()):
            own = found[found["group"] == name]
            rows = own["layer"].map({layer: row for row, layer in enumerate(layers)}).to_numpy(float)
            rows = rows + offset(place, len(shown))
            axes.hlines(rows, 0, own["pearson"], color=GROUP_COLORS[index], linewidth=1, alpha=0.5)
            mark(axes, own["pearson"], rows, index)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set(xlim=(-1.05, 1.05), xlabel=f"correlation of {kind.name} with gamma, over channels")

    rows = table[table["kind"].eq(kind.name) & table["run"].isin(found["run"].unique())]
    return by_architecture(rows, groups, draw, 0.2, width)


def _gate_training(table: DataFrame, groups: Groups, kind: MixingKind, width: float = WIDTH) -> Figure:
    described = summaries(table, kind)
    described["weight"] = described["count"].clip(lower=1)
    sums = ["mean", "below", "above"]
    weighted = described.assign(**{name: described[name] * described["weight"] for name in sums})
    network = weighted.groupby(["group", "run", "step"], observed=True)[[*sums, "weight"]].sum()
    network = network[sums].div(network["weight"], axis=0).reset_index()
    figure, (means, shares) = panels(2, 2, width, 2.6)
    for name, index in groups.items():
        own = network[network["group"] == name]
        if own.empty:
            continue
        if len(groups) == 1:
            layers = described.pivot_table(index="step", columns="depth", values="mean", observed=True)
            means.plot(layers.index, layers, color=SOFT, linewidth=0.6, alpha=0.6)
        curve(means, own, "mean", GROUP_COLORS[index], DASHES[index])
        for side, color in (("below", LOW), ("above", HIGH)):
            curve(shares, own, side, color, DASHES[index])
    means.set(title=f"Mean {kind.name}", ylim=padded(kind), xlabel="step")
    shares.set(title="Share of the gates", ylim=(-0.02, 1.02), xlabel="step")
    for side, color, limit in zip(("below", "above"), (LOW, HIGH), kind.ends, strict=True):
        shares.plot([], [], color=color, label=f"{side} {limit:g}")
    shares.legend()
    legend(figure, groups)
    return figure


def _differences(
    table: DataFrame, runs: Sequence[Run], groups: Groups, kinds: Sequence[MixingKind], width: float = WIDTH
) -> Figure | None:
    described = {kind.name: kind for kind in kinds}
    found = _compared(table, runs, list(groups))
    if not found:
        return None
    figure, every = panel_grid([rows["layer"].tolist() for rows in found], width)
    for axes, rows in zip(every, found, strict=True):
        places = np.arange(len(rows))
        axes.hlines(places, rows["low"], rows["high"], color=INK, linewidth=1.4)
        fill = np.where(rows["p_holm"] < ALPHA, INK, "white")
        axes.scatter(rows["difference"], places, s=18, facecolor=fill, edgecolor=INK, linewidth=1, zorder=3)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        first, second, kind, measure = rows[["first", "second", "kind", "measure"]].iloc[0]
        words = word(described[kind])
        title = f"mean {words}" if described[kind].per_channel else f"{measure}, {words}"
        axes.set(title=title, xlabel=f"{second} minus {first}")
    return figure


def _compared(table: DataFrame, runs: Sequence[Run], names: Sequence[str]) -> list[DataFrame]:
    """Return the comparisons of each panel: with the first group that has layers in common with another."""
    rows = compare(table, runs, list(combinations(names, 2))).rows
    rows = rows[~rows["measure"].isin(OF_GATES[1:])]
    found: list[DataFrame] = []
    for _, of_pair in rows[rows["first"].eq(rows["first"].iloc[0])].groupby("second", sort=False) if len(rows) else ():
        each = [part for _, part in of_pair.groupby(["kind", "measure"], sort=False)]
        if not found or len(found) + len(each) <= MOST_PANELS:
            found += each
    return found
