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

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from norms import kernels
from norms.pooling import all_reduce, is_distributed, pool, pool_processes


class Moments(NamedTuple):
    """Mean and biased variance: of planes, shape (N, C), or of a batch, shape (C,)."""

    mean: Tensor
    var: Tensor


class BatchMoments(NamedTuple):
    """Moments of a batch, together with those of other processes if they pool theirs.

    Attributes:
        mean: Shape (C,).
        var: Biased, shape (C,).
        total: Number of values per channel.
    """

    mean: Tensor
    var: Tensor
    total: int | Tensor


class Gradients(NamedTuple):
    """Gradients for the inputs of a formula, of their shapes; None stands for zero.

    Attributes:
        plane: For the moments of the planes.
        batch: For the moments of the batch.
        mixing: For the other tensors.
    """

    plane: tuple[Tensor | None, Tensor | None]
    batch: tuple[Tensor | None, Tensor | None]
    mixing: tuple[Tensor | None, ...] = ()


class Formula(ABC):
    """A norm as a function of moments.

    Args:
        eps: Added to variances, positive.
        uses_batch: Whether batch moments enter the coefficients.
    """

    per_sample: ClassVar[bool]
    """Whether a sample's own moments enter the coefficients, other than to center."""

    def __init__(self, eps: float, uses_batch: bool = True) -> None:
        self.eps = eps
        self.uses_batch = uses_batch

    @abstractmethod
    def coefficients(self, plane: Moments, batch: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset, each of a shape that broadcasts to (N, C), by differentiable operations.

        Args:
            plane: Moments of the planes.
            batch: Moments of the batch, or of the population that stands in for it.
            mixing: What else the coefficients depend on, such as rho.
        """

    @abstractmethod
    def gradients(
        self, plane: Moments, batch: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor
    ) -> Gradients:
        """Differentiate the coefficients, given the gradients for scale and offset, both of shape (N, C)."""


def modulate(
    x: Tensor,
    formula: Formula,
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
        mixing: What the formula depends on beside moments.
        weight: gamma, shape (C,), or (N, C) where samples have their own; None is 1.
        bias: beta, likewise; None is 0.
        population: Mean and variance, each of shape (C,), to use in place of the batch's.
        sync: Whether to pool the moments of the batch over all processes.

    Returns:
        The normalized activations, of the shape, dtype and memory format of ``x``, and the moments of the batch,
        detached; None where the formula does not use them or a population stands in.
    """
    dtype = kernels.statistics_dtype(x)
    small: list[Any] = [t if t is None else t.to(dtype) for t in (weight, bias, *(population or (None, None)), *mixing)]
    sync = sync and formula.uses_batch and is_distributed()
    if torch.compiler.is_compiling():
        y, batch = _plain(x, formula, sync, *small)
        batch = BatchMoments(batch.mean.detach(), batch.var.detach(), batch.total)
    else:
        y, *found = _Modulate.apply(x, formula, sync, *small)
        batch = BatchMoments(*found)
    return y, batch if population is None and formula.uses_batch else None


def standardize(x: Tensor, mean: Tensor, var: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Normalize ``x`` by given moments alone: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    Args:
        x: Activations, shape (N, C, *).
        mean: Shape (C,).
        var: Shape (C,).
        eps: Added to the variance.
        weight: Shape (C,), or (N, C) where samples have their own; None is 1.
        bias: Likewise; None is 0.
    """
    dtype = kernels.statistics_dtype(x)
    mean, var = mean.to(dtype), var.to(dtype)
    weight, bias = (None if t is None else t.to(dtype) for t in (weight, bias))
    if all(t is None or t.ndim == 1 for t in (weight, bias)):
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
    scale = torch.rsqrt(var + eps) * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    return torch.addcmul(_broadcast(shift, x), x, _broadcast(scale, x)).to(x.dtype)


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        formula: Formula,
        sync: bool,
        weight: Tensor | None,
        bias: Tensor | None,
        population_mean: Tensor | None,
        population_var: Tensor | None,
        *mixing: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, int | Tensor]:
        kernel = kernels.find(x, formula.per_sample or any(t is not None and t.ndim == 2 for t in (weight, bias)))
        mean, var, buffer = kernel.moments(x, formula.eps)
        plane = Moments(mean, var)
        if population_mean is None or population_var is None:
            batch = _batch_moments(plane, kernel.size, sync)
        else:
            batch = BatchMoments(population_mean, population_var, 1)
        scale, offset = formula.coefficients(plane, Moments(batch.mean, batch.var), *mixing)
        ctx.kernel, ctx.formula, ctx.sync, ctx.total = kernel, formula, sync, batch.total
        ctx.save_for_backward(
            x, mean, var, batch.mean, batch.var, scale, offset, weight, bias, population_mean, population_var, *mixing
        )
        ctx.mark_non_differentiable(batch.mean, batch.var)
        ctx.set_materialize_grads(False)
        if weight is not None:
            scale, offset = scale * weight, offset * weight
        if bias is not None:
            offset = offset + bias
        y = kernel.normalize(x, mean, var, buffer, formula.eps, scale.expand_as(mean), offset.expand_as(mean))
        return y, batch.mean, batch.var, batch.total

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]]
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        x, mean, var, *rest = ctx.saved_tensors
        batch_mean, batch_var, scale, offset, weight, bias, population_mean, population_var, *mixing = rest
        if torch.is_grad_enabled():
            small = [weight, bias, population_mean, population_var, *mixing]
            grad_x, *grads = _differentiable_gradients(grad, x, ctx.formula, ctx.sync, small, needs)
            return grad_x, None, None, *grads
        plane, batch = Moments(mean, var), Moments(batch_mean, batch_var)
        grad_scale, grad_offset = ctx.kernel.sums(grad, x, mean)
        grad_sum = grad_offset
        grad_weight = None if weight is None else _sum_to(grad_scale * scale + grad_offset * offset, weight)
        grad_bias = None if bias is None else _sum_to(grad_offset, bias)
        if weight is not None:
            scale, grad_scale, grad_offset = scale * weight, grad_scale * weight, grad_offset * weight
        grads = ctx.formula.gradients(plane, batch, grad_scale, grad_offset, *mixing)
        grad_x = None
        if needs[0]:
            pooled = grads.batch if population_mean is None else (None, None)
            grad_mean, grad_var = _plane_gradients(grads.plane, pooled, plane, batch, ctx)
            slope = grad_var * (2 / ctx.kernel.size)
            level = (grad_mean - scale * grad_sum) / ctx.kernel.size - mean * slope
            grad_x = ctx.kernel.combine(grad, scale.expand_as(mean), x, slope, level)
        return grad_x, None, None, grad_weight, grad_bias, None, None, *grads.mixing


def _batch_moments(plane: Moments, size: int, sync: bool) -> BatchMoments:
    mean, var = (t.squeeze(0) for t in pool(*plane, dim=0))
    count = plane.mean.shape[0] * size
    return BatchMoments(*pool_processes(mean, var, count)) if sync else BatchMoments(mean, var, count)


def _plane_gradients(
    own: tuple[Tensor | None, Tensor | None],
    pooled: tuple[Tensor | None, Tensor | None],
    plane: Moments,
    batch: Moments,
    ctx: Any,
) -> tuple[Tensor, Tensor]:
    """Gradients for the moments of the planes, those that reach them through the moments of the batch included."""
    zero = torch.zeros_like(batch.mean)
    grad_mean, grad_var = (zero if t is None else t for t in pooled)
    if ctx.sync:
        grad_mean, grad_var = all_reduce(torch.stack([grad_mean, grad_var]))
    share = ctx.kernel.size / ctx.total
    grad_var = grad_var * share
    grad_mean = torch.addcmul(grad_mean * share, plane.mean - batch.mean, grad_var, value=2)
    own_mean, own_var = own
    return (
        grad_mean if own_mean is None else grad_mean + own_mean,
        grad_var.expand_as(plane.var) if own_var is None else grad_var + own_var,
    )


def _plain(
    x: Tensor,
    formula: Formula,
    sync: bool,
    weight: Tensor | None,
    bias: Tensor | None,
    population_mean: Tensor | None,
    population_var: Tensor | None,
    *mixing: Any,
) -> tuple[Tensor, BatchMoments]:
    """The same map in elementary operations: what compilers fuse and what second derivatives differentiate."""
    wide = x.to(kernels.statistics_dtype(x))
    dims = tuple(range(2, x.ndim))
    mean = wide.mean(dims) if dims else wide
    centered = wide - _broadcast(mean, x)
    var = centered.square().mean(dims) if dims else centered.square()
    plane = Moments(mean, var)
    if population_mean is None or population_var is None:
        batch = _batch_moments(plane, x.shape[2:].numel(), sync)
    else:
        batch = BatchMoments(population_mean, population_var, 1)
    scale, offset = formula.coefficients(plane, Moments(batch.mean, batch.var), *mixing)
    if weight is not None:
        scale, offset = scale * weight, offset * weight
    if bias is not None:
        offset = offset + bias
    y = centered * _broadcast(scale.expand_as(mean), x) + _broadcast(offset.expand_as(mean), x)
    return y.to(x.dtype), batch


def _differentiable_gradients(
    grad: Tensor, x: Tensor, formula: Formula, sync: bool, small: list[Any], needs: list[bool]
) -> list[Tensor | None]:
    # Aliases cut the graph: where one input was computed from another, each still gets its own partial derivative.
    inputs: list[Any] = [t if t is None else t.view_as(t) for t in (x, *small)]
    y, _ = _plain(inputs[0], formula, sync, *inputs[1:])
    wanted = [t for t, need in zip(inputs, needs, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad((y,), wanted, (grad,), create_graph=True, materialize_grads=True))
    return [next(found) if need else None for need in needs]


def _broadcast(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(values.shape[:-1] + (-1,) + (1,) * (x.ndim - 2)) if values.numel() else values


def _sum_to(grad: Tensor, parameter: Tensor) -> Tensor:
    return grad.sum(0) if parameter.ndim == 1 else grad
