"""Video files: their frames, with the time of each, and files that have other frames and the same sound."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from data.files import check_file
from data.images import ImageError
from norms.errors import SettingError
from stylizing.animation import Animation
from stylizing.photo import TONES
from training.files import replacing
from training.moving import CONTAINERS, Frame, written

if TYPE_CHECKING:
    from av import AudioStream, Packet, VideoFrame, VideoStream
    from av.container import InputContainer, OutputContainer

VIDEOS = {*CONTAINERS, ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts", ".m2ts", ".ogv"}
"""Extensions of video files."""

_ODD = (
    "an odd number of pixels, which H.264 holds in its profile High 4:4:4 alone; not every player shows that, "
    "but all show .webm"
)

_UNKNOWN = 2
"""Number of a color space of which a video says nothing, in ITU-T H.273."""

_HIGH_DEFINITION = 720
"""Rows from which on a video without a word on its colors has those of BT.709."""

_TURNED: dict[tuple[int, ...], Image.Transpose | None] = {
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""What makes a frame upright, by the signs of its display matrix: of a, b, c and d in (a p + c q, b p + d q)."""

_SIDEWAYS = {_TURNED[signs] for signs in _TURNED if not signs[0]}

_ENCODERS = {"opus": "libopus"}
"""Which encoder to take where FFmpeg's own is experimental."""

_OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
"""What a container says of itself rather than of the video."""


class Video:
    """Read a video, of which the first stream of pictures counts.

    Args:
        path: The file.
        max_pixels: How many pixels a frame may have; None for any number.

    Raises:
        ImageError: If it cannot be read, or has no video stream.
    """

    plays = 0

    def __init__(self, path: Path, max_pixels: int | None = None) -> None:
        self.path = path
        self.damage: list[str] = []
        with _opened(path) as (container, stream):
            if max_pixels is not None and stream.width * stream.height > max_pixels:
                size = f"{stream.width}x{stream.height}"
                raise ImageError(f"{path}: {size} pixels are more than max_pixels allows, {max_pixels}")
            self.time_base = Fraction(stream.time_base or Fraction(1, 1000))
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self.aspect = self._stored_aspect = Fraction(stream.sample_aspect_ratio or 1)
            seconds = (stream.duration or 0) * self.time_base or Fraction(container.duration or 0, 1_000_000)
            self.count: int | None = stream.frames or round(seconds * self.rate) or None
            self.lacks = [TONES] if any(part.bits > 8 for part in stream.format.components) else []
            self.lacks += sorted(
                {f"{each.type} tracks" for each in container.streams} - {"video tracks", "audio tracks"}
            )
            self.lacks += ["further video tracks"] if len(container.streams.video) > 1 else []

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that can be decoded, all of the first one's size; ``damage`` tells afterwards of the others.

        Raises:
            ImageError: If none can.
        """
        size, last = None, None
        lost: list[Fraction] = []
        self.damage = []
        with _opened(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            number, usual = 0, 1 / self.rate
            for frame in _decoded(container, stream, lost, self.damage):
                following = Fraction(0) if last is None else last + usual
                time = following if frame.pts is None else frame.pts * self.time_base
                if frame.is_corrupt or (last is not None and time <= last):
                    lost.append(time)
                    continue
                turn = _TURNED.get(_signs(frame))
                image = _rgb(frame) if turn is None else _rgb(frame).transpose(turn)
                size = size or image.size
                self.aspect = 1 / self._stored_aspect if turn in _SIDEWAYS else self._stored_aspect
                yield Frame(
                    image if image.size == size else image.resize(size, Image.Resampling.LANCZOS),
                    None,
                    time,
                    (frame.duration or 0) * self.time_base or usual,
                )
                last, number = time, number + 1
        if not number:
            raise ImageError(f"{self.path}: no frame can be decoded")
        if lost:
            frames = "1 damaged frame" if len(lost) == 1 else f"{len(lost)} damaged frames"
            self.damage.append(f"left out {frames}, the first at {float(min(lost)):.2f} s")
        if number + len(lost) < 0.9 * (self.count or 0):
            self.damage.append(f"ends early, after {number} of {self.count} frames")


Clip = Video | Animation


def join(parts: Sequence[Path], path: Path, rate: Fraction, source: Path | None) -> list[str]:
    """Join the parts of a video, and give it the sound and the title of another.

    Packets of sound are copied as they are, or encoded anew where the container does not hold their codec.

    Args:
        parts: At least one, in order.
        path: The file to write; its ending names the container.
        rate: The mean number of frames in a second, which some containers say.
        source: The other video, if there is one.

    Returns:
        Notes on what could not be kept as it was.

    Raises:
        SettingError: If it cannot be written.
    """
    import av

    notes: list[str] = []
    try:
        with replacing(path) as partial, written(partial, CONTAINERS[path.suffix.lower()]) as out:
            with av.open(str(parts[0])) as first:
                video = out.add_stream_from_template(first.streams.video[0])
                video.time_base = first.streams.video[0].time_base
                notes += [_ODD] if first.streams.video[0].pix_fmt == "yuv444p" else []
                video.codec_context.framerate = rate
            tracks = [_pictures(parts, video)]
            if source is not None:
                tracks.append(_sound(source, out, notes))
            # It takes the first packet of every track before it yields any, so that all streams are there by then.
            for packet in heapq.merge(*tracks, key=_decoding_time):
                out.mux(packet)
    except av.error.FFmpegError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error
    return notes


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video, and find its stream of pictures; whatever goes wrong, also in the block, is an ImageError."""
    try:
        import av
    except ImportError as error:
        message = f"{path}: a video, for which PyAV must be installed: pip install 'normlab[video]'"
        raise ImageError(message) from error
    try:
        check_file(path)
        if not path.stat().st_size:
            raise ImageError(f"{path}: an empty file")
        with path.open("rb") as file, av.open(file, metadata_errors="replace") as container:
            cover = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not streams:
                raise ImageError(f"{path}: no video stream{', only sound' if container.streams.audio else ''}")
            if streams[0].codec_context is None or not streams[0].width:
                raise ImageError(f"{path}: its video stream is of a kind that cannot be decoded here")
            yield container, streams[0]
    except ImageError:
        raise
    except (OSError, SettingError, av.error.FFmpegError) as error:
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _packets(container: InputContainer, streams: Sequence[Any], notes: list[str]) -> Iterator[Packet[Any]]:
    """Yield the packets of streams until the end or where the file is damaged."""
    import av

    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            notes.append(f"ends where it is damaged: {error.strerror or error}")
            return
        yield packet


