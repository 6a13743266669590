"""Generators and discriminators of GANs, and what describes them.

An :class:`Architecture` is data: a row of ``gan_presets.ARCHITECTURES``. The networks are written once.

Source:
    Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018, arXiv 1802.05957, appendix
    B.4, tables 3 to 5. Classes: Miyato & Koyama, cGANs with Projection Discriminator, ICLR 2018, arXiv 1802.05637.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import norms
from lightning_modules.networks.conditioning import ClassEmbedding, NormFactory, check_labels, norm_factory
from lightning_modules.networks.gan_blocks import DownBlock, Seed, UpBlock, UpConvolution
from norms.errors import SettingError, check_range, unknown

Spectral = Literal["none", "discriminator", "both"]
Conditioning = Literal["projection", "auxiliary"]


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
        spectral: Which networks' weights are divided by their spectral norms: ``discriminator``, ``both`` or ``none``.
        conditioning: How a discriminator of classes judges them: by ``projection``, which adds the product of its
            features and a vector of the class to the score, or by an ``auxiliary`` classifier.
        separate_norms: Whether each class has norms of its own in the generator, with a rho or switch weights of its
            own, beside its gamma and beta.

    Raises:
        SettingError: If a value is not one of those named, or sizes and numbers do not fit together.
    """

    base: int
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    halvings: int
    spectral: Spectral = "discriminator"
    conditioning: Conditioning = "projection"
    separate_norms: bool = False

    def __post_init__(self) -> None:
        check_range("base", self.base, at_least=1)
        for name, widths, least in (("generator", self.generator, 2), ("discriminator", self.discriminator, 1)):
            if len(widths) < least or min(widths) < 1:
                raise SettingError(f"{name} must be {least} or more positive widths, got {list(widths)}")
        check_range("halvings", self.halvings, at_least=0, at_most=len(self.discriminator))
        if self.image_size % 2**self.halvings:
            raise SettingError(f"images of {self.image_size} pixels cannot be halved {self.halvings} times")
        for name, choices in (("spectral", Spectral), ("conditioning", Conditioning)):
            if getattr(self, name) not in get_args(choices):
                raise unknown(name, getattr(self, name), get_args(choices))

    def __call__(
        self,
        channels: int,
        latent_dim: int,
        norm: str,
        norm_options: dict[str, Any] | None,
        num_classes: int = 0,
    ) -> tuple["Generator", "Discriminator"]:
        """Build both networks; see them for the arguments."""
        generator = Generator(self, channels, latent_dim, norm, norm_options, num_classes)
        return generator, Discriminator(self, channels, num_classes)

    @property
    def image_size(self) -> int:
        """Return the side of the square images."""
        return self.base * 2 ** (len(self.generator) - 1)

    @abstractmethod
    def generator_blocks(self, make_norm: NormFactory, last_norm: NormFactory) -> Iterator[nn.Module]:
        """Build what turns the generator's first feature map into its last.

        Args:
            make_norm: Builds the norms that know the class.
            last_norm: Builds norms that do not.
        """

    @abstractmethod
    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build what turns an image of ``channels`` channels into the discriminator's last feature map."""

    @abstractmethod
    def pooled(self, x: Tensor) -> Tensor:
        """Return the features of the discriminator's last feature map: (N, C, H, W) -> (N, F)."""

    @abstractmethod
    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw the first weight of the layer ``name``, in place."""

    def _discriminator_steps(self, channels: int) -> Iterator[tuple[int, int, bool]]:
        for depth, (source, width) in enumerate(pairwise((channels, *self.discriminator))):
            yield source, width, depth < self.halvings


class ResNet(Architecture):
    """Build networks of residual blocks."""

    def generator_blocks(self, make_norm: NormFactory, last_norm: NormFactory) -> Iterator[nn.Module]:
        """Build one :class:`UpBlock` per doubling, then norm and ReLU.

        The last norm is the same for all classes, as in the authors' code.
        """
        for wide, narrow in pairwise(self.generator):
            yield UpBlock(wide, narrow, make_norm)
        yield nn.Sequential(last_norm(self.generator[-1]), nn.ReLU())

    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build one :class:`DownBlock` per feature map."""
        for depth, (source, width, halves) in enumerate(self._discriminator_steps(channels)):
            yield DownBlock(source, width, halves, first=depth == 0)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the sum over all positions, after a ReLU."""
        return F.relu(x).sum((2, 3))

    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw Glorot uniform, with gain sqrt(2) for the 3x3 convolutions of the residual branches (authors' code)."""
        nn.init.xavier_uniform_(weight, gain=math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1.0)


class CNN(Architecture):
    """Build the paper's standard convolutional networks."""

    def generator_blocks(self, make_norm: NormFactory, last_norm: NormFactory) -> Iterator[nn.Module]:
        """Build transposed convolution, norm and ReLU per doubling."""
        for wide, narrow in pairwise(self.generator):
            yield UpConvolution(wide, narrow, make_norm)

    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build a 3x3 convolution per feature map and, where it is halved, a 4x4 one of stride 2."""
        for source, width, halves in self._discriminator_steps(channels):
            yield from (nn.Conv2d(source, width, 3, padding=1), nn.LeakyReLU(0.1))
            if halves:
                yield from (nn.Conv2d(width, width, 4, stride=2, padding=1), nn.LeakyReLU(0.1))

    def pooled(self, x: Tensor) -> Tensor:
        """Return the whole map."""
        return x.flatten(1)

    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw from N(0, 0.02^2), as in DCGAN; the paper names none."""
        nn.init.normal_(weight, std=0.02)


