"""How runs compare: the values of a layer beside its gamma, and groups of runs beside each other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame
from scipy import stats

from mixing_analysis.effects import any_difference, effects, holm
from mixing_analysis.kinds import GAMMA
from mixing_analysis.values import Run, kinds_of, numbered, summaries
from norms.kinds import MixingKind
from training.repetitions import seeds_of

OF_GATES = ("mean", "below", "above")
"""What a layer's values of a kind with one in every channel are compared by: their mean, and the shares of them near
the ends, see :attr:`norms.kinds.MixingKind.ends`. Of other kinds each label is compared."""

TOLERANCE = 0.05
"""Runs are taken to be at the same step if none is behind by more than this part of it: a last checkpoint need not fall
on a step that is logged."""

MOST_PAIRS, MOST_ROWS = 500, 20_000
"""How many pairs of groups, and layers of pairs, are compared unless pairs are named."""

MOST_NOTED = 3
"""How many groups are named whose runs end at different steps."""

COMPARED = (
    *("first", "second", "kind", "measure", "layer", "depth", "step_first", "step_second", "runs_first", "runs_second"),
    *("paired", "mean_first", "mean_second", "difference", "low", "high", "g", "g_low", "g_high", "p", "p_holm"),
)
"""The columns of a comparison: a row for each layer and measure of a pair.

``first`` and ``second`` are groups, or runs. ``step_first`` and ``step_second`` say where each of them is looked at:
at the last step that all runs of both have, see :data:`TOLERANCE`. ``paired`` says whether runs of the same seed are
compared with each other. For ``difference`` to ``p`` see :func:`mixing_analysis.effects.effects`. ``p_holm`` is
corrected over the layers of the same pair, kind and measure.
"""


class Side(NamedTuple):
    """Name runs that are compared with others."""

    name: str
    runs: Sequence[Run]


Steps = Mapping[str, np.ndarray]
"""From the name of a run to its steps."""

Place = Mapping[str, int]
"""From the name of a run to the step at which it is compared."""

SEEDS_NEEDED = "three to five seeds on each side would"
"""What would be needed where a comparison has to be left open."""

OMNIBUS = ("kind", "measure", "groups", "test", "p", "p_holm")
"""The columns of the test whether groups differ at all in the mean over their networks, a row for each measure.

