import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

import norms
from lightning_modules.networks.gan_blocks import DownBlock, UpBlock
from lightning_modules.networks.gan_networks import Discriminator, Generator
from lightning_modules.networks.gan_presets import find_architecture
from lightning_modules.networks.sngan import CNN, ResNet
from norms.errors import SettingError

SMALL = {
    "resnet": ResNet(4, (8, 8, 4), (4, 6, 8), 2),
    "cnn": CNN(4, (8, 6, 4), (4, 6, 8), 2),
}


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        ("resnet32", 4_276_739, 1_053_825),
        ("resnet48", 4_878_083, 10_141_441),
        ("cnn32", 3_812_355, 2_935_873),
        ("cnn48", 5_133_315, 2_946_113),
    ],
)
def test_published_parameter_counts_and_sizes(name, generator, discriminator):
    architecture = find_architecture(name)
    g, d = Generator(architecture), Discriminator(architecture)
    assert count(g) == generator
    assert count(d) == discriminator
    size = int(name[-2:])
    with torch.no_grad():
        images = g.eval()(torch.randn(1, 128))
        assert images.shape == (1, 3, size, size)
        assert d.eval()(images).shape == (1,)


@pytest.mark.parametrize("name", ["resnet16", "cnn28", "biggan32", "r3gan28"])
@pytest.mark.parametrize("channels", [2, 4])
def test_any_channels(name, channels):
    architecture = find_architecture(name)
    with torch.device("meta"):
        images = Generator(architecture, channels, latent_dim=12)(torch.randn(3, 12))
    assert images.shape == (3, channels, architecture.image_size, architecture.image_size)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("norm", norms.names())
def test_any_norm(family, norm):
    torch.manual_seed(0)
    options = {} if norm in ("none", "mean_only_batch") else {"eps": 1e-3}
    generator = Generator(SMALL[family], 1, 5, norm, options)
    images = generator(torch.randn(4, 5))
    assert images.shape == (4, 1, 16, 16)
    assert images.abs().max() < 1
    images.square().sum().backward()
    assert all(p.grad is not None for p in generator.parameters())
    if options:
        layers = [m for m in generator.modules() if getattr(m, "eps", None) is not None]
        assert len(layers) == {"resnet": 5, "cnn": 2}[family]
        assert all(layer.eps == 1e-3 for layer in layers)


def test_up_block_is_the_published_one():
    torch.manual_seed(0)
    block = UpBlock(3, 5, nn.BatchNorm2d).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    kept = x.clone()
    upsample = nn.UpsamplingNearest2d(scale_factor=2)
    residual = block.conv2(F.relu(block.norm2(block.conv1(upsample(F.relu(block.norm1(x)))))))
    torch.testing.assert_close(block(x), residual + block.shortcut(upsample(x)))
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("source", "width", "halves"), [(3, 5, True), (4, 4, True), (3, 5, False), (4, 4, False)])
def test_down_block_is_the_published_one(source, width, halves):
    torch.manual_seed(0)
    block = DownBlock(source, width, halves).double()
    x = torch.randn(2, source, 6, 4, dtype=torch.float64)
    kept = x.clone()
    residual = block.conv2(F.relu(block.conv1(F.relu(x))))
    shortcut = block.shortcut(x) if halves or source != width else x
    expected = residual + shortcut
    torch.testing.assert_close(block(x), F.avg_pool2d(expected, 2) if halves else expected)
    assert torch.equal(x, kept)
    assert block.conv1.out_channels == source


def test_first_down_block_reads_raw_images():
    torch.manual_seed(0)
    block = DownBlock(1, 4, halves=True, first=True).double()
    x = -torch.rand(2, 1, 4, 4, dtype=torch.float64)
    residual = F.avg_pool2d(block.conv2(F.relu(block.conv1(x))), 2)
    torch.testing.assert_close(block(x), residual + block.shortcut(F.avg_pool2d(x, 2)))
    assert block.conv1.out_channels == 4


