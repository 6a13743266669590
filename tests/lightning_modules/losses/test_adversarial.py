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


def test_wasserstein_closed_form():
    loss = adversarial_loss("wasserstein")
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(-1.75 / 4 - 1.5 / 3)
    assert loss.generator(FAKE).item() == pytest.approx(1.75 / 4)


def test_relativistic_is_cross_entropy_of_the_differences():
    loss = adversarial_loss("relativistic")
    fake = FAKE[:3]
    differences = torch.tensor([5.0, 0.5, -2.0])
    ones, zeros = torch.ones(3), torch.zeros(3)
    expected = F.binary_cross_entropy_with_logits(differences, ones)
    torch.testing.assert_close(loss.discriminator(REAL, fake), expected)
    torch.testing.assert_close(loss.generator(fake, REAL), F.binary_cross_entropy_with_logits(differences, zeros))
    assert loss.discriminator(ones, ones).item() == pytest.approx(math.log(2))
    far = torch.tensor([1e4])
    assert loss.discriminator(-far, far).item() == pytest.approx(2e4)


def test_relativistic_sees_differences_alone():
    loss = adversarial_loss("relativistic")
    assert loss.discriminator(REAL + 3, FAKE[:3] + 3).item() == pytest.approx(loss.discriminator(REAL, FAKE[:3]).item())
    swapped = loss.discriminator(FAKE[:3], REAL)
    torch.testing.assert_close(loss.generator(FAKE[:3], REAL), swapped)


@pytest.mark.parametrize("side", ["discriminator", "generator"])
@pytest.mark.parametrize("count", [1, 4])
def test_relativistic_needs_pairs(side, count):
    scores = (REAL, FAKE[:count]) if side == "discriminator" else (FAKE[:count], REAL)
    message = f"^a relativistic loss needs as many generated images as real ones, got {count} and 3$"
    with pytest.raises(SettingError, match=message):
        getattr(adversarial_loss("relativistic"), side)(*scores)


def test_which_losses_are_paired():
    assert [name for name in LOSSES if getattr(adversarial_loss(name), "paired", False)] == ["relativistic"]


def generator_loss(loss, fake, real):
    return loss.generator(fake, real) if getattr(loss, "paired", False) else loss.generator(fake)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    loss = adversarial_loss(name)
    # No score lies at the kinks of the hinge.
    draws = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(5, dtype=torch.float64, generator=draws).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(loss.discriminator, (real, fake))
    assert torch.autograd.gradcheck(lambda *scores: generator_loss(loss, *scores), (fake, real))


# A distance from a target has no direction.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "least_squares"])
@given(score=st.floats(-50, 50), step=st.floats(0.01, 5))
def test_both_sides_pull_in_opposite_directions(name, score, step):
    loss = adversarial_loss(name)
    low, high, real = torch.tensor([score]), torch.tensor([score + step]), torch.tensor([0.0])
    assert generator_loss(loss, high, real) <= generator_loss(loss, low, real)
    assert loss.discriminator(real, high) >= loss.discriminator(real, low)


def test_least_squares_is_at_rest_at_its_targets():
    loss = adversarial_loss("least_squares")
    ones, zeros, halves = torch.ones(3), torch.zeros(3), torch.full((3,), 0.5)
    assert loss.discriminator(ones, zeros) == 0
    assert loss.generator(ones) == 0
    assert loss.discriminator(halves, halves).item() == pytest.approx(0.25)


def test_unknown_name():
    message = r"^unknown adversarial loss 'hinj', did you mean 'hinge'\? \(known: hinge, non_saturating, .*\)$"
    with pytest.raises(SettingError, match=message):
        adversarial_loss("hinj")


class LeastSquares:
    """Mao et al. 2017 without the halves, as a user would add it."""

    def discriminator(self, real, fake):
        return (real - 1).square().mean() + fake.square().mean()

    def generator(self, fake):
        return (fake - 1).square().mean()


@pytest.mark.parametrize("choice", [f"{__name__}.LeastSquares", LeastSquares])
def test_a_loss_of_ones_own(choice):
    loss = adversarial_loss(choice)
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx((1 + 0.25 + 4) / 3 + (9 + 0 + 1 + 0.0625) / 4)
    assert loss.generator(FAKE).item() == pytest.approx((16 + 1 + 0 + 0.5625) / 4)


def test_least_squares_halves_the_squares():
    loss, whole = adversarial_loss("least_squares"), LeastSquares()
    torch.testing.assert_close(2 * loss.discriminator(REAL, FAKE), whole.discriminator(REAL, FAKE))
    torch.testing.assert_close(2 * loss.generator(FAKE), whole.generator(FAKE))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("torch.nn.ReLU", r"^adversarial loss 'torch\.nn\.ReLU' has no method discriminator$"),
        ("torch.nn.Linear", r"^adversarial loss 'torch\.nn\.Linear' cannot be built without arguments: missing .*"),
        ("nonesuch.Loss", r"^adversarial loss 'nonesuch\.Loss': there is no module nonesuch$"),
        ("torch.nn.Nonesuch", r"^adversarial loss 'torch\.nn\.Nonesuch': torch\.nn has no Nonesuch$"),
    ],
)
def test_what_is_no_loss(choice, message):
    with pytest.raises(SettingError, match=message):
        adversarial_loss(choice)
