"""The learned mixing values of runs as one tidy table, and what is summed up of it."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas import CategoricalDtype, DataFrame

from mixing_analysis.kinds import GAMMA, LOGGED
from norms.errors import SettingError
from norms.kinds import BUILTIN, MixingKind
from training.callbacks.mixing import outer_names
from training.layer_shapes import LayerShape
from training.terminal import printable

COLUMNS = ("run", "group", "step", "layer", "depth", "channel", "kind", "statistic", "value")
"""The columns of the table: one row a value.

``run``, ``group`` and ``layer`` are categorical; layers are named by where they are, such as ``residual1.norm1``.
``step`` (int64) counts optimizer steps. ``depth`` (int32) counts the mixing layers of the network from 0. ``channel``
(Int32) is there for what a layer has in every channel. ``kind`` and ``statistic`` are categorical: a kind is the name
of a :class:`norms.kinds.MixingKind`, and its labels are the statistics; or :data:`~mixing_analysis.kinds.GAMMA`; or the
name of a kind with a value in every channel followed by :data:`~mixing_analysis.kinds.LOGGED`. ``value`` (float32) is
the effective value, never a logit.
"""

DESCRIBED = ("count", "mean", "std", "min", "q25", "median", "q75", "max")

BIMODAL = 5 / 9
"""Sarle's coefficient of the uniform distribution; above it a distribution has two peaks, or is strongly skewed."""

THIRDS = ("first", "middle", "last")

Values = Mapping[str, np.ndarray]
"""What a network holds at one step: from ``<layer>/<kind>`` to the values, in the network's order."""


@dataclass(frozen=True)
class Run:
    """Hold what was read of one run.

    Attributes:
        name: What the run is called, different for each.
        source: Where it was read, as the user named it.
        frame: Its rows of the table, without the columns ``run`` and ``group``.
        group: The runs that are averaged with it, itself if none are.
        config: The settings it was trained with, if they are known.
        checkpoint: The file that its weights are in, if there is one.
        notes: What the reader of the numbers should know of how they were read, a line each.
        kinds: The kinds of mixing values that its rows can be of.
        shapes: What the layers work on, by their names, as far as the training has told.
        metrics: The last value of each metric, such as ``val/loss``, as far as they are known.
    """

    name: str
    source: str
    frame: DataFrame
    group: str = ""
    config: Mapping[str, Any] | None = None
    checkpoint: Path | None = None
    notes: tuple[str, ...] = field(default=())
    kinds: tuple[MixingKind, ...] = BUILTIN
    shapes: Mapping[str, LayerShape] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> list[int]:
        """The steps of which there are values, in order."""
        return sorted(self.frame["step"].unique().tolist())

    @cached_property
    def architecture(self) -> dict[str, int | None]:
        """From each layer to its number of gates: 0 without any, None where only a summary of them is known."""
        mixing = self.frame[self.frame["kind"] != GAMMA]
        gates: dict[str, int | None] = {}
        for (layer, kind), channels in mixing.groupby(["layer", "kind"], observed=True)["channel"]:
            known = None if kind.endswith(LOGGED) else 0 if channels.isna().all() else int(channels.max()) + 1
            if known != 0 or layer not in gates:
                gates[layer] = known
        return gates


def layers_of(values: Iterable[str]) -> list[str]:
    """List the layers of the keys of :data:`Values`, in order."""
    return list(dict.fromkeys(key.rpartition("/")[0] for key in values))


def renamed(values: Values, names: Mapping[str, str]) -> Values:
    """Call the layers of ``values`` by other names; those that are not among ``names`` keep theirs."""
    parts = [(key.rpartition("/"), array) for key, array in values.items()]
    return {f"{names.get(layer, layer)}{slash}{kind}": array for (layer, slash, kind), array in parts}


def names_of_today(layers: Sequence[str]) -> dict[str, str]:
    """Return what the layers of an older run are called today.

    Their names began with their depth, as ``03.``, and norms within norms were called otherwise, see
    :func:`training.callbacks.mixing.outer_names`.
    """
    digits = max(2, len(str(len(layers) - 1)))
    names = {f"{depth:0{digits}d}.": layer for depth, layer in enumerate(layers)}
    old = all(layer.startswith(depth) for depth, layer in names.items())
    places = [layer.removeprefix(depth) if old else layer for depth, layer in names.items()]
    return dict(zip(layers, outer_names(places), strict=True))


