"""A norm in elementary operators, on any device and for any layout.

Numeric policy: moments and sums are computed in float32 (float64 for float64 input), from terms centered on the mean of
their plane; the result has the dtype and the memory format of the input.
"""

import math

import torch
from torch import Tensor

from .formula import BatchMoments, Formula, Gradients, Moments
from .pooling import all_reduce, pool_batch, pool_processes
from .precision import wide_dtype

Population = tuple[Tensor, Tensor] | None
"""Mean and biased variance, each of shape (C,), that stand in for those of the batch."""


class Computation:
    """Two passes over the activations forward, moments and map, and two backward, sums and combination.

    It is made for one batch and keeps what its gradient will need: the moments and what follows from them, but no
    values of the shape of the activations.

    Args:
        formula: The norm.
        eps: Added to variances, positive.
        sync: Whether to pool the moments of the batch over all processes.

    Attributes:
        batch: Moments of the batch; there after :meth:`normalize`, where they are used and not a population.
    """

    batch: BatchMoments

    def __init__(self, formula: Formula, eps: float, sync: bool) -> None:
        self.formula = formula
        self.eps = eps
        self.sync = sync

    def normalize(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        population: Population,
        mixing: tuple[Tensor, ...],
    ) -> Tensor:
        """Compute the normalized activations; of the dtype and the memory format of ``x``.

        Args:
            x: Activations, shape (N, C, *).
            weight: gamma, shape (C,) or (N, C); None is 1.
            bias: beta, likewise; None is 0.
            population: What stands in for the moments of the batch.
            mixing: What the formula depends on beside moments.
        """
        self.size = math.prod(x.shape[2:])
        mean, power = self._moments(x)
        self.moments, total = complete(mean, power, self.size, self.eps, self.sync, population)
        batch_var = (self.moments.batch_power - self.eps).clamp_min(0)
        self.batch = BatchMoments(self.moments.batch_mean, batch_var, total)
        self.scale, self.offset = self.formula.coefficients(self.moments, *mixing)
        scale, offset = with_affine(self.scale, self.offset, weight, bias)
        return _affine(x, mean, scale, offset).to(x.dtype)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x.to(wide_dtype(x))
        if self.size <= 1 or x.numel() == 0:
            return _sum(wide), wide.new_full(x.shape[:2], self.eps)
        var, mean = torch.var_mean(wide, tuple(range(2, x.ndim)), correction=0)
        return mean, var.add_(self.eps)

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
        """Compute the gradients for x, if that is needed, for weight, bias and mixing from the one for the result."""
        mean, scale, offset = self.moments.mean, self.scale, self.offset
        wide = grad.to(mean.dtype)
        grad_scale, grad_offset = _sum(wide * (x - spread(mean, x))), _sum(wide)
        grad_bias = None if bias is None else _sum_to(grad_offset, bias)
        grad_weight, full_scale = None, scale
        # Gradients for moments are divided by the size of a plane from here on: each of its values has an equal part.
        part: float | Tensor = 1 / max(self.size, 1)
        if weight is not None:
            grad_weight = _sum_to(torch.addcmul(grad_scale * scale, grad_offset, offset), weight)
            full_scale, part = scale * weight, weight * part
        grad_scale, grad_offset = grad_scale * part, grad_offset * part
        grads = self.formula.gradients(self.moments, grad_scale, grad_offset, *mixing)
        grad_x = None
        if needs_x:
            grad_mean, grad_power = self._of_planes(grads, population is None)
            # The map is centered on the plane's mean, which therefore has the scale's part in the gradient too.
            level = torch.addcmul(grad_mean, scale, grad_offset, value=-1)
            grad_x = torch.addcmul(_affine(x, mean, -grad_power, level), grad, spread(full_scale, x)).to(x.dtype)
        return grad_x, grad_weight, grad_bias, tuple(None if t is None else t * self.size for t in grads.mixing)

    def _of_planes(self, grads: Gradients, pooled: bool) -> tuple[Tensor, Tensor]:
        """Gradients for mean and power of planes, those that reach them through the moments of the batch included."""
        deviation, total = self.moments.deviation, self.batch.total
        zero = deviation.new_zeros(deviation.shape[1])
        grad_mean = zero if grads.deviation is None else grads.deviation
        grad_power = zero if grads.power is None else grads.power
        if pooled and self.formula.uses_batch:
            of_mean = grad_mean.sum(0)
            of_power = zero if grads.batch_power is None else grads.batch_power
            # The gradients given are divided by the size of this process's planes, which others need not have.
            share = self.size / max(total, 1) if isinstance(total, int) else 1 / total.clamp_min(1)
            if self.sync:
                of_mean, of_power = all_reduce(torch.stack([of_mean, of_power]) * self.size)
            of_power = of_power * share
            grad_mean = torch.addcmul(grad_mean - of_mean * share, deviation, of_power, value=-1)
            grad_power = grad_power + of_power
        return grad_mean if grads.mean is None else grad_mean + grads.mean, grad_power


def complete(
    mean: Tensor, power: Tensor, size: int, eps: float, sync: bool, population: Population
) -> tuple[Moments, int | Tensor]:
    """Add the moments of batch or population to those of planes of ``size`` values; also count the batch's values."""
    total: int | Tensor = mean.shape[0] * size
    if population is not None:
        batch_mean, batch_power = population[0], population[1] + eps
    else:
        batch_mean, batch_power = pool_batch(mean, power)
        if sync:
            batch_mean, batch_power, total = pool_processes(batch_mean, batch_power, mean.shape[0] * size)
            # As of no values in one process.
            batch_power = torch.where(total > 0, batch_power, 1)
    return Moments(mean, power, batch_mean, batch_power, mean - batch_mean), total


def with_affine(scale: Tensor, offset: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Put gamma and beta into a map."""
    if weight is None:
        return scale, offset if bias is None else offset + bias
    return scale * weight, offset * weight if bias is None else torch.addcmul(bias, offset, weight)


def spread(values: Tensor, x: Tensor) -> Tensor:
    """Give values of planes a shape that broadcasts to activations."""
    return values.reshape(values.shape + (1,) * (x.ndim - 2))


def _affine(x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    shift = torch.addcmul(offset, mean, scale, value=-1)
    return torch.addcmul(spread(shift, x), x, spread(scale, x))


def _sum(values: Tensor) -> Tensor:
    # Of a tensor without positions, a sum over no dimensions would be the sum over all of them.
    return values.sum(tuple(range(2, values.ndim))) if values.ndim > 2 else values


def _sum_to(grad: Tensor, parameter: Tensor) -> Tensor:
    return grad.sum(0) if parameter.ndim == 1 else grad
