"""Doing things in order in another thread, without waiting for ever for one that hangs."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress


class Background:
    """Run actions in a thread, one after the other, until one fails; the rest is dropped.

    The thread ends with the process, whatever it is doing.

    Args:
        patience: Seconds that :meth:`finish` waits at most.
    """

    def __init__(self, patience: float = 60.0) -> None:
        self.patience = patience
        self._actions: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._messages: queue.Queue[str] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._since: float | None = None

    def do(self, action: Callable[[], object]) -> None:
        """Do ``action`` when all before it are done."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._actions.put(action)

    def report(self, message: str) -> None:
        """Leave a message for who asks for :meth:`messages`."""
        self._messages.put(message)

    def messages(self) -> Iterator[str]:
        """Yield the messages that were left since the last call."""
        with suppress(queue.Empty):
            while True:
                yield self._messages.get_nowait()

    def error(self, patience: float) -> Exception | None:
        """Return what has failed, which also is an action that has taken more than ``patience`` seconds."""
        since = self._since
        if self._error is None and since is not None and time.monotonic() - since > patience:
            self._error = TimeoutError(f"no answer for {patience:g} s")
        return self._error

    def drain(self, patience: float) -> None:
        """Wait until everything so far is done or has failed, at most ``patience`` seconds."""
        if self._thread is not None:
            done = threading.Event()
            self.do(done.set)
            end = time.monotonic() + patience
            while self._thread.is_alive() and not done.wait(0.05) and time.monotonic() < end:
                pass

    def finish(self) -> None:
        """Wait until everything is done or has failed, at most ``patience`` seconds."""
        if self._thread is not None:
            self._actions.put(None)
            self._thread.join(self.patience)
            if self._thread.is_alive() and self._error is None:
                self._error = TimeoutError(f"no answer for {self.patience:g} s")
            self._thread = None

    def _work(self) -> None:
        while (action := self._actions.get()) is not None and self._error is None:
            self._since = time.monotonic()
            try:
                action()
            except Exception as error:
                self._error = error
            self._since = None
