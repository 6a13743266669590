"""The tables that the terminal shows of runs."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from pandas import DataFrame
from rich import box
from rich.table import Table

from mixing_analysis import values
from mixing_analysis.comparisons import Comparisons
from mixing_analysis.findings import finding, measure_name, p_number
from mixing_analysis.kinds import LOGGED, families, word
from mixing_analysis.metric_effects import compare_metrics
from mixing_analysis.metric_effects import finding as finding_of_metrics
from mixing_analysis.published import Published, published
from mixing_analysis.values import Run
from norms.kinds import MixingKind

MOST_ROWS = 40
"""More rows than this are left to the report."""

MOST_COMPARED, MOST_DIFFERENCES = 3, 5
"""How many pairs of groups are shown, and how many differences of each."""


def tables_of(
    table: DataFrame, runs: Sequence[Run], evaluated: DataFrame | None, comparisons: Comparisons
) -> Iterator[Table]:
    """Yield what the terminal shows: the values at the last step, what binarizing changes, and how groups differ.

    Args:
        table: The values of all runs.
        runs: The runs of the table.
        evaluated: The results of :func:`mixing_analysis.binarized.evaluate`, if runs were evaluated.
        comparisons: See :func:`mixing_analysis.comparisons.compare`.
    """
    last = values.at_last_step(table)
    by = "layer" if len(runs) == 1 else "group"
    kinds = values.kinds_of(runs)
    there = set(last["kind"].unique())
    for kind in kinds:
        if kind.per_channel and there & {kind.name, kind.name + LOGGED}:
            yield _gates(last, by, kind, published(kind, runs))
    for members in families(kinds).values():
        if there & {kind.name for kind in members}:
            yield _weights(last, by, members)
    if evaluated is not None and len(evaluated):
        ends = [f"every {kind.name} at {kind.low:g} or {kind.high:g}" for kind in kinds if kind.per_channel]
        largest = [f"every {name} at its largest weight" for name in families(kinds)]
        title = f"with {', '.join(ends + largest)}"
        yield _binarized(evaluated, {run.name: run.group for run in runs}, title)
    yield from _differences(comparisons, {kind.name: kind for kind in kinds})
    yield from _metrics(compare_metrics(runs))


def plain_table(*texts: str, numbers: Sequence[str]) -> Table:
    """Begin a table with columns of texts, then of numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for text in texts:
        table.add_column(text, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _gates(last: DataFrame, by: str, kind: MixingKind, known: Published | None) -> Table:
    """Tell the gates of each layer, or of each group with its spread; and of all, beside what was published."""
    columns = ["mean", "below", "above", "bimodality"]
    low, high = kind.ends
    shown = plain_table(by, numbers=["gates", f"mean {kind.name}", f"< {low:g}", f"> {high:g}", "bimodality"])
    each = [(_title(name, rows), rows) for name, rows in _parts(values.summaries(last, kind, ["run", by]), by)]
    if by == "layer":
        each.append(("all layers", values.summaries(last, kind, ["run"])))
    for name, rows in each:
        numbers = [_spread(rows[column], percent=column in ("below", "above")) for column in columns]
        shown.add_row(name, _count(rows["count"]), *numbers)
    shown.caption = "Sarle's bimodality above 0.56: two peaks, or a strong skew."
    if known is not None:
        of_network = known.shares["network"]
        shown.add_row("published*", "", "", *(f"about {of_network[column]:.0%}" for column in columns[1:3]), "")
        shown.caption = f"* In {known.subject} ({known.source}). {shown.caption}"
    return shown


def _weights(last: DataFrame, by: str, kinds: Sequence[MixingKind]) -> Table:
    """Tell the weights of each layer, or the means over the layers of each group with the spread over its runs."""
    shown = plain_table(by, "weights of", numbers=kinds[0].labels)
    weights = last[last["kind"].isin([kind.name for kind in kinds])]
    each = weights.groupby(["run", by, "kind", "statistic"], observed=True, sort=False)["value"].mean().reset_index()
    for name, rows in _parts(each, by):
        for kind in kinds:
            cells = [rows[(rows["kind"] == kind.name) & (rows["statistic"] == label)] for label in kind.labels]
            first = _title(name, rows) if kind is kinds[0] else ""
            shown.add_row(first, word(kind), *(_spread(cell["value"]) for cell in cells))
    return shown


def _binarized(evaluated: DataFrame, groups: Mapping[str, str], title: str) -> Table:
    """Tell what binarizing changes, for each group with the spread over its runs."""
    shown = plain_table("group", "metric", "statistics", numbers=["learned", "binarized", "change"])
    shown.title = title
    results = evaluated.assign(group=evaluated["run"].map(groups), change=evaluated["binarized"] - evaluated["learned"])
    for name, own in _parts(results, "group"):
        first = _title(name, own)
        for (metric, statistics), rows in own.groupby(["metric", "statistics"], sort=False):
            numbers = f"{rows['learned'].mean():.4g}", f"{rows['binarized'].mean():.4g}"
            change = f"{rows['change'].mean():+.2g}" + (f"±{rows['change'].std():.1g}" if len(rows) > 1 else "")
            shown.add_row(first, metric, statistics, *numbers, change)
            first = ""
    return shown


def _differences(comparisons: Comparisons, kinds: Mapping[str, MixingKind]) -> Iterator[Table]:
    """Tell of the first pairs of groups the layers that differ most surely, and what may be said of it."""
    pairs = comparisons.rows.dropna(subset="p_holm").groupby(["first", "second"], sort=False)
    for (first, second), rows in list(pairs)[:MOST_COMPARED]:
        shown = plain_table("layer", "of", numbers=["difference", "95 %", "g", "p"])
        shown.title = f"{second} minus {first}"
        order = rows.assign(size=-rows["difference"].abs()).sort_values(["p_holm", "size"], kind="stable").index
        for _, row in rows.loc[order[:MOST_DIFFERENCES]].iterrows():
            numbers = f"{row['difference']:+.3f}", _reach(row), _known(row["g"], "+.1f"), p_number(row["p_holm"])
            shown.add_row(row["layer"], measure_name(kinds[row["kind"]], row["measure"]), *numbers)
        best = rows.loc[order[0]]
        part = rows[(rows["kind"] == best["kind"]) & (rows["measure"] == best["measure"])]
        tested = "paired by seed" if best["paired"] else "Welch's t"
        shown.caption = (
            f"{measure_name(kinds[best['kind']], best['measure'])}: {finding(part, kinds[best['kind']])} "
            f"p is Holm-corrected over layers ({tested}), g is Hedges'."
        )
        yield shown


def _metrics(metrics: DataFrame) -> Iterator[Table]:
    """Tell of the first pairs of groups how well they do, what differs most surely first."""
    for (first, second), rows in list(metrics.groupby(["first", "second"], sort=False))[:MOST_COMPARED]:
        shown = plain_table("metric", numbers=["difference", "95 %", "g", "p"])
        shown.title = f"{second} minus {first}"
        for _, row in rows.sort_values("p_holm", kind="stable").head(MOST_DIFFERENCES).iterrows():
            size, p = _known(row["g"], "+.1f"), _known(row["p_holm"], ".2g")
            shown.add_row(row["metric"], f"{row['difference']:+.3g}", _reach(row, ".3g"), size, p)
        shown.caption = f"{finding_of_metrics(rows)} p is Holm-corrected over pairs and metrics, g is Hedges'."
        yield shown


def _reach(row: pd.Series, form: str = ".3f") -> str:
    return "" if np.isnan(row["low"]) else f"{row['low']:+{form}} to {row['high']:+{form}}"


def _known(number: float, form: str) -> str:
    return "" if np.isnan(number) else format(number, form)


def _parts(frame: DataFrame, by: str) -> list[tuple[str, DataFrame]]:
    return list(frame.groupby(by, observed=True, sort=False))[:MOST_ROWS]


def _title(name: str, rows: DataFrame) -> str:
    runs = rows["run"].nunique()
    return name if runs == 1 else f"{name} ({runs} runs)"


def _spread(numbers: pd.Series, percent: bool = False) -> str:
    known = (100 if percent else 1) * numbers.dropna()
    if known.empty:
        return "?"
    digits = 1 if percent else 3
    spread = f"±{known.std():.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{spread}{'%' if percent else ''}"


def _count(counts: pd.Series) -> str:
    smallest, largest = counts.min(), counts.max()
    if largest == 0:
        return "?"
    return str(largest) if smallest == largest else f"{smallest} to {largest}"
