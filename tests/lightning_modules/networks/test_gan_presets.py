import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_modules.networks.gan_presets import ARCHITECTURES, adapt, build_networks
from lightning_modules.networks.r3gan import R3GAN
from lightning_modules.networks.sngan import CNN, ResNet
from norms.errors import SettingError

SETTINGS = {"channels": 3, "latent_dim": 120, "norm": "batch", "norm_options": None}


# Parametrizing so many layers takes seconds, and changes neither shapes nor numbers.
PLAIN = {"spectral": "none"}


def count(network):
    return sum(p.numel() for p in network.parameters())


def built(name, **changed):
    with torch.device("meta"):
        return build_networks(name, **{**SETTINGS, **changed})


@pytest.mark.parametrize(
    ("name", "classes", "latent_dim", "generator", "discriminator"),
    [
        # Miyato & Koyama's code for CIFAR-10; the last layer has a bias here.
        ("resnet32", 10, 128, 4_304_387, 1_055_104 + 1),
        # What the test of resnet_biggan in google/compare_gan asserts, for ImageNet.
        ("biggan", 1000, 120, 70_433_988, 87_982_370),
    ],
)
def test_published_parameter_counts(name, classes, latent_dim, generator, discriminator):
    g, d = built(name, num_classes=classes, latent_dim=latent_dim, options=PLAIN)
    assert count(g) == generator
    assert count(d) == discriminator


def conv(source, width, k):
    return width * (source * k * k + 1)


def attention(c):
    return 2 * c * (c // 8) + 2 * c * (c // 2) + 1


def test_parameters_of_sagan_are_those_of_its_description():
    g, d = built("sagan", num_classes=1000, latent_dim=128, options=PLAIN)
    up, down = (1024, 1024, 512, 256, 128, 64), (3, 64, 128, 256, 512, 1024, 1024)
    expected = 129 * 1024 * 16 + attention(256) + 2 * 64 + conv(64, 3, 3)
    for a, b in pairwise(up):
        expected += conv(a, b, 3) + conv(b, b, 3) + conv(a, b, 1) + 2 * 1000 * (a + b)
    assert count(g) == expected
    expected = attention(128) + 1025 + 1000 * 1024
    for a, b in pairwise(down):
        expected += conv(a, b, 3) + conv(b, b, 3) + (conv(a, b, 1) if a != b else 0)
    assert count(d) == expected
    assert [b.gamma.shape for b in g.blocks if hasattr(b, "gamma")] == [()]


def test_parameters_of_the_small_presets():
    def g_cnn(c):
        return 129 * 49 * 128 + (16 * 128 * 64 + 64) + 128 + (16 * 64 * 32 + 32) + 64 + conv(32, c, 3)

    def d_cnn(c):
        widths = conv(c, 32, 3) + conv(32, 32, 4) + conv(32, 64, 3) + conv(64, 64, 4) + conv(64, 128, 3)
        return widths + 49 * 128 + 1

    for channels in (1, 3):
        g, d = built("cnn28", channels=channels, latent_dim=128)
        assert (count(g), count(d)) == (g_cnn(channels), d_cnn(channels))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("num_classes", "channels"), [(0, 1), (3, 3)])
def test_every_preset_makes_images_and_scores_of_its_size(name, num_classes, channels):
    g, d = built(name, num_classes=num_classes, channels=channels, options=PLAIN)
    size = ARCHITECTURES[name].image_size
    assert g.image_size == size
    if digits := "".join(filter(str.isdigit, name.removeprefix("r3"))):
        assert size == int(digits)
    with torch.device("meta"):
        labels = (torch.zeros(2, dtype=torch.int64),) if num_classes else ()
        images = g(torch.randn(2, 120), *labels)
        assert images.shape == (2, channels, size, size)
        assert d(images, *labels).shape == (2,)
        assert d.features(images).shape == (2, d.linear.in_features)


SIZES = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8])


@st.composite
def architectures(draw):
    base, doublings = draw(SIZES), draw(st.integers(1, 3))
    widths = st.sampled_from([8, 16, 24, 32])
    generator = tuple(draw(st.lists(widths, min_size=doublings + 1, max_size=doublings + 1)))
    family = draw(st.sampled_from([ResNet, CNN, R3GAN]))
    halvings = draw(st.integers(1, doublings))
    further = halvings + 1 if family is R3GAN else draw(st.integers(halvings, halvings + 2))
    discriminator = tuple(draw(st.lists(widths, min_size=further, max_size=further)))
    options = {"embedding": 4} if family is R3GAN else {}
    return family(base, generator, discriminator, halvings, spectral="none", **options)


