"""The passes over activations that a norm and its gradient take, made of torch's own kernels.

Numeric policy: moments and sums are computed in float32 (float64 for float64 input), from terms centered on the mean of
their plane; what has the shape of the activations has their dtype and memory format too.

Planes that lie in one piece are the channels of a single sample of shape (1, N*C, size), for which torch's kernels of
batch and group norms do what is needed. For other layouts, and for what no kernel does, elementwise operations take
turns on parts of the activations that stay in a CPU's cache. No part's size, and so no result, depends on threads.
"""

import math
from collections.abc import Iterator
from itertools import repeat

import torch
from torch import Tensor

from .precision import wide_dtype

_PART = 2**18
"""How many values a part has on a CPU."""


def moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute mean, and biased variance plus ``eps``, of each plane of ``x`` (N, C, L, *); each of shape (N, C)."""
    size, dims, dtype = math.prod(x.shape[2:]), tuple(range(2, x.ndim)), wide_dtype(x)
    if size <= 1 or x.numel() == 0:
        mean = x.sum(dims, dtype=dtype)
        return mean, torch.full_like(mean, eps)
    if x.is_contiguous():
        parts = torch.split(x.view(1, -1, size), max(1, _limit(x) // size), 1)
        means, rstds = zip(*(_plane_moments(part, eps) for part in parts), strict=True)
        mean, rstd = (each[0] if len(parts) == 1 else torch.cat(each) for each in (means, rstds))
        return mean.view(x.shape[:2]), rstd.pow(-2).view(x.shape[:2])
    if x.numel() <= _limit(x):
        wide = x.to(dtype)
        mean = wide.mean(dims, keepdim=True)
        return mean.view(x.shape[:2]), (wide - mean).square_().mean(dims).add_(eps)
    # About the mean of some sixteenth, one pass gives both: it is off by too little to cancel digits of the variance.
    center = x[:, :, :: max(1, x.shape[2] // 16)].to(dtype).mean(dims, keepdim=True)
    drift, squares = torch.zeros_like(center), torch.zeros_like(center)
    for values, level, drifted, squared in _parts(x, center, drift, squares):
        centered = values.to(dtype) - level
        drifted += centered.sum(dims, keepdim=True)
        squared += centered.square_().sum(dims, keepdim=True)
    drift /= size
    power = torch.addcmul(squares.div_(size).add_(eps), drift, drift, value=-1)
    return center.add_(drift).view(x.shape[:2]), power.view(x.shape[:2])


def _plane_moments(planes: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the mean and ``(var + eps) ** -0.5`` of planes (1, M, size), each of shape (M,)."""
    count, dtype = planes.shape[1], wide_dtype(planes)
    if planes.dtype == dtype:
        _, mean, rstd = torch.native_group_norm(planes, None, None, 1, count, planes.shape[2], count, eps)
        return mean.view(-1), rstd.view(-1)
    # Of the kernels that take parameters wider than their input on every device, this one returns wide moments.
    ones = planes.new_ones(count, dtype=dtype)
    return torch.native_batch_norm(planes, ones, ones, None, None, True, 0.0, eps)[1:]


