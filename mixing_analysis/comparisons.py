"""How runs compare: the values of a layer beside its gamma, and groups of runs beside each other."""

import math

import numpy as np
import pandas as pd
from pandas import DataFrame

from mixing_analysis.kinds import GAMMA, LOGGED
from mixing_analysis.values import at_last_step, numbered
from norms.kinds import MixingKind

CONFIDENCE = 0.95


def correlations(table: DataFrame, kind: MixingKind) -> DataFrame:
    """Correlate the values of a kind with gamma, over the channels of each layer, where a checkpoint has both.

    Args:
        table: Any rows of the table.
        kind: Which values.

    Returns:
        The columns run, group, step, layer, depth, ``count`` and ``pearson``, ``spearman`` (with gamma),
        ``pearson_abs``, ``spearman_abs`` (with its absolute value); NaN where one of the two is constant.
    """
    by = ["run", "group", "step", "layer", "depth"]
    columns = [*by, "channel", "value"]
    gammas = table.loc[table["kind"] == GAMMA, columns]
    gates = table.loc[(table["kind"] == kind.name) & table["step"].isin(gammas["step"].unique()), columns]
    pairs = gates.merge(gammas, on=[*by, "channel"], suffixes=("", "_gamma")).rename(columns={"value_gamma": "gamma"})
    pairs = pairs.dropna(subset=["value", "gamma"]).astype({"value": np.float64, "gamma": np.float64})
    pairs["absolute"] = pairs["gamma"].abs()
    codes, result = numbered(pairs, by)
    ranks = pairs.groupby(codes)[["value", "gamma", "absolute"]].rank()
    result["count"] = np.bincount(codes, minlength=len(result))
    for measure, values in (("pearson", pairs), ("spearman", ranks)):
        for name, column in ((measure, "gamma"), (f"{measure}_abs", "absolute")):
            result[name] = _correlate(codes, values["value"].to_numpy(), values[column].to_numpy(), len(result))
    return result


def _correlate(codes: np.ndarray, x: np.ndarray, y: np.ndarray, groups: int) -> np.ndarray:
    count = np.maximum(np.bincount(codes, minlength=groups), 1)

    def center(values: np.ndarray) -> np.ndarray:
        centered: np.ndarray = values - (np.bincount(codes, values, minlength=groups) / count)[codes]
        return centered

    x, y = center(x), center(y)
    products, powers_x, powers_y = (np.bincount(codes, w, minlength=groups) for w in (x * y, x * x, y * y))
    constant = np.minimum(powers_x, powers_y) <= 1e-12 * count
    correlated: np.ndarray = np.clip(products / np.where(constant, np.nan, np.sqrt(powers_x * powers_y)), -1, 1)
    return correlated


def layer_values(table: DataFrame) -> DataFrame:
    """Reduce each layer to a number for each of its kinds: the mean of its channels, or each of its weights.

    Returns:
        The columns run, group, step, layer, depth, kind, statistic and value (float64).
    """
    by = ["run", "group", "step", "layer", "depth", "kind"]
    columns = [*by, "statistic", "value"]
    gates = table.loc[table["channel"].notna() & (table["kind"] != GAMMA) & table["value"].notna(), [*by, "value"]]
    codes, means = numbered(gates, by)
    means["value"] = np.bincount(codes, gates["value"]) / np.bincount(codes)
    means["statistic"] = pd.Series(index=means.index, dtype=table["statistic"].dtype)
    weights = table.loc[table["statistic"].notna(), columns].astype({"value": np.float64})
    summary = weights["kind"].astype(str).str.endswith(LOGGED)
    logged = weights[summary & (weights["statistic"] == "mean")]
    names = {name: name.removesuffix(LOGGED) for name in table["kind"].cat.categories}
    kinds = pd.Categorical(logged["kind"].map(names), table["kind"].cat.categories)
    logged = logged.assign(kind=kinds, statistic=pd.Series(index=logged.index, dtype=table["statistic"].dtype))
    return pd.concat([means[columns], logged, weights[~summary]], ignore_index=True)


