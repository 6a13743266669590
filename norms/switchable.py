"""Switchable Normalization (Luo et al., 2019)."""

from functools import partial

import torch
from torch import Tensor, nn

from norms.base import MixingNorm
from norms.moments import modulate, pool_batch, pool_layer

STATISTICS = ("instance", "layer", "batch")
"""What the switch weights weigh, in their index order."""


def _coefficients(
    mean: Tensor,
    var: Tensor,
    mean_weight: Tensor,
    var_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    population_mean: Tensor | None,
    population_var: Tensor | None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    if population_mean is None or population_var is None:
        batch_mean, batch_var = pool_batch(mean, var)
    else:
        batch_mean, batch_var = population_mean.to(mean.dtype), population_var.to(var.dtype)
    layer_mean, layer_var = pool_layer(mean, var)
    mean_share = mean_weight.to(mean.dtype).softmax(0)
    var_share = var_weight.to(var.dtype).softmax(0)
    mixed_mean = mean_share[0] * mean + mean_share[1] * layer_mean + mean_share[2] * batch_mean
    mixed_var = var_share[0] * var + var_share[1] * layer_var + var_share[2] * batch_var
    scale = torch.rsqrt(mixed_var + eps)
    if weight is not None:
        scale = scale * weight
    offset = (mean - mixed_mean) * scale
    return scale, offset if bias is None else offset + bias


class _SwitchableNorm(MixingNorm):
    optimizer_group = "switch"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.mean_weight = nn.Parameter(torch.empty(len(STATISTICS), device=device, dtype=dtype))
        self.var_weight = nn.Parameter(torch.empty(len(STATISTICS), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.mean_weight)
        nn.init.ones_(self.var_weight)

    def _normalize(self, x: Tensor, population: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
        tensors = (self.mean_weight, self.var_weight, self.weight, self.bias, *population)
        return modulate(x, partial(_coefficients, eps=self.eps), self.eps, *tensors)

    def mixing_parameters(self) -> list[nn.Parameter]:
        return [self.mean_weight, self.var_weight]

    def mixing_values(self) -> dict[str, Tensor]:
        return {
            "mean_weight": self.mean_weight.detach().softmax(0),
            "var_weight": self.var_weight.detach().softmax(0),
        }


_DOCUMENTATION = r"""Switchable Normalization over {shape} input.

Each layer learns how to mix the means, and separately the variances, of instance, layer and batch normalization:

.. math::
    y = \gamma \, \frac{{x - \sum_k w_k \mu_k}}{{\sqrt{{\sum_k w'_k \sigma_k^2 + \epsilon}}}} + \beta, \qquad
    w = \mathrm{{softmax}}(\lambda), \quad w' = \mathrm{{softmax}}(\lambda'), \quad
    k \in \{{\mathrm{{instance}}, \mathrm{{layer}}, \mathrm{{batch}}\}}

where instance moments are taken over {instance_axes}, layer moments over {layer_axes} and batch moments over
{batch_axes}, all with the biased variance, and all channels of the layer share the weights. In evaluation the batch
moments are the running ones.

It mixes statistics, where :class:`BatchInstanceNorm2d` mixes normalized outputs. The authors' code uses the unbiased
instance variance, keeps ``running_var`` at 0 before training and reads ``momentum`` as the share of the old value;
this layer follows the paper's formula and torch's conventions instead.

Args:
    num_features: Number of channels C.
    eps: Added to the mixed variance, positive.
    momentum: Weight of the new batch in the running statistics, in [0, 1]; None averages all batches equally.
    affine: Whether to learn ``weight`` and ``bias``.
    track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's own.
    device: Where parameters and buffers live.
    dtype: Dtype of parameters and buffers.

Attributes:
    mean_weight (Parameter): Logits lambda of the means, shape (3,), order instance, layer, batch, start at 1 (equal).
    var_weight (Parameter): Logits lambda' of the variances, likewise.
    weight (Parameter): gamma, shape (C,), starts at 1.
    bias (Parameter): beta, shape (C,), starts at 0.
    running_mean (Tensor): Shape (C,), starts at 0.
    running_var (Tensor): Unbiased estimate, shape (C,), starts at 1.
    num_batches_tracked (Tensor): int64 scalar.

Raises:
    ValueError: If an argument is out of range; in the forward pass if the shape does not fit or, in training, if a
        sample has a single value per channel.

Shape:
    Input and output: {shape}. bfloat16 and float16 input is normalized in float32 and returned in its own dtype.

Source:
    Luo et al., Differentiable Learning-to-Normalize via Switchable Normalization, ICLR 2019, section 2, equation 3.
"""


class SwitchableNorm1d(_SwitchableNorm):  # noqa: D101
    __doc__ = _DOCUMENTATION.format(shape="(N, C, L)", instance_axes="(L)", layer_axes="(C, L)", batch_axes="(N, L)")
    spatial_dims = 1


class SwitchableNorm2d(_SwitchableNorm):  # noqa: D101
    __doc__ = _DOCUMENTATION.format(
        shape="(N, C, H, W)", instance_axes="(H, W)", layer_axes="(C, H, W)", batch_axes="(N, H, W)"
    )
    spatial_dims = 2


class SwitchableNorm3d(_SwitchableNorm):  # noqa: D101
    __doc__ = _DOCUMENTATION.format(
        shape="(N, C, D, H, W)", instance_axes="(D, H, W)", layer_axes="(C, D, H, W)", batch_axes="(N, D, H, W)"
    )
    spatial_dims = 3
