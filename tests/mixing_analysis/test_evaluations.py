"""What versions of a network are recalibrated and scored with."""

import copy

import pytest
import torch
from gan_runs import make_gan
from stand_ins import TinyData, TinyModel
from torch import nn

from data.stream import generator
from lightning_modules.style_transfer import StyleTransfer
from mixing_analysis.evaluations import LATENTS, HeldOut, Latents, rms
from mixing_analysis.networks import quiet, recalibrated


@pytest.mark.parametrize("separate_norms", [False, True])
def test_several_styles_share_their_statistics_as_in_training(separate_norms):
    torch.manual_seed(0)
    options = {"separate_norms": separate_norms, "norm": "batch", "widths": [4, 4], "num_blocks": 1}
    module = StyleTransfer(styles=["night", "waves", "glass"], **options).eval()
    for name, parameter in module.transformer.named_parameters():
        if ".norm" in name:
            nn.init.normal_(parameter)
    photos = torch.rand(6, 3, 16, 16)
    found = recalibrated(module, [{"image": part} for part in photos.split(2)], torch.device("cpu"))
    trained = copy.deepcopy(module).train()
    for layer in trained.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.momentum = None
    for part, styles in zip(photos.split(2), ([0, 1], [2, 0], [1, 2]), strict=True):
        trained(part, torch.tensor(styles))
    for name, value in trained.named_buffers():
        if name.endswith("running_mean"):
            torch.testing.assert_close(dict(found.named_buffers())[name], value)


def test_the_scores_are_those_of_the_validation():
    held_out = HeldOut(TinyData(), 1)
    with quiet():
        module = TinyModel().eval()
        scores = held_out.scores(module)
    (batch,) = held_out.batches()
    assert batch["image"].shape == (6, 3, 8, 8)
    with torch.no_grad():
        assert scores == {"val/loss": pytest.approx(module.loss(batch["image"]).item())}


@pytest.mark.parametrize("num_classes", [0, 3])
def test_latents_are_drawn_and_scored_with_each_class_in_turn(num_classes):
    gan = make_gan(num_classes=num_classes, norm="batch_instance")
    latents = Latents(gan)
    images = latents.draw(gan)
    inputs = [torch.randn(LATENTS, 8, generator=generator(0, 0))]
    inputs += [torch.arange(LATENTS) % num_classes] if num_classes else []
    with torch.no_grad():
        expected = gan.generator(*inputs)
        score = gan.discriminator(expected, *inputs[1:]).mean().item()
    torch.testing.assert_close(images, expected)
    assert latents.d_fake(gan, images) == pytest.approx(score, rel=1e-4)


def test_an_auxiliary_classifier_scores_without_classes():
    gan = make_gan(num_classes=3, architecture_options={"conditioning": "auxiliary"})
    latents = Latents(gan)
    images = latents.draw(gan)
    with torch.no_grad():
        assert latents.d_fake(gan, images) == pytest.approx(gan.discriminator(images)[0].mean().item(), rel=1e-4)


def test_a_recalibrated_generator_is_the_one_that_samples_are_drawn_from():
    gan = make_gan(norm="batch")
    nn.init.constant_(next(m for m in gan.generator.modules() if isinstance(m, nn.BatchNorm2d)).running_mean, 9)
    latents = Latents(gan)
    images = latents.draw(latents.recalibrated(gan))
    drawn = gan.sample(torch.cat([batch["latents"] for batch in latents.batches()]), averaged=False)
    torch.testing.assert_close((images + 1) / 2, drawn)
    assert rms(images - latents.draw(gan)) > 0.01


def test_rms():
    assert rms(torch.tensor([3.0, -4.0])) == pytest.approx(12.5**0.5)
