"""How soon a training gets somewhere."""

import numpy as np
from pandas import DataFrame, Series

from experiments.reading import Runs


def steps_to(runs: Runs, frame: DataFrame, metric: str, levels: Series) -> Series:
    """Return the step of the first value of a metric that reaches a level.

    Args:
        runs: The runs.
        frame: A row per run, some of :attr:`experiments.reading.Runs.frame`.
        metric: A column of ``metrics.csv`` that rises, such as ``val/accuracy``.
        levels: The level of each row of ``frame``.

    Returns:
        A value per row; NaN where the level is not reached.
    """
    found = []
    for folder, level in zip(frame["folder"], levels, strict=True):
        curve = runs.metrics(folder)[metric].dropna()
        reached = curve.index[curve >= level]
        found.append(float(reached[0]) if len(reached) else np.nan)
    return Series(found, frame.index)
