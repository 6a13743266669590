"""One axis for all that is logged: completed optimizer steps."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from training.lightning_private import count_rows_by_steps

STEP = "step"
"""The metric that Lightning takes as the number of a row, and does not log itself."""


class StepAxis(Callback):
    """Let the rows of all loggers be numbered by completed optimizer steps.

    What belongs to the s-th step, such as its loss, and what belongs to the state after s steps, such as a validation
    or a mixing value, is in rows of the number s. Lightning would count from 0, and batches instead of steps.

    It comes behind callbacks that may stop a training, whose last step gets a row.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let Lightning log each ``trainer.log_every_n_steps``-th step."""
        count_rows_by_steps(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Give the row of a step its number, if it gets one."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % every == 0 or trainer.should_stop:
            pl_module.log(STEP, _step(trainer), rank_zero_only=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the row of what a module averages over the whole training its number."""
        _log_in_the_end(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the row of a validation its number."""
        _log_in_the_end(trainer, pl_module)


def _log_in_the_end(trainer: Trainer, pl_module: LightningModule) -> None:
    # Synchronization is asked for lest Lightning recommend it; the first process alone needs none.
    pl_module.log(STEP, _step(trainer), batch_size=1, sync_dist=True, rank_zero_only=True)


def _step(trainer: Trainer) -> Tensor:
    # On the CPU, since a number that is moved to a GPU is waited for.
    return torch.tensor(trainer.global_step, dtype=torch.float64)
