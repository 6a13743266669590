"""Frozen networks whose activations tell how alike two images look."""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from lightning_modules.networks.feature_net import FeatureNet, ImageNetNormalize
from norms.errors import SettingError, unknown
from norms.imports import resolve, resolve_callable

Module = TypeVar("Module", bound=nn.Module)


class DefaultLayers(NamedTuple):
    """Name the layers that a perceptual loss uses unless it is told otherwise."""

    content: tuple[str, ...]
    style: tuple[str, ...]


_DEFAULT_LAYERS: Mapping[str, DefaultLayers] = {
    # Those that it was taught; its first stage has no counterpart in the teacher.
    "bundled": DefaultLayers(("relu3_2",), ("relu2_2", "relu3_2", "relu4_1")),
    # Johnson et al. 2016, section 4.1.
    "vgg16": DefaultLayers(("relu2_2",), ("relu1_2", "relu2_2", "relu3_3", "relu4_3")),
    # Gatys et al. 2016, "Image Style Transfer Using Convolutional Neural Networks", section 3.
    "vgg19": DefaultLayers(("relu4_2",), ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")),
    "squeezenet1_1": DefaultLayers(("fire3",), ("relu1", "fire3", "fire5", "fire6")),
}
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError)
"""What reading a damaged file of weights raises."""

_SQUEEZENET = ("relu1", "fire2", "fire3", "fire4", "fire5", "fire6", "fire7", "fire8", "fire9")


def default_layers(choice: str | Callable[..., nn.Module]) -> DefaultLayers:
    """Return the customary layers of a loss network; one of the user's own may have them as ``default_layers``.

    Raises:
        SettingError: If there is no such loss network.
    """
    found = resolve("loss_network", choice, _DEFAULT_LAYERS)
    if isinstance(found, DefaultLayers):
        return found
    return DefaultLayers(*getattr(found, "default_layers", ((), ())))


def build_loss_network(
    choice: str | Callable[..., nn.Module], layers: Collection[str], weights: str | Path | None = None
) -> nn.Module:
    """Build a :class:`LossNetwork` or a loss network of the user's own.

    Args:
        choice: A name that :class:`LossNetwork` knows, or a class path or callable that is called with ``layers`` and
            ``weights``. What it returns is called as :class:`LossNetwork` is, and frozen like it.
        layers: Layers that will be asked for.
        weights: A file of weights.

    Raises:
        SettingError: See :class:`LossNetwork`; or if there is no such class.
    """
    if choice in _DEFAULT_LAYERS:
        return LossNetwork(str(choice), layers, weights)
    network: nn.Module = resolve_callable("loss_network", choice)(layers, weights)
    for module in network.modules():
        _freeze(module)
    return network.eval()


