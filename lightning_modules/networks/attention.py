"""Self-attention between the positions of a feature map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    r"""Add to each position what it attends to.

    .. math::
        y = x + \gamma \, W_o \, \mathrm{softmax}\left((W_q x)^\top (W_k x)\right) W_v x

    with 1x1 convolutions without bias. Queries and keys have C / 8 channels, values C / 2. Keys and values are 2x2
    max-pooled, as in the authors' code. :math:`\gamma` starts at 0, so that the layer starts as the identity.

    Args:
        channels: Channels C of the feature map.

    Shape:
        (N, C, H, W), H and W of at least 2 -> (N, C, H, W).

    Source:
        Zhang et al., Self-Attention Generative Adversarial Networks, ICML 2019, arXiv 1805.08318, section 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, max(1, channels // 8), 1, bias=False)
        self.key = nn.Conv2d(channels, max(1, channels // 8), 1, bias=False)
        self.value = nn.Conv2d(channels, max(1, channels // 2), 1, bias=False)
        self.output = nn.Conv2d(max(1, channels // 2), channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        query = self.query(x).flatten(2)
        key, value = (F.max_pool2d(layer(x), 2).flatten(2) for layer in (self.key, self.value))
        # Written out, since torch's fused attention has no second derivative.
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=2)
        attended = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.output(attended)
