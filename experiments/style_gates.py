"""What the norms of style networks have learned, by cell, style, seed, layer and step."""

import numpy as np
from pandas import DataFrame

from experiments.mixing import learned
from experiments.reading import Runs
from experiments.variance import components, shares
from norms.kinds import RHO

STYLE = "night"
"""The style of the trainings that vary something else."""

CELLS = {
    "style_norms": "300 steps",
    "style_mixing_long": "800 steps",
    "style_mixing_width": "300 steps, twice as wide",
    "style_mixing_loss": "300 steps, bundled losses",
    "style_mixing_many": "300 steps, one network of three styles",
}
"""From the name of a sweep to what its trainings are called."""

KEYS = ["cell", "style", "seed", "layer", "depth", "step"]


def values(runs: Runs) -> DataFrame:
    """Return what all layers of all runs have learned at all steps.

    Returns:
        A row per value: ``cell`` of :data:`CELLS`, ``style``, ``seed``, ``folder``, ``step``, ``layer`` with its
        ``depth`` from 0, ``channel``, ``kind``, ``statistic`` and ``value``. In a network of several styles each has
        norms of its own, which are rows of that style.
    """
    table = learned(runs)
    parts = table["layer"].str.split(".norms.", n=1, expand=True, regex=False).reindex(columns=[0, 1])
    style = parts[1].astype(object).where(parts[1].notna(), table["style"])
    style = style.where(style.notna(), STYLE)
    table = table.assign(cell=table["sweep"].map(CELLS), layer=parts[0], style=style)
    depths = {layer: depth for depth, layer in enumerate(table["layer"].drop_duplicates())}
    columns = [*KEYS, "folder", "channel", "kind", "statistic", "value"]
    return table.assign(depth=table["layer"].map(depths))[columns]


def rho_of_layers(table: DataFrame) -> DataFrame:
    """Average rho over the channels of each layer.

    Args:
        table: Rows of :func:`values`.

    Returns:
        A row per layer, step and run: ``cell``, ``style``, ``seed``, ``layer``, ``depth``, ``step`` and ``value``.
    """
    rho = table[table["kind"] == RHO.name]
    return rho.groupby(KEYS, sort=False)["value"].mean().reset_index()


def rho_of_networks(table: DataFrame) -> DataFrame:
    """Sum up rho over all channels of each network.

    Args:
        table: Rows of :func:`values`.

    Returns:
        A row per step, network and style: ``cell``, ``style``, ``seed``, ``step``, ``rho`` (the mean) and the shares of
        channels in [0, 0.1] and in [0.9, 1], ``below`` and ``above``.
    """
    low, high = RHO.ends
    rho = table[table["kind"] == RHO.name]
    flags = rho.assign(rho=rho["value"], below=rho["value"] <= low, above=rho["value"] >= high)
    means = flags.groupby(["cell", "style", "seed", "step"], sort=False)[["rho", "below", "above"]].mean()
    return means.reset_index()


def switch_of_layers(table: DataFrame) -> DataFrame:
    """Return the weights of switchable normalization.

    Returns:
        A row per layer, step and run: ``cell``, ``style``, ``seed``, ``layer``, ``depth``, ``step``, ``kind``,
        ``statistic`` and ``value``.
    """
    return table.loc[table["statistic"].notna(), [*KEYS, "kind", "statistic", "value"]]


def ends(rows: DataFrame) -> DataFrame:
    """Return the rows of the last step of each cell."""
    return rows[rows["step"] == rows.groupby("cell")["step"].transform("max")]


def causes(rows: DataFrame) -> DataFrame:
    """Say what makes the layers' rho differ: their place, the style or the seed.

    Args:
        rows: Rows of :func:`rho_of_layers` of one cell and step.

    Returns:
        A row with the share of the variance of ``layer``, ``style`` (with what differs between styles in single layers)
        and ``seed`` (with all that a seed changes in single layers and styles), and rows of the same without each seed;
        ``left out`` says which, and is empty for all. Empty if less than two seeds have all styles.
    """
    wide = rows.pivot_table(index=["depth", "style"], columns="seed", values="value").dropna(axis=1)
    layers, styles = map(len, wide.index.levels)
    found = []
    for left_out in (None, *wide.columns):
        kept = wide if left_out is None else wide.drop(columns=left_out)
        if kept.shape[1] >= 2 and min(layers, styles) >= 2 and len(wide) == layers * styles:
            cube = kept.to_numpy().reshape(layers, styles, -1)
            split = shares(components(cube, ("layer", "style", "seed")), ("layer", "style", "seed"))
            found.append({"left out": "" if left_out is None else f"seed {left_out}", **split})
    return DataFrame(found, columns=["left out", "layer", "style", "seed"])


def between_channels(table: DataFrame) -> float:
    """Return the share of the variance of rho that is between the channels of a layer of a network.

    Args:
        table: Rows of :func:`values` of one cell and step.
    """
    rho = table[table["kind"] == RHO.name]
    within = rho["value"] - rho.groupby(["style", "seed", "layer"])["value"].transform("mean")
    total = float(np.var(rho["value"]))
    return float(np.var(within)) / total if total else float("nan")
