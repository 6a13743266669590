"""An exponential moving average of a generator's weights."""

import torch
from torch import nn

RAMPUP = 0.05
"""Early in a training the half-life is at most this share of the images seen so far, since a longer memory would still
hold the random initial weights (as in the code of Karras et al. 2020, arXiv 2006.06676)."""


def decay(batch: int, images_seen: int, half_life: float) -> float:
    """Return how much of the average one update keeps, 0.5 ** (batch / half-life).

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
