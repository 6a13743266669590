"""Loggers that a user adds to those of a run: a failure of theirs stops no training either."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning.loggers import Logger


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
