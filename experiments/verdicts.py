"""Verdicts on claims, by rules that look at nothing but numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pandas import DataFrame

from experiments.page import Verdict
from mixing_analysis.effects import STILL, effects, holm

HOLDS: Verdict = "holds at this scale"
CONTRADICTED: Verdict = "contradicted at this scale"
UNDECIDED: Verdict = "not decided at this scale"


@dataclass(frozen=True)
class Effect:
    """Hold how much larger a number is in one cell than in another, over seeds.

    Args:
        difference: The mean of the differences, second minus first.
        low: The low end of its 95 % interval; NaN of a single seed, and the mean if all seeds differ by the same.
        high: The high end.
        p: The p value of the paired t test.
        seeds: How many seeds both cells have.
        lost: How many further seeds have no number in one of them, since a run diverged or is missing.
        first: The mean of the first cell over those seeds.
        second: The mean of the second.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds: int
    lost: int
    first: float
    second: float

    def verdict(self, claimed: Literal[1, -1], margin: float = 0.0) -> Verdict:
        """Decide by :func:`decide`."""
        return decide(self.low, self.high, claimed, margin)

    def text(self, form: str = "+.3g") -> str:
        """Write the difference with its interval and the number of seeds.

        Args:
            form: How a number is written, as Python's ``format`` takes it.
        """
        if not self.seeds:
            return f"no seed of {self.lost} has both numbers"
        sure = "" if np.isnan(self.low) else f" (95 % interval {self.low:{form}} to {self.high:{form}})"
        lost = f", {self.lost} more without a number" if self.lost else ""
        return f"{self.difference:{form}}{sure}, {self.seeds} seed{'s' * (self.seeds != 1)}{lost}"


def decide(low: float, high: float, claimed: Literal[1, -1], margin: float = 0.0) -> Verdict:
    """Decide whether a difference is on the side that was claimed.

    Args:
        low: The low end of its 95 % interval; NaN where there is none.
        high: The high end.
        claimed: The side: 1 if it was claimed to be above ``margin``, -1 if below ``-margin``.
        margin: How far from 0 it was claimed to be; less is a contradiction, such as of a claim of two points.

    Returns:
        ``HOLDS`` if all of the interval is on that side, ``CONTRADICTED`` if nothing of it, else ``UNDECIDED``.
    """
    near, far = (low, high) if claimed > 0 else (-high, -low)
    return HOLDS if near > margin else CONTRADICTED if far < margin else UNDECIDED


def decide_alike(low: float, high: float, margin: float) -> Verdict:
    """Decide whether a difference that was claimed to be none is smaller than ``margin``, which must be chosen before.

    Args:
        low: The low end of its 95 % interval; NaN where there is none.
        high: The high end.
        margin: Differences below it are taken for none.

    Returns:
        ``HOLDS`` if all of the interval is within ``margin`` of 0, ``CONTRADICTED`` if nothing of it, else
        ``UNDECIDED``.
    """
    if -margin < low and high < margin:
        return HOLDS
    return CONTRADICTED if low > margin or high < -margin else UNDECIDED


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Decide on a claim of several parts: it holds if all of them do, and is contradicted if one of them is."""
    if CONTRADICTED in verdicts:
        return CONTRADICTED
    return HOLDS if verdicts and set(verdicts) == {HOLDS} else UNDECIDED


def paired(frame: DataFrame, by: str, first: object, second: object, metric: str) -> Effect:
    """Compare two cells over the seeds that both have.

    Args:
        frame: A row per run, such as :meth:`experiments.reading.Runs.last` returns, with the column ``seed``. What
            else was varied must be chosen before, so that a cell has one run of each seed.
        by: The column that tells the cells apart, such as ``norm``.
        first: Its value in the first cell.
        second: Its value in the second.
        metric: The column that is compared.

    Returns:
        The effect, over no seeds if a cell has no run that has ended.

    Raises:
        ValueError: If a cell has several runs of one seed.
    """
    cells = []
    for value in (first, second):
        cell = frame[frame[by] == value].set_index("seed")[metric]
        if cell.index.has_duplicates:
            raise ValueError(f"{by} {value}: expected one run of each seed, got those of the seeds {[*cell.index]}")
        cells.append(cell)
    pairs = DataFrame({"first": cells[0], "second": cells[1]})
    return _effect(pairs["first"].to_numpy(float), pairs["second"].to_numpy(float))


def against(values: Sequence[float] | np.ndarray, reference: float = 0.0) -> Effect:
    """Compare numbers of seeds, such as correlations, with a number that is known exactly.

    Args:
        values: The number of each seed; NaN where it has none.
        reference: What they are compared with.
    """
    second = np.asarray(values, np.float64)
    return _effect(np.full_like(second, reference), second)


def comparisons(frame: DataFrame, by: str, reference: object, metric: str) -> DataFrame:
    """Compare all other cells with one of them.

    Args:
        frame: See :func:`paired`.
        by: The column that tells the cells apart.
        reference: Its value in the cell that the others are compared with.
        metric: The column that is compared.

    Returns:
        A row for each other cell, with ``by`` and the columns ``difference``, ``low``, ``high``, ``p``, ``p_holm`` (for
        that many comparisons), ``seeds`` and ``lost``.
    """
    rows = []
    for value in frame[by].drop_duplicates():
        if value != reference:
            effect = paired(frame, by, reference, value, metric)
            kept = {name: getattr(effect, name) for name in ("difference", "low", "high", "p", "seeds", "lost")}
            rows.append({by: value, **kept})
    found = DataFrame(rows)
    found.insert(found.columns.get_loc("p") + 1, "p_holm", holm(found["p"].to_numpy(float)))
    return found


def _effect(first: np.ndarray, second: np.ndarray) -> Effect:
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    lost = int(len(known) - known.sum())
    if not len(first):
        return Effect(np.nan, np.nan, np.nan, np.nan, 0, lost, np.nan, np.nan)
    found = effects(first[:, None], second[:, None], paired=True).iloc[0]
    difference, low, high, p = (float(found[name]) for name in ("difference", "low", "high", "p"))
    if np.ptp(second - first) < STILL and len(first) > 1:
        # As where all runs of one cell diverge: the interval of the t test has no width then.
        low, high, p = difference, difference, float(abs(difference) < STILL)
    return Effect(difference, low, high, p, len(first), lost, float(first.mean()), float(second.mean()))
