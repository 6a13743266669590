"""Signals end a training after its step, in all of its processes, with everything saved."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from types import FrameType
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from norms.pooling import is_distributed
from training.errors import ENDING, name_of

CHILD_ENDED = [signal.SIGCHLD] if hasattr(signal, "SIGCHLD") else []  # Windows lacks it


class EndOnSignal(Callback):
    """End a training on SIGINT, SIGTERM, SIGHUP or SIGUSR1, as if it had been stopped between two steps.

    The current step and its validation end. Then a ``SIGTERMException`` with the status 128 plus the signal's number
    leaves Lightning's ``fit``, in all processes before the same step, whichever of them got the signal. Ctrl-C ends a
    training at once that has not begun yet, and so does a second Ctrl-C. So does every signal, while the processes of a
    training have not found each other. One that comes when the last step is done changes nothing.

    The data's worker processes pass over these signals, which often reach the whole process group: a training cannot
    end its step without its data.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._alone = self._tells = True
        self._signal = 0
        self._step = -1

    @contextmanager
    def installed(self, alone: bool = True, tells: bool = True) -> Iterator[None]:
        """Take over the signals within this context, if it is entered in the main thread, the only one that can.

        Args:
            alone: Whether this is the only process of the training.
            tells: Whether this is the process that says what a signal does, which often reaches all of them.
        """
        self._alone, self._tells = alone, tells
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # What is ignored is meant to be, as by nohup; None is a handler that Python cannot put back.
        previous = {number: signal.getsignal(number) for number in ENDING}
        previous = {number: handler for number, handler in previous.items() if handler not in (signal.SIG_IGN, None)}
        for number in previous:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            _end_workers()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the data's worker processes pass over signals."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for name in ("train_dataloader", "val_dataloader"):
            setattr(data, name, _with_deaf_workers(getattr(data, name)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a training that got a signal before it began."""
        self._end_if_told(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End a training that got a signal within its last step, whose rows are on disk now."""
        # Amid the batches of an accumulated gradient nothing can be saved that would go on exactly.
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._end_if_told(trainer)

    def _end_if_told(self, trainer: Trainer) -> None:
        number = self._signal
        if trainer.world_size > 1:
            # Each process gets a signal in another step, or not at all, and would wait for the others for ever.
            told = torch.tensor(number, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            number = int(told)
        if number:
            self._signal = number
            raise SIGTERMException(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # in a process that was forked
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif number == signal.SIGINT and (self._signal or self._step < 0):
            raise KeyboardInterrupt
        elif not self._alone and not is_distributed() and not self._signal:
            self._signal = number
            raise SIGTERMException(128 + number)
        elif not self._signal:
            self._signal = number
            if not self._tells:
                return
            # Not by print, which the signal may have interrupted; and after SIGHUP nobody may be there to read it.
            with suppress(OSError):
                os.write(2, f"\n{name_of(number)}: ending after this step; Ctrl-C ends it at once\n".encode())


def _end_workers() -> None:
    """End the data's workers that are left, which pass over one SIGTERM and would hold up the end of this process."""
    # torch's handler would raise an error wherever this process is, which tells of a worker that was killed.
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in CHILD_ENDED}
    try:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()
                child.join()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _with_deaf_workers(make_loaders: Callable[[], Any]) -> Callable[[], Any]:
    def make_deaf(loader: DataLoader[Any]) -> DataLoader[Any]:
        loader.worker_init_fn = partial(_pass_over_signals, loader.worker_init_fn)
        return loader

    @wraps(make_loaders)
    def wrapped() -> Any:
        return apply_to_collection(make_loaders(), DataLoader, make_deaf)

    return wrapped


def _pass_over_signals(then: Callable[[int], None] | None, worker: int) -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    # A worker that hangs must still be ended by its DataLoader, which sends SIGTERM after a while.
    signal.signal(signal.SIGTERM, _end_on_the_next)
    if then is not None:
        then(worker)


def _end_on_the_next(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
