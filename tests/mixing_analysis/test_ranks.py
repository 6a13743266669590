"""Spearman's correlation and its interval."""

import numpy as np
import pandas as pd
import pytest

from mixing_analysis.ranks import spearman


@pytest.mark.parametrize("n", [5, 12, 200])
def test_it_is_that_of_pandas_and_of_the_formula(n):
    random = np.random.default_rng(n)
    x = random.normal(size=n).round(1)
    y = x + random.normal(size=n)
    found = spearman(x, y)
    r = pd.Series(x).corr(pd.Series(y), method="spearman")
    assert found.r == pytest.approx(r)
    assert found.n == n
    half = 1.959964 * np.sqrt((1 + r * r / 2) / (n - 3))
    assert np.arctanh([found.low, found.high]) == pytest.approx([np.arctanh(r) - half, np.arctanh(r) + half], rel=1e-5)


def test_its_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    normal = random.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=(400, 40))
    truth = 6 / np.pi * np.arcsin(0.3)  # of normal pairs with Pearson's 0.6
    found = [spearman(*pairs.T) for pairs in normal]
    assert 0.92 < np.mean([each.low < truth < each.high for each in found]) < 0.98


@pytest.mark.parametrize(("x", "n"), [([1, 1, 1, 1, 1, 1], 6), ([1, 2, 3, 4, np.nan, np.nan], 4)])
def test_nothing_is_said_of_few_pairs_or_constants(x, n):
    found = spearman(np.array(x, float), np.arange(6.0))
    assert found.n == n
    assert np.isnan([found.r, found.low, found.high, found.p]).all()
    assert str(found) == f"n = {n}"
    assert not found.is_clear


def test_a_perfect_order_has_an_interval():
    found = spearman(np.arange(8.0), np.arange(8.0) ** 3)
    assert found.r == pytest.approx(1)
    assert 0 < found.low <= found.high <= 1
    assert found.is_clear
