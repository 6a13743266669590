"""A norm in compiled loops: on the CPU, for float32 and float64 in contiguous or channels-last order.

Operators pass over the activations more often than is needed, and between two passes there are so many on small tensors
that to call them takes longer than what they do. Here a pass is one loop, and what is between two passes is part of it.

Numeric policy: moments and sums are computed from terms centered on the mean of their plane, in blocks that are summed
in the dtype and put together in float64.
"""

import ctypes
import math
import mmap
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from norms.engine import Engine, Population
from norms.formula import BatchMoments, Formula
from norms.pooling import all_reduce, pool_processes

_GRAIN = 32768
"""Values below which to wake other threads costs more time than they spare."""

_GROUP = 65536
"""Values of planes that are to stay in a core's second cache from moments to map."""

_LARGE = 2**22
"""Bytes from which on large pages are asked for, as NumPy does."""


class Layout(NamedTuple):
    """How loops see activations.

    Attributes:
        by_rows: Whether as rows, of one value per channel, or as planes, of one channel each.
        shape: Samples and channels that moments are computed for.
        size: Number of values per sample and channel.
    """

    by_rows: bool
    shape: tuple[int, int]
    size: int

    @classmethod
    def find(cls, x: Tensor, per_sample: bool) -> "Layout | None":
        """The layout of ``x``, or None if loops cannot take it.

        Args:
            x: Activations, shape (N, C, *).
            per_sample: Whether samples have coefficients of their own. If not, the batch may be one long sample.
        """
        if x.dtype not in _TYPES or x.numel() == 0:
            return None
        samples, channels = x.shape[:2]
        if x.is_contiguous() and (x.ndim > 2 or per_sample):
            return cls(False, (samples, channels), x.numel() // (samples * channels))
        if x.movedim(1, -1).is_contiguous():
            samples = samples if per_sample else 1
            return cls(True, (samples, channels), x.numel() // (samples * channels))
        return None

    def arrange(self, x: Tensor) -> Tensor:
        """``x`` in this order in memory: a copy if it has another."""
        return _resolved(x.movedim(1, -1).contiguous().movedim(-1, 1) if self.by_rows else x.contiguous())

    def view(self, x: Tensor) -> Any:
        """An array over the memory of activations in this order."""
        samples, channels = self.shape
        dims = (samples, self.size, channels) if self.by_rows else (samples, channels, self.size)
        return _view(x.data_ptr(), dims, x.dtype)


class Loops(Engine):
    """The loops of :mod:`norms.compiled`.

    Args:
        formula: The norm.
        eps: Added to variances, positive.
        sync: Whether to pool the moments of the batch over all processes.
        layout: Of the activations.
    """

    def __init__(self, formula: Formula, eps: float, sync: bool, layout: Layout) -> None:
        super().__init__(formula, eps, sync)
        self.layout = layout
        self.compiled = _compiled()
        self.passes = self.compiled.PASSES[formula.loops]

    @classmethod
    def find(cls, x: Tensor, per_sample: bool, formula: Formula, eps: float, sync: bool) -> "Loops | None":
        """The engine for activations like ``x``, or None if loops cannot take them.

        Args:
            x: Activations, shape (N, C, *).
            per_sample: Whether samples have coefficients of their own. If not, the batch may be one long sample.
            formula: The norm.
            eps: Added to variances, positive.
            sync: Whether to pool the moments of the batch over all processes.
        """
        # Loops do not know what a class derived from that of their formula changes.
        has_loops = vars(type(formula)).get("loops") is not None and can_loop(x)
        layout = Layout.find(x, per_sample) if has_loops else None
        return None if layout is None else cls(formula, eps, sync, layout)

    def normalize(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        population: Population,
        mixing: tuple[Tensor, ...],
        keep: bool = True,
    ) -> Tensor:
        """Compute the normalized activations; see :meth:`Engine.normalize`."""
        layout, x = self.layout, _resolved(x)
        y = empty_like(x)
        values, result = layout.view(x), layout.view(y)
        given = _Arrays(weight, bias, mixing, values.dtype, layout.shape[1])
        parameters = given.mixing, self.formula.constants(), given.weight, given.bias
        by_rows, threads = layout.by_rows, _threads(x)
        if population is not None:
            stand_in = _Arrays(*population, (), values.dtype, layout.shape[1])
            batch = stand_in.weight[0], stand_in.bias[0]
            together = 0 if keep else self._together(threads.count)
            if together:
                with threads:
                    self.passes.evaluate(values, by_rows, self.eps, batch, *parameters, result, together)
                return y
        moments = tuple(np.empty((2, *layout.shape), values.dtype))
        *pooled, var = np.empty((3, layout.shape[1]), values.dtype)
        pools = population is None and self.formula.uses_batch
        with threads:
            self.compiled.measure(values, by_rows, self.eps, pools, moments, tuple(pooled), var)
        if population is None:
            batch = self._pool(tuple(pooled), var) if pools else tuple(pooled)
        self.moments, self.batch_moments = moments, batch
        with threads:
            self.passes.apply(values, by_rows, threads.count, moments, batch, *parameters, result)
        return y

    def _together(self, threads: int) -> int:
        """How many channels of a sample to evaluate in one go, to find them in the cache; 0 if that does not pay."""
        (samples, channels), size = self.layout.shape, self.layout.size
        if not self.layout.by_rows and not self.formula.mixes_channels:
            return min(channels, max(1, _GROUP // size))
        # The threads share the samples then.
        return channels if samples % threads == 0 or samples > 2 * threads else 0

    def _pool(self, pooled: tuple[Any, Any], var: Any) -> tuple[Any, Any]:
        """What the batch's moments are over all processes."""
        count = self.layout.shape[0] * self.layout.size
        mean, power = pooled
        self.batch = BatchMoments(torch.from_numpy(mean), torch.from_numpy(var), count)
        if not self.sync:
            return pooled
        found = pool_processes(self.batch.mean, torch.from_numpy(power), count)
        self.batch = BatchMoments(found[0], (found[1] - self.eps).clamp_min(0), found[2])
        return found[0].numpy(), found[1].numpy()

    def differentiate(
        self,
        grad: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        population: Population,
        mixing: tuple[Tensor, ...],
        needs_x: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
        """Compute the gradients; see :meth:`Engine.differentiate`."""
        layout = self.layout
        # Whoever kept x for this pass may have brought it back in another order.
        x, grad = layout.arrange(x), layout.arrange(grad)
        values, upstream = layout.view(x), layout.view(grad)
        given = _Arrays(weight, bias, mixing, values.dtype, layout.shape[1])
        grad_weight, grad_bias = (x.new_zeros(layout.shape[1:] if t is None else t.shape) for t in (weight, bias))
        grad_mixing = tuple(x.new_zeros(t.shape) for t in mixing)
        results = _Arrays(grad_weight, grad_bias, grad_mixing, values.dtype, layout.shape[1])
        found = np.empty((3, *layout.shape), values.dtype)
        of_batch = np.zeros((2, layout.shape[1]), values.dtype)
        by_rows, threads = layout.by_rows, _threads(x)
        with threads:
            self.passes.differentiate(
                upstream,
                values,
                by_rows,
                self.moments,
                self.batch_moments,
                given.mixing,
                self.formula.constants(),
                given.weight,
                given.bias,
                results.weight,
                results.bias,
                results.mixing,
                of_batch,
                found,
            )
        grad_x = None
        if needs_x:
            total = 0
            if population is None and self.formula.uses_batch:
                total = max(int(self.batch.total), 1)
                of_batch = all_reduce(torch.from_numpy(of_batch)).numpy() if self.sync else of_batch
            grad_x = empty_like(x)
            means, result = (self.moments[0], self.batch_moments[0]), layout.view(grad_x)
            with threads:
                self.compiled.combine(upstream, values, by_rows, threads.count, *means, of_batch, total, found, result)
        of_weight, of_bias = None if weight is None else grad_weight, None if bias is None else grad_bias
        return grad_x, of_weight, of_bias, grad_mixing


def standardize(x: Tensor, mean: Tensor, power: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Compute ``(x - mean) / sqrt(power) * weight + bias``, without gradients; None if loops cannot.

    Args:
        x: Activations, shape (N, C, *).
        mean: Shape (C,).
        power: Shape (C,).
        weight: Shape (C,), or (N, C) where samples have their own; None is 1.
        bias: Likewise; None is 0.
    """
    own = any(t is not None and t.ndim == 2 for t in (weight, bias))
    layout = Layout.find(x, own) if can_loop(x, mean, power, weight, bias) else None
    if layout is None:
        return None
    y = empty_like(x)
    x, channels = _resolved(x), layout.shape[1]
    values, compiled = layout.view(x), _compiled()
    given = _Arrays(weight, bias, (mean, power), values.dtype, channels)
    threads = _threads(x)
    with threads:
        compiled.standardize(
            values, layout.by_rows, threads.count, *given.mixing, given.weight, given.bias, layout.view(y)
        )
    return y


def track(running: Tensor, new: Tensor, momentum: float) -> None:
    """Move a running statistic, which loops can read, towards ``new``, of the same dtype and shape, in place."""
    _compiled().track(_view_all(running), _view_all(new), momentum)
    torch.autograd.graph.increment_version(running)


class _Arrays:
    """Arrays over the memory of small tensors, which are kept as long."""

    def __init__(
        self, weight: Tensor | None, bias: Tensor | None, mixing: tuple[Tensor, ...], dtype: Any, channels: int
    ) -> None:
        self.kept = [t if t is None else _resolved(t.contiguous()) for t in (weight, bias, *mixing)]
        self.weight, self.bias = (
            _constant(value, channels, dtype)
            if t is None
            else _view(t.data_ptr(), (t.numel() // channels, channels), t.dtype)
            for t, value in zip(self.kept[:2], (1.0, 0.0), strict=True)
        )
        self.mixing = tuple(_view_all(t) for t in self.kept[2:])


@cache
def _constant(value: float, channels: int, dtype: Any) -> Any:
    return np.full((1, channels), value, dtype)


def _resolved(x: Tensor) -> Tensor:
    """A tensor whose values are in memory as they are: a copy if need be."""
    return x.resolve_neg().clone() if x.is_neg() or x._is_zerotensor() else x


def _view_all(values: Tensor) -> Any:
    return _view(values.data_ptr(), (values.numel(),), values.dtype)


@lru_cache(maxsize=1024)
def _view(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """An array over memory that somebody else keeps. After ``Tensor.numpy`` that could never be resized again."""
    return np.asarray(_Memory(address, shape, dtype))


class _Memory:
    def __init__(self, address: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.__array_interface__ = {
            "shape": shape,
            "typestr": _TYPES[dtype],
            "data": (address, False),
            "version": 3,
        }


_TYPES = {torch.float32: np.dtype(np.float32).str, torch.float64: np.dtype(np.float64).str}


def empty_like(x: Tensor) -> Tensor:
    """Memory for a result, in large pages where there are any: to be given small ones takes longer than a pass."""
    y = torch.empty_like(x)
    if y.nbytes >= _LARGE:
        _advise()(y.data_ptr(), y.nbytes)
    return y


@cache
def _advise() -> Callable[[int, int], None]:
    """What asks for large pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return lambda address, size: None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int

    def advise(address: int, size: int) -> None:
        start = math.ceil(address / mmap.PAGESIZE) * mmap.PAGESIZE
        # A system without large pages refuses, and nothing is lost.
        madvise(start, (address + size) // mmap.PAGESIZE * mmap.PAGESIZE - start, mmap.MADV_HUGEPAGE)

    return advise


def _threads(x: Tensor) -> Any:
    """A context in which as many threads share what is to be done as it is worth."""
    return _compiled().Threads(1 if x.numel() < _GRAIN else torch.get_num_threads())


def can_loop(*tensors: Tensor | None) -> bool:
    """Whether loops can read tensors' memory: not if it is elsewhere, if there is none, or if operators are watched."""
    return (
        all(t is None or _is_plain(t) for t in tensors)
        and not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
        and forward_ad._current_level < 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and _is_available()
    )


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.is_cpu
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


def _is_available() -> bool:
    return _import() is not None and not _compiled().FORKED.is_set()


def _compiled() -> Any:
    """The module of compiled loops."""
    return _import()


@cache
def _import() -> ModuleType | None:
    try:
        from norms import compiled

        compiled.start()
    except (ImportError, OSError, ValueError) as error:
        warnings.warn(f"norms run slower on the CPU than they could: numba cannot be used ({error})", stacklevel=2)
        return None
    return compiled
