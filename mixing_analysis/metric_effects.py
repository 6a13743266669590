"""How well groups of runs do beside each other: the metrics of their validations, with the uncertainty of seeds."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from mixing_analysis.comparisons import differ, pairing, sides_of
from mixing_analysis.effects import ALPHA, effects, holm
from mixing_analysis.values import Run

MOST_GROUPS = 12
"""Of more groups, the pairs of the first are compared."""

COMPARED = (
    *("first", "second", "metric", "runs_first", "runs_second", "paired", "mean_first", "mean_second"),
    *("difference", "low", "high", "g", "g_low", "g_high", "p", "p_holm"),
)
"""The columns: a row for each pair of groups and metric. ``p_holm`` is corrected over all rows. For ``difference`` to
``p`` see :func:`mixing_analysis.effects.effects`."""


def compare_metrics(runs: Sequence[Run]) -> DataFrame:
    """Compare the last value of each metric between groups of runs that were trained for equally long.

    Args:
        runs: The runs. Runs of the same seed are compared with each other where both groups have the same seeds.

    Returns:
        See :data:`COMPARED`. Groups of a single run, of which nothing can be said, are left out, and so are pairs whose
        runs end at different steps, see :data:`mixing_analysis.comparisons.TOLERANCE`.
    """
    groups = {name: own for name, own in sides_of(runs, "group").items() if len(own) > 1}
    parts = [DataFrame(columns=list(COMPARED))]
    for first, second in combinations(list(groups)[:MOST_GROUPS], 2):
        paired = pairing([groups[first], groups[second]])
        sides = paired or [groups[first], groups[second]]
        every = [run for side in sides for run in side]
        names = [name for name in every[0].metrics if all(np.isfinite(run.metrics.get(name, np.nan)) for run in every)]
        if not names or differ(run.steps[-1] for run in every):
            continue
        before, after = (np.array([[run.metrics[name] for name in names] for run in side]) for side in sides)
        part = effects(before, after, paired is not None)
        part["first"], part["second"], part["metric"], part["paired"] = first, second, names, paired is not None
        for words, values in (("first", before), ("second", after)):
            part[f"runs_{words}"], part[f"mean_{words}"] = len(values), values.mean(0)
        parts.append(part)
    found = pd.concat(parts[1:] or parts, ignore_index=True)
    return found.assign(p_holm=holm(found["p"].to_numpy(float)))[list(COMPARED)]


def finding(rows: DataFrame) -> str:
    """Say in a sentence what may be said of how well groups do: a difference only where it is beyond seeds.

    Args:
        rows: Some of the rows of :func:`compare_metrics`.
    """
    clear = rows[rows["p_holm"] < ALPHA].sort_values("p_holm", kind="stable")
    if clear.empty:
        smallest = rows["p_holm"].min()
        return f"No metric differs beyond seeds: the smallest Holm-corrected p is {smallest:.2g}."
    words = [f"{row['metric']} of {row['second']} against {row['first']}" for _, row in clear.head(3).iterrows()]
    beyond = f"Beyond seeds {len(clear)} of {len(rows)} differ (Holm-corrected p < {ALPHA:g})"
    return f"{beyond}, most surely {', '.join(words)}."


def describe(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the comparison as the page shows it: a finding, and of each row its names and numbers."""
    rows = compare_metrics(runs)
    cells = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return {"finding": finding(rows) if cells else "", "rows": cells}
