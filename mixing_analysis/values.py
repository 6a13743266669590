"""The learned mixing values of runs as one tidy table, and what is computed from it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.csv
from pandas import CategoricalDtype, DataFrame
from scipy.special import stdtrit

from norms.kinds import STATISTICS

COLUMNS = ("run", "group", "step", "layer", "depth", "channel", "kind", "statistic", "value")
"""The columns of the table: one row a value.

``run``, ``group`` and ``layer`` are categorical; layers are named as in the log, with their depth in front. ``step``
(int64) counts optimizer steps. ``depth`` (int32) counts the mixing layers of the network from 0. ``channel`` (Int32)
is there for what a layer has in every channel. ``kind`` and ``statistic`` are categorical, see :data:`KINDS`; ``value``
(float32) is the effective value, never a logit.
"""

LAYER_SUMMARY = ("mean", "min", "max", "std", "share_below_0.1", "share_above_0.9")

KINDS: Mapping[str, tuple[str, ...] | None] = {
    "rho": None,
    "gamma": None,
    "mean_weight": STATISTICS,
    "var_weight": STATISTICS,
    "rho_summary": LAYER_SUMMARY,
}
"""The kinds of values, each with the statistics that it has one value of, or None if it has one for every channel.

``rho`` and ``gamma`` (the norm's ``weight``, from checkpoints only) are those of channels, ``mean_weight`` and
``var_weight`` the shares of instance, layer and batch statistics. ``rho_summary`` stands for the channels of a layer
where their source knows no more of them than the log's summary, as the history of W&B does.
"""

PUBLISHED_SHARES = {"share_below_0.1": 0.10, "share_above_0.9": 0.72}
"""About how many gates a trained network has near either end (Nam & Kim 2018, figure 2: in [0, 0.1] and [0.9, 1])."""

SUMMARY = ("count", "mean", "std", "min", "q25", "median", "q75", "max", "share_below_0.1", "share_above_0.9")

BIMODAL = 5 / 9
"""Sarle's coefficient of the uniform distribution; above it a distribution has two peaks, or is strongly skewed."""

THIRDS = ("first", "middle", "last")

CONFIDENCE = 0.95

Values = Mapping[str, np.ndarray]
"""What a network holds at one step: from ``<layer>/<kind>`` to the values, in the network's order."""


@dataclass(frozen=True)
class Run:
    """What was read of one run.

    Attributes:
        name: What the run is called, different for each.
        source: Where it was read, as the user named it.
        frame: Its rows of the table, without the columns ``run`` and ``group``.
        group: The runs that are averaged with it, itself if none are.
        config: The settings it was trained with, if they are known.
        checkpoint: The file that its weights are in, if there is one.
        notes: What the reader of the numbers should know of how they were read, a line each.
    """

    name: str
    source: str
    frame: DataFrame
    group: str = ""
    config: Mapping[str, Any] | None = None
    checkpoint: Path | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def steps(self) -> list[int]:
        """The steps of which there are values, in order."""
        return sorted(self.frame["step"].unique().tolist())

    @cached_property
    def architecture(self) -> dict[str, int | None]:
        """From each layer to its number of gates: 0 for switch weights, None where only a summary is known."""
        mixing = self.frame[self.frame["kind"] != "gamma"]
        gates: dict[str, int | None] = {}
        for (layer, kind), channels in mixing.groupby(["layer", "kind"], observed=True)["channel"]:
            known = None if channels.isna().all() else int(channels.max()) + 1
            gates[layer] = gates.get(layer) or (known if kind in ("rho", "rho_summary") else 0)
        return gates


def frame(steps: Mapping[int, Values]) -> DataFrame:
    """Put the values of one run into rows.

    Args:
        steps: From the step to what the network holds then; at least one.

    Returns:
        The columns of :data:`COLUMNS` but ``run`` and ``group``, ordered by step, layer and kind.
    """
    layers = list(dict.fromkeys(key.rpartition("/")[0] for step in sorted(steps) for key in steps[step]))
    statistics = list(dict.fromkeys(name for names in KINDS.values() for name in names or ()))
    layouts: dict[tuple[tuple[str, int], ...], tuple[np.ndarray, ...]] = {}
    parts = []
    for step in sorted(steps):
        signature = tuple((key, len(array)) for key, array in steps[step].items())
        if signature not in layouts:
            layouts[signature] = _layout(signature, layers, statistics)
        parts.append((step, layouts[signature], np.concatenate([*steps[step].values()])))
    layer, kind, statistic, channel = (
        np.concatenate([layout[column] for _, layout, _ in parts]) for column in range(4)
    )
    lengths = [len(values) for _, _, values in parts]
    return DataFrame(
        {
            "step": np.repeat(np.array([step for step, _, _ in parts], np.int64), lengths),
            "layer": pd.Categorical.from_codes(layer, layers),
            "depth": layer,
            "channel": pd.arrays.IntegerArray(np.maximum(channel, 0), channel < 0),
            "kind": pd.Categorical.from_codes(kind, list(KINDS)),
            "statistic": pd.Categorical.from_codes(statistic, statistics),
            "value": np.concatenate([values for _, _, values in parts]).astype(np.float32),
        }
    )


def _layout(
    signature: Iterable[tuple[str, int]], layers: Sequence[str], statistics: Sequence[str]
) -> tuple[np.ndarray, ...]:
    """Codes of layer, kind and statistic, and the channel, of every value of a step; -1 is none."""
    columns: list[list[np.ndarray]] = [[] for _ in range(4)]
    for key, count in signature:
        layer, _, kind = key.rpartition("/")
        names = KINDS[kind]
        none = np.full(count, -1, np.int32)
        values = (
            np.full(count, layers.index(layer), np.int32),
            np.full(count, list(KINDS).index(kind), np.int32),
            none if names is None else np.array([statistics.index(name) for name in names], np.int32),
            np.arange(count, dtype=np.int32) if names is None else none,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return tuple(np.concatenate(column) for column in columns)


def combine(runs: Sequence[Run]) -> DataFrame:
    """Put the values of all runs into one table, see :data:`COLUMNS`."""
    layers = CategoricalDtype(list(dict.fromkeys(name for run in runs for name in run.frame["layer"].cat.categories)))
    names, groups = [run.name for run in runs], list(dict.fromkeys(run.group for run in runs))
    lengths = [len(run.frame) for run in runs]
    table = pd.concat([run.frame.assign(layer=run.frame["layer"].astype(layers)) for run in runs], ignore_index=True)
    table["run"] = pd.Categorical.from_codes(np.repeat(np.arange(len(runs)), lengths), names)
    group_codes = [groups.index(run.group) for run in runs]
    table["group"] = pd.Categorical.from_codes(np.repeat(group_codes, lengths), groups)
    return table[list(COLUMNS)]


def write_csv(table: DataFrame, path: Path) -> None:
    """Write the table as text; every value has as many digits as tell it from all others of float32."""
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    pyarrow.csv.write_csv(pyarrow.Table.from_pandas(table, preserve_index=False), path, options)


def at_last_step(table: DataFrame) -> DataFrame:
    """The rows of the last step at which each run has mixing values."""
    steps = table["step"].where(table["kind"] != "gamma", -1)
    return table[table["step"] == steps.groupby(table["run"], observed=True).transform("max")]


def with_thirds(table: DataFrame) -> DataFrame:
    """Add the column ``third``: which of :data:`THIRDS` of its network, by depth, a layer lies in."""
    layers = table["depth"].groupby(table["run"], observed=True).transform("max") + 1
    codes = (3 * table["depth"] // layers).to_numpy()
    return table.assign(third=pd.Categorical.from_codes(codes, list(THIRDS), ordered=True))


def summaries(table: DataFrame, by: Sequence[str] = ("run", "group", "step", "layer", "depth")) -> DataFrame:
    """Summarize the gates rho, by default of each layer at each step.

    Args:
        table: Any rows of the table.
        by: The columns that tell apart what is summarized.

    Returns:
        The columns ``by``, then those of :data:`SUMMARY` (``std`` is biased, quartiles are interpolated linearly) and
        ``bimodality``, see :func:`bimodality`. NaNs are left out. Where only the log's summary of a layer is known,
        ``count`` is 0 and the columns that it lacks are NaN; of several such layers, the mean and the shares are
        averaged with equal weights, and all else is NaN.
    """
    gates = table.loc[(table["kind"] == "rho") & table["value"].notna(), [*by, "value"]]
    codes, keys = _groups(gates, by)
    known = pd.concat([keys, _describe(codes, gates["value"].to_numpy(), len(keys))], axis=1)
    logged = table[table["kind"] == "rho_summary"]
    if logged.empty:
        return known
    means = logged.groupby([*by, "statistic"], observed=True, sort=False)["value"].mean().unstack("statistic")
    if "layer" not in by:
        means[["min", "max", "std"]] = np.nan
    columns = means.rename_axis(columns=None).reset_index().assign(count=0)
    both = pd.concat([known, columns], ignore_index=True).drop_duplicates(list(by))
    return both.sort_values(list(by), ignore_index=True)


def _groups(table: DataFrame, by: Sequence[str]) -> tuple[np.ndarray, DataFrame]:
    """Number the combinations of the columns ``by``: of each row its number, and of each number its combination.

    As pandas' ``groupby(...).ngroup()`` does, in a tenth of the time.
    """
    codes = np.zeros(len(table), np.int64)
    for name in by:
        column = table[name]
        categorical = isinstance(column.dtype, CategoricalDtype)
        own = column.cat.codes.to_numpy() if categorical else pd.factorize(column)[0]
        codes = pd.factorize(codes * (int(own.max(initial=0)) + 2) + own + 1)[0]
    first = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
    first[codes[::-1]] = np.arange(len(table))[::-1]
    return codes, table[list(by)].iloc[first].reset_index(drop=True)


def _describe(codes: np.ndarray, values: np.ndarray, groups: int) -> DataFrame:
    count = np.bincount(codes, minlength=groups)

    def average(numbers: np.ndarray) -> np.ndarray:
        return np.bincount(codes, numbers, minlength=groups) / count

    mean = average(values)
    centered = values - mean[codes]
    squared = centered * centered
    second, third, fourth = (average(power) for power in (squared, squared * centered, squared * squared))
    del centered, squared
    ordered = values[np.lexsort((values, codes))]
    first = np.cumsum(count) - count

    def quantile(share: float) -> np.ndarray:
        place = share * (count - 1)
        lower = np.floor(place).astype(np.int64)
        upper = np.minimum(lower + 1, count - 1)
        below, above = (ordered[first + index].astype(np.float64) for index in (lower, upper))
        return below + (place - lower) * (above - below)

    columns = (
        *(count, mean, np.sqrt(second), quantile(0), quantile(0.25), quantile(0.5), quantile(0.75), quantile(1)),
        *(average(values < 0.1), average(values > 0.9)),
    )
    described = DataFrame(dict(zip(SUMMARY, columns, strict=True)))
    return described.assign(bimodality=_sarle(count, second, third, fourth))


def bimodality(values: np.ndarray) -> float:
    r"""Sarle's bimodality coefficient, for a finite sample.

    .. math::
        b = \frac{G_1^2 + 1}{G_2 + \frac{3 (n - 1)^2}{(n - 2) (n - 3)}}

    with the unbiased estimates :math:`G_1` of the skewness and :math:`G_2` of the excess kurtosis. It lies in (0, 1],
    is 5/9 for the uniform distribution, 1/3 for the normal one and 1 for two values. Above 5/9
    (:data:`BIMODAL`) the distribution has two peaks or is strongly skewed: look at the histogram too.

    Args:
        values: Shape (n,).

    Returns:
        b, or NaN for less than four values and for values that are all equal.

    Source:
        Pfister et al., Good things peak in pairs: a note on the bimodality coefficient, Frontiers in Psychology 2013.
    """
    values = np.asarray(values, np.float64)
    return float(_describe(np.zeros(len(values), np.int64), values, 1)["bimodality"].iloc[0])


def _sarle(count: np.ndarray, second: np.ndarray, third: np.ndarray, fourth: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.where(count > 3, count, np.nan)
        spread = np.where(second > 1e-12, second, np.nan)
        skewness = np.sqrt(n * (n - 1)) / (n - 2) * third / spread**1.5
        kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (fourth / spread**2 - 3) + 6)
        return (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))


def histogram(table: DataFrame, by: Sequence[str] = ("run",), bins: int = 20) -> DataFrame:
    """Count the gates rho in bins of equal width over [0, 1].

    Args:
        table: Any rows of the table, for instance those of :func:`at_last_step`, :func:`with_thirds`.
        by: The columns that tell the histograms apart; none for one of everything.
        bins: How many.

    Returns:
        The columns ``by``, ``left`` and ``right`` of each bin (the last holds 1 too), ``count`` and ``share`` of the
        histogram. NaNs are left out.
    """
    gates = table.loc[(table["kind"] == "rho") & table["value"].notna(), [*by, "value"]]
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.digitize(gates["value"], edges.astype(np.float32)) - 1, 0, bins - 1)
    codes, keys = _groups(gates, by)
    counts = np.bincount(codes * bins + index, minlength=len(keys) * bins).reshape(-1, bins)
    result = keys.loc[keys.index.repeat(bins)].reset_index(drop=True)
    result["left"], result["right"] = np.tile(edges[:-1], len(keys)), np.tile(edges[1:], len(keys))
    result["count"] = counts.ravel()
    result["share"] = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).ravel()
    return result


