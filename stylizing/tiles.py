"""Pictures of any size painted by a network in bounded memory: large ones in tiles, which show no seams."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import norms
from data.images import to_tensor
from lightning_modules.networks.transformer import Style
from lightning_modules.painter import Painter
from norms.errors import SettingError
from training.images import to_picture

AT_ONCE = 2**20
"""How many pixels a network sees at once."""

GRID = 64
"""Tiles begin at multiples of this, which networks halve evenly as often as they halve the resolution."""

TILE = 8 * GRID
"""Side of a tile, without what surrounds it."""

PROBE = 8 * GRID
"""Side of the picture by which it is measured how far a network looks."""


def paint_seen(
    model: Painter, seen: Image.Image, style: Style, advance: Callable[[float], None] = lambda share: None
) -> Image.Image:
    """Paint a picture of the size in which the network is to see it.

    With more than :data:`AT_ONCE` pixels it is painted in tiles. Statistics of the norms that are taken of the picture
    are then those of one pass over all of it, scaled down to that many pixels (:func:`norms.fixed_statistics`), and
    each tile is shown with as much around it as the network looks at. So the result is, but for rounding, that of one
    pass with these statistics.

    Args:
        model: A trained model in evaluation mode.
        seen: RGB.
        style: What to paint in.
        advance: Called with the share of the work that is done, in (0, 1].

    Returns:
        RGB, of the same size.

    Raises:
        SettingError: If a large picture cannot be painted in tiles, since what the network makes of a place depends on
            all of it by more than the statistics of norms.
    """
    style = style.to(model.device) if isinstance(style, Tensor) else style
    with torch.inference_mode():
        if seen.width * seen.height <= AT_ONCE:
            result = _painted(model, to_tensor(seen), style)
            advance(1.0)
            return result
        scale = math.sqrt(AT_ONCE / (seen.width * seen.height))
        size = max(1, int(seen.width * scale)), max(1, int(seen.height * scale))
        overview = to_tensor(seen.resize(size, Image.Resampling.LANCZOS))
        with norms.fixed_statistics(model, overview[None].to(model.device), style):
            return _in_tiles(model, seen, style, advance)


def _in_tiles(model: Painter, seen: Image.Image, style: Style, advance: Callable[[float], None]) -> Image.Image:
    margin = math.ceil(_reach(model, style) / GRID) * GRID
    result = Image.new("RGB", seen.size)
    tiles = list(_tiles(seen.width, seen.height))
    for done, (left, top, right, bottom) in enumerate(tiles, start=1):
        begin = max(0, left - margin), max(0, top - margin)
        around = seen.crop((*begin, min(seen.width, right + margin), min(seen.height, bottom + margin)))
        painted = _painted(model, to_tensor(around), style, (begin[1], begin[0]))
        box = left - begin[0], top - begin[1], right - begin[0], bottom - begin[1]
        result.paste(painted.crop(box), (left, top))
        advance(done / len(tiles))
    return result


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield left, top, min(left + TILE, width), min(top + TILE, height)


def _painted(model: Painter, image: Tensor, style: Style, corner: tuple[int, int] = (0, 0)) -> Image.Image:
    # Only what a network adds by itself knows of places.
    place: dict[str, Any] = {"corner": corner} if model.hparams.get("noise") else {}
    return to_picture(model(image[None].to(model.device), style, **place)[0].cpu())


def _reach(model: Painter, style: Style) -> int:
    """Return by how many pixels the network looks beyond a square of the grid: as far as values that are none spread.

    The statistics of norms have to be fixed.
    """
    image = torch.full((1, 3, PROBE, PROBE), 0.5, device=model.device)
    first = (PROBE - GRID) // 2 // GRID * GRID
    image[..., first : first + GRID, first : first + GRID] = torch.nan
    # Some of cuDNN's algorithms spread them over all of the picture.
    with torch.backends.cudnn.flags(enabled=False):
        places = model(image, style)[0].isnan().any(0).nonzero()
    low, high = int(places.min()), int(places.max())
    if low == 0 or high == PROBE - 1:
        raise SettingError(
            "this network cannot paint in tiles, since it looks at all of a photo at once: "
            "try a larger --stroke-size, or --size"
        )
    return max(first - low, high - (first + GRID - 1))
