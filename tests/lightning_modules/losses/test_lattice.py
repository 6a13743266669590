import pytest
import torch

from lightning_modules.losses.lattice import Lattice, lattice
from norms.errors import SettingError


def by_hand(image, period):
    """The mean over windows of eight periods, pixel by pixel."""
    side, values = 8 * period, []
    for window in (w for rows in image.split(side, 2) for w in rows.split(side, 3)):
        for channel in window.flatten(0, 1):
            means = [channel[i::period, j::period].mean() for i in range(period) for j in range(period)]
            values.append(torch.stack(means).var(unbiased=False))
    return torch.stack(values).mean()


@pytest.mark.parametrize("period", [2, 4])
def test_it_is_the_variance_of_the_means(period):
    image = torch.rand(2, 3, 16 * period, 24 * period, dtype=torch.double)
    torch.testing.assert_close(lattice(image, period), by_hand(image, period))


def test_lines_in_closed_form():
    lines = torch.zeros(1, 3, 64, 64)
    lines[:, :, ::4] = 0.4  # a quarter of the rows: variance 0.4^2 (1/4)(3/4)
    torch.testing.assert_close(lattice(lines, 4), torch.tensor(0.4**2 * 3 / 16))
    assert lattice(lines[:, :, 1:].contiguous(), 4) > 0.02, "wherever the lattice begins"


def test_what_has_another_period_counts_for_little():
    wave = torch.sin(torch.arange(96.0) * 2 * torch.pi / 6)[:, None].expand(1, 3, 96, 96)
    assert lattice(wave, 4) < 0.02 * lattice(
        torch.sin(torch.arange(96.0) * 2 * torch.pi / 4)[:, None].expand(1, 3, 96, 96), 4
    )
    assert lattice(torch.full((1, 3, 64, 64), 0.3), 4) == 0


@pytest.mark.parametrize("size", [(1, 50), (3, 3), (4, 4), (7, 9), (33, 70)])
def test_any_size(size):
    image = torch.rand(2, 3, *size)
    assert lattice(image, 4).isfinite()
    assert (lattice(image, 4) == 0) == (min(size) < 4)


def test_it_has_the_right_gradient():
    image = torch.rand(1, 1, 9, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image: lattice(image, 4), image)


def test_as_a_term():
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(Lattice(2.0, 2)(image, {}, {}), lattice(image, 2))
    with pytest.raises(SettingError, match="period must be at least 2"):
        Lattice(period=1)
    with pytest.raises(SettingError, match="lattice_weight must be at least 0"):
        Lattice(-1)
