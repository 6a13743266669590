"""Image files of any kind, safely decoded to plain 8-bit sRGB."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2 import functional as tvf

from norms.errors import SettingError

# Pillow recognizes these without decoding them itself: stubs for other software, and formats that it hands over to
# Ghostscript or Windows.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

_LAST_BYTES = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}

_MODE_OF_COLOR_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


class ImageError(SettingError):
    """A file that cannot be read as an image; the message is one line with the path and the cause."""


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Decode an image file to 8-bit sRGB.

    The EXIF orientation and an embedded ICC profile are applied, 16-bit gray is scaled to the full 8-bit range,
    transparency is laid over white; palettes, CMYK, and gray become RGB. Of several frames the first counts.

    Args:
        path: A file in any format that Pillow decodes.

    Returns:
        An RGB image without metadata.

    Raises:
        ImageError: If the file is missing, damaged, truncated, no image, of a kind without a defined brightness range
            (floating point, 32 bit), or has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` (a decompression bomb).
    """
    with _opened(path) as image:
        image.load()
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
        return _plain_rgb(upright, profile)


def check_image(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Find out quickly whether a file is a whole image, without decoding it where that can be told without.

    Reads the header, and of JPEG and PNG files the last bytes; only a file that does not end as it should is decoded
    to be sure. So a truncated file is found, while damage amid the data may not be.

    Args:
        path: A file in any format that Pillow decodes.

    Returns:
        Width and height as stored, that is, before the EXIF orientation.

    Raises:
        ImageError: As ``load_image``.
    """
    with _opened(path) as image:
        ending = _LAST_BYTES.get(image.format or "")
        if ending and not _tail(path).rstrip(b"\0").endswith(ending):
            image.load()
        return image.size


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """List the image files below a folder, by their extensions.

    Hidden files and folders are left out; links to folders are followed.

    Args:
        folder: Where to search, at any depth.

    Returns:
        Paths in sorted order, which depends on the names alone.

    Raises:
        SettingError: If there is no such folder.
    """
    if not os.path.isdir(folder):
        raise SettingError(f"{folder}: {'not a folder' if os.path.exists(folder) else 'no such folder'}")
    suffixes = {
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in _NOT_DECODED
    }
    found: list[Path] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        # Emptied, the list ends the walk here: without this a link to a parent folder would be followed for ever.
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        if real not in visited:
            found += [Path(parent, name) for name in files if Path(name).suffix.lower() in suffixes and name[0] != "."]
        visited.add(real)
    return sorted(found)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Convert an 8-bit image.

    Args:
        image: RGB or gray.

    Returns:
        Float32 values in [0, 1].

    Shape:
        (C, H, W)
    """
    return tvf.to_dtype(tvf.pil_to_tensor(image), torch.float32, scale=True)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong, here or in the body, becomes an ImageError of one line."""
    try:
        with Image.open(path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(
                    f"{image.width}x{image.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS ({limit}) allows"
                )
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image in a format that Pillow knows") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except Exception as error:  # damaged files make the decoders raise almost anything
        cause = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise ImageError(f"{path}: {' '.join(cause.split())}") from error


def _tail(path: str | os.PathLike[str]) -> bytes:
    """Read the end of a file; long enough to look past the zeros that some programs pad with."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 256))
        return file.read()


def _plain_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bit(image)
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = rgba.convert("L" if image.mode == "LA" else "RGB")
    rgb = _to_srgb(image, profile)
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits; Pillow's own conversion clips it."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("floating-point and 32-bit images have no defined brightness range; save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    conversion = _conversion_to_srgb(profile) if profile else None
    if conversion is not None:
        mode, transform = conversion
        # A profile of another kind than the image (a gray one on colors, say) was left behind by careless software.
        gray, cmyk = image.mode in ("1", "L"), image.mode == "CMYK"
        if cmyk if mode == "CMYK" else gray if mode == "L" else not cmyk:
            converted = ImageCms.applyTransform(image.convert(mode), transform)
            assert converted is not None  # it is None only for a conversion in place
            return _without_metadata(converted)
    return _without_metadata(image.convert("RGB"))


@lru_cache(maxsize=16)
def _conversion_to_srgb(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Prepare the conversion from an ICC profile, or nothing where the profile is damaged or of a rare kind."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _MODE_OF_COLOR_SPACE[source.profile.xcolor_space.strip()]
        return mode, ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (KeyError, OSError, ImageCms.PyCMSError):
        return None


def _without_metadata(image: Image.Image) -> Image.Image:
    """Drop what described the file: kept, an orientation or a profile could be applied a second time on saving."""
    image.info = {}
    return image
