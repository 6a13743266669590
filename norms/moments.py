"""Normalization as an affine map whose coefficients come from the moments of each (sample, channel) plane.

Every norm on activations can be written per plane ``(n, c)`` as

    y = ((x - mean) * scale + offset) * gamma + beta

where ``mean`` and ``var`` (biased) are the moments of the plane, and ``scale`` and ``offset`` are a small function of
them, of the batch moments that are pooled from them, and of what the layer has learned about mixing the two. Nothing
but this small function, a :class:`norms.formula.Formula`, differs between norms. The passes over the activations, two
forward and two backward, are those of :mod:`norms.operators`. Compilers, and second derivatives, get the same map in
elementary operations.

The map is centered on the plane's own mean, and its gradient saves only ``x`` and tensors of shape (N, C).
"""

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from . import operators
from .errors import SettingError
from .formula import BatchMoments, Formula, Gradients, Moments
from .operators import spread
from .pooling import all_reduce, is_distributed, pool_batch, pool_processes
from .precision import wide_dtype

Population = tuple[Tensor, Tensor] | None
"""Mean and biased variance, each of shape (C,), that stand in for those of the batch."""


def modulate(
    x: Tensor,
    formula: Formula,
    eps: float,
    *mixing: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    population: Sequence[Tensor] | None = None,
    sync: Any = False,
) -> tuple[Tensor, BatchMoments | None]:
    """Normalize ``x`` by torch's kernels; the arguments are those of :func:`norms.functional.normalize`.

    Returns:
        The normalized activations, of the shape, dtype and memory format of ``x``, and the moments of the batch,
        detached; None where the formula does not use them or a population stands in.
    """
    if x.ndim == 2:
        # The passes over activations want a dimension of positions.
        y, batch = modulate(
            x.unsqueeze(2), formula, eps, *mixing, weight=weight, bias=bias, population=population, sync=sync
        )
        return y.squeeze(2), batch
    check_affine(x, weight, bias)
    small = widened(x, weight, bias, *(population or (None, None)), *mixing)
    sync = formula.uses_batch and is_distributed(sync) and sync
    uses_batch = population is None and formula.uses_batch
    if torch.compiler.is_compiling():
        y, batch = modulate_plainly(x, formula, eps, sync, *small)
        return y, batch if uses_batch else None
    computation = _Computation(formula, eps, sync)
    y = _Modulate.apply(computation, x, *small)
    return y, _batch_moments(computation.moments, eps, computation.total) if uses_batch else None


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
    mean, var, weight, bias = widened(x, mean, var, weight, bias)
    if weight is None and bias is not None:
        # torch's gradient for a bias without a weight is wrong.
        weight = torch.ones_like(mean)
    if all(t is None or t.ndim == 1 for t in (weight, bias)):
        # Some versions of the function of torch.nn refuse an epsilon of 0, which this computes as well as others.
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)
    rstd = torch.rsqrt(var + eps)
    scale, offset = with_affine(rstd, -mean * rstd, weight, bias)
    return torch.addcmul(spread(offset, x), x, spread(scale, x)).to(x.dtype)


def complete(
    mean: Tensor, power: Tensor, size: int, eps: float, sync: Any, population: Population
) -> tuple[Moments, int | Tensor]:
    """Add the moments of batch or population to those of planes of ``size`` values; also count the batch's values."""
    total: int | Tensor = mean.shape[0] * size
    if population is not None:
        batch_mean, batch_power = population[0], population[1] + eps
    else:
        batch_mean, batch_power = pool_batch(mean, power)
        if sync:
            batch_mean, batch_power, total = pool_processes(batch_mean, batch_power, mean.shape[0] * size, sync)
            # As of no values in one process.
            batch_power = torch.where(total > 0, batch_power, 1)
    return Moments(mean, power, batch_mean, batch_power, mean - batch_mean), total


