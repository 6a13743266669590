"""Mixing values from what Weights & Biases has of a run, on its server or in an offline folder."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data.files import check_file
from mixing_analysis.kinds import LOGGED, read_kinds
from mixing_analysis.values import Run, Values, frame, last_metrics, layers_of, names_of_today, renamed
from norms.errors import SettingError
from norms.kinds import BUILTIN, MixingKind, plain_key

PREFIX = "wandb:"

TIMEOUT = 30
"""Seconds to wait for an answer of the server."""

NO_CHANNELS = "only the summaries of layers, not the gates of channels: W&B has no table of them"

KINDS = "mixing_kinds"
"""Where the configuration of a run describes its kinds of mixing values."""

LAYERS = "mixing_layers"
"""Where it lists the names of its layers, in the order of their depth."""

Row = Mapping[str, Any]
ReadTable = Callable[[str], list[list[Any]]]


def read_online(source: str) -> Run:
    """Read a run from the W&B server.

    Args:
        source: ``wandb:ENTITY/PROJECT/RUN``, where RUN is the id in the address of its page.

    Returns:
        Its layers' summaries at all logged steps, and every channel at the last step if the training has ended.

    Raises:
        SettingError: If nobody is logged in, the server cannot be reached or has no such run, or it has
            learned no norms.
    """
    path = source.removeprefix(PREFIX).strip("/")
    if path.count("/") != 2:
        raise SettingError(f"{source} names no W&B run: expected {PREFIX}ENTITY/PROJECT/RUN")
    import wandb

    try:
        wandb.setup(wandb.Settings(silent=True))
        run = wandb.Api(timeout=TIMEOUT).run(path)
        config, rows, name = dict(run.config), list(run.scan_history()), str(run.name)
    except wandb.errors.UsageError as error:
        raise SettingError(
            f"{source} cannot be read: nobody is logged in to W&B; run `wandb login` or set WANDB_API_KEY"
        ) from error
    except Exception as error:  # W&B raises its own errors, those of requests, and ValueErrors
        raise SettingError(f"{source} cannot be read from W&B: {_one_line(error)}") from error

    def read_table(file: str) -> list[list[Any]]:
        with tempfile.TemporaryDirectory() as folder, run.file(file).download(root=folder) as stream:
            return list(json.load(stream)["data"])

    return _run(source, f"{path}/{name}", config, rows, read_table)


def offline_files(folder: Path) -> list[Path]:
    """List the files of a W&B offline folder, or of a ``wandb`` folder with one for each part of a resumed run."""
    return sorted(folder.glob("run-*.wandb")) or sorted(folder.glob("*run-*-*/run-*.wandb"))


def read_offline(folder: Path, source: str) -> Run:
    """Read a run from the folder in which W&B has kept it, on or off line.

    Args:
        folder: Such as ``offline-run-20260102_030405-ab12cd34``, or the ``wandb`` folder of a run, whose parts, each of
            which goes on where the one before was interrupted, are read as one.
        source: What the user called it.

    Returns:
        As :func:`read_online`.

    Raises:
        SettingError: If the files are damaged, are of several runs, or have learned no norms.
    """
    files = offline_files(folder)
    if len({file.stem for file in files}) > 1:
        raise SettingError(f"{folder} holds several W&B runs: name one of {folder}/offline-run-*")
    config: dict[str, Any] = {}
    rows: list[Row] = []
    name = files[0].stem
    for file in files:
        for record in _inspect(file):
            if record["type"] == "history":
                rows.append(record["history"]["item"])
            elif record["type"] == "config":
                config |= record["config"]["update"]
            elif record["type"] == "run":
                name = f"{record['run']['run_id']}/{record['run'].get('display_name', '')}".rstrip("/")

    def read_table(path: str) -> list[list[Any]]:
        kept = [file.parent / "files" / path for file in files]
        table = next(filter(Path.is_file, kept), kept[-1])
        check_file(table)
        return list(json.loads(table.read_text())["data"])

    return _run(source, f"{folder.resolve().as_posix()}/{name}", config, rows, read_table)


def _inspect(file: Path) -> list[dict[str, Any]]:
    check_file(file)
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        if finished.returncode:
            raise ValueError(finished.stderr.strip().rpartition("\n")[2] or f"status {finished.returncode}")
        return [json.loads(line) for line in finished.stdout.splitlines()]
    except ValueError as error:
        raise SettingError(f"{file} is not a readable W&B file: {_one_line(error)}") from error


def _run(source: str, name: str, config: Mapping[str, Any], rows: Sequence[Row], read_table: ReadTable) -> Run:
    kinds = read_kinds(config.get(KINDS), source)
    # The table with the last value of every channel, which the history of a finished training refers to.
    files = {plain_key(f"final/{kind.log_key.partition('/{layer}')[0]}"): kind for kind in kinds if kind.per_channel}
    logged: dict[int, dict[str, np.ndarray]] = {}
    tables: dict[tuple[int, MixingKind], str] = {}
    for row in rows:
        step = row.get("trainer/global_step", row.get("_step"))
        found = _layer_values(row, kinds)
        if step is not None and found:
            logged.setdefault(int(step), {}).update(found)
        for key, kind in files.items():
            table = row.get(key, row.get(f"{key}.path"))
            table = table.get("path") if isinstance(table, Mapping) else table
            if step is not None and table:
                tables[int(step), kind] = table
    if not logged:
        raise SettingError(
            f"{source} has learned no norms: nothing of {', '.join(kind.name for kind in kinds)} is logged"
        )
    names = _names(config.get(LAYERS), sorted({layer for found in logged.values() for layer in layers_of(found)}))
    values = {step: dict(renamed(found, names)) for step, found in logged.items()}
    notes = _add_channels(values, tables, read_table, names)
    order = list(names.values())
    steps: dict[int, Values] = {step: _sorted(found, order) for step, found in values.items()}
    settings = {key: value for key, value in config.items() if not key.startswith("_") and key not in (KINDS, LAYERS)}
    found_frame, metrics = frame(steps, kinds), last_metrics(rows)
    return Run(name, source, found_frame, config=settings or None, notes=tuple(notes), kinds=kinds, metrics=metrics)


def _names(layers: Any, logged: Sequence[str]) -> dict[str, str]:
    """Return from each layer's name in the log, in order, to where it is; older runs list no ``layers``."""
    if not isinstance(layers, list):
        return names_of_today(logged)
    # Every name begins with the depth, also where a run was begun when layers were called otherwise.
    depths = {name: int(re.split(r"\D", name, maxsplit=1)[0]) for name in logged}
    return {name: str(layers[depth]) if depth < len(layers) else name for name, depth in depths.items()}