class Generator(nn.Module):
    """Map latent vectors to images in [-1, 1].

    Args:
        architecture: A row of ``gan_presets.ARCHITECTURES``.
        channels: Channels of the images.
        latent_dim: Length of a latent vector, drawn from a standard normal distribution.
        norm: Any name of ``norms.build``.
        norm_options: Further arguments of that layer.
        num_classes: How many classes K there are; 0 for images without.

    Shape:
        Latents (N, latent_dim) and, if there are classes, labels: integers (N,), or shares (N, K) that mix the classes
        -> (N, channels, image_size, image_size), float32 whatever autocast does.
    """

    def __init__(
        self,
        architecture: Architecture,
        channels: int = 3,
        latent_dim: int = 128,
        norm: str = "batch",
        norm_options: dict[str, Any] | None = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_size = architecture.image_size
        self.num_classes = num_classes
        self.linear = Seed(latent_dim, architecture.generator[0], architecture.base)
        classes = [f"class{k}" for k in range(num_classes)] if architecture.separate_norms else []
        make_norm = norm_factory(norm, norm_options, num_classes or None, classes)
        self.blocks = nn.Sequential(*architecture.generator_blocks(make_norm, norm_factory(norm, norm_options)))
        self.to_image = nn.Conv2d(architecture.generator[-1], channels, 3, padding=1)
        _prepare(self, architecture, spectral=architecture.spectral == "both")

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw one image per latent vector.

        Raises:
            SettingError: If the labels do not fit, or are missing where there are classes.
        """
        check_labels(labels, len(latents), self.num_classes)
        x = self.linear(latents)
        for block in self.blocks:
            x = block(x, labels) if isinstance(block, UpBlock | UpConvolution) else block(x)
        return torch.tanh(self.to_image(x).float())


class Discriminator(nn.Module):
    r"""Score images: the higher, the more real.

    Unless its architecture says otherwise, every layer's weight is divided by its spectral norm. That is the norm of
    the weight as a matrix, by one power iteration per forward pass in training mode; see :func:`norms.spectral_norm`,
    and :func:`norms.sigmas` for reading it.

    With classes the score is

    .. math:: D(x, y) = l(h) + e_y^\top h

    with the features h, a linear layer l and a learned vector :math:`e_y` for each class, or an auxiliary classifier
    tells the class from h.

    Args:
        architecture: A row of ``gan_presets.ARCHITECTURES``.
        channels: Channels of the images.
        num_classes: How many classes K there are; 0 for images without.

    Attributes:
        auxiliary: Whether it returns class logits beside the scores, and is not told the labels.

    Shape:
        (N, channels, image_size, image_size) and, for projection, labels as :class:`Generator` takes them -> (N,), or
        with an auxiliary classifier the pair of (N,) and (N, K); float32 whatever autocast does.
    """

    def __init__(self, architecture: Architecture, channels: int = 3, num_classes: int = 0) -> None:
        super().__init__()
        self.auxiliary = num_classes > 0 and architecture.conditioning == "auxiliary"
        self.num_classes = 0 if self.auxiliary else num_classes
        self.pooled = architecture.pooled
        self.blocks = nn.Sequential(*architecture.discriminator_blocks(channels))
        side = architecture.image_size // 2**architecture.halvings
        with torch.device("meta"):
            features = self.pooled(torch.empty(1, architecture.discriminator[-1], side, side)).shape[1]
        self.linear = nn.Linear(features, 1)
        if self.auxiliary:
            self.classifier = nn.Linear(features, num_classes)
        elif num_classes:
            self.embedding = ClassEmbedding(num_classes, features)
        _prepare(self, architecture, spectral=architecture.spectral != "none")

    def features(self, images: Tensor) -> Tensor:
        """Return what the last linear layer sees, shape (N, F)."""
        # A sum over hundreds of positions and the loss behind it need more than the 8 bits of a bfloat16 significand.
        x = self.blocks(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.pooled(x.float())

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Score each image.

        Raises:
            SettingError: If the labels do not fit, or are missing where there are classes.
        """
        check_labels(labels, len(images), self.num_classes)
        features = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            scores = self.linear(features).squeeze(1)
            if self.auxiliary:
                return scores, self.classifier(features)
            return scores if labels is None else scores + (self.embedding(labels) * features).sum(1)


def _prepare(network: nn.Module, architecture: Architecture, spectral: bool) -> None:
    """Initialize all layers and then, since initializing a parametrized weight has no effect, parametrize them."""
    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding)
    ]
    for name, layer in layers:
        architecture.initialize_weight(name, layer.weight)
        if isinstance(bias := getattr(layer, "bias", None), Tensor):
            nn.init.zeros_(bias)
    for _, layer in layers if spectral else []:
        norms.spectral_norm(layer)
