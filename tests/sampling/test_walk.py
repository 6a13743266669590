"""Walks through the latent space: smooth, closed, and written as what the ending names."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from clip_files import pictures, times
from gan_runs import make_gan, write_run
from PIL import Image

from sampling import walk as walking
from sampling.command import main
from sampling.plan import Plan, slerp
from sampling.trained import TrainedGenerator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("gan") / "version_0", make_gan(num_classes=3))


@pytest.fixture(scope="module")
def trained(run):
    return TrainedGenerator.find(run)


def test_a_walk_passes_the_images_of_its_plan_in_even_steps_and_ends_where_it_began(trained):
    plan = Plan(3, 8, labels=(0, 2))
    frames = torch.stack(list(walking.walk(trained, plan, 20)))
    assert len(frames) == 60
    places = trained.draw(plan.latents(range(3)), plan.classes(range(3)))
    torch.testing.assert_close(frames[::20], places, atol=1e-5, rtol=0)
    steps = frames.sub(frames.roll(1, 0)).flatten(1).norm(dim=1)  # that from the last to the first one too
    jumps = places.sub(places.roll(1, 0)).flatten(1).norm(dim=1)
    assert steps.max() < jumps.min() / 2


def test_classes_are_mixed_by_shares_on_the_way(trained):
    plan = Plan(2, 8, labels=(0, 2))
    quarter = list(walking.walk(trained, plan, 4))[1]
    latents = slerp(*plan.latents(range(2)), torch.tensor([0.25]))
    expected = trained.draw(latents, torch.tensor([[0.75, 0.0, 0.25]]))[0]
    torch.testing.assert_close(quarter, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_animations_last_as_long_as_told_and_go_on_for_ever(ending, run, tmp_path, capsys):
    path = tmp_path / f"walk.{ending}"
    options = ["--interpolate", "5", "--count", "2", "--fps", "10", "--scale", "2", "--label", "1"]
    assert main([str(run), "-o", str(path), *options]) == 0
    wrote, classes, following = capsys.readouterr().out.splitlines()
    assert wrote == f"wrote {path}: 10 frames of 32x32, 1 s"
    assert classes == "classes: 1, 1"
    assert following == f"next: python sample.py {run} --neighbors 5"
    with Image.open(path) as image:
        assert image.n_frames == 10
        assert image.size == (32, 32)
        assert image.info["loop"] == 0
        for number in range(10):
            image.seek(number)
            image.load()
            assert image.info["duration"] == 100


def test_videos_show_the_frames_of_the_walk(run, trained, tmp_path):
    pytest.importorskip("av")
    path = tmp_path / "walk.mp4"
    assert main([str(run), "-o", str(path), "--interpolate", "4", "--count", "2", "--fps", "8"]) == 0
    expected = torch.stack(list(walking.walk(trained, Plan(2, 8, labels=(0, 1, 2)), 4)))
    enlarged = 255 * expected.repeat_interleave(4, 2).repeat_interleave(4, 3).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    assert abs(pictures(path) - enlarged.numpy()).mean() < 4
    assert np.diff(times(path)).tolist() == [Fraction(1, 8)] * 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "walk.jpg"], "walk.jpg: a walk is written as .gif, .webp, .png, .apng, .mp4"),
        (["-o", "folder.gif"], "folder.gif is a folder"),
        (["--count", "1"], "--count with --interpolate must be at least 2, got 1"),
        (["--count", "100000"], "--count times --interpolate must be at most 100000, got 500000"),
        (["--fps", "5000"], "--fps must be at least 0.01 and at most 1000, got 5000"),
        (["--scale", "500"], "the walk would have 2,560,000,000 pixels, and an animation has at most 150,000,000"),
    ],
)
def test_what_is_no_walk(options, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.gif").mkdir()
    assert main([str(run), "--interpolate", "5", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["folder.gif"]


def test_without_pyav_the_command_that_installs_it_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.moving.find_spec", lambda name: None)
    assert main([str(tmp_path / "no run"), "--interpolate", "5", "-o", str(tmp_path / "walk.mp4")]) == 2
    assert "pip install 'normlab[video]'" in capsys.readouterr().err