``p_holm`` is corrected over the measures of the same kind.
"""


def correlations(table: DataFrame, kind: MixingKind) -> DataFrame:
    """Correlate the values of a kind with gamma, over the channels of each layer, where a checkpoint has both.

    Args:
        table: Any rows of the table.
        kind: Which values.

    Returns:
        The columns run, group, step, layer, depth, ``count`` and ``pearson``, ``spearman`` (with gamma),
        ``pearson_abs``, ``spearman_abs`` (with its absolute value); NaN where one of the two is constant. ``p_holm`` is
        the p value of ``pearson``, for normal values, corrected over the layers of the run.
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
    freedom = np.maximum(result["count"] - 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = result["pearson"].abs() * np.sqrt(freedom / (1 - result["pearson"] ** 2))
    p = pd.Series(2 * stats.t.sf(t, freedom), result.index).where(freedom > 0)
    result["p_holm"] = p.groupby(result["run"], observed=True).transform(lambda own: holm(own.to_numpy()))
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


def layer_values(
    table: DataFrame, kinds: Iterable[MixingKind], by: Sequence[str] = ("run", "group", "step", "layer", "depth")
) -> DataFrame:
    """Reduce each layer to a few numbers: mean and shares of its channels, or each of its weights.

    Args:
        table: Any rows of the table.
        kinds: The kinds of values.
        by: The columns that tell apart what is reduced. Without ``layer``, all channels of a network count the same,
            and so do the weights of all layers.

    Returns:
        The columns ``by``, kind, ``measure`` (one of :data:`OF_GATES` or a label) and value (float64).
    """
    parts = [DataFrame(columns=[*by, "kind", "measure", "value"])]
    for kind in kinds:
        if kind.per_channel:
            part = summaries(table, kind, by).melt(list(by), list(OF_GATES), "measure")
        else:
            rows = table.loc[table["kind"] == kind.name, [*by, "statistic", "value"]].astype({"value": np.float64})
            means = rows.groupby([*by, "statistic"], observed=True, sort=False)["value"].mean().reset_index()
            part = means.rename(columns={"statistic": "measure"}).astype({"measure": object})
        if len(part):
            parts.append(part.assign(kind=kind.name))
    return pd.concat(parts[1:] or parts, ignore_index=True)[[*by, "kind", "measure", "value"]]


def over_seeds(table: DataFrame, kinds: Iterable[MixingKind]) -> DataFrame:
    """Fold the runs of each group, the seeds, into mean and spread.

    Returns:
        The columns group, step, layer, depth, kind, measure, ``runs`` (how many), ``mean`` and ``std`` (unbiased
        variance, NaN for a single run) of :func:`layer_values` over the runs.
    """
    by = ["group", "step", "layer", "depth", "kind", "measure"]
    grouped = layer_values(table, kinds).groupby(by, observed=True, sort=False)["value"]
    return grouped.agg(runs="count", mean="mean", std="std").reset_index()


@dataclass(frozen=True)
class Comparisons:
    """Hold how groups of runs differ, or runs if all are of one group.

    Attributes:
        rows: See :data:`COMPARED`.
        omnibus: See :data:`OMNIBUS`; empty if pairs were named.
        notes: What the reader should know of the comparisons, a line each.
        pairs: How many pairs there are; ``rows`` may be of fewer.
    """

    rows: DataFrame
    omnibus: DataFrame
    notes: tuple[str, ...]
    pairs: int


def compare(table: DataFrame, runs: Sequence[Run], pairs: Sequence[tuple[str, str]] | None = None) -> Comparisons:
    """Compare groups of runs layer by layer, or single runs if all are of one group.

    Args:
        table: The values of all runs.
        runs: The runs of the table.
        pairs: Names of groups or runs; by default all pairs of what :func:`sides_of` returns, as far as there is room.
    """
    sides, steps = sides_of(runs), _steps(table)
    every = list(combinations(sides, 2))
    by_name = sides_of(runs, "run") | sides_of(runs, "group")
    chosen = [(Side(a, by_name[a]), Side(b, by_name[b])) for a, b in (every[:MOST_PAIRS] if pairs is None else pairs)]
    places = [_place([*first.runs, *second.runs], steps) for first, second in chosen]
    numbers = _Numbers(table, kinds_of(runs), places)
    parts: list[DataFrame] = []
    for (first, second), place in zip(chosen, places, strict=True):
        if pairs is None and sum(map(len, parts)) > MOST_ROWS:
            break
        parts.append(_compare_pair(numbers, first, second, place))
    notes = list(notes_on_groups(table, runs)) if pairs is None else []
    notes += _notes(steps, [place for place, part in zip(places, parts, strict=False) if len(part)])
    apart = [pair for pair, part in zip(chosen, parts, strict=False) if part.empty]
    if pairs is None and apart:
        (first, second), more = apart[0], f", nor have {len(apart) - 1} other pairs" if len(apart) > 1 else ""
        notes.append(
            f"{first.name} and {second.name} have no layer and kind of values in common that could be compared{more}"
        )
    if pairs is None and len(parts) < len(every):
        notes.append(
            f"of the {len(every)} pairs of {len(sides)}, the first {len(parts)} are compared; "
            'in Python, mixing_analysis.read(...).compare("A", "B") compares any two'
        )
    rows = pd.concat(parts, ignore_index=True) if parts else DataFrame(columns=list(COMPARED))
    if len(rows) and rows["p"].isna().all():
        notes.append(f"differences of single runs cannot be told from those of their seeds; {SEEDS_NEEDED}")
    overall = omnibus(table, runs) if pairs is None else DataFrame(columns=list(OMNIBUS))
    return Comparisons(rows, overall, tuple(notes), len(every))


def sides_of(runs: Sequence[Run], unit: str = "") -> dict[str, list[Run]]:
    """Return what is compared, by name: the groups, or the runs if there is one group only, or what ``unit`` says."""
    unit = unit or ("group" if len({run.group for run in runs}) > 1 else "run")
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.group if unit == "group" else run.name, []).append(run)
    return found


