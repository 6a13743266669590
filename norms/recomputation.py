"""Buffers that move between a pass and what is computed again of it: its gradient, or by checkpointing all of it."""

import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

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


@dataclass
class _Pass:
    sample: Tensor
    buffers: list[Tensor]
    differentiated: bool
    repeated: bool = False

    def rank(self) -> tuple[bool, bool]:
        """Say how unlikely it is to be repeated next: without a gradient only a reentrant checkpoint repeats one."""
        return not self.differentiated, self.repeated


class RecentPasses:
    """Keep the buffers of a layer as its last 32 training passes found them, by a sample of what they were given.

    A layer keeps one if what it computes in training depends on its buffers.
    """

    def __init__(self) -> None:
        self._passes: deque[_Pass] = deque(maxlen=32)
        self._warnings: set[str] = set()

    def remember(self, x: Tensor, layer: nn.Module) -> None:
        """Keep the buffers that ``layer`` has now, before a pass over ``x``."""
        buffers = [buffer.clone() for buffer in layer.buffers(recurse=False)]
        self._passes.append(_Pass(_sample(x).clone(), buffers, torch.is_grad_enabled()))

    def find(self, x: Tensor) -> list[Tensor]:
        """Return the buffers that the pass over ``x`` found that is repeated now; none if it is not remembered.

        Of several it is the last that has not been repeated yet, since a backward pass begins with what came last. A
        warning tells, once for each layer, if it may be another, or is not remembered.
        """
        sample = _sample(x)
        for _, passes in groupby(sorted(self._passes, key=_Pass.rank), _Pass.rank):
            alike = [each for each in passes if torch.equal(each.sample, sample)]
            if alike:
                *others, found = alike
                if not found.repeated and any(not _equal(found.buffers, other.buffers) for other in others):
                    self._warn(
                        "checkpointing repeats one of several passes of a norm over equal input, the last one first: "
                        "its gradients are exact only if one backward pass repeats all of them"
                    )
                found.repeated = True
                return found.buffers
        self._warn("checkpointing repeats a pass of a norm that is not among the last 32: its gradients are not exact")
        return []

    def _warn(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            warnings.warn(message, stacklevel=3)

    def __reduce__(self) -> tuple[type["RecentPasses"], tuple[()]]:
        """Let copies begin without memories."""
        return RecentPasses, ()


def _sample(x: Tensor) -> Tensor:
    """Return the center of each plane of 16 channels, which no two batches share."""
    return x.detach()[(slice(None), slice(16), *(slice(size // 2, size // 2 + 1) for size in x.shape[2:]))]


def _equal(buffers: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(buffer, other) for buffer, other in zip(buffers, others, strict=True))


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
