"""What the norms of an experiment's networks have learned, by layer, as tables and figures over depth and time."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from pandas import DataFrame

from experiments.plots import SMALL, Look
from experiments.reading import Runs
from experiments.verdicts import against

COLUMN = re.compile(r"(?P<kind>rho|switch)/(?P<layer>\d+_\w+)/(?P<name>[\w/]+)")
"""A column of ``metrics.csv`` with a value of one layer, see :class:`training.callbacks.mixing.MixingValues`."""


def layer_values(runs: Runs) -> DataFrame:
    """Return what every layer of every run has learned over the training.

    Args:
        runs: The runs; those whose norms learn no mixture have no rows.

    Returns:
        A row per value: the columns of ``runs.frame``, ``step``, ``layer`` (such as ``block1.norm1``; they come in the
        order of the network), ``name`` (of rho such as ``rho/mean`` and ``rho/share_below_0_1`` over the channels, of
        switch weights such as ``mean/batch``) and ``value``.
    """
    parts = []
    for index, folder in runs.frame["folder"].items():
        metrics = runs.metrics(folder)
        for column in metrics:
            if found := COLUMN.fullmatch(str(column)):
                kind, place, name = found["kind"], found["layer"], found["name"]
                values = metrics[column].dropna()
                layer = place.partition("_")[2].replace("_", ".", 1)
                full = name if kind == "switch" else f"{kind}/{name}"
                cells = {"run": index, "step": values.index, "layer": layer, "name": full, "value": values.to_numpy()}
                parts.append(DataFrame(cells))
    values = pd.concat(parts) if parts else DataFrame(columns=["run", "step", "layer", "name", "value"])
    return runs.frame.merge(values, left_index=True, right_on="run").drop(columns="run").reset_index(drop=True)


def at_end(values: DataFrame) -> DataFrame:
    """Return the rows of :func:`layer_values` of the last step of each run."""
    return values[values["step"] == values.groupby("folder")["step"].transform("max")]


def over_depth(axes: Axes, values: DataFrame, layers: Sequence[str], look: Look, shift: float, filled: bool) -> None:
    """Draw a value of each layer: a mark at the mean over seeds, and a line for its 95 % interval.

    Args:
        axes: Where; layers come from the top to the bottom.
        values: Rows of :func:`at_end` with one ``name``, of one cell.
        layers: All layers in the order of the network.
        look: Its color and mark.
        shift: How far below the middle of its layer's line a value stands, so that several do not hide each other.
        filled: Whether marks are full.
    """
    for place, layer in enumerate(layers):
        found = against(values.loc[values["layer"] == layer, "value"])
        if not found.seeds:
            continue
        face = look.color if filled else "white"
        axes.plot([found.low, found.high], [place + shift] * 2, color=look.color, linewidth=1.1)
        axes.plot(found.difference, place + shift, look.marker, color=look.color, markersize=4.5, markerfacecolor=face)
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def over_time(axes: Axes, values: DataFrame, look: Look, dashed: bool) -> None:
    """Draw a value of one layer over steps: the mean over seeds, and the area between the smallest and the largest.

    Args:
        axes: Where.
        values: Rows of :func:`layer_values` with one ``name``, of one layer and cell.
        look: Its color.
        dashed: Whether the line is dashed.
    """
    found = values.groupby("step")["value"].agg(["mean", "min", "max"])
    axes.fill_between(found.index, found["min"], found["max"], color=look.color, alpha=0.15, linewidth=0)
    axes.plot(found.index, found["mean"], color=look.color, linewidth=1.3, linestyle="--" if dashed else "-")
    axes.tick_params(labelsize=SMALL - 1)


def depth_trend(values: DataFrame, layers: Sequence[str]) -> np.ndarray:
    """Return, for each seed, the rank correlation of a value with the depth of its layer, from -1 to 1.

    Args:
        values: Rows of :func:`at_end` with one ``name``, of one cell.
        layers: All layers in the order of the network.

    Source:
        Spearman, The proof and measurement of association between two things, 1904.
    """
    rows = values.pivot_table(index="seed", columns="layer", values="value").reindex(columns=list(layers))
    depth = pd.Series(range(len(layers)), list(layers))
    return np.array([row.corr(depth, method="spearman") for _, row in rows.iterrows()])
