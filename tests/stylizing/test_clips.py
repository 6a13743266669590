import os
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from clip_files import convert_and_die, make_video, pictures, sound, through_the_filter, times
from PIL import Image
from processes import CONTEXT, ended
from test_stylize import call, fails, files, run, several  # noqa: F401

from data.images import ImageError
from lightning_modules.style_transfer import StyleTransfer
from stylizing import clips
from stylizing.animation import Animation
from stylizing.clips import Painted
from stylizing.video import Video
from training.run import Run


def darken(image, steady):
    return image.point(lambda value: value // 2)


def painted(source, paint=darken, steady=0.0, size=None, advance=lambda frames: None):
    return Painted(source, paint, size, None, steady, advance)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 5, 8])
def test_a_killed_conversion_goes_on_and_ends_the_same(tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr(clips, "PART", 3)
    source = make_video(tmp_path / "a.mp4", frames=8)
    painted(source, through_the_filter, 0.6).write(tmp_path / "whole.mp4", "a")
    target = tmp_path / "b.mp4"
    process = CONTEXT.Process(target=convert_and_die, args=(source, target, killed_at))
    process.start()
    assert ended(process) == -signal.SIGKILL
    assert not target.exists()
    assert (tmp_path / "b.mp4.parts").is_dir()
    steps = []
    count = []
    clip = painted(source, lambda *both: count.append(1) or through_the_filter(*both), 0.6, advance=steps.append)
    clip.write(target, "a")
    assert len(count) == 8 - (killed_at - 1) // 3 * 3
    assert sum(steps) == 8
    assert (pictures(target) == pictures(tmp_path / "whole.mp4")).all()
    assert times(target) == times(source)
    assert sound(target) == sound(source)
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4", "whole.mp4"]


def test_what_was_made_of_something_else_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "PART", 3)
    source, count = make_video(tmp_path / "a.mp4"), []

    def stop(image, steady):
        count.append(1)
        if len(count) == 5:
            raise KeyboardInterrupt
        return image

    with pytest.raises(KeyboardInterrupt):
        painted(source, stop).write(tmp_path / "b.mp4", "one")
    painted(source).write(tmp_path / "b.mp4", "two")
    assert pictures(tmp_path / "b.mp4").max() < 130


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    source = make_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4.parts").mkdir()
    (tmp_path / "b.mp4.parts" / "mine").touch()
    with pytest.raises(ValueError, match=r"b\.mp4\.parts, which is in use"):
        painted(source).write(tmp_path / "b.mp4", "a")
    assert os.listdir(tmp_path / "b.mp4.parts") == ["mine"]


def test_size_scales_frames_down_to_even_sides(tmp_path):
    clip = painted(make_video(tmp_path / "a.mp4", size=(64, 36)), size=50)
    clip.write(tmp_path / "b.mp4", "a")
    assert pictures(tmp_path / "b.mp4").shape[1:3] == (28, 50)
    assert clip.scaled


def test_transparency_that_a_video_lacks_becomes_white_and_is_told(tmp_path):
    clear = Image.new("RGBA", (16, 16))
    clear.paste((0, 0, 255, 255), (0, 0, 16, 8))
    clear.save(tmp_path / "a.webp", save_all=True, append_images=[clear.transpose(Image.Transpose.ROTATE_90)], kmax=1)
    clip = painted(tmp_path / "a.webp", lambda image, steady: image)
    clip.write(tmp_path / "b.mp4", "a")
    assert clip.lacks == ["transparency"]
    assert pictures(tmp_path / "b.mp4")[0, 12].min() > 240
    painted(tmp_path / "a.webp").write(tmp_path / "b.gif", "a")
    assert next(Animation(tmp_path / "b.gif").frames()).alpha is not None
    painted(tmp_path / "a.webp").write(tmp_path / "b.webp", "a")
    assert next(Animation(tmp_path / "b.webp").frames()).alpha is not None


def test_videos_and_animations_become_each_other(tmp_path):
    source = make_video(tmp_path / "a.mp4")
    painted(source).write(tmp_path / "b.gif", "a")
    painted(tmp_path / "b.gif").write(tmp_path / "c.mp4", "a")
    painted(source).write(tmp_path / "d.webp", "a")
    assert len(times(tmp_path / "c.mp4")) == len(list(Animation(tmp_path / "d.webp").frames())) == 8
    # A GIF counts in hundredths of a second.
    assert all(abs(a - b) <= 0.006 for a, b in zip(times(tmp_path / "c.mp4"), times(source), strict=True))