@given(architectures(), st.integers(0, 6), st.sampled_from([0, 2]))
@settings(max_examples=20, deadline=None)
def test_any_size_that_the_base_makes(architecture, doublings, num_classes):
    size = architecture.base * 2 ** (1 + doublings)
    further = 2 + doublings - len(architecture.generator)
    if size > 128 or architecture.halvings + further < 0 or len(architecture.discriminator) + further < 1:
        with pytest.raises(SettingError):
            adapt(architecture, {"image_size": size})
        return
    adapted = adapt(architecture, {"image_size": size})
    assert adapted.image_size == size
    with torch.device("meta"):
        g, d = adapted(1, 6, "batch", None, num_classes)
        labels = (torch.zeros(2, dtype=torch.int64),) if num_classes else ()
        images = g(torch.randn(2, 6), *labels)
        assert images.shape == (2, 1, size, size)
        assert d(images, *labels).shape == (2,)
    if size >= architecture.image_size:
        assert adapted.generator[-len(architecture.generator) :] == architecture.generator
        assert adapted.discriminator[: len(architecture.discriminator)] == architecture.discriminator
        assert size // 2**adapted.halvings == architecture.image_size // 2**architecture.halvings
        assert adapt(adapted, {"image_size": architecture.image_size}) == architecture


@pytest.mark.parametrize(
    ("name", "size", "generator", "discriminator", "halvings", "attention"),
    [
        ("resnet32", 64, (256,) * 5, (128,) * 5, 3, None),
        ("resnet32", 16, (256,) * 3, (128,) * 3, 1, None),
        ("cnn32", 128, (1024, 1024, 512, 256, 128, 64), (64, 128, 256, 512, 1024, 1024), 5, None),
        ("resnet28", 56, (64, 64, 48, 32), (32, 64, 64, 64), 3, None),
        ("cnn28", 112, (512, 256, 128, 64, 32), (32, 64, 128, 256, 512), 4, None),
        ("sagan", 32, (512, 256, 128, 64), (64, 128, 256, 512), 3, 8),
        ("biggan", 64, (1536, 768, 384, 192, 96), (96, 192, 384, 768, 1536), 4, 32),
    ],
)
def test_the_rule_for_other_sizes(name, size, generator, discriminator, halvings, attention):
    adapted = adapt(ARCHITECTURES[name], {"image_size": size})
    assert (adapted.generator, adapted.discriminator) == (generator, discriminator)
    assert (adapted.halvings, getattr(adapted, "attention", None)) == (halvings, attention)
    left = {f.name for f in dataclasses.fields(adapted)} - {"generator", "discriminator", "halvings", "attention"}
    assert all(getattr(adapted, field) == getattr(ARCHITECTURES[name], field) for field in left)


@given(st.floats(0.01, 4))
def test_widths_are_the_nearest_multiples_of_8(factor):
    row = ARCHITECTURES["resnet48"]
    adapted = adapt(row, {"width": factor})
    for before, after in zip(row.generator + row.discriminator, adapted.generator + adapted.discriminator, strict=True):
        assert after == before if factor == 1 else after % 8 == 0
        assert abs(after - factor * before) <= 4 or after == 8 > factor * before


def test_a_size_that_is_given_beside_a_base_and_an_attention():
    adapted = adapt(ARCHITECTURES["sagan"], {"base": 6, "image_size": 48, "attention": 24, "width": 0.25})
    assert (adapted.image_size, adapted.attention, adapted.generator) == (48, 24, (128, 64, 32, 16))


@pytest.mark.parametrize(
    ("options", "image_size", "attention"),
    [
        ({"base": 6, "image_size": 96}, 96, 24),
        ({"base": 8}, 256, 64),
        ({"image_size": 32, "attention": None}, 32, None),
    ],
)
def test_attention_stays_at_the_same_share_of_the_size(options, image_size, attention):
    adapted = adapt(ARCHITECTURES["sagan"], options)
    assert (adapted.image_size, adapted.attention) == (image_size, attention)


def test_no_options_leave_the_row_as_it_is():
    for row in ARCHITECTURES.values():
        assert adapt(row, {}) == row
        assert adapt(row, {"image_size": row.image_size, "width": 1}) == row