def _decoded(container: InputContainer, stream: VideoStream, lost: list[Fraction], damage: list[str]) -> Iterator[Any]:
    """Yield the frames that can be decoded, and note in ``lost`` when one cannot."""
    import av

    for packet in itertools.chain(_packets(container, [stream], damage), [None]):
        try:
            yield from stream.decode(packet)
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            lost.append(Fraction(0) if packet is None or packet.pts is None else packet.pts * packet.time_base)


def _moved(packet: Packet[Any], stream: AudioStream) -> Packet[Any]:
    packet.stream = stream
    return packet


def _recoded(packet: Packet[Any], stream: Any) -> list[Packet[Any]]:
    """Encode the sound of a packet for another stream."""
    import av

    try:
        return [each for frame in packet.decode() for each in stream.encode(frame)]
    except av.error.FFmpegError:  # a damaged one
        return []


def _signs(frame: VideoFrame) -> tuple[int, ...]:
    """Return the signs of a, b, c and d of a frame's display matrix."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    return tuple(np.sign(np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]]).tolist())


def _rgb(frame: VideoFrame) -> Image.Image:
    usual = "ITU709" if frame.height >= _HIGH_DEFINITION else "ITU601"
    return frame.to_image(src_colorspace=usual if frame.colorspace == _UNKNOWN else None)


def _decoding_time(packet: Packet[Any]) -> Fraction:
    return Fraction((packet.dts or 0) * packet.time_base)


def _pictures(parts: Sequence[Path], stream: VideoStream) -> Iterator[Packet[Any]]:
    import av

    for part in parts:
        with av.open(str(part)) as container:
            for packet in container.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    yield packet


def _sound(source: Path, out: OutputContainer, notes: list[str]) -> Iterator[Packet[Any]]:
    """Add the title and the streams for the sound of a video before the first packet, and yield the packets."""
    with _opened(source) as (container, _):
        out.metadata.update({name: text for name, text in container.metadata.items() if name not in _OF_THE_FILE})
        tracks: dict[int, Any] = {}
        anew: set[int] = set()
        latest: dict[int, Fraction] = {}
        for stream in container.streams.audio:
            codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
            if codec in out.supported_codecs:
                tracks[stream.index] = out.add_stream_from_template(stream)
            elif stream.codec_context:
                name = _ENCODERS.get(out.default_audio_codec, out.default_audio_codec)
                rate = 48_000 if name == "libopus" else stream.rate
                tracks[stream.index] = out.add_stream(name, rate=rate, layout=stream.layout.name)
                anew.add(stream.index)
                notes.append(f"encoded the sound anew, {codec} as {out.default_audio_codec}")
            else:
                notes.append("left out sound of a kind that cannot be decoded here")
        # Without a stream it would yield the packets of all.
        streams = container.streams.audio
        for packet in _packets(container, streams, notes) if streams else ():
            index = packet.stream.index
            if index not in tracks:
                continue
            for each in _recoded(packet, tracks[index]) if index in anew else [_moved(packet, tracks[index])]:
                # A muxer refuses packets that do not follow each other.
                if each.dts is not None and _decoding_time(each) > latest.get(index, -math.inf):
                    latest[index] = _decoding_time(each)
                    yield each
        for index in anew:
            yield from tracks[index].encode(None)
