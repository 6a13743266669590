"""Normalization as an affine map whose coefficients come from the moments of each (sample, channel) plane.

Every norm on activations can be written per plane ``(n, c)`` as

    y = ((x - mean) * scale + offset) * gamma + beta

where ``mean`` and ``var`` (biased) are the moments of the plane, and ``scale`` and ``offset`` are a small function of
them, of the batch moments that are pooled from them, and of what the layer has learned about mixing the two. Nothing
but this small function, a :class:`Formula`, differs between norms. The passes over the large tensor
(:mod:`norms.kernels`), the pooling over batch and processes (:mod:`norms.pooling`), gamma and beta, and the gradient of
it all are put together here once.

The map is centered on the plane's own mean, and its gradient saves only ``x`` and tensors of shape (N, C).
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from norms import kernels
from norms.pooling import all_reduce, is_distributed, pool_batch, pool_processes
from norms.precision import wide_dtype


class Moments(NamedTuple):
    """What the coefficients of a norm may depend on. A power is a biased variance plus the norm's epsilon.

    Attributes:
        mean: Means of the planes, shape (N, C).
        power: Powers of the planes, shape (N, C).
        batch_mean: Means of the batch, or of the population that stands in for it, shape (C,).
        batch_power: Likewise, shape (C,).
        deviation: ``mean - batch_mean``, shape (N, C).
    """

    mean: Tensor
    power: Tensor
    batch_mean: Tensor
    batch_power: Tensor
    deviation: Tensor


class Gradients(NamedTuple):
    """Gradients for what a formula depends on, of the same shapes or shapes that broadcast to them; None stands for 0.

    Those for powers are multiplied by -2, the factor that the derivative of ``power ** -0.5`` divides by.

    Attributes:
        mean: For the means of the planes, at fixed deviation.
        power: For the powers of the planes, times -2.
        batch_power: For the power of the batch, times -2.
        deviation: For the deviation.
        mixing: For the other tensors.
    """

    mean: Tensor | None = None
    power: Tensor | None = None
    batch_power: Tensor | None = None
    deviation: Tensor | None = None
    mixing: tuple[Tensor | None, ...] = ()


class BatchMoments(NamedTuple):
    """Moments of a batch, together with those of other processes if they pool theirs.

    Attributes:
        mean: Shape (C,).
        power: Biased variance plus epsilon, shape (C,).
        total: Number of values per channel.
    """

    mean: Tensor
    power: Tensor
    total: int | Tensor


class Formula(ABC):
    """A norm as a function of moments.

    Args:
        uses_batch: Whether batch moments enter the coefficients.
    """

    per_sample: ClassVar[bool]
    """Whether a sample's own moments enter the coefficients, other than to center."""
    standardizes: ClassVar[bool] = False
    """Whether the map is that of batch normalization but for constant factors and offsets of each channel."""

    def __init__(self, uses_batch: bool = True) -> None:
        self.uses_batch = uses_batch

    @abstractmethod
    def coefficients(self, moments: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset, each of a shape that broadcasts to (N, C), by differentiable operations.

        The batch's mean may enter by the deviation only, or without a gradient.

        Args:
            moments: Moments of planes and batch.
            mixing: What else the coefficients depend on, such as rho.
        """

    @abstractmethod
    def gradients(self, moments: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor) -> Gradients:
        """Differentiate the coefficients, given the gradients for scale and offset, both of shape (N, C)."""


def modulate(
    x: Tensor,
    formula: Formula,
    eps: float,
    *mixing: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    population: tuple[Tensor, Tensor] | None = None,
    sync: bool = False,
) -> tuple[Tensor, BatchMoments | None]:
    """Normalize ``x``.

    Args:
        x: Activations, shape (N, C, *).
        formula: The norm.
        eps: Added to variances, positive.
        mixing: What the formula depends on beside moments.
        weight: gamma, shape (C,), or (N, C) where samples have their own; None is 1.
        bias: beta, likewise; None is 0.
        population: Mean and power, each of shape (C,), to use in place of the batch's.
        sync: Whether to pool the moments of the batch over all processes.

    Returns:
        The normalized activations, of the shape, dtype and memory format of ``x``, and the moments of the batch,
        detached; None where the formula does not use them or a population stands in.
    """
    dtype = wide_dtype(x)
    given = (weight, bias, *(population or (None, None)), *mixing)
    small: list[Any] = [t if t is None or t.dtype == dtype else t.to(dtype) for t in given]
    sync = sync and formula.uses_batch and is_distributed()
    if torch.compiler.is_compiling():
        y, batch = _plain(x, formula, eps, sync, *small)
        batch = BatchMoments(batch.mean.detach(), batch.power.detach(), batch.total)
    else:
        y, *found = _Modulate.apply(x, formula, eps, sync, *small)
        batch = BatchMoments(*found)
    return y, batch if population is None and formula.uses_batch else None


def standardize(x: Tensor, mean: Tensor, power: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Normalize ``x`` by given moments alone: ``(x - mean) / sqrt(power) * weight + bias``.

    Args:
        x: Activations, shape (N, C, *).
        mean: Shape (C,).
        power: Shape (C,).
        weight: Shape (C,), or (N, C) where samples have their own; None is 1.
        bias: Likewise; None is 0.
    """
    dtype = wide_dtype(x)
    mean, power = mean.to(dtype), power.to(dtype)
    weight, bias = (None if t is None else t.to(dtype) for t in (weight, bias))
    if weight is None and bias is not None:
        # torch's gradient for a bias without a weight is wrong.
        weight = torch.ones_like(mean)
    if all(t is None or t.ndim == 1 for t in (weight, bias)):
        return F.batch_norm(x, mean, power, weight, bias, training=False, eps=0.0)
    scale, offset = _with_affine(torch.rsqrt(power), -mean * torch.rsqrt(power), weight, bias)
    return torch.addcmul(_broadcast(offset, x), x, _broadcast(scale, x)).to(x.dtype)


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        formula: Formula,
        eps: float,
        sync: bool,
        weight: Tensor | None,
        bias: Tensor | None,
        population_mean: Tensor | None,
        population_power: Tensor | None,
        *mixing: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, int | Tensor]:
        kernel = kernels.find(x, _per_sample(formula, weight, bias))
        mean, power = kernel.moments(x, eps)
        moments, total = _complete(mean, power, kernel.size, sync, population_mean, population_power)
        scale, offset = formula.coefficients(moments, *mixing)
        ctx.kernel, ctx.formula, ctx.eps, ctx.sync, ctx.total = kernel, formula, eps, sync, total
        ctx.save_for_backward(x, *moments, scale, offset, weight, bias, population_mean, population_power, *mixing)
        ctx.set_materialize_grads(False)
        scale, offset = _with_affine(scale, offset, weight, bias)
        y = kernel.affine(x, mean, scale, offset)
        if population_mean is not None:
            return y, None, None, total
        ctx.mark_non_differentiable(moments.batch_mean, moments.batch_power)
        # A copy, since an output that the context holds would hold the context.
        return y, moments.batch_mean, moments.batch_power, total if isinstance(total, int) else total.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        x, mean, power, batch_mean, batch_power, deviation, scale, offset, weight, bias, *small = ctx.saved_tensors
        population, mixing = small[:2], small[2:]
        if torch.is_grad_enabled():
            needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]]
            inputs = [x, weight, bias, *small]
            grad_x, *grads = _differentiable_gradients(grad, ctx.formula, ctx.eps, ctx.sync, inputs, needs)
            return grad_x, None, None, None, *grads
        kernel = ctx.kernel
        whole_batch = not _per_sample(ctx.formula, weight, bias) and population[0] is None
        if ctx.formula.standardizes and whole_batch and not ctx.sync:
            rstd = torch.rsqrt(batch_power)
            found = kernel.standardized_gradients(grad, x, batch_mean, rstd, _times(scale / rstd, weight))
            if found is not None:
                grad_x, of_standard, grad_bias = found
                grad_weight = of_standard * (scale / rstd) + grad_bias * offset.squeeze(0)
                affine = (None if t is None else g for t, g in ((weight, grad_weight), (bias, grad_bias)))
                return grad_x, None, None, None, *affine, None, None, *[None] * len(mixing)
        grad_scale, grad_offset = kernel.sums(grad, x, mean)
        grad_bias = None if bias is None else _sum_to(grad_offset, bias)
        grad_weight, full_scale = None, scale
        # Gradients for moments are divided by the size of a plane from here on: each of its values has an equal part.
        part: float | Tensor = 1 / max(kernel.size, 1)
        if weight is not None:
            grad_weight = _sum_to(torch.addcmul(grad_scale * scale, grad_offset, offset), weight)
            full_scale, part = scale * weight, weight * part
        grad_scale, grad_offset = grad_scale * part, grad_offset * part
        moments = Moments(mean, power, batch_mean, batch_power, deviation)
        grads = ctx.formula.gradients(moments, grad_scale, grad_offset, *mixing)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_mean, grad_power = _plane_gradients(grads, deviation, ctx, population[0] is None)
            # The map is centered on the plane's mean, which therefore has the scale's part in the gradient too.
            level = torch.addcmul(grad_mean, scale, grad_offset, value=-1)
            grad_x = kernel.combine(grad, full_scale, x, mean, -grad_power, level)
        grad_mixing = (None if t is None else t * kernel.size for t in grads.mixing)
        return grad_x, None, None, None, grad_weight, grad_bias, None, None, *grad_mixing


