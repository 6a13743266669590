"""What the benchmark of flicker measures."""

import pytest
import torch
from test_benchmarks import load

flicker = load("flicker")


@pytest.fixture(scope="module")
def photo():
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(1, 3, 40, 50, generator=draw)
    return torch.nn.functional.interpolate(small, (400, 500), mode="bicubic").clamp(0, 1)[0]


def test_a_pan_is_the_motion_that_is_taken_back(photo):
    frames = flicker.pan(photo, 6)
    assert flicker.flicker(frames, flicker.moved_on) < 3e-3
    # Were it moved the other way, or not at all, it would not be.
    assert flicker.flicker(frames, lambda frame, number: frame) > 5e-3
    assert flicker.flicker(frames[::-1], flicker.moved_on) > 1e-2


def test_noise_flickers_by_its_mean_difference(photo):
    still = [torch.full((3, 100, 120), 0.5)] * 5
    value = flicker.flicker(flicker.noisy(still, 0), lambda frame, number: frame)
    assert value == pytest.approx(flicker.NOISE * 2 / torch.pi**0.5, rel=0.05)


def test_a_ghost_is_the_share_of_what_was_there(photo):
    frames, discs = flicker.crossing(photo, 5)
    blended = [frames[0]]
    for frame in frames[1:]:
        blended.append(0.3 * blended[-1] + 0.7 * frame)
    assert flicker.ghost(frames, frames, discs) == 0
    assert flicker.ghost(blended, frames, discs) == pytest.approx(0.3, abs=0.02)
