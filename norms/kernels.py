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
from typing import Any

import torch
from torch import Tensor

_PIECE = 1 << 18
"""Values of a piece: a megabyte of float32, measured to be best on cores with two megabytes of cache."""


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
    """The passes over activations of one shape and layout; what belongs to planes has shape (samples, C).

    Attributes:
        size: Number of values in a plane.
    """

    size: int

    @abstractmethod
    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Any]:
        """Mean of each plane, its biased variance plus ``eps``, and what :meth:`normalize` can use of the work."""

    @abstractmethod
    def normalize(self, x: Tensor, mean: Tensor, work: Any, scale: Tensor, offset: Tensor) -> Tensor:
        """``(x - mean) * scale + offset``."""

    @abstractmethod
    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """``sum(grad * (x - mean))`` and ``sum(grad)`` over each plane."""

    @abstractmethod
    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, level: Tensor) -> Tensor:
        """``grad * scale + x * slope + level``."""


class _Planes(Kernels):
    def __init__(self, x: Tensor) -> None:
        self.samples, self.channels = x.shape[:2]
        count = self.samples * self.channels
        self.size = x.numel() // count
        self.as_channels = (1, count, self.size)
        self.as_rows = (count, self.size)
        self.zero = x.new_zeros(count)
        self.one = x.new_ones(count)

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Any]:
        standard, mean, rstd = torch.native_group_norm(
            x, None, None, self.samples, self.channels, self.size, self.channels, eps
        )
        return mean, rstd.square().reciprocal_(), (standard, rstd)

    def normalize(self, x: Tensor, mean: Tensor, work: Any, scale: Tensor, offset: Tensor) -> Tensor:
        standard, rstd = work
        self._affine(standard, scale / rstd, offset, standard)
        return standard

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
            [False, True, True],
        )
        return products.view(mean.shape), plain.view(mean.shape)

    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, level: Tensor) -> Tensor:
        result = torch.empty_like(x)
        self._affine(x, slope, level, result)
        result.view(self.as_rows).addcmul_(grad.reshape(self.as_rows), scale.reshape(-1, 1))
        return result

    def _affine(self, x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
        # An affine map per plane is batch normalization in evaluation, with planes for channels, mean 0 and variance 1.
        torch.native_batch_norm(
            x.view(self.as_channels),
            scale.reshape(-1),
            shift.reshape(-1),
            self.zero,
            self.one,
            False,
            0.0,
            0.0,
            out=(out.view(self.as_channels), self.zero[:0], self.zero[:0]),
        )


class _Rows(Kernels):
    def __init__(self, x: Tensor, per_sample: bool) -> None:
        self.samples = x.shape[0] if per_sample else 1
        self.size = x.numel() // (self.samples * x.shape[1])
        self.as_rows = (self.samples, self.size, x.shape[1])
        self.shape = x.movedim(1, -1).shape

    def _rows(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).reshape(self.as_rows)

    def _activations(self, rows: Tensor) -> Tensor:
        return rows.view(self.shape).movedim(-1, 1)

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Any]:
        rows = self._rows(x)
        mean = rows.mean(1)
        return mean, self._centered_sum(rows, mean, None).div_(self.size).add_(eps), None

    def normalize(self, x: Tensor, mean: Tensor, work: Any, scale: Tensor, offset: Tensor) -> Tensor:
        shift = torch.addcmul(offset, mean, scale, value=-1)
        return self._activations(torch.addcmul(shift.unsqueeze(1), self._rows(x), scale.unsqueeze(1)))

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows(grad)
        return self._centered_sum(self._rows(x), mean, rows), rows.sum(1)

    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, level: Tensor) -> Tensor:
        result = torch.addcmul(level.unsqueeze(1), self._rows(x), slope.unsqueeze(1))
        return self._activations(result.addcmul_(self._rows(grad), scale.unsqueeze(1)))

    def _centered_sum(self, rows: Tensor, mean: Tensor, factor: Tensor | None) -> Tensor:
        """``sum((rows - mean) * factor)`` over each plane, or of ``(rows - mean) ** 2`` without a factor."""
        total = torch.zeros_like(mean)
        channels = rows.shape[2]
        samples, size = max(1, _PIECE // (self.size * channels)), min(self.size, max(1, _PIECE // channels))
        scratch = rows.new_empty(min(samples, self.samples), size, channels)
        for i in range(0, self.samples, samples):
            for j in range(0, self.size, size):
                source = rows[i : i + samples, j : j + size]
                piece = scratch[: source.shape[0], : source.shape[1]]
                torch.sub(source, mean[i : i + samples, None], out=piece)
                piece.mul_(piece if factor is None else factor[i : i + samples, j : j + size])
                total[i : i + samples].add_(piece.sum(1))
        return total


class _Strided(Kernels):
    def __init__(self, x: Tensor) -> None:
        self.size = math.prod(x.shape[2:])
        self.dims = tuple(range(2, x.ndim))

    def _planes(self, values: Tensor) -> Tensor:
        return values.reshape(values.shape + (1,) * len(self.dims))

    def _sum(self, values: Tensor) -> Tensor:
        # Of a tensor without positions, a sum over no dimensions would be the sum over all of them.
        return values.sum(self.dims) if self.dims else values

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Any]:
        wide = x.to(statistics_dtype(x))
        if not self.dims:
            return wide, torch.full_like(wide, eps), None
        var, mean = torch.var_mean(wide, self.dims, correction=0)
        return mean, var.add_(eps), None

    def normalize(self, x: Tensor, mean: Tensor, work: Any, scale: Tensor, offset: Tensor) -> Tensor:
        shift = torch.addcmul(offset, mean, scale, value=-1)
        return torch.addcmul(self._planes(shift), x, self._planes(scale)).to(x.dtype)

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        wide = grad.to(mean.dtype)
        return self._sum(wide * (x - self._planes(mean))), self._sum(wide)

    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, level: Tensor) -> Tensor:
        result = torch.addcmul(self._planes(level), x, self._planes(slope))
        return result.addcmul_(grad, self._planes(scale)).to(x.dtype)
