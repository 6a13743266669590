"""Noise that belongs to places: parts of a picture have the noise that they have in the whole."""

import torch
from torch import Tensor

from data.stream import generator

CELL = 128
"""Side of the squares of pixels whose noise is drawn at once."""

_KEY = 3
"""Tells this noise apart from the other random numbers of a module."""


def noise_at(seed: int, corner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return standard normal noise for a rectangle of an endless picture, (3, H, W), a function of seed and place.

    Args:
        seed: Key of the noise.
        corner: Row and column of the rectangle's upper left pixel, at least 0.
        size: Height and width of the rectangle, at least 1.
    """
    (top, left), (height, width) = corner, size
    rows = range(top // CELL, (top + height - 1) // CELL + 1)
    columns = range(left // CELL, (left + width - 1) // CELL + 1)
    cells = torch.cat([torch.cat([_cell(seed, row, column) for column in columns], dim=2) for row in rows], dim=1)
    return cells[:, top % CELL :, left % CELL :][:, :height, :width]


def _cell(seed: int, row: int, column: int) -> Tensor:
    return torch.randn(3, CELL, CELL, generator=generator(seed, _KEY, row, column))
