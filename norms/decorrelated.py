"""Decorrelated batch normalization (Huang et al., 2018) by Newton's iteration (Huang et al., 2019)."""

from typing import Any, Unpack

import torch
from torch import Tensor

from .base import MomentNorm, NormOptions
from .errors import SettingError, check_range
from .pooling import is_distributed, pool_processes
from .precision import wide_dtype, without_autocast


def whitening_matrix(covariance: Tensor, iterations: int, eps: float) -> Tensor:
    r"""Approximate :math:`(\Sigma + \epsilon I)^{-1/2}` of covariances, shape (groups, g, g), by Newton's iteration.

    Source:
        Huang et al. 2019, algorithm 1. With P it carries :math:`\Sigma_N P`, which the algorithm computes anew from the
        third power of P: the same numbers of products and, but for rounding, the same result. Rounding errors fade
        instead of growing where a covariance is ill-conditioned (Higham, Newton's Method for the Matrix Square Root,
        1986, section 3).
    """
    identity = torch.eye(covariance.shape[-1], device=covariance.device, dtype=covariance.dtype)
    regular = covariance + eps * identity
    trace = regular.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    product, root = regular / trace, identity.expand_as(regular)
    for _ in range(iterations):
        step = 1.5 * identity - 0.5 * (root @ product)
        product, root = product @ step, step @ root
    return root * torch.rsqrt(trace)


