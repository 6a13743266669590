"""Numbers of cells over their seeds, in words and as the rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pandas import DataFrame, Series


def mean_text(values: Series | np.ndarray | Sequence[float], form: str = ".3g") -> str:
    """Write mean ± standard deviation over seeds, with the number of seeds; a dash if none has a number.

    Args:
        values: The number of each seed; NaN where it has none.
        form: How a number is written, as Python's ``format`` takes it, such as ``.1%``.
    """
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return "–"  # noqa: RUF001
    spread = f" ± {known.std(ddof=1):{form}}" if len(known) > 1 else ""
    return f"{known.mean():{form}}{spread} (n={len(known)})"


def summary(frame: DataFrame, by: Sequence[str], metrics: Mapping[str, str]) -> DataFrame:
    """Sum up the runs of each cell.

    Args:
        frame: A row per run, such as :meth:`experiments.reading.Runs.last` returns.
        by: The columns that make a cell, such as ``norm`` and ``lr``; cells are in the order in which they come.
        metrics: From each column that is summed up to how its numbers are written, such as ``.3f``.

    Returns:
        A row per cell: ``by``, each metric as :func:`mean_text`, and, if any run did, how many have diverged or failed.
    """
    rows: list[dict[str, Any]] = []
    for cell, runs in frame.groupby(list(by), sort=False, dropna=False):
        row = dict(zip(by, cell, strict=True))
        row |= {metric: mean_text(runs[metric], form) for metric, form in metrics.items()}
        for state in ("diverged", "failed"):
            if (frame["state"] == state).any():
                row[state] = int((runs["state"] == state).sum())
        rows.append(row)
    return DataFrame(rows)
