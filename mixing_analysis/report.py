"""The report: one page that shows the learned mixing values, and needs nothing but a browser."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from mixing_analysis import layer_relations, metric_effects, multiples, needs, outcomes
from mixing_analysis.comparisons import Comparisons, compare, correlations
from mixing_analysis.differences import describe
from mixing_analysis.effects import ALPHA
from mixing_analysis.kinds import GAMMA, LOGGED, NOISE, families, word
from mixing_analysis.pictures import Pictures
from mixing_analysis.pictures import contents as of_pictures
from mixing_analysis.plots import BINS
from mixing_analysis.published import published
from mixing_analysis.rendering import render
from mixing_analysis.tables import CSV
from mixing_analysis.values import Run, at_last_step, histogram, kinds_of, summaries, with_thirds
from norms.kinds import MixingKind
from training.files import replacing
from training.terminal import printable

MOST_CELLS = 100_000
"""Of how many pairs of step and layer, over all runs, a page holds the summaries, 30 bytes each and a third more in
base64; of more steps some are left out."""

MOST_CHANNELS = 600_000
"""How many single gates a page holds of a kind: of all its steps if they are no more, else of the last steps."""

MOST_PAIRS = 20_000
"""How many pairs of a gate and gamma a page holds of a kind."""

LARGEST = 65_534
"""What the share 1 is written as, in 16 bits. The next number stands for an unknown share."""

SUMMARY = {"mean": "mean", "below": "below", "above": "above", "lower": "q25", "upper": "q75"}
"""What a page says of a layer's gates, by the names that :func:`mixing_analysis.values.summaries` has for it."""

CELL = ["run", "step", "layer"]


def write(
    table: DataFrame,
    runs: Sequence[Run],
    binarized: DataFrame | None,
    path: str | Path,
    notes: Sequence[str] = (),
    tables: Sequence[str] = (CSV,),
    comparisons: Comparisons | None = None,
    pictures: Sequence[Pictures] = (),
    ablated: DataFrame | None = None,
) -> Path:
    """Write the report.

    Args:
        table: The values of all runs, see :data:`mixing_analysis.values.COLUMNS`.
        runs: The runs of the table.
        binarized: The results of :func:`mixing_analysis.binarized.evaluate`, if runs were evaluated.
        path: The file to write.
        notes: What else the reader of the numbers should know, a line each.
        tables: The names of the files beside it that hold the table.
        comparisons: See :func:`mixing_analysis.comparisons.compare`, which is asked by default.
        pictures: Those of some of the runs.
        ablated: The results of :func:`mixing_analysis.ablation.ablate`, if runs were ablated.

    Returns:
        ``path``.
    """
    page = render(contents(table, runs, binarized, notes, comparisons, pictures, ablated), kinds_of(runs), tables)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return Path(path)


def contents(
    table: DataFrame,
    runs: Sequence[Run],
    binarized: DataFrame | None = None,
    notes: Sequence[str] = (),
    comparisons: Comparisons | None = None,
    pictures: Sequence[Pictures] = (),
    ablated: DataFrame | None = None,
) -> dict[str, Any]:
    """Collect what a page shows, as far as it has room.

    A cell is a layer at a step. The cells of a run lie side by side, ordered by step, then layer, and begin at the
    number that the run says. What there is one of in each cell, or several, is packed into numbers of 16 bits,
    little-endian, in base64: counts, and shares as :data:`LARGEST` says.

    Args:
        table: See :func:`write`.
        runs: See :func:`write`.
        binarized: See :func:`write`.
        notes: See :func:`write`.
        comparisons: See :func:`write`.
        pictures: See :func:`write`.
        ablated: See :func:`write`.

    Returns:
        What can be written as JSON.
    """
    mixing = table[table["kind"] != GAMMA]
    kinds = kinds_of(runs)
    comparisons = comparisons or compare(table, runs)
    sections = {kind.name: [kind] for kind in kinds if kind.per_channel} | families(kinds)
    steps = mixing[["run", "step"]].drop_duplicates().sort_values(["run", "step"], ignore_index=True)
    layers = _layers(mixing, sections)
    kept = _thin(steps, layers)
    if len(kept) < len(steps):
        mixing = mixing.merge(kept, on=["run", "step"])
    architectures: list[dict[str, Any]] = []
    groups = list(dict.fromkeys(run.group for run in runs))
    described: dict[str, dict[str, Any]] = {
        run.name: {
            "name": run.name,
            "group": groups.index(run.group),
            "source": run.source,
            "architecture": _architecture(layers[layers["run"] == run.name], sections, architectures),
            "steps": kept.loc[kept["run"] == run.name, "step"].tolist(),
            "logged": int((steps["run"] == run.name).sum()),
            "cells": {},
            "channels": {},
        }
        for run in runs
    }
    gates, weights, gammas = {}, {}, {}
    for name, own in sections.items():
        cells = kept.merge(layers[layers["section"] == name], on="run")
        _say_first_cell(cells, name, described)
        if own[0].per_channel:
            gates[name] = _describe(own[0], runs) | {"packed": _gates(mixing, own[0], cells, described)}
            gammas[name] = _gammas(table, own[0], list(described))
        else:
            weights[name] = {
                "labels": own[0].labels,
                "words": [word(kind) for kind in own],
                "neutral": own[0].neutral,
                "range": [own[0].low, own[0].high],
                "packed": _weights(mixing, own, cells),
            }
    return {
        "runs": list(described.values()),
        "groups": groups,
        "architectures": architectures,
        "bins": BINS,
        "largest": LARGEST,
        "noise": NOISE,
        "channels": gates,
        "weights": weights,
        "gamma": gammas,
        "relations": {name: layer_relations.describe(table, runs, own) for name, own in sections.items()},
        "styles": {name: multiples.describe_styles(table, runs, own) for name, own in sections.items()},
        "outcomes": outcomes.describe(table, runs),
        "metrics": metric_effects.describe(runs),
        "comparisons": describe(comparisons, runs),
        "ablation": [] if ablated is None else needs.contents(ablated),
        "binarized": None if binarized is None or binarized.empty else _rows(binarized),
        "pictures": list(map(of_pictures, pictures)),
        "notes": list(dict.fromkeys([*map(printable, comparisons.notes), *notes])),
    }


