"""The style pictures that come with the project, and any other picture as a style."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from data.colors import match_covariance
from data.files import find_images
from data.images import ImageError, load_image
from norms.errors import SettingError, did_you_mean

PHOTO = "photo"
"""The name of the style that leaves photos as they are."""

_FOLDER = Path(__file__).parent / "styles"

SMALLEST_STYLE = 32
"""Pixels below which a picture has no texture left to learn from."""

LARGEST_STYLE = 2**13
"""Pixels above which a picture fills the memory, by a network's activations."""

_LONGEST_SIDE = 4096
"""Styles are broad strokes: of a larger JPEG file, half or a quarter of its pixels will do, but no fewer than this."""


def names() -> list[str]:
    """List the bundled pictures."""
    return sorted(path.stem for path in _FOLDER.glob("*.png"))


def name_of(style: str) -> str:
    """Return what a style is called: its picture's name, without folder and extension, or those of several by ``+``."""
    return "+".join(Path(part).stem for part in style.split("+"))


def find_styles(styles: Sequence[str]) -> list[str]:
    """List the style pictures that several names, files and folders of pictures stand for.

    Args:
        styles: Each the name of a bundled picture, the path of an image file, several of both with ``+`` between them,
            or the path of a folder.

    Returns:
        Names and paths, a folder's in the order of its files.

    Raises:
        SettingError: If there are none, a folder holds no images, or two have the same name.
    """
    found: list[str] = []
    for style in styles:
        folder = os.path.expanduser(style)
        inside = sorted(map(str, find_images(folder))) if style not in names() and os.path.isdir(folder) else [style]
        if not inside:
            raise SettingError(f"styles: no image files in {style} or the folders below")
        found += inside
    if not found:
        raise SettingError("styles: expected one or more names, files or folders of style pictures, got none")
    check_names(found)
    return found


def check_names(styles: Sequence[str]) -> None:
    """Refuse styles of which two have the same name.

    Raises:
        SettingError: If two have.
    """
    name, count = Counter(map(name_of, styles)).most_common(1)[0]
    if count > 1:
        alike = [style for style in styles if name_of(style) == name]
        advice = (
            "rename one of them" if len(set(alike)) > 1 else "name it once, or give a copy of its file another name"
        )
        raise SettingError(f"styles: {' and '.join(alike)} would both be called {name}: {advice}")


def open_style(style: str | os.PathLike[str]) -> Image.Image:
    """Open a style picture.

    Args:
        style: The name of a bundled picture, or else the path of any image file.

    Returns:
        An RGB image.

    Raises:
        SettingError: If it is neither, or cannot be read.
    """
    bundled = names()
    if str(style) in bundled:
        return load_image(_FOLDER / f"{style}.png")
    style = os.path.expanduser(style)
    if not os.path.lexists(style):
        raise SettingError(
            f"no style picture {str(style)!r}: there is no such file, and the bundled ones are "
            f"{', '.join(bundled)}{did_you_mean(str(style), bundled)}"
        )
    try:
        return load_image(style, lambda width, height: max(width, height) / _LONGEST_SIDE)
    except ImageError as error:
        raise SettingError(f"style picture {error} (bundled ones: {', '.join(bundled)})") from error


def scaled_style(style: str, size: int, colors: str | None = None) -> Tensor:
    """Open a style at the size at which a network learns from it.

    Args:
        style: See :func:`open_style`; or several such with ``+`` between them, which stand side by side, so that they
            have the average of their Gram matrices. ``photo`` is a white picture.
        size: How long the longer side of each picture becomes, in pixels.
        colors: Another picture, as :func:`open_style` takes it, whose mean color and covariance each is given.

    Returns:
        RGB, uint8, (3, H, W).

    Raises:
        SettingError: If a picture cannot be read, is too narrow, or it or that of the colors has a single color.
    """
    if style == PHOTO:
        return torch.full((3, SMALLEST_STYLE, SMALLEST_STYLE), 255, dtype=torch.uint8)
    whole = os.path.lexists(os.path.expanduser(style))
    pictures = [_scaled_picture(part, size, colors) for part in ([style] if whole else style.split("+"))]
    lowest = min(picture.shape[1] for picture in pictures)
    return torch.cat([picture[:, :lowest] for picture in pictures], dim=2)


def _scaled_picture(style: str, size: int, colors: str | None) -> Tensor:
    picture = open_style(style)
    if min(picture.size) * size < SMALLEST_STYLE * max(picture.size):
        raise SettingError(
            f"style picture {style} ({picture.width}x{picture.height} pixels) is too narrow for style_size {size}: "
            f"its shorter side must keep at least {SMALLEST_STYLE} pixels"
        )
    if min(picture.size) < SMALLEST_STYLE:
        raise SettingError(
            f"style picture {style} ({picture.width}x{picture.height} pixels) is too small: its shorter side must have "
            f"at least {SMALLEST_STYLE} pixels"
        )
    if picture.getcolors(1) is not None:
        raise SettingError(f"style picture {style} has one single color, and no texture to paint with")
    picture = ImageOps.contain(picture, (size, size))
    if colors is not None:
        palette = open_style(colors)
        if palette.getcolors(1) is not None:
            raise SettingError(f"style_colors {colors} has one single color, and would leave the style no other")
        picture = match_covariance(picture, palette)
    return tvf.pil_to_tensor(picture)
