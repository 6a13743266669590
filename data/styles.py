"""The style pictures that come with the project, and any other picture as a style."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from data.files import find_images
from data.images import ImageError, load_image
from norms.errors import SettingError

_FOLDER = Path(__file__).parent / "styles"

_LONGEST_SIDE = 4096
"""Styles are broad strokes: of a larger JPEG file, half or a quarter of its pixels will do, but no fewer than this."""


def names() -> list[str]:
    """List the bundled pictures."""
    return sorted(path.stem for path in _FOLDER.glob("*.png"))


def name_of(style: str) -> str:
    """Return what a style is called: its picture's name, without folder and extension, or those of several by ``+``."""
    return "+".join(Path(part).stem for part in style.split("+"))


def pictures_of(style: str) -> list[str]:
    """Return the pictures of a style, such as two for ``night+my_painting.jpg``."""
    whole = "+" not in style or os.path.lexists(os.path.expanduser(style))
    return [style] if whole else style.split("+")


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
        raise SettingError(f"styles: {' and '.join(alike)} would both be called {name}: rename one of them")


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
            f"no style picture {str(style)!r}: there is no such file, and the bundled ones are {', '.join(bundled)}"
        )
    try:
        return load_image(style, lambda width, height: max(width, height) / _LONGEST_SIDE)
    except ImageError as error:
        raise SettingError(f"style picture {error} (bundled ones: {', '.join(bundled)})") from error
