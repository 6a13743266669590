import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from clip_files import make_video, picture, pictures, sound, times

from data.images import ImageError
from norms.errors import SettingError
from stylizing.video import Video, join
from training.moving import encode

TURNED = {
    # Display matrices, row by row, and what they make of an array of (H, W, C).
    "clockwise": ([0, 1, -1, 0], lambda image: np.rot90(image, -1)),
    "counterclockwise": ([0, -1, 1, 0], np.rot90),
    "around": ([-1, 0, 0, -1], lambda image: np.rot90(image, 2)),
    "mirrored": ([-1, 0, 0, 1], lambda image: image[:, ::-1]),
    "upside down": ([1, 0, 0, -1], lambda image: image[::-1]),
    "both": ([0, 1, 1, 0], lambda image: image.transpose(1, 0, 2)),
}


def copy(source, target):
    """Write a video with the same frames."""
    clip, part = Video(source), target.with_name("part.nut")
    encode(clip.frames(), part, target.suffix, clip)
    return join([part], target, clip.rate, source)


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm"])
def test_pictures_times_sound_and_title_are_kept(tmp_path, ending):
    other = {"codec": "libvpx-vp9", "sound": "libopus"} if ending == "webm" else {}
    source, target = make_video(tmp_path / f"a.{ending}", **other), tmp_path / f"b.{ending}"
    assert copy(source, target) == []
    expected = np.stack([picture(number) for number in range(8)])
    assert abs(pictures(target) - expected).mean() < 4
    assert times(target) == times(source)
    assert sound(target) == sound(source)
    assert len(sound(target)) > 5
    clip = Video(target)
    assert clip.rate == 8
    with av.open(str(target)) as file:
        assert file.metadata["title"] == "a clip"


def test_frames_need_not_be_as_long_as_each_other(tmp_path):
    at = [0, 40, 250, 260, 300, 1000, 1001, 1500]
    source = make_video(tmp_path / "a.mp4", times=at, sound=None)  # whose first packets lie before 0
    copy(source, tmp_path / "b.mkv")
    copy(source, tmp_path / "b.mp4")
    for target in ("b.mkv", "b.mp4"):
        assert times(tmp_path / target) == [Fraction(time, 1000) for time in at]


@pytest.mark.parametrize("turn", TURNED)
def test_turned_frames_become_upright(tmp_path, turn):
    (a, b, c, d), expected = TURNED[turn]
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    source = make_video(tmp_path / "a.mp4", matrix=matrix, sound=None, aspect=Fraction(4, 3))
    clip = Video(source)
    frame = next(clip.frames())
    assert abs(np.asarray(frame.image).astype(int) - expected(picture(0))).mean() < 4
    copy(source, tmp_path / "b.mp4")
    again = Video(tmp_path / "b.mp4")
    result = next(again.frames())
    assert result.image.size == frame.image.size
    assert abs(np.asarray(result.image).astype(int) - np.asarray(frame.image)).mean() < 4
    assert again.aspect == (Fraction(3, 4) if a == 0 else Fraction(4, 3))


@pytest.mark.parametrize(("ending", "noted"), [("mp4", True), ("webm", False)])
def test_odd_sizes_are_kept(tmp_path, ending, noted):
    source = make_video(tmp_path / "a.mkv", size=(33, 25), sound=None)
    notes = copy(source, tmp_path / f"b.{ending}")
    assert pictures(tmp_path / f"b.{ending}").shape == (8, 25, 33, 3)
    assert bool(notes) == noted


def test_parts_are_joined_at_any_frame(tmp_path):
    clip = Video(make_video(tmp_path / "a.mp4", frames=7))
    frames = list(clip.frames())
    parts = [tmp_path / f"{number}.nut" for number in range(3)]
    for part, chosen in zip(parts, (frames[:3], frames[3:4], frames[4:]), strict=True):
        encode(chosen, part, ".mp4", clip)
    join(parts, tmp_path / "b.mp4", clip.rate, clip.path)
    assert times(tmp_path / "b.mp4") == times(clip.path)
    assert abs(pictures(tmp_path / "b.mp4") - pictures(clip.path)).mean() < 4


def test_sound_that_a_container_does_not_hold_is_encoded_anew(tmp_path):
    source = make_video(tmp_path / "a.mp4")
    assert copy(source, tmp_path / "b.webm") == ["encoded the sound anew, aac as opus"]
    with av.open(str(tmp_path / "b.webm")) as file:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    assert len(heard) == pytest.approx(48_000, rel=0.05)
    assert 0.15 < np.sqrt((heard**2).mean()) < 0.3  # a sine of a third


def test_damaged_frames_are_left_out_and_counted(tmp_path):
    source = make_video(tmp_path / "a.mp4", g="1", sound=None)
    data = bytearray(source.read_bytes())
    middle = data.find(b"mdat") + (data.find(b"moov") - data.find(b"mdat")) // 2
    for place in range(middle, middle + 60):
        data[place] ^= 0x5A
    source.write_bytes(data)
    clip = Video(source)
    frames = list(clip.frames())
    assert 4 < len(frames) < 8
    assert clip.damage[0].startswith("left out ")
    assert "damaged frame" in clip.damage[0]
    # The others are where they have been.
    assert {frame.time for frame in frames} < {Fraction(number, 8) for number in range(8)}


def test_a_video_that_ends_early_is_told(tmp_path):
    source = make_video(tmp_path / "a.mkv", frames=40, g="4")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    clip = Video(source)
    count = len(list(clip.frames()))
    assert 5 < count < 35
    assert clip.damage == [f"ends early, after {count} of {clip.count} frames"]


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    with av.open(str(tmp_path / "heard.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="flt", layout="mono")
        frame.sample_rate = 48_000
        out.mux([*stream.encode(frame), *stream.encode(None)])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mkv").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name, message in (
        ("heard.mp4", "no video stream, only sound"),
        ("text.mp4", "Invalid data"),
        ("empty.mkv", "end of file|End of file|Invalid data|an empty file"),
        ("nonesuch.mp4", "No such file"),
        ("folder.mp4", "Is a directory"),
    ):
        with pytest.raises(ImageError, match=message) as caught:
            Video(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)


def test_large_frames_are_refused(tmp_path):
    source = make_video(tmp_path / "a.mp4", sound=None)
    with pytest.raises(ImageError, match="32x24 pixels are more than max_pixels allows, 700"):
        Video(source, 700)
    Video(source, 32 * 24)


def test_without_pyav_the_command_that_installs_it_is_told(tmp_path, monkeypatch):
    source = make_video(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError, match=r"pip install 'normlab\[video\]'"):
        Video(source)


def test_a_target_that_cannot_be_written_is_told(tmp_path):
    clip = Video(make_video(tmp_path / "a.mp4"))
    encode(clip.frames(), tmp_path / "part.nut", ".mp4", clip)
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises((SettingError, IsADirectoryError)):
        join([tmp_path / "part.nut"], tmp_path / "b.mp4", clip.rate, None)
