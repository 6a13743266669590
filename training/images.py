"""Writing results that are images."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from norms.errors import SettingError
from training.files import replacing


def write_image(image: Tensor, path: Path, **options: Any) -> None:
    """Write an image in the format that the ending of ``path`` names, as a whole or not at all.

    Args:
        image: (C, H, W), values in [0, 1].
        path: The file to write; it may exist. Its folder is made.
        options: What Pillow shall do in that format, such as ``quality``.

    Raises:
        SettingError: If it cannot be written.
    """
    picture = tvf.to_pil_image(tvf.to_dtype(image, torch.uint8, scale=True))
    try:
        with replacing(path) as partial:
            picture.save(partial, Image.registered_extensions()[path.suffix.lower()], **options)
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error
