"""Normalization as an affine map whose coefficients come from the moments of each (sample, channel) plane.

Every norm on activations can be written per plane ``(n, c)`` as

    y = ((x - mean) * scale + offset) * gamma + beta

where ``mean`` and ``var`` (biased) are the moments of the plane, and ``scale`` and ``offset`` are a small function of
them, of the batch moments that are pooled from them, and of what the layer has learned about mixing the two. Nothing
but this small function, a :class:`norms.formula.Formula`, differs between norms. What computes it all, with gamma and
beta, the pooling over batch and processes and the gradient, is :mod:`norms.operators`. Compilers, and second
derivatives, get the same map in elementary operations.

The map is centered on the plane's own mean, and its gradient saves only ``x`` and tensors of shape (N, C).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .formula import BatchMoments, Formula
from .operators import Computation, Population, complete, spread, with_affine
from .pooling import is_distributed
from .precision import wide_dtype


def modulate(
    x: Tensor,
    formula: Formula,
    eps: float,
    *mixing: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    population: Sequence[Tensor] | None = None,
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
        population: Mean and biased variance, each of shape (C,), to use in place of the batch's.
        sync: Whether to pool the moments of the batch over all processes.

    Returns:
        The normalized activations, of the shape, dtype and memory format of ``x``, and the moments of the batch,
        detached; None where the formula does not use them or a population stands in.
    """
    shared, own = x.shape[1:2], x.shape[:2]
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != shared and t.shape != own:
            raise ValueError(f"{name} needs shape {tuple(shared)} or {tuple(own)} for this input, got {tuple(t.shape)}")
    small = _widened(x, weight, bias, *(population or (None, None)), *mixing)
    sync = sync and formula.uses_batch and is_distributed()
    uses_batch = population is None and formula.uses_batch
    if torch.compiler.is_compiling():
        y, batch = _plain(x, formula, eps, sync, *small)
        return y, BatchMoments(batch.mean.detach(), batch.var.detach(), batch.total) if uses_batch else None
    computation = Computation(formula, eps, sync)
    y = _Modulate.apply(computation, x, *small)
    return y, computation.batch if uses_batch else None


def standardize(x: Tensor, mean: Tensor, var: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Normalize ``x`` by given moments alone: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    Args:
        x: Activations, shape (N, C, *).
        mean: Shape (C,).
        var: Shape (C,).
        eps: Added to the variance, at least 0.
        weight: Shape (C,), or (N, C) where samples have their own; None is 1.
        bias: Likewise; None is 0.
    """
    mean, var, weight, bias = _widened(x, mean, var, weight, bias)
    if weight is None and bias is not None:
        # torch's gradient for a bias without a weight is wrong.
        weight = torch.ones_like(mean)
    if all(t is None or t.ndim == 1 for t in (weight, bias)):
        # Some versions of the function of torch.nn refuse an epsilon of 0, which this computes as well as others.
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)
    rstd = torch.rsqrt(var + eps)
    scale, offset = with_affine(rstd, -mean * rstd, weight, bias)
    return torch.addcmul(spread(offset, x), x, spread(scale, x)).to(x.dtype)


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        computation: Computation,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        population_mean: Tensor | None,
        population_var: Tensor | None,
        *mixing: Tensor,
    ) -> Tensor:
        ctx.computation = computation
        ctx.save_for_backward(x, weight, bias, population_mean, population_var, *mixing)
        return computation.normalize(x, weight, bias, _population(population_mean, population_var), mixing)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Once: hooks may bring back something else the next time, or nothing.
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            needs = ctx.needs_input_grad[1:]
            return None, *_differentiable_gradients(grads[0], ctx.computation, list(saved), needs)
        x, weight, bias, mean, var, *mixing = saved
        inputs = x, weight, bias, _population(mean, var), tuple(mixing)
        found = ctx.computation.differentiate(grads[0], *inputs, ctx.needs_input_grad[1])
        grad_x, grad_weight, grad_bias, of_mixing = found
        return None, grad_x, grad_weight, grad_bias, None, None, *of_mixing


def _population(mean: Tensor | None, power: Tensor | None) -> Population:
    return None if mean is None or power is None else (mean, power)


def _widened(x: Tensor, *small: Tensor | None) -> list[Any]:
    """What goes with activations, in the dtype to compute in."""
    dtype = wide_dtype(x)
    return [t if t is None or t.dtype == dtype else t.to(dtype) for t in small]


def _per_sample(formula: Formula, weight: Tensor | None, bias: Tensor | None) -> bool:
    return formula.per_sample or any(t is not None and t.ndim == 2 for t in (weight, bias))


def _plain(
    x: Tensor,
    formula: Formula,
    eps: float,
    sync: bool,
    weight: Tensor | None,
    bias: Tensor | None,
    population_mean: Tensor | None,
    population_var: Tensor | None,
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
    moments, total = complete(mean, power, size, eps, sync, _population(population_mean, population_var))
    scale, offset = with_affine(*formula.coefficients(moments, *mixing), weight, bias)
    y = centered * spread(scale, x) + spread(offset - drift * scale, x)
    return y.to(x.dtype), BatchMoments(moments.batch_mean, (moments.batch_power - eps).clamp_min(0), total)


def _differentiable_gradients(
    grad: Tensor, computation: Computation, inputs: list[Any], needs: tuple[bool, ...]
) -> list[Tensor | None]:
    # Aliases cut the graph: where one input was computed from another, each still gets its own partial derivative.
    inputs = [t if t is None else t.view_as(t) for t in inputs]
    y, _ = _plain(inputs[0], computation.formula, computation.eps, computation.sync, *inputs[1:])
    wanted = [t for t, need in zip(inputs, needs, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad((y,), wanted, (grad,), create_graph=True, materialize_grads=True))
    return [next(found) if need else None for need in needs]
