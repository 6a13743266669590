"""Writing files that nobody ever finds half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a neighbor of ``path`` to write to, which takes its place, in one step, when the block ends without error.

    After an error or Ctrl-C the neighbor is gone; only a killed process leaves it.

    Args:
        path: The file to write; it may exist. Its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
