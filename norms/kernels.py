"""The passes over a large tensor that the norms of this package are made of.

There are four: the moments of each (sample, channel) plane, an affine map per plane, the two sums per plane that the
map's gradient needs, and the combination of gradient and input that finishes it. Which operators do them fastest
depends on where the tensor lives and how it lies in memory:

* ``_Planes``, on the CPU with contiguous planes: torch's fused normalization kernels, used for their parts, pass over
  memory fewer times than elementary operators do.
* ``_Rows``, on the CPU in channels-last order: reductions run over rows of channels, in pieces that stay in the cache.
* ``_Strided``, anything else: elementary operators that broadcast.

The power of a plane is its biased variance plus the norm's epsilon: norms divide by the root of that, or of a mixture.

Numeric policy: moments and sums are computed in float32 (float64 for float64 input), from terms centered on the mean of
their plane; results have the dtype and the memory format of the input.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

_PIECE = 1 << 19
"""Values of a piece: two megabytes of float32, the size of a core's cache."""


def statistics_dtype(x: Tensor) -> torch.dtype:
    """The dtype of moments: float32, or float64 for float64 input."""
    return torch.promote_types(x.dtype, torch.float32)


def find(x: Tensor, per_sample: bool) -> "Kernels":
    """Choose the kernels for activations like ``x``.

    Args:
        x: Activations, shape (N, C, *).
        per_sample: Whether samples have coefficients of their own. If not, and if each channel's values follow one
            another throughout the batch, as they do in channels-last memory, the batch is taken for one long sample.
    """
    if x.device.type == "cpu" and x.dtype == statistics_dtype(x) and x.numel() > 0:
        if x.is_contiguous() and (x.ndim > 2 or per_sample):
            return _Planes(x)
        if x.movedim(1, -1).is_contiguous():
            return _Rows(x, per_sample)
    return _Strided(x)


class Kernels(ABC):
    """The passes over activations of one shape and layout.

    Attributes:
        shape: Shape of what belongs to planes: (samples, C).
        size: Number of values in a plane.
    """

    shape: tuple[int, int]
    size: int

    @abstractmethod
    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Mean and power of each plane."""

    @abstractmethod
    def affine(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """``x * scale + shift``."""

    @abstractmethod
    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """``sum(grad * (x - mean))`` and ``sum(grad)`` over each plane."""

    @abstractmethod
    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
        """``grad * scale + x * slope + shift``."""


class _Planes(Kernels):
    def __init__(self, x: Tensor) -> None:
        self.shape = (x.shape[0], x.shape[1])
        self.count = self.shape[0] * self.shape[1]
        self.size = x.numel() // self.count
        self.as_channels = (1, self.count, self.size)
        self.as_rows = (self.count, self.size)
        self.one = x.new_ones(self.count)

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows = x.view(self.as_rows)
        planes = max(1, _PIECE // self.size)
        if planes >= self.count:
            mean, rstd = self._piece_moments(rows, eps)
        else:
            pieces = [self._piece_moments(piece, eps) for piece in rows.split(planes)]
            mean, rstd = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
        return mean.view(self.shape), rstd.view(self.shape).square().reciprocal_()

    def _piece_moments(self, rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        # Of a large tensor the normalized values, which nobody needs, never leave the cache.
        planes = rows.shape[0]
        _, mean, rstd = torch.native_group_norm(rows, None, None, 1, planes, self.size, planes, eps)
        return mean, rstd

    def affine(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        # An affine map per plane is batch normalization in evaluation, with planes for channels, mean 0 and variance 1.
        y, _, _ = torch.native_batch_norm(
            x.view(self.as_channels),
            self._flat(scale),
            self._flat(shift),
            torch.zeros_like(self.one),
            self.one,
            False,
            0.0,
            0.0,
        )
        return y.view(x.shape)

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        _, products, plain = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous().view(self.as_channels),
            x.view(self.as_channels),
            self.one,
            mean.view(-1),
            self.one,
            None,
            None,
            False,
            0.0,
            (False, True, True),
        )
        return products.view(self.shape), plain.view(self.shape)

    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
        result = self.affine(x, slope, shift)
        result.view(self.as_rows).addcmul_(grad.reshape(self.as_rows), self._flat(scale).unsqueeze(1))
        return result

    def _flat(self, values: Tensor) -> Tensor:
        return values.expand(self.shape).reshape(-1) if values.shape != self.shape else values.view(-1)


class _Rows(Kernels):
    def __init__(self, x: Tensor, per_sample: bool) -> None:
        self.shape = (x.shape[0] if per_sample else 1, x.shape[1])
        self.size = x.numel() // (self.shape[0] * self.shape[1])
        self.as_rows = (self.shape[0], self.size, self.shape[1])
        self.moved = x.movedim(1, -1).shape

    def _rows(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).reshape(self.as_rows)

    def _activations(self, rows: Tensor) -> Tensor:
        return rows.view(self.moved).movedim(-1, 1)

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows = self._rows(x)
        mean = rows.mean(1)
        return mean, self._centered_sum(rows, mean, None).div_(self.size).add_(eps)

    def affine(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return self._activations(torch.addcmul(shift.unsqueeze(-2), self._rows(x), scale.unsqueeze(-2)))

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows(grad)
        return self._centered_sum(self._rows(x), mean, rows), rows.sum(1)

    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
        result = self.affine(x, slope, shift)
        self._rows(result).addcmul_(self._rows(grad), scale.unsqueeze(-2))
        return result

    def _centered_sum(self, rows: Tensor, mean: Tensor, factor: Tensor | None) -> Tensor:
        """``sum((rows - mean) * factor)`` over each plane, or of ``(rows - mean) ** 2`` without a factor."""
        total = torch.zeros_like(mean)
        channels = rows.shape[2]
        samples, size = max(1, _PIECE // (self.size * channels)), min(self.size, max(1, _PIECE // channels))
        scratch = rows.new_empty(min(samples, self.shape[0]), size, channels)
        for i in range(0, self.shape[0], samples):
            for j in range(0, self.size, size):
                source = rows[i : i + samples, j : j + size]
                piece = scratch[: source.shape[0], : source.shape[1]]
                torch.sub(source, mean[i : i + samples, None], out=piece)
                piece.mul_(piece if factor is None else factor[i : i + samples, j : j + size])
                total[i : i + samples].add_(piece.sum(1))
        return total


class _Strided(Kernels):
    def __init__(self, x: Tensor) -> None:
        self.shape = (x.shape[0], x.shape[1])
        self.size = math.prod(x.shape[2:])
        self.dims = tuple(range(2, x.ndim))

    def _planes(self, values: Tensor) -> Tensor:
        return values.reshape(values.shape + (1,) * len(self.dims))

    def _sum(self, values: Tensor) -> Tensor:
        # Of a tensor without positions, a sum over no dimensions would be the sum over all of them.
        return values.sum(self.dims) if self.dims else values

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        wide = x.to(statistics_dtype(x))
        if not self.dims:
            return wide, torch.full_like(wide, eps)
        var, mean = torch.var_mean(wide, self.dims, correction=0)
        return mean, var.add_(eps)

    def affine(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return torch.addcmul(self._planes(shift), x, self._planes(scale)).to(x.dtype)

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        wide = grad.to(mean.dtype)
        return self._sum(wide * (x - self._planes(mean))), self._sum(wide)

    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
        result = torch.addcmul(self._planes(shift), x, self._planes(slope))
        return result.addcmul_(grad, self._planes(scale)).to(x.dtype)
