"""Generators and discriminators of SNGAN (Miyato et al. 2018, arXiv 1802.05957, appendix B.4, tables 3 to 5).

Every published network is one row of ``ARCHITECTURES``; the layers are written once. Where two operations commute, the
cheaper order is computed: a 1x1 convolution of a nearest-neighbor upsampled map is the upsampled convolution, and
average pooling commutes with a 1x1 convolution.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import norms
from norms.errors import SettingError
from norms.imports import resolve_callable
from norms.registry import with_options

NormFactory = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Architecture(ABC):
    """Describe a generator and its discriminator; a subclass gives the blocks that they are made of.

    Called with the settings of the images, the latent vectors and the norm, it builds the two networks, as whatever
    stands as ``architecture`` of a :class:`GAN` must.

    Attributes:
        base: Side of the generator's first feature map.
        generator: Channels of the generator's feature maps; each one after the first is twice as wide and high.
        discriminator: Channels of the discriminator's feature maps.
        halvings: How many times the discriminator halves its feature map.
        sums_positions: Whether the discriminator scores the sum of its last feature map over all positions, after a
            ReLU, or the whole map.
    """

    base: int
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    halvings: int
    sums_positions: ClassVar[bool] = False

    def __call__(
        self, channels: int, latent_dim: int, norm: str, norm_options: dict[str, Any] | None
    ) -> tuple["Generator", "Discriminator"]:
        """Build both networks; see them for the arguments."""
        return Generator(self, channels, latent_dim, norm, norm_options), Discriminator(self, channels)

    @property
    def image_size(self) -> int:
        """Return the side of the square images."""
        return self.base * 2 ** (len(self.generator) - 1)

    @abstractmethod
    def generator_blocks(self, make_norm: NormFactory) -> Iterator[nn.Module]:
        """Build what turns the generator's first feature map into its last."""

    @abstractmethod
    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build what turns an image of ``channels`` channels into the discriminator's last feature map."""

    @abstractmethod
    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw the first weight of the convolution or linear layer ``name``, in place."""

    def _discriminator_steps(self, channels: int) -> Iterator[tuple[int, int, bool]]:
        for depth, (source, width) in enumerate(pairwise((channels, *self.discriminator))):
            yield source, width, depth < self.halvings


class ResNet(Architecture):
    """Build networks of residual blocks."""

    sums_positions = True

    def generator_blocks(self, make_norm: NormFactory) -> Iterator[nn.Module]:
        """Build one :class:`UpBlock` per doubling, then norm and ReLU."""
        for wide, narrow in pairwise(self.generator):
            yield UpBlock(wide, narrow, make_norm)
        yield nn.Sequential(make_norm(self.generator[-1]), nn.ReLU())

    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build one :class:`DownBlock` per feature map."""
        for depth, (source, width, halves) in enumerate(self._discriminator_steps(channels)):
            yield DownBlock(source, width, halves, first=depth == 0)

    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw Glorot uniform, with gain sqrt(2) for the 3x3 convolutions of the residual branches (authors' code)."""
        nn.init.xavier_uniform_(weight, gain=math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1.0)


class CNN(Architecture):
    """Build the paper's standard convolutional networks."""

    def generator_blocks(self, make_norm: NormFactory) -> Iterator[nn.Module]:
        """Build transposed convolution, norm and ReLU per doubling."""
        for wide, narrow in pairwise(self.generator):
            yield nn.Sequential(nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1), make_norm(narrow), nn.ReLU())

    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build a 3x3 convolution per feature map and, where it is halved, a 4x4 one of stride 2."""
        for source, width, halves in self._discriminator_steps(channels):
            yield from (nn.Conv2d(source, width, 3, padding=1), nn.LeakyReLU(0.1))
            if halves:
                yield from (nn.Conv2d(width, width, 4, stride=2, padding=1), nn.LeakyReLU(0.1))

    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw from N(0, 0.02^2), as in DCGAN; the paper names none."""
        nn.init.normal_(weight, std=0.02)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet16": ResNet(4, (32, 32, 32), (32, 32, 32), 2),
    "resnet32": ResNet(4, (256, 256, 256, 256), (128, 128, 128, 128), 2),
    "resnet48": ResNet(6, (512, 256, 128, 64), (64, 128, 256, 512, 1024), 4),
    "cnn32": CNN(4, (512, 256, 128, 64), (64, 128, 256, 512), 3),
    "cnn48": CNN(6, (512, 256, 128, 64), (64, 128, 256, 512), 3),
}
"""``resnet32`` and ``cnn32`` are the paper's networks for CIFAR-10, ``resnet48`` and ``cnn48`` those for STL-10.
``resnet16`` is this project's own, small enough for two CPU cores."""


