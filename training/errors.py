"""What ends a training though nobody made a mistake: signals, and faults of disks in particular."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
]  # Windows lacks the last two
"""Ctrl-C; what ``kill``, docker, systemd and ``scancel`` send; a closed terminal; SLURM's warning of the time limit."""


def name_of(number: int) -> str:
    """Return the name of a signal, as a user knows it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


DISK_FAULTS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE", "ENOTCONN")
    if hasattr(errno, name)  # Windows lacks some
}
"""Errors of a disk that is full, failing or gone, which no program can have caused."""


class TrainingError(Exception):
    """Tell of a training that went wrong, or a disk that failed it, told in one line."""


class RollbackError(TrainingError):
    """Tell of a training that has to go back to a checkpoint, and on at a lower learning rate."""

    def __init__(self, message: str, checkpoint: Path, rate: float) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint
        self.rate = rate


def disk_fault(error: OSError, path: Path | str) -> str:
    """Tell in one line that ``path`` could not be written, and why."""
    return f"cannot write {path}: {error.strerror or error}"


def end_training(trainer: Trainer, message: str) -> NoReturn:
    """End a training in all of its processes, each of which has to call this.

    Raises:
        TrainingError: In the first process.
        SystemExit: In the others, which have nothing to add.
    """
    if trainer.is_global_zero:
        raise TrainingError(message)
    raise SystemExit(1)
