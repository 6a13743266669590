"""Writing files that nobody ever finds half written, and disks that fail."""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from training.errors import disk_fault


@contextmanager
def replacing(path: str | Path, synced: bool = True) -> Iterator[Path]:
    """Yield a neighbor of ``path`` to write to, which takes its place, in one step, when the block ends without error.

    After an error or Ctrl-C the neighbor is gone; only a killed process leaves it. What has taken its place is on the
    disk, so that a power failure leaves the old file or the new one, and never an empty one.

    Args:
        path: The file to write; it may exist. Its folder is made.
        synced: Whether to wait until the disk has it, which takes milliseconds. Without, a power failure may leave an
            empty file, which is no loss where there are thousands.

    Raises:
        OSError: If the disk fails; it names ``path``.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # which may be a link or a pipe
        yield partial
        if synced:
            with partial.open("r+b") as written:
                os.fsync(written.fileno())
        os.replace(partial, path)
        if synced:
            _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            error.filename = str(path)  # a write that fails names no file
        raise


def _sync_folder(folder: Path) -> None:
    """Put on the disk which files a folder holds, where folders can be opened and the file system knows how."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def or_warn() -> Iterator[None]:
    """Turn a disk that fails in this block into a warning: not every file is worth a training."""
    try:
        yield
    except OSError as error:
        warnings.warn(disk_fault(error, error.filename or "a file"), stacklevel=3)


def free_bytes(folder: Path) -> int:
    """Return how many bytes are free on the disk of a folder, which need not exist."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def set_aside(path: Path) -> Path:
    """Give a damaged file another name, with ``.damaged`` in it, and return that; nothing is replaced."""
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    path.rename(aside)
    return aside
