"""Norms as loops that numba compiles for the processor at hand: the passes over activations, and what is between them.

They are compiled within seconds when they are first needed, and kept on disk for the next process. A loop's result does
not depend on the number of threads that share it. All are in one file, since that is what numba watches for changes.

Arrays are contiguous, of one dtype, float32 or float64. Activations are *planes* of shape (N, C, size), or *rows* of
shape (N, size, C). What belongs to planes has shape (N, C). Moments and sums are computed in the dtype within short
blocks and in float64 between them.

Between the passes, each formula has two loops, ``coefficients`` and ``gradients``, which do in one go what its class
does in operators, and include gamma and beta. Formulas that need a sample's own moments in evaluation also have loops
that do everything. Their arguments are ``mean`` and ``power`` of planes; ``batch_mean`` and ``batch_power`` (C,);
``mixing`` and ``constants`` of the formula; and ``weight`` and ``bias``, (N, C) or (1, C). Coefficients are ``scale``
and ``offset``. Gradients start from the sums ``products`` of ``grad * (x - mean)`` and ``plain`` of ``grad`` over
planes of ``size`` values. They say that, but for the batch's moments, the gradient for x is
``grad * of_grad + (x - mean) * of_x + of_one``; to zeros they add ``grad_weight`` and ``grad_bias``, of the shapes of
weight and bias, ``grad_mixing``, and ``of_batch`` (2, C): by how much the mean of the batch, times -1, and its power,
times -2, change the loss.
"""

import os
import threading
from collections.abc import Callable
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

_LANES = 64
"""Sums side by side over a plane: several vector registers of them."""

_TOGETHER = 16
"""Planes that a thread takes at once."""

_STEP = 65536
"""Values of consecutive rows that a thread takes at once."""

_GROUP = 65536
"""Values of planes that are to stay in a core's second cache from moments to map."""


FORKED = threading.Event()
"""Set in a process that was forked from one with numba's threads: it cannot have any."""


class Threads:
    """A context in which loops are shared by some threads.

    Args:
        count: Number of threads; where numba was given fewer, those.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.alone = start()
        if self.alone:
            _TURN.acquire()
        self.before = numba.get_num_threads()
        self.count = min(self.count, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        if self.count != self.before:
            numba.set_num_threads(self.count)

    def __exit__(self, *_: object) -> None:
        if self.count != self.before:
            numba.set_num_threads(self.before)
        if self.alone:
            _TURN.release()


_TURN = threading.Lock()


@cache
def start() -> bool:
    """Start numba's threads; return whether they serve one caller at a time."""
    # Where both share one OpenMP, this changes the number of torch's.
    threads = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(threads)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=FORKED.set)
    # What numba has of its own where it finds no OpenMP.
    return numba.threading_layer() == "workqueue"


def compiled(
    parallel: bool = False, fastmath: set[str] | bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have a function compiled when it is first called, and the result kept on disk.

    Loops that threads share must not have the liberties of fast arithmetic: with them, the process that compiles a loop
    and those that read it from disk were seen to differ in the last bit, and a run that is killed and resumed is to be
    the same. Their sums are written as many side by side instead.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"nogil": True, "parallel": parallel, "fastmath": fastmath}
        try:
            loop: Callable[..., Any] = numba.njit(cache=True, **options)(function)
        except RuntimeError:
            # There is no folder to keep the result in.
            loop = numba.njit(**options)(function)
        return loop

    return decorate


part: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(nogil=True)
"""Have a function compiled into the loops that call it."""


@part
def of(values: Array, sample: int) -> Array:
    """Values of a sample, or those that all share."""
    if values.shape[0] > 1:
        return values[sample]
    return values[0]


@part
def _width(size: int) -> int:
    return _LANES if size >= 4 * _LANES else _LANES // 4


@part
def _merge_block(
    found: tuple[float, float, float], count: int, center: float, total: float, squares: float
) -> tuple[float, float, float]:
    """Add a block's sums of deviations from a center, and of their squares, to count, mean and squares so far."""
    before, mean, whole = found
    # Where a block lies so far from the center that its own variance drowns, that drowns in the whole's too.
    step, share = total / count, count / (before + count)
    deviation = center + step - mean
    between = deviation * deviation * (before * share)
    return before + count, mean + deviation * share, whole + max(squares - total * step, 0.0) + between


