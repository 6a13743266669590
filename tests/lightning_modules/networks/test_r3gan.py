import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import conv2d, interpolate, leaky_relu

from lightning_modules.networks.gan_presets import build_networks
from lightning_modules.networks.r3gan import R3GAN, ExpandingBlock
from norms.errors import SettingError

SMALL = R3GAN(3, (8, 8, 4), (4, 4, 8), 2, spectral="none", embedding=5, blocks=2, expansion=2, group_width=4)
SETTINGS = {"channels": 2, "latent_dim": 6, "norm": "none", "norm_options": None, "num_classes": 3}


def drawn_networks():
    torch.manual_seed(0)
    networks = SMALL(**SETTINGS)
    for network in networks:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return [network.double() for network in networks]


def residual(state, name, x, group_width=4):
    def conv(part, h, **options):
        return conv2d(h, state[f"{name}.{part}.weight"], state.get(f"{name}.{part}.bias"), **options)

    h = leaky_relu(conv("expand", x), 0.2)
    groups = h.split(group_width, 1)
    weights = state[f"{name}.group.weight"].split(group_width)
    h = torch.cat([conv2d(part, weight, padding=1) for part, weight in zip(groups, weights, strict=True)], 1)
    h = leaky_relu(h + state[f"{name}.group.bias"][:, None, None], 0.2)
    return x + conv("reduce", h)


@torch.no_grad()
def test_generator_against_plain_operations():
    g, _ = drawn_networks()
    state, z, y = g.state_dict(), torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    vector = torch.cat([z, state["embedding.weight"][y]], 1)
    x = torch.einsum("chw,cd,nd->nchw", state["linear.maps"], state["linear.linear.weight"], vector)
    x = residual(state, "blocks.stage1_block2", residual(state, "blocks.stage1_block1", x))
    x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    x = residual(state, "blocks.stage2_block2", residual(state, "blocks.stage2_block1", x))
    x = interpolate(
        conv2d(x, state["blocks.stage3_width.weight"]), scale_factor=2, mode="bilinear", align_corners=False
    )
    x = residual(state, "blocks.stage3_block2", residual(state, "blocks.stage3_block1", x))
    torch.testing.assert_close(g(z, y), torch.tanh(conv2d(x, state["to_image.weight"])))


@torch.no_grad()
def test_discriminator_against_plain_operations():
    _, d = drawn_networks()
    state, images, y = d.state_dict(), torch.randn(4, 2, 12, 12, dtype=torch.float64), torch.tensor([0, 2, 1, 1])

    def halved(x):
        return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))

    x = conv2d(images, state["blocks.0.weight"])
    x = halved(residual(state, "blocks.2", residual(state, "blocks.1", x)))
    x = halved(residual(state, "blocks.5", residual(state, "blocks.4", x)))
    x = residual(state, "blocks.9", residual(state, "blocks.8", conv2d(x, state["blocks.7.weight"])))
    features = torch.einsum("nchw,chw->nc", x, state["blocks.10.weight"][:, 0])
    torch.testing.assert_close(d.features(images), features)
    expected = features @ state["linear.weight"][0] + state["linear.bias"]
    torch.testing.assert_close(d(images, y), expected + (features * state["projection.weight"][y]).sum(1))


def count(widths, blocks, expansion, group_width, ends):
    total = sum(ends)
    for width in widths:
        hidden = width * expansion
        total += blocks * (width * hidden + hidden + hidden * group_width * 9 + hidden + hidden * width)
    return total + sum(a * b for a, b in pairwise(widths) if a != b)


@pytest.mark.parametrize(
    ("name", "g", "d", "blocks", "base"),
    [("r3gan", (768,) * 4, (768,) * 4, 2, 4), ("r3gan28", (64, 48, 32), (32, 48, 64), 1, 7)],
)
@pytest.mark.parametrize("classes", [0, 10])
def test_parameters_are_those_of_the_formula(name, g, d, blocks, base, classes):
    with torch.device("meta"):
        networks = build_networks(name, channels=3, latent_dim=64, norm="batch", norm_options=None, num_classes=classes)
    found = [sum(p.numel() for p in network.parameters()) for network in networks]
    latents = 64 + (64 if classes else 0)
    ends = g[0] * base**2, latents * g[0], g[-1] * 3, classes * 64
    assert found[0] == count(g, blocks, 2, 16, ends)
    ends = 3 * d[0], d[-1] * base**2, d[-1] + 1, classes * d[-1]
    assert found[1] == count(d, blocks, 2, 16, ends)


def test_weights_start_by_the_rules_of_he_and_fixup():
    torch.manual_seed(0)
    architecture = R3GAN(4, (64, 64, 64), (64, 64, 64), 2, spectral="none", embedding=64, blocks=2)
    g, d = architecture(3, 64, "none", None, num_classes=50)
    scale = math.sqrt(2 / 1.04) * (3 * 2) ** -0.25
    for network in (g, d):
        blocks = [block for block in network.blocks if isinstance(block, ExpandingBlock)]
        assert len(blocks) == 6
        for block in blocks:
            assert block.expand.weight.std().item() == pytest.approx(scale / 64**0.5, rel=0.05)
            assert block.group.weight.std().item() == pytest.approx(scale / (16 * 9) ** 0.5, rel=0.05)
            assert not block.reduce.weight.any()
            assert not block.expand.bias.any()
    assert g.linear.linear.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert g.linear.maps.std().item() == pytest.approx(1, rel=0.1)
    assert g.embedding.weight.std().item() == pytest.approx(50**-0.5, rel=0.05)
    assert d.projection.weight.std().item() == pytest.approx((50 * 64) ** -0.5, rel=0.05)
    assert d.blocks[-1].weight.std().item() == pytest.approx(1 / 4, rel=0.1)


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({}, {"norm": "batch_instance"}, "these networks have no norms: set norm: none and norm_options: null, got"),
        ({}, {"norm_options": {"eps": 1e-3}}, "these networks have no norms"),
        ({"embedding": 0}, {"num_classes": 3}, "classes need a vector in networks without norms: set embedding"),
        ({"separate_norms": True, "embedding": 0}, {}, "separate_norms and skip_latents are about norms"),
        ({"group_width": 24}, {}, r"group_width must divide 64 \* 2 channels, got 24"),
        ({"halvings": 3, "base": 8}, {}, "halvings must be at most 2, got 3"),
        ({"blocks": 0}, {}, "blocks must be at least 1, got 0"),
        ({"attention": 14}, {}, "unknown option 'attention'"),
    ],
)
def test_refusals(options, settings, message):
    settings = {"channels": 1, "latent_dim": 8, "norm": "batch", "norm_options": None, **settings}
    with pytest.raises(SettingError, match=rf"^(architecture 'r3gan28': )?{message}") as caught:
        build_networks("r3gan28", options=options, **settings)
    assert "\n" not in str(caught.value)
