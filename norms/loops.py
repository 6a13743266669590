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
from norms.precision import wide_dtype

_GRAIN = 32768
"""Values below which to wake other threads costs more time than they spare."""


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
        self.loops = _find_loops(layout, formula.loops)

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
        found = None if formula.loops is None else _find_layout(x, per_sample)
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
        self.parameters = self._arrays(weight, bias, mixing, values.dtype)
        with _threads(x):
            if population is not None and not keep and self._can_evaluate():
                self.loops.evaluate(values, self.eps, *map(_array, population), *self.parameters, result)
                return y
            mean, power = np.empty((2, *self.shape), values.dtype)
            scale, offset = np.empty((2, *self.shape), values.dtype)
            self.loops.moments(values, self.eps, mean, power)
            self.moments = mean, power, *self._of_batch(mean, power, population)
            self.loops.coefficients(*self.moments, *self.parameters, scale, offset)
            self.loops.affine(values, mean, scale, offset, result)
        return y

    def _can_evaluate(self) -> bool:
        """Whether there is a loop that does everything, with work for all threads."""
        # What threads can share are planes, if those do not depend on one another, otherwise samples.
        apart = self.layout == "plane" and not self.formula.mixes_channels
        return self.loops.evaluate is not None and (apart or self.shape[0] >= torch.get_num_threads())

    def _of_batch(self, mean: Any, power: Any, population: Population) -> tuple[Any, Any]:
        if population is not None:
            return _array(population[0]), _array(population[1])
        if not self.formula.uses_batch:
            return np.zeros(self.shape[1], mean.dtype), np.ones(self.shape[1], mean.dtype)
        batch_mean, batch_power, batch_var = np.empty((3, self.shape[1]), mean.dtype)
        self.loops.pool(mean, power, self.eps, batch_mean, batch_power, batch_var)
        self.batch = BatchMoments(torch.from_numpy(batch_mean), torch.from_numpy(batch_var), self.shape[0] * self.size)
        if self.sync:
            found = pool_processes(self.batch.mean, torch.from_numpy(batch_power), self.shape[0] * self.size)
            self.batch = BatchMoments(found[0], (found[1] - self.eps).clamp_min(0), found[2])
            batch_mean, batch_power = found[0].numpy(), found[1].numpy()
        return batch_mean, batch_power

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
        mean, _, batch_mean, _ = self.moments
        # Whoever kept x for this pass may have brought it back in another order.
        x = _arranged(x, self.layout)
        values, upstream = self._activations(x), self._activations(grad)
        products, plain, of_grad, of_x, of_one = np.empty((5, *self.shape), values.dtype)
        of_batch = np.zeros((2, self.shape[1]), values.dtype)
        grad_weight, grad_bias = (
            np.zeros((1 if t is None or t.ndim == 1 else len(t), self.shape[1]), values.dtype) for t in (weight, bias)
        )
        grad_mixing = tuple(np.zeros(t.shape, values.dtype) for t in mixing)
        with _threads(x):
            self.loops.sums(upstream, values, mean, products, plain)
            results = grad_weight, grad_bias, grad_mixing, of_grad, of_x, of_one, of_batch
            self.loops.gradients(products, plain, self.size, *self.moments, *self.parameters, *results)
            grad_x = None
            if needs_x:
                if population is None and self.formula.uses_batch:
                    self.loops.share(mean, batch_mean, self._per_value(of_batch), of_x, of_one)
                grad_x = torch.empty_like(x)
                self.loops.combine(upstream, of_grad, values, mean, of_x, of_one, self._activations(grad_x))
        of_weight, of_bias = (
            None if t is None else torch.from_numpy(g).view(t.shape)
            for t, g in ((weight, grad_weight), (bias, grad_bias))
        )
        return grad_x, of_weight, of_bias, tuple(map(torch.from_numpy, grad_mixing))

    def _per_value(self, of_batch: Any) -> Any:
        """What a value of the batch gets of the gradients for the batch's moments."""
        total = self.batch.total
        if self.sync:
            of_batch = all_reduce(torch.from_numpy(of_batch)).numpy()
        return of_batch / of_batch.dtype.type(max(int(total), 1))

    def _activations(self, x: Tensor) -> Any:
        return _activations(x, self.layout, self.shape, self.size)

    def _arrays(
        self, weight: Tensor | None, bias: Tensor | None, mixing: tuple[Tensor, ...], dtype: Any
    ) -> tuple[Any, ...]:
        gamma = np.ones((1, self.shape[1]), dtype) if weight is None else _array(weight).reshape(-1, self.shape[1])
        beta = np.zeros((1, self.shape[1]), dtype) if bias is None else _array(bias).reshape(-1, self.shape[1])
        return tuple(map(_array, mixing)), self.formula.constants(), gamma, beta


def _find_layout(x: Tensor, per_sample: bool) -> tuple[str, tuple[int, int], int] | None:
    """What loops see ``x`` as: planes or rows, for how many samples and channels, of how many values."""
    fits = x.device.type == "cpu" and x.dtype == wide_dtype(x) and x.numel() > 0
    if not fits or is_observed(x) or not _is_available():
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
    values = _arranged(x, layout).numpy(force=True)
    if layout == "plane":
        return values.reshape(samples, channels, size)
    return values.transpose(0, *range(2, x.ndim), 1).reshape(samples, size, channels)


def _arranged(x: Tensor, layout: str) -> Tensor:
    """``x`` in the order in memory that loops over a layout need."""
    return x.contiguous() if layout == "plane" else x.movedim(1, -1).contiguous().movedim(-1, 1)


def _threads(x: Tensor) -> AbstractContextManager[None]:
    from norms.compiled import Threads

    return Threads(1 if x.numel() < _GRAIN else torch.get_num_threads())


@cache
def _find_loops(layout: str, prefix: str | None) -> SimpleNamespace:
    """Loops by what they are for: those over a layout, those of a formula, and those that all share."""
    from norms import compiled

    passes = {name: getattr(compiled, f"{layout}_{name}") for name in ("moments", "affine", "sums", "combine")}
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
    except ImportError as error:
        warnings.warn(f"norms run slower on the CPU than they could: numba cannot be imported ({error})", stacklevel=2)
        return None
    return compiled


def _array(values: Tensor) -> Any:
    return np.ascontiguousarray(values.numpy(force=True))


def is_observed(x: Tensor) -> bool:
    """Whether something wants to see operators, or has put something else in a tensor's place."""
    return (
        type(x) not in (Tensor, nn.Parameter)
        or torch.jit.is_tracing()
        or is_in_torch_dispatch_mode()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