def _sorted(values: Values, layers: Sequence[str]) -> Values:
    places = {layer: place for place, layer in enumerate(layers)}

    def place(key: str) -> tuple[int, str]:
        layer, _, kind = key.rpartition("/")
        return places.get(layer, len(places)), kind

    return {key: values[key] for key in sorted(values, key=place)}


def _layer_values(row: Row, kinds: Sequence[MixingKind] = BUILTIN) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for kind, pattern in _patterns(tuple(kinds)):
        names = kind.summary_names
        for key, value in row.items():
            if value is None or not (match := pattern.fullmatch(key)):
                continue
            name = f"{match[1]}/{kind.name}{LOGGED if kind.per_channel else ''}"
            array = found.setdefault(name, np.full(len(names), np.nan, np.float32))
            array[list(map(plain_key, names)).index(plain_key(match[2]))] = float(value)
    return found


@cache
def _patterns(kinds: tuple[MixingKind, ...]) -> list[tuple[MixingKind, re.Pattern[str]]]:
    """Return of each kind the pattern of the keys that the values of its layers, which begin with a depth, have.

    Older runs have keys in which :func:`plain_key` has replaced nothing.
    """

    def loose(text: str) -> str:
        return re.sub(r"[^a-zA-Z0-9/]", "[^a-zA-Z0-9/]", text)

    patterns = []
    for kind in kinds:
        before, _, after = kind.log_key.partition("{layer}")
        numbers = "|".join(map(loose, kind.summary_names))
        patterns.append((kind, re.compile(rf"{loose(before)}(\d[^/]*){loose(after)}/({numbers})")))
    return patterns


def _add_channels(
    values: dict[int, dict[str, np.ndarray]],
    tables: Mapping[tuple[int, MixingKind], str],
    read_table: ReadTable,
    names: Mapping[str, str],
) -> list[str]:
    """Let the gates of channels take the place of their summary, at the steps that have a table of them."""
    if not any(key.endswith(LOGGED) for found in values.values() for key in found):
        return []
    if not tables:
        return [NO_CHANNELS]
    for (step, kind), path in tables.items():
        try:
            rows = read_table(path)
        except Exception as error:  # of the network, of the disk, of what the file holds
            return [f"only the summaries of layers, not the gates of channels: {path}: {_one_line(error)}"]
        channels: dict[str, list[float]] = {}
        for layer, _, value in rows:
            channels.setdefault(names.get(layer, layer), []).append(float(value))
        found = values.setdefault(step, {})
        for layer, gates in channels.items():
            found.pop(f"{layer}/{kind.name}{LOGGED}", None)
            found[f"{layer}/{kind.name}"] = np.array(gates, np.float32)
    return ["from the summaries of layers that W&B has, single gates at the last step only"]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
