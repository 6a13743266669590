"""Generators and discriminators of SNGAN (Miyato et al. 2018, arXiv 1802.05957, appendix B.4, tables 3 to 5).

Every published network is one row of ``ARCHITECTURES``; the layers are written once. Where two operations commute, the
cheaper order is computed: a 1x1 convolution of a nearest-neighbor upsampled map is the upsampled convolution, and
average pooling commutes with a 1x1 convolution.
"""

import difflib
import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import norms
from norms.errors import SettingError


@dataclass(frozen=True)
class Architecture:
    """A generator and its discriminator, as data.

    Attributes:
        family: ``resnet`` (residual blocks) or ``cnn`` (the paper's standard CNN).
        base: Side of the generator's first feature map.
        generator: Channels of the generator's feature maps; each one after the first is twice as wide and high.
        discriminator: Channels of the discriminator's feature maps.
        halvings: How many times the discriminator halves its feature map.
    """

    family: Literal["resnet", "cnn"]
    base: int
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    halvings: int

    @property
    def image_size(self) -> int:
        """Side of the square images."""
        return self.base * 2 ** (len(self.generator) - 1)


ARCHITECTURES = {
    "resnet16": Architecture("resnet", 4, (32, 32, 32), (32, 32, 32), 2),
    "resnet32": Architecture("resnet", 4, (256, 256, 256, 256), (128, 128, 128, 128), 2),
    "resnet48": Architecture("resnet", 6, (512, 256, 128, 64), (64, 128, 256, 512, 1024), 4),
    "cnn32": Architecture("cnn", 4, (512, 256, 128, 64), (64, 128, 256, 512), 3),
    "cnn48": Architecture("cnn", 6, (512, 256, 128, 64), (64, 128, 256, 512), 3),
}
"""``resnet32`` and ``cnn32`` are the paper's networks for CIFAR-10, ``resnet48`` and ``cnn48`` those for STL-10.
``resnet16`` is this project's own, small enough for two CPU cores."""


def find_architecture(name: str) -> Architecture:
    """Look up a row of ``ARCHITECTURES``.

    Raises:
        SettingError: If none has this name.
    """
    if name not in ARCHITECTURES:
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        guess = f", did you mean '{close[0]}'?" if close else ""
        raise SettingError(f"unknown architecture '{name}'{guess} (known: {', '.join(ARCHITECTURES)})")
    return ARCHITECTURES[name]


class Generator(nn.Module):
    """Maps latent vectors to images in [-1, 1].

    Args:
        architecture: A row of ``ARCHITECTURES``.
        channels: Channels of the images.
        latent_dim: Length of a latent vector, drawn from a standard normal distribution.
        norm: Any name of ``norms.build``.
        norm_options: Further arguments of that layer.

    Shape:
        (N, latent_dim) -> (N, channels, image_size, image_size), float32 whatever autocast does.
    """

    def __init__(
        self,
        architecture: Architecture,
        channels: int = 3,
        latent_dim: int = 128,
        norm: str = "batch",
        norm_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = norm_options or {}
        widths = architecture.generator
        self.seed_shape = (widths[0], architecture.base, architecture.base)
        self.linear = nn.Linear(latent_dim, math.prod(self.seed_shape))
        self.blocks = nn.Sequential()
        for wide, narrow in itertools.pairwise(widths):
            if architecture.family == "resnet":
                self.blocks.append(UpBlock(wide, narrow, norm, options))
            else:
                deconvolution = nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)
                self.blocks.append(nn.Sequential(deconvolution, norms.build(norm, narrow, **options), nn.ReLU()))
        if architecture.family == "resnet":
            self.blocks.append(nn.Sequential(norms.build(norm, widths[-1], **options), nn.ReLU()))
        self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)
        initialize(self, architecture.family)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw one image per latent vector."""
        features = self.blocks(self.linear(latents).unflatten(1, self.seed_shape))
        return torch.tanh(self.to_image(features).float())


class Discriminator(nn.Module):
    """Scores images: the higher, the more real. Every layer's weight is divided by its spectral norm.

    That is the norm of the weight as a matrix, by one power iteration per forward pass in training mode; see
    :func:`norms.spectral_norm`, and :func:`norms.sigmas` for reading it.

    Args:
        architecture: A row of ``ARCHITECTURES``.
        channels: Channels of the images.

    Shape:
        (N, channels, image_size, image_size) -> (N,), float32 whatever autocast does.
    """

    def __init__(self, architecture: Architecture, channels: int = 3) -> None:
        super().__init__()
        widths = architecture.discriminator
        sources = (channels, *widths[:-1])
        self.pools = architecture.family == "resnet"
        self.blocks = nn.Sequential()
        for depth, (source, width) in enumerate(zip(sources, widths, strict=True)):
            halves = depth < architecture.halvings
            if self.pools:
                self.blocks.append(DownBlock(source, width, halves, first=depth == 0))
            else:
                self.blocks.extend((nn.Conv2d(source, width, 3, padding=1), nn.LeakyReLU(0.1)))
                if halves:
                    self.blocks.extend((nn.Conv2d(width, width, 4, stride=2, padding=1), nn.LeakyReLU(0.1)))
        side = 1 if self.pools else architecture.image_size // 2**architecture.halvings
        self.linear = nn.Linear(widths[-1] * side**2, 1)
        # Parametrizing comes last: initializing a parametrized weight afterwards has no effect.
        initialize(self, architecture.family)
        for layer in list(self.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                norms.spectral_norm(layer)

    def forward(self, images: Tensor) -> Tensor:
        """Score each image."""
        features = self.blocks(images)
        # A sum over hundreds of positions and the loss behind it need more than the 8 bits of a bfloat16 significand.
        with torch.autocast(images.device.type, enabled=False):
            features = features.float()
            features = F.relu(features).sum((2, 3)) if self.pools else features.flatten(1)
            return self.linear(features).squeeze(1)


class UpBlock(nn.Module):
    """The generator's residual block: norm, ReLU, 2x nearest upsampling, conv, norm, ReLU, conv.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, 2 H, 2 W).
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, norm_options: dict[str, Any]) -> None:
        super().__init__()
        self.norm1 = norms.build(norm, in_channels, **norm_options)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norms.build(norm, out_channels, **norm_options)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        residual = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2.0))
        residual = self.conv2(F.relu(self.norm2(residual)))
        return residual + F.interpolate(self.shortcut(x), scale_factor=2.0)


class DownBlock(nn.Module):
    """The discriminator's residual block: ReLU, conv, ReLU, conv, 2x average pooling.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        halves: Whether the block pools.
        first: The block reads images: no ReLU before the first convolution, which widens already.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / 2, W / 2), or (N, out_channels, H, W) without pooling.
    """

    def __init__(self, in_channels: int, out_channels: int, halves: bool, first: bool = False) -> None:
        super().__init__()
        hidden = out_channels if first else in_channels
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


def initialize(network: nn.Module, family: Literal["resnet", "cnn"]) -> None:
    """Initialize weights as published, biases with zero.

    ``resnet``: Glorot uniform, with gain sqrt(2) for the 3x3 convolutions of the residual branches (the authors' code).
    ``cnn``: N(0, 0.02^2), as in DCGAN; the paper names none.
    """
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        if family == "cnn":
            nn.init.normal_(layer.weight, std=0.02)
        else:
            in_residual = name.endswith(("conv1", "conv2"))
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2) if in_residual else 1.0)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
