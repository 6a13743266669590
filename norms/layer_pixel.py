"""Layer normalization over the channels of each pixel."""

from torch import Tensor, nn


class LayerNormPixel(nn.LayerNorm):
    r"""Normalize over the channels at each position, for channels-first activations.

    .. math::
        y = \gamma_c \, \frac{x - \mu_{n,p}}{\sqrt{\sigma_{n,p}^2 + \epsilon}} + \beta_c

    with the biased moments over C of each sample n and position p. It is the norm of ConvNeXt, and a different one
    from layer normalization over (C, H, W), which is ``torch.nn.GroupNorm(1, C)``.

    Args:
        num_features: Number of channels C.
        eps: Added to the variance.
        affine: Whether to learn ``weight`` (starts at 1) and ``bias`` (starts at 0), each of shape (C,).

    Shape:
        Input and output: (N, C, *).

    Source:
        Liu et al., A ConvNet for the 2020s, CVPR 2022, section 2.6.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(num_features, eps=eps, elementwise_affine=affine)
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` of shape (N, C, *)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
