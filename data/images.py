"""Image files of any kind, safely decoded to plain 8-bit sRGB."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2 import functional as tvf

from data.archives import ImageFile, Member
from data.files import RAW_EXTENSIONS, check_file, is_heif
from norms.errors import SettingError

_LAST_BYTES = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}

_MODE_OF_COLOR_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}

_BITS_PER_SAMPLE = 258
"""Tag of TIFF files."""

_PILLOWS_LIMIT = threading.Lock()


class ImageError(SettingError):
    """Say that a file cannot be read as an image; the message is one line with the path and the cause."""


class Decoded(NamedTuple):
    """Hold what :func:`decode` makes of an image."""

    rgb: Image.Image
    """The colors, 8-bit sRGB; the image itself if it is that already, so that a large one is in memory once."""
    alpha: Image.Image | None
    """The opacity, mode L, if the image says one."""


def load_image(
    path: ImageFile,
    shrink: Callable[[int, int], float] | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """Decode an image file to 8-bit sRGB.

    The EXIF orientation and an embedded ICC profile are applied, 16-bit gray is scaled to the full 8-bit range,
    transparency is laid over white; palettes, CMYK, and gray become RGB. Of several frames the first counts.

    Args:
        path: See :func:`opened`.
        shrink: See :func:`opened`.
        max_pixels: See :func:`opened`.

    Returns:
        An RGB image without metadata.

    Raises:
        ImageError: If the file is missing, no file, damaged, truncated, no image, of a kind without a defined
            brightness range (floating point, 32 bit), or has too many pixels (a decompression bomb).
    """
    with opened(path, shrink, max_pixels) as image:
        rgb, alpha = decode(image)
        if rgb is image:  # which remembers its file
            rgb = rgb.copy()
    if alpha is None:
        return _without_metadata(rgb)
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def check_image(
    path: ImageFile,
    shrink: Callable[[int, int], float] | None = None,
    max_pixels: int | None = None,
) -> tuple[int, int]:
    """Find out quickly whether a file is a whole image, without decoding it where that can be told without.

    Reads the header, and of JPEG and PNG files the last bytes; only a file that does not end as it should is decoded
    to be sure. So a truncated file is found, while damage amid the data may not be.

    Args:
        path: See :func:`opened`.
        shrink: See :func:`opened`.
        max_pixels: See :func:`opened`.

    Returns:
        Width and height as stored, that is, before the EXIF orientation and before it is shrunk.

    Raises:
        ImageError: As ``load_image``.
    """
    sizes: list[tuple[int, int]] = []

    def noted(width: int, height: int) -> float:
        sizes.append((width, height))
        return shrink(width, height) if shrink else 1

    with opened(path, noted, max_pixels) as image:
        ending = _LAST_BYTES.get(image.format or "")
        if ending and not _tail(path).rstrip(b"\0").endswith(ending):
            image.load()
    return sizes[0]


@contextmanager
def opened(
    path: ImageFile,
    shrink: Callable[[int, int], float] | None = None,
    max_pixels: int | None = None,
) -> Iterator[Image.Image]:
    """Open an image, of which only the header is read; whatever goes wrong, also in the block, is an ImageError.

    Args:
        path: A file in any format that Pillow decodes, and HEIF where ``pillow-heif`` is installed; or one within an
            archive.
        shrink: By how much width and height may be divided, given both as stored. A JPEG file is then decoded at a
            half, a quarter or an eighth, whichever is enough, which takes less time and memory. Others are not shrunk.
        max_pixels: How many pixels may be decoded; by default ``PIL.Image.MAX_IMAGE_PIXELS``.

    Yields:
        The image.

    Raises:
        ImageError: As ``load_image``.
    """
    try:
        if not isinstance(path, Member):
            check_file(path)
        if Path(str(path) if isinstance(path, Member) else path).suffix.lower() in RAW_EXTENSIONS:
            raise SettingError(f"{path}: the raw data of a camera, save it as JPEG, PNG or TIFF")
    except SettingError as error:
        raise ImageError(str(error)) from error
    _register_heif()
    try:
        image, limit = _open(path)
        with image:
            _limit_pixels(image, 1 if shrink is None else shrink(*image.size), max_pixels or limit)
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_why_unknown(path)}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except Exception as error:  # damaged files make the decoders raise almost anything
        cause = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise ImageError(f"{path}: {' '.join(cause.split())}") from error


def decode(image: Image.Image) -> Decoded:
    """Decode an image that is open to 8-bit sRGB and its opacity; in place, it is turned upright.

    Raises:
        OSError: If it is damaged; decoders also raise other errors, of all of which :func:`opened` makes one.
        ValueError: If it has no defined brightness range.
    """
    image.load()
    profile = image.info.get("icc_profile")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bit(image)
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = rgba.convert("L" if image.mode == "LA" else "RGB")
    return Decoded(_to_srgb(image, profile), alpha)


def from_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert an sRGB image to the colors of an ICC profile.

    Returns:
        The image, or None if the profile is damaged or not one of RGB colors.
    """
    try:
        target = ImageCms.ImageCmsProfile(BytesIO(profile))
        if target.profile.xcolor_space.strip() != "RGB":
            return None
        return ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target)
    except (OSError, ImageCms.PyCMSError):
        return None


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


