"""Moving pictures: frames, and the animations and videos that are written of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from PIL import Image

from norms.errors import SettingError
from training.files import replacing

if TYPE_CHECKING:
    from av.container import OutputContainer

ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
"""Formats of Pillow that hold several frames, each with a duration, by their extensions."""

_UNIT = {"GIF": 10, "WEBP": 1, "PNG": 1}
"""Milliseconds in which a format counts."""

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Containers that are written, as FFmpeg calls them, by their extensions."""

_H264 = "libx264", {"crf": "17", "preset": "medium"}
_VP9 = "libvpx-vp9", {"crf": "22", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
"""Encoders and their settings, of a quality at which strokes stay sharp."""

PARTS = "nut"
"""A container that holds any of these codecs and any unit of time."""

_BT709 = 1
"""Number of these colors, primaries and transfer in ITU-T H.273; and of the limited range, as it happens."""


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


class Timing(Protocol):
    """Describe how the frames of a video follow each other."""

    @property
    def rate(self) -> Fraction:
        """The mean number of frames in a second."""

    @property
    def time_base(self) -> Fraction:
        """The unit in which times are counted, in seconds."""

    @property
    def aspect(self) -> Fraction:
        """The width of a pixel, divided by its height."""


@dataclass(frozen=True)
class Pace:
    """Describe frames of square pixels that follow each other evenly; see :class:`Timing`."""

    rate: Fraction
    aspect: Fraction = Fraction(1)

    @property
    def time_base(self) -> Fraction:
        """The time from frame to frame."""
        return 1 / self.rate


def check_packages(path: Path) -> None:
    """Refuse to write a video where PyAV is missing, before anything is made for it.

    Raises:
        SettingError: If it is.
    """
    if path.suffix.lower() in CONTAINERS and find_spec("av") is None:
        raise SettingError(f"{path}: a video is written with PyAV: pip install 'normlab[video]'")


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
    return ("partial transparency",) if faint else ()


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


def encode(frames: Iterable[Frame], path: Path, kind: str, clip: Timing, container: str = PARTS) -> None:
    """Encode a video, or a part of one.

    Args:
        frames: At least one, all of the same size.
        path: The file to write.
        kind: The extension of the whole video.
        clip: How the frames follow each other; asked when the first one is there.
        container: What FFmpeg calls the container; by default one for joining parts alone.

    Raises:
        SettingError: If it cannot be written.
    """
    import av

    stream = None
    try:
        with written(path, container) as out:
            for frame in frames:
                if stream is None:
                    stream = _encoder(out, frame.image.size, kind, clip)
                picture = av.VideoFrame.from_image(frame.image)
                picture = picture.reformat(format=stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
                picture.pts, picture.time_base = round(frame.time / clip.time_base), clip.time_base
                out.mux(stream.encode(picture))
            if stream is not None:
                out.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def written(path: Path, container: str) -> Iterator[OutputContainer]:
    """Open a container to write."""
    import av

    with path.open("w+b") as file:
        out = av.open(file, "w", format=container)
        try:
            yield out
        except BaseException:
            with suppress(Exception):  # on a full disk closing fails too, and that error would hide the first one
                out.close()
            raise
        out.close()


def _encoder(out: OutputContainer, size: tuple[int, int], kind: str, clip: Timing) -> Any:
    codec, options = _VP9 if kind == ".webm" else _H264
    stream: Any = out.add_stream(codec, rate=clip.rate, options=options)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv444p" if kind != ".webm" and (size[0] % 2 or size[1] % 2) else "yuv420p"
    context = stream.codec_context
    context.time_base = clip.time_base
    context.max_b_frames = 0  # without these, what is encoded in parts can be joined at any frame
    context.sample_aspect_ratio = clip.aspect
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = _BT709
    return stream
