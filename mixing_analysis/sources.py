"""From what a user calls a run to its learned mixing values."""

import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mixing_analysis import wandb_runs
from mixing_analysis.values import KINDS, Run, Values, frame
from norms.errors import SettingError
from norms.switchable import STATISTICS, sparsestmax
from training.callbacks.mixing import layer_labels
from training.run import Run as RunOnDisk

EXPECTED = "a run folder, a checkpoint (.ckpt, .pt, .safetensors), a W&B offline folder or wandb:ENTITY/PROJECT/RUN"

AVERAGE = re.compile(r"((?:.*\.)?(?:[^.]*_)?(?:ema|swa|avg|average|averaged|shadow)(?:_[^.]*)?)\..+", re.IGNORECASE)
"""A layer below a name that says that it holds a moving average of another network."""

KEY = re.compile(r"(?:(.*)\.)?(rho|mean_weight|var_weight)")


def read_runs(sources: Sequence[str]) -> list[Run]:
    """Read what the user calls runs.

    Args:
        sources: Run folders, folders of runs' versions (the newest is taken), checkpoints, W&B offline folders, or
            ``wandb:ENTITY/PROJECT/RUN``.

    Returns:
        The runs, each named by the end of its path, as short as tells them apart, and each a group of its own.

    Raises:
        SettingError: If one of them is no run, cannot be read, or has learned no norms.
    """
    runs = [_read(source) for source in sources]
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            given = " and ".join(dict.fromkeys(run.source for run in runs if run.name == name))
            raise SettingError(f"the same run is given {count} times: {given}")
    names = _short_names([run.name for run in runs])
    return [replace(run, name=name, group=name) for run, name in zip(runs, names, strict=True)]


def _read(source: str) -> Run:
    if source.startswith(wandb_runs.PREFIX):
        return wandb_runs.read_online(source)
    path = Path(source)
    if path.is_file():
        return _read_file(path, source)
    if not path.is_dir():
        raise SettingError(f"no such run: {source} (expected {EXPECTED})")
    if wandb_runs.offline_files(path):
        return wandb_runs.read_offline(path, source)
    return _read_folder(_run_folder(path), source)


def _short_names(names: Sequence[str]) -> list[str]:
    lengths = [2] * len(names)
    while True:
        short = ["/".join(name.split("/")[-length:]) for name, length in zip(names, lengths, strict=True)]
        counts = Counter(short)
        if len(counts) == len(names):
            return short
        lengths = [length + (counts[name] > 1) for name, length in zip(short, lengths, strict=True)]


def _run_folder(path: Path) -> Path:
    versions = sorted(path.glob("version_*"), key=_version, reverse=True)
    for folder in (path, *versions):
        if (folder / "mixing").is_dir() or (folder / "checkpoints").is_dir():
            return folder
    raise SettingError(f"{path} holds no run: expected {path / 'mixing'} or {path / 'checkpoints'}")


def _version(folder: Path) -> int:
    number = folder.name.removeprefix("version_")
    return int(number) if number.isdigit() else -1


def _read_folder(folder: Path, source: str) -> Run:
    steps = {int(path.stem.removeprefix("step_")): _read_arrays(path) for path in folder.glob("mixing/step_[0-9]*.npz")}
    notes: list[str] = []
    checkpoint = _checkpoint_of(folder)
    if checkpoint is not None:
        try:
            step, values, notes = _read_checkpoint(checkpoint)
        except SettingError as error:
            if not steps:
                raise
            checkpoint, notes = None, [f"without the checkpoint: {error}"]
        else:
            known = _layers(steps[max(steps)]) if steps else _layers(values)
            if _layers(values) != known:
                notes = [f"without the values of {checkpoint.name}, which has other layers than {folder / 'mixing'}"]
            else:
                steps[step] = values
    if not steps:
        raise SettingError(f"{folder} holds neither mixing values nor a checkpoint")
    name = folder.resolve().as_posix()
    config = _config_of(folder)
    return Run(name, source, frame(steps), config=config, checkpoint=checkpoint, notes=tuple(notes))


def _checkpoint_of(folder: Path) -> Path | None:
    return RunOnDisk(folder).newest_checkpoint()


def _config_of(folder: Path) -> Mapping[str, Any] | None:
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None


def _read_arrays(path: Path) -> Values:
    try:
        with np.load(path) as file:
            values = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SettingError(f"{path} is damaged: {error}") from error
    for key, array in values.items():
        if key.rpartition("/")[2] not in KINDS or array.ndim != 1:
            raise SettingError(f"{path} holds {key} of shape {array.shape}, which is no mixing value")
    return values


def _layers(values: Values) -> list[str]:
    return list(dict.fromkeys(key.rpartition("/")[0] for key in values))


