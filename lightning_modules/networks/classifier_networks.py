"""Networks that classify images: the small ones of textbooks, and the residual ones of CIFAR."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import norms
from lightning_modules.networks.feature_net import FeatureNet
from norms.errors import SettingError, check_range, did_you_mean
from norms.imports import resolve_callable

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}

Norm = str | Callable[..., nn.Module]


def _check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    known = isinstance(shape, list | tuple) and len(shape) == 3 and all(type(side) is int for side in shape)
    if not known or shape[0] not in (1, 3) or min(shape) < 1:
        raise SettingError(
            f"input_shape must be 1 or 3 channels, height and width of the images, such as [1, 28, 28], got {shape!r}"
        )
    return tuple(shape)


class MLP(nn.Module):
    """Stack dense layers, each followed by norm and activation.

    With widths (100, 100, 100), sigmoids and batch normalization it is the network of figure 1 of Ioffe & Szegedy 2015.

    Args:
        widths: Units of each layer.
        norm: As :func:`norms.build` takes it; one that works on vectors, which instance statistics do not.
        activation: Makes the activation.
        input_shape: Channels, height and width of the images.

    Shape:
        (B, *input_shape) -> (B, widths[-1])
    """

    def __init__(
        self,
        widths: Sequence[int] = (100, 100, 100),
        norm: Norm = "batch",
        activation: Callable[[], nn.Module] = nn.ReLU,
        input_shape: Sequence[int] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.input_shape = _check_shape(input_shape)
        self.width = widths[-1]
        self.layers = nn.ModuleDict()
        inputs = self.input_shape[0] * self.input_shape[1] * self.input_shape[2]
        for number, width in enumerate(widths, start=1):
            self.layers[f"dense{number}"] = _dense(inputs, width, norm, activation)
            inputs = width

    def forward(self, x: Tensor) -> Tensor:
        """Compute the activations of the last layer."""
        x = x.flatten(1)
        for layer in self.layers.values():
            x = layer(x)
        return x


class LeNet(nn.Module):
    """Stack two 5x5 convolutions with average pooling and two dense layers, as LeNet-5 (LeCun et al. 1998, figure 2).

    Args:
        widths: Channels of both convolutions and units of both dense layers.
        norm: As :func:`norms.build` takes it, after the convolutions.
        activation: Makes the activation.
        input_shape: Channels, height and width of the images; the first convolution pads them by 2.
        dense_norm: Likewise after the dense layers; one that works on vectors.

    Shape:
        (B, *input_shape) -> (B, widths[-1])
    """

    def __init__(
        self,
        widths: Sequence[int] = (6, 16, 120, 84),
        norm: Norm = "batch",
        activation: Callable[[], nn.Module] = nn.ReLU,
        input_shape: Sequence[int] = (1, 28, 28),
        dense_norm: Norm = "none",
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise SettingError(
                f"lenet has four widths, two of convolutions and two of dense layers, got {list(widths)}"
            )
        channels, *size = self.input_shape = _check_shape(input_shape)
        if min(size) < 12:
            raise SettingError(f"lenet needs images of at least 12 x 12 pixels, got input_shape {list(input_shape)}")
        first, second, third, self.width = widths
        pixels = [(side // 2 - 4) // 2 for side in size]
        self.layers = nn.ModuleDict(
            {
                "conv1": _pooled(channels, first, norm, activation, padding=2),
                "conv2": _pooled(first, second, norm, activation, padding=0),
                "dense1": _dense(second * pixels[0] * pixels[1], third, dense_norm, activation),
                "dense2": _dense(third, self.width, dense_norm, activation),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the activations of the last layer."""
        for name, layer in self.layers.items():
            x = layer(x.flatten(1) if name == "dense1" else x)
        return x


