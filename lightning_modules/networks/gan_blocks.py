"""The blocks that generators and discriminators of GANs are made of.

Where two operations commute, the cheaper order is computed: a 1x1 convolution of a nearest-neighbor upsampled map is
the upsampled convolution, and average pooling commutes with a 1x1 convolution.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.conditioning import NormFactory, normalized


class NamedSequential(nn.Sequential):
    """Apply named modules one after the other.

    States of before they had names, whose keys count the modules, are taken too.

    Args:
        modules: From names to modules, in order.
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__(OrderedDict(modules))
        self.register_load_state_dict_pre_hook(_name_numbered)  # type: ignore[no-untyped-call]


def _name_numbered(sequence: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for number, name in enumerate(dict(sequence.named_children())):
        numbered = f"{prefix}{number}."
        for key in [key for key in state if key.startswith(numbered)]:
            state[f"{prefix}{name}.{key.removeprefix(numbered)}"] = state.pop(key)


class Seed(nn.Linear):
    """Map latent vectors to a generator's first feature map.

    Shape:
        (N, latent_dim) -> (N, channels, side, side).
    """

    def __init__(self, latent_dim: int, channels: int, side: int) -> None:
        self.shape = (channels, side, side)
        super().__init__(latent_dim, math.prod(self.shape))

    def forward(self, latents: Tensor) -> Tensor:
        """Apply the layer."""
        return super().forward(latents).unflatten(1, self.shape)


class UpBlock(nn.Module):
    """Double the resolution: norm, ReLU, 2x nearest upsampling, conv, norm, ReLU, conv, beside a shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, 2 H, 2 W). The condition is what the norms take, None if they take
        none.
    """

    def __init__(self, in_channels: int, out_channels: int, make_norm: NormFactory) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = make_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Apply the block."""
        residual = F.relu(normalized(self.norm1, x, condition))
        residual = self.conv1(F.interpolate(residual, scale_factor=2.0))
        residual = self.conv2(F.relu(normalized(self.norm2, residual, condition)))
        return residual + F.interpolate(self.shortcut(x), scale_factor=2.0)


class DownBlock(nn.Module):
    """Halve the resolution: ReLU, conv, ReLU, conv, 2x average pooling, beside a shortcut.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        halves: Whether the block pools.
        first: The block reads images: no ReLU before the first convolution, which widens already.
        wide: Whether the first convolution widens in any block, not the second.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / 2, W / 2), or (N, out_channels, H, W) without pooling.
    """

    def __init__(
        self, in_channels: int, out_channels: int, halves: bool, first: bool = False, wide: bool = False
    ) -> None:
        super().__init__()
        hidden = out_channels if first or wide else in_channels
        self.first = first
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if halves or in_channels != out_channels else None
        self.pool = nn.AvgPool2d(2) if halves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        # Out of place: an in-place ReLU would hand relu(x) instead of x to the shortcut.
        residual = self.conv1(x if self.first else F.relu(x))
        residual = self.pool(self.conv2(F.relu(residual)))
        shortcut = self.pool(x)
        return residual + (shortcut if self.shortcut is None else self.shortcut(shortcut))


class UpConvolution(NamedSequential):
    """Double the resolution: transposed convolution, norm, ReLU.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, 2 H, 2 W). The condition is as that of :class:`UpBlock`.
    """

    def __init__(self, in_channels: int, out_channels: int, make_norm: NormFactory) -> None:
        convolution = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        super().__init__([("convolution", convolution), ("norm", make_norm(out_channels)), ("relu", nn.ReLU())])

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Apply the block."""
        convolution, norm, relu = self
        return relu(normalized(norm, convolution(x), condition))
