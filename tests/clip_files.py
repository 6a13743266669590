"""Tiny videos for tests, what is in a video, and a conversion that is killed."""

import os
import signal
from fractions import Fraction

import av
import numpy as np
import torch

from data.images import to_tensor
from stylizing import clips
from training.images import to_picture


def picture(number, size=(32, 24)):
    """A frame with a gradient, whose blue tells its number."""
    width, height = size
    x, y = np.linspace(0, 200, width)[None, :, None], np.linspace(0, 200, height)[:, None, None]
    planes = np.broadcast_arrays(x, y, np.full((1, 1, 1), 20.0 * (number % 12)))
    return np.ascontiguousarray(np.concatenate(planes, axis=2).astype(np.uint8))


def make_video(
    path, frames=8, size=(32, 24), rate=8, sound="aac", times=None, matrix=None, codec="libx264", aspect=None, **options
):
    """Write a video; ``times`` are in milliseconds."""
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "a clip"
        video = out.add_stream(codec, rate=rate, options={"crf": "1"} | options)
        video.width, video.height = size
        video.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if times:
            video.codec_context.time_base = Fraction(1, 1000)
        if matrix:
            video.set_display_matrix(matrix)
        audio = out.add_stream(sound, rate=48_000, layout="mono") if sound else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            out.mux(video.encode(frame))
            if audio:
                length = 48_000 // rate
                wave = np.sin(np.arange(number * length, (number + 1) * length) / 20).astype(np.float32)[None] / 3
                heard = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
                heard.sample_rate, heard.pts = 48_000, number * length
                out.mux(audio.encode(heard))
        for stream in filter(None, (video, audio)):
            out.mux(stream.encode(None))
    return path


def pictures(path):
    """The frames of a video, (N, H, W, 3)."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]).astype(int)


def times(path):
    """When each frame of a video is shown, in seconds."""
    with av.open(str(path)) as file:
        return [frame.pts * frame.time_base for frame in file.decode(video=0)]


def sound(path):
    """The packets of the sound of a video, as they are."""
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


def through_the_filter(image, steady):
    """Paint with noise that depends on the frame, so that what the filter remembers shows."""
    frame = to_tensor(image)
    draw = torch.Generator().manual_seed(int(frame[2].mean() * 1000))
    return to_picture(steady(frame, torch.rand(frame.shape, generator=draw)))


def convert_and_die(source, target, killed_at):
    """Convert a video in parts of three frames, and be killed before a given one is painted."""
    count = 0

    def paint(image, steady):
        nonlocal count
        count += 1
        if count == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return through_the_filter(image, steady)

    clips.PART = 3
    clips.Painted(source, paint, None, None, 0.6, lambda frames: None).write(target, "a")