def test_resnet_discriminator_sums_over_positions():
    torch.manual_seed(0)
    d = Discriminator(SMALL["resnet"], 1).eval()
    x = torch.randn(2, 1, 16, 16)
    expected = F.relu(d.blocks(x)).flatten(2).sum(2) @ d.linear.weight[0] + d.linear.bias
    torch.testing.assert_close(d(x), expected)


def test_cnn_discriminator_layers():
    layers = list(Discriminator(find_architecture("cnn32")).modules())
    convs = [m for m in layers if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, *c.kernel_size[:1], *c.stride[:1]) for c in convs] == [
        (64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 4, 2), (256, 3, 1), (256, 4, 2), (512, 3, 1),
    ]  # fmt: skip
    assert [m.negative_slope for m in layers if isinstance(m, nn.LeakyReLU)] == [0.1] * 7


def test_resnet_weights_are_glorot_uniform():
    torch.manual_seed(0)
    architecture = ResNet(4, (48, 48, 32), (32, 48, 48), 2)
    for network in (Generator(architecture), Discriminator(architecture)):
        checked = 0
        for name, parameter in network.named_parameters():
            layer = name.removesuffix(".parametrizations.weight.original").removesuffix(".weight")
            if name.endswith("bias"):
                assert not parameter.any()
            elif parameter.ndim > 1:
                receptive = math.prod(parameter.shape[2:])
                gain = math.sqrt(2) if layer.endswith(("conv1", "conv2")) else 1
                bound = gain * math.sqrt(6 / (receptive * (parameter.shape[0] + parameter.shape[1])))
                assert parameter.abs().max() <= bound
                assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
                checked += 1
        assert checked >= 8


def test_cnn_weights_are_normal():
    torch.manual_seed(0)
    architecture = CNN(4, (64, 32, 16), (16, 32, 64), 2)
    for network in (Generator(architecture), Discriminator(architecture)):
        weights = [p for p in network.parameters() if p.ndim > 1]
        assert torch.cat([w.flatten() for w in weights]).std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("name", ["resnet16", "resnet32", "cnn32"])
