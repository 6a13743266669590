"""Callbacks on some of a network's parameters: training those alone, and noting how large they become."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from norms.errors import SettingError, check_range


def ending(module: nn.Module, end: str) -> list[nn.Parameter]:
    """Return the parameters of a module whose dotted names end with ``end``, such as ``norm.bias``.

    Raises:
        SettingError: If there is none.
    """
    found = [parameter for name, parameter in module.named_parameters() if f".{name}".endswith(f".{end}")]
    if not found:
        raise SettingError(f"no parameter's name ends with {end!r}")
    return found


class TrainOnly(Callback):
    """Leave all parameters as they are but those of some names.

    Args:
        ends: What their dotted names end with.
    """

    def __init__(self, ends: Sequence[str]) -> None:
        self.ends = tuple(ends)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze the others, before the optimizer is built."""
        trained = [parameter for end in self.ends for parameter in ending(pl_module, end)]
        for parameter in pl_module.parameters():
            parameter.requires_grad_(any(parameter is each for each in trained))


class ParameterSizes(Callback):
    """Log the root mean square of parameters of some names, over all layers, as ``size/<end of the names>``.

    Args:
        ends: What their dotted names end with.
        every_n_steps: Steps between two logs.
    """

    def __init__(self, ends: Sequence[str], every_n_steps: int = 10) -> None:
        check_range("every_n_steps", every_n_steps, at_least=1)
        self.ends, self.every_n_steps = tuple(ends), every_n_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the sizes after a step."""
        if trainer.global_step % self.every_n_steps == 0:
            sizes = {f"size/{end}": root_mean_square(ending(pl_module, end)) for end in self.ends}
            for logger in trainer.loggers:
                logger.log_metrics(sizes, trainer.global_step)


def root_mean_square(parameters: Sequence[nn.Parameter]) -> float:
    """Return the root of the mean of the squares of all values of some parameters."""
    values = torch.cat([parameter.detach().flatten() for parameter in parameters])
    return float(values.square().mean().sqrt())
