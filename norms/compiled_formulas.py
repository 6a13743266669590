"""What happens between the passes over activations, as loops that numba compiles (see :mod:`norms.compiled`).

Each formula has two loops, ``coefficients`` and ``gradients``, which do in one go what its class does in operators and
include gamma and beta. Formulas that need a sample's own moments in evaluation have loops that then do everything.

Arguments, all contiguous and of one dtype: ``mean`` and ``power`` of planes (N, C); ``batch_mean`` and ``batch_power``
(C,); ``mixing`` and ``constants`` of the formula; ``weight`` and ``bias``, (N, C) or (1, C). Coefficients are ``scale``
and ``offset`` (N, C). Gradients start from the sums ``products`` of ``grad * (x - mean)`` and ``plain`` of ``grad``
(N, C) over planes of ``size`` values. They say that, but for the batch's moments, the gradient for x is
``grad * of_grad + (x - mean) * of_x + of_one`` (N, C), add to ``grad_weight`` and ``grad_bias``, of the shapes of
weight and bias, to ``grad_mixing`` and to ``of_batch`` (2, C): by how much the mean of the batch, times -1, and its
power, times -2, change the loss.
"""

import numpy as np
from numba import prange

from norms.compiled import MAPS, SUMS, Array, affine, affine_rows, centered_squares, compiled, moments, of

_GROUP = 65536
"""Values of planes that are to stay in a core's second cache from moments to map."""


@compiled(SUMS)
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


@compiled(MAPS)
def share(mean: Array, batch_mean: Array, of_batch: Array, of_x: Array, of_one: Array) -> None:
    """Add to the gradient of x what it gets through the moments of the batch, given what that is for each value."""
    for n in range(mean.shape[0]):
        for c in range(mean.shape[1]):
            of_x[n, c] -= of_batch[1, c]
            of_one[n, c] -= of_batch[0, c] + (mean[n, c] - batch_mean[c]) * of_batch[1, c]


@compiled(SUMS)
def _moments_of_planes(x: Array, eps: float, mean: Array, power: Array) -> None:
    for c in range(x.shape[0]):
        mean[c], variance = moments(x[c])
        power[c] = variance + eps


@compiled(SUMS)
def _moments_of_rows(x: Array, eps: float, mean: Array, power: Array) -> None:
    exact, squares = np.empty(mean.size), np.empty(mean.size)
    centered_squares(x, exact, squares)
    for c in range(mean.size):
        mean[c] = exact[c]
        power[c] = squares[c] / x.shape[0] + eps


@compiled(MAPS)
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


@compiled(SUMS)
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


@compiled(SUMS, parallel=True)
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


@compiled(SUMS, parallel=True)
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


@compiled(SUMS)
def _slots(given: Array, constants: tuple[int, int, int, int]) -> Array:
    """Shares of the instance's, the layer's and the batch's moments, 0 for those that are not mixed."""
    shares = np.zeros(3, given.dtype)
    for kind in range(3):
        if constants[kind] >= 0:
            shares[kind] = given[constants[kind]]
            if constants[3]:
                shares[kind] = np.exp(shares[kind] - given.max())
    return shares / shares.sum() if constants[3] else shares


@compiled(SUMS)
def _put_gradient(grad_shares: Array, shares: Array, constants: tuple[int, int, int, int], grad_given: Array) -> None:
    """Gradient for what shares were given by, from the one for shares."""
    mean = (grad_shares * shares).sum()
    for kind in range(3):
        if constants[kind] >= 0:
            through = shares[kind] * (grad_shares[kind] - mean)
            grad_given[constants[kind]] = through if constants[3] else grad_shares[kind]


@compiled(SUMS)
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


@compiled(MAPS)
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


@compiled(SUMS)
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


@compiled(SUMS, parallel=True)
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


@compiled(SUMS, parallel=True)
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


@compiled(MAPS)
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


@compiled(SUMS)
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


@compiled(MAPS)
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


@compiled(MAPS)
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


@compiled(MAPS)
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


@compiled(MAPS)
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


@compiled(MAPS)
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


@compiled(MAPS)
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


@compiled(MAPS)
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
