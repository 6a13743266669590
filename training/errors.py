"""What ends a training though nobody made a mistake, and faults of disks in particular."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

DISK_FAULTS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE", "ENOTCONN")
    if hasattr(errno, name)  # Windows lacks some
}
"""Errors of a disk that is full, failing or gone, which no program can have caused."""


class TrainingError(Exception):
    """Tell of a training that went wrong, or a disk that failed it, told in one line."""


def disk_fault(error: OSError, path: Path | str) -> str:
    """Tell in one line that ``path`` could not be written, and why."""
    return f"cannot write {path}: {error.strerror or error}"


def end_training(trainer: Trainer, message: str) -> NoReturn:
    """End a training in all of its processes, each of which has to call this.

    Raises:
        TrainingError: In the first process.
        SystemExit: In the others.
    """
    if trainer.is_global_zero:
        raise TrainingError(message)
    # Lightning's observer of processes kills all of them when one ends with another status, before the first has told.
    raise SystemExit(0)
