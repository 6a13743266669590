"""The learned mixing values of runs as one tidy table, and what is computed from it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas import CategoricalDtype, DataFrame

from norms.switchable import STATISTICS

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

    @property
    def architecture(self) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
        """What must agree for runs to be averaged: the layers, each with its kinds and their number of values."""
        mixing = self.frame[self.frame["kind"] != "gamma"]
        counts = mixing.drop_duplicates(["layer", "kind", "channel", "statistic"]).groupby(
            ["layer", "kind"], observed=True, sort=False
        )
        layers: dict[str, list[tuple[str, int]]] = {}
        for (layer, kind), count in counts.size().items():
            layers.setdefault(layer, []).append((kind, int(count)))
        return tuple((layer, tuple(sorted(kinds))) for layer, kinds in layers.items())


def frame(steps: Mapping[int, Values]) -> DataFrame:
    """Put the values of one run into rows.

    Args:
        steps: From the step to what the network holds then.

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
        parts.append((step, layouts[signature], np.concatenate([np.float32([]), *steps[step].values()])))
    layer, kind, statistic, channel = (
        np.concatenate([np.int32([]), *(layout[column] for _, layout, _ in parts)]) for column in range(4)
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
            "value": np.concatenate([np.float32([]), *(values for _, _, values in parts)]).astype(np.float32),
        }
    )


def _layout(
    signature: Iterable[tuple[str, int]], layers: Sequence[str], statistics: Sequence[str]
) -> tuple[np.ndarray, ...]:
    """Codes of layer, kind and statistic, and the channel, of every value of a step; -1 is none."""
    columns: list[list[np.ndarray]] = [[np.int32([])] for _ in range(4)]
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
