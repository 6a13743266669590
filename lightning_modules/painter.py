"""Base of the modules that paint photos: what ``stylize.py`` asks of any of them."""

import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf
from torchvision.utils import make_grid

from lightning_modules.base import HYPER_PARAMETERS, TrainingModule, plain_settings
from lightning_modules.networks.transformer import Style
from norms.errors import SettingError, check_range, unknown

SAMPLES = 6
"""How many photos the sample grid shows, if a validation batch has as many."""

GAP = 4
"""Width of the white lines in the sample grid, in pixels."""


class Painter(TrainingModule, ABC):
    """Define what all modules have that paint a photo in a style.

    Their hyperparameters have a ``photo_size``: how many pixels a photo has on its longer side where it is shown to the
    network.
    """

    takes_pictures: bool = False
    """Whether :meth:`find_style` takes the path of any picture too."""

    sample_caption = "validation photos, and below them the same photos in each style"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._batch: dict[str, Tensor] | None = None

    @property
    @abstractmethod
    def style_names(self) -> list[str]:
        """The names of the styles that the network knows by an index."""

    @property
    @abstractmethod
    def style_images(self) -> list[Tensor]:
        """A picture of each of these styles, uint8, (3, H, W)."""

    @abstractmethod
    def forward(self, image: Tensor, style: Style = 0) -> Tensor:
        """Paint images.

        Args:
            image: (B, 3 or 1, H, W), values in [0, 1].
            style: What :meth:`find_style` returns, or the index of one of ``style_names``.

        Returns:
            (B, 3, H, W), values in [0, 1].
        """

    @abstractmethod
    def find_style(self, chosen: Sequence[str]) -> Style:
        """Find the style that a command line asks for.

        Args:
            chosen: One style; or several as ``style=share``, whose shares sum to 1. None is the first of
                ``style_names``.

        Raises:
            SettingError: If there is no such style, or the shares are none.
        """

    def weakened(self, style: Style, strength: float) -> tuple[Style, float]:
        """Weaken a style inside the network, if it can do that.

        Args:
            style: What :meth:`find_style` returns.
            strength: How much of the style the result has, in [0, 1].

        Returns:
            The style to paint in, and how much of the painting the result has, the rest being the photo.
        """
        return style, strength

    def shared_settings(self) -> dict[str, Any]:
        """Return the hyperparameters for a file to hand on, which name no folder and no file of the training."""
        return plain_settings({HYPER_PARAMETERS: self.hparams}) | {"weights": None}

    def next_command(self, run_dir: Path) -> str:
        """Return the command that paints a photo."""
        return f"python stylize.py {shlex.quote(str(run_dir))} photo.jpg -o out/"

    def on_fit_start(self) -> None:
        """Refuse half precision, of which the loss network's statistics need more.

        Raises:
            SettingError: If ``trainer.precision`` is half.
        """
        precision = self.trainer.precision
        if precision in ("16-true", "bf16-true"):
            raise SettingError(f"style transfer trains in precision 32-true, 64-true or a mixed one, not {precision}")

    def sample_photos(self) -> Tensor:
        """Return the first validation photos, (B, 3 or 1, H, W) with B of at most 6, values in [0, 1]."""
        return self.sample_batch()["image"][:SAMPLES]

    def sample_batch(self) -> dict[str, Tensor]:
        """Return the first validation batch, read once."""
        if self._batch is None:
            trainer = cast(Any, self.trainer)  # whose datamodule is not declared
            loader = trainer.val_dataloaders or trainer.datamodule.val_dataloader()
            # To iterate over a DataLoader may draw from torch's generator, which no picture may move.
            with torch.random.fork_rng(devices=[]):
                self._batch = next(iter(loader))
        return self._batch


def draw_samples(photos: Tensor, painted: Sequence[Tensor], pictures: Sequence[Tensor]) -> Tensor:
    """Draw photos, and below them what the network makes of them, a row for each style.

    The style pictures are on the left of their rows; a single one is as high as all.

    Args:
        photos: (B, 3, H, W), values in [0, 1].
        painted: For each style likewise.
        pictures: Of each style, uint8, (3, H', W').

    Returns:
        (3, H'', W''), values in [0, 1], on the CPU.
    """
    grid = make_grid(torch.cat([photos, *painted]).float().cpu(), nrow=len(photos), padding=GAP, pad_value=1.0)
    several = len(pictures) > 1
    height = photos.shape[2] if several else grid.shape[1] - 2 * GAP
    scaled = [_as_high(picture.cpu(), height) for picture in pictures]
    widest = max(picture.shape[2] for picture in scaled)
    left = torch.ones(3, grid.shape[1], GAP + widest)
    for row, picture in enumerate(scaled):
        top = GAP + (row + 1) * (height + GAP) if several else GAP
        left[:, top : top + height, GAP : GAP + picture.shape[2]] = picture
    return torch.cat([left, grid], dim=2)


def _as_high(picture: Tensor, height: int) -> Tensor:
    """Scale a picture, uint8, (3, H, W), to a height; values in [0, 1]."""
    size = [height, max(1, round(picture.shape[2] * height / picture.shape[1]))]
    return tvf.to_dtype(tvf.resize(picture, size, InterpolationMode.BICUBIC), torch.float32, scale=True)


def split_share(text: str) -> tuple[str, str]:
    """Split ``style=share`` into both; the share is empty if there is none, as in the path of a file with a ``=``."""
    name, equals, share = text.rpartition("=")
    return (name, share) if equals and not os.path.lexists(os.path.expanduser(text)) else (text, "")


def split_shares(chosen: Sequence[str]) -> list[tuple[str, float]]:
    """Split what a command line says of styles, ``style`` or several ``style=share``, into styles and shares.

    Raises:
        SettingError: If several styles have no shares, a share is negative, or they do not sum to 1.
    """
    pairs = [split_share(each) for each in chosen]
    if len(pairs) == 1 and not pairs[0][1]:
        return [(pairs[0][0], 1.0)]
    shares = []
    for name, text in pairs:
        try:
            shares.append(float(text))
        except ValueError:
            raise SettingError(f"--style {name}: several styles have shares, as in --style {name}=0.5") from None
    for share in shares:
        check_range("the smallest share of a style", share, at_least=0)
    if shares and not abs(sum(shares) - 1) < 1e-3:
        raise SettingError(
            f"the shares of the styles must sum to 1, got {sum(shares):g}: "
            "repeat --style NAME=SHARE for each style, or weaken a single one with --strength"
        )
    return [(name, share) for (name, _), share in zip(pairs, shares, strict=True)]


def find_trained(names: Sequence[str], chosen: Sequence[str]) -> Style:
    """Find the style that a command line asks for among those that a network is trained for.

    Args:
        names: The network's styles.
        chosen: As :meth:`Painter.find_style` takes it.

    Returns:
        An index, or shares of all styles.

    Raises:
        SettingError: If there is no such style, or the shares are none.
    """
    pairs = split_shares(chosen)
    for name, _ in pairs:
        if name not in names:
            raise unknown("style", name, names) if name == Path(name).stem else _untrained(name, names)
    if len(pairs) < 2:
        return names.index(pairs[0][0]) if pairs else 0
    shares = torch.zeros(len(names))
    for name, share in pairs:
        shares[names.index(name)] += share
    return shares


def _untrained(picture: str, names: Sequence[str]) -> SettingError:
    trained = f"the styles {', '.join(names)}" if len(names) > 1 else f"one style, {names[0]}"
    return SettingError(
        f"--style {picture}: the network is trained for {trained}; one of configs/any_style.yaml paints in the style "
        "of any picture"
    )
