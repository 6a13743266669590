"""Animated GIF, WebP and PNG files, and the frames that these and videos have in common."""

import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from data.images import ImageError, decode, opened
from norms.errors import SettingError
from stylizing.photo import EXIF, PROFILE, TRANSPARENCY, XMP
from training.files import replacing

ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
"""Formats of Pillow that hold several frames, each with a duration, by their extensions."""

USUAL_DURATION = 100
"""Milliseconds for which a frame is shown that says nothing or 0, as in browsers."""

_UNIT = {"GIF": 10, "WEBP": 1, "PNG": 1}
"""Milliseconds in which a format counts."""

_INFORMATION = {PROFILE: "icc_profile", EXIF: "exif", XMP: "xmp"}


class Frame(NamedTuple):
    """Hold a frame of a video or an animation."""

    image: Image.Image
    """RGB, upright."""
    alpha: Image.Image | None
    """Its opacity, mode L; None if it is opaque."""
    time: Fraction
    """When it is shown, in seconds."""
    duration: Fraction
    """For how long, in seconds."""


class Animation:
    """Read an animated image.

    Args:
        path: The file.
        max_pixels: See :func:`data.images.opened`.

    Raises:
        ImageError: If it cannot be read.
    """

    time_base = Fraction(1, 1000)
    aspect = Fraction(1)

    def __init__(self, path: Path, max_pixels: int | None = None) -> None:
        self.path, self.max_pixels = path, max_pixels
        self.damage: list[str] = []
        with opened(path, max_pixels=max_pixels) as file:
            self.lacks = [part for part, name in _INFORMATION.items() if file.info.get(name)]
            self.plays = _plays(file)
            self.rate = 1 / _duration(file)
            self.count: int | None = None
            self._first = int(bool(file.info.get("default_image")))  # a PNG's for viewers that show one image alone
            try:
                self.count = getattr(file, "n_frames", 1) - self._first
            except Exception:  # where a later frame is damaged
                self.count = None

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, up to the first damaged one.

        Raises:
            ImageError: If the first one is damaged.
        """
        time = Fraction(0)
        with opened(self.path, max_pixels=self.max_pixels) as file:
            for number in itertools.count():
                try:
                    file.seek(self._first + number)
                    image = file.copy()
                    rgb, alpha = decode(image)
                except EOFError:
                    break
                except Exception as error:  # damaged files make the decoders raise almost anything
                    if not number:
                        raise
                    self.damage.append(f"ends at frame {number + 1}, which is damaged: {' '.join(str(error).split())}")
                    break
                duration = _duration(file)
                opaque = alpha is None or alpha.getextrema()[0] == 255
                yield Frame(rgb, None if opaque else alpha, time, duration)
                time += duration


def is_animation(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is an animated GIF, WebP or PNG."""
    if Path(path).suffix.lower() not in ANIMATIONS:
        return False
    try:
        with opened(path, max_pixels=2**62) as file:
            return bool(getattr(file, "is_animated", False))
    except ImageError:  # which whoever opens it next will tell
        return False


def write_animation(frames: Iterable[Frame], path: Path, plays: int) -> tuple[str, ...]:
    """Write an animation, as a whole or not at all; it is held in memory until then.

    Args:
        frames: At least one.
        path: The file to write; its ending names the format.
        plays: How often it is played; 0 is for ever.

    Returns:
        What of the frames it lacks.

    Raises:
        SettingError: If it cannot be written.
    """
    kind = ANIMATIONS[path.suffix.lower()]
    images, ends, transparent, faint = [], [Fraction(0)], False, False
    for frame in frames:
        images.append(_encodable(frame, kind))
        ends.append(ends[-1] + frame.duration)
        transparent |= frame.alpha is not None
        faint |= kind == "GIF" and frame.alpha is not None and any(frame.alpha.histogram()[1:255])
    # Rounded are the ends, so that the whole does not become longer or shorter.
    ticks = [round(end * 1000 / _UNIT[kind]) * _UNIT[kind] for end in ends]
    options: dict[str, Any] = {"duration": [max(b - a, _UNIT[kind]) for a, b in itertools.pairwise(ticks)]}
    if kind != "GIF" or plays != 1:
        options["loop"] = max(plays - 1, 0) if kind == "GIF" else plays
    if kind == "GIF":
        options |= {"disposal": 2, "optimize": False}
    if kind == "WEBP":
        # Frames that libwebp writes as changes of others lose their transparency at times.
        options |= {"quality": 95, "kmax": 1} if transparent else {"quality": 95}
    try:
        with replacing(path) as partial:
            images[0].save(partial, kind, save_all=True, append_images=images[1:], **options)
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error
    return (f"partial {TRANSPARENCY}",) if faint else ()


def _encodable(frame: Frame, kind: str) -> Image.Image:
    """Return the image of a frame as Pillow writes it best."""
    if kind == "GIF":
        colors = frame.image.quantize(255, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        if frame.alpha is not None:
            colors.paste(255, mask=frame.alpha.point(lambda value: 255 * (value < 128)))
            colors.info["transparency"] = 255
        return colors
    image = frame.image.copy()
    if frame.alpha is not None:
        image.putalpha(frame.alpha)
    return image


def _plays(file: Image.Image) -> int:
    """Return how often an animation is played; 0 is for ever."""
    loop = file.info.get("loop")
    if file.format == "GIF":
        return 1 if loop is None else loop and loop + 1
    return int(loop or 0)


def _duration(file: Image.Image) -> Fraction:
    """Return how long the frame is shown to which a file has been moved, in seconds."""
    return Fraction(round(file.info.get("duration") or USUAL_DURATION), 1000)
