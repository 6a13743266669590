"""Generators and discriminators of GANs, and what describes them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

import norms
from lightning_modules.networks.conditioning import (
    ClassEmbedding,
    ModulatedNorm,
    NormFactory,
    check_labels,
    norm_factory,
)
from lightning_modules.networks.gan_blocks import NamedSequential, Seed, UpBlock, UpConvolution
from norms.errors import SettingError, check_range, unknown
from norms.precision import wide_dtype, without_autocast

WEIGHTED = nn.Conv2d, nn.ConvTranspose2d, nn.Linear
Spectral = Literal["none", "discriminator", "both"]
Conditioning = Literal["projection", "auxiliary"]


@dataclass(frozen=True)
class Architecture(ABC):
    """Describe a generator and its discriminator; a subclass gives the blocks that they are made of.

    It is data: a row of ``gan_presets.ARCHITECTURES``. Called with the settings of the images, the latent vectors and
    the norm, it builds the two networks, as whatever stands as ``architecture`` of a :class:`GAN` must.

    Attributes:
        base: Side of the generator's first feature map.
        generator: Channels of the generator's feature maps; each one after the first is twice as wide and high.
        discriminator: Channels of the discriminator's feature maps.
        halvings: How many times the discriminator halves its feature map.
        spectral: Which networks' weights are divided by their spectral norms: ``discriminator``, ``both`` or ``none``;
            in the generator not that of an embedding.
        conditioning: How a discriminator of classes judges them: by ``projection``, which adds the product of its
            features and a vector of the class to the score, or by an ``auxiliary`` classifier.
        separate_norms: Whether each class has norms of its own in the generator, with a rho or switch weights of its
            own, beside its gamma and beta.
        embedding: Length of a vector of each class that the generator is given beside the latent vector. With 0 the
            class decides gamma and beta of its norms.
        skip_latents: Whether the latent vector is cut into parts, the first of which is mapped to the first feature
            map, while each further one, joined with the vector of the class, decides gamma and beta within one block.

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
    embedding: int = 0
    skip_latents: bool = False

    def __post_init__(self) -> None:
        check_range("base", self.base, at_least=1)
        for name, widths, least in (("generator", self.generator, 2), ("discriminator", self.discriminator, 1)):
            if len(widths) < least or min(widths) < 1:
                raise SettingError(f"{name} must be {least} or more positive widths, got {list(widths)}")
        check_range("halvings", self.halvings, at_least=0, at_most=len(self.discriminator))
        if self.image_size % 2**self.halvings:
            raise SettingError(f"halvings must suit images of {self.image_size} pixels, got {self.halvings}")
        for name, choices in (("spectral", Spectral), ("conditioning", Conditioning)):
            check_choice(name, getattr(self, name), get_args(choices))
        check_range("embedding", self.embedding, at_least=0)
        if self.separate_norms and (self.embedding or self.skip_latents):
            raise SettingError(
                "separate_norms needs embedding: 0 and skip_latents: false, by which norms get the class"
            )

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

    @property
    def num_features(self) -> int:
        """Return how many features the discriminator's last layer sees."""
        return self.discriminator[-1]

    def first_layer(self, latent_dim: int) -> nn.Module:
        """Build what maps latent vectors to the generator's first feature map."""
        return Seed(latent_dim, self.generator[0], self.base)

    @abstractmethod
    def generator_blocks(self, make_norm: NormFactory, last_norm: NormFactory) -> Iterator[tuple[str, nn.Module]]:
        """Build what turns the generator's first feature map into its last, each part with a name of its own.

        Args:
            make_norm: Builds the norms that are told the class.
            last_norm: Builds norms that are not.
        """

    def last_layer(self, channels: int) -> nn.Module:
        """Build what turns the generator's last feature map into an image, before the tanh."""
        return nn.Conv2d(self.generator[-1], channels, 3, padding=1)

    @abstractmethod
    def discriminator_blocks(self, channels: int) -> Iterator[nn.Module]:
        """Build what turns an image of ``channels`` channels into the discriminator's last feature map."""

    @abstractmethod
    def pooled(self, x: Tensor) -> Tensor:
        """Return the features of the discriminator's last feature map: (N, C, H, W) -> (N, num_features)."""

    @abstractmethod
    def initialize_weight(self, name: str, weight: Tensor) -> None:
        """Draw the first weight of the layer ``name``, in place."""

    def discriminator_steps(self, channels: int) -> Iterator[tuple[int, int, bool]]:
        """Yield channels in, channels out and whether the map is halved, for each feature map of the discriminator."""
        for depth, (source, width) in enumerate(pairwise((channels, *self.discriminator))):
            yield source, width, depth < self.halvings


