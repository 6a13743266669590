"""Writing results that are images."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from norms.errors import SettingError
from training.files import replacing

# A quarter of the pixels would share each color, by Pillow's own choice.
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}


def to_picture(image: Tensor) -> Image.Image:
    """Convert an image: (C, H, W), values in [0, 1] -> 8 bits."""
    return tvf.to_pil_image(tvf.to_dtype(image, torch.uint8, scale=True))


def format_of(path: Path) -> str:
    """Return the name by which Pillow knows the format that the ending of ``path`` names."""
    return Image.registered_extensions()[path.suffix.lower()]


def write_image(image: Tensor | Image.Image, path: Path, synced: bool = True, **options: Any) -> None:
    """Write an image in the format that the ending of ``path`` names, as a whole or not at all.

    JPEG files are written in good quality and with the colors of every pixel.

    Args:
        image: (C, H, W), values in [0, 1], or a picture of Pillow's.
        path: The file to write; it may exist. Its folder is made.
        synced: See :func:`training.files.replacing`.
        options: What Pillow shall do in that format, such as ``quality``.

    Raises:
        SettingError: If it cannot be written.
    """
    picture = to_picture(image) if isinstance(image, Tensor) else image
    kind = format_of(path)
    try:
        with replacing(path, synced) as partial:
            picture.save(partial, kind, **(_OPTIONS.get(kind, {}) | options))
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error
