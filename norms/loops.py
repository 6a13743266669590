"""A norm in compiled loops: on the CPU, for float32 and float64 in contiguous or channels-last order.

Operators pass over the activations more often than is needed, and between two passes there are so many on small tensors
that to call them takes longer than what they do. Here a pass is one loop, and what is between two passes is part of it.

Numeric policy: moments and sums are computed from terms centered on the mean of their plane, in blocks that are summed
in the dtype and put together in float64.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from norms.engine import Engine, Population
from norms.formula import BatchMoments, Formula
from norms.pages import empty_like
from norms.pooling import all_reduce, pool_processes

_GRAIN = 32768
"""Values below which to wake other threads costs more time than they spare."""

_GROUP = 65536
"""Values of planes that are to stay in a core's second cache from moments to map."""


class Layout(NamedTuple):
    """How loops see activations.

    Attributes:
        by_rows: Whether as rows, of one value per channel, or as planes, of one channel each.
        shape: Samples and channels that moments are computed for.
        size: Number of values per sample and channel.
        dtype: Of activations and all that goes with them.
    """

    by_rows: bool
    shape: tuple[int, int]
    size: int
    dtype: torch.dtype

    @classmethod
    def find(cls, x: Tensor, per_sample: bool) -> "Layout | None":
        """The layout of ``x``, or None if loops cannot take it.

        Args:
            x: Activations, shape (N, C, *).
            per_sample: Whether samples have coefficients of their own. If not, the batch may be one long sample.
        """
        if x.dtype not in (torch.float32, torch.float64) or x.numel() == 0:
            return None
        samples, channels = x.shape[:2]
        if x.is_contiguous() and (x.ndim > 2 or per_sample):
            return cls(False, (samples, channels), x.numel() // (samples * channels), x.dtype)
        if _is_by_rows(x):
            samples = samples if per_sample else 1
            return cls(True, (samples, channels), x.numel() // (samples * channels), x.dtype)
        return None

    def arrange(self, x: Tensor) -> Tensor:
        """``x`` in this order in memory: a copy if it has another."""
        if not self.by_rows:
            return x.contiguous()
        return x if _is_by_rows(x) else x.movedim(1, -1).contiguous().movedim(-1, 1)

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
        self.shared = _compiled().of_layout(layout.by_rows)
        self.own = _compiled().of_formula(formula.loops, layout.by_rows)

    @classmethod
    def find(
        cls,
        x: Tensor,
        per_sample: bool,
        formula: Formula,
        eps: float,
        sync: bool,
        population: Sequence[Tensor | None] = (),
        mixing: Sequence[Tensor] | None = None,
        affine: Sequence[Tensor | None] = (),
    ) -> "Loops | None":
        """The engine for activations like ``x``, or None if loops cannot take them or what goes with them.

        Args:
            x: Activations, shape (N, C, *).
            per_sample: Whether samples have coefficients of their own. If not, the batch may be one long sample.
            formula: The norm.
            eps: Added to variances, positive.
            sync: Whether to pool the moments of the batch over all processes.
            population: Mean and variance that stand in for the batch's.
            mixing: What the formula depends on beside moments.
            affine: gamma and beta.
        """
        # Loops do not know what a class derived from that of their formula changes.
        if vars(type(formula)).get("loops") is None or not can_loop(x, *population, *(mixing or ()), *affine):
            return None
        for t in population:
            # Rows that are one long sample would be centered on the mean of all.
            if t is not None and (t.shape != x.shape[1:2] or not formula.per_sample):
                return None
        if mixing is not None and not formula.fits_loops(x.shape[1], *mixing):
            return None
        layout = Layout.find(x, per_sample)
        return None if layout is None else cls(formula, eps, sync, layout)

    def fits(self, grad: Tensor, x: Tensor, *small: Tensor | None) -> bool:
        """Whether a gradient, and what comes back for it, have the sizes and the dtype that they went with."""
        (_, channels), dtype = self.layout.shape, self.layout.dtype
        count = self.layout.size * math.prod(self.layout.shape)
        usual = all(t.numel() == count and t.shape[1] == channels for t in (grad, x))
        return usual and all(t is None or t.dtype == dtype for t in (grad, x, *small))

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
        layout = self.layout
        y = empty_like(x)
        values, result = layout.view(x), layout.view(y)
        small, stand_in = _contiguous(weight, bias, *mixing), _contiguous(*(population or ()))
        parameters = self._views(small)
        threads = _threads(x)
        if stand_in:
            batch = self._views_of_population(stand_in)
            together = 0 if keep else self._together(threads.count)
            if together:
                with threads:
                    self.own.evaluate(values, self.eps, batch, *parameters, result, together)
                return y
        self.moments = tuple(np.empty((2, *layout.shape), values.dtype))
        pools = population is None and self.formula.uses_batch
        *pooled, var = np.empty((3, layout.shape[1]), values.dtype)
        with threads:
            self.shared.measure(values, self.eps, pools, self.moments, tuple(pooled), var)
            if not stand_in:
                batch = self.batch_moments = self._pool(tuple(pooled), var, threads) if pools else tuple(pooled)
            self.own.apply(values, threads.count, self.moments, batch, *parameters, result)
        return y

    def _views(self, small: Sequence[Tensor | None]) -> tuple[Any, Any, Any, Any]:
        """What formulas are given: arrays for what they mix by, constants, and arrays for gamma and beta."""
        weight, bias, *mixing = small
        return (
            tuple(_view_all(t) for t in mixing if t is not None),
            self.formula.constants(),
            _view_affine(weight, 1.0, self.layout.shape[1], self.layout.dtype),
            _view_affine(bias, 0.0, self.layout.shape[1], self.layout.dtype),
        )

    def _views_of_population(self, population: Sequence[Tensor]) -> tuple[Any, Any]:
        """Mean and power of what stands in for the batch; good for as long as the tensors."""
        mean, var = map(_view_all, population)
        return mean, var + var.dtype.type(self.eps)

    def _together(self, threads: int) -> int:
        """How many channels of a sample to evaluate in one go, to find them in the cache; 0 if that does not pay."""
        (samples, channels), size = self.layout.shape, self.layout.size
        if self.own.evaluate is None:
            return 0
        if not self.layout.by_rows and not self.formula.mixes_channels:
            return min(channels, max(1, _GROUP // size))
        # The threads share the samples then.
        return channels if samples % threads == 0 or samples > 2 * threads else 0

    def _pool(self, pooled: tuple[Any, Any], var: Any, threads: Any) -> tuple[Any, Any]:
        """What the batch's moments are over all processes."""
        mean, power = pooled
        count = self.layout.shape[0] * self.layout.size
        self.batch = BatchMoments(mean, var, count)
        if not self.sync:
            return pooled
        with threads.released():
            found = pool_processes(torch.from_numpy(mean), torch.from_numpy(power), count)
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
        layout, (mean, _) = self.layout, self.moments
        # Whoever kept x for this pass may have brought it back in another order.
        x, grad = layout.arrange(x), layout.arrange(grad)
        values, upstream = layout.view(x), layout.view(grad)
        small, stand_in = _contiguous(weight, bias, *mixing), _contiguous(*(population or ()))
        batch = self._views_of_population(stand_in) if stand_in else self.batch_moments
        mixed, constants, gamma, beta = self._views(small)
        grads = [x.new_zeros(layout.shape[1:] if t is None else t.shape) for t in small]
        grad_mixing, _, grad_gamma, grad_beta = self._views(grads)
        found = np.empty((3, *layout.shape), _TYPES[x.dtype])
        of_batch = np.zeros((2, layout.shape[1]), found.dtype)
        given, results = (mixed, constants, gamma, beta), (grad_gamma, grad_beta, grad_mixing, of_batch, found)
        threads, grad_x = _threads(x), None
        with threads:
            self.own.differentiate(upstream, values, self.moments, batch, *given, *results)
            if needs_x:
                total = 0
                if not stand_in and self.formula.uses_batch:
                    total = max(int(self.batch.total), 1)
                    if self.sync:
                        with threads.released():
                            of_batch = all_reduce(torch.from_numpy(of_batch)).numpy()
                grad_x = empty_like(x)
                spread = threads.count, mean, batch[0], of_batch, total, found
                self.shared.combine(upstream, values, *spread, layout.view(grad_x))
        of_weight, of_bias = (None if t is None else g for t, g in zip((weight, bias), grads[:2], strict=True))
        return grad_x, of_weight, of_bias, tuple(grads[2:])


def track(count: Tensor, running: Sequence[Tensor], new: Sequence[Any], momentum: float) -> bool:
    """Count a batch and move running statistics towards its own, in place; return False if loops cannot.

    Args:
        count: int64 scalar.
        running: Each of shape (C,).
        new: Likewise, arrays: others than loops computed are not taken.
        momentum: Weight of the new ones, in [0, 1].
    """
    if not isinstance(new[0], np.ndarray) or count.dtype != torch.int64 or count.numel() != 1:
        return False
    # That there are arrays says that nobody watches.
    for t in (count, *running):
        if type(t) not in _PLAIN or t.dtype not in _TYPES or not t.is_cpu or not t.is_contiguous() or t.is_inference():
            return False
    for old, seen in zip(running, new, strict=True):
        if _TYPES[old.dtype] != seen.dtype or old.shape != seen.shape:
            return False
    _compiled().track(_view_all(count), tuple(map(_view_all, running)), tuple(new), momentum)
    torch.autograd.graph.increment_version((count, *running))
    return True


def _is_by_rows(x: Tensor) -> bool:
    if x.ndim == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.movedim(1, -1).is_contiguous()


def _contiguous(*tensors: Tensor | None) -> list[Any]:
    return [t if t is None else t.contiguous() for t in tensors]


def _view_affine(values: Tensor | None, default: float, channels: int, dtype: torch.dtype) -> Any:
    """An array of gamma or beta, of shape (N, C) or (1, C)."""
    if values is None:
        return _constant(default, channels, dtype)
    return _view(values.data_ptr(), (values.numel() // channels, channels), dtype)


@cache
def _constant(value: float, channels: int, dtype: torch.dtype) -> Any:
    return np.full((1, channels), value, _TYPES[dtype])


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
            "typestr": _TYPES[dtype].str,
            "data": (address, False),
            "version": 3,
        }


_TYPES: dict[torch.dtype, Any] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.int64: np.dtype(np.int64),
}


def _threads(x: Tensor) -> Any:
    """A context in which as many threads share what is to be done as it is worth."""
    return _compiled().Threads(1 if x.numel() < _GRAIN else torch.get_num_threads())


def can_loop(*tensors: Tensor | None) -> bool:
    """Whether loops can read tensors' memory: not if it is elsewhere, if there is none, or if operators are watched."""
    is_batched = torch._C._functorch.is_legacy_batchedtensor
    for t in tensors:
        if t is None:
            continue
        if type(t) not in _PLAIN or not t.is_cpu or t.is_neg() or t._is_zerotensor() or is_batched(t):
            return False
    return (
        not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
        and forward_ad._current_level < 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and _is_available()
    )


_PLAIN = (Tensor, nn.Parameter)


def _is_available() -> bool:
    compiled = _compiled()
    return compiled is not None and not compiled.FORKED.is_set()


@cache
def _compiled() -> Any:
    """The module of compiled loops; None, after a warning, where numba cannot be used."""
    try:
        from norms import compiled

        compiled.start()
    except (ImportError, OSError, ValueError) as error:
        warnings.warn(f"norms run slower on the CPU than they could: numba cannot be used ({error})", stacklevel=2)
        return None
    return compiled
