"""Loggers that a user adds to those of a run: they write into its folder, and a failure of theirs stops no training."""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning.loggers
from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from norms.errors import SettingError

NO_SECOND_WANDB = "trainer.logger: a run has W&B's logger already: remove WandbLogger, and set it up by --wandb.*"

Later = Callable[[Path], Logger]
"""What builds a logger when the run's folder is known."""

PLACES: dict[type, Callable[[Path], dict[str, str]]] = {
    # A resumed run goes on in the same folder.
    TensorBoardLogger: lambda folder: {"save_dir": str(folder), "name": "tensorboard", "version": ""},
    CSVLogger: lambda folder: {"save_dir": str(folder)},
    MLFlowLogger: lambda folder: {
        "save_dir": str(folder),
        "tracking_uri": f"sqlite:///{folder.absolute()}/mlflow.db",
        "artifact_location": f"{folder.absolute()}/mlflow",  # which is else in mlruns, where the training was started
    },
}
"""What a logger gets that has been given none of these arguments, and would write beside the run's folder."""


def built_later(kind: type[Logger], **arguments: Any) -> Later:
    """Return what builds a logger in a run's folder.

    Args:
        kind: The class.
        arguments: Its arguments; those that have their default may become a place in the folder.

    Raises:
        SettingError: If it is Lightning's logger of W&B. Two runs of W&B in one process would end each other.
    """
    if issubclass(kind, pytorch_lightning.loggers.WandbLogger):
        raise SettingError(NO_SECOND_WANDB)
    parameters = inspect.signature(kind).parameters
    is_free = not (kind is MLFlowLogger and os.environ.get("MLFLOW_TRACKING_URI"))

    def build(folder: Path) -> Logger:
        places = PLACES[kind](folder) if kind in PLACES and is_free else {}
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        given = {name for name in places if arguments.get(name) not in (None, defaults.get(name))}
        # Who says where files go that are beside its records has said nothing of the records.
        places = {} if given - {"artifact_location"} else {name: places[name] for name in places.keys() - given}
        try:
            return kind(**{**arguments, **places})
        except Exception as error:  # packages have errors of their own for a place that they do not take
            raise SettingError(f"trainer.logger: {kind.__name__}: {' '.join(str(error).split())}") from error

    return build


def guarded(loggers: Sequence[Logger]) -> list[Logger]:
    """Start loggers, and return those that have started, so that a later failure costs only what they log.

    After its first failure, of which one warning tells, nothing more is logged to a logger.
    """
    return [logger for logger in loggers if _Guard(logger).has_started()]


class _Guard:
    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._failed = False
        for name, _ in inspect.getmembers_static(type(logger), inspect.isfunction):
            if not name.startswith("_"):
                setattr(logger, name, self._attempting(getattr(logger, name)))

    def has_started(self) -> bool:
        self._attempting(lambda: getattr(self._logger, "experiment", None))()
        return not self._failed

    def _attempting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def attempt(*args: Any, **kwargs: Any) -> Any:
            if self._failed:
                return None
            try:
                return method(*args, **kwargs)
            except Exception as error:
                self._failed = True
                name, reason = type(self._logger).__name__, " ".join(str(error).split())
                rank_zero_warn(
                    f"{name} failed ({type(error).__name__}: {reason}); the training goes on without it, "
                    "and metrics.csv has every scalar"
                )

        return attempt
