"""Checkpoints that no kill can destroy."""

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let checkpoints be written as a disk needs it, unless a plugin does something else."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()

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
        """Save the end.

        Raises:
            TrainingError: If it cannot be written.
        """
        self._save_if_new(trainer, at_the_end=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if a signal ended a training that had begun; an error may leave half a step behind."""
        if isinstance(exception, SIGTERMException) and self._saved_step is not None:
            self._save_if_new(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out of Lightning's counts the batch that is there, but has not begun."""
        uncount_batch_that_has_not_begun(checkpoint)

    def _save_if_new(self, trainer: Trainer, at_the_end: bool = False) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer, at_the_end)

    def _save(self, trainer: Trainer, at_the_end: bool) -> None:
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
                    command = as_installed(run.resume_command())
                    end_training(trainer, f"{fault}; {whole}; with more space, go on with: {command}")
                rank_zero_warn(f"{fault}; {whole}, and the training goes on to its next save")
                return
        self._saved_step = trainer.global_step