def _describe(kind: MixingKind, runs: Sequence[Run]) -> dict[str, Any]:
    known = published(kind, runs)
    return {
        "range": [kind.low, kind.high],
        "limits": kind.ends,
        "neutral": kind.neutral,
        "ends": list(kind.end_names) or None,
        "published": known and {"subject": known.subject, "source": known.source, "shares": known.shares},
    }


def _layers(mixing: DataFrame, sections: Mapping[str, list[MixingKind]]) -> DataFrame:
    """List the layers of each run and section, in order: which third they lie in, and how many channels they have."""
    last = with_thirds(at_last_step(mixing))
    parts = []
    for name, kinds in sections.items():
        names = [kind.name for kind in kinds]
        found = last[last["kind"].isin([*names, *(kind + LOGGED for kind in names)])]
        layers = found.drop_duplicates(["run", "layer"])[["run", "layer", "depth", "third"]].assign(section=name)
        own = found.loc[found["channel"].notna() & found["kind"].isin(names)]
        channels = own.groupby(["run", "layer"], observed=True).size().reset_index(name="channels")
        layers = layers.merge(channels, on=["run", "layer"], how="left").fillna({"channels": 0})
        layers = layers.astype({"channels": int})
        # Every layer shows one channel at least, and all of them where there is room.
        shown = (layers["channels"] * min(1.0, MOST_CHANNELS / max(1, layers["channels"].sum()))).astype(int)
        layers["shown"] = np.minimum(layers["channels"], np.maximum(1, shown))
        parts.append(layers)
    return pd.concat(parts, ignore_index=True).sort_values(["run", "depth"], ignore_index=True)


def _thin(steps: DataFrame, layers: DataFrame) -> DataFrame:
    """Leave out steps, evenly, as far as there is no room for the cells."""
    cells = (steps["run"].map(layers["run"].value_counts()).astype(int)).sum()
    share = MOST_CELLS / max(cells, 1)
    if share >= 1:
        return steps

    def chosen(count: int) -> np.ndarray:
        return np.unique(np.linspace(0, count - 1, max(2, int(count * share))).round().astype(int))

    parts = (run.iloc[chosen(len(run))] for _, run in steps.groupby("run", observed=True))
    return pd.concat(parts, ignore_index=True)


def _architecture(
    layers: DataFrame, sections: Mapping[str, list[MixingKind]], architectures: list[dict[str, Any]]
) -> int:
    """Return the number of the architecture that has these layers, and add it if it is new."""
    architecture = {}
    for name, kinds in sections.items():
        columns = ["layer", "third", *(["channels", "shown"] if kinds[0].per_channel else [])]
        part = layers.loc[layers["section"] == name, columns]
        architecture[name] = _rows(part.rename(columns={"layer": "name"}))
    if architecture not in architectures:
        architectures.append(architecture)
    return architectures.index(architecture)