def find_architecture(choice: str | Callable[..., Any]) -> Callable[..., Any]:
    """Look up a row of ``ARCHITECTURES``, or import what builds a generator and a discriminator.

    Args:
        choice: Name of a row, class path or callable. What it stands for is called as an :class:`Architecture` is.

    Raises:
        SettingError: If there is no such thing, or it cannot be called.
    """
    return resolve_callable("architecture", choice, ARCHITECTURES)


def build_networks(choice: str | Callable[..., Any], **settings: Any) -> tuple[Any, Any]:
    """Build a generator and a discriminator.

    Args:
        choice: As :func:`find_architecture` takes it.
        settings: What it is called with.

    Raises:
        SettingError: If it cannot be called so, or builds something else.
    """
    build = find_architecture(choice)
    try:
        inspect.signature(build).bind(**settings)
    except TypeError as error:
        raise SettingError(f"architecture {choice!r} does not take {', '.join(settings)}: {error}") from error
    except ValueError:
        pass  # some that are written in C have no signature
    networks = build(**settings)
    if not isinstance(networks, tuple | list) or [isinstance(part, nn.Module) for part in networks] != [True, True]:
        raise SettingError(f"architecture {choice!r} must build a generator and a discriminator")
    generator, discriminator = networks
    if not isinstance(getattr(generator, "image_size", None), int):
        raise SettingError(f"architecture {choice!r} must build a generator that has an image_size")
    return generator, discriminator


class Generator(nn.Module):
    """Map latent vectors to images in [-1, 1].

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
        self.image_size = architecture.image_size
        self.seed_shape = (architecture.generator[0], architecture.base, architecture.base)
        self.linear = nn.Linear(latent_dim, math.prod(self.seed_shape))
        make_norm = with_options(norm, norm_options)
        self.blocks = nn.Sequential(*architecture.generator_blocks(make_norm))
        self.to_image = nn.Conv2d(architecture.generator[-1], channels, 3, padding=1)
        _initialize(self, architecture)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw one image per latent vector."""
        features = self.blocks(self.linear(latents).unflatten(1, self.seed_shape))
        return torch.tanh(self.to_image(features).float())


class Discriminator(nn.Module):
    """Score images: the higher, the more real. Every layer's weight is divided by its spectral norm.

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
        self.sums_positions = architecture.sums_positions
        self.blocks = nn.Sequential(*architecture.discriminator_blocks(channels))
        side = 1 if self.sums_positions else architecture.image_size // 2**architecture.halvings
        self.linear = nn.Linear(architecture.discriminator[-1] * side**2, 1)
        # Parametrizing comes last: initializing a parametrized weight afterwards has no effect.
        _initialize(self, architecture)
        for layer in list(self.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                norms.spectral_norm(layer)

    def forward(self, images: Tensor) -> Tensor:
        """Score each image."""
        features = self.blocks(images)
        # A sum over hundreds of positions and the loss behind it need more than the 8 bits of a bfloat16 significand.
        with torch.autocast(images.device.type, enabled=False):
            features = features.float()
            features = F.relu(features).sum((2, 3)) if self.sums_positions else features.flatten(1)
            return self.linear(features).squeeze(1)


class UpBlock(nn.Module):
    """Double the resolution: norm, ReLU, 2x nearest upsampling, conv, norm, ReLU, conv, beside a shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, 2 H, 2 W).
    """

    def __init__(self, in_channels: int, out_channels: int, make_norm: NormFactory) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = make_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        residual = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2.0))
        residual = self.conv2(F.relu(self.norm2(residual)))
        return residual + F.interpolate(self.shortcut(x), scale_factor=2.0)


class DownBlock(nn.Module):
    """Halve the resolution: ReLU, conv, ReLU, conv, 2x average pooling, beside a shortcut.

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


def _initialize(network: nn.Module, architecture: Architecture) -> None:
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            architecture.initialize_weight(name, layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