def over_seeds(table: DataFrame) -> DataFrame:
    """Fold the runs of each group, the seeds, into mean and spread.

    Returns:
        The columns group, step, layer, depth, kind, statistic, ``runs`` (how many), ``mean`` and ``std`` (unbiased
        variance, NaN for a single run) of :func:`layer_values` over the runs.
    """
    by = ["group", "step", "layer", "depth", "kind", "statistic"]
    grouped = layer_values(table).groupby(by, observed=True, sort=False, dropna=False)["value"]
    return grouped.agg(runs="count", mean="mean", std="std").reset_index()


def differences(table: DataFrame, first: str, second: str) -> DataFrame:
    r"""Compare two groups of runs at the last steps, layer by layer, with the uncertainty of their seeds.

    The interval is Welch's, for seeds that vary more in one group than in the other:

    .. math::
        \bar x_2 - \bar x_1 \pm t_{0.975, \nu} \sqrt{\frac{s_1^2}{n_1} + \frac{s_2^2}{n_2}}, \qquad
        \nu = \frac{(s_1^2 / n_1 + s_2^2 / n_2)^2}{\frac{(s_1^2 / n_1)^2}{n_1 - 1} + \frac{(s_2^2 / n_2)^2}{n_2 - 1}}

    It holds for each layer by itself: of twenty layers without any difference, one is expected to show one.

    Args:
        table: The table.
        first: Name of a group.
        second: Name of the group it is compared with.

    Returns:
        The columns layer, depth, kind, statistic, ``runs_first``, ``runs_second``, ``mean_first``, ``mean_second``,
        ``difference`` (second minus first), ``low`` and ``high`` (the 95 % interval, NaN if a group has a single run),
        for the layers that both groups have.

    Source:
        Welch, The generalization of Student's problem when several different population variances are involved,
        Biometrika 1947.
    """
    folded = over_seeds(at_last_step(table).assign(step=0)).drop(columns="step")
    by = ["layer", "depth", "kind", "statistic"]
    pairs = folded[folded["group"] == first].merge(
        folded[folded["group"] == second], on=by, suffixes=("_first", "_second")
    )
    of_mean = [pairs[f"std_{group}"] ** 2 / pairs[f"runs_{group}"] for group in ("first", "second")]
    variance = of_mean[0] + of_mean[1]
    summands = (of_mean[0] ** 2 / (pairs["runs_first"] - 1), of_mean[1] ** 2 / (pairs["runs_second"] - 1))
    # Without any variance the degrees of freedom do not matter, but 0 / 0 would.
    freedom = (variance**2 / (summands[0] + summands[1])).where(variance != 0, 1.0)
    half = student(freedom.to_numpy(), CONFIDENCE) * np.sqrt(variance)
    pairs["difference"] = pairs["mean_second"] - pairs["mean_first"]
    pairs["low"], pairs["high"] = pairs["difference"] - half, pairs["difference"] + half
    sides = ["runs_first", "runs_second", "mean_first", "mean_second"]
    return pairs[[*by, *sides, "difference", "low", "high"]]


def student(freedom: np.ndarray, confidence: float) -> np.ndarray:
    r"""Find the half width of the symmetric interval that holds a share of Student's distribution.

    It is :math:`\sqrt\nu \tan\theta`, where :math:`\theta` has the density :math:`\cos^{\nu - 1}\theta` on
    :math:`[0, \pi / 2)`. Newton's method comes from the left to where the integral, by Gauss and Legendre, is that
    share.

    Args:
        freedom: Degrees of freedom, at least 1; any shape of one dimension.
        confidence: The share, in (0, 1).

    Returns:
        The quantiles at (1 + confidence) / 2; NaN where the freedom is.
    """
    nodes, weights = np.polynomial.legendre.leggauss(40)
    log_gamma = np.vectorize(math.lgamma, otypes=[float])
    whole = math.sqrt(math.pi) / 2 * np.exp(log_gamma(freedom / 2) - log_gamma((freedom + 1) / 2))
    power, angle = freedom - 1, np.zeros_like(freedom)
    for _ in range(12):
        within = angle / 2 * (np.cos(np.multiply.outer(angle, (nodes + 1) / 2)) ** power[:, None] @ weights)
        angle = angle + (confidence * whole - within) / np.cos(angle) ** power
    quantile: np.ndarray = np.sqrt(freedom) * np.tan(angle)
    return quantile
