"""Batch normalization with noise after it, which moves the distribution of what the next layer is given."""

from typing import Unpack

import torch
from torch import Tensor

import norms
from norms.base import NormOptions
from norms.errors import check_range


class NoisyBatchNorm(norms.BatchNorm):
    r"""Normalize by batch statistics, then spoil that: multiply and shift by noise whose own distribution jumps.

    .. math::
        z = s \, y + m, \qquad m \sim U(\mu - r, \mu + r), \quad s \sim N(\sigma, r^2)

    where y is the output of :class:`norms.BatchNorm`, and m and s are drawn for each value. Their centers
    :math:`\mu \sim U(-n_\mu, n_\mu)` and :math:`\sigma \sim U(1, n_\sigma)` are drawn anew in each pass, for each
    channel, so that the moments which batch normalization has fixed jump from step to step. In evaluation noise is
    replaced by its mean, :math:`z = y (1 + n_\sigma) / 2`.

    All is drawn from torch's default generator.

    Args:
        num_features: Number of channels C.
        shift: :math:`n_\mu`, at least 0.
        scale: :math:`n_\sigma`, at least 1.
        jitter: r, at least 0.
        options: Those of :class:`norms.MomentNorm`, which also says what the layer keeps, takes and raises.

    Source:
        Santurkar et al., How Does Batch Normalization Help Optimization?, NeurIPS 2018, section 2.1.
    """

    def __init__(
        self,
        num_features: int,
        shift: float = 0.5,
        scale: float = 1.25,
        jitter: float = 0.1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        **options: Unpack[NormOptions],
    ) -> None:
        check_range("shift", shift, at_least=0)
        check_range("scale", scale, at_least=1)
        check_range("jitter", jitter, at_least=0)
        super().__init__(num_features, eps, momentum, **options)
        self.shift, self.scale, self.jitter = shift, scale, jitter

    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        y = super()._normalize(x, weight, bias)
        if not self.training:
            return y * (1 + self.scale) / 2
        channels = y.new_empty(1, y.shape[1], *(1,) * (y.ndim - 2))
        center = torch.empty_like(channels).uniform_(-self.shift, self.shift)
        spread = torch.empty_like(channels).uniform_(1, self.scale)
        shift = center + torch.empty_like(y).uniform_(-self.jitter, self.jitter)
        scale = spread + self.jitter * torch.randn_like(y)
        return y * scale + shift
