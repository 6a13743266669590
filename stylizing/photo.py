"""A photo that is repainted: what of its file the network sees, and what its result keeps."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, Image, IptcImagePlugin, PngImagePlugin
from PIL.ImageFile import ImageFile

from data.images import decode, from_srgb, opened
from training.images import format_of, write_image

FRAMES, TRANSPARENCY, PROFILE, TONES = "further frames", "transparency", "color profile", "more than 8 bits a color"
EXIF, XMP, IPTC = "EXIF data", "XMP data", "IPTC data"
"""What a result may lack."""

_WITH_TRANSPARENCY = {"PNG", "TIFF", "WEBP"}

_LONGEST_EXIF = {"BMP": 0, "JPEG": 65533}
_LONGEST_XMP = {"BMP": 0, "JPEG": 65504}

_DESCRIPTIVE = {
    ExifTags.Base.DocumentName, ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model,
    ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit, ExifTags.Base.Software,
    ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Rating,
    ExifTags.Base.Copyright, ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor,
    ExifTags.Base.XPKeywords, ExifTags.Base.XPSubject, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo,
}  # fmt: skip
"""Tags that say something of the picture. The others say how a file holds it, which is another file now."""


class Photo(NamedTuple):
    """Hold a photo as the network sees it, and what else its file holds."""

    image: Image.Image
    """RGB, upright, scaled down where it was larger than asked for."""
    alpha: Image.Image | None
    """Its opacity, mode L, of the same size; None if it is opaque."""
    profile: bytes | None
    """Its ICC profile."""
    exif: bytes
    """Its EXIF data for an upright image of this size; empty if there are none."""
    xmp: bytes
    """Its XMP data for an upright image; empty if there are none."""
    resolution: tuple[float, float] | None
    """Its pixels per inch, across and down; None if it says none."""
    scaled: bool
    """Whether it was larger."""
    lacks: tuple[str, ...]
    """What of the file is left out already."""

    def write(self, result: Image.Image, path: Path) -> tuple[str, ...]:
        """Write a result with the photo's opacity, color profile, EXIF and XMP data.

        Args:
            result: RGB, of the size of ``image``.
            path: The file to write; its ending names the format.

        Returns:
            What of the photo its result lacks.

        Raises:
            SettingError: If it cannot be written.
        """
        kind = format_of(path)
        lacks = list(self.lacks)
        options: dict[str, Any] = {} if self.resolution is None else {"dpi": self.resolution}
        if self.profile:
            converted = from_srgb(result, self.profile)
            if converted is None or kind == "BMP":
                lacks.append(PROFILE)
            else:
                result, options["icc_profile"] = converted, self.profile
        if self.alpha is not None:
            if kind in _WITH_TRANSPARENCY:
                result.putalpha(self.alpha)
            else:
                lacks.append(TRANSPARENCY)
        if len(self.exif) > _LONGEST_EXIF.get(kind, len(self.exif)):
            lacks.append(EXIF)
        elif self.exif:
            options["exif"] = self.exif
        if len(self.xmp) > _LONGEST_XMP.get(kind, len(self.xmp)):
            lacks.append(XMP)
        elif self.xmp:
            options |= _with_xmp(kind, self.xmp, options)
        write_image(result, path, **options)
        return tuple(lacks)


def read(source: Path, target: Path, size: int | None = None, max_pixels: int | None = None) -> Photo:
    """Read a photo.

    Where nothing of it is seen it becomes white, and so does what shines through if the result can hold no opacity.

    Args:
        source: The photo.
        target: Where its result goes; its ending says what the result can hold.
        size: How long its longer side may be; None for any length.
        max_pixels: See :func:`data.images.opened`.

    Raises:
        ImageError: If it cannot be read.
    """
    longest = sys.maxsize if size is None else size
    sizes: list[int] = []

    def shrink(width: int, height: int) -> float:
        sizes.append(max(width, height))
        return max(width, height) / (2 * longest)  # twice as fine, which leaves the scaling to a better filter

    with opened(source, shrink, max_pixels) as file:
        fine = _has_fine_tones(file)
        turned = ExifTags.Base.Orientation in file.getexif()  # which decoding removes
        profile, resolution = file.info.get("icc_profile"), _resolution(file)
        rgb, alpha = decode(file)
        image = _scaled_down(rgb, longest)
        if image is file:  # which looking for further frames would move on
            image = image.copy()
        lacks = ([TONES] if fine else []) + ([FRAMES] if _has_further_frames(file) else [])
        exif, whole = _described(file, image.size, turned)
        lacks += [] if whole else [EXIF]
        xmp = file.info.get("xmp") or b""  # in which decoding has removed the orientation
        lacks += [IPTC] if _has_iptc(file) else []
    if alpha is not None and alpha.getextrema()[0] == 255:
        alpha = None
    if alpha is not None:
        alpha = _scaled_down(alpha, longest)
        seen = alpha.point(lambda value: 255 if value else 0) if format_of(target) in _WITH_TRANSPARENCY else alpha
        image = Image.composite(image, Image.new("RGB", image.size, "white"), seen)
    return Photo(
        image,
        alpha,
        profile,
        exif,
        xmp if isinstance(xmp, bytes) else b"",
        resolution,
        sizes[0] > longest,
        tuple(lacks),
    )


def _scaled_down(image: Image.Image, size: int) -> Image.Image:
    if max(image.size) <= size:
        return image
    scale = size / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )


def _resolution(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(each) for each in image.info["dpi"])
    except Exception:  # there is none, or a damaged one
        return None
    return (across, down) if 0 < across < 2**16 and 0 < down < 2**16 else None


def _has_fine_tones(image: Image.Image) -> bool:
    """Return whether a file that is not decoded yet holds more than 8 bits of each color."""
    raw = [str(tile[3]) for tile in image.tile] if isinstance(image, ImageFile) else []
    return image.mode.startswith("I") or any("16" in mode for mode in raw)


def _has_further_frames(image: Image.Image) -> bool:
    try:
        return getattr(image, "n_frames", 1) > 1
    except Exception:  # where a later frame is damaged
        return True


def _has_iptc(image: Image.Image) -> bool:
    try:
        return isinstance(image, ImageFile) and bool(IptcImagePlugin.getiptcinfo(image))
    except Exception:  # damaged data make the reader raise almost anything
        return True


def _with_xmp(kind: str, xmp: bytes, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by which Pillow writes XMP data in a format, beside the ``options`` that there are."""
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        return {"pnginfo": info}
    if kind == "TIFF":
        exif = Image.Exif()
        exif.load(options.get("exif", b""))
        exif[ExifTags.Base.XMLPacket] = xmp
        return {"exif": exif.tobytes()}
    return {"xmp": xmp}


def _described(image: Image.Image, size: tuple[int, int], turned: bool) -> tuple[bytes, bool]:
    """Return the EXIF data for an upright image of another size, and whether they could be read."""
    try:
        exif = image.getexif()
        for tag in set(exif) - _DESCRIPTIVE:
            del exif[tag]
        if not len(exif) and not turned:
            return b"", True
        exif[ExifTags.Base.Orientation] = 1
        details = exif.get_ifd(ExifTags.IFD.Exif) if ExifTags.IFD.Exif in exif else {}
        for tag, side in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True):
            if tag in details:
                details[tag] = side
        return exif.tobytes(), True
    except Exception:  # damaged data make the reader raise almost anything
        return b"", False
