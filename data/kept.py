"""Arrays that are costly to gather from large files, kept in the user's folder for caches."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from norms.errors import SettingError

Arrays = dict[str, NDArray[Any]]


def kept(files: Sequence[str], question: object, least: int, gather: Callable[[], Arrays]) -> Arrays:
    """Return what was gathered from files the last time, or gather it anew if one of them has changed.

    It is kept in ``normlab/shards`` in the user's folder for caches, under a hash of what it depends on: the question
    and each file's path, size and times of change. A disk that fails is no error: it is only kept for the next time.

    Args:
        files: The files.
        question: What else the answer depends on; its ``repr`` counts.
        least: How many rows the first array must have to be worth keeping.
        gather: Makes the arrays.

    Raises:
        SettingError: If a file is missing.
    """
    key = repr((question, [_state(file) for file in files]))
    place = cache_folder("shards") / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()}.npz"
    # A damaged one may make its reader come upon anything; checksums tell.
    with suppress(Exception), open(place, "rb") as file:
        return dict(np.load(file))
    arrays = gather()
    if len(next(iter(arrays.values()))) >= least:
        with suppress(OSError):
            _write(place, arrays)
    return arrays


def cache_folder(name: str) -> Path:
    """Return a folder of ours in the one that the XDG Base Directory Specification has for what can be made again.

    A user without a home gets one that cannot be made, and no folder called ``~``.
    """
    places = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"), os.devnull
    return Path(next(filter(os.path.isabs, places)), "normlab", name)


def _write(place: Path, arrays: Arrays) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, since other processes may do the same.
    handle, partial = tempfile.mkstemp(dir=place.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(partial, place)
    finally:
        Path(partial).unlink(missing_ok=True)


def _state(file: str) -> tuple[str, int, int, int]:
    try:
        found = os.stat(file)
    except (OSError, ValueError) as error:  # ValueError for a NUL in the name
        raise SettingError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    return os.path.abspath(file), found.st_size, found.st_mtime_ns, found.st_ctime_ns
