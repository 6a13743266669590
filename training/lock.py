"""A lock on a run's folder that dies with its process."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from norms.errors import SettingError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""The name of the file in a run's folder that is locked."""

_HELD = threading.Lock()
_held: set[tuple[int, int, int]] = set()
"""The folders of this process's own trainings, which the system's locks do not keep apart: process, device, inode."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only training in a run's folder, within this context.

    The lock is the process's own: the data's workers do not inherit it, and the system gives it back when the process
    dies, however it does. Where the system or the file system knows no locks, it holds within this process only.

    Args:
        folder: The folder, which is there.

    Raises:
        SettingError: If another training is there.
    """
    path = folder / LOCK
    with _only_in_process(folder):
        file = _lock(path)
        try:
            yield
        finally:
            if file is not None:
                with suppress(OSError):  # somebody may have removed the folder
                    path.unlink()
                os.close(file)


@contextmanager
def _only_in_process(folder: Path) -> Iterator[None]:
    try:
        found = folder.stat()
    except OSError as error:
        raise _unwritable(folder, error) from error
    key = (os.getpid(), found.st_dev, found.st_ino)
    with _HELD:
        if key in _held:
            raise _in_use(folder, "this process")
        _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)


def _unwritable(folder: Path, error: OSError) -> SettingError:
    return SettingError(f"cannot write into the run folder {folder}: {error.strerror}")


def _in_use(folder: Path, who: str) -> SettingError:
    return SettingError(
        f"{folder} is being trained by {who}: wait for its end, or leave out --ckpt_path to begin another run"
    )


def _lock(path: Path) -> int | None:
    if fcntl is None:
        return None
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _unwritable(path.parent, error) from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            with os.fdopen(file, "rb") as held:
                process = held.read(20).decode("ascii", "replace").strip() or "that has just begun"
            raise _in_use(path.parent, f"another process, {process}") from error
        except OSError:  # as on network drives
            os.close(file)
            return None
        # Who held the lock before may have removed the file in between.
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
            return file
        os.close(file)
