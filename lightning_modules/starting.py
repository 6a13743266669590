"""Trained style networks that another training begins with, or adds styles to."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from norms import ConditionalNorm
from norms.errors import SettingError

_SHAPE = ("widths", "num_blocks", "norm", "norm_options", "upsampling", "noise", "photo_size")


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
        """Its settings that cannot change: widths, num_blocks, norm, norm_options, upsampling, noise, photo_size."""
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
            SettingError: If a convolution does not fit.
        """
        weights = {_canonical(name): value for name, value in self.weights.items()}
        for name, own in transformer.state_dict(keep_vars=True).items():
            given = weights.get(f"transformer.{_canonical(name)}")
            if given is not None and given.ndim == 2:  # a table of gamma or beta by style
                average = given.mean(0)
                if own.ndim == 2:
                    average = torch.cat([given[:kept_styles], average.expand(len(own) - kept_styles, -1)])
                given = average
            elif given is not None and own.ndim == 2:
                given = given.expand_as(own)
            if given is not None and given.shape == own.shape:
                own.copy_(given)
            elif own.ndim == 4:
                shape = " and ".join(f"{key} {self.settings.get(key)}" for key in ("widths", "num_blocks"))
                raise SettingError(
                    f"model.start: {name} has another shape than in the network to begin with, which has {shape}: give "
                    "the same, or --model.start null"
                )


def train_only_styles_from_(first: int, transformer: nn.Module) -> None:
    """Freeze a network of several styles, but for the gamma and beta of the styles from an index on."""
    transformer.requires_grad_(False)
    for module in transformer.modules():
        if isinstance(module, ConditionalNorm):
            for table in (module.weight, module.bias):
                table.requires_grad_(True)
                table.register_hook(lambda grad: grad.index_fill(0, torch.arange(first, device=grad.device), 0))


def _canonical(name: str) -> str:
    """Return the name of a weight without what a norm that is conditional adds to it."""
    return re.sub(r"\.(norm\d?)\.norm\.", r".\1.", name)
