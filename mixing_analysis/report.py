"""The report: one page that shows the learned mixing values, and needs nothing but a browser."""

import base64
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from mixing_analysis.figures import BINS, PUBLISHED
from mixing_analysis.values import Run, at_last_step, correlations, histogram, summaries, with_thirds
from norms.switchable import STATISTICS
from training.files import replacing

MOST_CELLS = 100_000
"""Of how many pairs of step and layer, over all runs, a page holds the summaries, 30 bytes each and a third more in
base64; of more steps some are left out."""

MOST_CHANNELS = 600_000
"""How many single rhos a page holds: of all its steps if they are no more, else of the last steps."""

MOST_PAIRS = 20_000
"""How many pairs of rho and gamma a page holds."""

LARGEST = 65_534
"""What the share 1 is written as, in 16 bits. The next number stands for an unknown share."""

SUMMARY = {"mean": "mean", "below": "share_below_0.1", "above": "share_above_0.9", "lower": "q25", "upper": "q75"}
"""What a page says of a layer's rho, by the names that :func:`mixing_analysis.values.summaries` has for it."""

MODULES = (
    *("numbers", "values", "series", "elements", "plots", "channels", "training", "relations", "shares"),
    *("differences", "snapped", "controls", "drawing", "overview", "reading", "start"),
)
"""The modules of the page's script, each behind those that it needs while it is loaded."""

CELL = ["run", "step", "layer"]


def write(
    table: DataFrame,
    runs: Sequence[Run],
    snapped: DataFrame | None,
    path: str | Path,
    notes: Sequence[str] = (),
) -> Path:
    """Write the report.

    Args:
        table: The values of all runs, see :data:`mixing_analysis.values.COLUMNS`.
        runs: The runs of the table.
        snapped: The results of :func:`mixing_analysis.snapped.evaluate`, if runs were evaluated.
        path: The file to write.
        notes: What else the reader of the numbers should know, a line each.

    Returns:
        ``path``.
    """
    text = json.dumps(contents(table, runs, snapped, notes), allow_nan=False, separators=(",", ":"))
    # Names come from folders and checkpoints: none may end the script element that the values are in.
    contained = {"css": part("page.css"), "js": script(), "data": text.replace("<", "\\u003c")}
    page = re.sub(r"{{(\w+)}}", lambda match: contained[match[1]], part("page.html"))
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return Path(path)


def part(name: str) -> str:
    """Read a file that the page is made of."""
    return resources.files("mixing_analysis").joinpath("page", name).read_text("utf-8")


def script() -> str:
    """Join the modules of the page's script to one that a single file can hold.

    Their imports and exports are for tools, which check each module by itself: joined, all have one scope.
    """
    text = "\n".join(part(f"{name}.js") for name in MODULES)
    text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
    return '"use strict";\n\n' + re.sub(r"^export ", "", text, flags=re.MULTILINE)


