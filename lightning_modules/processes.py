"""What several processes of a training do together."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from norms.pooling import all_reduce, is_distributed


class SharedModule(LightningModule):
    """Train in several processes, and log what all of them find."""

    def setup(self, stage: str) -> None:
        """Let DDP expect, where a module steps its optimizers itself, that a backward pass leaves out parameters."""
        # Which lightning_private is for, and it is slow to import.
        from training.lightning_private import look_for_unused_parameters

        if not self.automatic_optimization:
            look_for_unused_parameters(self.trainer)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as Lightning does, but always the mean over all processes, which all have to call this.

        A metric of torchmetrics is that of its process in a step, and that of all in an epoch.
        """
        self.log_dict({name: value}, *args, **kwargs)

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        """Log several values likewise, for which processes wait for each other once in the place of several times."""
        values = dict(dictionary.items())
        if is_distributed() and not kwargs.get("rank_zero_only"):
            if kwargs.get("on_epoch") or not self.trainer.training:
                kwargs["sync_dist"] = True
            elif shared := {name: torch.as_tensor(value) for name, value in values.items() if _is_number(value)}:
                # Which does not wait for the device, even if the values are on the CPU.
                own = [value.squeeze().to(self.device, non_blocking=True) for value in shared.values()]
                joined = torch.stack([value.to(torch.promote_types(value.dtype, torch.float32)) for value in own])
                values |= dict(zip(shared, self.over_processes(joined), strict=True))
        for name, value in values.items():
            super().log(name, value, *args, **kwargs)

    def over_processes(self, values: Tensor) -> Tensor:
        """Return the mean of values over all processes, without its graph.

        Lightning's own reduction would have a device wait for the other ones, in every step.
        """
        if not is_distributed() or self.trainer.world_size == 1:
            return values.detach()
        return all_reduce(values.detach()) / self.trainer.world_size


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
