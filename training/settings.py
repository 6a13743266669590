"""What holds for every value of a configuration, whatever it configures."""

import inspect
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from traceback import walk_tb
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import Namespace
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from pytorch_lightning.profilers import PyTorchProfiler
from torch.nn import Module

from norms.errors import SettingError, check_range
from norms.imports import resolve
from training.lightning_private import starts_by
from training.yaml_text import YAMLRefusedError, check_yaml

LARGEST_INTEGER = 2**63 - 1
"""Beyond it no integer fits into a tensor."""

LONGEST = 4096
"""Characters of a text; no path is longer."""

MOST_PROCESSES = 1024
"""Of one training on one machine; far more than this would fill its memory before anything is trained."""

TRAINER_RANGES: Mapping[str, Mapping[str, float]] = {
    "accumulate_grad_batches": {"at_least": 1},
    "check_val_every_n_epoch": {"at_least": 1},
    "gradient_clip_val": {"at_least": 0},
    "limit_predict_batches": {"at_least": 0},
    "limit_test_batches": {"at_least": 0},
    "limit_train_batches": {"at_least": 0},
    "limit_val_batches": {"at_least": 0},
    "log_every_n_steps": {"at_least": 1},
    "min_epochs": {"at_least": 0},
    "min_steps": {"at_least": 0},
    "num_nodes": {"at_least": 1, "at_most": MOST_PROCESSES},
    "num_sanity_val_steps": {"at_least": -1},
    "overfit_batches": {"at_least": 0},
    "reload_dataloaders_every_n_epochs": {"at_least": 0},
    "val_check_interval": {"above": 0},
}
"""What Lightning does not check, or with a traceback."""