def test_no_weight_of_the_discriminator_stretches(name):
    torch.manual_seed(0)
    architecture = find_architecture(name)
    d = Discriminator(architecture)
    layers = [m for m in d.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for _ in range(30):
        norms.power_iterate_(d)
    for layer in layers:
        assert parametrize.is_parametrized(layer, "weight")
        stretch = torch.linalg.matrix_norm(layer.weight.flatten(1).double(), 2).item()
        assert 1 - 1e-5 < stretch < 1.03


def test_generator_is_not_spectrally_normalized():
    assert not any(parametrize.is_parametrized(m) for m in Generator(SMALL["resnet"]).modules())


def test_one_power_iteration_per_forward_in_training_only():
    torch.manual_seed(0)
    d, images = Discriminator(SMALL["resnet"], 1), torch.randn(2, 1, 16, 16)
    expected = copy.deepcopy(d)
    d(images)
    norms.power_iterate_(expected)
    d.eval()(images)
    for (name, buffer), moved in zip(d.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(buffer, moved), name


def test_power_iteration_runs_in_float32_under_autocast():
    torch.manual_seed(0)
    d, images = Discriminator(SMALL["resnet"], 1), torch.randn(2, 1, 16, 16)
    reference = copy.deepcopy(d)
    with torch.autocast("cpu", torch.bfloat16):
        d(images)
    reference(images)
    for (name, buffer), expected in zip(d.named_buffers(), reference.buffers(), strict=True):
        assert torch.equal(buffer, expected), name


@pytest.mark.parametrize("family", SMALL)
def test_images_and_scores_are_float32_under_autocast(family):
    torch.manual_seed(0)
    g, d = Generator(SMALL[family], 1, 5), Discriminator(SMALL[family], 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert d.blocks(torch.randn(2, 1, 16, 16)).dtype == torch.bfloat16
        images = g(torch.randn(2, 5))
        scores = d(images)
    assert images.dtype == scores.dtype == torch.float32
    scores.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in d.parameters())


def test_every_layer_is_spectrally_normalized():
    d = Discriminator(SMALL["resnet"], 1)
    assert list(norms.sigmas(d)) == [name for name, m in d.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_state_dict_carries_the_power_iteration():
    torch.manual_seed(0)
    x = torch.randn(2, 1, 16, 16)
    first, second = Discriminator(SMALL["resnet"], 1), Discriminator(SMALL["resnet"], 1)
    for _ in range(3):
        first(x)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
    assert torch.equal(first(x), copy.deepcopy(second)(x).detach())


def test_unknown_architecture():
    with pytest.raises(SettingError, match=r"^unknown architecture 'resnet23', did you mean 'resnet32'\?"):
        find_architecture("resnet23")


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
CONV = ("weight", "bias")
SPECTRAL = (
    "bias",
    "parametrizations.weight.original",
    "parametrizations.weight.0._u",
    "parametrizations.weight.0._v",
)
UP = (("norm1", NORM), ("conv1", CONV), ("norm2", NORM), ("conv2", CONV), ("shortcut", CONV))
ENDS = [[("linear", CONV)], [("to_image", CONV)]]


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        (
            "resnet16",
            [*((f"blocks.block{i}.{part}", keys) for i in (1, 2) for part, keys in UP), ("blocks.output.norm", NORM)],
            [f"blocks.{i}.{part}" for i in (0, 1) for part in ("conv1", "conv2", "shortcut")]
            + ["blocks.2.conv1", "blocks.2.conv2", "linear"],
        ),
        (
            "cnn32",
            [(f"blocks.block{i}.{j}", keys) for i in (1, 2, 3) for j, keys in (("convolution", CONV), ("norm", NORM))],
            [*(f"blocks.{i}" for i in range(0, 13, 2)), "linear"],
        ),
    ],
)
def test_state_dict_keys_stay_as_they_are(name, generator, discriminator):
    with torch.device("meta"):
        g = Generator(find_architecture(name))
    layers = [*ENDS[0], *generator, *ENDS[1]]
    assert list(g.state_dict()) == [f"{layer}.{key}" for layer, keys in layers for key in keys]
    layers = [
        name.removesuffix(".bias") for name in Discriminator(find_architecture(name)).state_dict() if "bias" in name
    ]
    assert layers == discriminator
    keys = [key for layer in layers for key in [f"{layer}.{end}" for end in SPECTRAL]]
    assert list(Discriminator(find_architecture(name)).state_dict()) == keys


RESNET = {"block1": "0", "block2": "1", "output.norm": "2.0"}
CONVOLUTIONS = {f"block{i + 1}.{name}": f"{i}.{j}" for i in (0, 1) for j, name in enumerate(("convolution", "norm"))}
ATTENTION = {"block1": "0", "attention": "1", "block2": "2", "output.norm": "3.0"}


@pytest.mark.parametrize(
    ("architecture", "numbers"),
    [
        (SMALL["resnet"], RESNET),
        (SMALL["cnn"], CONVOLUTIONS),
        (ResNet(4, (8, 16, 8), (8, 8), 2, spectral="both", attention=8), ATTENTION),
    ],
)
def test_states_whose_keys_count_the_blocks_load(architecture, numbers):
    torch.manual_seed(0)
    g, other = Generator(architecture, norm="batch_instance").eval(), Generator(architecture, norm="batch_instance")
    old = {}
    for key, value in g.state_dict().items():
        for name, number in numbers.items():
            key = f"blocks.{number}.{key.removeprefix(f'blocks.{name}.')}" if key.startswith(f"blocks.{name}.") else key
        old[key] = value
    assert old.keys() != g.state_dict().keys()
    both = copy.deepcopy(nn.ModuleDict({"generator": other})).eval()
    both.load_state_dict({f"generator.{key}": value for key, value in old.items()})
    latents = torch.randn(2, 128)
    assert torch.equal(both["generator"](latents), g(latents))
    assert f"blocks.{next(iter(numbers.values()))}." in next(key for key in old if key.startswith("blocks"))


def test_an_architecture_by_its_class_path():
    assert find_architecture("lightning_modules.networks.sngan.CNN") is CNN
    with pytest.raises(SettingError, match=r"^architecture 'math\.pi' cannot be called$"):
        find_architecture("math.pi")
