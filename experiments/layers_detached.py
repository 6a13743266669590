"""Batch normalization behind a bias, whose gradient can be computed as if the statistics were constants."""

from typing import Unpack

import torch
from torch import Tensor, nn

import norms
from norms.base import NormOptions


class BiasedBatchNorm(norms.BatchNorm):
    r"""Add a bias b, then normalize by batch statistics, with or without what these add to the gradient.

    .. math::
        y = \gamma \, \frac{(u + b) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta, \qquad \mu = E[u + b]

    The bias cancels: y does not depend on it, and its gradient is 0. If the gradient does not know that :math:`\mu`
    depends on b, it is :math:`\partial L / \partial b = \sum \partial L / \partial y \; \gamma / \sigma` instead. Each
    step of gradient descent then moves b, and no step changes y.

    Args:
        num_features: Number of channels C.
        differentiate: Whether the gradient flows through mean and variance.
        options: Those of :class:`norms.MomentNorm`, which also says what the layer keeps, takes and raises.

    Attributes:
        shift (Parameter): b, shape (C,), starts at 0.

    Source:
        Ioffe & Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift,
        ICML 2015, section 2.
    """

    def __init__(
        self,
        num_features: int,
        differentiate: bool = True,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        **options: Unpack[NormOptions],
    ) -> None:
        super().__init__(num_features, eps, momentum, **options)
        self.differentiate = differentiate
        self.shift = nn.Parameter(torch.zeros(num_features))

    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        shifted = x + self.shift.view(-1, *(1,) * (x.ndim - 2))
        if self.differentiate or not self.training:
            return super()._normalize(shifted, weight, bias)
        values = shifted.detach().movedim(1, 0).flatten(1)
        mean, second = values.mean(1), values.var(1, correction=0)
        self._update_running_stats(mean, second, values.shape[1])
        return norms.functional.batch_norm(shifted, weight, bias, population=(mean, second), eps=self.eps)
