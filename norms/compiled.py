"""Norms as loops that numba compiles for the processor at hand: the passes over activations, and what is between them.

They are compiled within seconds when they are first needed, and kept on disk for the next process. A loop's result does
not depend on the number of threads that share it. All are in one file, since that is what numba watches for changes.

Arrays are contiguous, of one dtype, float32 or float64. Activations are *planes* of shape (N, C, size), or *rows* of
shape (N, size, C). What belongs to planes has shape (N, C): ``moments`` are their means and powers, ``batch`` those of
the batch, each of shape (C,). Moments and sums are computed in the dtype within short blocks and in float64 between
them.

Between the passes, each formula has two functions, ``coefficients`` and ``gradients``, which do in one go what its
class does in operators, and include gamma and beta. Their arguments are ``mean`` and ``power`` of planes;
``batch_mean`` and ``batch_power`` (C,); ``mixing`` and ``constants`` of the formula; and ``weight`` and ``bias``,
(N, C) or (1, C). Coefficients are ``scale`` and ``offset``. Gradients start from the sums ``products`` of
``grad * (x - mean)`` and ``plain`` of ``grad`` over planes of ``size`` values. They say that, but for the batch's
moments, the gradient for x is ``grad * of_grad + (x - mean) * of_x + of_one``; to zeros they add ``grad_weight`` and
``grad_bias``, of the shapes of weight and bias, ``grad_mixing``, and ``of_batch`` (2, C): by how much the mean of the
batch, times -1, and its power, times -2, change the loss. What is summed over samples or channels is in float64.

A formula that needs a sample's own moments in evaluation also has ``mixing``, which takes what it mixes by for a range
of channels: with it, an evaluation is done in one go, a few planes or a sample at a time.
"""

import logging
import operator
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import prange, types
from numba.core import event
from numba.core.caching import FunctionCache
from numba.extending import intrinsic, models, overload, register_model

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]

_BLOCK = 4096
"""Values of a block: as many as stay in a core's first cache to be read twice."""

_TOGETHER = 16
"""Planes that a thread takes at once."""

_STEP = 65536
"""Values of consecutive rows that a thread takes at once."""

_ROW = 128
"""Values below which rows are laid side by side, since loops over short ones cost more than what they do."""


FORKED = threading.Event()
"""Set in a process that was forked from one with numba's threads: it cannot have any."""


class Threads:
    """A context in which loops are shared by some threads.

    Args:
        count: Number of threads; where numba was given fewer, those.
    """

    def __init__(self, count: int) -> None:
        self.count = min(count, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        self.alone = start()

    def __enter__(self) -> None:
        if self.alone:
            _TURN.acquire()
        self.before = numba.get_num_threads()
        if self.count != self.before:
            numba.set_num_threads(self.count)

    def __exit__(self, *_: object) -> None:
        if self.count != self.before:
            numba.set_num_threads(self.before)
        if self.alone:
            _TURN.release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Meanwhile others may have the threads."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


_TURN = threading.Lock()


@cache
def start() -> bool:
    """Start numba's threads; return whether they serve one caller at a time."""
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise ImportError("NUMBA_DISABLE_JIT is set")
    # Where both share one OpenMP, this changes the number of torch's.
    threads = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(threads)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=FORKED.set)
    # What numba has of its own where it finds no OpenMP.
    return numba.threading_layer() == "workqueue"


class _Notice(event.Listener):
    """Says, once in a process, what it waits for."""

    def __init__(self) -> None:
        self.said = False

    def on_start(self, occurrence: event.Event) -> None:
        if not self.said and occurrence.data["dispatcher"].py_func.__module__ == __name__:
            self.said = True
            _LOGGER.warning("norms: compiling loops for this processor, some seconds for each new kind of layer, once")

    def on_end(self, occurrence: event.Event) -> None:
        pass


_LOGGER = logging.getLogger(__name__)
event.register("numba:compile", _Notice())


def compiled(function: Callable[..., Any], parallel: bool = False) -> Callable[..., Any]:
    """Have a function compiled when it is first called, and the result kept on disk.

    Without the liberties of fast arithmetic: with them, the process that compiles a loop and those that read it from
    disk were seen to differ in the last bit, and a run that is killed and resumed is to be the same.
    """
    loop: Any = numba.njit(nogil=True, parallel=parallel, error_model="numpy")(function)
    # Where there is no folder to keep the result in, it is not kept.
    with suppress(RuntimeError):
        loop._cache = _Kept(function)
    return loop


