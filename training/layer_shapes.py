"""What a layer works on: channels, kernel size and resolution, which its values may go with."""

import json
from collections.abc import Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from data.files import check_file
from norms.conditional import NormPerCondition
from norms.errors import SettingError
from norms.mixing import mixing_layers
from training.files import or_warn, replacing


class LayerShape(NamedTuple):
    """Describe where in a network a layer that learns how to normalize stands.

    Attributes:
        in_channels: Channels of the input of the convolution before it; None if there is none.
        out_channels: Channels that it normalizes.
        kernel_size: Of that convolution, in each direction; None if there is none.
        resolution: Height and width of what it normalizes, as the training had it first.
    """

    in_channels: int | None
    out_channels: int
    kernel_size: tuple[int, ...] | None
    resolution: tuple[int, ...]


class ShapeRecorder:
    """See the shapes of the mixing layers of a model, from now on until :meth:`stop`.

    The convolution before a layer is that with the largest kernel of those with as many channels that have run since
    the layer before: a block's shortcut of 1x1 is beside one of 3x3, not before it.

    Args:
        model: Any module. Nothing about its results changes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._found: dict[str, LayerShape] = {}
        self._run: list[nn.Module] = []
        # Of the norms of conditions only those are called whose condition is in the batch; all have one place.
        shared = {
            f"{name}.norms.{condition}": module
            for name, module in model.named_modules()
            if isinstance(module, NormPerCondition)
            for condition in module.norms
        }
        places: dict[nn.Module, list[str]] = {}
        for name, layer in mixing_layers(model):
            if any(parameter.requires_grad for parameter in layer.parameters()):  # not of an averaged copy
                owner = next((owner for prefix, owner in shared.items() if f"{name}.".startswith(f"{prefix}.")), layer)
                places.setdefault(owner, []).append(name)
        # Of another network, such as the discriminator beside a generator, no convolution is before a layer.
        parents = [name.split(".")[:-1] for name, module in model.named_modules() if module in places]
        shared_parts = takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))
        network = ".".join(parts[0] for parts in shared_parts)
        self._hooks = [module.register_forward_pre_hook(partial(self._see, names)) for module, names in places.items()]
        self._hooks += [
            module.register_forward_pre_hook(self._pass)
            for module in model.get_submodule(network).modules()
            if _is_convolution(module)
        ]

    def stop(self) -> dict[str, LayerShape]:
        """Return the shapes by the layers' dotted names, as far as they have been called."""
        for hook in self._hooks:
            hook.remove()
        return self._found

    def _pass(self, convolution: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._run.append(convolution)

    def _see(self, names: list[str], layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x: Tensor = inputs[0]
        before: Any = [each for each in self._run if each.out_channels == x.shape[1]]
        self._run.clear()
        largest = max(before, key=lambda each: each.kernel_size, default=None)
        kernel = None if largest is None else (largest.in_channels, tuple(largest.kernel_size))
        in_channels, kernel_size = kernel or (None, None)
        for name in names:
            self._found.setdefault(name, LayerShape(in_channels, x.shape[1], kernel_size, tuple(x.shape[2:])))


def _is_convolution(module: nn.Module) -> bool:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return isinstance(module, kinds)


def write_shapes(shapes: Mapping[str, LayerShape], path: Path) -> None:
    """Write the shapes of layers as JSON, or warn that the disk does not take them."""
    described = {layer: shape._asdict() for layer, shape in shapes.items()}
    with or_warn(), replacing(path) as partial:
        partial.write_text(json.dumps(described, indent=1) + "\n")


def read_shapes(path: Path) -> dict[str, LayerShape]:
    """Read what :func:`write_shapes` has written; nothing where an older run has no such file.

    Raises:
        SettingError: If it is damaged.
    """
    if not path.is_file():
        return {}
    check_file(path)
    try:
        described = json.loads(path.read_text())
        return {str(layer): _shape(dict(shape)) for layer, shape in dict(described).items()}
    except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise SettingError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def _shape(described: dict[str, Any]) -> LayerShape:
    before, kernel = described["in_channels"], described["kernel_size"]
    return LayerShape(
        None if before is None else int(before),
        int(described["out_channels"]),
        None if kernel is None else tuple(map(int, kernel)),
        tuple(map(int, described["resolution"])),
    )
