"""The passes over a large tensor that the norms of this package are made of.

There are four: the moments of each (sample, channel) plane, an affine map per plane, the two sums per plane that the
map's gradient needs, and the combination of gradient and input that finishes it. Which operators do them fastest
depends on where the tensor lives and how it lies in memory:

* ``_Planes``, on the CPU with contiguous planes: torch's fused normalization kernels, used for their parts, pass over
  memory fewer times than elementary operators do.
* ``_Rows``, on the CPU in channels-last order: reductions run over rows of channels, in pieces that stay in the cache.
* ``_Strided``, anything else: elementary operators that broadcast.

Numeric policy: moments and sums are computed in float32 (float64 for float64 input), from terms centered on the mean of
their plane; results have the dtype and the memory format of the input.
"""

from abc import ABC, abstractmethod

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
    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean and biased variance of each plane, and a buffer that :meth:`normalize` uses up.

        The variance has the precision of its sum with ``eps``, positive.
        """

    @abstractmethod
    def normalize(
        self, x: Tensor, mean: Tensor, var: Tensor, buffer: Tensor | None, eps: float, scale: Tensor, offset: Tensor
    ) -> Tensor:
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
        self.size = x[0, 0].numel()
        count = self.samples * self.channels
        self.as_channels = (1, count, self.size)
        self.as_rows = (count, self.size)
        self.as_column = (count, 1)

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor | None]:
        standard, mean, rstd = torch.native_group_norm(
            x, None, None, self.samples, self.channels, self.size, self.channels, eps
        )
        return mean, rstd.pow(-2).sub_(eps).clamp_min_(0), standard

    def normalize(
        self, x: Tensor, mean: Tensor, var: Tensor, buffer: Tensor | None, eps: float, scale: Tensor, offset: Tensor
    ) -> Tensor:
        # The buffer holds (x - mean) / sqrt(var + eps).
        assert buffer is not None
        self._affine(buffer, (var + eps).sqrt_().mul_(scale), offset, buffer)
        return buffer

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        mean = mean.reshape(-1)
        one = torch.ones_like(mean)
        _, products, plain = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous().view(self.as_channels),
            x.view(self.as_channels),
            one,
            mean,
            one,
            None,
            None,
            False,
            0.0,
            [False, True, True],
        )
        return products.view(self.samples, self.channels), plain.view(self.samples, self.channels)

    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, level: Tensor) -> Tensor:
        result = torch.empty_like(x)
        self._affine(x, slope, level, result)
        result.view(self.as_rows).addcmul_(grad.reshape(self.as_rows), scale.reshape(self.as_column))
        return result

    def _affine(self, x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
        # An affine map per plane is batch normalization in evaluation, with planes for channels, mean 0 and variance 1.
        scale = scale.reshape(-1)
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        unused = scale.new_empty(0)
        torch.native_batch_norm(
            x.view(self.as_channels),
            scale,
            shift.reshape(-1),
            zero,
            one,
            False,
            0.0,
            0.0,
            out=(out.view(self.as_channels), unused, unused.clone()),
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

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor | None]:
        rows = self._rows(x)
        mean = rows.mean(1)
        return mean, self._centered_sum(rows, mean, None).div_(self.size), None

    def normalize(
        self, x: Tensor, mean: Tensor, var: Tensor, buffer: Tensor | None, eps: float, scale: Tensor, offset: Tensor
    ) -> Tensor:
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
        width = rows.shape[1] * rows.shape[2]
        samples, size = max(1, _PIECE // width), min(self.size, max(1, _PIECE // rows.shape[2]))
        for i in range(0, self.samples, samples):
            for j in range(0, self.size, size):
                piece = rows[i : i + samples, j : j + size] - mean[i : i + samples, None]
                piece.mul_(piece if factor is None else factor[i : i + samples, j : j + size])
                total[i : i + samples].add_(piece.sum(1))
        return total


class _Strided(Kernels):
    def __init__(self, x: Tensor) -> None:
        self.size = x.shape[2:].numel()
        self.dims = tuple(range(2, x.ndim))

    def _planes(self, values: Tensor) -> Tensor:
        return values.reshape(values.shape + (1,) * len(self.dims))

    def _sum(self, values: Tensor) -> Tensor:
        # Of a tensor without positions, a sum over no dimensions would be the sum over all of them.
        return values.sum(self.dims) if self.dims else values

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor | None]:
        wide = x.to(statistics_dtype(x))
        if not self.dims:
            return wide, torch.zeros_like(wide), None
        var, mean = torch.var_mean(wide, self.dims, correction=0)
        return mean, var, None

    def normalize(
        self, x: Tensor, mean: Tensor, var: Tensor, buffer: Tensor | None, eps: float, scale: Tensor, offset: Tensor
    ) -> Tensor:
        shift = torch.addcmul(offset, mean, scale, value=-1)
        return torch.addcmul(self._planes(shift), x, self._planes(scale)).to(x.dtype)

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        wide = grad.to(mean.dtype)
        return self._sum(wide * (x - self._planes(mean))), self._sum(wide)

    def combine(self, grad: Tensor, scale: Tensor, x: Tensor, slope: Tensor, level: Tensor) -> Tensor:
        result = torch.addcmul(self._planes(level), x, self._planes(slope))
        return result.addcmul_(grad, self._planes(scale)).to(x.dtype)
