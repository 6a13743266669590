"""From what a user calls a run to its learned mixing values."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data.files import check_file
from mixing_analysis import EXPECTED, wandb_runs
from mixing_analysis.kinds import GAMMA, described_kinds
from mixing_analysis.values import Run, Values, checked, frame, last_metrics, layers_of, names_of_today, renamed
from norms.base import MixingNorm
from norms.errors import SettingError
from norms.kinds import BUILTIN, MixingKind
from training.callbacks.mixing import layer_labels
from training.layer_shapes import read_shapes
from training.metrics_file import MetricsFile
from training.run import Run as RunOnDisk
from training.terminal import printable

AVERAGE = re.compile(r"((?:.*\.)?(?:[^.]*_)?(?:ema|swa|avg|average|averaged|shadow)(?:_[^.]*)?)\..+", re.IGNORECASE)
"""A layer below a name that says that it holds a moving average of another network."""


def read_runs(sources: Sequence[str]) -> list[Run]:
    """Read what the user calls runs, and name them.

    Args:
        sources: See :func:`read_run`.

    Returns:
        See :func:`named`.

    Raises:
        SettingError: If one of them is no run, cannot be read, has learned no norms, or is given twice.
    """
    return named([read_run(source) for source in sources])


def read_run(source: str) -> Run:
    """Read a run.

    Args:
        source: A run folder, the folder of a run's versions (the newest is taken), a checkpoint, a W&B offline folder,
            or ``wandb:ENTITY/PROJECT/RUN``.

    Returns:
        The run, named by its path as far as that can be printed.

    Raises:
        SettingError: If it is no run, cannot be read, or has learned no norms.
    """
    run = _read(source)
    return replace(run, name=printable(run.name))


def named(runs: Sequence[Run]) -> list[Run]:
    """Name each run by the end of its path, as short as tells them apart, and make it a group of its own.

    Raises:
        SettingError: If two of them are the same.
    """
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
    return _read_folder(RunOnDisk.find(path, with_checkpoint=False), source)


def _short_names(names: Sequence[str]) -> list[str]:
    lengths = [2] * len(names)
    while True:
        short = ["/".join(name.split("/")[-length:]) for name, length in zip(names, lengths, strict=True)]
        counts = Counter(short)
        if len(counts) == len(names):
            return short
        lengths = [length + (counts[name] > 1) for name, length in zip(short, lengths, strict=True)]


def _read_folder(found: RunOnDisk, source: str) -> Run:
    kinds = described_kinds(found)
    steps: dict[int, Values] = {step: _read_arrays(path, kinds) for step, path in found.mixing_steps().items()}
    names = layers_of(steps[max(steps)]) if steps else []
    notes: list[str] = []
    checkpoint = found.newest_checkpoint()
    if checkpoint is not None:
        try:
            step, values, notes, own = _read_checkpoint(checkpoint)
        except SettingError as error:
            if not steps:
                raise
            checkpoint, notes = None, [f"without the checkpoint: {error}"]
        else:
            if steps and not _alike(names, layers_of(values)):
                notes = [f"without the values of {checkpoint.name}, which has other layers than {found.mixing}"]
            else:
                names, kinds = layers_of(values), _merged(kinds, own)
                steps[step] = values
    if not steps:
        raise SettingError(f"{found.folder} holds neither mixing values nor a checkpoint")
    steps = {step: _called(values, names) for step, values in steps.items()}
    name = found.folder.resolve().as_posix()
    config = found.read_config()
    shapes, metrics = read_shapes(found.mixing_layers), _metrics_of(found)
    return Run(name, source, frame(steps, kinds), "", config, checkpoint, tuple(notes), kinds, shapes, metrics)


def _metrics_of(found: RunOnDisk) -> dict[str, float]:
    return last_metrics(MetricsFile(found.metrics).rows())


def _merged(kinds: tuple[MixingKind, ...], more: Iterable[MixingKind]) -> tuple[MixingKind, ...]:
    return tuple(({kind.name: kind for kind in more} | {kind.name: kind for kind in kinds}).values())


def _read_arrays(path: Path, kinds: Sequence[MixingKind]) -> Values:
    check_file(path)
    try:
        with np.load(path) as file:
            values = dict(file)
    # Whatever NumPy comes upon that believes what is written in a damaged file.
    except Exception as error:
        raise SettingError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    return renamed(checked(values, path, kinds), names_of_today(layers_of(values)))


def _called(values: Values, names: Sequence[str]) -> Values:
    """Call the layers by ``names``, in order: a run may have been begun when they were called otherwise."""
    layers = layers_of(values)
    return renamed(values, dict(zip(layers, names, strict=True))) if len(layers) == len(names) else values


def _alike(layers: Sequence[str], others: Sequence[str]) -> bool:
    """Tell whether layers are the same; older runs left out of the names of ``layers`` what stood before a number."""
    return len(layers) == len(others) and all(
        f".{other}".endswith(f".{layer}") for layer, other in zip(layers, others, strict=True)
    )


def _read_file(path: Path, source: str) -> Run:
    found = RunOnDisk.find(path)
    step, values, notes, own = _read_checkpoint(path)
    resolved = path.resolve()
    name = f"{found.folder.resolve().as_posix()}:{path.name}" if found.has_folder else resolved.as_posix()
    kinds = _merged(described_kinds(found), own)
    return Run(name, source, frame({step: values}, kinds), "", found.read_config(), path, tuple(notes), kinds)


def _read_checkpoint(path: Path) -> tuple[int, Values, list[str], list[MixingKind]]:
    """Read the step of a checkpoint, its values with gamma, notes, and the kinds of the values."""
    checkpoint = _load(path)
    state = checkpoint.get("state_dict", checkpoint)
    state = {key: _full_width(value) for key, value in _flat(state) if isinstance(value, Tensor)}
    step = checkpoint.get("global_step", 0)
    options = checkpoint.get("hyper_parameters")
    options = options.get("norm_options") if isinstance(options, Mapping) else None
    layers, kinds = _mixing_layers(path, state, options if isinstance(options, Mapping) else {})
    layers, notes = _without_copies(layers)
    if not layers:
        names = ", ".join(kind.name for kind in BUILTIN[:-1]) + f" or {BUILTIN[-1].name}"
        raise SettingError(
            f"{path} holds no layer that learns how to normalize: none of its {len(state)} tensors is a {names}"
        )
    values = {
        f"{label}/{kind}": value.detach().float().numpy()
        for label, layer in zip(layer_labels([*layers]), layers.values(), strict=True)
        for kind, value in layer.items()
    }
    return step if isinstance(step, int) else 0, checked(values, path, kinds), notes, kinds


def _full_width(tensor: Tensor) -> Tensor:
    """Return numbers of a byte as float32: norms cannot compute with them."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def _load(path: Path) -> Mapping[str, Any]:
    if path.suffix != ".safetensors":
        return RunOnDisk.find(path).state
    try:
        return load_file(path)
    except OSError as error:
        raise SettingError(f"{path} is not a readable checkpoint: {error.strerror or error}") from error
    except SafetensorError as error:
        reason = "it is cut off, damaged or no file of safetensors" if path.stat().st_size else "it is empty"
        raise SettingError(f"{path} is not a readable checkpoint: {reason}") from error


