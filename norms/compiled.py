"""The passes over activations, as loops that numba compiles for the processor at hand.

They are compiled within seconds when they are first needed, and kept on disk for the next process. A loop's result does
not depend on the number of threads that share it.

Arrays are contiguous, of one dtype, float32 or float64. Activations are *planes* of shape (N, C, size), or *rows* of
shape (N, size, C). Values that belong to planes have shape (N, C), or (1, C) where all samples share them. Moments and
sums are computed in the dtype within short blocks and in float64 between them.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba import prange

Array = np.ndarray[Any, Any]

_BLOCK = 4096
"""Values of a block: as many as stay in a core's first cache to be read twice."""

_START = 1024
"""Values whose moments are computed in two passes, to center those that follow."""

_STEP = 65536
"""Values of consecutive rows that a thread takes at once."""


class Threads:
    """A context in which loops are shared by some threads.

    Args:
        count: Number of threads; where numba was given fewer, those.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.lock = _start()
        self.lock.__enter__()
        self.before = numba.get_num_threads()
        self.count = min(self.count, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        if self.count != self.before:
            numba.set_num_threads(self.count)

    def __exit__(self, *_: object) -> None:
        if self.count != self.before:
            numba.set_num_threads(self.before)
        self.lock.__exit__(None, None, None)


@cache
def _start() -> AbstractContextManager[Any]:
    """Start numba's threads; return what their caller must hold."""
    # Where both share one OpenMP, this changes the number of torch's.
    threads = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(threads)
    # The threads that numba has of its own where it finds no OpenMP serve one caller at a time.
    return threading.Lock() if numba.threading_layer() == "workqueue" else nullcontext()


