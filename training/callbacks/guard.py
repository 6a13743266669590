"""A training that goes wrong ends, says so and keeps what was good."""

import math
from typing import Any, cast

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from normlab import as_installed
from training.errors import end_training
from training.finite import logits, may_be_infinite, named_values, not_finite
from training.run import Run

EXPLOSION = 50
"""How many times its first value, or 1 if that is less, a loss has to reach to be called an explosion.

The losses of untrained networks are among the largest of a training: that of style transfer falls from 5. Those of GANs
stay below 20.
"""

RETURNED = "the loss"
"""What is said of a loss that a training step returns, but does not log."""

OUTSIDE_TRAINING = ("val", "test")
"""How the names of metrics begin that say nothing of the training."""


class Guard(Callback):
    """End a training whose loss or weights are not finite, before they replace its last checkpoint.

    Losses are the training's metrics with ``loss`` in their names, and what the training step returns. On the CPU they
    are looked at after every step. Other devices would have to wait for that, and so would several processes: there,
    every ``trainer.log_every_n_steps`` steps, when their values are read in any case. Weights are looked at before a
    checkpoint is written and at the end: every parameter and buffer, and the states of the optimizers. What holds
    infinities from the beginning, such as a mask, is meant to.

    A loss that explodes but stays finite is worth a warning, once.

    A further way in which a training can go wrong is a further line in :meth:`fault`.
    """

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._warned = False
        self._every = 1
        self._infinite: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how often to look, and what is infinite already."""
        alone = trainer.world_size == 1 and pl_module.device.type == "cpu"
        self._every = 1 if alone else cast(Any, trainer).log_every_n_steps  # which is not declared
        self._infinite = may_be_infinite(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses of a step, if it is time.

        Raises:
            TrainingError: If the training has gone wrong.
        """
        step = trainer.global_step
        if step % self._every and self._first and step != trainer.max_steps:
            return
        losses = training_losses(trainer, outputs)
        self._end_if(trainer, self.fault(losses))
        self._warn_of_explosion(step, losses)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at what is about to be saved.

        Raises:
            TrainingError: If some of it is not finite.
        """
        broken = not_finite(checkpoint["state_dict"].items(), self._infinite)
        states = named_values(checkpoint.get("optimizer_states", []), "the optimizer's state")
        self._end_if(trainer, _told([*broken, *not_finite(states)]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights once more, before a last picture is made of them.

        Raises:
            TrainingError: If some of them are not finite.
        """
        self._end_if(trainer, _told(not_finite(pl_module.state_dict().items(), self._infinite)))

    def fault(self, losses: dict[str, float]) -> str | None:
        """Say what is wrong with the last step, so wrong that the training has to end; None if nothing is.

        Args:
            losses: Those of the step, by name.
        """
        return _told([f"{name} ({value})" for name, value in losses.items() if not math.isfinite(value)])

    def _warn_of_explosion(self, step: int, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            first = self._first.setdefault(name, value)
            if not self._warned and abs(value) > EXPLOSION * max(1, abs(first)):
                self._warned = True
                rank_zero_warn(
                    f"step {step}: {name} has exploded, from {first:.4g} to {value:.4g}; the training goes on, "
                    "but a lower learning rate is likely to do better"
                )

    def _end_if(self, trainer: Trainer, fault: str | None) -> None:
        # All processes have to end, whichever of them has found something.
        if trainer.strategy.reduce_boolean_decision(fault is not None, all=False):
            end_training(trainer, _message(trainer, fault or "in another process, a loss or tensor is not finite"))


def training_losses(trainer: Trainer, outputs: Any) -> dict[str, float]:
    """Return the losses of the last step, by name.

    Args:
        trainer: The trainer.
        outputs: What the training step has returned.
    """
    found = {
        name: value
        for name, value in trainer.callback_metrics.items()
        if "loss" in name.lower() and not name.startswith(OUTSIDE_TRAINING)
    }
    if isinstance(outputs, dict) and isinstance(outputs.get("loss"), Tensor):
        found[RETURNED] = outputs["loss"]
    if not found:
        return {}
    # Together, since each reading makes a device wait.
    values = torch.stack([value.detach().float().mean() for value in found.values()]).tolist()
    losses = dict(zip(found, values, strict=True))
    if [str(value) for value in values].count(str(losses.get(RETURNED))) > 1:
        del losses[RETURNED]  # it is logged under a better name
    return losses


def has_finite_weights(module: nn.Module) -> bool:
    """Return whether all parameters are finite; if not, nothing can be shown of the module."""
    return not not_finite(module.named_parameters(), logits(module))


def _told(broken: list[str]) -> str | None:
    if not broken:
        return None
    return (
        f"{broken[0]} is not finite" if len(broken) == 1 else f"{broken[0]} and {len(broken) - 1} more are not finite"
    )


def _message(trainer: Trainer, fault: str) -> str:
    run, module = Run.of(trainer), trainer.lightning_module
    rate: Any = module.hparams.get("lr")
    lower = [f"--model.lr={rate / 10:g}"] if isinstance(rate, int | float) and rate > 0 else []
    kept, go_on = "there is no checkpoint yet", "begin anew"
    if run.last.is_file():
        kept, go_on = f"the last good checkpoint is {run.last}", "go on"
    with_lower = "with a lower learning rate" if lower else "but give the model a lower learning rate"
    command = as_installed(run.resume_command(*lower))
    return f"step {trainer.global_step}: {fault}, so the training ends; {kept}; {go_on} {with_lower}: {command}"
