import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.losses.adversarial import LOSSES, adversarial_loss
from norms.errors import SettingError

REAL = torch.tensor([2.0, 0.5, -1.0])
FAKE = torch.tensor([-3.0, 0.0, 1.0, 0.25])


def test_hinge_closed_form():
    loss = adversarial_loss("hinge")
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1 + 2 + 1.25) / 4)
    assert loss.generator(FAKE).item() == pytest.approx(1.75 / 4)


def test_hinge_ignores_scores_beyond_the_margin():
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    adversarial_loss("hinge").discriminator(real, fake).backward()
    torch.testing.assert_close(real.grad, torch.tensor([0.0, -1 / 3, -1 / 3]))
    torch.testing.assert_close(fake.grad, torch.tensor([0.0, 0.25, 0.25, 0.25]))


def test_non_saturating_is_cross_entropy():
    loss = adversarial_loss("non_saturating")
    ones, zeros = torch.ones_like(REAL), torch.zeros_like(FAKE)
    expected = F.binary_cross_entropy_with_logits(REAL, ones) + F.binary_cross_entropy_with_logits(FAKE, zeros)
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), expected)
    torch.testing.assert_close(loss.generator(FAKE), F.binary_cross_entropy_with_logits(FAKE, torch.ones_like(FAKE)))
    undecided = torch.zeros(5)
    assert loss.discriminator(undecided, undecided).item() == pytest.approx(2 * math.log(2))


def test_non_saturating_keeps_its_gradient_where_the_generator_loses():
    fake = torch.tensor([-1e4], requires_grad=True)
    loss = adversarial_loss("non_saturating").generator(fake)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert fake.grad.item() == pytest.approx(-1)


@pytest.mark.parametrize("name", LOSSES)
@given(score=st.floats(-50, 50), step=st.floats(0.01, 5))
def test_both_sides_pull_in_opposite_directions(name, score, step):
    loss = adversarial_loss(name)
    low, high, real = torch.tensor([score]), torch.tensor([score + step]), torch.tensor([0.0])
    assert loss.generator(high) <= loss.generator(low)
    assert loss.discriminator(real, high) >= loss.discriminator(real, low)


def test_unknown_name():
    with pytest.raises(
        SettingError,
        match=r"^unknown adversarial loss 'hinj', did you mean 'hinge'\? \(known: hinge, non_saturating\)$",
    ):
        adversarial_loss("hinj")


class LeastSquares:
    """Mao et al. 2017, as a user would add it."""

    def discriminator(self, real, fake):
        return (real - 1).square().mean() + fake.square().mean()

    def generator(self, fake):
        return (fake - 1).square().mean()


@pytest.mark.parametrize("choice", [f"{__name__}.LeastSquares", LeastSquares])
def test_a_loss_of_ones_own(choice):
    loss = adversarial_loss(choice)
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx((1 + 0.25 + 4) / 3 + (9 + 0 + 1 + 0.0625) / 4)
    assert loss.generator(FAKE).item() == pytest.approx((16 + 1 + 0 + 0.5625) / 4)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("torch.nn.ReLU", r"^adversarial loss 'torch\.nn\.ReLU' has no method discriminator$"),
        ("nonesuch.Loss", r"^adversarial loss 'nonesuch\.Loss': there is no module nonesuch$"),
        ("torch.nn.Nonesuch", r"^adversarial loss 'torch\.nn\.Nonesuch': torch\.nn has no Nonesuch$"),
    ],
)
def test_what_is_no_loss(choice, message):
    with pytest.raises(SettingError, match=message):
        adversarial_loss(choice)
