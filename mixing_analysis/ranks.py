"""Rank correlations with their uncertainty."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats

from mixing_analysis.effects import CONFIDENCE

FEWEST = 5
"""Of fewer pairs an interval would say nothing."""


class RankCorrelation(NamedTuple):
    """Hold Spearman's correlation of ``n`` pairs, its interval and the p-value of none; NaN where it is not known."""

    n: int
    r: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        if np.isnan(self.r):
            return f"n = {self.n}"
        return f"Spearman {self.r:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.n}"

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def spearman(x: np.ndarray, y: np.ndarray) -> RankCorrelation:
    r"""Correlate the ranks of pairs, with a 95 % interval.

    .. math::
        \tanh\left(\operatorname{artanh} r \pm 1.96 \sqrt{\frac{1 + r^2 / 2}{n - 3}}\right)

    Args:
        x: Shape (n,).
        y: Shape (n,). Pairs in which a number is not finite are left out.

    Returns:
        The correlation: NaN for less than :data:`FEWEST` pairs, or if one side is constant.

    Source:
        Bonett and Wright, Sample size requirements for estimating Pearson, Kendall and Spearman correlations,
        Psychometrika 2000, for the interval.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y, n = x[known], y[known], int(known.sum())
    if n < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return RankCorrelation(n, *[float("nan")] * 4)
    found = stats.spearmanr(x, y)
    r = float(found.statistic)
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt((1 + r**2 / 2) / (n - 3))
    center = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    return RankCorrelation(n, r, float(np.tanh(center - half)), float(np.tanh(center + half)), float(found.pvalue))


def numbers(values: Iterable[float]) -> list[float | None]:
    """Write numbers as JSON has them, to five digits; None is one that is not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]