class Generator(nn.Module):
    """Map latent vectors to images in [-1, 1].

    Args:
        architecture: A row of ``gan_presets.ARCHITECTURES``.
        channels: Channels of the images.
        latent_dim: Length of a latent vector, drawn from a standard normal distribution.
        norm: Any name of ``norms.build``.
        norm_options: Further arguments of that layer.
        num_classes: How many classes K there are; 0 for images without.

    Raises:
        SettingError: If a latent vector cannot be cut into the parts that ``skip_latents`` asks for, or norms of a
            class of its own would learn nothing.

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
        embedding = architecture.embedding if num_classes else 0
        self.embedding = ClassEmbedding(num_classes, embedding) if embedding else None
        self.doublings = len(architecture.generator) - 1
        self.skip_latents = architecture.skip_latents
        plain_norm = norm_factory(norm, norm_options)
        if self.skip_latents:
            first = _part(latent_dim, self.doublings + 1)
            if num_classes and not embedding:
                raise SettingError("skip_latents needs an embedding of the classes, such as embedding: 128")
            make_norm: NormFactory = partial(ModulatedNorm, norm, norm_options, first + embedding)
        elif embedding:
            first, make_norm = latent_dim + embedding, plain_norm
        else:
            classes = [f"class{k}" for k in range(num_classes)] if architecture.separate_norms else []
            first, make_norm = latent_dim, norm_factory(norm, norm_options, num_classes or None, classes)
            if classes and not list(make_norm(architecture.generator[0]).parameters()):
                raise SettingError(
                    f"separate_norms needs norms that learn something for each class, and with these options norm "
                    f"{norm!r} learns nothing: set separate_norms: false"
                )
        self.linear = architecture.first_layer(first)
        self.blocks = NamedSequential(architecture.generator_blocks(make_norm, plain_norm))
        self.to_image = architecture.last_layer(channels)
        # A spectrally normalized embedding in the generator "seems to randomly cripple" it, says BigGAN's first author.
        _prepare(self, architecture, WEIGHTED if architecture.spectral == "both" else ())

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw one image per latent vector.

        Raises:
            SettingError: If the labels do not fit, or are missing where there are classes.
        """
        check_labels(labels, latents.shape[0], self.num_classes)
        first, conditions = self._inputs(latents, labels)
        x = self.linear(first)
        for block in self.blocks:
            if isinstance(block, UpBlock | UpConvolution):
                condition, *conditions = conditions
                x = block(x, condition)
            else:
                x = block(x)
        image = self.to_image(x)
        return torch.tanh(image.to(wide_dtype(image)))

    def _inputs(self, latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return what the first layer is given, and what the norms of each block that doubles the size are told."""
        vector = None if self.embedding is None else self.embedding(labels)
        if self.skip_latents:
            first, *parts = latents.chunk(self.doublings + 1, dim=1)
            return first, parts if vector is None else [torch.cat([part, vector], dim=1) for part in parts]
        if vector is not None:
            return torch.cat([latents, vector], dim=1), [None] * self.doublings
        return latents, [labels] * self.doublings


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

    Source:
        Miyato & Koyama, cGANs with Projection Discriminator, ICLR 2018, arXiv 1802.05637; Odena, Olah & Shlens,
        Conditional Image Synthesis with Auxiliary Classifier GANs, ICML 2017, arXiv 1610.09585.
    """

    def __init__(self, architecture: Architecture, channels: int = 3, num_classes: int = 0) -> None:
        super().__init__()
        self.auxiliary = num_classes > 0 and architecture.conditioning == "auxiliary"
        self.num_classes = 0 if self.auxiliary else num_classes
        self.pooled = architecture.pooled
        self.blocks = nn.Sequential(*architecture.discriminator_blocks(channels))
        self.linear = nn.Linear(architecture.num_features, 1)
        self.classifier = nn.Linear(architecture.num_features, num_classes) if self.auxiliary else None
        self.projection = (
            ClassEmbedding(num_classes, architecture.num_features) if num_classes and not self.auxiliary else None
        )
        _prepare(self, architecture, (*WEIGHTED, nn.Embedding) if architecture.spectral != "none" else ())

    def features(self, images: Tensor) -> Tensor:
        """Return what the last linear layer sees, shape (N, F)."""
        x = self.blocks(images)
        # A sum over hundreds of positions and the loss behind it need more than the 8 bits of a bfloat16 significand.
        with without_autocast(images.device):
            return self.pooled(x.to(wide_dtype(x)))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Score each image.

        Raises:
            SettingError: If the labels do not fit, or are missing where there are classes.
        """
        check_labels(labels, images.shape[0], self.num_classes)
        features = self.features(images)
        with without_autocast(images.device):
            scores = self.linear(features).squeeze(1)
            if self.classifier is not None:
                return scores, self.classifier(features)
            return scores if self.projection is None else scores + (self.projection(labels) * features).sum(1)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise unknown(name, str(value), choices)


def _part(latent_dim: int, parts: int) -> int:
    if latent_dim % parts:
        fitting = parts * max(1, round(latent_dim / parts))
        raise SettingError(
            f"latent_dim must divide into {parts} equal parts for skip_latents, such as {fitting}, got {latent_dim}"
        )
    return latent_dim // parts


def _prepare(network: nn.Module, architecture: Architecture, spectral: tuple[type[nn.Module], ...]) -> None:
    """Initialize all layers and then, since initializing has no effect on parametrized weights, parametrize some."""
    for name, layer in network.named_modules():
        if isinstance(layer, (*WEIGHTED, nn.Embedding)):
            architecture.initialize_weight(name, layer.weight)
            if isinstance(bias := getattr(layer, "bias", None), Tensor):
                nn.init.zeros_(bias)
    for layer in list(network.modules()):
        if isinstance(layer, spectral):
            norms.spectral_norm(layer)
