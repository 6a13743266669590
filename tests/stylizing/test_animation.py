from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data.images import ImageError
from stylizing.animation import Animation, is_animation
from training.moving import Frame, write_animation

COLORS = "red", "lime", "blue", "white"
DURATIONS = 100, 40, 500, 250


def make(path, plays=0, transparent=False, durations=DURATIONS):
    images = []
    for number, color in enumerate(COLORS):
        image = Image.new("RGBA", (16, 12), (0, 0, 0, 0) if transparent else "black")
        ImageDraw.Draw(image).rectangle((3 * number, 2, 3 * number + 4, 8), fill=color)
        images.append(image if transparent else image.convert("RGB"))
    loop = (
        {} if path.suffix == ".gif" and plays == 1 else {"loop": max(plays - 1, 0) if path.suffix == ".gif" else plays}
    )
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    options = {"disposal": 2} if path.suffix == ".gif" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, **loop, **lossless, **options)
    return path, images


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
@pytest.mark.parametrize("plays", [0, 1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_frames_durations_plays_and_transparency_are_kept(tmp_path, ending, plays, transparent):
    source, images = make(tmp_path / f"a.{ending}", plays, transparent)
    assert is_animation(source)
    for path in (source, tmp_path / f"b.{ending}"):
        clip = Animation(path if path.exists() else source)
        frames = list(clip.frames())
        assert clip.count == len(frames) == 4
        assert clip.plays == plays
        assert [frame.duration * 1000 for frame in frames] == list(DURATIONS)
        assert [frame.time * 1000 for frame in frames] == [0, 100, 140, 640]
        assert clip.damage == []
        for frame, image in zip(frames, images, strict=True):
            assert (frame.alpha is not None) == transparent
            if transparent:
                assert (np.asarray(frame.alpha) == np.asarray(image.getchannel("A"))).all()
            shown = np.asarray(image.convert("RGBA").getchannel("A")) > 0
            difference = np.asarray(frame.image).astype(int) - np.asarray(image.convert("RGB"))
            assert abs(difference[shown]).mean() < 20  # lossy WebP
        write_animation(frames, tmp_path / f"b.{ending}", plays)


@pytest.mark.parametrize(("source", "target"), [("gif", "webp"), ("webp", "gif"), ("png", "gif"), ("gif", "png")])
def test_other_formats_are_as_long_and_played_as_often(tmp_path, source, target):
    clip = Animation(make(tmp_path / f"a.{source}", plays=2)[0])
    assert write_animation(clip.frames(), tmp_path / f"b.{target}", clip.plays) == ()
    again = Animation(tmp_path / f"b.{target}")
    assert [frame.duration * 1000 for frame in again.frames()] == list(DURATIONS)
    assert again.plays == 2


def test_rounded_durations_do_not_add_up_to_an_error(tmp_path):
    third = Fraction(1, 30)
    frames = [Frame(Image.new("RGB", (8, 8), (8 * number, 0, 0)), None, number * third, third) for number in range(30)]
    write_animation(frames, tmp_path / "a.gif", 0)
    durations = [frame.duration for frame in Animation(tmp_path / "a.gif").frames()]
    assert sum(durations) == 1
    assert set(durations) == {Fraction(3, 100), Fraction(4, 100)}


def test_half_transparency_that_a_gif_lacks_is_told(tmp_path):
    half = Image.linear_gradient("L").resize((8, 8))
    frame = Frame(Image.new("RGB", (8, 8)), half, Fraction(0), Fraction(1))
    assert write_animation([frame, frame], tmp_path / "a.gif", 0) == ("partial transparency",)
    assert write_animation([frame, frame], tmp_path / "a.webp", 0) == ()


def test_what_is_no_animation(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "still.gif")
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    (tmp_path / "text.gif").write_text("text")
    assert not any(map(is_animation, [*tmp_path.iterdir(), tmp_path, tmp_path / "nonesuch.gif"]))


def test_frames_before_the_damage_are_there(tmp_path):
    path, _ = make(tmp_path / "a.gif")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    clip = Animation(path)
    frames = list(clip.frames())
    assert 1 <= len(frames) < 4
    assert clip.damage[0].startswith(f"ends at frame {len(frames) + 1}, which is damaged")


def test_a_damaged_first_frame_is_an_error(tmp_path):
    path, _ = make(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ImageError, match=r"a\.png: "):
        list(Animation(path).frames())


def test_a_frame_without_duration_has_that_of_browsers(tmp_path):
    path, _ = make(tmp_path / "a.gif", durations=0)
    assert {frame.duration for frame in Animation(path).frames()} == {Fraction(1, 10)}
