"""Trained style networks that another training begins with, or adds styles to."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from norms import ConditionalNorm, NormPerCondition
from norms.errors import SettingError

_SHAPE = ("widths", "num_blocks", "norm", "norm_options", "separate_norms", "upsampling", "noise", "photo_size")


class Base:
    """Read a trained style network.

    Args:
        path: A run, a checkpoint, an exported network, or ``bundled``.

    Attributes:
        settings: The settings of its module.
        weights: The weights of its module.

    Raises:
        SettingError: If there is no such network.
    """

    def __init__(self, path: str) -> None:
        # Not above, since what reads runs imports the modules.
        from lightning_modules.base import default_settings, plain_settings
        from lightning_modules.style_transfer import StyleTransfer
        from training.paths import local_path
        from training.run import Run
        from training.shipped import with_shipped_networks

        run = Run.find(with_shipped_networks(Path(local_path("model", path))))
        if run.module_name != "StyleTransfer":
            raise SettingError(f"{path} is a network of {run.module_name}, not of StyleTransfer")
        self.settings = default_settings(StyleTransfer) | plain_settings(run.state)
        self.weights = run.weights

    @property
    def shape(self) -> list[Any]:
        """Its settings that cannot change, in the order of ``StyleTransfer``: from ``widths`` to ``photo_size``."""
        return [self.settings[name] for name in _SHAPE]

    @property
    def styles(self) -> list[str]:
        """Its styles, in their order.

        Raises:
            SettingError: If it is a network of one style.
        """
        styles: list[str] | None = self.settings.get("styles")
        if styles is None:
            raise SettingError(
                "model.add_to: that network was trained for one style and has no gamma and beta to add; styles are "
                "added to networks of several, such as bundled, and model.start begins a new network with any"
            )
        return styles

    @torch.no_grad()
    def copy_to_(self, transformer: nn.Module, kept_styles: int = 0) -> None:
        """Copy the weights into another network with convolutions of the same shapes.

        Norms take what they have in common with those here.

        Args:
            transformer: The other network.
            kept_styles: How many of its styles are the first ones here. The gamma and beta of all others become the
                average over the styles here.

        Raises:
            SettingError: If a convolution does not fit, is missing or is left over.
        """
        known = _by_style(self.weights)
        places = _by_style(transformer.state_dict(prefix="transformer.", keep_vars=True))
        there, wanted = _convolutions(known), _convolutions(places)
        if different := [place for place in wanted | there if wanted.get(place) != there.get(place)]:
            shape = " and ".join(f"{key} {self.settings.get(key)}" for key in ("widths", "num_blocks"))
            raise SettingError(
                f"model.start: {different[0]} has another shape than in the network to begin with, which has {shape}: "
                "give the same, or --model.start null"
            )
        for place in places.keys() & known.keys():
            given, average = known[place], torch.stack(known[place]).double().mean(0)
            for index, value in enumerate(places[place]):
                source = given[index] if index < min(kept_styles, len(given)) else average
                if source.shape == value.shape:
                    value.copy_(source)


def train_only_styles_from_(first: int, transformer: nn.Module) -> None:
    """Freeze a network of several styles, but for what the styles from an index on have of their own in its norms."""
    transformer.requires_grad_(False)
    for module in transformer.modules():
        if isinstance(module, NormPerCondition):
            for norm in list(module.norms.values())[first:]:
                norm.requires_grad_(True)
        if isinstance(module, ConditionalNorm):
            for table in (module.weight, module.bias):
                table.requires_grad_(True)
                table.register_hook(lambda grad: grad.index_fill(0, torch.arange(first, device=grad.device), 0))


def _by_style(weights: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Return weights by their places in the network, for each style in its order where styles have their own."""
    places: dict[str, list[Tensor]] = {}
    for name, value in weights.items():
        place = re.sub(r"\.(norm\d?)\.(norm|norms\.[^.]+)\.", r".\1.", name)
        # Tables of gamma and beta are all there is of two dimensions.
        places.setdefault(place, []).extend(value if value.ndim == 2 else [value])
    return places


def _convolutions(places: Mapping[str, list[Tensor]]) -> dict[str, torch.Size]:
    """Return the shapes of all that the convolutions have, which is all of a network but its norms."""
    own = {place: values for place, values in places.items() if place.startswith("transformer.")}
    return {place: values[0].shape for place, values in own.items() if ".norm" not in place}