@part
def moments(values: Array, lanes: Array) -> tuple[float, float]:
    """Mean and biased variance of a plane, given an array of shape (2, 64) to work in."""
    size, width = values.size, _width(values.size)
    even = size - size % width
    rows = values[:even].reshape(even // width, width)
    total, squares = lanes[0, :width], lanes[1, :width]
    center = np.float64(values[0])
    if even:
        first = min(rows.shape[0], _START // width)
        total[:] = 0
        for r in range(first):
            for j in range(width):
                total[j] += rows[r, j]
        center = _sum(total) / (first * width)
    found = (0.0, 0.0, 0.0)
    for start in range(0, rows.shape[0], _BLOCK // width):
        block = rows[start : start + _BLOCK // width]
        narrow = values.dtype.type(center)
        _lane_deviations(block, narrow, total, squares)
        found = _merge_block(found, block.size, narrow, _sum(total), _sum(squares))
        center = found[1]
    if even < size:
        plain, own = 0.0, 0.0
        for i in range(even, size):
            deviation = values[i] - center
            plain += deviation
            own += deviation * deviation
        found = _merge_block(found, size - even, center, plain, own)
    return found[1], found[2] / size


@part
def _sum(lanes: Array) -> float:
    if lanes.size > 16:
        for j in range(16):
            lanes[j] = (lanes[j] + lanes[j + 16]) + (lanes[j + 32] + lanes[j + 48])
    # As a tree, whose branches do not wait for one another.
    a = (lanes[0] + lanes[8]) + (lanes[4] + lanes[12])
    b = (lanes[1] + lanes[9]) + (lanes[5] + lanes[13])
    c = (lanes[2] + lanes[10]) + (lanes[6] + lanes[14])
    d = (lanes[3] + lanes[11]) + (lanes[7] + lanes[15])
    return np.float64((a + c) + (b + d))


@part
def _lane_deviations(rows: Array, center: float, total: Array, squares: Array) -> None:
    total[:], squares[:] = 0, 0
    even = rows.shape[0] - rows.shape[0] % 4
    for r in range(0, even, 4):
        for j in range(rows.shape[1]):
            d0, d1 = rows[r, j] - center, rows[r + 1, j] - center
            d2, d3 = rows[r + 2, j] - center, rows[r + 3, j] - center
            total[j] += (d0 + d1) + (d2 + d3)
            squares[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
    for r in range(even, rows.shape[0]):
        for j in range(rows.shape[1]):
            d0 = rows[r, j] - center
            total[j] += d0
            squares[j] += d0 * d0


@compiled(parallel=True)
def plane_moments(x: Array, eps: float, mean: Array, power: Array) -> None:
    """Compute mean and biased variance plus eps of planes."""
    planes, of_mean, of_power = x.reshape(-1, x.shape[2]), mean.reshape(-1), power.reshape(-1)
    for task in prange((planes.shape[0] + _TOGETHER - 1) // _TOGETHER):
        lanes = np.empty((2, _LANES), x.dtype)
        for i in range(task * _TOGETHER, min((task + 1) * _TOGETHER, planes.shape[0])):
            of_mean[i], variance = moments(planes[i], lanes)
            of_power[i] = variance + eps


@part
def affine(x: Array, mean: float, scale: float, offset: float, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for a plane."""
    for i in range(x.size):
        y[i] = (x[i] - mean) * scale + offset


@compiled(fastmath={"reassoc", "nsz"})
def short_moments(x: Array, eps: float, mean: Array, power: Array) -> None:
    """Compute mean and biased variance plus eps of short planes."""
    planes, of_mean, of_power = x.reshape(-1, x.shape[2]), mean.reshape(-1), power.reshape(-1)
    size, zero = x.shape[2], x.dtype.type(0)
    part_of = x.dtype.type(1 / size)
    for i in range(planes.shape[0]):
        values = planes[i]
        total = zero
        for k in range(size):
            total += values[k]
        center = total * part_of
        squares, rest = zero, zero
        for k in range(size):
            deviation = values[k] - center
            squares += deviation * deviation
            rest += deviation
        # What the center misses of the mean, by rounding.
        missed = rest * part_of
        of_mean[i] = np.float64(center) + np.float64(missed)
        of_power[i] = max(squares - rest * missed, zero) * part_of + eps


@compiled(fastmath={"reassoc", "nsz"})
def short_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    """Sum ``grad * (x - mean)`` and ``grad`` over short planes."""
    planes, upstream, of_mean = x.reshape(-1, x.shape[2]), grad.reshape(-1, x.shape[2]), mean.reshape(-1)
    of_products, of_plain = products.reshape(-1), plain.reshape(-1)
    size, zero = x.shape[2], x.dtype.type(0)
    for i in range(planes.shape[0]):
        values, grads, center = planes[i], upstream[i], of_mean[i]
        of_one, of_x = zero, zero
        for k in range(size):
            of_one += grads[k]
            of_x += grads[k] * (values[k] - center)
        of_products[i], of_plain[i] = of_x, of_one


@compiled(parallel=True)
def plane_affine(x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for planes."""
    planes, result = x.reshape(-1, x.shape[2]), y.reshape(-1, x.shape[2])
    of_mean, of_scale, of_offset = mean.reshape(-1), scale.reshape(-1), offset.reshape(-1)
    for i in prange(planes.shape[0]):
        affine(planes[i], of_mean[i], of_scale[i], of_offset[i], result[i])


@part
def _lane_sums(grad: Array, rows: Array, mean: float, products: Array, plain: Array) -> None:
    products[:], plain[:] = 0, 0
    even = rows.shape[0] - rows.shape[0] % 2
    for r in range(0, even, 2):
        for j in range(rows.shape[1]):
            products[j] += grad[r, j] * (rows[r, j] - mean) + grad[r + 1, j] * (rows[r + 1, j] - mean)
            plain[j] += grad[r, j] + grad[r + 1, j]
    for r in range(even, rows.shape[0]):
        for j in range(rows.shape[1]):
            products[j] += grad[r, j] * (rows[r, j] - mean)
            plain[j] += grad[r, j]


@part
def _plane_sums(grad: Array, x: Array, mean: float, lanes: Array) -> tuple[float, float]:
    width = _width(x.size)
    even = x.size - x.size % width
    upstream, rows = grad[:even].reshape(even // width, width), x[:even].reshape(even // width, width)
    products, plain = 0.0, 0.0
    for start in range(0, rows.shape[0], _BLOCK // width):
        stop = start + _BLOCK // width
        _lane_sums(upstream[start:stop], rows[start:stop], mean, lanes[0, :width], lanes[1, :width])
        products += _sum(lanes[0, :width])
        plain += _sum(lanes[1, :width])
    for i in range(even, x.size):
        products += grad[i] * (x[i] - mean)
        plain += grad[i]
    return products, plain


@compiled(parallel=True)
def plane_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    """Sum ``grad * (x - mean)`` and ``grad`` over planes."""
    planes, upstream, of_mean = x.reshape(-1, x.shape[2]), grad.reshape(-1, x.shape[2]), mean.reshape(-1)
    of_products, of_plain = products.reshape(-1), plain.reshape(-1)
    for task in prange((planes.shape[0] + _TOGETHER - 1) // _TOGETHER):
        lanes = np.empty((2, _LANES), x.dtype)
        for i in range(task * _TOGETHER, min((task + 1) * _TOGETHER, planes.shape[0])):
            of_products[i], of_plain[i] = _plane_sums(upstream[i], planes[i], of_mean[i], lanes)


@part
def _combine(grad: Array, weight: float, x: Array, mean: float, scale: float, offset: float, y: Array) -> None:
    for i in range(x.size):
        y[i] = grad[i] * weight + ((x[i] - mean) * scale + offset)


@compiled(parallel=True)
def plane_combine(grad: Array, weight: Array, x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = grad * weight + (x - mean) * scale + offset`` for planes."""
    size = x.shape[2]
    planes, upstream, result = x.reshape(-1, size), grad.reshape(-1, size), y.reshape(-1, size)
    of_grad, of_mean, of_x, of_one = weight.reshape(-1), mean.reshape(-1), scale.reshape(-1), offset.reshape(-1)
    for i in prange(planes.shape[0]):
        _combine(upstream[i], of_grad[i], planes[i], of_mean[i], of_x[i], of_one[i], result[i])


@part
def _block_height(channels: int) -> int:
    # Few rows, since one follows another in a sum.
    return min(max(8, _BLOCK // channels), 64)


@part
def _row_means(rows: Array, mean: Array) -> None:
    mean[:] = 0
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            mean[c] += rows[r, c]
    for c in range(rows.shape[1]):
        mean[c] /= rows.shape[0]


@part
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


@part
def centered_squares(rows: Array, mean: Array, squares: Array) -> None:
    """Compute the mean of each channel over rows, and the sum of the squares of what deviates from it."""
    channels = rows.shape[1]
    height = _block_height(channels)
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
            squares[c] += max(own[c] - total[c] * step, 0.0) + deviation * deviation * (start * share)
            center[c] = mean[c]


@part
def _merge(count: int, mean: Array, squares: Array, added: int, added_mean: Array, added_squares: Array) -> None:
    share = added / (count + added)
    for c in range(mean.size):
        deviation = added_mean[c] - mean[c]
        mean[c] += deviation * share
        squares[c] += added_squares[c] + deviation * deviation * (count * share)


@part
def _height(channels: int) -> int:
    return max(64, _STEP // channels)


@compiled(parallel=True)
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


@part
def affine_rows(x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for the rows of a sample."""
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            y[r, c] = (x[r, c] - mean[c]) * scale[c] + offset[c]


@compiled(parallel=True)
def row_affine(x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for rows."""
    samples, size, channels = x.shape
    height = _height(channels)
    tasks = (size + height - 1) // height
    for task in prange(samples * tasks):
        n, start, stop = task // tasks, task % tasks * height, (task % tasks + 1) * height
        affine_rows(x[n, start:stop], mean[n], scale[n], offset[n], y[n, start:stop])


@part
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


@part
def _row_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    height = _block_height(x.shape[1])
    block_products, block_plain = np.empty_like(x[0]), np.empty_like(x[0])
    products[:], plain[:] = 0, 0
    for start in range(0, x.shape[0], height):
        stop = start + height
        _row_block_sums(grad[start:stop], x[start:stop], mean, block_products, block_plain)
        for c in range(x.shape[1]):
            products[c] += block_products[c]
            plain[c] += block_plain[c]


@compiled(parallel=True)
def row_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    """Sum ``grad * (x - mean)`` and ``grad`` over the rows of a sample."""
    samples, size, channels = x.shape
    height = _height(channels)
    tasks = (size + height - 1) // height
    sums = np.empty((2, samples, tasks, channels))
    for task in prange(samples * tasks):
        n, t = task // tasks, task % tasks
        start, stop = t * height, (t + 1) * height
        _row_sums(grad[n, start:stop], x[n, start:stop], mean[n], sums[0, n, t], sums[1, n, t])
    for n in range(samples):
        for c in range(channels):
            products[n, c], plain[n, c] = sums[0, n, 0, c], sums[1, n, 0, c]
        for t in range(1, tasks):
            for c in range(channels):
                products[n, c] += sums[0, n, t, c]
                plain[n, c] += sums[1, n, t, c]


@part
def _row_combine(grad: Array, weight: Array, x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            y[r, c] = grad[r, c] * weight[c] + ((x[r, c] - mean[c]) * scale[c] + offset[c])


@compiled(parallel=True)
def row_combine(grad: Array, weight: Array, x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = grad * weight + (x - mean) * scale + offset`` for rows."""
    samples, size, channels = x.shape
    height = _height(channels)
    tasks = (size + height - 1) // height
    for task in prange(samples * tasks):
        n, start, stop = task // tasks, task % tasks * height, (task % tasks + 1) * height
        _row_combine(grad[n, start:stop], weight[n], x[n, start:stop], mean[n], scale[n], offset[n], y[n, start:stop])


@compiled()
def pool(mean: Array, power: Array, eps: float, batch_mean: Array, batch_power: Array, batch_var: Array) -> None:
    """Pool the moments of planes over the batch; see :func:`norms.pooling.pool_batch`."""
    samples, channels = mean.shape
    total, second = np.zeros(channels), np.zeros(channels)
    for n in range(samples):
        for c in range(channels):
            total[c] += mean[n, c]
    for c in range(channels):
        total[c] /= samples
    for n in range(samples):
        for c in range(channels):
            deviation = mean[n, c] - total[c]
            second[c] += power[n, c] + deviation * deviation
    for c in range(channels):
        batch_mean[c] = total[c]
        batch_power[c] = second[c] / samples
        batch_var[c] = max(second[c] / samples - eps, 0.0)


@compiled()
def share(mean: Array, batch_mean: Array, of_batch: Array, of_x: Array, of_one: Array) -> None:
    """Add to the gradient of x what it gets through the moments of the batch, given what that is for each value."""
    for n in range(mean.shape[0]):
        for c in range(mean.shape[1]):
            of_x[n, c] -= of_batch[1, c]
            of_one[n, c] -= of_batch[0, c] + (mean[n, c] - batch_mean[c]) * of_batch[1, c]


@part
def _moments_of_planes(x: Array, eps: float, mean: Array, power: Array) -> None:
    lanes = np.empty((2, _LANES), x.dtype)
    for c in range(x.shape[0]):
        mean[c], variance = moments(x[c], lanes)
        power[c] = variance + eps


@part
def _moments_of_rows(x: Array, eps: float, mean: Array, power: Array) -> None:
    exact, squares = np.empty(mean.size), np.empty(mean.size)
    centered_squares(x, exact, squares)
    for c in range(mean.size):
        mean[c] = exact[c]
        power[c] = squares[c] / x.shape[0] + eps


@compiled()
def batch_instance_coefficients(
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    scale: Array,
    offset: Array,
) -> None:
    """Coefficients of :class:`norms.batch_instance.BatchInstanceFormula`."""
    (rho,) = mixing
    batch, instance = rho / np.sqrt(batch_power), rho.dtype.type(1) - rho
    for n in range(mean.shape[0]):
        gamma, beta = of(weight, n), of(bias, n)
        for c in range(mean.shape[1]):
            scale[n, c] = (batch[c] + instance[c] / np.sqrt(power[n, c])) * gamma[c]
        for c in range(mean.shape[1]):
            offset[n, c] = (mean[n, c] - batch_mean[c]) * batch[c] * gamma[c] + beta[c]


@compiled()
def batch_instance_gradients(
    products: Array,
    plain: Array,
    size: int,
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_mixing: tuple[Array],
    of_grad: Array,
    of_x: Array,
    of_one: Array,
    of_batch: Array,
) -> None:
    """Gradients of :class:`norms.batch_instance.BatchInstanceFormula`."""
    samples, channels = mean.shape
    (rho,), (grad_rho,) = mixing, grad_mixing
    one = rho.dtype.type(1)
    batch_rstd, part = one / np.sqrt(batch_power), rho.dtype.type(1 / size)
    batch_scale, instance_share = rho * batch_rstd, one - rho
    by_batch, by_instance = np.empty_like(rho), np.empty_like(rho)
    for n in range(samples):
        gamma, grad_gamma, grad_beta = of(weight, n), of(grad_weight, n), of(grad_bias, n)
        rstd = of_grad[n]
        for c in range(channels):
            rstd[c] = one / np.sqrt(power[n, c])
        # The gradients for gamma if it scaled what batch or instance normalization alone give.
        for c in range(channels):
            by_batch[c] = (products[n, c] + plain[n, c] * (mean[n, c] - batch_mean[c])) * batch_rstd[c]
        for c in range(channels):
            by_instance[c] = products[n, c] * rstd[c]
        for c in range(channels):
            grad_gamma[c] += rho[c] * by_batch[c] + instance_share[c] * by_instance[c]
        for c in range(channels):
            grad_beta[c] += plain[n, c]
        for c in range(channels):
            grad_rho[c] += (by_batch[c] - by_instance[c]) * gamma[c]
        for c in range(channels):
            of_batch[0, c] += plain[n, c] * batch_scale[c] * gamma[c]
        for c in range(channels):
            of_batch[1, c] += by_batch[c] * rho[c] / batch_power[c] * gamma[c]
        for c in range(channels):
            of_x[n, c] = -by_instance[c] * instance_share[c] * gamma[c] * part / power[n, c]
        for c in range(channels):
            of_one[n, c] = -plain[n, c] * instance_share[c] * rstd[c] * gamma[c] * part
        for c in range(channels):
            of_grad[n, c] = (batch_scale[c] + instance_share[c] * rstd[c]) * gamma[c]


@compiled(parallel=True)
def batch_instance_evaluate_planes(
    x: Array,
    eps: float,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    y: Array,
) -> None:
    """Batch-instance normalization of planes, a few at a time."""
    samples, channels, size = x.shape
    count = min(channels, max(1, _GROUP // size))
    groups = (channels + count - 1) // count
    for task in prange(samples * groups):
        n, start = task // groups, task % groups * count
        stop = min(start + count, channels)
        planes = x[n, start:stop]
        found = np.empty((4, 1, stop - start), x.dtype)
        _moments_of_planes(planes, eps, found[0, 0], found[1, 0])
        batch_instance_coefficients(
            found[0],
            found[1],
            batch_mean[start:stop],
            batch_power[start:stop],
            (mixing[0][start:stop],),
            constants,
            of(weight, n)[start:stop].reshape(1, -1),
            of(bias, n)[start:stop].reshape(1, -1),
            found[2],
            found[3],
        )
        for c in range(stop - start):
            affine(planes[c], found[0, 0, c], found[2, 0, c], found[3, 0, c], y[n, start + c])


@compiled(parallel=True)
def batch_instance_evaluate_rows(
    x: Array,
    eps: float,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    y: Array,
) -> None:
    """Batch-instance normalization of rows, a sample at a time."""
    for n in prange(x.shape[0]):
        found = np.empty((4, 1, x.shape[2]), x.dtype)
        _moments_of_rows(x[n], eps, found[0, 0], found[1, 0])
        gamma, beta = of(weight, n).reshape(1, -1), of(bias, n).reshape(1, -1)
        batch_instance_coefficients(
            found[0], found[1], batch_mean, batch_power, mixing, constants, gamma, beta, found[2], found[3]
        )
        affine_rows(x[n], found[0, 0], found[2, 0], found[3, 0], y[n])


@part
def _slots(given: Array, constants: tuple[int, int, int, int]) -> Array:
    """Shares of the instance's, the layer's and the batch's moments, 0 for those that are not mixed."""
    shares = np.zeros(3, given.dtype)
    for kind in range(3):
        if constants[kind] >= 0:
            shares[kind] = given[constants[kind]]
            if constants[3]:
                shares[kind] = np.exp(shares[kind] - given.max())
    return shares / shares.sum() if constants[3] else shares


@part
def _put_gradient(grad_shares: Array, shares: Array, constants: tuple[int, int, int, int], grad_given: Array) -> None:
    """Gradient for what shares were given by, from the one for shares."""
    mean = (grad_shares * shares).sum()
    for kind in range(3):
        if constants[kind] >= 0:
            through = shares[kind] * (grad_shares[kind] - mean)
            grad_given[constants[kind]] += through if constants[3] else grad_shares[kind]


@part
def _layer_moments(mean: Array, power: Array, constants: tuple[int, int, int, int]) -> tuple[float, float]:
    if constants[1] < 0:
        return mean.dtype.type(0), mean.dtype.type(1)
    total = 0.0
    for c in range(mean.size):
        total += mean[c]
    layer_mean = total / mean.size
    second = 0.0
    for c in range(mean.size):
        deviation = mean[c] - layer_mean
        second += power[c] + deviation * deviation
    return mean.dtype.type(layer_mean), mean.dtype.type(second / mean.size)


@compiled()
def switchable_coefficients(
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array, Array],
    constants: tuple[int, int, int, int],
    weight: Array,
    bias: Array,
    scale: Array,
    offset: Array,
) -> None:
    """Coefficients of :class:`norms.switchable.SwitchableFormula`."""
    of_mean, of_power = _slots(mixing[0], constants), _slots(mixing[1], constants)
    one = mean.dtype.type(1)
    for n in range(mean.shape[0]):
        gamma, beta = of(weight, n), of(bias, n)
        layer_mean, layer_power = _layer_moments(mean[n], power[n], constants)
        for c in range(mean.shape[1]):
            mixed = of_power[0] * power[n, c] + of_power[1] * layer_power + of_power[2] * batch_power[c]
            scale[n, c] = one / np.sqrt(mixed) * gamma[c]
        for c in range(mean.shape[1]):
            centered = of_mean[1] * (mean[n, c] - layer_mean) + of_mean[2] * (mean[n, c] - batch_mean[c])
            offset[n, c] = centered * scale[n, c] + beta[c]


@compiled()
def switchable_gradients(
    products: Array,
    plain: Array,
    size: int,
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array, Array],
    constants: tuple[int, int, int, int],
    weight: Array,
    bias: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_mixing: tuple[Array, Array],
    of_grad: Array,
    of_x: Array,
    of_one: Array,
    of_batch: Array,
) -> None:
    """Gradients of :class:`norms.switchable.SwitchableFormula`."""
    samples, channels = mean.shape
    of_mean, of_power = _slots(mixing[0], constants), _slots(mixing[1], constants)
    one, zero = mean.dtype.type(1), mean.dtype.type(0)
    grad_of_mean, grad_of_power = np.zeros(3), np.zeros(3)
    layer_means, layer_of_mean, layer_of_power = np.empty((3, samples), mean.dtype)
    centered, mixed = np.empty_like(batch_mean), np.empty_like(batch_mean)
    for n in range(samples):
        gamma, grad_gamma, grad_beta = of(weight, n), of(grad_weight, n), of(grad_bias, n)
        layer_mean, layer_power = _layer_moments(mean[n], power[n], constants)
        for c in range(channels):
            mixed[c] = of_power[0] * power[n, c] + of_power[1] * layer_power + of_power[2] * batch_power[c]
        for c in range(channels):
            centered[c] = of_mean[1] * (mean[n, c] - layer_mean) + of_mean[2] * (mean[n, c] - batch_mean[c])
        # The gradients for the distance of the plane's mean from the mixed one, and for the mixed power, times -2.
        for_distance, for_mixed = of_one[n], of_x[n]
        for c in range(channels):
            of_grad[n, c] = one / np.sqrt(mixed[c])
        for c in range(channels):
            for_distance[c] = plain[n, c] * of_grad[n, c] * gamma[c]
        for c in range(channels):
            for_mixed[c] = (products[n, c] + plain[n, c] * centered[c]) * of_grad[n, c]
        for c in range(channels):
            grad_gamma[c] += for_mixed[c]
        for c in range(channels):
            for_mixed[c] *= gamma[c] / mixed[c]
        for c in range(channels):
            grad_beta[c] += plain[n, c]
        for c in range(channels):
            of_grad[n, c] *= gamma[c]
        for c in range(channels):
            of_batch[0, c] += for_distance[c] * of_mean[2]
        for c in range(channels):
            of_batch[1, c] += for_mixed[c] * of_power[2]
        distances, powers, layer_pull, batch_pull, instance_pull, batch_push = zero, zero, zero, zero, zero, zero
        for c in range(channels):
            distances += for_distance[c]
            powers += for_mixed[c]
            layer_pull += for_distance[c] * (mean[n, c] - layer_mean)
            batch_pull += for_distance[c] * (mean[n, c] - batch_mean[c])
            instance_pull += for_mixed[c] * power[n, c]
            batch_push += for_mixed[c] * batch_power[c]
        grad_of_mean[1] += layer_pull
        grad_of_mean[2] += batch_pull
        grad_of_power[0] += instance_pull
        grad_of_power[1] += powers * layer_power
        grad_of_power[2] += batch_push
        layer_means[n] = layer_mean
        layer_of_mean[n] = distances / channels * of_mean[1]
        layer_of_power[n] = powers / channels * of_power[1]
    _put_gradient(grad_of_mean, of_mean, constants, grad_mixing[0])
    _put_gradient(grad_of_power / -2, of_power, constants, grad_mixing[1])
    part = mean.dtype.type(1 / size)
    own = of_mean[1] + of_mean[2] - one
    for n in range(samples):
        for c in range(channels):
            level = own * of_one[n, c] - layer_of_mean[n] - (mean[n, c] - layer_means[n]) * layer_of_power[n]
            of_one[n, c] = level * part
        for c in range(channels):
            of_x[n, c] = -(of_x[n, c] * of_power[0] + layer_of_power[n]) * part


@compiled(parallel=True)
def switchable_evaluate_planes(
    x: Array,
    eps: float,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array, Array],
    constants: tuple[int, int, int, int],
    weight: Array,
    bias: Array,
    y: Array,
) -> None:
    """Switchable normalization of planes, a sample at a time."""
    for n in prange(x.shape[0]):
        found = np.empty((4, 1, x.shape[1]), x.dtype)
        _moments_of_planes(x[n], eps, found[0, 0], found[1, 0])
        gamma, beta = of(weight, n).reshape(1, -1), of(bias, n).reshape(1, -1)
        switchable_coefficients(
            found[0], found[1], batch_mean, batch_power, mixing, constants, gamma, beta, found[2], found[3]
        )
        for c in range(x.shape[1]):
            affine(x[n, c], found[0, 0, c], found[2, 0, c], found[3, 0, c], y[n, c])


@compiled(parallel=True)
def switchable_evaluate_rows(
    x: Array,
    eps: float,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array, Array],
    constants: tuple[int, int, int, int],
    weight: Array,
    bias: Array,
    y: Array,
) -> None:
    """Switchable normalization of rows, a sample at a time."""
    for n in prange(x.shape[0]):
        found = np.empty((4, 1, x.shape[2]), x.dtype)
        _moments_of_rows(x[n], eps, found[0, 0], found[1, 0])
        gamma, beta = of(weight, n).reshape(1, -1), of(bias, n).reshape(1, -1)
        switchable_coefficients(
            found[0], found[1], batch_mean, batch_power, mixing, constants, gamma, beta, found[2], found[3]
        )
        affine_rows(x[n], found[0, 0], found[2, 0], found[3, 0], y[n])


@part
def _standard_coefficients(
    mean: Array,
    batch_mean: Array,
    batch_power: Array,
    r: Array,
    d: Array,
    weight: Array,
    bias: Array,
    scale: Array,
    offset: Array,
) -> None:
    standard = r / np.sqrt(batch_power)
    for n in range(mean.shape[0]):
        gamma, beta = of(weight, n), of(bias, n)
        for c in range(mean.shape[1]):
            scale[n, c] = standard[c] * gamma[c]
        for c in range(mean.shape[1]):
            offset[n, c] = ((mean[n, c] - batch_mean[c]) * standard[c] + d[c]) * gamma[c] + beta[c]


@part
def _standard_gradients(
    products: Array,
    plain: Array,
    mean: Array,
    batch_mean: Array,
    batch_power: Array,
    r: Array,
    d: Array,
    weight: Array,
    grad_weight: Array,
    grad_bias: Array,
    of_grad: Array,
    of_batch: Array,
) -> None:
    standard, by_standard = r / np.sqrt(batch_power), np.empty_like(r)
    for n in range(mean.shape[0]):
        gamma, grad_gamma, grad_beta = of(weight, n), of(grad_weight, n), of(grad_bias, n)
        for c in range(mean.shape[1]):
            by_standard[c] = (products[n, c] + plain[n, c] * (mean[n, c] - batch_mean[c])) * standard[c]
        for c in range(mean.shape[1]):
            grad_gamma[c] += by_standard[c] + plain[n, c] * d[c]
        for c in range(mean.shape[1]):
            grad_beta[c] += plain[n, c]
        for c in range(mean.shape[1]):
            of_grad[n, c] = standard[c] * gamma[c]
        for c in range(mean.shape[1]):
            of_batch[0, c] += plain[n, c] * of_grad[n, c]
        for c in range(mean.shape[1]):
            of_batch[1, c] += by_standard[c] * gamma[c] / batch_power[c]


@compiled()
def batch_coefficients(
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[()],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    scale: Array,
    offset: Array,
) -> None:
    """Coefficients of :class:`norms.batch.BatchFormula`."""
    r, d = np.ones_like(batch_mean), np.zeros_like(batch_mean)
    _standard_coefficients(mean, batch_mean, batch_power, r, d, weight, bias, scale, offset)


@compiled()
def batch_gradients(
    products: Array,
    plain: Array,
    size: int,
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[()],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_mixing: tuple[()],
    of_grad: Array,
    of_x: Array,
    of_one: Array,
    of_batch: Array,
) -> None:
    """Gradients of :class:`norms.batch.BatchFormula`."""
    r, d = np.ones_like(batch_mean), np.zeros_like(batch_mean)
    _standard_gradients(
        products, plain, mean, batch_mean, batch_power, r, d, weight, grad_weight, grad_bias, of_grad, of_batch
    )
    of_x[:], of_one[:] = 0, 0


@part
def _correction(
    batch_mean: Array, batch_power: Array, mixing: tuple[Array, Array, Array, Array]
) -> tuple[Array, Array]:
    running_mean, running_std, r_max, d_max = mixing
    one = batch_mean.dtype.type(1)
    r, d = np.empty_like(batch_mean), np.empty_like(batch_mean)
    for c in range(r.size):
        r[c] = min(max(np.sqrt(batch_power[c]) / running_std[c], one / r_max[0]), r_max[0])
        d[c] = min(max((batch_mean[c] - running_mean[c]) / running_std[c], -d_max[0]), d_max[0])
    return r, d


@compiled()
def batch_renorm_coefficients(
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array, Array, Array, Array],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    scale: Array,
    offset: Array,
) -> None:
    """Coefficients of :class:`norms.batch_renorm.BatchRenormFormula`."""
    r, d = _correction(batch_mean, batch_power, mixing)
    _standard_coefficients(mean, batch_mean, batch_power, r, d, weight, bias, scale, offset)


@compiled()
def batch_renorm_gradients(
    products: Array,
    plain: Array,
    size: int,
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[Array, Array, Array, Array],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_mixing: tuple[Array, Array, Array, Array],
    of_grad: Array,
    of_x: Array,
    of_one: Array,
    of_batch: Array,
) -> None:
    """Gradients of :class:`norms.batch_renorm.BatchRenormFormula`."""
    r, d = _correction(batch_mean, batch_power, mixing)
    _standard_gradients(
        products, plain, mean, batch_mean, batch_power, r, d, weight, grad_weight, grad_bias, of_grad, of_batch
    )
    of_x[:], of_one[:] = 0, 0


@compiled()
def mean_only_batch_coefficients(
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[()],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    scale: Array,
    offset: Array,
) -> None:
    """Coefficients of :class:`norms.batch.MeanOnlyBatchFormula`."""
    for n in range(mean.shape[0]):
        gamma, beta = of(weight, n), of(bias, n)
        for c in range(mean.shape[1]):
            scale[n, c] = gamma[c]
            offset[n, c] = (mean[n, c] - batch_mean[c]) * gamma[c] + beta[c]


@compiled()
def mean_only_batch_gradients(
    products: Array,
    plain: Array,
    size: int,
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: tuple[()],
    constants: tuple[()],
    weight: Array,
    bias: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_mixing: tuple[()],
    of_grad: Array,
    of_x: Array,
    of_one: Array,
    of_batch: Array,
) -> None:
    """Gradients of :class:`norms.batch.MeanOnlyBatchFormula`."""
    for n in range(mean.shape[0]):
        gamma, grad_gamma, grad_beta = of(weight, n), of(grad_weight, n), of(grad_bias, n)
        for c in range(mean.shape[1]):
            grad_gamma[c] += products[n, c] + plain[n, c] * (mean[n, c] - batch_mean[c])
            grad_beta[c] += plain[n, c]
            of_grad[n, c] = gamma[c]
            of_batch[0, c] += plain[n, c] * gamma[c]
            of_x[n, c], of_one[n, c] = 0, 0
