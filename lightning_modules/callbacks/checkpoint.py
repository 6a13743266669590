"""Checkpoints that no kill can destroy, and a Ctrl-C that loses nothing."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException


class RunCheckpoint(Checkpoint):
    """Save ``checkpoints/last.ckpt`` in the run folder every few steps, at the end and on SIGTERM.

    A checkpoint is written beside the last one and then takes its place, so that there is a whole one at any time.
    SIGTERM lets the current step end, saves and ends the training.

    Args:
        every_n_train_steps: Optimizer steps between two checkpoints.
        keep_all: Whether to keep every checkpoint, as ``checkpoints/step_0000500.ckpt``, besides the last one.
    """

    def __init__(self, every_n_train_steps: int = 500, keep_all: bool = False) -> None:
        if every_n_train_steps < 1:
            raise MisconfigurationException(
                f"checkpoint.every_n_train_steps must be at least 1, got {every_n_train_steps}"
            )
        self.every_n_train_steps = every_n_train_steps
        self.keep_all = keep_all
        self.training = False
        """Whether steps are being made, between which SIGTERM can end the training."""
        self.signal = signal.SIGTERM
        """The signal that ends the training if it is ended by one."""
        self._folder = Path()
        self._saved_step: int | None = None
        self._due = False

    @property
    def last(self) -> Path | None:
        """The last checkpoint, if the run has one."""
        path = self._folder / "last.ckpt"
        return path if path.is_file() else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the run's folder."""
        self._folder = Path(trainer.log_dir or "") / "checkpoints"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step at which the run begins or goes on."""
        self._saved_step = trainer.global_step
        self.training = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Number the rows of the log by optimizer steps; Lightning's own count can be one off in a resumed run."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, but not before a validation that is due: a resumed run would go on without it."""
        step, loop = trainer.global_step, trainer.fit_loop
        if step == self._saved_step or (step % self.every_n_train_steps and step != trainer.max_steps):
            return
        self._due = loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        if not self._due:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what waited for the validation."""
        if self._due:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of a training that something else than ``max_steps`` has ended."""
        self.training = False
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if a signal ended the training, between two steps; an error may leave half a step behind."""
        self.training = False
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + self.signal
            if trainer.global_step != self._saved_step:
                self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        names = ["last.ckpt", f"step_{trainer.global_step:07d}.ckpt"] if self.keep_all else ["last.ckpt"]
        for name in names:
            partial = self._folder / f"{name}.partial"
            trainer.save_checkpoint(partial, weights_only=False)
            if trainer.is_global_zero:
                os.replace(partial, self._folder / name)
        self._saved_step = trainer.global_step
        self._due = False


@contextmanager
def ctrl_c_saves(checkpoint: RunCheckpoint) -> Iterator[None]:
    """Let Ctrl-C end a training as SIGTERM does, within this context; a second Ctrl-C ends it at once.

    Enter it before the data's worker processes start, so that they inherit how to deal with Ctrl-C: not at all.
    """
    process, previous = os.getpid(), signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not checkpoint.training:
            raise KeyboardInterrupt
        print("\nCtrl-C: ending after this step; press it again to end at once", file=sys.stderr, flush=True)
        checkpoint.signal = signal.SIGINT
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