class _Kept(FunctionCache):
    """What numba keeps on disk of a function: if it can, since a training is not to end for that."""

    def save_overload(self, *given: Any) -> None:
        try:
            super().save_overload(*given)
        except OSError as error:
            _say_not_kept(str(error))


@cache
def _say_not_kept(why: str) -> None:
    again = "the next process compiles them again; NUMBA_CACHE_DIR can name a folder with space"
    _LOGGER.warning("norms: compiled loops cannot be kept (%s): %s", why, again)


def shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Likewise, a function whose loops over ``prange`` threads share."""
    return compiled(function, parallel=True)


part: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(nogil=True, error_model="numpy")
"""Have a function compiled into the loops that call it."""


generated: Callable[[Callable[..., Any]], Any] = intrinsic
"""Have instructions of a function's own generated where loops call it."""


class Vector(types.Type):
    """As many values side by side as the widest registers hold, also where registers are narrower."""

    def __init__(self, dtype: Any) -> None:
        super().__init__(name=f"Vector({dtype})")
        self.dtype = dtype
        self.lanes = 512 // dtype.bitwidth


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.dtype).get_value_type(), kind.lanes))


@generated
def _lanes(_: Any, values: Any) -> Any:
    """How many values a vector has: known when loops are compiled, where to divide by it costs nothing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.intp, Vector(values.dtype).lanes)

    return types.intp(values), generate


@generated
def _load(_: Any, values: Any, index: Any) -> Any:
    """The vector of values that starts at an index."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(values)(context, builder, arguments[0])
        kind = context.get_value_type(signature.return_type).as_pointer()
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), kind)
        return builder.load(place, align=values.dtype.bitwidth // 8)

    return Vector(values.dtype)(values, types.intp), generate


@generated
def _splat(_: Any, value: Any) -> Any:
    """A vector of one value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.return_type)
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
        return builder.shuffle_vector(one, one, lanes)

    return Vector(value)(value), generate


@generated
def _total(_: Any, vector: Vector) -> Any:
    """The sum of a vector's values."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (rest,) = arguments
        while rest.type.count > 1:
            half = rest.type.count // 2
            halves = (list(range(half)), list(range(half, 2 * half)))
            low, high = (
                builder.shuffle_vector(rest, rest, ir.Constant(ir.VectorType(ir.IntType(32), half), lanes))
                for lanes in halves
            )
            rest = builder.fadd(low, high)
        return builder.extract_element(rest, ir.Constant(ir.IntType(32), 0))

    return vector.dtype(vector), generate


def _define(symbol: Callable[..., Any], instruction: str) -> None:
    @generated
    def calculate(_: Any, a: Vector, b: Vector) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return a(a, b), generate

    @overload(symbol)
    def implement(a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return (lambda a, b: calculate(a, b)) if isinstance(a, Vector) and isinstance(b, Vector) else None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")


@part
def of(values: Array, sample: int) -> Array:
    """Values of a sample, or those that all share."""
    if values.shape[0] > 1:
        return values[sample]
    return values[0]


@part
def _near(values: Array, start: int, stop: int) -> float:
    """A number near the mean, from the first values."""
    # At most as far from it as the root of their share in all, in standard deviations.
    lanes = _lanes(values)
    if stop - start < lanes:
        return values[start]
    # Each divided before, since their sum may be too large for the dtype.
    return _total(_load(values, start) * _splat(values.dtype.type(1 / lanes)))


@part
def _deviations(values: Array, start: int, stop: int, center: float) -> tuple[float, float]:
    """Sum what deviates from a center, and its square."""
    lanes = _lanes(values)
    stride = 4 * lanes
    whole, even = stop - (stop - start) % stride, stop - (stop - start) % lanes
    middle, zero = _splat(center), _splat(values.dtype.type(0))
    a, b, c, d = zero, zero, zero, zero
    aa, bb, cc, dd = zero, zero, zero, zero
    # Four sums that do not wait for one another.
    for i in range(start, whole, stride):
        p, q = _load(values, i) - middle, _load(values, i + lanes) - middle
        r, s = _load(values, i + 2 * lanes) - middle, _load(values, i + 3 * lanes) - middle
        a, b, c, d = a + p, b + q, c + r, d + s
        aa, bb, cc, dd = aa + p * p, bb + q * q, cc + r * r, dd + s * s
    for i in range(whole, even, lanes):
        p = _load(values, i) - middle
        a, aa = a + p, aa + p * p
    total, squares = _total((a + b) + (c + d)), _total((aa + bb) + (cc + dd))
    for i in range(even, stop):
        deviation = values[i] - center
        total += deviation
        squares += deviation * deviation
    return np.float64(total), np.float64(squares)


@part
def _plane_moments(values: Array, start: int, size: int) -> tuple[float, float]:
    """Mean and biased variance of a plane, which begins at an index of values."""
    stop = min(start + _BLOCK, start + size)
    narrow = _near(values, start, stop)
    total, squares = _deviations(values, start, stop, narrow)
    # What the center misses of the mean.
    missed = total / (stop - start)
    mean, second = narrow + missed, max(squares - total * missed, 0.0)
    for begin in range(stop, start + size, _BLOCK):
        count = min(_BLOCK, start + size - begin)
        narrow = values.dtype.type(mean)
        total, squares = _deviations(values, begin, begin + count, narrow)
        # Where a block lies so far from the center that its own variance drowns, that drowns in the whole's too.
        missed, share = total / count, count / (begin - start + count)
        deviation = narrow + missed - mean
        mean += deviation * share
        second += max(squares - total * missed, 0.0) + deviation * deviation * (begin - start) * share
    return mean, second / size


@shared
def plane_moments(x: Array, eps: float, mean: Array, power: Array) -> None:
    """Compute mean and biased variance plus eps of planes."""
    values, of_mean, of_power = x.reshape(-1), mean.reshape(-1), power.reshape(-1)
    count, size = of_mean.size, x.shape[2]
    for task in prange((count + _TOGETHER - 1) // _TOGETHER):
        for i in range(task * _TOGETHER, min((task + 1) * _TOGETHER, count)):
            of_mean[i], variance = _plane_moments(values, i * size, size)
            of_power[i] = variance + eps


@part
def _from_end(thread: int, threads: int, count: int) -> range:
    """What a thread has to do of so many things, beginning with what the pass before has left in its cache."""
    return range((thread + 1) * count // threads - 1, thread * count // threads - 1, -1)


@part
def _affine(x: Array, mean: float, scale: float, offset: float, y: Array) -> None:
    for i in range(x.size):
        y[i] = (x[i] - mean) * scale + offset


@shared
def plane_affine(x: Array, threads: int, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for planes."""
    values, result = x.reshape(-1), y.reshape(-1)
    of_mean, of_scale, of_offset = mean.reshape(-1), scale.reshape(-1), offset.reshape(-1)
    count, size = of_mean.size, x.shape[2]
    for thread in prange(threads):
        for i in _from_end(thread, threads, count):
            begin, end = i * size, (i + 1) * size
            _affine(values[begin:end], of_mean[i], of_scale[i], of_offset[i], result[begin:end])


@part
def _products(grad: Array, x: Array, start: int, stop: int, mean: float) -> tuple[float, float]:
    """Sum ``grad * (x - mean)`` and ``grad``."""
    lanes = _lanes(x)
    stride = 4 * lanes
    whole, even = stop - (stop - start) % stride, stop - (stop - start) % lanes
    middle, zero = _splat(mean), _splat(x.dtype.type(0))
    a, b, c, d = zero, zero, zero, zero
    aa, bb, cc, dd = zero, zero, zero, zero
    for i in range(start, whole, stride):
        p, q = _load(grad, i), _load(grad, i + lanes)
        r, s = _load(grad, i + 2 * lanes), _load(grad, i + 3 * lanes)
        a, b, c, d = a + p, b + q, c + r, d + s
        aa, bb = aa + p * (_load(x, i) - middle), bb + q * (_load(x, i + lanes) - middle)
        cc, dd = cc + r * (_load(x, i + 2 * lanes) - middle), dd + s * (_load(x, i + 3 * lanes) - middle)
    for i in range(whole, even, lanes):
        p = _load(grad, i)
        a, aa = a + p, aa + p * (_load(x, i) - middle)
    plain, products = _total((a + b) + (c + d)), _total((aa + bb) + (cc + dd))
    for i in range(even, stop):
        plain += grad[i]
        products += grad[i] * (x[i] - mean)
    return np.float64(products), np.float64(plain)


@shared
def plane_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    """Sum ``grad * (x - mean)`` and ``grad`` over planes."""
    values, upstream, of_mean = x.reshape(-1), grad.reshape(-1), mean.reshape(-1)
    of_products, of_plain = products.reshape(-1), plain.reshape(-1)
    count, size = of_mean.size, x.shape[2]
    for task in prange((count + _TOGETHER - 1) // _TOGETHER):
        for i in range(task * _TOGETHER, min((task + 1) * _TOGETHER, count)):
            by_x, by_one = 0.0, 0.0
            for start in range(i * size, (i + 1) * size, _BLOCK):
                stop = min(start + _BLOCK, (i + 1) * size)
                found = _products(upstream, values, start, stop, of_mean[i])
                by_x += found[0]
                by_one += found[1]
            of_products[i], of_plain[i] = by_x, by_one


@part
def _combine(grad: Array, weight: float, x: Array, mean: float, scale: float, offset: float, y: Array) -> None:
    for i in range(x.size):
        y[i] = grad[i] * weight + ((x[i] - mean) * scale + offset)


@shared
def plane_combine(
    grad: Array, weight: Array, x: Array, threads: int, mean: Array, scale: Array, offset: Array, y: Array
) -> None:
    """Compute ``y = grad * weight + (x - mean) * scale + offset`` for planes."""
    values, upstream, result = x.reshape(-1), grad.reshape(-1), y.reshape(-1)
    of_grad, of_mean, of_x, of_one = weight.reshape(-1), mean.reshape(-1), scale.reshape(-1), offset.reshape(-1)
    count, size = of_mean.size, x.shape[2]
    for thread in prange(threads):
        for i in _from_end(thread, threads, count):
            begin, end = i * size, (i + 1) * size
            own, plane, target = upstream[begin:end], values[begin:end], result[begin:end]
            _combine(own, of_grad[i], plane, of_mean[i], of_x[i], of_one[i], target)


@part
def _fold(size: int, channels: int) -> int:
    """How many rows to lay side by side: a power of two by which they can be divided, which may leave one long row."""
    count = 1
    while count * channels < _ROW and size % (2 * count) == 0:
        count *= 2
    return count


@part
def _folded(x: Array) -> Array:
    count = _fold(x.shape[1], x.shape[2])
    return x.reshape(x.shape[0], x.shape[1] // count, x.shape[2] * count)


@part
def _tiled(values: Array, width: int) -> Array:
    """Values of channels for rows that are laid side by side."""
    samples, channels = values.shape
    if channels == width:
        return values
    tiled = np.empty((samples, width // channels, channels), values.dtype)
    for n in range(samples):
        for k in range(width // channels):
            tiled[n, k] = values[n]
    return tiled.reshape(samples, width)


@part
def _height(width: int) -> int:
    """Number of rows that a thread takes at once."""
    return max(64, _STEP // width)


@part
def _block_height(width: int) -> int:
    # Few rows, since one follows another in a sum.
    return min(max(16, 4 * _BLOCK // width), 64)


@part
def _near_rows(rows: Array, center: Array) -> None:
    """Numbers near the means, from the first rows."""
    count = min(8, rows.shape[0])
    part_of = rows.dtype.type(1 / count)
    center[:] = 0
    for r in range(count):
        for c in range(rows.shape[1]):
            center[c] += rows[r, c] * part_of


@part
def _row_deviations(rows: Array, center: Array, total: Array, squares: Array) -> None:
    count, width = rows.shape
    total[:], squares[:] = 0, 0
    # Eight rows at a time, which spares seven in eight passes over the sums.
    even = count - count % 8
    for r in range(0, even, 8):
        for c in range(width):
            middle = center[c]
            d0, d1 = rows[r, c] - middle, rows[r + 1, c] - middle
            d2, d3 = rows[r + 2, c] - middle, rows[r + 3, c] - middle
            d4, d5 = rows[r + 4, c] - middle, rows[r + 5, c] - middle
            d6, d7 = rows[r + 6, c] - middle, rows[r + 7, c] - middle
            total[c] += ((d0 + d1) + (d2 + d3)) + ((d4 + d5) + (d6 + d7))
            low = (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
            squares[c] += low + ((d4 * d4 + d5 * d5) + (d6 * d6 + d7 * d7))
    for r in range(even, count):
        for c in range(width):
            d0 = rows[r, c] - center[c]
            total[c] += d0
            squares[c] += d0 * d0


@part
def _centered_squares(rows: Array, mean: Array, squares: Array) -> None:
    """Compute the mean of each channel over rows, and the sum of the squares of what deviates from it."""
    width = rows.shape[1]
    height = _block_height(width)
    center, total, own = np.empty_like(rows[0]), np.empty_like(rows[0]), np.empty_like(rows[0])
    _near_rows(rows, center)
    mean[:], squares[:] = 0, 0
    for start in range(0, rows.shape[0], height):
        block = rows[start : start + height]
        _row_deviations(block, center, total, own)
        count = block.shape[0]
        part_of, share = 1 / count, count / (start + count)
        for c in range(width):
            # As for planes, around the mean so far.
            step = np.float64(total[c]) * part_of
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
def _merge_rows(means: Array, squares: Array, rows: int, eps: float, mean: Array, power: Array) -> None:
    """Put the moments of a sample together from those of shares of its rows, which are laid side by side."""
    tasks, width = means.shape
    channels, height = mean.size, _height(width)
    for t in range(1, tasks):
        _merge(t * height, means[0], squares[0], min(height, rows - t * height), means[t], squares[t])
    for start in range(channels, width, channels):
        stop = start + channels
        before = start // channels * rows
        _merge(before, means[0, :channels], squares[0, :channels], rows, means[0, start:stop], squares[0, start:stop])
    for c in range(channels):
        mean[c] = means[0, c]
        power[c] = squares[0, c] / (rows * (width // channels)) + eps


@shared
def row_moments(x: Array, eps: float, mean: Array, power: Array) -> None:
    """Compute mean and biased variance plus eps of each channel over the rows of a sample."""
    wide = _folded(x)
    samples, rows, width = wide.shape
    height = _height(width)
    tasks = (rows + height - 1) // height
    means, squares = np.empty((samples, tasks, width)), np.empty((samples, tasks, width))
    for task in prange(samples * tasks):
        n, t = task // tasks, task % tasks
        _centered_squares(wide[n, t * height : (t + 1) * height], means[n, t], squares[n, t])
    for n in range(samples):
        _merge_rows(means[n], squares[n], rows, eps, mean[n], power[n])


@part
def _affine_rows(x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            y[r, c] = (x[r, c] - mean[c]) * scale[c] + offset[c]


@shared
def row_affine(x: Array, threads: int, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    """Compute ``y = (x - mean) * scale + offset`` for rows."""
    wide, result = _folded(x), _folded(y)
    samples, rows, width = wide.shape
    of_mean, of_scale, of_offset = _tiled(mean, width), _tiled(scale, width), _tiled(offset, width)
    height = _height(width)
    tasks = (rows + height - 1) // height
    count = samples * tasks
    for thread in prange(threads):
        for task in _from_end(thread, threads, count):
            n, start, stop = task // tasks, task % tasks * height, (task % tasks + 1) * height
            _affine_rows(wide[n, start:stop], of_mean[n], of_scale[n], of_offset[n], result[n, start:stop])


@part
def _row_block_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    products[:], plain[:] = 0, 0
    count, width = x.shape
    # As for moments.
    even = count - count % 4
    for r in range(0, even, 4):
        for c in range(width):
            middle = mean[c]
            g0, g1, g2, g3 = grad[r, c], grad[r + 1, c], grad[r + 2, c], grad[r + 3, c]
            low = g0 * (x[r, c] - middle) + g1 * (x[r + 1, c] - middle)
            products[c] += low + (g2 * (x[r + 2, c] - middle) + g3 * (x[r + 3, c] - middle))
            plain[c] += (g0 + g1) + (g2 + g3)
    for r in range(even, count):
        for c in range(width):
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


@shared
def row_sums(grad: Array, x: Array, mean: Array, products: Array, plain: Array) -> None:
    """Sum ``grad * (x - mean)`` and ``grad`` over the rows of a sample."""
    wide, upstream = _folded(x), _folded(grad)
    samples, rows, width = wide.shape
    channels, center = mean.shape[1], _tiled(mean, width)
    height = _height(width)
    tasks = (rows + height - 1) // height
    sums = np.empty((2, samples, tasks, width))
    for task in prange(samples * tasks):
        n, t = task // tasks, task % tasks
        start, stop = t * height, (t + 1) * height
        _row_sums(upstream[n, start:stop], wide[n, start:stop], center[n], sums[0, n, t], sums[1, n, t])
    for n in range(samples):
        for t in range(1, tasks):
            for c in range(width):
                sums[0, n, 0, c] += sums[0, n, t, c]
                sums[1, n, 0, c] += sums[1, n, t, c]
        for start in range(channels, width, channels):
            for c in range(channels):
                sums[0, n, 0, c] += sums[0, n, 0, start + c]
                sums[1, n, 0, c] += sums[1, n, 0, start + c]
        for c in range(channels):
            products[n, c], plain[n, c] = sums[0, n, 0, c], sums[1, n, 0, c]


@part
def _combine_rows(grad: Array, weight: Array, x: Array, mean: Array, scale: Array, offset: Array, y: Array) -> None:
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            y[r, c] = grad[r, c] * weight[c] + ((x[r, c] - mean[c]) * scale[c] + offset[c])


@shared
def row_combine(
    grad: Array, weight: Array, x: Array, threads: int, mean: Array, scale: Array, offset: Array, y: Array
) -> None:
    """Compute ``y = grad * weight + (x - mean) * scale + offset`` for rows."""
    wide, upstream, result = _folded(x), _folded(grad), _folded(y)
    samples, rows, width = wide.shape
    of_grad, of_mean, of_x, of_one = (
        _tiled(weight, width),
        _tiled(mean, width),
        _tiled(scale, width),
        _tiled(offset, width),
    )
    height = _height(width)
    tasks = (rows + height - 1) // height
    count = samples * tasks
    for thread in prange(threads):
        for task in _from_end(thread, threads, count):
            n, start, stop = task // tasks, task % tasks * height, (task % tasks + 1) * height
            _combine_rows(
                upstream[n, start:stop],
                of_grad[n],
                wide[n, start:stop],
                of_mean[n],
                of_x[n],
                of_one[n],
                result[n, start:stop],
            )


@part
def _pool(mean: Array, power: Array, batch_mean: Array, batch_power: Array) -> None:
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


@compiled
def track(count: Array, running: Any, new: Any, momentum: float) -> None:
    """Count a batch, and move running statistics towards those of it."""
    count[0] += 1
    for i in range(len(running)):
        old, seen = running[i], new[i]
        share, rest = old.dtype.type(momentum), old.dtype.type(1 - momentum)
        for c in range(old.size):
            step = seen[c] - old[c]
            # Exact at both ends.
            old[c] = old[c] + share * step if momentum < 0.5 else seen[c] - step * rest


@part
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


@part
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
    batch_rstd, part_of = one / np.sqrt(batch_power), rho.dtype.type(1 / size)
    batch_scale, instance_share = rho * batch_rstd, one - rho
    by_batch, by_instance, of_rho = np.empty_like(rho), np.empty_like(rho), np.zeros(channels)
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
            of_rho[c] += (by_batch[c] - by_instance[c]) * gamma[c]
        for c in range(channels):
            of_batch[0, c] += plain[n, c] * batch_scale[c] * gamma[c]
        for c in range(channels):
            of_batch[1, c] += by_batch[c] * rho[c] / batch_power[c] * gamma[c]
        for c in range(channels):
            of_x[n, c] = -by_instance[c] * instance_share[c] * gamma[c] * part_of / power[n, c]
        for c in range(channels):
            of_one[n, c] = -plain[n, c] * instance_share[c] * rstd[c] * gamma[c] * part_of
        for c in range(channels):
            of_grad[n, c] = (batch_scale[c] + instance_share[c] * rstd[c]) * gamma[c]
    grad_rho[:] = of_rho


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


@part
def switchable_coefficients(
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: Pair,
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


@part
def switchable_gradients(
    products: Array,
    plain: Array,
    size: int,
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: Pair,
    constants: tuple[int, int, int, int],
    weight: Array,
    bias: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_mixing: Pair,
    of_grad: Array,
    of_x: Array,
    of_one: Array,
    of_batch: Array,
) -> None:
    """Gradients of :class:`norms.switchable.SwitchableFormula`."""
    samples, channels = mean.shape
    of_mean, of_power = _slots(mixing[0], constants), _slots(mixing[1], constants)
    one = mean.dtype.type(1)
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
        distances, powers, layer_pull, batch_pull, instance_pull, batch_push = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
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
    part_of = mean.dtype.type(1 / size)
    own = of_mean[1] + of_mean[2] - one
    for n in range(samples):
        for c in range(channels):
            level = own * of_one[n, c] - layer_of_mean[n] - (mean[n, c] - layer_means[n]) * layer_of_power[n]
            of_one[n, c] = level * part_of
        for c in range(channels):
            of_x[n, c] = -(of_x[n, c] * of_power[0] + layer_of_power[n]) * part_of


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


@part
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


@part
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
    batch_mean: Array, batch_power: Array, mixing: Pair, constants: tuple[float, float]
) -> tuple[Array, Array]:
    running_mean, running_std = mixing
    dtype = batch_mean.dtype
    r_min, r_max, d_max = dtype.type(1 / constants[0]), dtype.type(constants[0]), dtype.type(constants[1])
    r, d = np.empty_like(batch_mean), np.empty_like(batch_mean)
    for c in range(r.size):
        r[c] = min(max(np.sqrt(batch_power[c]) / running_std[c], r_min), r_max)
        d[c] = min(max((batch_mean[c] - running_mean[c]) / running_std[c], -d_max), d_max)
    return r, d


@part
def batch_renorm_coefficients(
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: Pair,
    constants: tuple[float, float],
    weight: Array,
    bias: Array,
    scale: Array,
    offset: Array,
) -> None:
    """Coefficients of :class:`norms.batch_renorm.BatchRenormFormula`."""
    r, d = _correction(batch_mean, batch_power, mixing, constants)
    _standard_coefficients(mean, batch_mean, batch_power, r, d, weight, bias, scale, offset)


@part
def batch_renorm_gradients(
    products: Array,
    plain: Array,
    size: int,
    mean: Array,
    power: Array,
    batch_mean: Array,
    batch_power: Array,
    mixing: Pair,
    constants: tuple[float, float],
    weight: Array,
    bias: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_mixing: Pair,
    of_grad: Array,
    of_x: Array,
    of_one: Array,
    of_batch: Array,
) -> None:
    """Gradients of :class:`norms.batch_renorm.BatchRenormFormula`."""
    r, d = _correction(batch_mean, batch_power, mixing, constants)
    _standard_gradients(
        products, plain, mean, batch_mean, batch_power, r, d, weight, grad_weight, grad_bias, of_grad, of_batch
    )
    of_x[:], of_one[:] = 0, 0


@part
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


@part
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


@part
def batch_instance_mixing(mixing: tuple[Array], start: int, stop: int) -> tuple[Array]:
    """Each channel has a gate of its own."""
    return (mixing[0][start:stop],)


@part
def switchable_mixing(mixing: Pair, start: int, stop: int) -> Pair:
    """All channels share the weights."""
    return mixing


pass_moments, pass_affine, pass_sums, pass_combine = plane_moments, plane_affine, plane_sums, plane_combine
"""What the functions below call by these names; :func:`_bind` puts the passes over a layout in their place."""

coefficients, gradients, mixing_of = batch_instance_coefficients, batch_instance_gradients, batch_instance_mixing
"""Likewise, for the functions of a formula."""


def _measure(x: Array, eps: float, pools: bool, moments: Pair, batch: Pair, var: Array) -> None:
    """Compute the moments of planes and those of the batch, also its biased variance; without ``pools`` 0 and 1."""
    pass_moments(x, eps, moments[0], moments[1])
    if pools:
        _pool(moments[0], moments[1], batch[0], batch[1])
        for c in range(var.size):
            var[c] = max(batch[1][c] - eps, 0.0)
    else:
        batch[0][:], batch[1][:] = 0, 1


def _share(
    grad: Array,
    x: Array,
    threads: int,
    mean: Array,
    batch_mean: Array,
    of_batch: Array,
    total: int,
    found: Array,
    y: Array,
) -> None:
    """Compute the gradient for x from what ``gradients`` found, given the number of values of the batch, or 0."""
    of_grad, of_x, of_one = found[0], found[1], found[2]
    if total:
        part_of = x.dtype.type(1 / total)
        for n in range(mean.shape[0]):
            for c in range(mean.shape[1]):
                by_power = of_batch[1, c] * part_of
                of_x[n, c] -= by_power
                of_one[n, c] -= of_batch[0, c] * part_of + (mean[n, c] - batch_mean[c]) * by_power
    pass_combine(grad, of_grad, x, threads, mean, of_x, of_one, y)


def _apply(
    x: Array,
    threads: int,
    moments: Pair,
    batch: Pair,
    mixing: Any,
    constants: Any,
    weight: Array,
    bias: Array,
    y: Array,
) -> None:
    """Map activations, given the moments."""
    found = np.empty((2, *moments[0].shape), x.dtype)
    coefficients(moments[0], moments[1], batch[0], batch[1], mixing, constants, weight, bias, found[0], found[1])
    pass_affine(x, threads, moments[0], found[0], found[1], y)


def _differentiate(
    grad: Array,
    x: Array,
    moments: Pair,
    batch: Pair,
    mixing: Any,
    constants: Any,
    weight: Array,
    bias: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_mixing: Any,
    of_batch: Array,
    found: Array,
) -> None:
    """Compute all gradients but that for x, and what that is computed from, ``found`` (3, N, C)."""
    mean, power = moments
    sums = np.empty((2, *mean.shape), x.dtype)
    pass_sums(grad, x, mean, sums[0], sums[1])
    of_weight, of_bias, pooled = np.zeros(grad_weight.shape), np.zeros(grad_bias.shape), np.zeros(of_batch.shape)
    gradients(
        sums[0],
        sums[1],
        x.size // mean.size,
        mean,
        power,
        batch[0],
        batch[1],
        mixing,
        constants,
        weight,
        bias,
        of_weight,
        of_bias,
        grad_mixing,
        found[0],
        found[1],
        found[2],
        pooled,
    )
    grad_weight[:], grad_bias[:], of_batch[:] = of_weight, of_bias, pooled


def _evaluate_planes(
    x: Array, eps: float, batch: Pair, mixing: Any, constants: Any, weight: Array, bias: Array, y: Array, count: int
) -> None:
    """Do all in one go, for ``count`` channels of a sample at a time, given the batch's moments."""
    samples, channels, size = x.shape
    values, result = x.reshape(-1), y.reshape(-1)
    groups = (channels + count - 1) // count
    for task in prange(samples * groups):
        n, start = task // groups, task % groups * count
        stop = min(start + count, channels)
        found = np.empty((4, 1, stop - start), x.dtype)
        mean, power, scale, offset = found[0], found[1], found[2], found[3]
        for c in range(stop - start):
            mean[0, c], variance = _plane_moments(values, (n * channels + start + c) * size, size)
            power[0, c] = variance + eps
        gamma, beta = of(weight, n)[start:stop].reshape(1, -1), of(bias, n)[start:stop].reshape(1, -1)
        own, pooled = mixing_of(mixing, start, stop), (batch[0][start:stop], batch[1][start:stop])
        coefficients(mean, power, pooled[0], pooled[1], own, constants, gamma, beta, scale, offset)
        for c in range(stop - start):
            begin = (n * channels + start + c) * size
            end = begin + size
            _affine(values[begin:end], mean[0, c], scale[0, c], offset[0, c], result[begin:end])


def _evaluate_rows(
    x: Array, eps: float, batch: Pair, mixing: Any, constants: Any, weight: Array, bias: Array, y: Array, _: int
) -> None:
    """Do all in one go, for all channels of a sample at a time, given the batch's moments."""
    wide, result = _folded(x), _folded(y)
    samples, rows, width = wide.shape
    height = _height(width)
    tasks = (rows + height - 1) // height
    for n in prange(samples):
        means, squares = np.empty((tasks, width)), np.empty((tasks, width))
        for t in range(tasks):
            _centered_squares(wide[n, t * height : (t + 1) * height], means[t], squares[t])
        found = np.empty((4, 1, x.shape[2]), x.dtype)
        mean, power, scale, offset = found[0], found[1], found[2], found[3]
        _merge_rows(means, squares, rows, eps, mean[0], power[0])
        gamma, beta = of(weight, n).reshape(1, -1), of(bias, n).reshape(1, -1)
        coefficients(mean, power, batch[0], batch[1], mixing, constants, gamma, beta, scale, offset)
        of_mean, of_scale, of_offset = _tiled(mean, width), _tiled(scale, width), _tiled(offset, width)
        _affine_rows(wide[n], of_mean[0], of_scale[0], of_offset[0], result[n])


def _bind(template: Callable[..., None], prefix: str, **names: Any) -> Any:
    """A function of its own, in which names stand for something else."""
    # A closure would do the same, but what is kept of that on disk is never found again.
    function = FunctionType(template.__code__, {**globals(), **names}, f"{prefix}{template.__name__}")
    function.__qualname__ = function.__name__
    return function


def _names(by_rows: bool) -> dict[str, Any]:
    layout = "row" if by_rows else "plane"
    return {f"pass_{name}": globals()[f"{layout}_{name}"] for name in ("moments", "affine", "sums", "combine")}


class LayoutPasses(NamedTuple):
    """What all formulas share for a layout: functions by the names of those above."""

    measure: Callable[..., None]
    combine: Callable[..., None]


class FormulaPasses(NamedTuple):
    """Those that a formula has for a layout."""

    apply: Callable[..., None]
    differentiate: Callable[..., None]
    evaluate: Callable[..., None] | None


@cache
def of_layout(by_rows: bool) -> LayoutPasses:
    """The passes over planes or rows."""
    templates, prefix = (_measure, _share), "row" if by_rows else "plane"
    return LayoutPasses(*(compiled(_bind(each, prefix, **_names(by_rows))) for each in templates))


@cache
def of_formula(name: str, by_rows: bool) -> FormulaPasses:
    """The passes over planes or rows of the formula whose functions have names that begin so."""
    functions = {each: globals()[f"{name}_{each}"] for each in ("coefficients", "gradients")}
    prefix = f"{name}_{'row' if by_rows else 'plane'}"
    bound = {**_names(by_rows), **functions}
    evaluate = None
    if mixing_of := globals().get(f"{name}_mixing"):
        template = _evaluate_rows if by_rows else _evaluate_planes
        evaluate = shared(_bind(template, name, mixing_of=mixing_of, **functions))
    apply, differentiate = (compiled(_bind(template, prefix, **bound)) for template in (_apply, _differentiate))
    return FormulaPasses(apply, differentiate, evaluate)