class LossNetwork(nn.Module):
    """Extract features by a frozen network with named layers.

    Its weights are constants, neither trained nor saved: they are buffers outside the ``state_dict``. So the checkpoint
    of a module that contains a loss network holds nothing of it and loads strictly all the same, while the weights
    follow the module's device. No layer acts differently in training and in evaluation. With ``saved`` they are buffers
    of the ``state_dict``, for a module that needs the network where it paints too.

    Names are ``relu1_1``, ``relu1_2``, ``relu2_1``, ... (stage and position in it) in ``bundled``, ``vgg16`` and
    ``vgg19``, and ``relu1``, ``fire2``, ..., ``fire9`` in ``squeezenet1_1``.

    Args:
        name: ``bundled``, which comes with the package, or torchvision's ``vgg16``, ``vgg19`` or ``squeezenet1_1``.
        layers: Layers that will be asked for; what is deeper than all of them is dropped.
        weights: A ``.safetensors`` or ``.pth`` file in place of the weights that torchvision downloads, with
            torchvision's names, made for RGB that is normalized as torchvision does; or, for ``bundled``, a file that
            :meth:`FeatureNet.save` wrote.
        saved: Whether the weights belong to the ``state_dict``.
        empty: Whether to read no weights, which are 0 then until a ``state_dict`` is loaded.

    Raises:
        SettingError: If a layer does not exist, the weights cannot be downloaded, or the
            file is missing, damaged or of another network.

    Shape:
        (B, 3 or 1, H, W), RGB or gray in [0, 1] -> (B, C, H', W') for each layer
    """

    def __init__(
        self,
        name: str,
        layers: Collection[str],
        weights: str | Path | None = None,
        saved: bool = False,
        empty: bool = False,
    ) -> None:
        super().__init__()
        kept = (_bundled if name == "bundled" else _torchvision)(name, layers, weights, empty)
        # The mode makes no difference, but Lightning warns of modules that are in evaluation mode while others train.
        self.layers = kept.train()
        for module in self.layers.modules():
            _freeze(module, saved)
        self.normalize = ImageNetNormalize()

    def forward(self, image: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Compute the activations of some layers in one pass that ends at the deepest of them."""
        wanted = set(layers)
        found: dict[str, Tensor] = {}
        x = self.normalize(image)
        for name, layer in self.layers.items():
            if len(found) == len(wanted):
                break
            x = layer(x)
            if name in wanted:
                found[name] = x
        return found


def _freeze(module: nn.Module, saved: bool = False) -> None:
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        delattr(module, name)
        module.register_buffer(name, tensor.detach(), persistent=saved)


def _bundled(name: str, layers: Collection[str], weights: str | Path | None, empty: bool) -> nn.ModuleDict:
    if empty:
        network = _zeroed(FeatureNet(norm="none"))
    else:
        network = FeatureNet.bundled() if weights is None else FeatureNet.load(_existing(weights))
    names = list(network.layers)
    return nn.ModuleDict({each: network.layers[each] for each in names[: _depth(name, names, layers)]})


def _torchvision(name: str, layers: Collection[str], weights: str | Path | None, empty: bool) -> nn.ModuleDict:
    with torch.device("meta"):  # the architecture alone, without half a gigabyte of random weights
        features = get_model(name).features
    assert isinstance(features, nn.Sequential)
    parts = _parts(name, features)
    depth = _depth(name, list(parts), layers)
    kept = nn.ModuleDict(dict(list(parts.items())[:depth]))
    trimmed = features[: sum(len(part) for part in list(parts.values())[:depth])]
    if empty:
        _zeroed(trimmed.to_empty(device=torch.get_default_device()))
        return kept
    state = _download(name) if weights is None else _read(_existing(weights))
    trimmed.load_state_dict(_fitting(trimmed.state_dict(), state, name, weights), assign=True)
    return kept


def _zeroed(network: Module) -> Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return network


def _parts(name: str, features: nn.Sequential) -> dict[str, nn.Sequential]:
    """Cut a network after each activation that has a name."""
    parts: dict[str, nn.Sequential] = {}
    pending: list[nn.Module] = []
    stage = position = 1
    for module in features:
        pending.append(module)
        if isinstance(module, nn.MaxPool2d):
            stage, position = stage + 1, 1
        elif not isinstance(module, nn.Conv2d):
            part = _SQUEEZENET[len(parts)] if name == "squeezenet1_1" else f"relu{stage}_{position}"
            parts[part] = nn.Sequential(*pending)
            pending, position = [], position + 1
    return parts


def _depth(name: str, names: Sequence[str], layers: Collection[str]) -> int:
    """Return how many of a network's layers lead to the deepest wanted one, itself included."""
    wrong = [layer for layer in layers if layer not in names]
    if wrong:
        raise unknown(f"layer of loss network {name}", wrong[0], names)
    return 1 + max(names.index(layer) for layer in layers)


def _download(name: str) -> dict[str, Any]:
    entry = get_model_weights(name).DEFAULT
    try:
        return entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except _UNREADABLE as error:
        raise SettingError(
            f"loss_network: {name} needs torchvision's weights, but downloading them failed ({_reason(error)}): fetch "
            f"{entry.url} elsewhere and name the file as weights:, or set loss_network: bundled, which needs none"
        ) from error


def _existing(weights: str | Path) -> Path:
    if not Path(weights).is_file():
        raise SettingError(f"weights: there is no file {weights}")
    return Path(weights)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        # What the readers say of a damaged file is of their own insides.
        reason = error.strerror if isinstance(error, OSError) else None
        raise SettingError(
            f"weights: {path} cannot be read ({reason or 'it is damaged, or holds no weights'})"
        ) from error
    if not isinstance(state, dict):
        raise SettingError(f"weights: {path} holds {type(state).__name__}, not a dict of tensors by name")
    return state


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _fitting(
    expected: Mapping[str, Tensor], state: Mapping[str, Any], name: str, weights: str | Path | None
) -> OrderedDict[str, Tensor]:
    """Pick the tensors that a network needs, whether the file holds a whole model or its features alone."""
    found: OrderedDict[str, Tensor] = OrderedDict()
    for key, tensor in expected.items():
        value = state.get(f"features.{key}", state.get(key))
        if not isinstance(value, Tensor) or value.shape != tensor.shape:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else "none"
            raise SettingError(
                f"weights: {weights} is not of {name}: features.{key} must have shape {tuple(tensor.shape)}, got {got}"
            )
        found[key] = value.float()
    return found