def _gates(mixing: DataFrame, kind: MixingKind, cells: DataFrame, runs: dict[str, dict[str, Any]]) -> dict[str, str]:
    known = cells[CELL].merge(summaries(mixing, kind, CELL), on=CELL, how="left", validate="1:1")
    scales = {name: kind if name in ("mean", "lower", "upper") else None for name in SUMMARY}
    packed = {name: _pack_shares(known[column].to_numpy(), scales[name]) for name, column in SUMMARY.items()}
    counted = histogram(mixing, kind, CELL, BINS)
    numbered = counted.iloc[::BINS][CELL].assign(place=np.arange(len(counted) // BINS))
    place = cells[CELL].merge(numbered, on=CELL, how="left")["place"]
    counts = np.zeros((len(cells), BINS), np.int64)
    counts[place.notna()] = counted["count"].to_numpy().reshape(-1, BINS)[place.dropna().astype(int)]
    packed["histogram"] = _pack(counts)
    last = known.groupby("run", observed=True)["step"].transform("max") == known["step"]
    networks = summaries(at_last_step(mixing), kind, ["run"]).set_index("run")["bimodality"]
    for run, part in known[last].groupby("run", observed=True):
        layers, network = _numbers(part["bimodality"]), _numbers(networks[[run]])[0]
        runs[run]["channels"][kind.name] = {"bimodality": layers, "bimodal": network}
    return packed | {"channels": _channels(mixing, kind, cells, runs)}


def _channels(mixing: DataFrame, kind: MixingKind, cells: DataFrame, runs: dict[str, dict[str, Any]]) -> str:
    """Pack the single gates of every cell if there is room, else those of the last steps."""
    if cells["shown"].sum() > MOST_CHANNELS:
        cells = cells[cells["step"] == cells.groupby("run", observed=True)["step"].transform("max")]
    cells = cells.assign(start=cells["shown"].cumsum() - cells["shown"])
    for run, part in cells.groupby("run", observed=True):
        start = int(part["start"].iloc[0]) if part["shown"].any() else None
        runs[run]["channels"][kind.name] |= {"start": start, "steps": part["step"].nunique()}
    rows = mixing[mixing["kind"] == kind.name].merge(cells[[*CELL, "start", "shown", "channels"]], on=CELL)
    channel, shown, channels = (rows[name].to_numpy(np.int64) for name in ("channel", "shown", "channels"))
    # Of more channels than are shown, the i-th one shown is that at floor(i * channels / shown).
    index = -(-channel * shown // channels)
    chosen = (index * channels // shown == channel) & (index < shown)
    values = np.full(cells["shown"].sum(), np.nan)
    values[(rows["start"].to_numpy() + index)[chosen]] = rows["value"].to_numpy()[chosen]
    return _pack_shares(values, kind)


def _weights(mixing: DataFrame, kinds: list[MixingKind], cells: DataFrame) -> str:
    names = {kind.name: index for index, kind in enumerate(kinds)}
    rows = mixing[mixing["kind"].isin(names)].merge(cells.assign(cell=np.arange(len(cells))), on=CELL)
    member = rows["kind"].map(names).to_numpy(int)
    label = rows["statistic"].map({name: index for index, name in enumerate(kinds[0].labels)}).to_numpy(int)
    values = np.full((len(cells), len(kinds), len(kinds[0].labels)), np.nan)
    values[rows["cell"].to_numpy(), member, label] = rows["value"].to_numpy()
    return _pack_shares(values, kinds[0])


def _say_first_cell(cells: DataFrame, section: str, runs: dict[str, dict[str, Any]]) -> None:
    first = cells.reset_index().drop_duplicates("run").set_index("run")["index"]
    for name, cell in first.items():
        runs[name]["cells"][section] = int(cell)


def _gammas(table: DataFrame, kind: MixingKind, runs: list[str]) -> list[dict[str, Any]]:
    """Collect, of every run with a checkpoint, gamma and gates of its layers there, and their correlation."""
    latest = table[table["kind"] == GAMMA].groupby("run", observed=True)["step"].max()
    at_checkpoint = table[table["step"] == table["run"].map(latest).astype("Int64")]
    by = ["run", "layer", "depth", "channel"]
    gates, gammas = (at_checkpoint.loc[at_checkpoint["kind"] == name, [*by, "value"]] for name in (kind.name, GAMMA))
    pairs = gates.merge(gammas, on=by, suffixes=("", "_gamma")).dropna(subset=["value", "value_gamma"])
    pairs = pairs.sort_values(["run", "depth", "channel"])
    found = correlations(at_checkpoint, kind).set_index(["run", "layer"])[["pearson", "p_holm"]]
    stride = -(-len(pairs) // MOST_PAIRS) or 1
    result: dict[str, dict[str, Any]] = {}
    for (run, layer), part in pairs.groupby(["run", "layer"], observed=True, sort=False):
        of_layer = found.loc[(run, layer)]
        result.setdefault(run, {"run": runs.index(run), "layers": []})["layers"].append(
            {
                "name": layer,
                "r": _numbers(of_layer[["pearson"]])[0],
                "clear": bool(of_layer["p_holm"] < ALPHA),
                "gates": [round(value, 4) for value in part["value"].iloc[::stride].tolist()],
                "gamma": [float(f"{value:.5g}") for value in part["value_gamma"].iloc[::stride].tolist()],
            }
        )
    return list(result.values())


def _numbers(values: pd.Series) -> list[float | None]:
    return [None if np.isnan(value) else round(value, 4) for value in values]


def _rows(frame: DataFrame) -> list[dict[str, Any]]:
    cleaned = frame.astype(object).where(frame.notna(), None)
    return list(cleaned.to_dict("records"))


def _pack_shares(values: np.ndarray, kind: MixingKind | None = None) -> str:
    """Pack shares, or values of a kind, as shares of its range."""
    if kind is not None:
        values = (values - kind.low) / (kind.high - kind.low)
    known = np.isfinite(values)
    return _pack(np.where(known, np.rint(np.clip(np.where(known, values, 0), 0, 1) * LARGEST), LARGEST + 1))


def _pack(values: np.ndarray) -> str:
    return base64.b64encode(np.minimum(values, LARGEST + 1).astype("<u2").tobytes()).decode()
