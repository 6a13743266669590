"""The terminal: what is printed is seen and not obeyed, and outlives its reader.

Names come from folders, files and other people's runs, and a terminal obeys some of what they hold. A closed terminal
or pipe ends no training. Nothing here imports torch, so that it is quick to load.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast


def printable(text: str) -> str:
    r"""Return ``text`` with everything written out that is not to be seen, as in a literal of Python.

    That is control characters, such as those that begin an escape code; line breaks; marks that turn the direction of
    writing around; and the bytes of a file's name that are no text. ``"\x1b[2J"`` becomes ``r"\x1b[2J"``.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


class LastingStream:
    """Wrap a text stream so that its writes never fail; what cannot be written is dropped.

    Once its terminal or the reader of its pipe is gone, its file descriptor leads to nowhere, also for others.

    Args:
        stream: What is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as far as that is possible."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flush, as far as that is possible."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if error.errno in (errno.EIO, errno.EPIPE):
            # For good, since Python flushes once more at its exit, and fails if that does.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Let stdout and stderr survive their readers within this context."""
    out, err = (cast(TextIO, LastingStream(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield
