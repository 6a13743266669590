"""Moments of groups of planes from the moments of each, by the law of total variance from centered terms."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def pool_batch(mean: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the moments of planes over the batch; over no planes at all they are 0 and 1.

    Args:
        mean: Means, shape (N, C).
        power: Biased variances plus a constant, shape (N, C).

    Returns:
        Mean of each channel over all its planes and its biased variance plus the constant, each of shape (C,).
    """
    if mean.shape[0] == 0:
        return mean.sum(0), power.sum(0) + 1
    pooled = mean.mean(0)
    deviation = mean - pooled
    return pooled, torch.addcmul(power, deviation, deviation).mean(0)


def pool_layer(mean: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the moments of planes over the channels of each sample.

    Args:
        mean: Means, shape (N, C).
        power: Biased variances plus a constant, shape (N, C).

    Returns:
        Mean of each sample over all its planes and its biased variance plus the constant, each of shape (N, 1).
    """
    pooled = mean.mean(1, keepdim=True)
    deviation = mean - pooled
    return pooled, torch.addcmul(power, deviation, deviation).mean(1, keepdim=True)


def is_distributed() -> bool:
    """Whether there is another process to pool with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def pool_processes(mean: Tensor, second: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pool moments over all processes by one collective, each process weighted by its number of values.

    It can be differentiated any number of times, provided that all processes do so.

    Args:
        mean: Means of this process, shape (C,).
        second: Biased variances of this process, shape (C,), or biased covariances within groups of g channels, shape
            (C/g, g, g); with or without a constant added.
        count: Number of values per channel behind them; may differ between processes and be 0.

    Returns:
        Mean and biased variance or covariance, of the given shapes, and the number of values per channel over all
        processes.
    """
    own = torch.cat([mean, second.flatten(), mean.new_full((1,), count)])
    others = own.new_zeros(dist.get_world_size(), 1)
    others[dist.get_rank()] = 1
    # A sum with zeros from everybody else: a gathering whose gradient is as simple as a sum's.
    rows = all_reduce(others * own)
    means, seconds, counts = rows.split([mean.numel(), second.numel(), 1], dim=1)
    total = counts.detach().sum()
    share = counts.detach() / total.clamp_min(1)
    pooled = (share * means).sum(0)
    # A variance is a covariance within a group of one channel.
    deviations = (means - pooled).unflatten(1, (-1, second.numel() // mean.numel()))
    between = deviations.unsqueeze(-1) * deviations.unsqueeze(-2)
    return pooled, (share * (seconds + between.flatten(1))).sum(0).view_as(second), total


def all_reduce(values: Tensor) -> Tensor:
    """Sum over all processes. Its gradient is the sum of the processes' gradients."""
    summed: Tensor = _AllReduce.apply(values)
    return summed


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values)
        # Another tensor: a communication thread may hold the one it has summed a little longer, and with an output it
        # would hold the whole graph.
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return all_reduce(grads[0])