def check_texts(args: Sequence[str]) -> None:
    """Refuse a command line and environment variables of which a value would take for ever to look at.

    Args:
        args: The command line.

    Raises:
        SettingError: If there is one.
    """
    variables = [(f"environment variable {key}", value) for key, value in os.environ.items() if key.startswith("PL_")]
    for name, text in [*(arg.partition("=")[::2] if arg.startswith("--") else ("", arg) for arg in args), *variables]:
        try:
            if re.search(r"[\[{&*]", text):
                check_yaml(text)
        except YAMLRefusedError as error:
            raise SettingError(f"{name.removeprefix('--') or 'a value of the command line'}, {error}") from error
        except yaml.YAMLError:  # then it is some other text
            continue


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what the configuration alone shows to be wrong, for any subcommand.

    Args:
        config: All options, as plain values.

    Raises:
        SettingError: If something is.
    """
    for name in ("name", "runs_dir", "seed_everything"):
        if config[name] in (None, ""):
            raise SettingError(f"{name} must have a value, got {'null' if config[name] is None else 'an empty text'}")
    check_values(config)
    _check_name(config["name"])
    if isinstance(config["seed_everything"], bool):
        given = str(config["seed_everything"]).lower()
        raise SettingError(f"seed_everything must be a number, since a run follows from its seed, got {given}")
    check_range("seed_everything", int(config["seed_everything"]), at_least=0, at_most=2**32 - 1)
    for section in ("model", "data"):
        _check_class_nulls(config[section], section)
    check_nulls(config["trainer"], Trainer, "trainer")
    for name, limits in TRAINER_RANGES.items():
        value = config["trainer"][name]
        if isinstance(value, int | float):
            check_range(f"trainer.{name}", value, **limits)
    _check_devices(config["trainer"]["devices"], str(config["trainer"]["strategy"]))


def check_values(config: Any, where: str = "") -> None:
    """Refuse what no option can mean: numbers that are not finite or fit no tensor, texts that name no file.

    Args:
        config: A configuration, or a part of it, of plain values.
        where: The dotted name of the part.

    Raises:
        SettingError: If there is such a value.
    """
    for key, value in _leaves(config, where):
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingError(f"{key} must be a finite number, got {value}")
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise SettingError(f"{key} must be between -2**63 and 2**63, got a number of {value.bit_length()} bits")
        if isinstance(value, str):
            _check_text(key, value)


def without_enums(value: Any) -> Any:
    """Return a configuration whose texts are texts alone, of which some are members of an enumeration by default."""
    if isinstance(value, Namespace):
        return Namespace(**{key: without_enums(part) for key, part in vars(value).items()})  # type: ignore[no-untyped-call]
    if isinstance(value, list):
        return [without_enums(part) for part in value]
    return value.value if isinstance(value, Enum) and isinstance(value, str) else value


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if where.endswith("dict_kwargs") and not isinstance(key, str):
                raise SettingError(f"{where}: the name of an argument must be a text, got {key!r}")
            yield from _leaves(part, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple | set):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{where}[{index}]")
    else:
        yield where, value


def _check_text(key: str, text: str) -> None:
    if len(text) > LONGEST:
        raise SettingError(f"{key} is too long: it has {len(text)} characters, and at most {LONGEST} are taken")
    if "\0" in text:
        raise SettingError(f"{key} holds a NUL character: {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingError(f"{key} is not UTF-8: {text!r}") from error


def check_nulls(arguments: Mapping[str, Any], callee: Any, where: str) -> None:
    """Refuse null where a value is needed, which jsonargparse lets through.

    Args:
        arguments: The configured arguments of ``callee``; those that are a ``class_path`` with ``init_args`` are looked
            into.
        callee: A class.
        where: The dotted name of the arguments.

    Raises:
        SettingError: If an argument is null that neither may be null nor is by default.
    """
    required = _without_null(callee)
    for name, value in arguments.items():
        key = f"{where}.{name}" if where else name
        if value is None and name in required:
            raise SettingError(f"{key} must have a value, got null")
        for index, part in enumerate(value) if isinstance(value, list) else [(None, value)]:
            _check_class_nulls(part, key if index is None else f"{key}[{index}]")


def _check_class_nulls(value: Any, where: str) -> None:
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str) and value.get("init_args"):
        check_nulls(value["init_args"], resolve("class", value["class_path"]), f"{where}.init_args")


def _without_null(callee: Any) -> set[str]:
    names: set[str] = set()
    for base in (base for base in reversed(callee.__mro__) if "__init__" in vars(base)):
        try:
            hints = get_type_hints(base.__init__)
        except (NameError, TypeError):  # of what is imported for type checkers alone
            continue
        for name, parameter in inspect.signature(base.__init__).parameters.items():
            if parameter.default is None or _admits_none(hints.get(name, Any)):
                names.discard(name)
            else:
                names.add(name)
    return names


def _admits_none(hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(map(_admits_none, get_args(hint)))
    if origin is Literal:
        return None in get_args(hint)
    if hint in (Any, object, NoneType):
        return True
    return origin is None and not isinstance(hint, type)


def check_trainer(trainer: Any) -> None:
    """Refuse options of Lightning's trainer that fit no training here, or that it would take without a word.

    Raises:
        SettingError: If there is one.
    """
    if trainer.max_epochs != -1:
        raise SettingError(
            f"trainer.max_epochs is {trainer.max_epochs}, but data streams without epochs: use trainer.max_steps"
        )
    if trainer.min_epochs:
        raise SettingError(
            f"trainer.min_epochs is {trainer.min_epochs}, but data streams without epochs: use trainer.min_steps"
        )
    if trainer.max_steps < 1 and not trainer.fast_dev_run:
        raise SettingError(f"trainer.max_steps must be at least 1, got {trainer.max_steps}")
    if trainer.min_steps and not trainer.fast_dev_run:
        check_range("trainer.min_steps", trainer.min_steps, at_most=trainer.max_steps)
    if trainer.check_val_every_n_epoch not in (None, 1):
        raise SettingError(
            f"trainer.check_val_every_n_epoch is {trainer.check_val_every_n_epoch}, but data streams without epochs: "
            "use trainer.val_check_interval"
        )
    _check_ignored(trainer)
    check_range("trainer.limit_train_batches", trainer.limit_train_batches, above=0)
    if trainer.max_time is not None:
        try:
            seconds = Timer(trainer.max_time).time_remaining()
        except (TypeError, OverflowError) as error:
            raise SettingError(f"trainer.max_time: {error}") from error
        check_range("the seconds of trainer.max_time", seconds, above=0)


def _check_ignored(trainer: Any) -> None:
    if trainer.default_root_dir is not None:
        raise SettingError("trainer.default_root_dir has no effect here: use runs_dir")
    if trainer.logger is False:
        raise SettingError(
            "trainer.logger: false is not possible, a run always has its metrics.csv; "
            "the environment variable WANDB_MODE=disabled leaves out W&B"
        )
    if getattr(trainer, "model_registry", None) is not None:
        raise SettingError("trainer.model_registry has no effect here: remove it, a run keeps its checkpoints itself")
    if isinstance(trainer.overfit_batches, float) and not trainer.overfit_batches.is_integer():
        raise SettingError(
            "trainer.overfit_batches must be a whole number of batches, since data streams without an end, "
            f"got {trainer.overfit_batches}"
        )


def check_against_model(model: LightningModule, trainer: Mapping[str, Any], callbacks: Sequence[Any]) -> None:
    """Refuse callbacks that change settings, and what a module that steps its optimizers itself, as a GAN, cannot have.

    Raises:
        SettingError: If there is one.
    """
    for callback in callbacks:
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise SettingError(
                f"{type(callback).__name__} trains with other settings than the configuration's, which the run keeps: "
                "remove it from trainer.callbacks"
            )
        if isinstance(callback, BackboneFinetuning) and not isinstance(getattr(model, "backbone", None), Module):
            raise SettingError(
                f"{type(callback).__name__} trains a part of the model that is called backbone, and "
                f"{type(model).__name__} has none: remove it from trainer.callbacks"
            )
    if not model.automatic_optimization:
        _check_own_steps(model, trainer, callbacks)


def _check_own_steps(model: LightningModule, trainer: Mapping[str, Any], callbacks: Sequence[Any]) -> None:
    name = f"{type(model).__name__} steps its optimizers itself"
    accumulates = "model.init_args.accumulate averages those of several, "
    larger = "a larger data.init_args.batch_size does the same"
    more = accumulates + "and " + larger if hasattr(model, "accumulate") else larger
    if trainer["gradient_clip_val"]:
        clip = f" and set model.init_args.gradient_clip: {trainer['gradient_clip_val']:g}"
        instead = clip if hasattr(model, "gradient_clip") else ""
        raise SettingError(f"{name}, and the trainer clips no gradients: remove trainer.gradient_clip_val{instead}")
    # On a CPU Lightning would replace float16 by bfloat16.
    if trainer["precision"] in ("16-mixed", "16", 16):
        raise SettingError(f"{name}, without the scaled loss that float16 needs: set trainer.precision: bf16-mixed")
    if trainer["profiler"] == "pytorch" or isinstance(trainer["profiler"], PyTorchProfiler):
        raise SettingError(
            f"{type(model).__name__} draws pictures by a copy of its generator, and PyTorch's profiler lets nothing be "
            "copied: set trainer.profiler to simple or advanced"
        )
    if trainer["accumulate_grad_batches"] > 1:
        raise SettingError(f"{name}, with the gradients of one batch: remove trainer.accumulate_grad_batches; {more}")
    for callback in callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            raise SettingError(
                f"{name}, with the gradients of one batch, not those of {type(callback).__name__}: "
                f"remove it from trainer.callbacks; {more}"
            )
        if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
            average = (
                "; model.init_args.ema_half_life averages its generator" if hasattr(model, "ema_half_life") else ""
            )
            raise SettingError(
                f"{type(callback).__name__} would average all networks of {type(model).__name__} alike: "
                f"remove it from trainer.callbacks{average}"
            )


def check_processes(trainer: Trainer) -> None:
    """Refuse processes that would only wait for each other, or that no run folder could be written by.

    Those that somebody else has started, such as ``torchrun``, may be more than the cores.

    Raises:
        SettingError: If there are more of them on CPUs than there are cores, or they do not run the command again.
    """
    cores = os.cpu_count() or 1
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    started = environment is not None and environment.creates_processes_externally
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores and not started:
        raise SettingError(
            f"trainer.devices must be at most {cores}, the number of this machine's cores, got {trainer.num_devices}"
        )
    if (method := starts_by(trainer)) != "popen":
        raise SettingError(
            f"trainer.strategy must not start processes by {method}, of which nothing comes back: use ddp"
        )


def check_call(callee: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that a class does not take, such as those of jsonargparse's ``dict_kwargs``.

    Raises:
        SettingError: If there is one.
    """
    try:
        inspect.signature(callee).bind(*args, **kwargs)
    except TypeError as error:
        raise SettingError(f"{callee.__name__}: {error}") from error


