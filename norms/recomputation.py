"""Buffers that move between a pass and what is computed again of it: its gradient, or by checkpointing all of it."""

import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.module_tracker import ModuleTracker

_tracker = ModuleTracker()


@torch.library.custom_op("norms::snapshot", mutates_args=())
def _opaque_snapshot(buffer: Tensor) -> Tensor:
    if _tracker.is_bw:
        warnings.warn(
            "checkpointing repeats a pass of a norm that is compiled by itself, and finds its buffers moved: its "
            "gradients are not exact. Leave it out of the compilation, or of the checkpoint",
            stacklevel=2,
        )
    return buffer.clone()


@_opaque_snapshot.register_fake
def _(buffer: Tensor) -> Tensor:
    return torch.empty_like(buffer)


def snapshot(buffer: Tensor) -> Tensor:
    """Copy a buffer that moves before a gradient that depends on it is computed."""
    # A compiler takes a plain copy for the buffer itself, and reads it when it has moved.
    return _opaque_snapshot(buffer) if torch.compiler.is_compiling() else buffer.clone()


def is_repeated() -> bool:
    """Tell whether this pass is part of a backward pass, where checkpointing repeats what it has not kept.

    Compiled code has its own checkpointing, which repeats operations and moves no buffer twice.
    """
    return not torch.compiler.is_compiling() and bool(_tracker.is_bw)


class RecentPasses:
    """Keep the buffers of a layer as its last 32 training passes found them, by a sample of what they were given.

    A layer keeps one if what it computes in training depends on its buffers.
    """

    def __init__(self) -> None:
        self._passes: deque[tuple[Tensor, list[Tensor]]] = deque(maxlen=32)

    def remember(self, x: Tensor, layer: nn.Module) -> None:
        """Keep the buffers that ``layer`` has now, before a pass over ``x``."""
        self._passes.append((_sample(x).clone(), [buffer.clone() for buffer in layer.buffers(recurse=False)]))

    def find(self, x: Tensor) -> list[Tensor]:
        """Return the buffers that the last pass over ``x`` found; none, with a warning, if it is not remembered."""
        sample = _sample(x)
        for seen, buffers in reversed(self._passes):
            if torch.equal(seen, sample):
                return buffers
        warnings.warn(
            "checkpointing repeats a pass of a norm that is not among the last 32: its gradients are not exact",
            stacklevel=2,
        )
        return []

    def __reduce__(self) -> tuple[type["RecentPasses"], tuple[()]]:
        """Let copies begin without memories."""
        return RecentPasses, ()


def _sample(x: Tensor) -> Tensor:
    """Return the center of each plane of 16 channels, which no two batches share."""
    return x.detach()[(slice(None), slice(16), *(slice(size // 2, size // 2 + 1) for size in x.shape[2:]))]


@contextmanager
def restored(layer: nn.Module, found: list[Tensor]) -> Iterator[None]:
    """Give the buffers of ``layer`` the values of ``found``, if any, and undo inside what happens to them."""
    buffers = list(layer.buffers(recurse=False))
    now = [buffer.clone() for buffer in buffers]
    try:
        for buffer, value in zip(buffers, found, strict=False):
            buffer.copy_(value)
        yield
    finally:
        for buffer, value in zip(buffers, now, strict=True):
            buffer.copy_(value)
