"""Checkpoints that no kill can destroy."""

import json
import math
from pathlib import Path
from typing import Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from normlab import as_installed
from norms.errors import check_range, unknown
from training.best_values import best_of
from training.callbacks.generation_metrics import GenerationMetrics
from training.callbacks.step_axis import STEP
from training.checkpoint_files import CheckpointFiles
from training.errors import RollbackError, end_training
from training.files import or_warn, replacing
from training.lightning_private import uncount_batch_that_has_not_begun
from training.run import Run
from training.wandb_logger import WandbLogger


class RunCheckpoint(Checkpoint):
    """Save ``checkpoints/last.ckpt`` in the run folder every few steps, at the end and on interruption.

    A checkpoint is written beside the last one and then takes its place, so that there is a whole one at any time.
    Everything else that belongs to its steps is on disk before it is: rows of metrics, mixing values, pictures. So a
    resumed run, which drops what belongs to later steps, has all of them.

    Args:
        every_n_train_steps: Optimizer steps between two checkpoints.
        keep_all: Whether to keep every checkpoint, as ``checkpoints/step_0000500.ckpt``, besides the last one.
        monitor: A metric of validations, such as ``val/kid_garments``. The checkpoint of its best value is kept too, as
            ``checkpoints/best.ckpt``, and the value and its step in ``checkpoints/best.json``; of equal ones the first.
        mode: Whether the lowest (``min``) or the highest (``max``) value is best; null for the highest accuracy,
            Inception Score, precision, recall, density and coverage, and the lowest of all else.

    Raises:
        SettingError: If ``every_n_train_steps`` is below 1.
    """

    def __init__(
        self,
        every_n_train_steps: int = 500,
        keep_all: bool = False,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        check_range("checkpoint.every_n_train_steps", every_n_train_steps, at_least=1)
        self.every_n_train_steps = every_n_train_steps
        self.keep_all = keep_all
        self.monitor = monitor
        self.mode = mode or best_of(monitor or "")
        self._saved_step: int | None = None
        # The best value so far, and that of which the checkpoint is on the disk.
        self._best: dict[str, Any] | None = None
        self._kept: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let checkpoints be written as a disk needs it, unless a plugin does something else."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step at which the run begins or goes on, and the best value so far, if its checkpoint is there."""
        self._saved_step = trainer.global_step
        if self.monitor is None:
            return
        run = Run.of(trainer)
        # A run that goes on from an earlier step may have lost its best checkpoint to a later one, which is void now.
        if not trainer.strategy.broadcast(self._best is not None and self._best == read_best(run)):
            self._best = self._kept = None
            if trainer.is_global_zero:
                run.best_record.unlink(missing_ok=True)
                run.best.unlink(missing_ok=True)
        self._summarize(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note a value that is better than the best so far.

        Raises:
            SettingError: If a training's validation logs no such metric.
        """
        if self.monitor is None or trainer.sanity_checking:
            return
        found = trainer.callback_metrics
        if self.monitor not in found:
            # Not each validation has those.
            metrics = (each for each in _callbacks(trainer) if isinstance(each, GenerationMetrics))
            computed = {name for each in metrics for name in each.logged}
            if self.monitor not in computed:
                raise unknown("metric in checkpoint.monitor", self.monitor, sorted((computed | found.keys()) - {STEP}))
            return
        # Processes may disagree on a metric, and have to save together.
        value = float(trainer.strategy.broadcast(float(found[self.monitor])))
        if self._is_better(value):
            self._best = {"metric": self.monitor, "mode": self.mode, "value": value, "step": trainer.global_step}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save the last step if it is time; here, where its row is on disk and its validation done."""
        self._save_best(trainer)
        if trainer.global_step % self.every_n_train_steps == 0:
            self._save_if_new(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end.

        Raises:
            TrainingError: If it cannot be written.
        """
        self._save_best(trainer)
        self._save_if_new(trainer, at_the_end=True)
        self._hand_over(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if a signal ended a training that had begun; an error may leave half a step behind."""
        if isinstance(exception, RollbackError):
            self._best = self._kept = None  # it is of what is dropped, unless the checkpoint has it
        if isinstance(exception, SIGTERMException) and self._saved_step is not None:
            self._save_best(trainer)
            self._save_if_new(trainer)
            self._hand_over(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, with its step."""
        return {} if self._best is None else {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best value, if it is one of the same metric."""
        best = state_dict.get("best", {})
        if isinstance(best, dict) and (best.get("metric"), best.get("mode")) == (self.monitor, self.mode):
            self._best = self._kept = best

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out of Lightning's counts the batch that is there, but has not begun."""
        uncount_batch_that_has_not_begun(checkpoint)

    def _save_if_new(self, trainer: Trainer, at_the_end: bool = False) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer, at_the_end)

    def _is_better(self, value: float) -> bool:
        if self._best is None or math.isnan(value):
            return not math.isnan(value)
        return value > self._best["value"] if self.mode == "max" else value < self._best["value"]

    def _save_best(self, trainer: Trainer) -> None:
        """Save the best checkpoint, if its validation was the last thing that happened."""
        if self._best == self._kept:
            return
        run = Run.of(trainer)
        if fault := self._write(trainer, run.best):
            self._best = self._kept
            rank_zero_warn(f"{fault}; {run.best} is as before, and the training goes on")
            return
        self._kept = self._best
        if trainer.is_global_zero:
            with or_warn(), replacing(run.best_record) as partial:
                partial.write_text(json.dumps(self._best) + "\n")
        self._summarize(trainer)

    def _summarize(self, trainer: Trainer) -> None:
        """Tell W&B of the best value; the last one it has."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and self._best is not None:
                metric, value, step = (self._best[key] for key in ("metric", "value", "step"))
                logger.log_summary({f"best/{metric}": value, "best/step": step})

    def _hand_over(self, trainer: Trainer) -> None:
        """Let W&B keep the last and the best checkpoint, if that is asked for."""
        run = Run.of(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and logger.log_model:
                if self._kept is not None:
                    logger.log_checkpoint(run.best, self._kept["step"], "best")
                if self._saved_step and run.last.is_file():
                    logger.log_checkpoint(run.last, self._saved_step, "last")

    def _save(self, trainer: Trainer, at_the_end: bool) -> None:
        run = Run.of(trainer)
        # The last one last: it says that the others are there.
        for path in (run.step_checkpoint(trainer.global_step), run.last) if self.keep_all else (run.last,):
            fault = self._write(trainer, path)
            if fault is not None:
                whole = f"{run.last} of an earlier step is whole" if run.last.is_file() else "there is none yet"
                if at_the_end:
                    command = as_installed(run.resume_command())
                    end_training(trainer, f"{fault}; {whole}; with more space, go on with: {command}")
                rank_zero_warn(f"{fault}; {whole}, and the training goes on to its next save")
                return
        self._saved_step = trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and logger.log_model == "all":
                logger.log_checkpoint(run.last, self._saved_step, f"step_{self._saved_step}")

    def _write(self, trainer: Trainer, path: Path) -> str | None:
        """Write a checkpoint; return what has gone wrong, if anything has."""
        trainer.save_checkpoint(path, weights_only=False)
        files = trainer.strategy.checkpoint_io
        # One process writes, and all go on alike.
        return trainer.strategy.broadcast(files.fault if isinstance(files, CheckpointFiles) else None)


def _callbacks(trainer: Any) -> list[Any]:
    return trainer.callbacks  # which is not declared


def read_best(run: Run) -> dict[str, Any] | None:
    """Read which value of which metric the best checkpoint of a run has, at which step; None if there is none."""
    try:
        record = json.loads(run.best_record.read_text())
    except (OSError, ValueError):
        return None
    known = {"metric": str, "mode": str, "value": float, "step": int}
    whole = isinstance(record, dict) and all(isinstance(record.get(key), kind) for key, kind in known.items())
    return record if whole and run.best.is_file() else None
