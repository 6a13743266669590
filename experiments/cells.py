"""Cells of grids: the number of each seed at some settings, and how two of them differ."""

from typing import Any

import numpy as np
from pandas import DataFrame, Series

from experiments.verdicts import Effect, against


def cell(frame: DataFrame, metric: str, **settings: Any) -> "Series[float]":
    """Return the number of each seed in a cell.

    Args:
        frame: A row per run, such as :meth:`experiments.reading.Runs.last` returns.
        metric: The column of the number.
        settings: The value of each column that makes the cell.

    Returns:
        The numbers, by seed.

    Raises:
        ValueError: If the settings leave several runs of a seed.
    """
    chosen = np.logical_and.reduce([frame[name] == value for name, value in settings.items()])
    values = frame[chosen].set_index("seed")[metric]
    if values.index.has_duplicates:
        raise ValueError(f"{settings}: expected one run of each seed, got those of the seeds {[*values.index]}")
    return values


def minus(second: "Series[float]", first: "Series[float]") -> Effect:
    """Compare the numbers of each seed in two cells, or in sums of such: second minus first."""
    return against((second - first).to_numpy(float))
