"""The signs of a training that goes wrong, on numbers made by hand, and the numbers themselves."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from stand_ins import Images, TinyModel
from torch import nn

from lightning_modules.gan import GAN
from lightning_modules.losses.adversarial import LOSSES
from lightning_modules.networks.sngan import ResNet
from training.callbacks.gans import is_gan, run_once, scored
from training.callbacks.signs import (
    Collapse,
    Explosion,
    GANLook,
    Jump,
    Saturation,
    learning_left,
    look_at_gan,
    mean_distance,
)

GOOD = GANLook(
    diversity=0.3, real_diversity=0.3, real_score=0.5, fake_score=-0.5, learning=0.8, sigmas={"a": 2.0, "b": 3.0}
)


def told(sign, looks):
    return [number for number, seen in enumerate(looks, 1) if sign.look(seen)]


def small_networks(**options):
    return ResNet(4, (4, 4), (4, 4), 1)(**options)


def conditional_networks(**options):
    return ResNet(4, (4, 4), (4, 4), 1)(**options)


def auxiliary_networks(**options):
    return ResNet(4, (4, 4), (4, 4), 1, conditioning="auxiliary")(**options)


def test_mean_distance_is_that_of_pairs_within_groups():
    images = torch.rand(6, 2, 3, 3, dtype=torch.float64)
    expected = [
        float((images[i] - images[j]).square().mean().sqrt())
        for i in range(6)
        for j in range(6)
        if i != j and i // 3 == j // 3
    ]
    assert mean_distance(images, 3) == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert mean_distance(images[:1].expand(6, -1, -1, -1), 6) == 0
    assert mean_distance(images[:1], 1) == 0, "one image has none to differ from"


def test_learning_left_is_the_share_within_the_margins_of_a_hinge():
    real, fake = torch.tensor([2.0, 0.5, 3.0, 1.5]), torch.tensor([-2.0, -0.5, 0.5, -3.0])
    assert learning_left(LOSSES["hinge"](), real, fake) == pytest.approx((1 / 4 + 2 / 4) / 2)


def test_learning_left_is_the_doubt_of_a_non_saturating_loss():
    real, fake = torch.tensor([3.0, 1.0]), torch.tensor([-2.0, 0.0])
    doubts = [1 / (1 + math.exp(s)) for s in (3, 1, 2, 0)]
    assert learning_left(LOSSES["non_saturating"](), real, fake) == pytest.approx(sum(doubts) / 4)


@pytest.mark.parametrize("name", LOSSES)
def test_learning_left_of_any_loss_is_a_number(name):
    value = learning_left(LOSSES[name](), torch.randn(8) + 1, torch.randn(8) - 1)
    assert 0 < value < 10


def test_a_training_in_health_has_no_sign():
    looks = [replace(GOOD, diversity=0.3 - 0.1 * (n % 3), sigmas={"a": 2 + n / 5, "b": 3.0}) for n in range(50)]
    for sign in (Collapse(), Saturation(), Jump()):
        assert told(sign, looks) == []
        assert sign.in_a_row == 0


def test_images_that_are_alike_are_a_collapse_after_five_looks_and_are_told_of_once():
    assert told(Collapse(), [replace(GOOD, diversity=0.01)] * 20) == [5]
    broken_up = [replace(GOOD, diversity=0.01)] * 4 + [GOOD]
    assert told(Collapse(), broken_up * 5) == []


def test_diversity_that_has_fallen_is_a_collapse():
    assert told(Collapse(), [GOOD] * 3 + [replace(GOOD, diversity=0.08)] * 5) == [8]
    # As low from the beginning it is not, nor where real images are as much alike.
    assert told(Collapse(), [replace(GOOD, diversity=0.08)] * 9) == []
    assert told(Collapse(), [GOOD] * 3 + [replace(GOOD, diversity=0.08, real_diversity=0.1)] * 9) == []


def test_a_sure_discriminator_is_saturated():
    assert told(Saturation(), [replace(GOOD, learning=0.01)] * 6) == [5]
    assert told(Saturation(), [replace(GOOD, learning=0.03)] * 6) == []


def test_a_singular_value_that_jumps_is_told_by_its_layer():
    sign = Jump()
    assert [sign.look(replace(GOOD, sigmas={"a": 2 + n / 10, "b": 3.0})) for n in range(5)] == [None] * 5
    assert "generator.b has jumped from 3 to 9.5" in sign.look(replace(GOOD, sigmas={"a": 2.0, "b": 9.5}))
    assert told(Jump(), [replace(GOOD, sigmas={"a": 1.4**n}) for n in range(30)]) == [], "growth is no jump"
    assert told(Jump(), [GOOD] * 4 + [replace(GOOD, sigmas={"a": 99.0})]) == [], "too little is known to tell"


def test_a_loss_explodes_against_its_first_value():
    assert told(Explosion(), [{"loss": 0.1}, {"loss": 49.0}, {"loss": -51.0}, {"loss": 99.0}]) == [3]
    assert told(Explosion(), [{"loss": 5.0}, {"loss": 249.0}]) == []


def test_what_a_sign_remembers_is_enough_to_tell_the_same():
    looks = [GOOD] * 3 + [replace(GOOD, diversity=0.08)] * 9
    one, other = Collapse(), Collapse()
    told(one, looks[:5])
    vars(other).update(copy.deepcopy(vars(one)))
    assert told(other, looks[5:]) == [3]


@pytest.mark.parametrize(
    ("networks", "classes"), [(small_networks, 0), (conditional_networks, 3), (auxiliary_networks, 3)]
)
def test_a_look_moves_nothing_and_sees_what_there_is(networks, classes):
    torch.manual_seed(0)
    gan = GAN(networks, latent_dim=4, num_classes=classes, norm="batch")
    gan.train()
    gan.generator.eval()  # a mode of its own, to be restored
    batch = {"image": torch.rand(10, 3, 8, 8), "label": torch.arange(10) % 3}
    before, random = copy.deepcopy(gan.state_dict()), torch.get_rng_state()
    seen = look_at_gan(gan, batch)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in gan.state_dict().items())
    assert gan.training
    assert not gan.generator.training
    assert seen == look_at_gan(gan, batch)
    gan.discriminator.eval()
    labels = (batch["label"],) if classes and networks is conditional_networks else ()
    scores = gan.discriminator(2 * batch["image"] - 1, *labels)
    scores = scores[0] if isinstance(scores, tuple) else scores
    assert seen.real_score == pytest.approx(float(scores.detach().mean()), abs=1e-6)
    assert seen.real_diversity == pytest.approx(mean_distance(batch["image"], 10))
    exact = {
        name: float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))
        for name, layer in gan.generator.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    assert {name: seen.sigmas[name] for name in exact} == pytest.approx(exact, rel=0.1)


def test_images_of_one_class_are_compared_with_each_other_alone():
    """A generator that tells classes apart and nothing else has collapsed."""

    class Flags(nn.Module):
        image_size = 8

        def __init__(self):
            super().__init__()
            self.colors = nn.Parameter(torch.linspace(-1, 1, 3))

        def forward(self, latents, labels):
            return self.colors[labels].view(-1, 1, 1, 1).expand(-1, 3, 8, 8)

    gan = GAN(conditional_networks, latent_dim=4, num_classes=3)
    gan.generator = Flags()
    batch = {"image": torch.stack([Images()[n]["image"] for n in range(8)]), "label": torch.zeros(8, dtype=torch.int64)}
    assert look_at_gan(gan, batch).diversity == 0


def test_what_is_no_gan_is_told_apart():
    assert is_gan(GAN(small_networks, latent_dim=4))
    assert not is_gan(TinyModel())


def test_networks_are_called_with_a_single_input():
    gan = GAN(conditional_networks, latent_dim=4, num_classes=3).eval()
    shapes = []
    for network in (gan.generator, gan.discriminator):
        next(network.blocks.children()).register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    run_once(gan, "generator")
    run_once(gan, "discriminator")
    assert shapes == [(1, 4, 4, 4), (1, 3, 8, 8)]
    assert scored(gan, torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])).shape == (2,)
