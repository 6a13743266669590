"""The network that paints in the style of any picture: encoder, adaptive instance normalization, decoder."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.loss_network import LossNetwork
from norms.adaptive import AdaptiveInstanceNorm, Statistics
from norms.errors import SettingError, unknown
from norms.registry import with_options

ENCODERS = {
    "bundled": "relu3_2",
    "vgg16": "relu4_1",
    "vgg19": "relu4_1",
}
"""Loss networks that can be mirrored, and the layer that their encoder customarily ends with."""


class _Step(NamedTuple):
    """Hold what an encoder does in one convolution."""

    in_channels: int
    out_channels: int
    halves: bool


class Decoder(nn.Module):
    """Mirror an encoder: a 3x3 convolution for each of its, nearest upsampling where it halves the resolution.

    All convolutions pad by reflection, and all but the last are followed by a norm, if one is chosen, and a ReLU. The
    published network is without: norms of a single sample would remove the style that its features bring.

    Args:
        steps: The encoder's convolutions.
        norm: As :func:`norms.build` takes it.
        norm_options: Further arguments of that layer.
    """

    def __init__(self, steps: list[_Step], norm: str = "none", norm_options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        make_norm = with_options(norm, norm_options)
        for index, step in enumerate(reversed(steps), start=1):
            block = nn.Sequential()
            block.add_module("conv", _conv(step.out_channels, step.in_channels))
            if index < len(steps):
                block.add_module("norm", make_norm(step.in_channels))
                block.add_module("relu", nn.ReLU())
            if step.halves:
                block.add_module("up", nn.Upsample(scale_factor=2.0))
            self.add_module(f"block{index}", block)

    def forward(self, x: Tensor) -> Tensor:
        """Paint features, (B, C, H, W) -> (B, 3, s * H, s * W), values around [0, 1]; s is the encoder's stride."""
        for block in self.children():
            x = block(x)
        return 0.5 + 0.25 * x


class AdaptiveNet(nn.Module):
    r"""Paint photos in the style of any picture.

    .. math:: y = g(t), \qquad t = \alpha \, \mathrm{AdaIN}(f(x), f(s)) + (1 - \alpha) f(x)

    with f the encoder, a frozen loss network up to a layer, and g the decoder, its trained mirror.

    Departures from the authors' code: the variance is biased, as in the paper's formula; the encoder pads by reflection
    without being trained so; and values outside of [0, 1] are cut off in evaluation.

    Args:
        name: Which loss network: ``bundled``, ``vgg16`` or ``vgg19``.
        layer: The encoder's last layer; None for the customary one.
        loss_layers: Further layers that a loss will ask for.
        norm: The decoder's normalization, as :func:`norms.build` takes it.
        norm_options: Further arguments of that layer.

    Raises:
        SettingError: If the loss network cannot be mirrored, or has no such layer.
        ValueError: If the norm does not exist or does not take the options.

    Shape:
        Photos: (B, 3, H, W), RGB in [0, 1], any H and W of at least 1 -> (B, 3, H, W), RGB in [0, 1].

    Source:
        Huang & Belongie, Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization, ICCV 2017,
        sections 5 and 6.
    """

    def __init__(
        self,
        name: str = "bundled",
        layer: str | None = None,
        loss_layers: tuple[str, ...] = (),
        norm: str = "none",
        norm_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise unknown("loss_network of any style", name, ENCODERS)
        self.name, self.layer = name, layer or ENCODERS[name]
        self.layers = {self.layer, *loss_layers}
        self.encoder = LossNetwork(name, self.layers, saved=True, empty=True)
        _pad_by_reflection(self.encoder)
        steps = _steps(self.encoder, self.layer)
        if not any(step.halves for step in steps):
            raise SettingError(f"layer {self.layer} sees single pixels and their neighbors: take a deeper one")
        self.factor = 2 ** sum(step.halves for step in steps)
        self.adain = AdaptiveInstanceNorm()
        self.decoder = Decoder(steps, norm, norm_options)

    @property
    def channels(self) -> int:
        """Channels of the encoder's last layer."""
        first = next(module for module in self.decoder.modules() if isinstance(module, nn.Conv2d))
        return first.in_channels

    def read_encoder(self, weights: str | None) -> None:
        """Read the encoder's weights, see :class:`LossNetwork`.

        Raises:
            SettingError: If they cannot be had, or are of another network.
        """
        found = LossNetwork(self.name, self.layers, weights, saved=True)
        try:
            self.encoder.load_state_dict(found.state_dict())
        except RuntimeError as error:
            raise SettingError(f"weights: {weights} is a loss network of other widths than the encoder's") from error

    def encode(self, image: Tensor) -> Tensor:
        """Return an image's features, (B, 3, H, W) -> (B, C, H', W')."""
        return self.encoder(_whole(image, self.factor), {self.layer})[self.layer]

    def measure(self, picture: Tensor) -> Tensor:
        """Return the statistics of style pictures, (B, 3, H, W) -> (B, 2, C): mean and standard deviation."""
        return torch.stack(self.adain.statistics(self.encode(picture)), 1)

    def target(self, image: Tensor, style: Statistics, alpha: float | Tensor = 1.0) -> Tensor:
        """Return what the decoder is given: the photo's features with the statistics of a style."""
        features = self.encode(image)
        styled = self.adain(features, style)
        return styled if isinstance(alpha, float) and alpha == 1 else torch.lerp(features, styled, alpha)

    def paint(self, target: Tensor, size: torch.Size) -> Tensor:
        """Return what the decoder paints, cut to a height and width; in training values may leave [0, 1] a little."""
        painted = self.decoder(target)[..., : size[0], : size[1]]
        # A bound in training would have no gradient where it holds.
        return painted if self.training else painted.clamp(0, 1)

    def forward(self, image: Tensor, style: Statistics, alpha: float | Tensor = 1.0) -> Tensor:
        """Paint photos.

        Args:
            image: (B, 3, H, W), values in [0, 1].
            style: Mean and standard deviation, each (C,) or (B, C).
            alpha: How much of the style, from 0, the photo as far as the decoder can paint it, to 1.

        Returns:
            (B, 3, H, W), values in [0, 1].
        """
        # Under autocast the decoder has too few bits for the tones of an image.
        return self.paint(self.target(image, style, alpha), image.shape[-2:]).to(image.dtype)


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")
    # Without norms, what torch begins with shrinks the features from layer to layer (He et al., Delving Deep into
    # Rectifiers, ICCV 2015, section 2.2), and the first hundreds of steps go into undoing that.
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _pad_by_reflection(network: nn.Module) -> None:
    """Let an encoder see no frame of zeros around an image, which the decoder would have to paint away."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "reflect"


def _steps(encoder: LossNetwork, last: str) -> list[_Step]:
    steps, halves = [], False
    for name, part in encoder.layers.items():
        for module in part.modules():
            if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
                halves = True
            elif isinstance(module, nn.Conv2d):
                steps.append(_Step(module.in_channels, module.out_channels, halves))
                halves = False
        if name == last:
            break
    return steps


def _whole(image: Tensor, factor: int) -> Tensor:
    """Continue an image below and at the right until it halves evenly, to two pixels at least."""
    height, width = image.shape[-2:]
    right, bottom = (factor * max(2, math.ceil(side / factor)) - side for side in (width, height))
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if right or bottom else image
