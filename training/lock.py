"""A lock on a run's folder that dies with its process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from norms.errors import SettingError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that trains in a run's folder, within this context.

    The lock is the process's own: the data's workers do not inherit it, and the system gives it back when the process
    dies, however it does. Where the system or the file system knows no locks, there is none.

    Args:
        folder: The folder, which is there.

    Raises:
        SettingError: If another process trains there.
    """
    path = folder / ".lock"
    file = _lock(path)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):  # somebody may have removed the folder
                path.unlink()
            os.close(file)


def _lock(path: Path) -> int | None:
    if fcntl is None:
        return None
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise SettingError(f"cannot write into the run folder {path.parent}: {error.strerror}") from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            with os.fdopen(file, "rb") as held:
                process = held.read(20).decode("ascii", "replace").strip() or "that has just begun"
            raise SettingError(
                f"{path.parent} is being trained by another process, {process}: wait for its end, or leave out "
                "--ckpt_path to begin another run"
            ) from error
        except OSError:  # as on network drives
            os.close(file)
            return None
        # Who held the lock before may have removed the file in between.
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
            return file
        os.close(file)
