"""Intervals, effect sizes and p values against scipy, closed forms and simulation."""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from mixing_analysis.effects import any_difference, effects, holm, repeated_measures

rng = np.random.default_rng(0)
FIRST, SECOND = rng.normal(0.5, 0.1, (4, 6)), rng.normal(0.6, 0.3, (3, 6))


def test_without_pairs_they_are_welchs():
    found = effects(FIRST, SECOND)
    expected = scipy.stats.ttest_ind(SECOND, FIRST, equal_var=False)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found["difference"], SECOND.mean(0) - FIRST.mean(0))
    np.testing.assert_allclose(found["p"], expected.pvalue, rtol=1e-10)
    np.testing.assert_allclose(found[["low", "high"]].T, [interval.low, interval.high], rtol=1e-10)


def test_with_pairs_they_are_those_of_the_differences():
    found = effects(FIRST[:3], SECOND, paired=True)
    expected = scipy.stats.ttest_rel(SECOND, FIRST[:3])
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found["p"], expected.pvalue, rtol=1e-10)
    np.testing.assert_allclose(found[["low", "high"]].T, [interval.low, interval.high], rtol=1e-10)


def hedges(first, second, unit):
    m = len(first) + len(second) - 2
    bias = math.gamma(m / 2) / (math.sqrt(m / 2) * math.gamma((m - 1) / 2))
    return bias * (second.mean() - first.mean()) / unit


def test_the_effect_is_hedges_g():
    found = effects(FIRST, SECOND)
    for index, own in found.iterrows():
        x, y = FIRST[:, index], SECOND[:, index]
        pooled = math.sqrt((3 * x.var(ddof=1) + 2 * y.var(ddof=1)) / 5)
        assert own["g"] == pytest.approx(hedges(x, y, pooled))
    paired = effects(FIRST[:3], SECOND, paired=True)
    for index, own in paired.iterrows():
        x, y = FIRST[:3, index], SECOND[:, index]
        assert own["g"] == pytest.approx(hedges(x, y, math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)))


def test_at_the_ends_of_its_interval_a_t_as_extreme_comes_with_one_in_forty():
    found, root = effects(FIRST, SECOND), math.sqrt(1 / 4 + 1 / 3)
    t = scipy.stats.ttest_ind(SECOND, FIRST).statistic  # of equal variances, as g is
    np.testing.assert_allclose(scipy.stats.nct.sf(t, 5, found["g_low"] / root), 0.025, rtol=1e-5)
    np.testing.assert_allclose(scipy.stats.nct.cdf(t, 5, found["g_high"] / root), 0.025, rtol=1e-5)


def test_with_pairs_the_interval_is_that_of_algina_and_keselman():
    found = effects(FIRST[:3], SECOND, paired=True)
    difference = SECOND - FIRST[:3]
    t = difference.mean(0) / (difference.std(0, ddof=1) / math.sqrt(3))
    unit = np.sqrt((FIRST[:3].var(0, ddof=1) + SECOND.var(0, ddof=1)) / 2)
    scale = difference.std(0, ddof=1) / math.sqrt(3) / unit
    np.testing.assert_allclose(scipy.stats.nct.sf(t, 2, found["g_low"] / scale), 0.025, rtol=1e-5)
    np.testing.assert_allclose(scipy.stats.nct.cdf(t, 2, found["g_high"] / scale), 0.025, rtol=1e-5)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_intervals_hold_what_is_true_as_often_as_they_say(correlation):
    random, many, truth = np.random.default_rng(1), 4000, 1.5
    shared = random.normal(size=(4, many))
    first, second = (
        math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * random.normal(size=(4, many)) for _ in range(2)
    )
    found = effects(first, second + truth, paired=correlation > 0)
    for low, high, margin in (("low", "high", 0.012), ("g_low", "g_high", 0.012 if not correlation else 0.05)):
        covered = ((found[low] <= truth) & (truth <= found[high])).mean()
        assert covered == pytest.approx(0.95, abs=margin), low
    if not correlation:
        assert found["g"].mean() == pytest.approx(truth, abs=0.05), "g has no bias"