def affine(x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Compute ``(x - mean) * scale + offset`` with coefficients of shape (N, C) or (C,)."""
    y, dtype = torch.empty_like(x), wide_dtype(x)
    if x.numel() == 0:
        return y
    if x.is_contiguous():
        flat = [t.expand(x.shape[:2]).reshape(-1) for t in (scale, offset, mean)]
        planes, none = (1, flat[0].numel(), -1), mean.new_empty(0)
        # In evaluation, with a variance of 1. Not a view of a result: that could not be changed in place.
        torch.ops.aten.native_batch_norm.out(
            *(x.view(planes), *flat, torch.ones_like(flat[0]), False, 0.0, 0.0),
            out=y.view(planes),
            save_mean=none,
            save_invstd=torch.empty_like(none),
        )
        return y
    shift = torch.addcmul(offset, mean, scale, value=-1)
    for values, factor, summand, out in _parts(x, spread(scale, x), spread(shift, x), y):
        result = torch.addcmul(summand, values.to(dtype), factor, out=out if out.dtype == dtype else None)
        if result is not out:
            out.copy_(result)
    return y


def sums(grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sum ``grad * (x - mean)`` and ``grad`` over each plane; each of shape (N, C)."""
    if x.numel() == 0:
        return torch.zeros_like(mean), torch.zeros_like(mean)
    if x.is_contiguous():
        ones, planes = mean.new_ones(mean.numel()), (1, mean.numel(), -1)
        # In evaluation, with a variance of 1.
        _, centered, plain = torch.ops.aten.native_batch_norm_backward(
            *(grad.view(planes), x.view(planes), ones, mean.view(-1), ones, None, None, False, 0.0),
            [False, True, True],
        )
        return centered.view(mean.shape), plain.view(mean.shape)
    dims, level = tuple(range(2, x.ndim)), spread(mean, x)
    centered, plain = torch.zeros_like(level), torch.zeros_like(level)
    for upstream, values, own, total, other in _parts(grad, x, level, centered, plain):
        upstream = upstream.to(mean.dtype)
        other += upstream.sum(dims, keepdim=True)
        total += (values.to(mean.dtype) - own).mul_(upstream).sum(dims, keepdim=True)
    return centered.view(mean.shape), plain.view(mean.shape)


def combine(grad: Tensor, x: Tensor, grad_factor: Tensor, x_factor: Tensor, summand: Tensor) -> Tensor:
    """Compute ``grad * grad_factor + x * x_factor + summand`` with coefficients of shape (N, C) or (C,)."""
    result, dtype = torch.empty_like(x), wide_dtype(x)
    if x.numel() == 0:
        return result
    in_planes = x.is_contiguous()
    # (N*C, 1, size) where planes lie in one piece, and (N, C, *) otherwise.
    big = [t.view(x.shape[0] * x.shape[1], 1, -1) if in_planes else t for t in (grad, x, result)]
    small = [t.expand(x.shape[:2]) for t in (grad_factor, x_factor, summand)]
    small = [t.reshape(-1, 1, 1) if in_planes else spread(t, x) for t in small]
    for upstream, values, out, first, second, level in _parts(*big, *small):
        target = out if out.dtype == dtype else None
        # A kernel with two operands that are constant along a plane would be four times slower.
        if in_planes:
            total = torch.mul(upstream.to(dtype), first, out=target).add_(level)
        else:
            total = torch.addcmul(level, upstream.to(dtype), first, out=target)
        total.addcmul_(values.to(dtype), second)
        if target is None:
            out.copy_(total)
    return result


def spread(values: Tensor, x: Tensor) -> Tensor:
    """Give values of planes a shape (N, C, 1, ...) that broadcasts to activations."""
    return values.expand(x.shape[:2]).reshape(x.shape[:2] + (1,) * (x.ndim - 2))


def as_laid_out(grad: Tensor, x: Tensor) -> Tensor:
    """Lay out a gradient in memory as ``x``."""
    same = grad.stride() == x.stride() or (grad.is_contiguous() and x.is_contiguous())
    return grad if same else torch.empty_like(x).copy_(grad)


def _limit(x: Tensor) -> int:
    return _PART if x.device.type == "cpu" else x.numel()


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors (N, C, L, *), and some that have one position, along N and then L into parts that fit a cache."""
    _, channels, length, *rest = tensors[0].shape
    limit, row = _limit(tensors[0]), channels * math.prod(rest)
    if tensors[0].numel() <= limit:
        yield tensors
        return
    for parts in zip(*(torch.split(t, max(1, limit // (row * length))) for t in tensors), strict=True):
        if length == 1 or row * length <= limit:
            yield parts
        else:
            rows = (torch.split(t, max(1, limit // row), 2) if t.shape[2] > 1 else repeat(t) for t in parts)
            yield from zip(*rows, strict=False)