class _Gram(torch.autograd.Function):
    """Compute ``x @ x.mT``, whose gradient by automatic differentiation would take two products instead of one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x @ x.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        half = ctx.saved_tensors[0] @ tangents[0].mT
        return half + half.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (grads[0] + grads[0].mT) @ x


class DecorrelatedBatchNorm(MomentNorm):
    r"""Whiten groups of channels by the covariance of the batch.

    Where batch normalization standardizes single channels, it whitens groups of g channels: it removes their
    correlations too, in the way that changes the activations least (ZCA):

    .. math::
        y = \gamma \, \Sigma^{-1/2} (x - \mu) + \beta, \qquad
        \Sigma = \frac{1}{M} \sum (x - \mu)(x - \mu)^\top + \epsilon I

    where mean and covariance are taken over N and positions, M positions. Newton's iteration approximates the matrix by
    products alone:

    .. math::
        \Sigma^{-1/2} \approx \frac{P_T}{\sqrt{\mathrm{tr}\,\Sigma}}, \qquad
        P_{k+1} = \tfrac{1}{2} \left(3 P_k - P_k^3 \, \frac{\Sigma}{\mathrm{tr}\,\Sigma}\right), \quad P_0 = I

    After 5 iterations a direction with 4 % of the variance of its group leaves with variance 0.9, one with 1.2 % with
    0.5. Weaker ones, most of them noise, are amplified by at most :math:`1.5^T / \sqrt{\mathrm{tr}\,\Sigma}`, so that
    ``eps`` matters only to groups without any variance. It has to stand against more than 15 iterations: in float32
    they need it above :math:`10^{-6} \, \mathrm{tr}\,\Sigma` where a group is degenerate, for its channels depend on
    each other or M is below g. The iterations do no harm otherwise, and with groups of one channel it is batch
    normalization.

    In evaluation mean and covariance are the running ones, not the authors' averages of matrices.

    Args:
        num_features: Number of channels C.
        group_size: Number of channels g that are whitened together, a divisor of C. More decorrelate more, but a
            covariance has to be estimated from far more than g positions.
        iterations: Number T of iterations, at least 1.
        options: Those of :class:`norms.MomentNorm`, which also says what the layer keeps, takes and raises.

    Attributes:
        running_covariance (Tensor): In place of ``running_var`` an unbiased estimate, shape (C/g, g, g), starts at the
            identity.

    Source:
        Huang et al., Decorrelated Batch Normalization, CVPR 2018, section 3, for ZCA and groups; Huang et al.,
        Iterative Normalization: Beyond Standardization towards Efficient Whitening, CVPR 2019, algorithm 1.
    """

    spread = "running_covariance"

    def __init__(
        self,
        num_features: int,
        group_size: int = 16,
        iterations: int = 5,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        **options: Unpack[NormOptions],
    ) -> None:
        divisors = [size for size in range(1, num_features + 1) if num_features % size == 0]
        if divisors and group_size not in divisors:
            raise SettingError(
                f"group_size must divide num_features = {num_features}, got {group_size}: "
                f"possible are {', '.join(map(str, divisors))}"
            )
        check_range("iterations", iterations, at_least=1)
        self.group_size = group_size
        self.iterations = iterations
        super().__init__(num_features, eps, momentum, **options)

    def _initial_spread(self, mean: Tensor) -> Tensor:
        identity = torch.eye(self.group_size, device=mean.device, dtype=mean.dtype)
        return identity.repeat(self.num_features // self.group_size, 1, 1)

    def second_moment(self, centered: Tensor) -> Tensor:
        """Average the outer products within groups of centered values of shape (C, M) over M, shape (C/g, g, g)."""
        groups = self._groups(centered)
        # Compilers take no function with a rule for forward mode.
        gram = groups @ groups.mT if torch.compiler.is_compiling() else _Gram.apply(groups)
        return gram / max(centered.shape[1], 1)

    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        shape = (self.num_features, x.shape[0], *x.shape[2:])
        with without_autocast(x.device):
            values = x.movedim(1, 0).flatten(1).to(wide_dtype(x))
            centered, covariance = self._center(values)
            matrix = whitening_matrix(covariance, self.iterations, self.eps)
            weight = values.new_ones(self.num_features) if weight is None else weight.to(values.dtype)
            bias = values.new_zeros(self.num_features) if bias is None else bias.to(values.dtype)
            if weight.ndim == bias.ndim == 1:
                # In the matrix, gamma costs no pass over the values, and its gradient saves none of them.
                matrix = matrix * self._groups(weight[:, None])
                y = torch.baddbmm(self._groups(bias[:, None]), matrix, centered).view(shape)
            else:
                y = torch.addcmul(_as(shape, bias), (matrix @ centered).view(shape), _as(shape, weight))
        return torch.empty_like(x).copy_(y.movedim(0, 1))

    def _center(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Center values (C, M) on the mean of batch or population; return groups (C/g, g, M) and their covariances.

        A copy, not an offset after multiplication: offsets would cost the precision that centering is to save. The copy
        is what the gradient needs, the input is not.
        """
        if not self.training and self.running_mean is not None:
            covariance = self.get_buffer("running_covariance").to(values.dtype)
            return self._groups(values - self.running_mean.to(values.dtype)[:, None]), covariance
        total: int | Tensor = values.shape[1]
        mean = values.sum(1) / max(values.shape[1], 1)
        centered = values - mean[:, None]
        covariance = self.second_moment(centered)
        if is_distributed(self._sync):
            mean, covariance, total = pool_processes(mean, covariance, values.shape[1], self._sync)
            centered = values - mean[:, None]
        if self.training:
            self._update_running_stats(mean.detach(), covariance.detach(), total)
        return self._groups(centered), covariance

    def _groups(self, values: Tensor) -> Tensor:
        return values.unflatten(0, (-1, self.group_size))


def _as(shape: tuple[int, ...], affine: Tensor) -> Tensor:
    """Make gamma or beta, of shape (C,) or (N, C), broadcast to a shape (C, N, *)."""
    return affine.movedim(-1, 0)[(..., *(None,) * (len(shape) - affine.ndim))]


class DecorrelatedBatchNorm1d(DecorrelatedBatchNorm, dims=1):
    """Normalize activations of shape (N, C) or (N, C, L)."""


class DecorrelatedBatchNorm2d(DecorrelatedBatchNorm, dims=2):
    """Normalize activations of shape (N, C, H, W)."""


class DecorrelatedBatchNorm3d(DecorrelatedBatchNorm, dims=3):
    """Normalize activations of shape (N, C, D, H, W)."""
