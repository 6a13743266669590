"""The networks of R3GAN: residual blocks without normalization."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.conditioning import NormFactory
from lightning_modules.networks.gan_networks import Architecture, Discriminator, Generator
from norms.errors import SettingError, check_range

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Keeps the second moment across a leaky ReLU of this slope (He et al., 2015)."""


@dataclass(frozen=True)
class R3GAN(Architecture):
    r"""Build the networks of R3GAN.

    The generator scales a learned 4x4 map per channel, and doubles the resolution between its stages; the discriminator
    is its mirror image, and ends with a convolution per channel as large as its last feature map. Each stage has
    residual blocks, see :class:`ExpandingBlock`. There is no normalization: weights start from a normal distribution
    with standard deviation :math:`g / \sqrt{\text{fan-in}}`, where in the first two convolutions of a block

    .. math:: g = \sqrt{2 / (1 + 0.2^2)} \; L^{-1/4}

    with L blocks in the network, as in Fixup, and 0 in the third. A class goes into the generator as a vector beside
    the latent vector, and into the discriminator by projection.

    It differs from the authors' networks: the images go through a tanh; the resolution is doubled bilinearly and halved
    by averages of 2x2 pixels, not by the filter [1, 2, 1]; and of a conditional discriminator's score a part does not
    know the class, so that unconditional and conditional ones are built alike.

    Attributes:
        blocks: Residual blocks per stage.
        expansion: How many times wider a block is within.
        group_width: Channels per group of the 3x3 convolutions.

    Source:
        Huang, Gokaslan, Kuleshov & Tompkin, The GAN is dead; long live the GAN! A Modern GAN Baseline, NeurIPS 2024,
        arXiv 2501.05441, section 3 and appendix. The scale at the start: Zhang, Dauphin & Ma, Fixup Initialization,
        ICLR 2019, arXiv 1901.09321.
    """

    blocks: int = 2
    expansion: int = 2
    group_width: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("blocks", self.blocks, at_least=1)
        check_range("expansion", self.expansion, at_least=1)
        check_range("group_width", self.group_width, at_least=1)
        check_range("halvings", self.halvings, at_most=len(self.discriminator) - 1)
        if self.separate_norms or self.skip_latents:
            raise SettingError("separate_norms and skip_latents are about norms, of which these networks have none")
        for width in (*self.generator, *self.discriminator):
            if width * self.expansion % self.group_width:
                raise SettingError(
                    f"group_width must divide {width} * {self.expansion} channels, got {self.group_width}"
                )

    def __call__(
        self,
        channels: int,
        latent_dim: int,
        norm: str,
        norm_options: dict[str, Any] | None,
        num_classes: int = 0,
    ) -> tuple[Generator, Discriminator]:
        """Build both networks; see them for the arguments.

        Raises:
            SettingError: If another norm is asked for than the default of a :class:`GAN` or ``none``, or there are
                classes and no embedding.
        """
        if norm not in ("batch", "none") or norm_options:
            raise SettingError(f"these networks have no norms: set norm: none and norm_options: null, got {norm}")
        if num_classes and not self.embedding:
            raise SettingError("classes need a vector in networks without norms: set embedding, such as embedding: 64")
        return super().__call__(channels, latent_dim, norm, norm_options, num_classes)

    def first_layer(self, latent_dim: int) -> nn.Module:
        """Build what scales a learned map per channel."""
        return ScaledMaps(latent_dim, self.generator[0], self.base)

    def generator_blocks(self, make_norm: NormFactory, last_norm: NormFactory) -> Iterator[tuple[str, nn.Module]]:
        """Build the residual blocks of each stage, and what leads from one to the next."""
        source = self.generator[0]
        for depth, width in enumerate(self.generator):
            stage = f"stage{depth + 1}"
            if source != width:
                yield f"{stage}_width", nn.Conv2d(source, width, 1, bias=False)
            if depth:
                yield f"{stage}_upsample", nn.Upsample(scale_factor=2.0, mode="bilinear")
            yield from ((f"{stage}_block{number}", block) for number, block in enumerate(self._stage(width), 1))
            source = width

    def last_layer(self, channels: int) -> nn.Module:
        """Build a 1x1 convolution."""
        return nn.Conv2d(self.generator[-1], channels, 1, bias=False)

    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build the mirror image of the generator, and a convolution per channel over the last feature map."""
        source = self.discriminator[0]
        yield nn.Conv2d(channels, source, 1, bias=False)
        for depth, width in enumerate(self.discriminator):
            if 0 < depth <= self.halvings:
                yield nn.AvgPool2d(2)
            if source != width:
                yield nn.Conv2d(source, width, 1, bias=False)
            yield from self._stage(width)
            source = width
        yield nn.Conv2d(source, source, self.image_size // 2**self.halvings, groups=source, bias=False)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the map, which has a single position."""
        return x.flatten(1)

    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw by He's rule, scaled down in residual branches, whose last convolution starts at 0."""
        fan_in = weight[0].numel()
        if name in ("embedding", "projection"):
            # These are matrices that one-hot vectors are multiplied by; the product with the features sums over them.
            fan_in = len(weight) * (fan_in if name == "projection" else 1)
        gain = 1.0
        if name.endswith(("expand", "group")):
            depth = self.blocks * max(len(self.generator), len(self.discriminator))
            gain = GAIN * depth**-0.25
        elif name.endswith("reduce"):
            gain = 0.0
        nn.init.normal_(weight, std=gain / math.sqrt(fan_in))

    def _stage(self, width: int) -> Iterator[nn.Module]:
        hidden = width * self.expansion
        for _ in range(self.blocks):
            yield ExpandingBlock(width, hidden, hidden // self.group_width)


class ScaledMaps(nn.Module):
    """Map latent vectors to a factor for each channel of a learned map.

    Shape:
        (N, latent_dim) -> (N, channels, side, side).
    """

    def __init__(self, latent_dim: int, channels: int, side: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(channels, side, side))
        self.linear = nn.Linear(latent_dim, channels, bias=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Apply the layer."""
        return self.maps * self.linear(latents)[..., None, None]


class ExpandingBlock(nn.Module):
    """Add to a feature map: 1x1 convolution, leaky ReLU, grouped 3x3 convolution, leaky ReLU, 1x1 convolution.

    Args:
        channels: Channels of input and output.
        hidden: Channels within.
        groups: Groups of the 3x3 convolution.

    Shape:
        (N, channels, H, W) -> (N, channels, H, W).
    """

    def __init__(self, channels: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.group = nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups)
        self.reduce = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = F.leaky_relu(self.expand(x), SLOPE)
        return x + self.reduce(F.leaky_relu(self.group(y), SLOPE))