def with_affine(scale: Tensor, offset: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Put gamma and beta into a map."""
    if weight is None:
        return scale, offset if bias is None else offset + bias
    return scale * weight, offset * weight if bias is None else torch.addcmul(bias, offset, weight)


def _sum_to(grad: Tensor, parameter: Tensor) -> Tensor:
    return grad.sum(0) if parameter.ndim == 1 else grad


class _Computation:
    """Describe the normalization of one batch: what it is to be, then what its gradient needs beside activations.

    Args:
        formula: The norm.
        eps: Added to variances, positive.
        sync: Whether to pool the moments of the batch over all processes, or the group of them.
    """

    moments: Moments
    total: int | Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, formula: Formula, eps: float, sync: Any) -> None:
        self.formula = formula
        self.eps = eps
        self.sync = sync

    def plainly(self, *inputs: Any) -> Tensor:
        """Normalize in elementary operations, given what :meth:`_Modulate.forward` is given."""
        return modulate_plainly(inputs[0], self.formula, self.eps, self.sync, *inputs[1:])[0]

    def pull_back(self, inputs: Sequence[Any], chosen: Sequence[bool]) -> tuple[Tensor, Callable[..., Any]]:
        """Normalize, and return also what turns a gradient for the result into those for the chosen inputs."""

        def function(*own: Tensor) -> Tensor:
            given = iter(own)
            return self.plainly(*(next(given) if choice else t for t, choice in zip(inputs, chosen, strict=True)))

        y, pull, *_ = torch.func.vjp(function, *compress(inputs, chosen))
        return y, pull

    def gradients_of_planes(self, grads: Gradients, size: int, pooled: bool) -> tuple[Tensor, Tensor]:
        """Return the gradients for mean and power of planes, with those that reach them through the batch's moments."""
        deviation, total = self.moments.deviation, self.total
        zero = deviation.new_zeros(deviation.shape[1])
        grad_mean = zero if grads.deviation is None else grads.deviation
        grad_power = zero if grads.power is None else grads.power
        if pooled and self.formula.uses_batch:
            of_mean = grad_mean.sum(0)
            of_power = zero if grads.batch_power is None else grads.batch_power
            # The gradients given are divided by the size of this process's planes, which others need not have.
            share = size / max(total, 1) if isinstance(total, int) else 1 / total.clamp_min(1)
            if self.sync:
                of_mean, of_power = all_reduce(torch.stack([of_mean, of_power]) * size, self.sync)
            of_power = of_power * share
            grad_mean = torch.addcmul(grad_mean - of_mean * share, deviation, of_power, value=-1)
            grad_power = grad_power + of_power
        return grad_mean if grads.mean is None else grad_mean + grads.mean, grad_power


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(
        own: _Computation,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        population_mean: Tensor | None,
        population_var: Tensor | None,
        *mixing: Tensor,
    ) -> Tensor:
        mean, power = operators.moments(x, own.eps)
        population = _population(population_mean, population_var)
        own.moments, own.total = complete(mean, power, math.prod(x.shape[2:]), own.eps, own.sync, population)
        own.scale, own.offset = own.formula.coefficients(own.moments, *mixing)
        return operators.affine(x, mean, *with_affine(own.scale, own.offset, weight, bias))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.computation, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        y, pull_back = ctx.computation.pull_back(ctx.saved_tensors, [v is not None for v in tangents])
        # The transpose of the transpose of a linear map, since forward mode cannot be nested.
        push_forward = torch.func.vjp(pull_back, torch.zeros_like(y))[1]
        tangent: Tensor = push_forward(tuple(v for v in tangents if v is not None))[0]
        return tangent

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], own: _Computation, *inputs: Any) -> tuple[Tensor, int]:
        if inputs[3] is None and own.formula.uses_batch:
            raise SettingError("torch.vmap takes norms in evaluation, or norms.functional: statistics would be shared")
        return torch.vmap(own.plainly, in_dims[1:])(*inputs), 0

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        own, needs = ctx.computation, ctx.needs_input_grad[1:]
        # Once: hooks may bring back something else the next time, or nothing.
        x, weight, bias, *rest = ctx.saved_tensors
        if torch.is_grad_enabled():
            found = iter(own.pull_back([x, weight, bias, *rest], needs)[1](grads[0]))
            return None, *(next(found) if need else None for need in needs)
        population, mixing, size = _population(*rest[:2]), rest[2:], math.prod(x.shape[2:])
        mean, scale, offset = own.moments.mean, own.scale, own.offset
        grad = operators.as_laid_out(grads[0], x)
        grad_scale, grad_offset = operators.sums(grad, x, mean)
        grad_bias = None if bias is None else _sum_to(grad_offset, bias)
        grad_x, grad_weight, full_scale = None, None, scale
        # Gradients for moments are divided by the size of a plane from here on: each of its values has an equal part.
        part: float | Tensor = 1 / max(size, 1)
        if weight is not None:
            grad_weight = _sum_to(torch.addcmul(grad_scale * scale, grad_offset, offset), weight)
            full_scale, part = scale * weight, weight * part
        grad_scale, grad_offset = grad_scale * part, grad_offset * part
        found = own.formula.gradients(own.moments, grad_scale, grad_offset, *mixing)
        if needs[0]:
            grad_mean, grad_power = own.gradients_of_planes(found, size, population is None)
            # The map is centered on the plane's mean, which therefore has the scale's part in the gradient too.
            level = torch.addcmul(grad_mean, scale, grad_offset, value=-1).addcmul_(mean, grad_power)
            grad_x = operators.combine(grad, x, full_scale, -grad_power, level)
        of_mixing = (None if each is None else each * size for each in found.mixing)
        return None, grad_x, grad_weight, grad_bias, None, None, *of_mixing


