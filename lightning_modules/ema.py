"""An exponential moving average of a generator's weights, and the statistics that go with averaged weights."""

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

RAMPUP = 0.05
"""Early in a training the half-life is at most this share of the images seen so far, since a longer memory would still
hold the random initial weights (as in the code of Karras et al. 2020, arXiv 2006.06676)."""


def decay(batch: int, images_seen: int, half_life: float) -> float:
    """How much of the average one update keeps, 0.5 ** (batch / half-life).

    Args:
        batch: Images behind one update.
        images_seen: Images behind all updates so far, this one included.
        half_life: Images after which a weight's share in the average has halved; 0 keeps no memory.

    Returns:
        A number in [0, 1).
    """
    half_life = min(half_life, RAMPUP * images_seen)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def update_(average: nn.Module, live: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``live``, in place: a <- decay * a + (1 - decay) * l.

    Parameters are averaged, so a rho stays in [0, 1] by convexity. Buffers are copied: counters, unit vectors and
    statistics of the live weights have no meaningful average.

    Args:
        average: A copy of ``live`` made before the first update.
        live: The module being trained.
        decay: The share that the average keeps, in [0, 1].
    """
    for mean, parameter in zip(average.parameters(), live.parameters(), strict=True):
        mean.lerp_(parameter, 1 - decay)
    for copied, buffer in zip(average.buffers(), live.buffers(), strict=True):
        copied.copy_(buffer)


@torch.no_grad()
def with_own_statistics(module: Module, batches: Iterable[Tensor]) -> Module:
    """Copy a module and estimate the running statistics of its norms anew, for the weights that it has.

    The running statistics of averaged weights are not those of the live weights, whose activations differ. BigGAN's
    "standing statistics" do the same (Brock et al. 2019, arXiv 1809.11096, section 3.2).

    Args:
        module: Left as it is.
        batches: Inputs; the statistics are the plain mean over them.

    Returns:
        The copy, in evaluation mode.
    """
    module = copy.deepcopy(module).train()
    tracking: list[Any] = [layer for layer in module.modules() if getattr(layer, "running_mean", None) is not None]
    momenta = [layer.momentum for layer in tracking]
    for layer in tracking:
        if isinstance(layer, nn.SyncBatchNorm):
            # One process may do this alone: statistics shared with the others would wait for them for ever.
            layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
        layer.reset_running_stats()
        layer.momentum = None
    if tracking:
        for batch in batches:
            module(batch)
    for layer, momentum in zip(tracking, momenta, strict=True):
        layer.momentum = momentum
    return module.eval()
