"""Images in a haze of random color, whose label is what they show or the haze: style as a disturbance, or as the task.

The pixels are the same in both cases, so that what differs between two trainings is due to the labels alone.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from data import CIFAR10, LabeledFolder
from data.module import ImageDataModule
from data.stream import Items, generator
from norms.errors import unknown

STYLES = ("plain", "noise", "matters")

HUES = ("orange", "green", "teal", "blue", "pink")

HAZES = tuple(f"{density} {hue}" for density in ("thin", "dense") for hue in HUES)
"""The labels if style matters."""

THINNEST, DENSEST = 0.2, 0.8
"""What share of the light is that of the haze."""

_TRAIN, _VAL = 0, 1


def haze(image: Tensor, hue: float, density: float) -> Tensor:
    r"""Lay a haze of even thickness over an image.

    .. math::
        y_c = (1 - d) x_c + d a_c, \quad a_c = 0.5 + 0.4 \cos(2 \pi (h - c / 3))

    It changes the mean and the contrast of each color channel, and nothing else, so that an instance normalization of
    the image would undo it.

    Args:
        image: (3, H, W) in [0, 1].
        hue: h of the haze's light, in [0, 1): red at 0, green at 1/3, blue at 2/3.
        density: d, in [0, 1].

    Source:
        Koschmieder's law, as in He et al., Single Image Haze Removal Using Dark Channel Prior, CVPR 2009, equation 1.
    """
    light = 0.5 + 0.4 * torch.cos(2 * math.pi * (hue - torch.arange(3) / 3))
    return (1 - density) * image + density * light[:, None, None]


def haze_label(hue: float, density: float) -> int:
    """Return which of :data:`HAZES` a haze is: one of five equal parts of all hues, and thinner or denser than most."""
    dense = density >= (THINNEST + DENSEST) / 2
    return int(dense) * len(HUES) + int(hue * len(HUES))


class StyledLabels(ImageDataModule):
    """Give a labeled set of color images random styles; to be inherited together with the set.

    The haze of an image depends on the seed and on the image's place in the set, and stays the same from pass to pass;
    those of the validation images are the same for every seed.

    Args:
        style: ``plain`` leaves the images as they are; ``noise`` gives each a :func:`haze` of random hue and density,
            and leaves the labels; ``matters`` gives it the same haze, and its :func:`haze_label` in place of the label.
        args: Those of the set.
        kwargs: Likewise.
    """

    def __init__(self, *args: Any, style: str = "plain", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if style not in STYLES:
            raise unknown("data.style", style, STYLES)
        self.style = style

    @property
    def class_names(self) -> list[str]:
        """Return what the labels stand for."""
        return list(HAZES) if self.style == "matters" else super().class_names

    @property
    def num_classes(self) -> int:
        """Return the number of labels."""
        return len(self.class_names)

    def load(self) -> tuple[Items, Items]:
        """Read the set, and number its images."""
        train, val = super().load()  # type: ignore[safe-super]
        if self.style == "plain":
            return train, val
        matters = self.style == "matters"
        self.train_transform = partial(_styled, then=self.train_transform, key=(self.seed, _TRAIN), matters=matters)
        self.val_transform = partial(_styled, then=self.val_transform, key=(0, _VAL), matters=matters)
        return _Numbered(train), _Numbered(val)


class StyledCIFAR10(StyledLabels, CIFAR10):
    """Serve CIFAR-10 in random styles."""


class StyledFolder(StyledLabels, LabeledFolder):
    """Serve the images of a folder or zip file in random styles."""


class _Numbered:
    """Serve items with their places in the set."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.items[index], int(index)


def _styled(
    numbered: tuple[Any, int], then: Callable[[Any], Any] | None, key: tuple[int, int], matters: bool
) -> dict[str, Any]:
    item, index = numbered
    item = item if then is None else then(item)
    hue, share = torch.rand(2, generator=generator(*key, index)).tolist()
    density = THINNEST + (DENSEST - THINNEST) * share
    label = haze_label(hue, density) if matters else item["label"]
    return {"image": haze(item["image"], hue, density), "label": label}