def _flat(state: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(state, Mapping):
        yield prefix, state
        return
    for key, value in state.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _mixing_layers(
    path: Path, state: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], list[MixingKind]]:
    """Read the values and gamma of every layer of one of the known norms, by the layer's name, and their kinds."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        layer, _, name = key.rpartition(".")
        if ".parametrizations." in f".{layer}.":
            layer, mark, rest = key.rpartition("parametrizations.")
            layer, name = layer.removesuffix("."), mark + rest
        parts.setdefault(layer, {})[name] = value
    # A norm with further kinds would also be read as one without them.
    norms = sorted(_known_norms(), key=lambda norm: -len(norm.kinds))
    layers: dict[str, dict[str, Tensor]] = {}
    kinds: dict[str, MixingKind] = {}
    for layer, part in parts.items():
        try:
            values, own = _read_layer(part, norms, options)
        except SettingError as error:
            raise SettingError(f"{path}: layer {layer}: {error}") from error
        if not values:
            continue
        kinds |= {kind.name: kind for kind in own}
        weight, gates = part.get("weight"), [len(values[kind.name]) for kind in own if kind.per_channel]
        # That of a condition is a table.
        if weight is not None and weight.ndim == 1 and (not gates or len(weight) == gates[0]):
            values = {**values, GAMMA: weight}
        layers[layer] = values
    return layers, list(kinds.values())


def _known_norms(base: type[MixingNorm] = MixingNorm) -> Iterator[type[MixingNorm]]:
    """Yield the norms that are loaded; none is imported because a checkpoint names it."""
    for norm in base.__subclasses__():
        if hasattr(norm, "kinds"):
            yield norm
        yield from _known_norms(norm)


def _read_layer(
    state: Mapping[str, Tensor], norms: Iterable[type[MixingNorm]], options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], tuple[MixingKind, ...]]:
    """Read a layer's values, and say their kinds, as the first of ``norms`` does that knows such a layer."""
    for norm in norms:
        found = [state.get(kind.name, state.get(f"parametrizations.{kind.name}.original")) for kind in norm.kinds]
        # Another program's tensor may bear the same name.
        if all(tensor is not None and _may_hold(tensor) for tensor in found):
            values = norm.read_state(state, **options)
            if values:
                return values, norm.kinds
    return {}, ()


def _may_hold(tensor: Tensor) -> bool:
    return tensor.ndim == 1 and tensor.is_floating_point()


def _without_copies(layers: Mapping[str, dict[str, Tensor]]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Leave out the layers of averaged copies of a network, with a note for each copy."""
    shapes = {
        name: {kind: len(value) for kind, value in layer.items() if kind != GAMMA} for name, layer in layers.items()
    }
    averages: dict[str, list[str]] = {}
    for name in layers:
        if match := AVERAGE.fullmatch(name):
            averages.setdefault(match[1], []).append(name)
    live = [name for name in layers if not AVERAGE.fullmatch(name)]
    copies = {owner: names for owner, names in averages.items() if _are_copies(owner, names, live, shapes)}
    notes = [
        f"without the {len(names)} layers of {owner}, an averaged copy of the network"
        for owner, names in copies.items()
    ]
    copied = {name for names in copies.values() for name in names}
    return {name: layer for name, layer in layers.items() if name not in copied}, notes


def _are_copies(owner: str, names: Sequence[str], live: Sequence[str], shapes: Mapping[str, dict[str, int]]) -> bool:
    """Tell whether some part of the live network has all layers that ``owner`` has, and of the same sizes."""
    tails = {name.removeprefix(f"{owner}.").removeprefix("module."): name for name in names}
    first = next(iter(tails))
    parts = [other.removesuffix(first) for other in live if f".{other}".endswith(f".{first}")]
    return any(all(shapes.get(part + tail) == shapes[name] for tail, name in tails.items()) for part in parts)
