"""The data that a run was trained on, as its configuration names them."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningDataModule

from lightning_modules.base import TrainingModule
from norms.errors import SettingError
from norms.imports import resolve_callable
from training.run import Run


def data_of(run: Run, module: TrainingModule) -> LightningDataModule:
    """Build the data module of a run, which has read nothing yet.

    Relative folders count from where the command is run, as in the training.

    Args:
        run: The run.
        module: What it has trained, which the data have to fit.

    Raises:
        SettingError: If the run has no configuration, or one that names no data, or they do not fit.
    """
    section: Any = (run.read_config() or {}).get("data")
    if not isinstance(section, Mapping) or not isinstance(section.get("class_path"), str):
        raise SettingError(f"{run.folder} does not tell its data: there is no {run.config.name} that names them")
    build = resolve_callable("data", section["class_path"])
    try:
        data = build(**(section.get("init_args") or {}))
    except (TypeError, ValueError) as error:
        raise SettingError(f"{run.config}: data: {error}") from error
    if not isinstance(data, LightningDataModule):
        raise SettingError(f"{run.config}: data: {section['class_path']} is no data module")
    module.check_data(data)
    return data


def class_names_of(run: Run, module: TrainingModule) -> list[str]:
    """Return what the classes of a run's data are called, in order; nothing if the run or its data do not tell."""
    try:
        return [str(name) for name in getattr(data_of(run, module), "class_names", ())]
    except (SettingError, OSError):  # of data that are elsewhere by now
        return []