def checked(arrays: Mapping[str, np.ndarray], source: object, kinds: Sequence[MixingKind]) -> Values:
    """Return what a file holds, if all of it is values that layers learn.

    Args:
        arrays: From ``<layer>/<kind>`` to the values.
        source: Where they were read.
        kinds: The kinds that they can be of.

    Raises:
        SettingError: If something else is among them, such as text, a number that is not finite, or an array of another
            shape than its kind has.
    """
    labels = {kind.name: kind.labels for kind in kinds} | {GAMMA: ()}
    for key, array in arrays.items():
        own = labels.get(key.rpartition("/")[2])
        if own is None or array.ndim != 1 or (own and len(own) != len(array)):
            raise SettingError(f"{source} holds {key} of shape {array.shape}, which is no mixing value")
        if array.dtype.kind not in "fiu":
            raise SettingError(f"{source} holds {key} of type {array.dtype}, which is no mixing value")
        if not np.isfinite(array).all():
            raise SettingError(f"{source} holds {key} with values that are not finite: its training went wrong")
    return arrays


def frame(steps: Mapping[int, Values], kinds: Sequence[MixingKind] = BUILTIN) -> DataFrame:
    """Put the values of one run into rows.

    Args:
        steps: From the step to what the network holds then; at least one.
        kinds: The kinds that the values can be of.

    Returns:
        The columns of :data:`COLUMNS` but ``run`` and ``group``, ordered by step, layer and kind.
    """
    # Layers are called as somebody's checkpoint, file or log calls them.
    steps = {step: {printable(key): array for key, array in found.items()} for step, found in steps.items()}
    layers = layers_of(key for step in sorted(steps) for key in steps[step])
    known = _statistics(kinds)
    statistics = list(dict.fromkeys(name for names in known.values() for name in names or ()))
    layouts: dict[tuple[tuple[str, int], ...], tuple[np.ndarray, ...]] = {}
    parts = []
    for step in sorted(steps):
        signature = tuple((key, len(array)) for key, array in steps[step].items())
        if signature not in layouts:
            layouts[signature] = _layout(signature, layers, known, statistics)
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
            "kind": pd.Categorical.from_codes(kind, list(known)),
            "statistic": pd.Categorical.from_codes(statistic, statistics),
            "value": np.concatenate([values for _, _, values in parts]).astype(np.float32),
        }
    )


def _statistics(kinds: Sequence[MixingKind]) -> dict[str, tuple[str, ...] | None]:
    """Return from the kind of a row the statistics that it has one value of, or None if it has one in every channel."""
    summarized = {kind.name + LOGGED: kind.summary_names for kind in kinds if kind.per_channel}
    return {kind.name: kind.labels or None for kind in kinds} | {GAMMA: None} | summarized


