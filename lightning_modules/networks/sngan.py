"""The networks of SNGAN, and with attention, skip latents and class embeddings those of SAGAN and BigGAN."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.attention import SelfAttention
from lightning_modules.networks.conditioning import NormFactory
from lightning_modules.networks.gan_blocks import DownBlock, NamedSequential, UpBlock, UpConvolution
from lightning_modules.networks.gan_networks import Architecture, check_choice
from norms.errors import SettingError

Initialization = Literal["glorot", "normal", "orthogonal"]


@dataclass(frozen=True)
class ResNet(Architecture):
    """Build networks of residual blocks.

    Attributes:
        attention: Side of the feature map behind which both networks have self-attention; None for no attention.
        wide_discriminator: Whether the discriminator's blocks widen in their first convolution, not in their second.
        initialization: ``glorot`` is uniform, with gain sqrt(2) for the 3x3 convolutions of the residual branches, as
            in the code of SNGAN; ``orthogonal`` is BigGAN's; ``normal`` is N(0, 0.02^2).

    Source:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018, arXiv 1802.05957, tables 4
        and 5. Attention: Zhang et al., Self-Attention Generative Adversarial Networks, ICML 2019, arXiv 1805.08318.
        Skip latents, embedding and wide blocks: Brock, Donahue & Simonyan, Large Scale GAN Training for High Fidelity
        Natural Image Synthesis, ICLR 2019, arXiv 1809.11096, appendix B.
    """

    attention: int | None = None
    wide_discriminator: bool = False
    initialization: Initialization = "glorot"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("initialization", self.initialization, get_args(Initialization))
        sizes = [self.image_size // 2**k for k in range(1, self.halvings + 1)]
        sizes = [size for size in sizes if size > self.base]
        if self.attention is not None and self.attention not in sizes:
            known = " or ".join(map(str, sizes)) or "null"
            raise SettingError(f"attention must be {known}, a size that both networks have, got {self.attention}")

    def generator_blocks(self, make_norm: NormFactory, last_norm: NormFactory) -> Iterator[tuple[str, nn.Module]]:
        """Build one :class:`UpBlock` per doubling, then norm and ReLU.

        The last norm is the same for all classes, as in the authors' code.
        """
        size = self.base
        for number, (wide, narrow) in enumerate(pairwise(self.generator), 1):
            yield f"block{number}", UpBlock(wide, narrow, make_norm)
            size *= 2
            if size == self.attention:
                yield "attention", SelfAttention(narrow)
        yield "output", NamedSequential([("norm", last_norm(self.generator[-1])), ("relu", nn.ReLU())])

    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build one :class:`DownBlock` per feature map."""
        size = self.image_size
        for depth, (source, width, halves) in enumerate(self.discriminator_steps(channels)):
            yield DownBlock(source, width, halves, first=depth == 0, wide=self.wide_discriminator)
            size //= 2 if halves else 1
            if halves and size == self.attention:
                yield SelfAttention(width)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the sum over all positions, after a ReLU."""
        return F.relu(x).sum((2, 3))

    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw by the rule that ``initialization`` names."""
        residual = name.endswith(("conv1", "conv2"))
        _initialize(self.initialization, weight, gain=math.sqrt(2) if residual else 1.0)


@dataclass(frozen=True)
class CNN(Architecture):
    """Build the standard convolutional networks of SNGAN.

    Attributes:
        initialization: As that of :class:`ResNet`; the paper names none, and DCGAN takes ``normal``.

    Source:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018, arXiv 1802.05957, table 3.
    """

    initialization: Initialization = "normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("initialization", self.initialization, get_args(Initialization))

    @property
    def num_features(self) -> int:
        """Return the number of values of the discriminator's last feature map."""
        return self.discriminator[-1] * (self.image_size // 2**self.halvings) ** 2

    def generator_blocks(self, make_norm: NormFactory, last_norm: NormFactory) -> Iterator[tuple[str, nn.Module]]:
        """Build transposed convolution, norm and ReLU per doubling."""
        for number, (wide, narrow) in enumerate(pairwise(self.generator), 1):
            yield f"block{number}", UpConvolution(wide, narrow, make_norm)

    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build a 3x3 convolution per feature map and, where it is halved, a 4x4 one of stride 2."""
        for source, width, halves in self.discriminator_steps(channels):
            yield from (nn.Conv2d(source, width, 3, padding=1), nn.LeakyReLU(0.1))
            if halves:
                yield from (nn.Conv2d(width, width, 4, stride=2, padding=1), nn.LeakyReLU(0.1))

    def pooled(self, x: Tensor) -> Tensor:
        """Return the whole map."""
        return x.flatten(1)

    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw by the rule that ``initialization`` names."""
        _initialize(self.initialization, weight)


def _initialize(rule: Initialization, weight: Tensor, gain: float = 1.0) -> None:
    if rule == "glorot":
        nn.init.xavier_uniform_(weight, gain=gain)
    elif rule == "normal":
        nn.init.normal_(weight, std=0.02)
    else:
        nn.init.orthogonal_(weight)