def _open(path: ImageFile) -> tuple[Image.Image, int | None]:
    """Open an image of any size, and return Pillow's limit with it.

    Pillow holds the stored size against a number that all threads share, and warns or raises; here it is the size that
    is decoded that counts.
    """
    with _PILLOWS_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(BytesIO(path.read()) if isinstance(path, Member) else path), limit
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _limit_pixels(image: Image.Image, shrink: float, limit: int | None) -> None:
    width, height = image.size
    if scale := next((scale for scale in (8, 4, 2) if scale <= shrink), None):
        image.draft(None, (max(1, width // scale), max(1, height // scale)))
    # The decoder of a progressive JPEG holds all of it, however little it makes of it.
    pixels = width * height if image.info.get("progressive") else image.width * image.height
    if limit is not None and pixels > limit:
        raise ValueError(f"{width}x{height} pixels are more than max_pixels allows, {limit}")


@cache
def _register_heif() -> None:
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _why_unknown(path: ImageFile) -> str:
    if isinstance(path, Member):
        return "not an image in a format that can be decoded"
    if is_heif(path) and "HEIF" in Image.OPEN:
        return "a damaged HEIC file"
    if is_heif(path):
        return "a HEIC file, for which pillow-heif must be installed: pip install 'normlab[heif]', or save it as JPEG"
    return "not an image in a format that Pillow knows"


def _tail(path: ImageFile) -> bytes:
    """Read the end of a file; long enough to look past the zeros that some programs pad with."""
    if isinstance(path, Member):
        return path.read()[-256:]
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 256))
        return file.read()


def _white(image: Image.Image) -> int:
    """Return the value of white in an image of gray integers."""
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
        return (1 << bits) - 1
    if image.mode == "I" and image.format == "PPM":  # whose values Pillow scales to 16 bits
        return 65535
    raise ValueError("floating-point and 32-bit images have no defined brightness range; save it with 8 or 16 bits")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale gray integers to 8 bits, rounded; Pillow's own conversion clips them."""
    white = _white(image)
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    conversion = _conversion_to_srgb(profile) if profile else None
    if conversion is not None:
        mode, transform = conversion
        # A profile of another kind than the image (a gray one on colors, say) was left behind by careless software.
        gray, cmyk = image.mode in ("1", "L"), image.mode == "CMYK"
        if cmyk if mode == "CMYK" else gray if mode == "L" else not cmyk:
            fitting = image if image.mode == mode else image.convert(mode)  # which would copy a large image
            converted = ImageCms.applyTransform(fitting, transform)
            assert converted is not None  # it is None only for a conversion in place
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")


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
