"""Noise over a plane without end, of which every part can be had alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.stream import generator

CELL = 128
"""Side of the squares of pixels whose noise is drawn at once."""


def noise_field(key: Sequence[int], corner: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Return standard normal noise as a pure function of a key and of the place.

    Args:
        key: Integers that tell fields apart.
        corner: Top and left of the part, at least 0.
        size: Its height and width.

    Returns:
        (1, 3, height, width).
    """
    (top, left), (height, width) = corner, size
    columns = range(left // CELL, (left + width - 1) // CELL + 1)
    rows = [
        torch.cat([_cell(key, row, column) for column in columns], dim=2)
        for row in range(top // CELL, (top + height - 1) // CELL + 1)
    ]
    field = torch.cat(rows, dim=1)[None, :, top % CELL :, left % CELL :]
    return field[..., :height, :width]


def _cell(key: Sequence[int], row: int, column: int) -> Tensor:
    return torch.randn(3, CELL, CELL, generator=generator(*key, row, column))