def is_of_a_callback(error: Exception) -> bool:
    """Tell whether one of Lightning's callbacks has raised an error: then it does not fit the model or its options."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    last = next((name for name in reversed(frames) if not name.startswith("torch.")), "")
    return last.startswith("pytorch_lightning.callbacks.")


def does_not_fit(error: Exception) -> bool:
    """Tell whether an error says that something is too large for the memory or for a tensor."""
    words = r"allocate memory|out of memory|overflow|Storage size|Trying to create tensor"
    return isinstance(error, MemoryError | OverflowError) or (
        isinstance(error, RuntimeError | TypeError) and re.search(words, str(error), re.IGNORECASE) is not None
    )


def _check_devices(devices: Any, strategy: str) -> None:
    if strategy.startswith("deepspeed"):
        raise SettingError("trainer.strategy: deepspeed writes checkpoints that nothing here can read: use ddp")
    if isinstance(devices, int) or (isinstance(devices, str) and re.fullmatch(r"-?\d{1,9}", devices)):
        check_range("trainer.devices", int(devices), at_least=-1, at_most=MOST_PROCESSES)
        if int(devices) == 0:
            raise SettingError("trainer.devices must be at least 1, or auto or -1 for all, got 0")
        if int(devices) > 1 and strategy == "single_device":
            raise SettingError(f"trainer.strategy: single_device trains in one process, and not in {devices}: use ddp")


def _check_name(name: str) -> None:
    if os.path.basename(name) != name or name in ("", ".", "..") or not name.isprintable():
        raise SettingError(f"name must be the name of a folder, got {name!r}")
    if len(name.encode()) > 255:
        raise SettingError(f"name must be the name of a folder, of at most 255 bytes, got {len(name.encode())}")
