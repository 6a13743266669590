"""Regions of a photo that are painted in styles of their own."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageChops, ImageFilter

from data.images import decode, opened
from lightning_modules.networks.transformer import Style
from norms.errors import SettingError

RIM = 3.0
"""Standard deviation of the blur of rims, in pixels that the network sees."""


class MaskError(SettingError):
    """Say that a mask does not fit a photo."""


class Region(NamedTuple):
    """Say where a photo is painted in which style."""

    mask: Image.Image
    """Mode L: white where the style is painted, black where it is not, gray for shares; of the photo's shape."""
    style: Style
    """An index, or shares."""
    path: Path
    """The mask's file."""

    def check(self, size: tuple[int, int]) -> None:
        """Refuse a photo that the mask does not fit.

        Args:
            size: The photo's width and height, in the mask's proportions to a pixel.

        Raises:
            MaskError: If it has others.
        """
        (width, height), (own_width, own_height) = size, self.mask.size
        fits = abs(width * own_height - height * own_width) <= max(width + height, own_width + own_height)
        if not fits:
            raise MaskError(
                f"the mask {self.path} has {own_width}x{own_height} pixels, and the photo {width}x{height}: "
                "make it as large, or of the same proportions"
            )


def read_region(path: Path, style: Style, max_pixels: int | None = None) -> Region:
    """Read a mask.

    Args:
        path: An image file.
        style: What to paint in where it is white. What is transparent counts as black.
        max_pixels: See :func:`data.images.opened`.

    Raises:
        ImageError: If it cannot be read.
    """
    with opened(path, max_pixels=max_pixels) as file:
        picture, alpha = decode(file)
        mask = picture.convert("L")
    return Region(mask if alpha is None else ImageChops.multiply(mask, alpha), style, path)


def blend(picture: Image.Image, others: Iterable[tuple[Region, Image.Image]]) -> Image.Image:
    """Lay parts of other pictures of the same size over one, each where its region is, with soft rims."""
    for region, other in others:
        mask = region.mask.resize(picture.size, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(RIM))
        picture = Image.composite(other, picture, mask)
    return picture