@pytest.fixture
def mixed(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (16, 12), "red").save(folder / "photo.png")
    make_video(folder / "clip.mp4", sound=None)
    make_video(folder / "old.avi", sound=None, codec="mpeg4")
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "blue")]
    frames[0].save(folder / "moves.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "still.gif")
    return folder


def test_a_folder_may_hold_everything(run, mixed, tmp_path, capsys):  # noqa: F811
    make_video(mixed / "heard.mp4").write_bytes(b"no video")
    assert call(run, mixed, "-o", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert out == f"wrote 2 images and 3 clips to {tmp_path / 'out'}\n"
    assert err.startswith(f"skipped {mixed / 'heard.mp4'}: ")
    assert err.count("\n") == 1
    assert files(tmp_path / "out") == ["clip.mp4", "moves.gif", "old.mp4", "photo.png", "still.png"]
    assert pictures(tmp_path / "out" / "clip.mp4").shape == (8, 24, 32, 3)
    assert call(run, mixed, "-o", tmp_path / "out") == 2 or "left 5 existing" in capsys.readouterr().out


def test_one_clip_to_a_file(run, mixed, tmp_path, capsys):  # noqa: F811
    assert call(run, mixed / "clip.mp4", "-o", tmp_path / "new" / "painted.webm") == 0
    assert capsys.readouterr().out == f"wrote 1 clip to {tmp_path / 'new' / 'painted.webm'}\n"
    assert call(run, mixed / "moves.gif", "-o", tmp_path / "new" / "painted.webp") == 0
    assert files(tmp_path / "new") == ["painted.webm", "painted.webp"]
    before = os.stat(tmp_path / "new" / "painted.webm").st_mtime_ns
    assert call(run, mixed / "clip.mp4", "-o", tmp_path / "new" / "painted.webm") == 0
    assert os.stat(tmp_path / "new" / "painted.webm").st_mtime_ns == before


def test_one_photo_to_a_file(run, mixed, tmp_path, capsys):  # noqa: F811
    result = tmp_path / "new" / "painted.jpg"
    assert call(run, mixed / "photo.png", "-o", result) == 0
    assert capsys.readouterr().out == f"wrote 1 image to {result}\n"
    with Image.open(result) as image, Image.open(mixed / "photo.png") as photo:
        assert (image.format, image.size) == ("JPEG", photo.size)
    swept_files = tmp_path / "new" / "swept.jpg"
    assert call(run, mixed / "photo.png", "-o", swept_files, "--sweep", 2, "--style", "night", "--style", "night") == 0
    assert capsys.readouterr().out == f"wrote 2 images to {swept_files.with_stem('swept-1')} and so on\n"
    result.unlink()
    result.mkdir()  # which is a folder then
    assert call(run, mixed / "photo.png", "-o", result) == 0
    assert files(result) == ["photo.png"]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["clip.mp4"], "b.avi", "videos are written as .mp4, .m4v, .mov, .mkv, .webm"),
        (["photo.png"], "b.mp4", "only a single video or animation becomes a video"),
        (["clip.mp4", "old.avi"], "b.mp4", "only a single video or animation becomes a video"),
        (["photo.png", "clip.mp4"], "b.png", "only a single photo becomes a picture"),
        (["clip.mp4"], "b.jpg", "only a single photo becomes a picture"),
        (["photo.png"], "b.gif", "photos are written as .bmp, .jpeg, .jpg, "),
        (["photo.png"], "photo.png --overwrite", "the result would replace "),
        (["clip.mp4"], "photo.png/b.mp4", "cannot write to "),
        (["nonesuch.mp4"], "b.mp4", "no such photo or folder"),
        (["clip.mp4"], "clip.mp4", "the result would replace "),
        (["clip.mp4"], "b.mp4 --steady 1", "steady: must be at least 0 and below 1, got 1"),
        ([], "b.mp4", "no inputs given: see --help"),
    ],
)
def test_bad_commands_lose_nothing(run, mixed, capsys, inputs, output, message):  # noqa: F811
    name, *options = output.split()
    before = files(mixed)
    err = fails(capsys, run, *(mixed / each for each in inputs), "-o", mixed / name, *options)
    assert message in err
    assert err.count("\n") == 1
    assert files(mixed) == before


def test_a_clip_without_pictures_is_an_error(run, tmp_path, capsys):  # noqa: F811
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "gone.mp4").symlink_to("nonesuch.mp4")
    before = files(tmp_path)
    for name, reason in (("a", ""), ("empty", "an empty file\n"), ("gone", "No such file or directory\n")):
        err = fails(capsys, run, tmp_path / f"{name}.mp4", "-o", tmp_path / "b.mp4")
        assert err.startswith(f"skipped {tmp_path / name}.mp4: {reason}")
    assert files(tmp_path) == before
    with pytest.raises(ImageError):
        painted(tmp_path / "a.mp4")


def test_a_broken_link_in_a_folder_is_skipped(run, mixed, tmp_path, capsys):  # noqa: F811
    (mixed / "gone.mp4").symlink_to("nonesuch.mp4")
    assert call(run, mixed, "-o", tmp_path / "out") == 0
    assert capsys.readouterr().err == f"skipped {mixed / 'gone.mp4'}: No such file or directory\n"
    assert files(tmp_path / "out") == ["clip.mp4", "moves.gif", "old.mp4", "photo.png", "still.png"]