def test_a_single_run_leaves_all_open_but_the_difference():
    found = effects(FIRST[:1], SECOND)
    np.testing.assert_allclose(found["difference"], SECOND.mean(0) - FIRST[0])
    assert found.drop(columns="difference").isna().all(axis=None)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("noise", [1e-3, 1e-6])
def test_hardly_any_noise_takes_no_time(noise, paired):
    first = np.array([[0.0], [1], [3]]) * noise
    found = effects(first, first[[1, 0, 2]] + 1, paired).iloc[0]
    assert 0 < found["g_low"] < found["g"] < found["g_high"]
    # So far from 0 the noise of the mean does not matter, and that of the standard deviation has a closed form.
    freedom = 2 if paired else 4
    limits = np.sqrt(scipy.stats.chi2.ppf([0.025, 0.975], freedom) / freedom)
    unit = np.std([0, 1, 3], ddof=1) * noise
    np.testing.assert_allclose([found["g_low"], found["g_high"]], limits / unit, rtol=2e-3)


@pytest.mark.parametrize("paired", [False, True])
def test_without_any_noise_there_is_nothing_to_measure_by(paired):
    third = np.full((3, 1), 1 / 3)
    for more, runs in ((0.0, 3), (0.2, 3), (0.0, 3 if paired else 5)):
        (own,) = effects(third, np.full((runs, 1), 1 / 3) + more, paired).to_dict("records")
        assert own["difference"] == pytest.approx(more)
        assert own["p"] == 1
        assert np.isnan([own[name] for name in ("low", "high", "g", "g_low", "g_high")]).all()


def test_pairs_find_what_seeds_share():
    seeds = np.array([[0.1], [0.5], [0.9]])
    nearly = seeds + np.array([[0.1], [0.11], [0.09]])
    assert effects(seeds, nearly, paired=True)["p"].item() < 0.01
    assert effects(seeds, nearly)["p"].item() > 0.5


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, np.nan, 0.02])), [0.9, np.nan, 0.04])
    assert holm(np.array([0.5, 0.6])).tolist() == [1, 1]
    assert holm(np.array([])).tolist() == []


def closed_testing(p):
    """Holm's procedure another way: the largest Bonferroni p of all sets of tests that a test is in."""
    found = np.zeros(len(p))
    for mask in range(1, 2 ** len(p)):
        members = [index for index in range(len(p)) if mask >> index & 1]
        bonferroni = min(1, len(members) * min(p[index] for index in members))
        for index in members:
            found[index] = max(found[index], bonferroni)
    return found


def test_holm_is_closed_testing_with_bonferroni():
    for p in np.random.default_rng(2).random((50, 6)) ** 2:
        np.testing.assert_allclose(holm(p), closed_testing(p))


def test_one_of_twenty_networks_without_difference_has_a_layer_with_one():
    random, networks, layers = np.random.default_rng(3), 2000, 12
    # Layers of a network depend on each other, as those that are trained together do.
    shared = random.normal(size=(3, networks, 1)), random.normal(size=(3, networks, 1))
    first, second = (each + random.normal(size=(3, networks, layers)) for each in shared)
    p = effects(first.reshape(3, -1), second.reshape(3, -1))["p"].to_numpy().reshape(networks, layers)
    wrong = np.mean([holm(own).min() < 0.05 for own in p])
    uncorrected = np.mean(p.min(axis=1) < 0.05)
    assert wrong < 0.055
    assert uncorrected > 0.2


def test_labels_that_are_exchanged_are_rejected_no_more_often_than_promised():
    # Of two groups of four there are 70 divisions; under the null each is as likely.
    values = np.random.default_rng(4).normal(size=(8, 10)) + np.random.default_rng(5).normal(size=(8, 1))
    rejected = []
    for chosen in combinations(range(8), 4):
        rest = [index for index in range(8) if index not in chosen]
        rejected.append(holm(effects(values[list(chosen)], values[rest])["p"].to_numpy()).min() < 0.05)
    assert np.mean(rejected) <= 0.06


