"""Moments of groups of planes from the moments of each, by the law of total variance from centered terms."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize


def pool_batch(mean: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Pool means and biased variances plus a constant, shape (N, C), over the batch; of no planes they are 0 and 1.

    Each of the results has shape (C,).
    """
    if mean.shape[0] == 0:
        return mean.sum(0), power.sum(0) + 1
    pooled = mean.mean(0)
    deviation = mean - pooled
    return pooled, torch.addcmul(power, deviation, deviation).mean(0)


def pool_layer(mean: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Pool them over the channels of each sample instead, to shape (N, 1)."""
    pooled = mean.mean(1, keepdim=True)
    deviation = mean - pooled
    return pooled, torch.addcmul(power, deviation, deviation).mean(1, keepdim=True)


def is_distributed(sync: Any = True) -> bool:
    """Tell whether there is another process to pool with: among all for True, or in a process group."""
    if not sync or not dist.is_available() or not dist.is_initialized():
        return False
    return dist.get_world_size(_group(sync)) > 1


def _group(sync: Any) -> Any:
    return None if isinstance(sync, bool) else sync


def pool_processes(mean: Tensor, second: Tensor, count: int, sync: Any = True) -> tuple[Tensor, Tensor, Tensor]:
    """Pool moments over processes by one collective, each process weighted by its number of values.

    It can be differentiated any number of times, provided that all processes do so.

    Args:
        mean: Means of this process, shape (C,).
        second: Biased variances of this process, shape (C,), or biased covariances within groups of g channels, shape
            (C/g, g, g); with or without a constant added.
        count: Number of values per channel behind them; may differ between processes and be 0.
        sync: True for all processes, or a process group.

    Returns:
        Mean and biased variance or covariance, of the given shapes, and the number of values per channel over these
        processes.
    """
    own = torch.cat([mean, second.flatten(), mean.new_full((1,), count)])
    others = own.new_zeros(dist.get_world_size(_group(sync)), 1)
    others[dist.get_rank(_group(sync))] = 1
    # A sum with zeros from everybody else: a gathering whose gradient is as simple as a sum's.
    rows = all_reduce(others * own, sync)
    means, seconds, counts = rows.split([mean.numel(), second.numel(), 1], dim=1)
    total = counts.detach().sum()
    share = counts.detach() / total.clamp_min(1)
    pooled = (share * means).sum(0)
    # A variance is a covariance within a group of one channel.
    deviations = (means - pooled).unflatten(1, (-1, second.numel() // mean.numel()))
    between = deviations.unsqueeze(-1) * deviations.unsqueeze(-2)
    return pooled, (share * (seconds + between.flatten(1))).sum(0).view_as(second), total


def all_reduce(values: Tensor, sync: Any = True) -> Tensor:
    """Sum over all processes, or those of a group. Its gradient is the sum of the processes' gradients."""
    summed: Tensor = _AllReduce.apply(values, sync)
    return summed


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as it is, or whole if FSDP2 has distributed it over processes, all of which have to call this."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


@torch.no_grad()
def set_whole_(module: nn.Module, name: str, values: Tensor) -> None:
    """Set a parameter, which may be parametrized, or distributed by FSDP2, to values."""
    if parametrize.is_parametrized(module, name):
        setattr(module, name, values)
        return
    parameter: Any = module.get_parameter(name)
    if hasattr(parameter, "full_tensor"):
        # Not every build of torch has it.
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values, parameter.device_mesh, parameter.placements)
    parameter.copy_(values)


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor, sync: Any) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values, group=_group(sync))
        # Another tensor: a communication thread may hold the one it has summed a little longer, and with an output it
        # would hold the whole graph.
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.sync = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return all_reduce(grads[0], ctx.sync), None