def test_a_killed_conversion_whose_mask_has_changed_begins_anew(run, mixed, tmp_path, monkeypatch):  # noqa: F811
    seen = []

    def write(painted, target, made_of):
        seen.append(made_of)
        return original(painted, target, made_of)

    original = Painted.write
    monkeypatch.setattr(Painted, "write", write)
    mask = tmp_path / "mask.png"
    Image.new("L", (32, 24), 255).save(mask)
    name = Run.find(run).load(StyleTransfer).style_names[0]
    command = run, mixed / "clip.mp4", "-o", tmp_path / "b.mp4", "--overwrite", "--mask", f"{mask}={name}"
    assert call(*command) == call(*command) == 0
    Image.new("L", (32, 24), 0).save(mask)
    os.utime(mask, (0, 0))
    assert call(*command) == 0
    assert seen[0] == seen[1] != seen[2]


def test_a_mask_of_another_shape_leaves_nothing_behind(run, mixed, tmp_path, capsys):  # noqa: F811
    Image.new("L", (30, 90), 255).save(tmp_path / "mask.png")
    name = Run.find(run).load(StyleTransfer).style_names[0]
    err = fails(capsys, run, mixed / "clip.mp4", "-o", tmp_path / "b.mp4", "--mask", f"{tmp_path / 'mask.png'}={name}")
    assert "the mask" in err
    assert not (tmp_path / "b.mp4.parts").exists()


def test_the_files_of_a_sweep_are_named(run, mixed, tmp_path, capsys):  # noqa: F811
    name = Run.find(run).load(StyleTransfer).style_names[0]
    style = ("--style", name)
    assert call(run, mixed / "moves.gif", "-o", tmp_path / "b.gif", *style, *style, "--sweep", 2) == 0
    assert capsys.readouterr().out == f"wrote 2 clips to {tmp_path / 'b-1.gif'} and so on\n"


def save_frames(folder, count):
    folder.mkdir()
    draw = np.random.default_rng(0)
    ground = draw.integers(0, 200, (12, 16, 3))
    for number in range(count):
        noisy = ground + draw.integers(0, 25, (12, 16, 3))
        Image.fromarray(noisy.astype(np.uint8)).save(folder / f"frame{number}.png")


def test_frames_of_a_folder_are_taken_in_the_order_of_their_numbers(several, tmp_path):  # noqa: F811
    save_frames(tmp_path / "in", 12)
    for share, out in (("0", "apart"), ("0.6", "together")):
        assert call(several, tmp_path / "in", "-o", tmp_path / out, "--frames", "--steady", share) == 0
    assert call(several, tmp_path / "in", "-o", tmp_path / "photos") == 0

    def images(folder):
        return [np.asarray(Image.open(tmp_path / folder / f"frame{n}.png")).astype(int) for n in range(12)]

    assert all((a == b).all() for a, b in zip(images("apart"), images("photos"), strict=True))
    changes = {name: np.mean([abs(a - b).mean() for a, b in zip(i, i[1:])]) for name, i in  # noqa: B905, RUF007
               (("apart", images("apart")), ("together", images("together")))}  # fmt: skip
    assert changes["together"] < changes["apart"]
    # Those that are missing are painted as if all were painted now.
    whole = images("together")
    for number in (10, 11):
        (tmp_path / "together" / f"frame{number}.png").unlink()
    assert call(several, tmp_path / "in", "-o", tmp_path / "together", "--frames", "--steady", "0.6") == 0
    assert max(abs(a - b).max() for a, b in zip(images("together"), whole, strict=True)) <= 3


def test_the_noise_of_the_network_is_the_same_in_every_frame(tmp_path):
    torch.manual_seed(0)
    model = StyleTransfer(widths=[4], num_blocks=0, noise=0.1).eval()
    image = torch.rand(1, 3, 16, 24)
    assert torch.equal(model(image), model(image))


def test_a_full_disk_is_told_as_what_it_is(run, tmp_path, capsys):  # noqa: F811
    source = make_video(tmp_path / "a.mp4", frames=20, size=(128, 96))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        status = call(run, source, "-o", tmp_path / "b.mp4", "--strength", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    assert capsys.readouterr().err == f"error: cannot write {tmp_path / 'b.mp4.parts' / '000000.nut'}: File too large\n"
    assert call(run, source, "-o", tmp_path / "b.mp4", "--strength", 0) == 0
    assert files(tmp_path) == ["a.mp4", "b.mp4"]


def test_a_full_disk_keeps_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "PART", 3)
    source = make_video(tmp_path / "a.mp4")
    monkeypatch.setattr(clips, "join", lambda *arguments: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        painted(source).write(tmp_path / "b.mp4", "a")
    assert len([name for name in os.listdir(tmp_path / "b.mp4.parts") if name.endswith(".nut")]) == 3
    monkeypatch.undo()
    monkeypatch.setattr(clips, "PART", 3)
    clip = painted(source, lambda *both: pytest.fail("nothing is left to paint"))
    clip.write(tmp_path / "b.mp4", "a")
    assert len(list(Video(tmp_path / "b.mp4").frames())) == 8
    shutil.rmtree(tmp_path)