class ResNet(nn.Module):
    """Stack residual blocks as the ResNets for CIFAR: depths (3, 3, 3) make ResNet-20, 9 ResNet-56, 18 ResNet-110.

    Every stage but the first halves the resolution. Shortcuts have no weights: they leave out pixels and add channels
    of zeros (option A).

    Args:
        widths: Channels of each stage.
        depths: Blocks of each stage, two convolutions each.
        norm: As :func:`norms.build` takes it.
        activation: Makes the activation.

    Shape:
        (B, 3, H, W) -> (B, widths[-1], H / s, W / s), rounded up, s = 2 ** (number of stages - 1)

    Source:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        depths: Sequence[int] = (3, 3, 3),
        norm: Norm = "batch",
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if not widths or len(widths) != len(depths) or min(*widths, *depths) < 1:
            raise SettingError(f"widths and depths need one positive entry per stage, got {widths} and {depths}")
        self.width = widths[-1]
        self.layers = nn.ModuleDict({"start": _convolution(3, widths[0], norm, activation())})
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            for index in range(1, depth + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                self.layers[f"block{stage}_{index}"] = ResidualBlock(channels, width, stride, norm, activation)
                channels = width

    def forward(self, x: Tensor) -> Tensor:
        """Compute the activations of the last block."""
        for layer in self.layers.values():
            x = layer(x)
        return x


class ResidualBlock(nn.Module):
    """Add two convolutions to their input: ``activation(second(activation(first(x))) + x)``, see :class:`ResNet`."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stride, self.more = stride, outputs - inputs
        if self.more < 0:
            raise SettingError("the widths of a resnet must not fall from stage to stage")
        self.first = _convolution(inputs, outputs, norm, activation(), stride)
        self.second = _convolution(outputs, outputs, norm, nn.Identity())
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the activations; of a shortcut to fewer pixels, every other one."""
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return self.activation(self.second(self.first(x)) + shortcut)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "feature_net": FeatureNet,
    "mlp": MLP,
    "lenet": LeNet,
    "resnet": ResNet,
}
"""Networks of :class:`lightning_modules.Classifier`: each says by ``width`` how many features it ends with, and by
``input_shape``, if it has that, which images it takes."""


def build_network(name: str, **options: Any) -> nn.Module:
    """Build a network by its name in ``NETWORKS`` or its class path.

    Args:
        name: Which one.
        options: Its arguments; those that are None are left to it.

    Raises:
        SettingError: If the network is unknown or does not take an option.
    """
    builder = resolve_callable("network", name, NETWORKS)
    given = {key: value for key, value in options.items() if value is not None}
    known = list(inspect.signature(builder).parameters)
    for key in given:
        if key not in known:
            raise SettingError(
                f"network '{name}' has no option '{key}'{did_you_mean(key, known)} (its options are {', '.join(known)})"
            )
    if "activation" in given:
        _check_activation(given["activation"])
    for key in {"widths", "depths"} & given.keys():
        if not given[key]:
            raise SettingError(f"{key} must name at least one, got {given[key]}")
        check_range(key, min(given[key]), at_least=1)
        check_range(key, max(given[key]), at_most=100_000)
    return builder(**given)


def _check_activation(activation: Callable[[], nn.Module]) -> None:
    name = getattr(activation, "__name__", activation)
    try:
        made = activation()
    except TypeError as error:
        raise SettingError(
            f"activation {name} cannot be made without arguments: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(made, nn.Module):
        raise SettingError(f"activation {name} makes no module, such as torch.nn.ReLU does")


def _vector_norm(norm: Norm, width: int) -> nn.Module:
    """Build a norm of vectors, and refuse one that does not take them."""
    with_options = isinstance(norm, partial) and norm.func is norms.build
    layer: nn.Module = norm(width, dims=1) if with_options else norms.build(norm, width, dims=1)  # type: ignore[operator]
    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            # Not as many vectors as units, whose roles some layers would change.
            deepcopy(layer).eval()(torch.zeros(2 if width != 2 else 3, width))
    except (IndexError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        name = norm.args[0] if isinstance(norm, partial) and norm.args else norm
        raise SettingError(f"norm '{name}' does not normalize vectors, as dense layers make them: {reason}") from error
    return layer


def _dense(inputs: int, outputs: int, norm: Norm, activation: Callable[[], nn.Module]) -> nn.Sequential:
    parts = OrderedDict[str, nn.Module](
        linear=nn.Linear(inputs, outputs, bias=norm == "none"),
        norm=_vector_norm(norm, outputs),
        activation=activation(),
    )
    return nn.Sequential(parts)


def _convolution(inputs: int, outputs: int, norm: Norm, activation: nn.Module, stride: int = 1) -> nn.Sequential:
    parts = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=norm == "none"),
        norm=norms.build(norm, outputs),
        activation=activation,
    )
    return nn.Sequential(parts)


def _pooled(inputs: int, outputs: int, norm: Norm, activation: Callable[[], nn.Module], padding: int) -> nn.Sequential:
    parts = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(inputs, outputs, 5, padding=padding, bias=norm == "none"),
        norm=norms.build(norm, outputs),
        activation=activation(),
        pool=nn.AvgPool2d(2),
    )
    return nn.Sequential(parts)