def _steps(table: DataFrame) -> dict[str, np.ndarray]:
    """Return the steps of which each run has mixing values, in order."""
    _, found = numbered(table.loc[table["kind"] != GAMMA, ["run", "step"]], ["run", "step"])
    return {run: np.sort(part["step"].to_numpy()) for run, part in found.groupby("run", observed=True)}


def _place(runs: Sequence[Run], steps: Steps) -> Place:
    """Return the step at which each run is compared: the last that all have, else where each of them ends."""
    own = [steps[run.name] for run in runs]
    ends = [int(each[-1]) for each in own]
    for step in np.unique(np.concatenate(own))[::-1]:
        reached = [int(each[each <= step].max(initial=-1)) for each in own]
        # At step 0 nothing has been learned yet, so that it says nothing of runs that went on.
        if min(reached) >= (1 - TOLERANCE) * step and (step > 0 or not any(ends)):
            return dict(zip((run.name for run in runs), reached, strict=True))
    return dict(zip((run.name for run in runs), ends, strict=True))


def pairing(sides: Iterable[Sequence[Run]]) -> list[list[Run]] | None:
    """Return the runs of each side in the order of their seeds, if all sides have the same seeds, each of them once."""
    found = []
    for side in sides:
        seeds = [tuple(sorted(seeds_of(run.config or {}))) for run in side]
        order = sorted(range(len(side)), key=seeds.__getitem__)
        found.append(([side[index] for index in order], [seeds[index] for index in order]))
    seeds = found[0][1]
    paired = len(seeds) == len(set(seeds)) > 1 and all(seeds) and all(other == seeds for _, other in found)
    return [runs for runs, _ in found] if paired else None


def _at(table: DataFrame, places: Iterable[Place]) -> DataFrame:
    """Return the rows of the runs at the steps at which they are compared."""
    names = table["run"].cat.categories
    chosen = np.zeros(len(table), bool)
    # Most runs are compared at one step only, in however many pairs.
    for wanted in {tuple(place.get(name, -1) for name in names) for place in _merged(places)}:
        chosen |= table["step"].to_numpy() == np.array(wanted)[table["run"].cat.codes]
    return table[chosen]


def _merged(places: Iterable[Place]) -> list[dict[str, int]]:
    """Put places together, as far as they do not differ, so that there are as few as there can be."""
    merged: list[dict[str, int]] = []
    for run, step in sorted({each for place in places for each in place.items()}):
        free = next((place for place in merged if run not in place), None)
        if free is None:
            merged.append(free := {})
        free[run] = step
    return merged


def _families(kinds: Iterable[MixingKind]) -> dict[tuple[str, str], int]:
    """Return a number for each kind and measure, in the order in which they are shown."""
    every = [(kind.name, measure) for kind in kinds for measure in kind.labels or OF_GATES]
    return {name: place for place, name in enumerate(every)}


class _Numbers:
    """Look up the numbers of the layers of each run, at the steps at which it is compared.

    Attributes:
        columns: What there is a number of: kind, measure and layer.
        values: Shape (runs and steps, columns); NaN where a run has no such layer.
        depths: The depth of each layer, of the same shape.
        families: Of each column, the number of its kind and measure.
    """

    def __init__(self, table: DataFrame, kinds: Sequence[MixingKind], places: Iterable[Place]) -> None:
        found = layer_values(_at(table, places), kinds)
        row, keys = numbered(found, ["run", "step"])
        column, self.columns = numbered(found, ["kind", "measure", "layer"])
        self._rows = {key: index for index, key in enumerate(zip(keys["run"], keys["step"], strict=True))}
        self.values = np.full((len(keys), len(self.columns)), np.nan)
        self.depths = np.zeros(self.values.shape, np.int64)
        self.values[row, column], self.depths[row, column] = found["value"], found["depth"]
        order = _families(kinds)
        names = zip(self.columns["kind"], self.columns["measure"], strict=True)
        self.families = np.array([order[name] for name in names], np.int64)

    def rows_of(self, runs: Sequence[Run], place: Place) -> list[int]:
        """Return where the numbers of runs are."""
        return [self._rows[run.name, place[run.name]] for run in runs]


