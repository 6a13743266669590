"""How what runs have learned goes with how well they do: a metric of each run beside its learned values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas import DataFrame

from mixing_analysis.comparisons import OF_GATES
from mixing_analysis.effects import ALPHA, holm
from mixing_analysis.findings import measure_name
from mixing_analysis.kinds import families
from mixing_analysis.plots import GROUP_COLORS, MARKERS, SOFT, WIDTH, Groups, legend, panels, subtitled
from mixing_analysis.ranks import RankCorrelation, numbers, spearman
from mixing_analysis.values import Run, at_last_step, kinds_of, summaries

FEWEST_RUNS = 3
"""Of fewer runs there is nothing to see."""

MOST_METRICS = 6

MOST_PANELS = 6
"""How many plots a figure has; the page has more."""

FIRST = ("val/loss", "val/accuracy", "val/fd", "val/kid")
"""What the metrics begin with that are shown first."""


class Outcome(NamedTuple):
    """Hold, over runs, a learned value beside a metric.

    Attributes:
        measure: What was learned, in words.
        metric: Which metric, at its last value.
        runs: The names of the runs.
        groups: Their groups.
        x: The learned value of each.
        y: The metric of each.
        rank: Their correlation.
    """

    measure: str
    metric: str
    runs: list[str]
    groups: list[str]
    x: np.ndarray
    y: np.ndarray
    rank: RankCorrelation


def measures(table: DataFrame, runs: Sequence[Run]) -> DataFrame:
    """Sum up what each run has learned at its last step in a few numbers.

    Returns:
        A row for each run, and a column for the mean of each kind with a value in every channel and its shares near the
        ends, over all channels, and for each label of other kinds, its mean weight over the layers.
    """
    last = at_last_step(table)
    kinds = kinds_of(runs)
    columns = []
    for kind in kinds:
        if kind.per_channel:
            described = summaries(last, kind, ["run"]).set_index("run")
            names = {part: measure_name(kind, part) for part in OF_GATES}
            columns.append(described[list(names)].rename(columns=names))
    for members in families(kinds).values():
        for kind in members:
            rows = last[last["kind"] == kind.name]
            means = rows.groupby(["run", "statistic"], observed=True)["value"].mean().unstack("statistic")
            columns.append(means.rename(columns={label: measure_name(kind, label) for label in kind.labels}))
    found = pd.concat([column.set_axis(column.index.astype(str)) for column in columns], axis=1)
    return found.reindex([run.name for run in runs])


def outcomes(table: DataFrame, runs: Sequence[Run]) -> list[Outcome]:
    """Put beside each other what runs have learned and the metrics of their validations.

    Args:
        table: The values of all runs, see :data:`mixing_analysis.values.COLUMNS`.
        runs: The runs of the table.

    Returns:
        One for each metric and measure that differ over at least :data:`FEWEST_RUNS` runs.
    """
    learned = measures(table, runs)
    metrics = DataFrame([dict(run.metrics) for run in runs], index=learned.index, dtype=float)
    ordered = sorted(metrics, key=lambda name: (min(_rank(name, first) for first in FIRST), name))
    groups = {run.name: run.group for run in runs}
    found = []
    for metric in ordered[:MOST_METRICS]:
        for measure in learned:
            pairs = DataFrame({"x": learned[measure], "y": metrics[metric]}).dropna()
            if len(pairs) < FEWEST_RUNS or pairs["x"].nunique() < 2 or pairs["y"].nunique() < 2:
                continue
            names = pairs.index.tolist()
            x, y = pairs["x"].to_numpy(float), pairs["y"].to_numpy(float)
            found.append(Outcome(measure, metric, names, [groups[name] for name in names], x, y, spearman(x, y)))
    return found


def describe(table: DataFrame, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the outcomes as the page shows them, runs by their numbers.

    One is clear if it holds after Holm's correction over all that are returned.
    """
    found = outcomes(table, runs)
    clear = holm(np.array([each.rank.p for each in found])) < ALPHA
    places = {run.name: place for place, run in enumerate(runs)}
    return [
        {
            "measure": each.measure,
            "metric": each.metric,
            "runs": [places[name] for name in each.runs],
            "x": numbers(each.x),
            "y": numbers(each.y),
            "rank": str(each.rank),
            "r": numbers([each.rank.r])[0],
            "clear": bool(holds),
        }
        for each, holds in zip(found, clear, strict=True)
    ]


def _rank(name: str, first: str) -> int:
    return FIRST.index(first) if name.startswith(first) else len(FIRST)


def draw(table: DataFrame, runs: Sequence[Run], groups: Groups, width: float = WIDTH) -> Figure | None:
    """Draw a small plot for each metric and measure, with a mark for each run; groups without a color are gray."""
    found = outcomes(table, runs)[:MOST_PANELS]
    if not found:
        return None
    figure, every = panels(len(found), 3, width, 2.0 if width >= WIDTH else 1.5)
    for axes, each in zip(every, found, strict=True):
        own = np.array(each.groups)
        rest = ~np.isin(own, list(groups))
        axes.plot(each.x[rest], each.y[rest], ".", color=SOFT, alpha=0.5)
        for name, index in groups.items():
            x, y = each.x[own == name], each.y[own == name]
            axes.plot(x, y, MARKERS[index], color=GROUP_COLORS[index], markersize=4, markeredgecolor="white")
        subtitled(axes, each.metric, [(str(each.rank), SOFT)])
        axes.set_xlabel(each.measure)
        axes.locator_params(nbins=4)
    legend(figure, groups)
    return figure
