"""The processes of a training: none waits for one that is gone, and none is left behind."""

import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.distributed import DistError

from normlab import again, as_installed
from norms.errors import check_range
from norms.pooling import is_distributed
from training.callbacks.heartbeat import Heartbeat
from training.errors import ENDING, RollbackError, TrainingError, name_of
from training.lightning_private import take_started_processes
from training.run import Run

FIRST = "NORMLAB_FIRST_PROCESS"
"""The environment variable that tells the processes which a training starts who has started them."""

PERIOD = 0.2
"""Seconds between two looks at the other processes."""

GRACE = 5.0
"""Seconds that the main thread has to end by itself, when the training cannot go on."""

PATIENCE = 30.0
"""Seconds that the other processes have to end, when the training has ended in the first."""

OF_GLOO = re.compile(r"\[\S*gloo/\S*\] ?")
"""Where in gloo's source an error was found, as it says."""


class Companions(Callback):
    """Watch the other processes of a training that Lightning has started, from a thread.

    While the main thread waits for another process it sees neither that this one is gone, nor a signal. So the thread
    ends the process, if the main thread does not: when another process has failed, with one line and the status 1; when
    a signal has come before all processes have found each other, with the status 128 plus its number. The first process
    ends last. Those that somebody else has started, such as ``torchrun`` or SLURM, are ended by them.

    Nobody tells a host that another one is gone, hangs or is cut off. So the thread also ends the process if others
    have not come in time, or if on several hosts one is silent for long.

    Args:
        silence: Seconds after which a process on several hosts that is not heard of counts as gone.
        joining: Seconds that all processes have to find each other.

    Raises:
        SettingError: If ``silence`` is below 3 or ``joining`` below 1.
    """

    def __init__(self, silence: float = 30.0, joining: float = 300.0) -> None:
        check_range("hosts.silence", silence, at_least=3)
        check_range("hosts.joining", joining, at_least=1)
        self.silence, self.joining = silence, joining
        self._waited = 0.0
        self._heartbeat: Heartbeat | None = None
        self._others: list[subprocess.Popen[bytes]] = []
        self._first: int | None = None
        self._thread: threading.Thread | None = None
        self._end: tuple[int, str] | None = None
        self._leaving = self._at_once = self._over = self._fitted = False

    @contextmanager
    def watched(self, trainer: Trainer, run: Run, given: Sequence[str] = ()) -> Iterator[None]:
        """Watch within this context, in which signals have handlers already.

        Args:
            trainer: The trainer, before it starts other processes.
            run: The run, for what is told of how to go on.
            given: The command line, without the program, for what is told of how to begin anew.
        """
        if trainer.num_devices * trainer.num_nodes == 1 or os.name != "posix":
            yield
            return
        if trainer.local_rank == 0:
            os.environ[FIRST] = str(os.getpid())
        elif FIRST in os.environ:
            self._first = int(os.environ[FIRST])
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False) if in_main_thread else -1
        self._thread = threading.Thread(target=self._watch, args=(trainer, run, given, woken), daemon=True)
        self._thread.start()
        try:
            yield
        except KeyboardInterrupt:
            self._at_once = True  # also amid the saving after a first one
            raise
        finally:
            if self._heartbeat is not None:
                self._heartbeat.end(done=False)
            if self._first is None:
                self._end_others(trainer)
                os.environ.pop(FIRST, None)
            self._over = True
            self._thread.join()
            if in_main_thread:
                signal.set_wakeup_fd(before)
            os.close(woken)
            os.close(wake)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the main thread end this process, which it is about to do, unless the training goes on."""
        self._leaving = not isinstance(exception, RollbackError)
        self._at_once = isinstance(exception, KeyboardInterrupt)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to no other process any more: from here on, none waits for another, and each ends in its own time."""
        self._fitted = True
        if self._heartbeat is not None:
            self._heartbeat.end(done=True)

    def blame(self, trainer: Trainer, error: RuntimeError) -> None:
        """Tell that another process is to blame for an error of this one, if another one is gone or out of reach.

        Raises:
            TrainingError: If another process has failed, or the connection to it is broken.
            SystemExit: If a signal has ended it; or, where another process of this host tells of it.
        """
        if self._thread is None:
            return
        end = time.monotonic() + 1  # it may not quite have ended
        while self._end is None and time.monotonic() < end:
            time.sleep(PERIOD)
        if self._end is not None:
            status, message = self._end
            raise TrainingError(message) if status == 1 and message else SystemExit(status)
        if isinstance(error, DistError) or OF_GLOO.search(str(error)):
            reason = OF_GLOO.sub("", str(error)).splitlines()[0].split(". ")[0].strip(" .")
            broke = f"the connection to another process of this training broke ({reason}); {_how_on(trainer)}"
            told = broke if is_distributed() else _not_joined(trainer, f"({reason})")
            raise TrainingError(told) if trainer.local_rank == 0 else SystemExit(1)

    def _watch(self, trainer: Trainer, run: Run, given: Sequence[str], woken: int) -> None:
        while not self._over:
            ready, _, _ = select.select([woken], [], [], PERIOD)
            signals = os.read(woken, 100) if ready else b""
            self._others = self._others or take_started_processes(trainer)
            if self._end is None:
                self._end, deadline = self._seen(run, given, signals), time.monotonic() + GRACE
                if self._end is None and (told := self._unheard(trainer)):
                    # Whoever waits for a silent process never sees it, and one process of each host tells of it.
                    self._end, deadline = (1, told if trainer.local_rank == 0 else ""), time.monotonic()
            if self._end is not None and not self._leaving and time.monotonic() > deadline:
                self._exit(*self._end)

    def _seen(self, run: Run, given: Sequence[str], signals: bytes) -> tuple[int, str] | None:
        """Return with which status and message this process has to end; None if it has not."""
        begun, anew = is_distributed(), f"begin anew with: {again(given)}"
        for number in signals:
            if number in ENDING and not begun:
                return 128 + number, f"interrupted by {name_of(number)}; {anew}"
        for rank, other in enumerate(self._others, 1):
            if status := other.poll():
                number = -status if status < 0 else status - 128
                if number in ENDING:
                    if not begun:
                        os.kill(os.getpid(), number)  # for the main thread, if it hears
                    how_on = f"go on with: {as_installed(run.resume_command())}" if begun else anew
                    return 128 + number, f"interrupted by {name_of(number)}; {how_on}"
                how = f"was killed by {signal.Signals(number).name}" if status < 0 else f"failed with status {status}"
                command = as_installed(run.resume_command())
                return 1, f"process {rank} of this training {how}, so the training ends; go on with: {command}"
        if self._first is not None and self._first != os.getppid():
            return 1, "the first process of this training is gone, so this one ends"
        return None

    def _unheard(self, trainer: Trainer) -> str:
        """Tell that another process, on this host or another one, is not heard of; empty if nothing is wrong."""
        if not is_distributed():
            self._waited += PERIOD
            return _not_joined(trainer, f"within {self.joining:g} s") if self._waited > self.joining else ""
        if trainer.num_nodes == 1 or self._fitted:
            return ""
        self._heartbeat = self._heartbeat or Heartbeat(trainer.global_rank, trainer.world_size)
        process, silence = self._heartbeat.silence(PERIOD)
        return (
            ""
            if silence <= self.silence
            else (
                f"{process} has not been heard of for {silence:.0f} s, so the training ends: look at that host and the "
                f"network between; {_how_on(trainer)}"
            )
        )

    def _end_others(self, trainer: Trainer) -> None:
        self._others = self._others or take_started_processes(trainer, all_of_them=False)
        patience = 0.0 if self._at_once or not is_distributed() else PATIENCE
        end = time.monotonic() + patience
        for other in self._others:
            with suppress(subprocess.TimeoutExpired):
                other.wait(max(0, end - time.monotonic()))
            other.kill()
            other.wait()

    def _exit(self, status: int, message: str) -> None:
        for other in self._others:
            other.kill()
        if message and (status == 1 or self._first is None):  # all are told of a signal, one tells of it
            with suppress(OSError):
                os.write(2, f"{'error: ' if status == 1 else ''}{message}\n".encode())
        os._exit(status)


def _how_on(trainer: Trainer) -> str:
    where = " on all hosts" if trainer.num_nodes > 1 else ""
    return f"go on by the same command{where}, with --ckpt_path last"


def _not_joined(trainer: Trainer, when: str) -> str:
    """Tell that the processes of a training have not found each other, and what to look at."""
    found = f"the {trainer.world_size} processes of this training have not found each other {when}"
    if trainer.num_nodes == 1:
        return found
    where = ":".join(os.environ.get(name, f"${name}") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return (
        f"{found} at {where}: check that the command runs on all {trainer.num_nodes} hosts, that this address is that "
        "of the first one, the same for all, and that each of them reaches it"
    )
