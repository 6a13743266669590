"""Which layers need what they have learned, in words, in the terminal and for the page: what an ablation comes to."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pandas import DataFrame
from rich.table import Table

from mixing_analysis.ablation import BINARIZED
from mixing_analysis.console_tables import MOST_ROWS, plain_table

MOST_NAMED = 3
"""How many layers a finding names."""

CHANGE, BETWEEN = "rms_change", "rms_between"


def with_changes(ablated: DataFrame) -> DataFrame:
    """Add to the results of :func:`mixing_analysis.ablation.ablate` the column ``change``: ablated minus learned."""
    return ablated.assign(change=ablated["ablated"] - ablated["learned"])


def main_metric(ablated: DataFrame) -> str:
    """Return the metric that layers are judged by: the loss, or else the first one."""
    metrics: list[str] = list(ablated["metric"].unique())
    return next((name for name in metrics if _is_loss(name)), metrics[0])


def costs(rows: DataFrame) -> DataFrame:
    """Judge the layers of one run, metric and kind of statistics by the plain norm that serves each of them best.

    Args:
        rows: The rows of :func:`with_changes` of that run, metric and kind of statistics.

    Returns:
        For each layer, the dearest first, the columns layer, cost (the smallest change that forcing it makes, of
        losses; of other metrics the change that is largest in size), forced (to what) and clear (whether the intervals
        of all its changes lie above 0; of other metrics, whether that of this change leaves out 0).
    """
    found = []
    for layer, own in rows.groupby("layer", sort=False):
        loss = _is_loss(rows["metric"].iloc[0])
        best = own.loc[own["change"].idxmin() if loss else own["change"].abs().idxmax()]
        clear = bool((own["low"] > 0).all()) if loss else bool(best["low"] > 0 or best["high"] < 0)
        found.append((layer, best["change"], best["forced"], clear))
    table = DataFrame(found, columns=["layer", "cost", "forced", "clear"])
    size = table["cost"] if _is_loss(rows["metric"].iloc[0]) else table["cost"].abs()
    return table.loc[size.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


def finding(rows: DataFrame, between: float | None = None) -> str:
    """Say in a sentence or two which layers need what they have learned, only as far as that is beyond noise.

    Args:
        rows: As for :func:`costs`.
        between: How far images of different latent vectors are apart, for scale, of the metric ``rms_change``.
    """
    metric, learned, parts = rows["metric"].iloc[0], rows["learned"].iloc[0], rows["parts"].iloc[0]
    judged = costs(rows)
    most = judged.iloc[0]
    if metric == CHANGE:
        scale = "" if between is None else f", where images of different latent vectors are {between:.2g} apart"
        if not _is_largest(rows):
            each = f"by {judged['cost'].min():.2g} to {most['cost']:.2g}"
            return f"Forcing a layer changes the images {each}{scale}; none does so beyond noise more than all others."
        return f"Forcing {most['layer']} changes the images most: by {most['cost']:.2g} as {most['forced']}{scale}."
    if parts < 2:
        return "There is a single part of images, whose score cannot be told from noise."
    clear = judged[judged["clear"]]
    of = f"of {learned:.3g}"
    if not _is_loss(metric):
        if clear.empty:
            return f"No layer changes {metric} beyond noise."
        best = clear.iloc[0]
        count = f"{len(clear)} of {len(judged)} layers change {metric} beyond noise"
        return f"{count}, {best['layer']} most: {best['cost']:+.2g} {of} as {best['forced']}."
    if clear.empty:
        return (
            f"No layer needs its gate beyond noise: in each, some plain norm does without a clear rise of {metric}, "
            f"{most['cost']:+.2g} {of} at most, in {most['layer']}."
        )
    costs_of = [f"{row['cost']:+.2g}" for _, row in clear.iterrows()]
    if len(clear) == 1:
        return f"Only {clear['layer'].iloc[0]} needs its gate: forcing it costs {costs_of[0]} {of} at least."
    named = [f"{name} ({cost})" for name, cost in zip(clear["layer"], costs_of, strict=True)][:MOST_NAMED]
    others = "" if len(clear) <= MOST_NAMED else f", and {len(clear) - MOST_NAMED} less"
    many = "All" if len(clear) == len(judged) else f"{len(clear)} of {len(judged)}"
    return f"{many} layers need their gates: forcing them costs at least, {of}, {', '.join(named)}{others}."


def _is_largest(rows: DataFrame) -> bool:
    """Tell whether a layer changes more than every other one, by intervals that do not overlap."""
    largest = rows.loc[rows.groupby("layer", sort=False)["change"].idxmax()].sort_values("change")
    return len(largest) == 1 or bool(largest["low"].iloc[-1] > largest["high"].iloc[:-1].max())


def contents(ablated: DataFrame) -> list[dict[str, Any]]:
    """Return what the page shows of an ablation, in types that JSON has: the layers of each run, metric and statistics.

    Args:
        ablated: The results of :func:`mixing_analysis.ablation.ablate`, of any runs.
    """
    entries = []
    for (run, metric, statistics), rows in _parts(ablated):
        layers = [
            {
                "name": layer,
                "ways": [
                    {"forced": way.forced, "change": way.change, "interval": _interval(way.low, way.high)}
                    for way in own.itertuples()
                ],
            }
            for layer, own in rows.groupby("layer", sort=False)
        ]
        entry = {"run": run, "metric": metric, "statistics": statistics, "learned": float(rows["learned"].iloc[0])}
        words = finding(rows, _between(ablated, run, statistics))
        entries.append(entry | {"parts": int(rows["parts"].iloc[0]), "layers": layers, "finding": words})
    return entries


def tables(ablated: DataFrame) -> Iterator[Table]:
    """Yield for each run a table of what forcing its layers changes, those that matter most first."""
    for (run, metric, statistics), rows in _parts(ablated):
        own = ablated[ablated["run"] == run]
        if metric != main_metric(own) or statistics != own["statistics"].iloc[-1]:
            continue
        ways = sorted(rows["forced"].unique(), key=lambda forced: forced != BINARIZED)
        shown = plain_table("layer", numbers=[*ways])
        of = "" if metric == CHANGE else f", of {rows['learned'].iloc[0]:.4g}"
        shown.title = f"{run}: what forcing a layer changes {metric} by{of}, statistics {statistics}"
        for layer in costs(rows)["layer"][:MOST_ROWS]:
            cells = rows[rows["layer"] == layer].set_index("forced")
            shown.add_row(layer, *(_cell(cells.loc[way], metric) if way in cells.index else "" for way in ways))
        starred = "" if metric == CHANGE else " * lies beyond noise."
        shown.caption = finding(rows, _between(ablated, run, statistics)) + starred
        yield shown


def _cell(row: Any, metric: str) -> str:
    clear = metric != CHANGE and (row["low"] > 0 or row["high"] < 0)
    return f"{row['change']:+.2g}{'*' if clear else ''}"


def _parts(ablated: DataFrame) -> Iterator[tuple[tuple[str, str, str], DataFrame]]:
    for (run, metric, statistics), rows in with_changes(ablated).groupby(["run", "metric", "statistics"], sort=False):
        if metric != BETWEEN:
            yield (run, metric, statistics), rows


def _between(ablated: DataFrame, run: str, statistics: str) -> float | None:
    of = ablated["run"].eq(run) & ablated["statistics"].eq(statistics) & ablated["metric"].eq(BETWEEN)
    return float(ablated.loc[of, "learned"].iloc[0]) if of.any() else None


def _interval(low: float, high: float) -> list[float] | None:
    return None if np.isnan(low) else [low, high]


def _is_loss(metric: str) -> bool:
    return metric.rpartition("/")[2] == "loss"
