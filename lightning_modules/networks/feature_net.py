"""The small convolutional network behind the classifier and the bundled perceptual loss."""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

import norms
from norms.errors import SettingError, check_range, unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BUNDLED = Path(__file__).parents[1] / "weights" / "bundled.safetensors"


class ImageNetNormalize(nn.Module):
    """Bring images to the range that networks trained on ImageNet, and :class:`FeatureNet`, take.

    ``(image - mean) / std`` with ImageNet's mean and standard deviation of each color, which are where the module is
    and in no ``state_dict``.

    Shape:
        (B, 3 or 1, H, W), RGB or gray, values in [0, 1] -> (B, 3, H, W); gray becomes three equal channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalize images."""
        return (image - self.mean) / self.std


class FeatureNet(nn.Module):
    """Stack 3x3 convolutions whose activations are named as VGG's: relu1_1, relu1_2, relu2_1, ...

    Every layer is convolution, norm, activation; every stage but the first begins by halving the resolution. It does
    so by average instead of max pooling, which gives smoother gradients to an image that is optimized through the
    network (Gatys et al. 2015, "A Neural Algorithm of Artistic Style", Methods).

    Args:
        widths: Channels of each stage.
        depths: Number of layers of each stage.
        norm: As :func:`norms.build` takes it.
        activation: Makes the activation.

    Raises:
        SettingError: If the stages make no network.

    Shape:
        (B, 3, H, W) of any size, see :class:`ImageNetNormalize` for its values -> (B, widths[-1], ceil(H / s),
        ceil(W / s)), s = 2 ** (number of stages - 1)
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (2, 2, 2, 1),
        norm: str | Callable[..., nn.Module] = "batch",
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if not widths or len(widths) != len(depths) or min(*widths, *depths) < 1:
            raise SettingError(
                f"widths and depths need one positive entry per stage, got {list(widths)} and {list(depths)}"
            )
        check_range("the number of stages", len(widths), at_most=10)
        check_range("depths", max(depths), at_most=1000)
        self.widths, self.depths, self.norm = tuple(widths), tuple(depths), norm
        self.width = widths[-1]
        self.layers = nn.ModuleDict()
        channels = 3
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            for index in range(1, depth + 1):
                pool = stage > 1 and index == 1
                self.layers[f"relu{stage}_{index}"] = _layer(channels, width, norm, activation(), pool)
                channels = width

    @classmethod
    def bundled(cls) -> Self:
        """Load the trained network that comes with the package; see :meth:`load`."""
        return cls.load(BUNDLED)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a network that :meth:`save` wrote.

        Returns:
            The network in float32, on the CPU, frozen, in evaluation mode.

        Raises:
            SettingError: If the file is missing, damaged or holds something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
            network = cls(json.loads(metadata["widths"]), json.loads(metadata["depths"]), norm="none")
            network.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise SettingError(
                f"{path} holds no feature network: {reason or 'it is damaged, or another file'}"
            ) from error
        return network.eval().requires_grad_(False)

    def save(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Write the folded network to a safetensors file, in float16.

        Rounding moves activations and their Gram matrices by about one part in two thousand, which no perceptual loss
        notices, and halves the file.

        Args:
            path: File to write.
            metadata: What the file's header says about the weights, besides the architecture: recipe, data, licence.

        Raises:
            SettingError: See :meth:`folded`.
        """
        weights = {name: value.half().contiguous() for name, value in self.folded().state_dict().items()}
        architecture = {"widths": json.dumps(self.widths), "depths": json.dumps(self.depths)}
        save_file(weights, path, metadata={**metadata, **architecture})

    def forward(self, x: Tensor) -> Tensor:
        """Compute the activations of the last layer."""
        for layer in self.layers.values():
            x = layer(x)
        return x

    def features(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Compute the activations of the named layers, and nothing beyond the deepest of them.

        Args:
            x: See the class.
            layers: Names such as ``"relu2_2"``.

        Returns:
            Activations (B, C, H', W'), at least 0, by name, in the order of the network.

        Raises:
            SettingError: If the network has no layer of a name.
        """
        wanted = set(layers)
        if wrong := sorted(wanted - set(self.layers)):
            raise unknown("layer of the feature network", wrong[0], self.layers)
        found: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            if len(found) == len(wanted):
                break
            x = layer(x)
            if name in wanted:
                found[name] = x
        return found

    def folded(self) -> Self:
        """Make a frozen copy without norms, each batch norm being folded into the convolution before it.

        In evaluation a batch norm is an affine map of each channel, and a convolution followed by that is one
        convolution. So the copy computes what this network computes in evaluation, in fewer passes over memory, and has
        no statistics that could move.

        Raises:
            SettingError: If the norm is not ``batch``, since the others depend on the image at hand; or if the
                activation is not ReLU, which is what is loaded.
        """
        if not isinstance(next(iter(self.layers.values())).get_submodule("activation"), nn.ReLU):
            raise SettingError("only a feature network with the activation relu can be exported")
        plain = type(self)(self.widths, self.depths, norm="none")
        for name, layer in self.layers.items():
            conv, norm = layer.get_submodule("conv"), layer.get_submodule("norm")
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                raise SettingError(
                    f"only norm 'batch' folds into plain convolutions, this feature network has norm '{self.norm}'"
                )
            weight, bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.get_buffer("running_mean"),
                norm.get_buffer("running_var"),
                norm.eps,
                norm.weight,
                norm.bias,
            )
            plain.layers[name].get_submodule("conv").load_state_dict({"weight": weight, "bias": bias})
        return plain.eval().requires_grad_(False)


def _layer(
    in_channels: int, out_channels: int, norm: str | Callable[..., nn.Module], activation: nn.Module, pool: bool
) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if pool:
        # Without ceil_mode a small image would end in no pixels at all.
        parts["pool"] = nn.AvgPool2d(2, ceil_mode=True)
    # Norms bring a shift of their own.
    parts["conv"] = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=norm == "none")
    parts["norm"] = norms.build(norm, out_channels)
    parts["activation"] = activation
    return nn.Sequential(parts)
