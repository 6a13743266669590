"""Verdicts, against textbook formulas and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from scipy import stats

from experiments.summaries import mean_text, summary
from experiments.verdicts import (
    CONTRADICTED,
    HOLDS,
    UNDECIDED,
    against,
    comparisons,
    decide,
    decide_alike,
    paired,
    together,
)

NAN = float("nan")
numbers = st.floats(-10, 10)


@pytest.mark.parametrize(
    ("low", "high", "claimed", "margin", "verdict"),
    [
        (0.1, 0.5, 1, 0.0, HOLDS),
        (0.1, 0.5, -1, 0.0, CONTRADICTED),
        (-0.1, 0.5, 1, 0.0, UNDECIDED),
        (-0.5, -0.1, 1, 0.0, CONTRADICTED),
        (-0.5, -0.1, -1, 0.0, HOLDS),
        (0.1, 0.5, 1, 0.2, UNDECIDED),
        (0.1, 0.5, 1, 0.6, CONTRADICTED),
        (-0.5, -0.3, -1, 0.2, HOLDS),
        (NAN, NAN, 1, 0.0, UNDECIDED),
    ],
)
def test_a_claim_is_decided_by_where_the_interval_is(low, high, claimed, margin, verdict):
    assert decide(low, high, claimed, margin) == verdict


@given(numbers, numbers, st.floats(0, 5))
def test_the_two_sides_are_mirror_images(first, second, margin):
    low, high = sorted((first, second))
    assert decide(low, high, 1, margin) == decide(-high, -low, -1, margin)
    assert decide_alike(low, high, margin) == decide_alike(-high, -low, margin)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.1, 0.1, HOLDS),
        (0.3, 0.5, CONTRADICTED),
        (-0.5, -0.3, CONTRADICTED),
        (0.1, 0.3, UNDECIDED),
        (NAN, NAN, UNDECIDED),
    ],
)
def test_no_difference_is_one_within_the_margin(low, high, verdict):
    assert decide_alike(low, high, 0.2) == verdict


def test_a_claim_of_several_parts():
    assert together([HOLDS, HOLDS]) == HOLDS
    assert together([HOLDS, UNDECIDED]) == UNDECIDED
    assert together([HOLDS, UNDECIDED, CONTRADICTED]) == CONTRADICTED
    assert together([]) == UNDECIDED


def cells(first, second):
    rows = [("none", seed, value) for seed, value in enumerate(first)]
    rows += [("batch", seed, value) for seed, value in enumerate(second)][::-1]
    return DataFrame(rows, columns=["norm", "seed", "accuracy"]).assign(state="finished")


def test_seeds_are_paired_as_the_t_test_of_scipy_does():
    first, second = [0.5, 0.6, 0.9, 0.7], [0.7, 0.75, 1.0, 0.95]
    effect = paired(cells(first, second), "norm", "none", "batch", "accuracy")
    test = stats.ttest_rel(second, first)
    interval = test.confidence_interval(0.95)
    assert (effect.difference, effect.p) == pytest.approx((np.mean(second) - np.mean(first), test.pvalue))
    assert (effect.low, effect.high) == pytest.approx((interval.low, interval.high))
    assert (effect.seeds, effect.lost, effect.first, effect.second) == (4, 0, pytest.approx(0.675), pytest.approx(0.85))
    assert effect.verdict(1) == HOLDS
    assert effect.text("+.3f") == f"+0.175 (95 % interval {interval.low:+.3f} to {interval.high:+.3f}), 4 seeds"


def test_a_seed_without_a_number_is_lost_and_counted():
    effect = paired(cells([0.5, NAN, 0.9], [0.7, 0.8, 1.0, 0.9]), "norm", "none", "batch", "accuracy")
    assert (effect.seeds, effect.lost) == (2, 2)
    assert effect.text().endswith("2 seeds, 2 more without a number")
    nothing = paired(cells([], [0.7, 0.8]), "norm", "none", "batch", "accuracy")
    assert (nothing.seeds, nothing.verdict(1), nothing.text()) == (0, UNDECIDED, "no seed of 2 has both numbers")
    single = paired(cells([0.5], [0.7]), "norm", "none", "batch", "accuracy")
    assert (single.verdict(1), single.text("+.1f")) == (UNDECIDED, "+0.2, 1 seed")


def test_seeds_that_all_differ_by_the_same_decide():
    effect = paired(cells([0.1] * 3, [0.9] * 3), "norm", "none", "batch", "accuracy")
    assert (effect.low, effect.high, effect.p) == (pytest.approx(0.8), pytest.approx(0.8), 0.0)
    same = paired(cells([0.1, 0.2], [0.1, 0.2]), "norm", "none", "batch", "accuracy")
    assert (same.verdict(1), decide_alike(same.low, same.high, 0.01), same.p) == (UNDECIDED, HOLDS, 1.0)


def test_two_runs_of_a_seed_are_a_mistake():
    frame = cells([0.5, 0.6], [0.7, 0.8]).assign(seed=0)
    with pytest.raises(ValueError, match="one run of each seed"):
        paired(frame, "norm", "none", "batch", "accuracy")


def test_numbers_are_compared_with_a_known_one_as_the_t_test_of_scipy_does():
    values = [0.2, 0.3, 0.5]
    effect = against(values, 0.1)
    test = stats.ttest_1samp(values, 0.1)
    low, high = test.confidence_interval(0.95)
    assert (effect.difference, effect.low, effect.high) == pytest.approx((np.mean(values) - 0.1, low - 0.1, high - 0.1))


def test_several_comparisons_are_corrected():
    frame = cells([0.5, 0.6, 0.9], [0.7, 0.75, 1.0])
    more = frame[frame["norm"] == "batch"].assign(norm="layer", accuracy=[0.3, 0.9, 0.5])
    found = comparisons(DataFrame([*frame.to_dict("records"), *more.to_dict("records")]), "norm", "none", "accuracy")
    assert found["norm"].tolist() == ["batch", "layer"]
    smallest = found["p"].idxmin()
    assert found["p_holm"][smallest] == pytest.approx(2 * found["p"][smallest])


def test_cells_are_summed_up():
    frame = cells([0.5, 0.6], [0.7, NAN])
    rows = summary(frame, ["norm"], {"accuracy": ".2f"})
    assert rows.to_dict("list") == {"norm": ["none", "batch"], "accuracy": ["0.55 ± 0.07 (n=2)", "0.70 (n=1)"]}
    frame.loc[3, "state"] = "diverged"
    assert summary(frame, ["norm"], {})["diverged"].tolist() == [0, 1]
    assert mean_text([NAN]) == "\N{EN DASH}"
    assert mean_text([0.5, 0.7], ".0%") == "60% ± 14% (n=2)"