def contents(
    table: DataFrame, runs: Sequence[Run], snapped: DataFrame | None = None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Collect what a page shows, as far as it has room.

    A cell is a layer at a step. The cells of a run lie side by side, ordered by step, then layer, and begin at the
    number that the run says. What there is one of in each cell, or several, is packed into numbers of 16 bits,
    little-endian, in base64: counts, and shares as :data:`LARGEST` says.

    Args:
        table: See :func:`write`.
        runs: See :func:`write`.
        snapped: See :func:`write`.
        notes: See :func:`write`.

    Returns:
        What can be written as JSON.
    """
    mixing = table[table["kind"] != "gamma"]
    steps = mixing[["run", "step"]].drop_duplicates().sort_values(["run", "step"], ignore_index=True)
    layers = _layers(mixing)
    kept = _thin(steps, layers)
    if len(kept) < len(steps):
        mixing = mixing.merge(kept, on=["run", "step"])
    architectures: list[dict[str, Any]] = []
    groups = list(dict.fromkeys(run.group for run in runs))
    described = {
        run.name: {
            "name": run.name,
            "group": groups.index(run.group),
            "source": run.source,
            "architecture": _architecture(layers[layers["run"] == run.name], architectures),
            "steps": kept.loc[kept["run"] == run.name, "step"].tolist(),
            "logged": int((steps["run"] == run.name).sum()),
        }
        for run in runs
    }
    return {
        "runs": list(described.values()),
        "groups": groups,
        "architectures": architectures,
        "published": PUBLISHED,
        "statistics": STATISTICS,
        "bins": BINS,
        "largest": LARGEST,
        "rho": _gates(mixing, kept, layers[layers["gated"]], described),
        "switch": _switches(mixing, kept, layers[layers["switched"]], described),
        "gamma": _gammas(table, list(described)),
        "snapped": None if snapped is None or snapped.empty else _rows(snapped),
        "notes": list(notes),
    }


def _layers(mixing: DataFrame) -> DataFrame:
    """The layers of each run, in order: which third they lie in, what they learn, and of how many channels."""
    last = with_thirds(at_last_step(mixing))
    layers = last.drop_duplicates(["run", "layer"])[["run", "layer", "depth", "third"]]
    for column, kinds in (("gated", ["rho", "rho_summary"]), ("switched", ["mean_weight", "var_weight"])):
        found = last.loc[last["kind"].isin(kinds), ["run", "layer"]].drop_duplicates()
        layers = layers.merge(found.assign(**{column: True}), on=["run", "layer"], how="left")
        layers[column] = layers[column].notna()
    channels = last[last["kind"] == "rho"].groupby(["run", "layer"], observed=True).size().reset_index(name="channels")
    layers = layers.merge(channels, on=["run", "layer"], how="left").fillna({"channels": 0}).astype({"channels": int})
    total = layers["channels"].sum()
    # Every layer shows one channel at least, and all of them where there is room.
    shown = (layers["channels"] * min(1.0, MOST_CHANNELS / max(1, total))).astype(int)
    layers["shown"] = np.minimum(layers["channels"], np.maximum(1, shown))
    return layers.sort_values(["run", "depth"], ignore_index=True)


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


def _architecture(layers: DataFrame, architectures: list[dict[str, Any]]) -> int:
    """The number of the architecture that has these layers, which is added if it is new."""
    gated = layers.loc[layers["gated"], ["layer", "third", "channels", "shown"]]
    switched = layers.loc[layers["switched"], ["layer", "third"]]
    architecture = {
        name: _rows(part.rename(columns={"layer": "name"})) for name, part in (("rho", gated), ("switch", switched))
    }
    if architecture not in architectures:
        architectures.append(architecture)
    return architectures.index(architecture)


def _gates(
    mixing: DataFrame, steps: DataFrame, layers: DataFrame, runs: dict[str, dict[str, Any]]
) -> dict[str, str] | None:
    cells = steps.merge(layers, on="run")
    _say_first_cell(cells, "rho", runs)
    if cells.empty:
        return None
    known = cells[CELL].merge(summaries(mixing, CELL), on=CELL, how="left", validate="1:1")
    packed = {name: _pack_shares(known[column].to_numpy()) for name, column in SUMMARY.items()}
    counted = histogram(mixing, CELL, BINS)
    numbered = counted.iloc[::BINS][CELL].assign(place=np.arange(len(counted) // BINS))
    place = cells[CELL].merge(numbered, on=CELL, how="left")["place"]
    counts = np.zeros((len(cells), BINS), np.int64)
    counts[place.notna()] = counted["count"].to_numpy().reshape(-1, BINS)[place.dropna().astype(int)]
    packed["histogram"] = _pack(counts)
    last = known.groupby("run", observed=True)["step"].transform("max") == known["step"]
    networks = summaries(at_last_step(mixing), ["run"]).set_index("run")["bimodality"]
    for run, part in known[last].groupby("run", observed=True):
        runs[run] |= {"bimodality": _numbers(part["bimodality"]), "bimodal": _numbers(networks[[run]])[0]}
    return packed | {"channels": _channels(mixing, cells, runs)}


def _channels(mixing: DataFrame, cells: DataFrame, runs: dict[str, dict[str, Any]]) -> str:
    """Pack the single rhos of every cell if there is room, else those of the last steps."""
    if cells["shown"].sum() > MOST_CHANNELS:
        cells = cells[cells["step"] == cells.groupby("run", observed=True)["step"].transform("max")]
    cells = cells.assign(start=cells["shown"].cumsum() - cells["shown"])
    for run, part in cells.groupby("run", observed=True):
        known = part["shown"].any()
        runs[run] |= {"channels": int(part["start"].iloc[0]) if known else None, "channelSteps": part["step"].nunique()}
    rows = mixing[mixing["kind"] == "rho"].merge(cells[[*CELL, "start", "shown", "channels"]], on=CELL)
    channel, shown, channels = (rows[name].to_numpy(np.int64) for name in ("channel", "shown", "channels"))
    # Of more channels than are shown, the i-th one shown is that at floor(i * channels / shown).
    index = -(-channel * shown // channels)
    chosen = (index * channels // shown == channel) & (index < shown)
    values = np.full(cells["shown"].sum(), np.nan)
    values[(rows["start"].to_numpy() + index)[chosen]] = rows["value"].to_numpy()[chosen]
    return _pack_shares(values)


def _switches(mixing: DataFrame, steps: DataFrame, layers: DataFrame, runs: dict[str, dict[str, Any]]) -> str | None:
    cells = steps.merge(layers[["run", "layer"]], on="run")
    _say_first_cell(cells, "switch", runs)
    if cells.empty:
        return None
    rows = mixing[mixing["kind"].isin(["mean_weight", "var_weight"])].merge(
        cells.assign(cell=np.arange(len(cells))), on=CELL
    )
    moment = (rows["kind"] == "var_weight").to_numpy(int)
    statistic = rows["statistic"].map({name: index for index, name in enumerate(STATISTICS)}).to_numpy(int)
    values = np.full((len(cells), 2, len(STATISTICS)), np.nan)
    values[rows["cell"].to_numpy(), moment, statistic] = rows["value"].to_numpy()
    return _pack_shares(values)


def _say_first_cell(cells: DataFrame, kind: str, runs: dict[str, dict[str, Any]]) -> None:
    first = cells.reset_index().drop_duplicates("run").set_index("run")["index"]
    for name, run in runs.items():
        run[kind] = int(first[name]) if name in first.index else None


def _gammas(table: DataFrame, runs: list[str]) -> list[dict[str, Any]]:
    """Of every run with a checkpoint, gamma and rho of its layers there, and their correlation."""
    latest = table[table["kind"] == "gamma"].groupby("run", observed=True)["step"].max()
    at_checkpoint = table[table["step"] == table["run"].map(latest).astype("Int64")]
    by = ["run", "layer", "depth", "channel"]
    gates, gammas = (at_checkpoint.loc[at_checkpoint["kind"] == kind, [*by, "value"]] for kind in ("rho", "gamma"))
    pairs = gates.merge(gammas, on=by, suffixes=("_rho", "_gamma")).dropna(subset=["value_rho", "value_gamma"])
    pairs = pairs.sort_values(["run", "depth", "channel"])
    found = correlations(at_checkpoint).set_index(["run", "layer"])["pearson"]
    stride = -(-len(pairs) // MOST_PAIRS) or 1
    result: dict[str, dict[str, Any]] = {}
    for (run, layer), part in pairs.groupby(["run", "layer"], observed=True, sort=False):
        result.setdefault(run, {"run": runs.index(run), "layers": []})["layers"].append(
            {
                "name": layer,
                "r": _numbers(found.loc[[(run, layer)]])[0],
                "rho": [round(value, 4) for value in part["value_rho"].iloc[::stride].tolist()],
                "gamma": [float(f"{value:.5g}") for value in part["value_gamma"].iloc[::stride].tolist()],
            }
        )
    return list(result.values())


def _numbers(values: pd.Series) -> list[float | None]:
    return [None if np.isnan(value) else round(value, 4) for value in values]


def _rows(frame: DataFrame) -> list[dict[str, Any]]:
    cleaned = frame.astype(object).where(frame.notna(), None)
    return cleaned.to_dict("records")


def _pack_shares(values: np.ndarray) -> str:
    known = np.isfinite(values)
    return _pack(np.where(known, np.rint(np.clip(np.where(known, values, 0), 0, 1) * LARGEST), LARGEST + 1))


def _pack(values: np.ndarray) -> str:
    return base64.b64encode(np.minimum(values, LARGEST + 1).astype("<u2").tobytes()).decode()
