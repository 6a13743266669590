"""Checkpoints that no kill can destroy, and a Ctrl-C that loses nothing."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from normlab import as_installed
from norms.errors import check_range
from training.checkpoint_files import CheckpointFiles
from training.errors import end_training
from training.lightning_private import number_log_rows_by_steps, validation_is_due
from training.run import Run


class RunCheckpoint(Checkpoint):
    """Save ``checkpoints/last.ckpt`` in the run folder every few steps, at the end and on interruption.

    A checkpoint is written beside the last one and then takes its place, so that there is a whole one at any time.
    In a training of one process, SIGTERM, and Ctrl-C within :meth:`ctrl_c_saves`, let the current step and its
    validation end, save, and end the training with the exit status 128 plus the signal's number.

    Args:
        every_n_train_steps: Optimizer steps between two checkpoints.
        keep_all: Whether to keep every checkpoint, as ``checkpoints/step_0000500.ckpt``, besides the last one.
    """

    def __init__(self, every_n_train_steps: int = 500, keep_all: bool = False) -> None:
        check_range("checkpoint.every_n_train_steps", every_n_train_steps, at_least=1)
        self.every_n_train_steps = every_n_train_steps
        self.keep_all = keep_all
        self._saved_step: int | None = None
        self._due = False
        self._process = os.getpid()
        self._signal: int | None = None
        self._end_training: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let checkpoints be written as a disk needs it, unless a plugin does something else."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step at which the run begins or goes on, and take over SIGTERM."""
        self._saved_step = trainer.global_step
        # Several processes receive a signal in different steps, and would wait for each other for ever.
        if trainer.world_size == 1:
            # Lightning ends a training on SIGTERM after the step, where a checkpoint is exact, but amid a validation.
            self._end_training = signal.signal(signal.SIGTERM, self._handle)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the numbers of the log's rows to optimizer steps, which Lightning's own count can be one off."""
        number_log_rows_by_steps(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, but not before a validation that is due: a resumed run would go on without it."""
        step = trainer.global_step
        self._due = step != self._saved_step and (step % self.every_n_train_steps == 0 or step == trainer.max_steps)
        if not validation_is_due(trainer):
            self._finish_step(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what waited for the validation."""
        if not trainer.sanity_checking:
            self._finish_step(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of a training that something else than ``max_steps`` has ended.

        Raises:
            TrainingError: If it cannot be written.
        """
        self._end_training = None
        if trainer.global_step != self._saved_step:
            self._save(trainer, at_the_end=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if a signal ended the training, between two steps; an error may leave half a step behind."""
        self._end_training = None
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + (self._signal or signal.SIGTERM)
            if trainer.global_step != self._saved_step:
                self._save(trainer)

    @contextmanager
    def ctrl_c_saves(self) -> Iterator[None]:
        """Let Ctrl-C end a training as SIGTERM does, within this context; a second Ctrl-C ends it at once.

        Enter it before the data's worker processes start, so that they inherit how to deal with Ctrl-C: not at all.
        """
        previous = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
        elif number == signal.SIGINT and (self._end_training is None or self._signal is not None):
            raise KeyboardInterrupt
        elif self._signal is None:
            self._signal = number
            name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            print(f"\n{name}: ending after this step; Ctrl-C ends it at once", file=sys.stderr, flush=True)

    def _finish_step(self, trainer: Trainer) -> None:
        if self._due:
            self._save(trainer)
        if self._signal is not None and self._end_training is not None:
            self._end_training(signal.SIGTERM, None)

    def _save(self, trainer: Trainer, at_the_end: bool = False) -> None:
        self._due = False
        run = Run.of(trainer)
        # The last one last: it says that the others are there.
        for path in (run.step_checkpoint(trainer.global_step), run.last) if self.keep_all else (run.last,):
            trainer.save_checkpoint(path, weights_only=False)
            files = trainer.strategy.checkpoint_io
            # One process writes, and all go on alike.
            fault = trainer.strategy.broadcast(files.fault if isinstance(files, CheckpointFiles) else None)
            if fault is not None:
                whole = f"{run.last} of an earlier step is whole" if run.last.is_file() else "there is none yet"
                if at_the_end:
                    end_training(
                        trainer, f"{fault}; {whole}; with more space, go on with: {as_installed(run.resume_command())}"
                    )
                rank_zero_warn(f"{fault}; {whole}, and the training goes on to its next save")
                return
        self._saved_step = trainer.global_step