# torch asks for it in every pass, and Python would make it anew each time.
_Modulate.forward.__signature__ = inspect.signature(_Modulate.forward)  # type: ignore[attr-defined]


def _population(mean: Tensor | None, power: Tensor | None) -> Population:
    return None if mean is None or power is None else (mean, power)


def check_affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    """Refuse a gamma or beta that does not fit ``x``."""
    shared, own = x.shape[1:2], x.shape[:2]
    for name, t in (("weight", weight), ("bias", bias)):
        # Only shapes of as many dimensions are compared: comparing N with C would fix N where a network is exported.
        if t is not None and t.shape != (shared if t.ndim == 1 else own):
            raise SettingError(f"{name} needs shape {tuple(shared)} or {tuple(own)}, got {tuple(t.shape)}")


def widened(x: Tensor, *small: Tensor | None) -> list[Any]:
    """Return what goes with activations ``x``, in the dtype to compute in."""
    dtype = wide_dtype(x)
    return [t if t is None or t.dtype == dtype else t.to(dtype) for t in small]


def _per_sample(formula: Formula, weight: Tensor | None, bias: Tensor | None) -> bool:
    return formula.per_sample or any(t is not None and t.ndim == 2 for t in (weight, bias))


def modulate_plainly(
    x: Tensor,
    formula: Formula,
    eps: float,
    sync: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    population_mean: Tensor | None,
    population_var: Tensor | None,
    *mixing: Any,
) -> tuple[Tensor, BatchMoments]:
    """Normalize in elementary operations, which compilers fuse and second derivatives differentiate."""
    wide = x.to(wide_dtype(x))
    dims = tuple(range(2, x.ndim))
    size = math.prod(x.shape[2:])
    if not _per_sample(formula, weight, bias) and x.shape[0] > 0:
        # The batch as one long sample, which spares compiled code the moments of each plane.
        dims, size = (0, *dims), size * x.shape[0]
    mean = wide.mean(dims, keepdim=True)
    # The drift is 0, but not its derivatives: that centering costs no gradient over the values spares compiled code a
    # sum over all of them.
    center = mean.detach()
    centered, drift = wide - center, mean - center
    power = centered.square().mean(dims, keepdim=True) - drift.square() + eps
    mean, power, drift = (t.reshape(t.shape[:2]) for t in (mean, power, drift))
    moments, total = complete(mean, power, size, eps, sync, _population(population_mean, population_var))
    scale, offset = with_affine(*formula.coefficients(moments, *mixing), weight, bias)
    y = centered * spread(scale, x) + spread(offset - drift * scale, x)
    return y.to(x.dtype), _batch_moments(moments, eps, total)


def _batch_moments(moments: Moments, eps: float, total: int | Tensor) -> BatchMoments:
    return BatchMoments(moments.batch_mean.detach(), (moments.batch_power.detach() - eps).clamp_min(0), total)
