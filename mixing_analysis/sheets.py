"""Sheets of pictures: how they are put together, colored, embedded in a page and written to files."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import torch
import torch.nn.functional as F
from PIL import features
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from training.images import to_picture

SMALLEST, LARGEST = 128, 384
"""Between how many pixels the longer side of a picture of a sheet is; smaller ones are enlarged pixel by pixel."""

GAP = 4
"""Pixels of the white lines between the pictures of a sheet."""

COLORS = "PuOr_r"
"""Of activations: purple below 0, orange above. The colors of the page mean statistics."""

_FORMATS: dict[str, dict[str, Any]] = {"png": {"optimize": True}, "jpeg": {"quality": 88}, "webp": {"quality": 88}}


@dataclass(frozen=True)
class Sheet:
    """Hold pictures of one size in rows and columns, with white lines between them, as one.

    Attributes:
        image: (3, H, W), values in [0, 1].
        rows: How many rows there are.
        columns: How many columns.
        size: Height and width of each picture.
    """

    image: Tensor
    rows: int
    columns: int
    size: tuple[int, int]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Tensor]]) -> "Sheet":
        """Put pictures together, row by row, each (3, H, W), values in [0, 1]."""
        lined = [torch.cat([F.pad(each, (0, GAP, 0, GAP), value=1.0) for each in row], 2) for row in rows]
        image = torch.cat(lined, 1)[:, :-GAP, :-GAP]
        height, width = rows[0][0].shape[1:]
        return cls(image, len(rows), len(rows[0]), (height, width))

    def column(self, number: int) -> Tensor:
        """Return the pictures of a column, one below the other."""
        width = self.size[1]
        return self.image[:, :, number * (width + GAP) :][:, :, :width]

    def data_url(self) -> str:
        """Return the whole sheet as an address that holds it, in the format that takes the fewest bytes."""
        picture, found = to_picture(self.image), {}
        for name, options in _FORMATS.items():
            if name != "webp" or features.check("webp"):
                stream = io.BytesIO()
                picture.save(stream, name, **options)
                found[name] = stream.getvalue()
        name = min(found, key=lambda each: len(found[each]))
        return f"data:image/{name};base64,{base64.b64encode(found[name]).decode()}"


def fitted(image: Tensor, most: int = LARGEST) -> Tensor:
    """Return a picture as a sheet has it: RGB, on the CPU, of at most so many pixels on its longer side.

    Args:
        image: (C, H, W), values in [0, 1]; of other than 3 channels the first is shown, as gray.
        most: The limit.
    """
    image = (image if len(image) == 3 else image[:1].expand(3, -1, -1)).float().clamp(0, 1).cpu()
    height, width = image.shape[1:]
    longest = max(height, width)
    if longest > most:
        size = [max(1, round(side * most / longest)) for side in (height, width)]
        return tvf.resize(image, size, antialias=True)
    scale = math.ceil(SMALLEST / longest)
    return image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def colored(maps: Tensor, limit: float, size: tuple[int, int]) -> Tensor:
    """Color maps of activations, pixel by pixel: (..., h, w) -> (..., 3, H, W), from ``-limit`` to ``limit``."""
    flat = F.interpolate(maps.flatten(0, -3)[:, None], size, mode="nearest-exact")[:, 0]
    colors = mpl.colormaps[COLORS](((flat / limit + 1) / 2).clamp(0, 1).numpy())[..., :3]
    return torch.from_numpy(colors).movedim(-1, -3).float().unflatten(0, maps.shape[:-2])


def inset(image: Tensor, picture: Tensor) -> Tensor:
    """Lay a small picture, (3, h, w), on the lower left corner of an image, (3, H, W), both with values in [0, 1]."""
    side = image.shape[1] // 3
    size = [side, max(1, min(round(side * picture.shape[2] / picture.shape[1]), image.shape[2] - 4))]
    small = F.pad(tvf.resize(picture, size, antialias=True), (2, 2, 2, 2), value=1.0)
    laid = image.clone()
    laid[:, -small.shape[1] :, : small.shape[2]] = small.clamp(0, 1)
    return laid
