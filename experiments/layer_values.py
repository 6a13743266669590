"""What the norms of an experiment's networks have learned, by layer: as a table, and as figures over depth and time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from pandas import DataFrame

from experiments.mixing import learned
from experiments.plots import SMALL, Look
from experiments.reading import Runs
from experiments.verdicts import against
from norms.kinds import RHO


def layer_values(runs: Runs) -> DataFrame:
    """Return what every layer of every run has learned over the training.

    Args:
        runs: The runs; those whose norms learn no mixture have no rows.

    Returns:
        A row per value: the columns of ``runs.frame``, ``step``, ``layer`` in the order of the network, ``name`` and
        ``value``. Names are ``rho``, the mean over the channels; ``rho/below`` and ``rho/above``, the shares of
        channels near instance and near batch normalization; and such as ``mean_weight/batch``.
    """
    values = learned(runs)
    statistic = values["statistic"].where(values["statistic"].notna() & (values["statistic"] != "nan"))
    values["name"] = values["kind"] + ("/" + statistic).fillna("")
    rho, (low, high) = values[values["kind"] == RHO.name], RHO.ends
    near = {"below": rho["value"] <= low, "above": rho["value"] >= high}
    shares = [rho.assign(name=f"{RHO.name}/{end}", value=is_near.astype(float)) for end, is_near in near.items()]
    keys = [*runs.frame.columns, "step", "layer", "name"]
    return pd.concat([values, *shares]).groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()


def over_depth(axes: Axes, values: DataFrame, layers: Sequence[str], look: Look, shift: float, filled: bool) -> None:
    """Draw a value of each layer: a mark at the mean over seeds, and a line for its 95 % interval.

    Args:
        axes: Where; layers come from the top to the bottom.
        values: Rows of :func:`layer_values` of the last step, with one ``name``, of one cell.
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

    It is NaN of a seed whose layers all have the same value.

    Args:
        values: Rows of :func:`layer_values` of the last step, with one ``name``, of one cell.
        layers: All layers in the order of the network.

    Source:
        Spearman, The proof and measurement of association between two things, 1904.
    """
    rows = values.pivot_table(index="seed", columns="layer", values="value").reindex(columns=list(layers))
    depth = pd.Series(range(len(layers)), list(layers))
    correlations = [row.corr(depth, method="spearman") if row.nunique() > 1 else np.nan for _, row in rows.iterrows()]
    return np.array(correlations)