def _layout(
    signature: Iterable[tuple[str, int]],
    layers: Sequence[str],
    known: Mapping[str, tuple[str, ...] | None],
    statistics: Sequence[str],
) -> tuple[np.ndarray, ...]:
    """Return codes of layer, kind and statistic, and the channel, of every value of a step; -1 is none."""
    columns: list[list[np.ndarray]] = [[] for _ in range(4)]
    for key, count in signature:
        layer, _, kind = key.rpartition("/")
        names = known[kind]
        none = np.full(count, -1, np.int32)
        values = (
            np.full(count, layers.index(layer), np.int32),
            np.full(count, list(known).index(kind), np.int32),
            none if names is None else np.array([statistics.index(name) for name in names], np.int32),
            np.arange(count, dtype=np.int32) if names is None else none,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return tuple(np.concatenate(column) for column in columns)


def last_metrics(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the last value of each metric of validations, ``val/...``, of a log; a value that is no number is none."""
    found: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith("val/") and value not in (None, ""):
                with suppress(TypeError, ValueError):
                    found[printable(key)] = float(value)
    return {key: value for key, value in found.items() if np.isfinite(value)}


def kinds_of(runs: Sequence[Run]) -> list[MixingKind]:
    """Collect the kinds of which some run has values.

    Raises:
        SettingError: If two runs have different kinds of the same name.
    """
    found: dict[str, tuple[MixingKind, Run]] = {}
    for run in runs:
        there = {str(name).removesuffix(LOGGED) for name in run.frame["kind"].unique()}
        for kind in run.kinds:
            if kind.name not in there:
                continue
            other, first = found.setdefault(kind.name, (kind, run))
            if (kind.labels, kind.low, kind.high) != (other.labels, other.low, other.high):
                raise SettingError(
                    f"{first.name} and {run.name} mean different things by {kind.name}: report them apart"
                )
    return [kind for kind, _ in found.values()]


def combine(runs: Sequence[Run]) -> DataFrame:
    """Put the values of all runs into one table, see :data:`COLUMNS`."""
    shared = {
        column: CategoricalDtype(list(dict.fromkeys(name for run in runs for name in run.frame[column].cat.categories)))
        for column in ("layer", "kind", "statistic")
    }
    names, groups = [run.name for run in runs], list(dict.fromkeys(run.group for run in runs))
    lengths = [len(run.frame) for run in runs]
    table = pd.concat([run.frame.astype(shared) for run in runs], ignore_index=True)
    table["run"] = pd.Categorical.from_codes(np.repeat(np.arange(len(runs)), lengths), names)
    group_codes = [groups.index(run.group) for run in runs]
    table["group"] = pd.Categorical.from_codes(np.repeat(group_codes, lengths), groups)
    return table[list(COLUMNS)]


def at_last_step(table: DataFrame) -> DataFrame:
    """Return the rows of the last step at which each run has mixing values."""
    steps = table["step"].where(table["kind"] != GAMMA, -1)
    return table[table["step"] == steps.groupby(table["run"], observed=True).transform("max")]


def with_thirds(table: DataFrame) -> DataFrame:
    """Add the column ``third``: which of :data:`THIRDS` of its network, by depth, a layer lies in."""
    layers = table["depth"].groupby(table["run"], observed=True).transform("max") + 1
    codes = (3 * table["depth"] // layers).to_numpy()
    return table.assign(third=pd.Categorical.from_codes(codes, list(THIRDS), ordered=True))


def summaries(
    table: DataFrame, kind: MixingKind, by: Sequence[str] = ("run", "group", "step", "layer", "depth")
) -> DataFrame:
    """Summarize the channels' values of a kind, by default of each layer at each step.

    Args:
        table: Any rows of the table.
        kind: Which values.
        by: The columns that tell apart what is summarized.

    Returns:
        The columns ``by``; those of :data:`DESCRIBED` (``std`` is biased, quartiles are interpolated linearly);
        ``below`` and ``above``, the shares near the ends, see :attr:`norms.kinds.MixingKind.ends`; and ``bimodality``,
        see :func:`bimodality`. NaNs are left out. Where only the log's summary of a layer is known, ``count`` is 0 and
        the columns that it lacks are NaN; of several such layers, the mean and the shares are averaged with equal
        weights, and all else is NaN.
    """
    gates = table.loc[(table["kind"] == kind.name) & table["value"].notna(), [*by, "value"]]
    codes, keys = numbered(gates, by)
    known = pd.concat([keys, _describe(codes, gates["value"].to_numpy(), len(keys), kind.ends)], axis=1)
    rows = table[table["kind"] == kind.name + LOGGED]
    if rows.empty:
        return known
    means = rows.groupby([*by, "statistic"], observed=True, sort=False)["value"].mean().unstack("statistic")
    means = means.rename(columns=dict(zip(kind.summary_names[-2:], ("below", "above"), strict=True)))
    if "layer" not in by:
        means[["min", "max", "std"]] = np.nan
    columns = means.rename_axis(columns=None).reset_index().assign(count=0)
    columns = columns.reindex(columns=known.columns)
    # An empty table has no types to say.
    both = columns if known.empty else pd.concat([known, columns], ignore_index=True).drop_duplicates(list(by))
    return both.sort_values(list(by), ignore_index=True)


def numbered(table: DataFrame, by: Sequence[str]) -> tuple[np.ndarray, DataFrame]:
    """Give a number to each combination of the columns ``by``: return that of each row, and that of each number.

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


def _describe(codes: np.ndarray, values: np.ndarray, groups: int, near: tuple[float, float] = (0, 1)) -> DataFrame:
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
        between: np.ndarray = below + (place - lower) * (above - below)
        return between

    columns = (
        *(count, mean, np.sqrt(second), quantile(0), quantile(0.25), quantile(0.5), quantile(0.75), quantile(1)),
        *(average(values < near[0]), average(values > near[1])),
    )
    described = DataFrame(dict(zip((*DESCRIBED, "below", "above"), columns, strict=True)))
    return described.assign(bimodality=_sarle(count, second, third, fourth))


def bimodality(values: np.ndarray) -> float:
    r"""Compute Sarle's bimodality coefficient, for a finite sample.

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
        sarle: np.ndarray = (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
    return sarle


def histogram(table: DataFrame, kind: MixingKind, by: Sequence[str] = ("run",), bins: int = 20) -> DataFrame:
    """Count the channels' values of a kind in bins of equal width over its range.

    Args:
        table: Any rows of the table, for instance those of :func:`at_last_step`, :func:`with_thirds`.
        kind: Which values.
        by: The columns that tell the histograms apart; none for one of everything.
        bins: How many.

    Returns:
        The columns ``by``, ``left`` and ``right`` of each bin (the last holds its right end too), ``count`` and
        ``share`` of the histogram. NaNs are left out.
    """
    gates = table.loc[(table["kind"] == kind.name) & table["value"].notna(), [*by, "value"]]
    edges = np.linspace(kind.low, kind.high, bins + 1)
    index = np.clip(np.digitize(gates["value"], edges.astype(np.float32)) - 1, 0, bins - 1)
    codes, keys = numbered(gates, by)
    counts = np.bincount(codes * bins + index, minlength=len(keys) * bins).reshape(-1, bins)
    result = keys.loc[keys.index.repeat(bins)].reset_index(drop=True)
    result["left"], result["right"] = np.tile(edges[:-1], len(keys)), np.tile(edges[1:], len(keys))
    result["count"] = counts.ravel()
    result["share"] = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).ravel()
    return result
