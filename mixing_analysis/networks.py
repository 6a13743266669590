"""The networks and data of runs, as they are loaded for an evaluation."""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lightning_fabric.utilities import move_data_to_device
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule
from torch import nn

from lightning_modules.base import TrainingModule
from lightning_modules.style_transfer import StyleTransfer
from mixing_analysis.values import Run
from norms.errors import SettingError
from norms.imports import only_from, resolve
from norms.recalibration import recalibrate
from training.doors import TRUSTED
from training.run import Run as RunOnDisk

Network = TypeVar("Network", bound=nn.Module)


def recalibrated(network: Network, batches: Sequence[Any], device: torch.device) -> Network:
    """Return a copy of a network with running statistics that fit it, on training data; see :func:`recalibrate_`."""
    return recalibrate_(copy.deepcopy(network).to(device), batches, device)


def recalibrate_(network: Network, batches: Sequence[Any], device: torch.device) -> Network:
    """Give a network running statistics that fit it, on training data, in place.

    Photos are painted as in training, each in the next of the styles of a network that has several, since these share
    the statistics.

    Args:
        network: A module of a training, or a part of one.
        batches: What to compute the statistics on: of a training module, batches of its data, otherwise tuples of what
            the network is called with.
        device: Where the network is.

    Returns:
        The network.
    """
    painted = 0

    def forward(module: nn.Module, batch: Any) -> None:
        nonlocal painted
        batch = move_data_to_device(batch, device)
        if isinstance(module, StyleTransfer) and len(module.styles) > 1:
            photos = batch["image"]
            module(photos, torch.arange(painted, painted + len(photos), device=device) % len(module.styles))
            painted += len(photos)
        elif isinstance(module, TrainingModule):
            module.predict_step(batch, 0)
        else:
            module(*batch)

    return recalibrate(network, batches, forward=forward, sync=False)


def load_module(run: Run) -> TrainingModule:
    """Return the trained module of a run, in evaluation mode.

    Raises:
        SettingError: If it has no checkpoint or configuration, or names a class that must not be imported.
    """
    if run.checkpoint is None:
        raise SettingError("there is no checkpoint of it here")
    module_class = _configured(run, "model", TrainingModule)
    module: TrainingModule = RunOnDisk.find(run.checkpoint).load(module_class)
    return module


def load_data(run: Run) -> LightningDataModule:
    """Return the data module that a run was trained with, not set up yet.

    Raises:
        SettingError: If the run has no configuration, or it names other arguments than the class has.
    """
    data_class = _configured(run, "data", LightningDataModule)
    section = (run.config or {})["data"]
    arguments = (section.get("init_args") if isinstance(section, Mapping) else None) or {}
    try:
        data: LightningDataModule = data_class(**arguments)
    except (TypeError, ValueError) as error:
        raise SettingError(f"its data module cannot be built: {error}") from error
    return data


def _configured(run: Run, part: str, base: type) -> Any:
    if run.config is None:
        raise SettingError("there is no config.yaml beside its checkpoint, which says how to evaluate it")
    section = run.config.get(part)
    path = section.get("class_path", "") if isinstance(section, Mapping) else str(section)
    if isinstance(path, str) and "." not in path:
        raise SettingError(f"its config.yaml names a {part} that is not there: {path!r}")
    found = resolve(f"its {part}", path)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise SettingError(f"its config.yaml names a {part} that is no {base.__name__}: {path!r}")
    return found


@contextmanager
def evaluating(trusted: Sequence[str]) -> Iterator[None]:
    """Let a run's network be evaluated without a word, and tell in one line why it cannot be.

    Args:
        trusted: Packages that the run may name classes of, besides :data:`training.doors.TRUSTED`.

    Raises:
        SettingError: If it cannot be evaluated.
    """
    with quiet(), only_from((*TRUSTED, *trusted), "--trust"):
        try:
            yield
        # A module without forward and predict_step, one that Lightning refuses to validate, and whatever torch finds in
        # a network that is not as it should be.
        except (ValueError, OSError, MisconfigurationException, RuntimeError) as error:
            raise SettingError(" ".join(str(error).split())) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what Lightning says of devices and data loaders."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
