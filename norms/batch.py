"""Batch normalization (Ioffe & Szegedy, 2015) and its mean-only form (Salimans & Kingma, 2016)."""

from typing import Unpack

import torch
from torch import Tensor

from .base import CommonOptions, FormulaNorm
from .formula import Formula, Gradients, Moments


class BatchFormula(Formula):
    """Compute ``scale = 1 / std_batch`` and ``offset = (mean - mean_batch) * scale``."""

    per_sample = False

    def coefficients(self, moments: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset."""
        scale = torch.rsqrt(moments.batch_power)
        return scale, moments.deviation * scale

    def gradients(self, moments: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor) -> Gradients:
        """Differentiate scale and offset."""
        scale = torch.rsqrt(moments.batch_power)
        grad = torch.addcmul(grad_scale, grad_offset, moments.deviation).sum(0)
        return Gradients(deviation=grad_offset * scale, batch_power=grad * scale / moments.batch_power)


class MeanOnlyBatchFormula(Formula):
    """Compute ``scale = 1`` and ``offset = mean - mean_batch``."""

    per_sample = False

    def coefficients(self, moments: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset."""
        return torch.ones_like(moments.batch_mean), moments.deviation

    def gradients(self, moments: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor) -> Gradients:
        """Differentiate scale and offset."""
        return Gradients(deviation=grad_offset)


class BatchNorm(FormulaNorm):
    r"""Normalize by batch statistics, which processes can share.

    .. math::
        y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    where the moments are taken over N and positions, with the biased variance; in evaluation they are the running ones.
    It is the function of ``torch.nn.BatchNorm2d``, which serves as well where ``sync`` is not needed.
    ``torch.nn.SyncBatchNorm`` runs on GPUs only and has no second derivative, which gradient penalties need; this layer
    has both.

    Args:
        num_features: Number of channels C.
        options: Those of :class:`norms.MomentNorm`, which also says what the layer keeps, takes and raises.

    Source:
        Ioffe & Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift,
        ICML 2015, algorithms 1 and 2.
    """

    def _formula(self) -> Formula:
        return BatchFormula()


class MeanOnlyBatchNorm(FormulaNorm):
    r"""Subtract the mean of the batch.

    .. math::
        y = x - \mu + \beta

    where the mean is taken over N and positions; in evaluation it is the running one. It goes with weight normalization
    (:func:`norms.weight_norm`) of the layer before it, which has the scale: the bias of that layer is of no use then.

    Args:
        num_features: Number of channels C.
        options: Those of :class:`norms.MomentNorm`, which also says what the layer keeps, takes and raises, but ``eps``
            and ``initial_gamma``: there is no ``weight`` and no ``running_var``.

    Source:
        Salimans & Kingma, Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep Neural
        Networks, NeurIPS 2016, section 4.
    """

    spread = None

    def __init__(
        self,
        num_features: int,
        momentum: float | None = 0.1,
        *,
        track_running_stats: bool = True,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(num_features, momentum=momentum, track_running_stats=track_running_stats, **options)
        self.weight = None

    def _formula(self) -> Formula:
        return MeanOnlyBatchFormula()

    def _population(self) -> tuple[Tensor, Tensor, float]:
        assert self.running_mean is not None
        return self.running_mean, torch.ones_like(self.running_mean), 0.0


class BatchNorm1d(BatchNorm, dims=1):
    """Normalize activations of shape (N, C) or (N, C, L)."""


class BatchNorm2d(BatchNorm, dims=2):
    """Normalize activations of shape (N, C, H, W)."""


class BatchNorm3d(BatchNorm, dims=3):
    """Normalize activations of shape (N, C, D, H, W)."""


class MeanOnlyBatchNorm1d(MeanOnlyBatchNorm, dims=1):
    """Normalize activations of shape (N, C) or (N, C, L)."""


class MeanOnlyBatchNorm2d(MeanOnlyBatchNorm, dims=2):
    """Normalize activations of shape (N, C, H, W)."""


class MeanOnlyBatchNorm3d(MeanOnlyBatchNorm, dims=3):
    """Normalize activations of shape (N, C, D, H, W)."""