def _read_file(path: Path, source: str) -> Run:
    step, values, notes = _read_checkpoint(path)
    folder = path.parents[1] if path.parent.name == "checkpoints" else None
    resolved = path.resolve()
    name = resolved.as_posix() if folder is None else f"{resolved.parents[1].as_posix()}:{path.name}"
    config = None if folder is None else _config_of(folder)
    return Run(name, source, frame({step: values}), config=config, checkpoint=path, notes=tuple(notes))


def _read_checkpoint(path: Path) -> tuple[int, Values, list[str]]:
    """Step, values with gamma, and notes of a checkpoint."""
    checkpoint = _load(path)
    state = checkpoint.get("state_dict", checkpoint)
    state = {key: value for key, value in _flat(state) if isinstance(value, Tensor)}
    step = checkpoint.get("global_step", 0)
    options = checkpoint.get("hyper_parameters")
    options = options.get("norm_options") if isinstance(options, Mapping) else None
    statistics = options.get("statistics") if isinstance(options, Mapping) else None
    layers, notes = _mixing_layers(state)
    if not layers:
        raise SettingError(
            f"{path} holds no layer that learns how to normalize: "
            f"none of its {len(state)} tensors is a rho, mean_weight or var_weight"
        )
    values: dict[str, np.ndarray] = {}
    for label, name in zip(layer_labels(layers), layers, strict=True):
        for kind, value in _layer_values(path, state, name, statistics):
            values[f"{label}/{kind}"] = value.float().numpy()
    return step if isinstance(step, int) else 0, values, notes


def _load(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Mapped, since the weights themselves and the optimizer's state need not be read.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if "Weights only load failed" in reason:
            reason = "it holds more than tensors and plain values, or is damaged; save the state_dict alone"
        raise SettingError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(checkpoint, Mapping):
        raise SettingError(f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint


def _flat(state: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(state, Mapping):
        yield prefix, state
        return
    for key, value in state.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _mixing_layers(state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """The names of the layers, without those of an averaged copy of a network, and a note if there was one."""
    shapes: dict[str, dict[str, int]] = {}
    for key, value in state.items():
        if (match := KEY.fullmatch(key)) and value.ndim == 1 and value.is_floating_point():
            shapes.setdefault(match[1] or "", {})[match[2]] = len(value)
    shapes = {name: own for name, own in shapes.items() if "rho" in own or len(own) == 2}
    averages: dict[str, list[str]] = {}
    for name in shapes:
        if match := AVERAGE.fullmatch(name):
            averages.setdefault(match[1], []).append(name)
    live = [name for name in shapes if not AVERAGE.fullmatch(name)]
    copies = {owner: names for owner, names in averages.items() if _are_copies(owner, names, live, shapes)}
    notes = [
        f"without the {len(names)} layers of {owner}, an averaged copy of the network"
        for owner, names in copies.items()
    ]
    return [name for name in shapes if not any(name in names for names in copies.values())], notes


def _are_copies(owner: str, names: Sequence[str], live: Sequence[str], shapes: Mapping[str, dict[str, int]]) -> bool:
    """Whether some part of the live network has all layers that ``owner`` has, and of the same sizes."""
    tails = {name.removeprefix(f"{owner}.").removeprefix("module."): name for name in names}
    first = next(iter(tails))
    parts = [other.removesuffix(first) for other in live if f".{other}".endswith(f".{first}")]
    return any(all(shapes.get(part + tail) == shapes[name] for tail, name in tails.items()) for part in parts)


def _layer_values(
    path: Path, state: Mapping[str, Tensor], name: str, statistics: Sequence[str] | None
) -> Iterator[tuple[str, Tensor]]:
    own = {key: state.get(f"{name}.{key}" if name else key) for key in ("rho", "mean_weight", "var_weight", "weight")}
    for kind in ("rho", "mean_weight", "var_weight"):
        value = own[kind]
        if value is None:
            continue
        value = value.detach().to(torch.promote_types(value.dtype, torch.float32))
        if kind == "rho":
            yield kind, value
        else:
            names = _statistics(path, state, name, len(value), statistics)
            radius = state.get(f"{name}.radius")
            share = value.softmax(0) if radius is None else sparsestmax(value, radius)
            index = torch.tensor([STATISTICS.index(statistic) for statistic in names])
            yield kind, share.new_zeros(len(STATISTICS)).index_copy(0, index, share)
    weight, rho = own["weight"], own["rho"]
    if weight is not None and (rho is None or weight.numel() == rho.numel()):
        yield "gamma", weight.detach().flatten()


def _statistics(
    path: Path, state: Mapping[str, Tensor], name: str, count: int, configured: Sequence[str] | None
) -> Sequence[str]:
    if count == len(STATISTICS):
        return STATISTICS
    if configured is not None and len(configured) == count:
        return [statistic for statistic in STATISTICS if statistic in configured]
    if count == 2 and f"{name}.running_mean" not in state:
        return STATISTICS[:2]
    raise SettingError(f"{path}: layer {name} mixes {count} statistics, and does not say which")