def correlations(table: DataFrame) -> DataFrame:
    """Correlate the gates rho of each layer with its gamma, over the channels, where a checkpoint has both.

    Returns:
        The columns run, group, step, layer, depth, ``count`` and ``pearson``, ``spearman`` (with gamma),
        ``pearson_abs``, ``spearman_abs`` (with its absolute value); NaN where one of the two is constant.
    """
    by = ["run", "group", "step", "layer", "depth"]
    columns = [*by, "channel", "value"]
    gammas = table.loc[table["kind"] == "gamma", columns]
    gates = table.loc[(table["kind"] == "rho") & table["step"].isin(gammas["step"].unique()), columns]
    pairs = gates.merge(gammas, on=[*by, "channel"], suffixes=("", "_gamma")).rename(columns={"value": "rho"})
    pairs = pairs.dropna(subset=["rho", "value_gamma"]).astype({"rho": np.float64, "value_gamma": np.float64})
    pairs["gamma"], pairs["absolute"] = pairs["value_gamma"], pairs["value_gamma"].abs()
    codes, result = _groups(pairs, by)
    ranks = pairs.groupby(codes)[["rho", "gamma", "absolute"]].rank()
    result["count"] = np.bincount(codes, minlength=len(result))
    for kind, values in (("pearson", pairs), ("spearman", ranks)):
        for name, column in ((kind, "gamma"), (f"{kind}_abs", "absolute")):
            result[name] = _correlate(codes, values["rho"].to_numpy(), values[column].to_numpy(), len(result))
    return result


