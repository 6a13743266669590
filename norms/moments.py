"""Normalization as an affine map whose coefficients come from the moments of each (sample, channel) plane.

Every norm on activations can be written per plane ``(n, c)`` as

    y = (x - mean) * scale + offset

where ``mean`` and ``var`` (biased) are the moments of the plane and ``scale`` and ``offset``, both of shape (N, C), are
a small function of the moments of all planes and of the layer's parameters. Batch and layer moments are exact poolings
of the plane moments by the law of total variance, so nothing but this small function differs between norms. The two
passes over the large tensor, reducing it to moments and applying the map, and their gradient are written here once.

The map is centered on the plane's own mean, which keeps it well conditioned where ``|mean|`` is much larger than the
standard deviation.

Numeric policy: moments, coefficients and the map are computed in float32 (float64 for float64 input) whatever the dtype
of the input, and the output has the dtype and the memory format of the input.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Coefficients = Callable[..., tuple[Tensor, Tensor]]
"""``(mean, var, *tensors) -> (scale, offset)``, all of shape (N, C) but the layer's own tensors; differentiable."""


def pool_batch(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Pool plane moments over the batch.

    Args:
        mean: Plane means, shape (N, C).
        var: Biased plane variances, shape (N, C).

    Returns:
        Mean and biased variance of each channel over all its N planes, each of shape (C,).
    """
    pooled = mean.mean(0)
    return pooled, var.mean(0) + (mean - pooled).square().mean(0)


def pool_layer(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Pool plane moments over the channels of each sample.

    Args:
        mean: Plane means, shape (N, C).
        var: Biased plane variances, shape (N, C).

    Returns:
        Mean and biased variance of each sample over all its C planes, each of shape (N, 1).
    """
    pooled = mean.mean(1, keepdim=True)
    return pooled, var.mean(1, keepdim=True) + (mean - pooled).square().mean(1, keepdim=True)


def modulate(
    x: Tensor, coefficients: Coefficients, eps: float, *tensors: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize ``x`` by the affine map that ``coefficients`` derives from its plane moments.

    The gradient is hand-derived, saves only ``x`` and tensors of shape (N, C), and can itself be differentiated.

    Args:
        x: Activations, shape (N, C, *) with at least one spatial dimension.
        coefficients: The norm, as a function of the plane moments and ``tensors``.
        eps: The norm's epsilon, used where moments are obtained through an inverse standard deviation.
        tensors: What ``coefficients`` needs beside the moments; gradients flow to those that require them.

    Returns:
        The normalized activations (like ``x``), and the plane means and biased plane variances, both of shape (N, C)
        and detached.
    """
    if torch.compiler.is_compiling():
        y, mean, var = _modulate_plain(x, coefficients, *tensors)
        return y, mean.detach(), var.detach()
    return _Modulate.apply(x, coefficients, eps, *tensors)


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, coefficients: Coefficients, eps: float, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _plane_moments(x, eps)
        scale, offset = coefficients(mean, var, *tensors)
        ctx.coefficients = coefficients
        ctx.save_for_backward(x, mean, var, scale, *tensors)
        ctx.mark_non_differentiable(mean, var)
        return _affine(x, scale, torch.addcmul(offset, mean, scale, value=-1)), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, mean, var, scale, *tensors = ctx.saved_tensors
        needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]]
        if torch.is_grad_enabled():
            grad_x, *grads = _differentiable_backward(x, ctx.coefficients, tensors, grad, needs)
            return grad_x, None, None, *grads
        grad_x, grad_scale, grad_offset = _affine_backward(grad, x, mean, scale)
        small = [mean, var, *tensors]
        grad_mean, grad_var, *grads = _small_backward(
            ctx.coefficients, small, (grad_scale, grad_offset), [needs[0], needs[0], *needs[1:]]
        )
        if grad_x is not None and needs[0]:
            count = x.numel() // mean.numel()
            slope = grad_var * (2 / count)
            level = (grad_mean - scale * grad_offset) / count
            grad_x = _add_affine(grad_x, x, slope, torch.addcmul(level, mean, slope, value=-1))
        return grad_x if needs[0] else None, None, None, *grads


def _modulate_plain(x: Tensor, coefficients: Coefficients, *tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same map in elementary operations: what compilers fuse and what second derivatives differentiate."""
    wide = x.to(_statistics_dtype(x))
    dims = tuple(range(2, x.ndim))
    mean = wide.mean(dims)
    centered = wide - _planes(mean, x)
    var = centered.square().mean(dims)
    scale, offset = coefficients(mean, var, *tensors)
    return (centered * _planes(scale, x) + _planes(offset, x)).to(x.dtype), mean, var


def _differentiable_backward(
    x: Tensor, coefficients: Coefficients, tensors: list[Tensor | None], grad: Tensor, needs: list[bool]
) -> list[Tensor | None]:
    # Aliases cut the graph: where one input was computed from another, each still gets its own partial derivative.
    x = x.view_as(x)
    aliases = [None if t is None else t.view_as(t) for t in tensors]
    y, _, _ = _modulate_plain(x, coefficients, *aliases)
    return _gradients((y,), [x, *aliases], (grad,), needs, create_graph=True)


def _small_backward(
    coefficients: Coefficients, inputs: list[Tensor | None], grads: tuple[Tensor, Tensor], needs: list[bool]
) -> list[Tensor | None]:
    with torch.enable_grad():
        leaves = [t if t is None else t.detach().requires_grad_(need) for t, need in zip(inputs, needs, strict=True)]
        outputs = coefficients(*leaves)
    return _gradients(outputs, leaves, grads, needs)


def _gradients(
    outputs: tuple[Tensor, ...],
    inputs: list[Tensor | None],
    grads: tuple[Tensor, ...],
    needs: list[bool],
    create_graph: bool = False,
) -> list[Tensor | None]:
    wanted = [t for t, need in zip(inputs, needs, strict=True) if need and t is not None]
    # A norm without gamma, say, has a scale or an offset that depends on nothing trained.
    outputs, grads = zip(*((o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad), strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=create_graph, materialize_grads=True))
    return [next(found) if need else None for need in needs]


def _statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _planes(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(values.shape + (1,) * (x.ndim - 2))


def _has_cpu_kernels(x: Tensor) -> bool:
    # On the CPU torch's fused normalization kernels, used here for their parts, pass over memory fewer times than
    # elementary operations do. They want contiguous input and compute in its dtype.
    return x.device.type == "cpu" and x.dtype == _statistics_dtype(x) and x.is_contiguous() and x.numel() > 0


def _plane_moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    if _has_cpu_kernels(x):
        n, c = x.shape[:2]
        _, mean, rstd = torch.native_group_norm(x, None, None, n, c, x.numel() // (n * c), c, eps)
        return mean, (rstd.pow(-2) - eps).clamp_min_(0)
    var, mean = torch.var_mean(x.to(_statistics_dtype(x)), tuple(range(2, x.ndim)), correction=0)
    return mean, var


def _as_channels(x: Tensor) -> Tensor:
    return x.reshape(1, x.shape[0] * x.shape[1], *x.shape[2:])


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x * scale + shift`` per plane, in the dtype of ``x``."""
    if _has_cpu_kernels(x):
        zero, one = torch.zeros_like(scale).flatten(), torch.ones_like(scale).flatten()
        y, _, _ = torch.native_batch_norm(
            _as_channels(x), scale.flatten(), shift.flatten(), zero, one, training=False, momentum=0.0, eps=0.0
        )
        return y.view_as(x)
    return torch.addcmul(_planes(shift, x), x, _planes(scale, x)).to(x.dtype)


def _affine_backward(grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``(x - mean) * scale + offset`` for x at fixed mean, for scale, and for offset."""
    if _has_cpu_kernels(x):
        one = torch.ones_like(scale).flatten()
        grad_x, grad_scale, grad_offset = torch.ops.aten.native_batch_norm_backward(
            _as_channels(grad.contiguous()),
            _as_channels(x),
            scale.flatten(),
            mean.flatten(),
            one,
            None,
            None,
            False,
            0.0,
            [True, True, True],
        )
        return grad_x.view_as(x), grad_scale.view_as(scale), grad_offset.view_as(scale)
    dims = tuple(range(2, x.ndim))
    wide = grad.to(scale.dtype)
    grad_scale = (wide * (x - _planes(mean, x))).sum(dims)
    return wide * _planes(scale, x), grad_scale, wide.sum(dims)


def _add_affine(grad: Tensor, x: Tensor, slope: Tensor, level: Tensor) -> Tensor:
    """``grad + x * slope + level`` per plane, in the dtype of ``x``; overwrites ``grad``."""
    if _has_cpu_kernels(x):
        return grad.add_(_affine(x, slope, level))
    return grad.addcmul_(x, _planes(slope, x)).add_(_planes(level, x)).to(x.dtype)
