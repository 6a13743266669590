"""How sure a difference between two groups of numbers is: its interval, its size, its p value."""

from collections.abc import Sequence

import numpy as np
from pandas import DataFrame
from scipy import special, stats

CONFIDENCE = 0.95

ALPHA = 0.05
"""A difference whose corrected p value is smaller is a finding."""

STILL = 1e-9
"""Standard deviations and differences that are smaller are rounding errors of zero."""


FAR = 300.0
"""Beyond this t, which scipy takes hours for, the noncentrality is proportional to it, to a part in a thousand."""


def effects(first: np.ndarray, second: np.ndarray, paired: bool = False) -> DataFrame:
    r"""Compare two groups of runs in each of several quantities, such as the means of layers.

    Without pairs the interval and the p value are Welch's, for seeds that vary more in one group than in the other:

    .. math::
        t = \frac{\bar x_2 - \bar x_1}{s}, \qquad s^2 = \frac{s_1^2}{n_1} + \frac{s_2^2}{n_2}, \qquad
        \nu = \frac{s^4}{\frac{(s_1^2 / n_1)^2}{n_1 - 1} + \frac{(s_2^2 / n_2)^2}{n_2 - 1}}

    With pairs they are those of the :math:`n` differences, with :math:`s^2 = s_d^2 / n` and :math:`\nu = n - 1`.

    The size of the effect is Hedges' g, the difference in standard deviations between seeds, without the bias of few
    runs, with :math:`m = n_1 + n_2 - 2`:

    .. math::
        g = \frac{\Gamma(m / 2)}{\sqrt{m / 2}\; \Gamma((m - 1) / 2)} \cdot \frac{\bar x_2 - \bar x_1}{u}

    Without pairs :math:`u` is the pooled standard deviation. The interval of g holds the noncentralities for which a t
    as large, or as small, comes with 2.5 %, times :math:`\sqrt{1 / n_1 + 1 / n_2}`: it is exact for normal values of
    equal variance. With pairs :math:`u^2 = (s_1^2 + s_2^2) / 2`, so that g means the same as without (it is
    :math:`g_{av}`, not :math:`d_z`), and the interval is that of Algina and Keselman, the noncentralities of the paired
    t times :math:`s_d / (u \sqrt n)`, which is approximate.

    Args:
        first: Shape (n1, quantities).
        second: Shape (n2, quantities); with pairs, n2 = n1, and equal rows belong together.
        paired: Whether they do.

    Returns:
        A row for each quantity, with the columns ``difference`` (second minus first), ``low`` and ``high`` (its 95 %
        interval), ``g``, ``g_low``, ``g_high`` and ``p``. All but the difference are NaN if a group has a single run.
        Where no seed makes any difference there is nothing to measure the difference by: p is 1, the interval and g are
        NaN. So it is where few channels have the same share near an end in all runs, by chance.

    Source:
        Welch, The generalization of Student's problem when several different population variances are involved,
        Biometrika 1947; Hedges, Distribution theory for Glass's estimator of effect size and related estimators,
        Journal of Educational Statistics 1981; Algina and Keselman, Approximate confidence intervals for effect sizes,
        Educational and Psychological Measurement 2003; Lakens, Calculating and reporting effect sizes, Frontiers in
        Psychology 2013.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    counts = len(first), len(second)
    difference = second.mean(0) - first.mean(0)
    found = DataFrame({"difference": difference})
    if min(counts) < 2:
        return found.assign(**dict.fromkeys(("low", "high", "g", "g_low", "g_high", "p"), np.nan))
    powers = first.var(0, ddof=1), second.var(0, ddof=1)
    size = sum(counts) - 2
    unit = np.sqrt(((counts[0] - 1) * powers[0] + (counts[1] - 1) * powers[1]) / size)
    if paired:
        error = error_of_size = (second - first).std(0, ddof=1) / np.sqrt(counts[0])
        freedom = freedom_of_size = np.full_like(error, counts[0] - 1)
    else:
        of_means = powers[0] / counts[0], powers[1] / counts[1]
        error = np.sqrt(of_means[0] + of_means[1])
        # Without any variance the degrees of freedom do not matter, but 0 / 0 would.
        parts = of_means[0] ** 2 / (counts[0] - 1) + of_means[1] ** 2 / (counts[1] - 1)
        freedom = np.divide(error**4, parts, out=np.ones_like(error), where=error > STILL)
        error_of_size, freedom_of_size = unit * np.sqrt(1 / counts[0] + 1 / counts[1]), np.full_like(error, size)
    known, moved = np.where(error > STILL, error, np.nan), np.where(unit > STILL, unit, np.nan)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * known
    p = np.nan_to_num(2 * stats.t.sf(np.abs(difference / known), freedom), nan=1.0)
    t = difference / np.where(error_of_size > STILL, error_of_size, np.nan)
    g_low, g_high = (_noncentrality(t, freedom_of_size, share) * error_of_size / moved for share in (0.975, 0.025))
    g = special.poch((size - 1) / 2, 0.5) / np.sqrt(size / 2) * difference / moved
    return found.assign(low=difference - half, high=difference + half, g=g, g_low=g_low, g_high=g_high, p=p)


def _noncentrality(t: np.ndarray, freedom: np.ndarray, share: float) -> np.ndarray:
    """Return the noncentralities for which smaller values of t come with this probability."""
    near = np.clip(t, -FAR, FAR)
    found: np.ndarray = special.nctdtrinc(freedom, share, near) * np.divide(
        t, near, out=np.ones_like(t), where=near != 0
    )
    return found


def holm(p: np.ndarray) -> np.ndarray:
    """Correct the p values of several tests, so that one error among all of them is as rare as in a single test.

    The i-th smallest of m is multiplied by m - i + 1, and is at least as large as those before it.

    Args:
        p: Shape (m,); NaN where there was no test.

    Returns:
        The corrected values, at most 1; NaN where ``p`` is.

    Source:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
    """
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


def any_difference(groups: Sequence[np.ndarray], paired: bool = False) -> tuple[str, float]:
    """Test whether groups of runs differ at all in a number, such as the mean over a network.

    Args:
        groups: The numbers of two groups or more, of two runs each at least.
        paired: Whether the runs at the same place belong together.

    Returns:
        The name of the test, and p: of two groups Welch's or the paired t test; of more the test of Alexander and
        Govern, which allows for different variances, or with pairs :func:`repeated_measures`. p is NaN where they say
        nothing: of more than two groups, if some group has no variance, or with pairs, if no seed makes any difference.

    Source:
        Alexander and Govern, A new and simpler approximation for ANOVA under variance heterogeneity, Journal of
        Educational Statistics 1994.
    """
    if len(groups) == 2:
        found = effects(groups[0][:, None], groups[1][:, None], paired)
        return "paired t" if paired else "Welch's t", float(found["p"].iloc[0])
    if paired:
        return "repeated measures", repeated_measures(np.stack(groups, 1))
    same = any(values.std() < STILL for values in groups)
    return "Alexander-Govern", np.nan if same else float(stats.alexandergovern(*groups).pvalue)


def repeated_measures(values: np.ndarray) -> float:
    r"""Return the p value of the analysis of variance with repeated measures, corrected by Greenhouse and Geisser.

    With :math:`n` seeds, :math:`k` groups and :math:`S`, the covariance of the groups after the mean of each seed is
    taken away:

    .. math::
        F = \frac{n \sum_j (\bar x_j - \bar x)^2}{\operatorname{tr} S}, \qquad
        \varepsilon = \frac{(\operatorname{tr} S)^2}{(k - 1) \operatorname{tr} S^2}, \qquad
        \nu_1 = \varepsilon (k - 1), \quad \nu_2 = \nu_1 (n - 1)

    A test of ranks, such as Friedman's, would find nothing in three or four seeds, however large the differences are.

    Args:
        values: Shape (n, k): those of a seed are a row.

    Returns:
        p, or NaN where no seed makes any difference.

    Source:
        Greenhouse and Geisser, On methods in the analysis of profile data, Psychometrika 1959.
    """
    runs = len(values)
    centered = values - values.mean(1, keepdims=True)
    means = centered.mean(0)
    covariance = (centered - means).T @ (centered - means) / (runs - 1)
    power = float(np.trace(covariance))
    if power < STILL**2:
        return float("nan")
    first = power**2 / np.sum(covariance**2)
    return float(stats.f.sf(runs * np.sum(means**2) / power, first, first * (runs - 1)))
