"""Batch-Instance Normalization (Nam & Kim, 2018)."""

from typing import Unpack

import torch
from torch import Tensor, nn

from .base import MixingNorm, NormOptions
from .errors import check_range
from .formula import Formula, Gradients, Moments
from .kinds import RHO


class BatchInstanceFormula(Formula):
    """Compute scale and offset with gates.

    ``scale = rho / std_batch + (1 - rho) / std_instance``, ``offset = (mean - mean_batch) * rho / std_batch``.
    The mixing tensor is the gate rho, of shape (C,).
    """

    per_sample = True

    def coefficients(self, moments: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset."""
        (rho,) = mixing
        batch_rstd = torch.rsqrt(moments.batch_power)
        return torch.lerp(torch.rsqrt(moments.power), batch_rstd, rho), moments.deviation * (rho * batch_rstd)

    def gradients(self, moments: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor) -> Gradients:
        """Differentiate scale and offset."""
        (rho,) = mixing
        batch_rstd = torch.rsqrt(moments.batch_power)
        by_rstd = grad_scale * torch.rsqrt(moments.power)
        by_batch_rstd = torch.addcmul(grad_scale, grad_offset, moments.deviation).sum(0) * batch_rstd
        by_power = by_rstd / moments.power
        return Gradients(
            deviation=grad_offset * (rho * batch_rstd),
            power=torch.addcmul(by_power, by_power, rho, value=-1),
            batch_power=by_batch_rstd / moments.batch_power * rho,
            mixing=(by_batch_rstd - by_rstd.sum(0),),
        )


class BatchInstanceNorm(MixingNorm):
    r"""Mix batch and instance normalization by a gate for each channel.

    Each channel learns by a gate rho how far to normalize with the statistics of the batch, which keeps differences of
    style between samples, or with those of the instance, which removes them:

    .. math::
        y = \left(\rho \, \hat{x}^{(B)} + (1 - \rho) \, \hat{x}^{(I)}\right) \gamma + \beta, \qquad
        \hat{x}^{(k)} = \frac{x - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}}

    where batch moments are taken over N and positions and instance moments over positions, both with the biased
    variance. At rho = 1 it is batch normalization, at rho = 0 instance normalization. In evaluation the batch moments
    are the running ones, the instance moments always the sample's own.

    rho must stay in [0, 1]: call :func:`norms.project_` after each optimizer step. The paper gives rho a 10 times
    higher learning rate and no weight decay; :func:`norms.param_groups` does so.

    Args:
        num_features: Number of channels C.
        initial_rho: Where every rho starts, in [0, 1].
        options: Those of :class:`norms.MomentNorm`, which also says what the layer keeps, takes and raises.

    Attributes:
        rho (Parameter): Gate, shape (C,), starts at ``initial_rho``; 1 is batch, 0 is instance.

    Source:
        Nam & Kim, Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks, NeurIPS 2018, section 3.
    """

    kinds = (RHO,)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        initial_rho: float = 1.0,
        **options: Unpack[NormOptions],
    ) -> None:
        super().__init__(num_features, eps, momentum, **options)
        check_range("initial_rho", initial_rho, at_least=0, at_most=1)
        self.initial_rho = initial_rho
        self.rho = nn.Parameter(torch.empty(num_features, device=options.get("device"), dtype=options.get("dtype")))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Return parameters and running statistics to their initial values."""
        super().reset_parameters()
        nn.init.constant_(self.rho, self.initial_rho)

    def _formula(self) -> Formula:
        return BatchInstanceFormula()

    def _mixing(self) -> tuple[Tensor, ...]:
        return (self.rho,)


class BatchInstanceNorm1d(BatchInstanceNorm, dims=1):
    """Normalize activations of shape (N, C, L)."""


class BatchInstanceNorm2d(BatchInstanceNorm, dims=2):
    """Normalize activations of shape (N, C, H, W)."""


class BatchInstanceNorm3d(BatchInstanceNorm, dims=3):
    """Normalize activations of shape (N, C, D, H, W)."""