def test_lists_as_a_configuration_file_gives_them():
    adapted = adapt(ARCHITECTURES["cnn28"], {"generator": [16, 8, 8], "discriminator": [8, 8], "spectral": "none"})
    assert adapted == CNN(7, (16, 8, 8), (8, 8), 2, spectral="none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 32}, "image_size must be base 7 doubled at least once, up to 128, such as 14 or 28, got 32"),
        ({"image_size": 7}, "image_size must be base 7 doubled at least once, up to 128, such as 14 or 28, got 7"),
        ({"image_size": 224}, "image_size must be base 7 doubled at least once, up to 128, such as 56 or 112, got 224"),
        ({"image_size": "28"}, "image_size must be a whole number or null, got '28'"),
        ({"base": 100, "image_size": 200}, "base must be at least 1 and at most 64, got 100"),
        ({"sizes": 28}, "unknown option 'sizes'"),
        ({"spectral_norm": "both"}, "unknown option 'spectral_norm', did you mean 'spectral'"),
        ({7: 28}, "unknown option '7'"),
        ({"width": 0}, "width must be above 0 and below inf, got 0"),
        ({"width": math.nan}, "width must be above 0 and below inf, got nan"),
        ({"width": "wide"}, "width must be a number, got 'wide'"),
        ({"base": 0}, "base must be at least 1, got 0"),
        ({"base": 7.0}, "base must be a whole number, got 7.0"),
        ({"generator": [8]}, r"generator must be 2 or more positive widths, got \[8\]"),
        ({"generator": [8, 0]}, r"generator must be 2 or more positive widths, got \[8, 0\]"),
        ({"generator": [8, 4.5]}, r"generator must be a list of whole numbers, got \[8, 4.5\]"),
        ({"discriminator": 64}, "discriminator must be a list of whole numbers, got 64"),
        ({"halvings": 4}, "halvings must be at least 0 and at most 3, got 4"),
        ({"halvings": 3}, "halvings must suit images of 28 pixels, got 3"),
        ({"spectral": "all"}, r"unknown spectral 'all'.* \(known: none, discriminator, both\)"),
        ({"spectral": True}, "unknown spectral 'True'"),
        ({"conditioning": "concat"}, r"unknown conditioning 'concat'.* \(known: projection, auxiliary\)"),
        ({"initialization": "he"}, r"unknown initialization 'he'.*\(known: glorot, normal, orthogonal\)"),
        ({"attention": 28}, "attention must be 14, a size that both networks have, got 28"),
        ({"attention": "14"}, "attention must be a whole number or null, got '14'"),
        ({"embedding": -1}, "embedding must be at least 0, got -1"),
        ({"separate_norms": 1}, "separate_norms must be true or false, got 1"),
        ({"separate_norms": True, "embedding": 8}, "separate_norms needs embedding: 0 and skip_latents: false"),
        ({"skip_latents": True}, "skip_latents needs an embedding of the classes, such as embedding: 128"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(SettingError, match=rf"^(architecture 'resnet28': )?{message}") as caught:
        built("resnet28", options=options, num_classes=2)
    assert "\n" not in str(caught.value)


def test_latents_that_cannot_be_cut():
    with pytest.raises(SettingError, match=r"divide into 6 equal parts for skip_latents, such as 126, got 128$"):
        built("biggan", latent_dim=128)


class Own(nn.Module):
    image_size = 8


def test_an_architecture_of_the_user_is_told_only_what_it_takes():
    seen = []

    def old(channels, latent_dim, norm, norm_options):
        seen.append((channels, latent_dim, norm, norm_options))
        return Own(), Own()

    def new(num_classes=0, options=None, **settings):
        seen.append((num_classes, options))
        return Own(), Own()

    build_networks(old, **SETTINGS, num_classes=0, options=None)
    build_networks(new, **SETTINGS, num_classes=4, options={"deep": True})
    build_networks(new, **SETTINGS, num_classes=0, options={})
    assert seen == [(3, 120, "batch", None), (4, {"deep": True}), (0, None)]
    with pytest.raises(SettingError, match=r"^architecture .* does not take .*num_classes.*unexpected keyword"):
        build_networks(old, **SETTINGS, num_classes=4)
    with pytest.raises(SettingError, match="unexpected keyword argument 'options'"):
        build_networks(old, **SETTINGS, options={"deep": True})
