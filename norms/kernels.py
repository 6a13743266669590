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
from collections.abc import Iterator

import torch
from torch import Tensor

from norms.pooling import pool_batch
from norms.precision import wide_dtype

_PIECE = 1 << 18
"""Values of a piece: a megabyte of float32, so that what is read once is still in a core's cache when needed again."""


def find(x: Tensor, per_sample: bool) -> "Kernels":
    """Choose the kernels for activations like ``x``.

    Args:
        x: Activations, shape (N, C, *).
        per_sample: Whether samples have coefficients of their own. If not, the batch may be taken for one long sample.
    """
    if x.device.type == "cpu" and x.dtype == wide_dtype(x) and x.numel() > 0:
        if x.is_contiguous() and (x.ndim > 2 or per_sample):
            return _Planes(x, per_sample)
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
    def affine(self, x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """``(x - mean) * scale + offset``."""

    @abstractmethod
    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """``sum(grad * (x - mean))`` and ``sum(grad)`` over each plane."""

    @abstractmethod
    def combine(self, grad: Tensor, weight: Tensor, x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """``grad * weight + (x - mean) * scale + offset``."""

    def standardized_gradients(
        self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Gradients of ``(x - mean) * rstd * weight + bias`` for x, weight and bias, or None without a kernel for them.

        Mean and rstd are those of x over the whole batch, and their part in the gradient for x is included. They and
        the weight have shape (C,).
        """
        return None


class _Planes(Kernels):
    def __init__(self, x: Tensor, per_sample: bool) -> None:
        samples, channels = x.shape[:2]
        self.planes = (samples, channels)
        self.shape = (samples if per_sample else 1, channels)
        self.size = x.numel() // math.prod(self.shape)
        # Batch normalization's kernels see every plane as a channel, or each channel's planes together.
        self.as_channels = (samples // self.shape[0], math.prod(self.shape), -1)
        self.one = x.new_ones(self.as_channels[1])

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        count = math.prod(self.planes)
        size = x.numel() // count
        rows = x.view(count, size)
        # Of a large tensor the normalized values, which nobody needs, never leave the cache.
        pieces = [rows] if x.numel() <= _PIECE else rows.split(max(1, _PIECE // size))
        found = [torch.native_group_norm(p, None, None, 1, len(p), size, len(p), eps)[1:] for p in pieces]
        mean, rstd = found[0] if len(found) == 1 else (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        mean, rstd = mean.view(self.planes), rstd.view(self.planes)
        power = rstd.square().reciprocal_()
        if self.planes != self.shape:
            mean, power = (pooled.unsqueeze(0) for pooled in pool_batch(mean, power))
        return mean, power

    def affine(self, x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        # Batch normalization in evaluation is an affine map. It writes to a result of x's own shape, since autograd
        # would not let the caller modify a view in place.
        result = torch.empty_like(x)
        unused = self.one[:0]
        torch.native_batch_norm(
            x.view(self.as_channels),
            self._flat(scale),
            self._flat(offset),
            self._flat(mean),
            self.one,
            False,
            0.0,
            0.0,
            out=(result.view(self.as_channels), unused, unused),
        )
        return result

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        _, products, plain = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous().view(self.as_channels),
            x.view(self.as_channels),
            self.one,
            self._flat(mean),
            self.one,
            None,
            None,
            False,
            0.0,
            (False, True, True),
        )
        return products.view(self.shape), plain.view(self.shape)

    def combine(self, grad: Tensor, weight: Tensor, x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        result = self.affine(x, mean, scale, offset)
        result.view(self.as_channels).addcmul_(grad.reshape(self.as_channels), self._flat(weight).unsqueeze(1))
        return result

    def standardized_gradients(
        self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        return _batch_norm_gradients(grad.contiguous(), x, mean, rstd, weight) if self.shape[0] == 1 else None

    def _flat(self, values: Tensor) -> Tensor:
        return values.view(-1) if values.shape == self.shape else values.expand(self.shape).reshape(-1)


class _Rows(Kernels):
    def __init__(self, x: Tensor, per_sample: bool) -> None:
        self.shape = (x.shape[0] if per_sample else 1, x.shape[1])
        self.size = x.numel() // math.prod(self.shape)
        self.as_rows = (self.shape[0], self.size, self.shape[1])

    def _rows(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).reshape(self.as_rows)

    def _pieces(self) -> Iterator[tuple[slice, slice]]:
        """Samples and positions of each piece."""
        samples, size, channels = self.as_rows
        step = max(1, _PIECE // (size * channels))
        positions = size if step > 1 else min(size, max(1, _PIECE // channels))
        for i in range(0, samples, step):
            for j in range(0, size, positions):
                yield slice(i, min(i + step, samples)), slice(j, min(j + positions, size))

    def moments(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows = self._rows(x)
        means, powers, shares = [], [], []
        for samples, positions in self._pieces():
            piece = rows[samples, positions]
            mean = piece.mean(1)
            means.append(mean)
            powers.append((piece - mean.unsqueeze(1)).square_().mean(1))
            shares.append(piece.shape[1] / self.size)
        if shares[0] == 1:
            return torch.cat(means), torch.cat(powers).add_(eps)
        # The pieces of a sample follow one another; the law of total variance puts them together.
        per_sample = (self.shape[0], -1, self.shape[1])
        share = torch.tensor(shares, dtype=x.dtype).view(self.shape[0], -1, 1)
        mean, power = (torch.cat(t).view(per_sample) for t in (means, powers))
        pooled = (mean * share).sum(1)
        return pooled, ((power + (mean - pooled.unsqueeze(1)).square()) * share).sum(1).add_(eps)

    def affine(self, x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        shift = torch.addcmul(offset, mean, scale, value=-1)
        result = torch.empty_like(x)
        torch.addcmul(shift.unsqueeze(-2), self._rows(x), scale.unsqueeze(-2), out=self._rows(result))
        return result

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        rows, grads = self._rows(x), self._rows(grad)
        products, plain = torch.zeros_like(mean), torch.zeros_like(mean)
        for samples, positions in self._pieces():
            piece = grads[samples, positions]
            plain[samples].add_(piece.sum(1))
            products[samples].add_((rows[samples, positions] - mean[samples].unsqueeze(1)).mul_(piece).sum(1))
        return products, plain

    def combine(self, grad: Tensor, weight: Tensor, x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        result = self.affine(x, mean, scale, offset)
        self._rows(result).addcmul_(self._rows(grad), weight.unsqueeze(-2))
        return result

    def standardized_gradients(
        self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        if self.shape[0] > 1 or x.ndim not in (4, 5):
            return None
        memory_format = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        return _batch_norm_gradients(grad.contiguous(memory_format=memory_format), x, mean, rstd, weight)


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
        wide = x.to(wide_dtype(x))
        if self.size <= 1 or x.numel() == 0:
            return self._sum(wide), torch.full(self.shape, eps, dtype=wide.dtype, device=wide.device)
        var, mean = torch.var_mean(wide, self.dims, correction=0)
        return mean, var.add_(eps)

    def affine(self, x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        shift = torch.addcmul(offset, mean, scale, value=-1)
        return torch.addcmul(self._planes(shift), x, self._planes(scale)).to(x.dtype)

    def sums(self, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        wide = grad.to(mean.dtype)
        return self._sum(wide * (x - self._planes(mean))), self._sum(wide)

    def combine(self, grad: Tensor, weight: Tensor, x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        shift = torch.addcmul(offset, mean, scale, value=-1)
        result = torch.addcmul(self._planes(shift), x, self._planes(scale))
        return result.addcmul_(grad, self._planes(weight)).to(x.dtype)


def _batch_norm_gradients(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        grad, x, weight, None, None, mean, rstd, True, 0.0, (True, True, True)
    )
    return found