def _compare_pair(numbers: _Numbers, first: Side, second: Side, place: Place) -> DataFrame:
    paired = pairing([first.runs, second.runs])
    rows = [numbers.rows_of(runs, place) for runs in paired or (first.runs, second.runs)]
    common = np.flatnonzero(np.isfinite(numbers.values[[*rows[0], *rows[1]]]).all(0))
    before, after = (numbers.values[own][:, common] for own in rows)
    result = pd.concat(
        [numbers.columns.iloc[common].reset_index(drop=True), effects(before, after, paired is not None)], axis=1
    )
    for words, side, values in (("first", first, before), ("second", second, after)):
        result[words], result[f"runs_{words}"], result[f"mean_{words}"] = side.name, len(side.runs), values.mean(0)
        result[f"step_{words}"] = max(place[run.name] for run in side.runs)
    result["paired"], result["depth"], result["p_holm"] = paired is not None, numbers.depths[rows[0][0], common], np.nan
    family = numbers.families[common]
    for index in np.unique(family):
        result.loc[family == index, "p_holm"] = holm(result.loc[family == index, "p"].to_numpy())
    return result.iloc[np.lexsort((result["depth"], family))][list(COMPARED)]


def notes_on_groups(table: DataFrame, runs: Sequence[Run]) -> Iterator[str]:
    """Say in which groups runs end at different steps, so that what is averaged of their ends was trained unequally."""
    steps = _steps(table)
    ends = {name: [int(steps[run.name][-1]) for run in own] for name, own in sides_of(runs, "group").items()}
    apart = {name: own for name, own in ends.items() if differ(own)}
    for name, own in list(apart.items())[:MOST_NOTED]:
        yield (
            f"the runs of {name} end at different steps, from {min(own)} to {max(own)}: "
            "what is averaged of their last values is where each of them ends"
        )
    if len(apart) > MOST_NOTED:
        yield f"so do those of {len(apart) - MOST_NOTED} more groups"


def _notes(steps: Steps, places: Sequence[Place]) -> Iterator[str]:
    """Say where runs end at different steps, and how many comparisons have no step in common."""
    compared = {run for place in places for run in place}
    ends = [int(steps[run][-1]) for run in compared]
    if ends and differ(ends):
        yield (
            f"the runs end at different steps, from {min(ends)} to {max(ends)}: "
            "two groups are compared at the last step that all runs of both have"
        )
    apart = sum(differ(place.values()) for place in places)
    if apart:
        yield (
            f"in {apart} of {len(places)} comparisons there is no step in common but the start: "
            "what is compared is where each run ends, which may be a matter of how long it was trained"
        )


def differ(steps: Iterable[int]) -> bool:
    """Return whether some of the steps is behind by more than :data:`TOLERANCE`."""
    ordered = sorted(steps)
    return ordered[0] < (1 - TOLERANCE) * ordered[-1]


def omnibus(table: DataFrame, runs: Sequence[Run]) -> DataFrame:
    """Test whether groups of runs differ at all, in the mean over the network.

    Args:
        table: The values of all runs.
        runs: The runs of the table. Groups of a single run are left out.

    Returns:
        See :data:`OMNIBUS`. All runs are looked at at the last step that all have, see :data:`TOLERANCE`.
    """
    several = [own for own in sides_of(runs, "group").values() if len(own) > 1]
    rows = []
    if len(several) > 1:
        place = _place([run for own in several for run in own], _steps(table))
        means = layer_values(_at(table, [place]), kinds_of(runs), ["run"])
        for kind, measure in _families(kinds_of(runs)):
            part = means[(means["kind"] == kind) & (means["measure"] == measure)].dropna(subset="value")
            known = part.set_index("run")["value"]
            groups = [own for own in several if all(run.name in known.index for run in own)]
            if len(groups) > 1:
                paired = pairing(groups)
                numbers = [known[[run.name for run in own]].to_numpy() for own in paired or groups]
                rows.append((kind, measure, len(groups), *any_difference(numbers, paired is not None)))
    found = DataFrame(rows, columns=list(OMNIBUS[:-1]))
    found["p_holm"] = found.groupby("kind", sort=False)["p"].transform(lambda p: holm(p.to_numpy()))
    return found
