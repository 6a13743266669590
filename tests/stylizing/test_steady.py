import pytest
import torch
import torch.nn.functional as F

from stylizing.steady import Steady


def scene(seed, size=(60, 80)):
    """A smooth picture of random colors."""
    draw = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, size[0] // 6, size[1] // 6, generator=draw)
    return F.interpolate(small, size, mode="bicubic").clamp(0, 1)[0]


def test_at_rest_it_is_an_exponential_mean():
    steady, frame = Steady(0.6), scene(0)
    paintings = [scene(seed) for seed in (1, 2, 3)]
    results = [steady(frame, painting) for painting in paintings]
    assert torch.equal(results[0], paintings[0])
    second = 0.4 * paintings[1] + 0.6 * paintings[0]
    torch.testing.assert_close(results[1], second)
    torch.testing.assert_close(results[2], 0.4 * paintings[2] + 0.6 * second)


def test_zero_changes_nothing():
    steady = Steady(0.0)
    for seed in range(3):
        painting = scene(seed)
        assert torch.equal(steady(scene(0), painting), painting)


def test_noise_of_the_painting_becomes_less_while_the_camera_moves():
    wide, draw = scene(4, (60, 120)), torch.Generator().manual_seed(0)
    steady, errors = Steady(0.6), []
    for number in range(8):
        frame = wide[..., 2 * number : 2 * number + 80]
        noise = 0.1 * torch.randn(frame.shape, generator=draw)
        errors.append((steady(frame, frame + noise) - frame)[:, 8:-8, 8:-8].square().mean().sqrt().item())
    # An exponential mean leaves sqrt((1 - s) / (1 + s)) = 0.5 of it, and interpolation less.
    assert errors[-1] < 0.65 * errors[0]


def test_a_cut_and_another_size_begin_anew():
    steady = Steady(0.9)
    steady(scene(0), scene(1))
    painting = scene(2)
    assert torch.equal(steady(scene(9), painting), painting)
    smaller = scene(3, (30, 40))
    assert torch.equal(steady(smaller, smaller), smaller)


def test_where_the_picture_has_changed_nothing_is_kept():
    steady, frame = Steady(0.9), scene(0)
    steady(frame, torch.zeros_like(frame))
    changed = frame.clone()
    changed[:, 20:40, 20:50] = 1 - changed[:, 20:40, 20:50].round()
    result = steady(changed, torch.ones_like(frame))
    assert result[:, 26:34, 26:44].mean() > 0.9
    torch.testing.assert_close(result[:, :10], torch.full_like(result[:, :10], 0.1))


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (7, 9)])
def test_tiny_frames(size):
    steady, frame = Steady(0.5), torch.rand(3, *size)
    for _ in range(2):
        assert torch.equal(steady(frame, frame), frame)


def test_it_goes_on_from_a_file(tmp_path):
    first, second = Steady(0.6), Steady(0.6)
    frames = [scene(0) + 0.01 * number for number in range(4)]
    for frame in frames[:2]:
        first(frame, frame * 0.5)
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    for frame in frames[2:]:
        assert torch.equal(first(frame, frame * 0.2), second(frame, frame * 0.2))
