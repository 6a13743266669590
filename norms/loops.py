"""A norm in compiled loops: on the CPU, for float32 and float64 in contiguous or channels-last order.

Operators pass over the activations more often than is needed, and between two passes there are so many on small tensors
that to call them takes longer than what they do. Here a pass is one loop, and what is between two passes is another.

Numeric policy: moments and sums are computed from terms centered on the mean of their plane, in blocks that are summed
in the dtype and put together in float64.
"""

import math
import warnings
from contextlib import AbstractContextManager
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

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

_SHORT = 256
"""Values below which a plane is summed in one go, by one thread."""

_MANY = 8
"""Samples that are enough for threads to share."""


class Loops(Engine):
    """The loops of :mod:`norms.compiled` and, between them, those of a formula.

    Args:
        formula: The norm.
        eps: Added to variances, positive.
        sync: Whether to pool the moments of the batch over all processes.
        layout: Which loops: those over ``plane`` or ``row``.
        shape: Samples and channels that moments are computed for.
        size: Number of values per sample and channel.
    """

    def __init__(
        self, formula: Formula, eps: float, sync: bool, layout: str, shape: tuple[int, int], size: int
    ) -> None:
        super().__init__(formula, eps, sync)
        self.layout = layout
        self.shape = shape
        self.size = size
        self.short = layout == "plane" and size < _SHORT
        self.loops = _find_loops(layout, formula.loops, self.short)

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
        found = _find_layout(x, per_sample) if vars(type(formula)).get("loops") else None
        return None if found is None else cls(formula, eps, sync, *found)

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
        y = torch.empty_like(x)
        values, result = self._activations(x), self._activations(y)
        self.dtype = values.dtype
        parameters = self._arrays(weight, bias, mixing)
        threads = _threads(x)
        if population is not None and not keep and self._can_evaluate():
            with threads:
                self.loops.evaluate(values, self.eps, *map(_array, population), *parameters, result)
            return y
        mean, power = np.empty((2, *self.shape), values.dtype)
        scale, offset = np.empty((2, *self.shape), values.dtype)
        with threads:
            self.loops.moments(values, self.eps, mean, power)
        self.moments = mean, power
        if population is None:
            self._pool()
        self.loops.coefficients(mean, power, *self._of_batch(population), *parameters, scale, offset)
        with threads:
            self.loops.affine(values, mean, scale, offset, result)
        return y

    def _can_evaluate(self) -> bool:
        """Whether there is a loop that does everything, and enough for threads to share."""
        # Planes can be shared if they do not depend on one another, otherwise samples. That their number decides and
        # not that of threads keeps the result the same to the last bit.
        apart = self.layout == "plane" and not self.formula.mixes_channels
        return self.loops.evaluate is not None and (apart or self.shape[0] >= _MANY) and not self.short

    def _pool(self) -> None:
        mean, power = self.moments
        batch_mean, batch_power, batch_var = np.empty((3, self.shape[1]), mean.dtype)
        if not self.formula.uses_batch:
            batch_mean[:], batch_power[:] = 0, 1
            self.batch_moments = batch_mean, batch_power
            return
        self.loops.pool(mean, power, self.eps, batch_mean, batch_power, batch_var)
        self.batch = BatchMoments(torch.from_numpy(batch_mean), torch.from_numpy(batch_var), self.shape[0] * self.size)
        if self.sync:
            found = pool_processes(self.batch.mean, torch.from_numpy(batch_power), self.shape[0] * self.size)
            self.batch = BatchMoments(found[0], (found[1] - self.eps).clamp_min(0), found[2])
            batch_mean, batch_power = found[0].numpy(), found[1].numpy()
        self.batch_moments = batch_mean, batch_power

    def _of_batch(self, population: Population) -> tuple[Any, Any]:
        return self.batch_moments if population is None else (_array(population[0]), _array(population[1]))

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
        mean, power = self.moments
        batch_mean, batch_power = self._of_batch(population)
        # Whoever kept x for this pass may have brought it back in another order.
        x = _arranged(x, self.layout)
        values, upstream = self._activations(x), self._activations(grad)
        products, plain, of_grad, of_x, of_one = np.empty((5, *self.shape), values.dtype)
        of_batch = np.zeros((2, self.shape[1]), values.dtype)
        grad_weight, grad_bias = (x.new_zeros(self.shape[1:] if t is None else t.shape) for t in (weight, bias))
        grad_mixing = tuple(x.new_zeros(t.shape) for t in mixing)
        threads = _threads(x)
        with threads:
            self.loops.sums(upstream, values, mean, products, plain)
        results = *self._affine_arrays(grad_weight, grad_bias), tuple(map(_array, grad_mixing))
        given = mean, power, batch_mean, batch_power, *self._arrays(weight, bias, mixing)
        self.loops.gradients(products, plain, self.size, *given, *results, of_grad, of_x, of_one, of_batch)
        grad_x = None
        if needs_x:
            if population is None and self.formula.uses_batch:
                self.loops.share(mean, batch_mean, self._per_value(of_batch), of_x, of_one)
            grad_x = torch.empty_like(x)
            with threads:
                self.loops.combine(upstream, of_grad, values, mean, of_x, of_one, self._activations(grad_x))
        of_weight, of_bias = None if weight is None else grad_weight, None if bias is None else grad_bias
        return grad_x, of_weight, of_bias, grad_mixing

    def _per_value(self, of_batch: Any) -> Any:
        """What a value of the batch gets of the gradients for the batch's moments."""
        total = self.batch.total
        if self.sync:
            of_batch = all_reduce(torch.from_numpy(of_batch)).numpy()
        return of_batch / of_batch.dtype.type(max(int(total), 1))

    def _activations(self, x: Tensor) -> Any:
        return _activations(x, self.layout, self.shape, self.size)

    def _arrays(self, weight: Tensor | None, bias: Tensor | None, mixing: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return tuple(map(_array, mixing)), self.formula.constants(), *self._affine_arrays(weight, bias)

    def _affine_arrays(self, weight: Tensor | None, bias: Tensor | None) -> tuple[Any, Any]:
        channels, dtype = self.shape[1], self.dtype
        gamma = np.ones((1, channels), dtype) if weight is None else _array(weight).reshape(-1, channels)
        beta = np.zeros((1, channels), dtype) if bias is None else _array(bias).reshape(-1, channels)
        return gamma, beta


def _find_layout(x: Tensor, per_sample: bool) -> tuple[str, tuple[int, int], int] | None:
    """What loops see ``x`` as: planes or rows, for how many samples and channels, of how many values."""
    if x.dtype not in _TYPES or x.numel() == 0 or not can_loop(x):
        return None
    samples, channels = x.shape[:2]
    if x.is_contiguous() and (x.ndim > 2 or per_sample):
        return "plane", (samples, channels), math.prod(x.shape[2:])
    if x.movedim(1, -1).is_contiguous():
        samples = samples if per_sample else 1
        return "row", (samples, channels), x.numel() // (samples * channels)
    return None


def _activations(x: Tensor, layout: str, shape: tuple[int, int], size: int) -> Any:
    """The array that loops are given; a copy if ``x`` lies in memory in another order."""
    samples, channels = shape
    if layout == "plane":
        return _array(x).reshape(samples, channels, size)
    return _array(x.permute(0, *range(2, x.ndim), 1)).reshape(samples, size, channels)


def _arranged(x: Tensor, layout: str) -> Tensor:
    """``x`` in the order in memory that loops over a layout need."""
    return x.contiguous() if layout == "plane" else x.movedim(1, -1).contiguous().movedim(-1, 1)


def _threads(x: Tensor) -> AbstractContextManager[None]:
    from norms.compiled import Threads

    return Threads(1 if x.numel() < _GRAIN else torch.get_num_threads())


@cache
def _find_loops(layout: str, prefix: str | None, short: bool) -> SimpleNamespace:
    """Loops by what they are for: those over a layout, those of a formula, and those that all share."""
    from norms import compiled

    passes = {name: getattr(compiled, f"{layout}_{name}") for name in ("moments", "affine", "sums", "combine")}
    if short:
        passes |= {"moments": compiled.short_moments, "sums": compiled.short_sums}
    between = {name: getattr(compiled, f"{prefix}_{name}") for name in ("coefficients", "gradients")}
    evaluate = getattr(compiled, f"{prefix}_evaluate_{layout}s", None)
    shared = {"pool": compiled.pool, "share": compiled.share}
    return SimpleNamespace(**passes, **between, **shared, evaluate=evaluate)


def _is_available() -> bool:
    compiled = _import()
    return compiled is not None and not compiled.FORKED.is_set()


@cache
def _import() -> ModuleType | None:
    try:
        from norms import compiled

        compiled.start()
    except (ImportError, OSError, ValueError) as error:
        warnings.warn(f"norms run slower on the CPU than they could: numba cannot be used ({error})", stacklevel=2)
        return None
    return compiled


class _Memory:
    """The memory of a contiguous tensor, for NumPy. After ``Tensor.numpy`` it could never be resized again."""

    __slots__ = ("__array_interface__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.__array_interface__ = {
            "shape": tuple(tensor.shape),
            "typestr": _TYPES[tensor.dtype],
            "data": (tensor.data_ptr(), False),
            "version": 3,
        }


_TYPES = {torch.float32: np.dtype(np.float32).str, torch.float64: np.dtype(np.float64).str}


def _array(values: Tensor) -> Any:
    """An array that shares a tensor's memory, or that of a copy if its values do not follow one another there."""
    values = values.detach().contiguous()
    if values.is_neg() or values._is_zerotensor():
        values = values.resolve_neg().clone()
    return np.atleast_1d(np.asarray(_Memory(values)))


def can_loop(tensor: Tensor) -> bool:
    """Whether loops can read a tensor's memory: not if it is elsewhere, has none, or if something watches operators."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
        and forward_ad._current_level < 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
        and _is_available()
    )
