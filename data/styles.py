"""The style pictures that come with the project, and any other picture as a style."""

import os
from pathlib import Path

from PIL import Image

from data.images import ImageError, load_image
from norms.errors import SettingError

_FOLDER = Path(__file__).parent / "styles"

_LONGEST_SIDE = 4096
"""Styles are broad strokes: of a larger JPEG file, half or a quarter of its pixels will do, but no fewer than this."""


def names() -> list[str]:
    """List the bundled pictures."""
    return sorted(path.stem for path in _FOLDER.glob("*.png"))


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