def _per_sample(formula: Formula, weight: Tensor | None, bias: Tensor | None) -> bool:
    return formula.per_sample or any(t is not None and t.ndim == 2 for t in (weight, bias))


def _complete(
    mean: Tensor,
    power: Tensor,
    size: int,
    sync: bool,
    population_mean: Tensor | None,
    population_power: Tensor | None,
) -> tuple[Moments, int | Tensor]:
    """Add the moments of batch or population to those of planes of ``size`` values; also count the batch's values."""
    total: int | Tensor = mean.shape[0] * size
    if population_mean is not None and population_power is not None:
        batch_mean, batch_power = population_mean, population_power
    else:
        batch_mean, batch_power = pool_batch(mean, power)
        if sync:
            batch_mean, batch_power, total = pool_processes(batch_mean, batch_power, mean.shape[0] * size)
            # As of no values in one process.
            batch_power = torch.where(total > 0, batch_power, 1)
    return Moments(mean, power, batch_mean, batch_power, mean - batch_mean), total


def _times(scale: Tensor, weight: Tensor | None) -> Tensor:
    return scale if weight is None else scale * weight


def _with_affine(scale: Tensor, offset: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    if weight is None or bias is None:
        return _times(scale, weight), _times(offset, weight) if bias is None else _times(offset, weight) + bias
    return scale * weight, torch.addcmul(bias, offset, weight)


def _plane_gradients(grads: Gradients, deviation: Tensor, ctx: Any, pooled: bool) -> tuple[Tensor, Tensor]:
    """Gradients for mean and power of the planes, those that reach them through the moments of the batch included."""
    zero = deviation.new_zeros(deviation.shape[1])
    grad_mean = zero if grads.deviation is None else grads.deviation
    grad_power = zero if grads.power is None else grads.power
    if pooled and ctx.formula.uses_batch:
        of_mean = grad_mean.sum(0)
        of_power = zero if grads.batch_power is None else grads.batch_power
        # The gradients given are divided by the size of this process's planes, which others need not have.
        share = ctx.kernel.size / max(ctx.total, 1) if isinstance(ctx.total, int) else 1 / ctx.total.clamp_min(1)
        if ctx.sync:
            of_mean, of_power = all_reduce(torch.stack([of_mean, of_power]) * ctx.kernel.size)
        of_power = of_power * share
        grad_mean = torch.addcmul(grad_mean - of_mean * share, deviation, of_power, value=-1)
        grad_power = grad_power + of_power
    return grad_mean if grads.mean is None else grad_mean + grads.mean, grad_power


def _plain(
    x: Tensor,
    formula: Formula,
    eps: float,
    sync: bool,
    weight: Tensor | None,
    bias: Tensor | None,
    population_mean: Tensor | None,
    population_power: Tensor | None,
    *mixing: Any,
) -> tuple[Tensor, BatchMoments]:
    """The same map in elementary operations: what compilers fuse and what second derivatives differentiate."""
    wide = x.to(wide_dtype(x))
    dims = tuple(range(2, x.ndim))
    size = math.prod(x.shape[2:])
    if not _per_sample(formula, weight, bias) and x.shape[0] > 0:
        # The batch as one long sample, which spares compiled code the moments of each plane.
        dims, size = (0, *dims), size * x.shape[0]
    mean = wide.mean(dims, keepdim=True) if dims else wide
    # The drift is 0, but not its derivatives: that centering costs no gradient over the values spares compiled code a
    # sum over all of them.
    center = mean.detach()
    centered, drift = wide - center, mean - center
    squares = centered.square()
    power = (squares.mean(dims, keepdim=True) if dims else squares) - drift.square() + eps
    mean, power, drift = (t.reshape(t.shape[:2]) for t in (mean, power, drift))
    moments, total = _complete(mean, power, size, sync, population_mean, population_power)
    scale, offset = _with_affine(*formula.coefficients(moments, *mixing), weight, bias)
    y = centered * _broadcast(scale, x) + _broadcast(offset - drift * scale, x)
    return y.to(x.dtype), BatchMoments(moments.batch_mean, moments.batch_power, total)


def _differentiable_gradients(
    grad: Tensor, formula: Formula, eps: float, sync: bool, inputs: list[Any], needs: list[bool]
) -> list[Tensor | None]:
    # Aliases cut the graph: where one input was computed from another, each still gets its own partial derivative.
    inputs = [t if t is None else t.view_as(t) for t in inputs]
    y, _ = _plain(inputs[0], formula, eps, sync, *inputs[1:])
    wanted = [t for t, need in zip(inputs, needs, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad((y,), wanted, (grad,), create_graph=True, materialize_grads=True))
    return [next(found) if need else None for need in needs]


def _broadcast(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(values.shape + (1,) * (x.ndim - 2))


def _sum_to(grad: Tensor, parameter: Tensor) -> Tensor:
    return grad.sum(0) if parameter.ndim == 1 else grad
