"""Animated GIF, WebP and PNG files that are read."""

import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from PIL import Image

from data.images import ImageError, decode, opened
from stylizing.photo import EXIF, PROFILE, XMP
from training.moving import ANIMATIONS, Frame

USUAL_DURATION = 100
"""Milliseconds for which a frame is shown that says nothing or 0, as in browsers."""

_INFORMATION = {PROFILE: "icc_profile", EXIF: "exif", XMP: "xmp"}


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


def _plays(file: Image.Image) -> int:
    """Return how often an animation is played; 0 is for ever."""
    loop = file.info.get("loop")
    if file.format == "GIF":
        return 1 if loop is None else loop and loop + 1
    return int(loop or 0)


def _duration(file: Image.Image) -> Fraction:
    """Return how long the frame is shown to which a file has been moved, in seconds."""
    return Fraction(round(file.info.get("duration") or USUAL_DURATION), 1000)
