"""Checkpoints that no kill can destroy."""

import os
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from norms.errors import check_range
from training.lightning_private import number_log_rows_by_steps, uncount_batch_that_has_not_begun
from training.run import Run


class RunCheckpoint(Checkpoint):
    """Save ``checkpoints/last.ckpt`` in the run folder every few steps, at the end and on interruption.

    A checkpoint is written beside the last one and then takes its place, so that there is a whole one at any time.
    Everything else that belongs to its steps is on disk before it is: rows of metrics, mixing values, pictures. So a
    resumed run, which drops what belongs to later steps, has all of them.

    Args:
        every_n_train_steps: Optimizer steps between two checkpoints.
        keep_all: Whether to keep every checkpoint, as ``checkpoints/step_0000500.ckpt``, besides the last one.
    """

    def __init__(self, every_n_train_steps: int = 500, keep_all: bool = False) -> None:
        check_range("checkpoint.every_n_train_steps", every_n_train_steps, at_least=1)
        self.every_n_train_steps = every_n_train_steps
        self.keep_all = keep_all
        self._saved_step: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step at which the run begins or goes on."""
        self._saved_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save the last step if it is time; here, where its row is on disk and its validation done."""
        # Lightning's own count can be one off in a resumed run.
        number_log_rows_by_steps(trainer)
        if trainer.global_step % self.every_n_train_steps == 0:
            self._save_if_new(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end."""
        self._save_if_new(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if a signal ended a training that had begun; an error may leave half a step behind."""
        if isinstance(exception, SIGTERMException) and self._saved_step is not None:
            self._save_if_new(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out of Lightning's counts the batch that is there, but has not begun."""
        uncount_batch_that_has_not_begun(checkpoint)

    def _save_if_new(self, trainer: Trainer) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        run = Run.of(trainer)
        # The last one last: it says that the others are there.
        for path in (run.step_checkpoint(trainer.global_step), run.last) if self.keep_all else (run.last,):
            partial = path.with_name(f"{path.name}.partial")
            trainer.save_checkpoint(partial, weights_only=False)
            if trainer.is_global_zero:
                os.replace(partial, path)
        self._saved_step = trainer.global_step
