"""Mixing values from what Weights & Biases has of a run, on its server or in an offline folder."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixing_analysis.values import LAYER_SUMMARY, Run, Values, frame
from norms.errors import SettingError
from norms.kinds import STATISTICS

PREFIX = "wandb:"

TIMEOUT = 30
"""Seconds to wait for an answer of the server."""

RHO = re.compile(rf"rho/(.+)/({'|'.join(map(re.escape, LAYER_SUMMARY))})")
SWITCH = re.compile(rf"switch/(.+)/(mean|var)/({'|'.join(STATISTICS)})")

FINAL_RHO = "final/rho"
"""The table with the last gate of every channel, which the history of a finished training refers to."""

NO_CHANNELS = "only the summaries of layers, not the gates of channels: W&B has no table of them"

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
            return json.load(stream)["data"]

    return _run(source, f"{path}/{name}", config, rows, read_table)


def offline_files(folder: Path) -> list[Path]:
    """The files of a W&B offline folder, or of a ``wandb`` folder with one for each part of a resumed run."""
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
        return json.loads(next(filter(Path.is_file, kept), kept[-1]).read_text())["data"]

    return _run(source, f"{folder.resolve().as_posix()}/{name}", config, rows, read_table)


def _inspect(file: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        if finished.returncode:
            raise ValueError(finished.stderr.strip().rpartition("\n")[2] or f"status {finished.returncode}")
        return [json.loads(line) for line in finished.stdout.splitlines()]
    except ValueError as error:
        raise SettingError(f"{file} is not a readable W&B file: {_one_line(error)}") from error


def _run(source: str, name: str, config: Mapping[str, Any], rows: Iterable[Row], read_table: ReadTable) -> Run:
    values: dict[int, dict[str, np.ndarray]] = {}
    tables: dict[int, str] = {}
    for row in rows:
        step = row.get("trainer/global_step", row.get("_step"))
        found = _layer_values(row)
        if step is not None and found:
            values.setdefault(int(step), {}).update(found)
        table = row.get(f"{FINAL_RHO}.path") or (row.get(FINAL_RHO) or {}).get("path")
        if step is not None and table:
            tables[int(step)] = table
    if not values:
        raise SettingError(f"{source} has learned no norms: nothing of rho or switch weights is logged")
    notes = _add_channels(values, tables, read_table)
    steps: dict[int, Values] = {step: dict(sorted(found.items())) for step, found in values.items()}
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    return Run(name, source, frame(steps), config=settings or None, notes=tuple(notes))


def _layer_values(row: Row) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for key, value in row.items():
        if value is None:
            continue
        names: tuple[str, ...]
        if match := RHO.fullmatch(key):
            layer, kind, names, statistic = match[1], "rho_summary", LAYER_SUMMARY, match[2]
        elif match := SWITCH.fullmatch(key):
            layer, kind, names, statistic = match[1], f"{match[2]}_weight", STATISTICS, match[3]
        else:
            continue
        array = found.setdefault(f"{layer}/{kind}", np.full(len(names), np.nan, np.float32))
        array[names.index(statistic)] = float(value)
    return found


def _add_channels(
    values: dict[int, dict[str, np.ndarray]], tables: Mapping[int, str], read_table: ReadTable
) -> list[str]:
    """Let the gates of channels take the place of their summary, at the steps that have a table of them."""
    if not any(key.endswith("/rho_summary") for found in values.values() for key in found):
        return []
    if not tables:
        return [NO_CHANNELS]
    for step, path in tables.items():
        try:
            rows = read_table(path)
        except Exception as error:  # of the network, of the disk, of what the file holds
            return [f"only the summaries of layers, not the gates of channels: {path}: {_one_line(error)}"]
        channels: dict[str, list[float]] = {}
        for layer, _, value in rows:
            channels.setdefault(layer, []).append(float(value))
        found = values.setdefault(step, {})
        for layer, gates in channels.items():
            found.pop(f"{layer}/rho_summary", None)
            found[f"{layer}/rho"] = np.array(gates, np.float32)
    return ["from the summaries of layers that W&B has, single gates at the last step only"]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