def test_any_difference_of_two_groups_is_that_of_the_t_test():
    x, y = FIRST[:3, 0], SECOND[:, 0]
    test, p = any_difference([x, y])
    assert (test, p) == ("Welch's t", pytest.approx(scipy.stats.ttest_ind(x, y, equal_var=False).pvalue))
    test, p = any_difference([x, y], paired=True)
    assert (test, p) == ("paired t", pytest.approx(scipy.stats.ttest_rel(x, y).pvalue))


def alexander_govern(groups):
    """The statistic as the paper writes it."""
    means, variances = np.array([g.mean() for g in groups]), np.array([g.var(ddof=1) / len(g) for g in groups])
    weights = 1 / variances / (1 / variances).sum()
    t = (means - (weights * means).sum()) / np.sqrt(variances)
    v = np.array([len(g) - 1 for g in groups])
    a = v - 0.5
    b, c = 48 * a**2, np.sqrt(a * np.log(1 + t**2 / v))
    z = c + (c**3 + 3 * c) / b - (4 * c**7 + 33 * c**5 + 240 * c**3 + 855 * c) / (10 * b**2 + 8 * b * c**4 + 1000 * b)
    return scipy.stats.chi2.sf((z**2).sum(), len(groups) - 1)


def test_any_difference_of_more_groups():
    groups = [FIRST[:, 0], SECOND[:, 0] + 0.5, SECOND[:, 1]]
    test, p = any_difference(groups)
    assert test == "Alexander-Govern"
    assert p == pytest.approx(alexander_govern(groups))


def greenhouse_geisser(groups):
    """Sums of squares as textbooks have them, and the correction from the covariance of orthonormal contrasts."""
    values = np.array(groups).T
    runs, k = values.shape
    mean, of_seeds, of_groups = values.mean(), values.mean(1, keepdims=True), values.mean(0)
    between = runs * ((of_groups - mean) ** 2).sum() / (k - 1)
    error = ((values - of_seeds - of_groups + mean) ** 2).sum() / ((k - 1) * (runs - 1))
    contrasts = scipy.linalg.helmert(k)
    eigenvalues = np.linalg.eigvalsh(contrasts @ np.cov(values.T) @ contrasts.T)
    epsilon = eigenvalues.sum() ** 2 / ((k - 1) * (eigenvalues**2).sum())
    return scipy.stats.f.sf(between / error, epsilon * (k - 1), epsilon * (k - 1) * (runs - 1))


@pytest.mark.parametrize(("runs", "groups"), [(2, 3), (3, 3), (3, 6), (5, 4)])
def test_any_difference_of_more_groups_in_pairs(runs, groups):
    paired = [*np.random.default_rng(6).normal(size=(groups, runs))]
    test, p = any_difference(paired, paired=True)
    assert test == "repeated measures"
    assert p == pytest.approx(greenhouse_geisser(paired))


def test_of_two_groups_repeated_measures_are_the_paired_t():
    expected = scipy.stats.ttest_rel(FIRST[:3, 0], SECOND[:, 0]).pvalue
    assert repeated_measures(np.stack([FIRST[:3, 0], SECOND[:, 0]], 1)) == pytest.approx(expected)


@pytest.mark.parametrize("spread", [[1, 1, 1], [1, 1, 5]])
def test_three_seeds_of_three_groups_are_told_apart_but_not_where_there_is_nothing(spread):
    random, many = np.random.default_rng(7), 2000
    none = random.normal(size=(many, 3, 3)) * spread + random.normal(size=(many, 3, 1))
    assert np.mean([repeated_measures(own) < 0.05 for own in none]) < 0.06
    clear = random.normal(np.array([0, 8, 16]), 1, (200, 3, 3))
    assert np.mean([3 * repeated_measures(own) < 0.05 for own in clear]) > 0.9, "corrected over three measures"


@pytest.mark.parametrize("paired", [False, True])
def test_groups_without_noise_have_no_answer(paired):
    assert np.isnan(any_difference([np.full(3, 1 / 3)] * 3, paired)[1])