def compiled(fastmath: set[str], parallel: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have a function compiled when it is first called, and the result kept on disk."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "parallel": parallel}
        try:
            loop: Callable[..., Any] = numba.njit(cache=True, **options)(function)
        except RuntimeError:
            # There is no folder to keep the result in.
            loop = numba.njit(**options)(function)
        return loop

    return decorate


# Vector instructions need sums whose order is free, and a map needs none. NaN and infinity stay what they are.
SUMS, MAPS = {"reassoc", "contract", "nsz", "arcp"}, {"contract"}


@compiled(MAPS)
def of(values: Array, sample: int) -> Array:
    """Values of a sample, or those that all share."""
    if values.shape[0] > 1:
        return values[sample]
    return values[0]


@compiled(SUMS)
def _short_moments(values: Array) -> tuple[float, float]:
    part = values.dtype.type(1 / values.size)
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    center = total * part
    squares, rest = values.dtype.type(0), values.dtype.type(0)
    for i in range(values.size):
        deviation = values[i] - center
        squares += deviation * deviation
        rest += deviation
    # What the center misses of the mean, by rounding.
    missed = np.float64(rest) * part
    return center + missed, squares - rest * missed


@compiled(SUMS)
def _add_block(values: Array, count: int, mean: float, squares: float) -> tuple[float, float]:
    # Around the mean so far one pass is enough: where a block lies so far from it that its own variance drowns, that
    # variance drowns in the whole's too.
    center = values.dtype.type(mean)
    total, added = values.dtype.type(0), values.dtype.type(0)
    for i in range(values.size):
        deviation = values[i] - center
        total += deviation
        added += deviation * deviation
    step = np.float64(total) / values.size
    share = values.size / (count + values.size)
    deviation = center + step - mean
    return mean + deviation * share, squares + added - total * step + deviation * deviation * (count * share)


@compiled(SUMS)
def moments(values: Array) -> tuple[float, float]:
    """Mean and biased variance of a plane."""
    count = min(values.size, _START)
    mean, squares = _short_moments(values[:count])
    while count < values.size:
        block = values[count : count + _BLOCK]
        mean, squares = _add_block(block, count, mean, squares)
        count += block.size
    return mean, squares / values.size


@compiled(SUMS, parallel=True)
def plane_moments(x: Array, eps: float, mean: Array, power: Array) -> None:
    """Compute mean and biased variance plus eps of planes."""
    channels = x.shape[1]
    for plane in prange(x.shape[0] * channels):
        n, c = plane // channels, plane % channels
        mean[n, c], variance = moments(x[n, c])
        power[n, c] = variance + eps


@compiled(MAPS)
def affine(x: Array, mean: float, scale: float, offset: float, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for a plane."""
    for i in range(x.size):
        y[i] = (x[i] - mean) * scale + offset


@compiled(MAPS, parallel=True)
def plane_affine(x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for planes."""
    channels = x.shape[1]
    for plane in prange(x.shape[0] * channels):
        n, c = plane // channels, plane % channels
        affine(x[n, c], of(mean, n)[c], of(scale, n)[c], of(offset, n)[c], y[n, c])


@compiled(SUMS)
def _plane_sums(grad: Array, x: Array, mean: float) -> tuple[float, float]:
    products, plain = 0.0, 0.0
    for start in range(0, x.size, _BLOCK):
        grads, values = grad[start : start + _BLOCK], x[start : start + _BLOCK]
        block_products, block_plain = x.dtype.type(0), x.dtype.type(0)
        for i in range(values.size):
            block_products += grads[i] * (values[i] - mean)
            block_plain += grads[i]
        products += block_products
        plain += block_plain
    return products, plain


@compiled(SUMS, parallel=True)
def plane_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    """Sum ``grad * (x - mean)`` and ``grad`` over planes."""
    channels = x.shape[1]
    for plane in prange(x.shape[0] * channels):
        n, c = plane // channels, plane % channels
        products[n, c], plain[n, c] = _plane_sums(grad[n, c], x[n, c], of(mean, n)[c])


@compiled(MAPS)
def _combine(grad: Array, weight: float, x: Array, mean: float, scale: float, offset: float, y: Array) -> None:
    for i in range(x.size):
        y[i] = grad[i] * weight + ((x[i] - mean) * scale + offset)


@compiled(MAPS, parallel=True)
def plane_combine(grad: Array, weight: Array, x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = grad * weight + (x - mean) * scale + offset`` for planes."""
    channels = x.shape[1]
    for plane in prange(x.shape[0] * channels):
        n, c = plane // channels, plane % channels
        _combine(grad[n, c], of(weight, n)[c], x[n, c], of(mean, n)[c], of(scale, n)[c], of(offset, n)[c], y[n, c])


@compiled(SUMS)
def _row_means(rows: Array, mean: Array) -> None:
    mean[:] = 0
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            mean[c] += rows[r, c]
    for c in range(rows.shape[1]):
        mean[c] /= rows.shape[0]


@compiled(SUMS)
def _row_deviations(rows: Array, center: Array, total: Array, squares: Array) -> None:
    count, channels = rows.shape
    total[:], squares[:] = 0, 0
    # Four rows at a time, which spares three in four passes over the sums.
    even = count - count % 4
    for r in range(0, even, 4):
        for c in range(channels):
            d0, d1 = rows[r, c] - center[c], rows[r + 1, c] - center[c]
            d2, d3 = rows[r + 2, c] - center[c], rows[r + 3, c] - center[c]
            total[c] += (d0 + d1) + (d2 + d3)
            squares[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
    for r in range(even, count):
        for c in range(channels):
            d0 = rows[r, c] - center[c]
            total[c] += d0
            squares[c] += d0 * d0


@compiled(SUMS)
def centered_squares(rows: Array, mean: Array, squares: Array) -> None:
    """Compute the mean of each channel over rows, and the sum of the squares of what deviates from it."""
    channels = rows.shape[1]
    height = max(8, _BLOCK // channels)
    center, total, own = np.empty_like(rows[0]), np.empty_like(rows[0]), np.empty_like(rows[0])
    _row_means(rows[:height], center)
    mean[:], squares[:] = 0, 0
    for start in range(0, rows.shape[0], height):
        block = rows[start : start + height]
        _row_deviations(block, center, total, own)
        count = block.shape[0]
        share = count / (start + count)
        for c in range(channels):
            # As for planes, around the mean so far.
            step = np.float64(total[c]) / count
            deviation = center[c] + step - mean[c]
            mean[c] += deviation * share
            squares[c] += own[c] - total[c] * step + deviation * deviation * (start * share)
            center[c] = mean[c]


@compiled(SUMS)
def _merge(count: int, mean: Array, squares: Array, added: int, added_mean: Array, added_squares: Array) -> None:
    share = added / (count + added)
    for c in range(mean.size):
        deviation = added_mean[c] - mean[c]
        mean[c] += deviation * share
        squares[c] += added_squares[c] + deviation * deviation * (count * share)


@compiled(MAPS)
def _height(channels: int) -> int:
    return max(1, _STEP // channels)


@compiled(SUMS, parallel=True)
def row_moments(x: Array, eps: float, mean: Array, power: Array) -> None:
    """Compute mean and biased variance plus eps of each channel over the rows of a sample."""
    samples, size, channels = x.shape
    height = _height(channels)
    tasks = (size + height - 1) // height
    means, squares = np.empty((samples, tasks, channels)), np.empty((samples, tasks, channels))
    for task in prange(samples * tasks):
        n, t = task // tasks, task % tasks
        centered_squares(x[n, t * height : (t + 1) * height], means[n, t], squares[n, t])
    for n in range(samples):
        for t in range(1, tasks):
            added = min(height, size - t * height)
            _merge(t * height, means[n, 0], squares[n, 0], added, means[n, t], squares[n, t])
        for c in range(channels):
            mean[n, c] = means[n, 0, c]
            power[n, c] = squares[n, 0, c] / size + eps


@compiled(MAPS)
def affine_rows(x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for the rows of a sample."""
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            y[r, c] = (x[r, c] - mean[c]) * scale[c] + offset[c]


@compiled(MAPS, parallel=True)
def row_affine(x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for rows."""
    samples, size, channels = x.shape
    height = _height(channels)
    tasks = (size + height - 1) // height
    for task in prange(samples * tasks):
        n, start, stop = task // tasks, task % tasks * height, (task % tasks + 1) * height
        affine_rows(x[n, start:stop], of(mean, n), of(scale, n), of(offset, n), y[n, start:stop])


@compiled(SUMS)
def _row_block_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    products[:], plain[:] = 0, 0
    count, channels = x.shape
    even = count - count % 2
    for r in range(0, even, 2):
        for c in range(channels):
            products[c] += grad[r, c] * (x[r, c] - mean[c]) + grad[r + 1, c] * (x[r + 1, c] - mean[c])
            plain[c] += grad[r, c] + grad[r + 1, c]
    for r in range(even, count):
        for c in range(channels):
            products[c] += grad[r, c] * (x[r, c] - mean[c])
            plain[c] += grad[r, c]


@compiled(SUMS)
def _row_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    height = max(8, _BLOCK // x.shape[1])
    block_products, block_plain = np.empty_like(x[0]), np.empty_like(x[0])
    products[:], plain[:] = 0, 0
    for start in range(0, x.shape[0], height):
        stop = start + height
        _row_block_sums(grad[start:stop], x[start:stop], mean, block_products, block_plain)
        for c in range(x.shape[1]):
            products[c] += block_products[c]
            plain[c] += block_plain[c]


@compiled(SUMS, parallel=True)
def row_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    """Sum ``grad * (x - mean)`` and ``grad`` over the rows of a sample."""
    samples, size, channels = x.shape
    height = _height(channels)
    tasks = (size + height - 1) // height
    sums = np.empty((2, samples, tasks, channels))
    for task in prange(samples * tasks):
        n, t = task // tasks, task % tasks
        start, stop = t * height, (t + 1) * height
        _row_sums(grad[n, start:stop], x[n, start:stop], of(mean, n), sums[0, n, t], sums[1, n, t])
    for n in range(samples):
        for c in range(channels):
            products[n, c], plain[n, c] = sums[0, n, 0, c], sums[1, n, 0, c]
        for t in range(1, tasks):
            for c in range(channels):
                products[n, c] += sums[0, n, t, c]
                plain[n, c] += sums[1, n, t, c]


@compiled(MAPS)
def _row_combine(grad: Array, weight: Array, x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            y[r, c] = grad[r, c] * weight[c] + ((x[r, c] - mean[c]) * scale[c] + offset[c])


@compiled(MAPS, parallel=True)
def row_combine(grad: Array, weight: Array, x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = grad * weight + (x - mean) * scale + offset`` for rows."""
    samples, size, channels = x.shape
    height = _height(channels)
    tasks = (size + height - 1) // height
    for task in prange(samples * tasks):
        n, start, stop = task // tasks, task % tasks * height, (task % tasks + 1) * height
        _row_combine(
            grad[n, start:stop],
            of(weight, n),
            x[n, start:stop],
            of(mean, n),
            of(scale, n),
            of(offset, n),
            y[n, start:stop],
        )