def _correlate(codes: np.ndarray, x: np.ndarray, y: np.ndarray, groups: int) -> np.ndarray:
    count = np.maximum(np.bincount(codes, minlength=groups), 1)

    def center(values: np.ndarray) -> np.ndarray:
        return values - (np.bincount(codes, values, minlength=groups) / count)[codes]

    x, y = center(x), center(y)
    products, powers_x, powers_y = (np.bincount(codes, w, minlength=groups) for w in (x * y, x * x, y * y))
    constant = np.minimum(powers_x, powers_y) <= 1e-12 * count
    return np.clip(products / np.where(constant, np.nan, np.sqrt(powers_x * powers_y)), -1, 1)


def layer_values(table: DataFrame) -> DataFrame:
    """One number for each layer: the mean rho of its channels, and its switch weights.

    Returns:
        The columns run, group, step, layer, depth, kind (``rho``, ``mean_weight``, ``var_weight``), statistic and
        value (float64).
    """
    by = ["run", "group", "step", "layer", "depth"]
    gates = table.loc[(table["kind"] == "rho") & table["value"].notna(), [*by, "value"]]
    codes, means = _groups(gates, by)
    means["value"] = np.bincount(codes, gates["value"]) / np.bincount(codes)
    logged = table[(table["kind"] == "rho_summary") & (table["statistic"] == "mean")]
    rho = pd.concat([means, logged[[*by, "value"]].astype({"value": np.float64})], ignore_index=True)
    rho["kind"] = pd.Categorical.from_codes(np.zeros(len(rho), np.int8), list(KINDS))
    rho["statistic"] = pd.Categorical.from_codes(np.full(len(rho), -1), table["statistic"].cat.categories)
    weights = table[table["kind"].isin(["mean_weight", "var_weight"])].astype({"value": np.float64})
    columns = [*by, "kind", "statistic", "value"]
    return pd.concat([rho[columns], weights[columns]], ignore_index=True)


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
    half = stdtrit(freedom, (1 + CONFIDENCE) / 2) * np.sqrt(variance)
    pairs["difference"] = pairs["mean_second"] - pairs["mean_first"]
    pairs["low"], pairs["high"] = pairs["difference"] - half, pairs["difference"] + half
    sides = ["runs_first", "runs_second", "mean_first", "mean_second"]
    return pairs[[*by, *sides, "difference", "low", "high"]]
