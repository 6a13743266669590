import pytest
import torch
import torch.nn.functional as F

from lightning_modules.losses.stability import FARTHEST, NOISE, instability, moved


def smooth(size=48):
    draw = torch.Generator().manual_seed(0)
    return F.interpolate(torch.rand(2, 3, 8, 8, generator=draw), (size, size), mode="bicubic")


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-1, 4)])
def test_whole_pixels_move_as_they_are(right, down):
    image = torch.rand(2, 3, 20, 30)
    expected = torch.roll(image, (down, right), (-2, -1))
    torch.testing.assert_close(moved(image, torch.tensor([right, down]))[..., 5:-5, 5:-5], expected[..., 5:-5, 5:-5])


def test_halves_of_pixels_add_up():
    image = smooth()
    twice = moved(moved(image, torch.tensor([0.5, -0.25])), torch.tensor([0.5, -0.75]))
    assert (twice - moved(image, torch.tensor([1, -1])))[..., 8:-8, 8:-8].abs().mean() < 5e-3
    assert (twice - image)[..., 8:-8, 8:-8].abs().mean() > 5e-2


def test_what_moves_with_the_picture_has_only_the_noise():
    photo, draws = smooth(), torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    value = instability(lambda image: image, photo, photo, draws)
    assert value == pytest.approx(NOISE**2, rel=0.1)
    # A painting that hides noise is steady.
    assert instability(lambda image: 0 * image, photo, 0 * photo, draws) == 0


def test_what_stays_on_the_screen_counts():
    stripes = torch.arange(48).remainder(4).lt(2).float().expand(2, 3, 48, 48)
    photo, draws = smooth(), torch.full((2, 3, 48, 48), 0.0)
    draws[0, 0, 0, 0] = 0.9538726  # erf(0.9538726 / sqrt(2)) * 4 is 2.64 pixels to the right
    right = FARTHEST * torch.erf(torch.tensor(0.9538726 / 2**0.5)).item()
    value = instability(lambda image: stripes, photo, stripes, draws)
    expected = (stripes - moved(stripes, torch.tensor([right, 0])))[..., 8:-8, 8:-8].square().mean()
    torch.testing.assert_close(value, expected)
    assert value > 0.1


def test_gradients_reach_both_paintings():
    gain = torch.tensor(1.5, requires_grad=True)
    photo, draws = smooth(), torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    loss = instability(lambda image: gain * image, photo, gain * photo, draws)
    loss.backward()
    # It is the noise, times the gain, squared.
    assert gain.grad == pytest.approx(2 * loss.item() / 1.5, rel=1e-4)
