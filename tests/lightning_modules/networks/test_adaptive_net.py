"""The decoder mirrors the encoder, paints images of any size, and mixes styles by their statistics."""

import pytest
import torch
from torch import nn

import norms
from lightning_modules.networks.adaptive import AdaptiveNet
from lightning_modules.networks.loss_network import LossNetwork
from norms.errors import SettingError


def make(**options):
    torch.manual_seed(0)
    network = AdaptiveNet(**options).eval()
    network.read_encoder(None)
    return network


def shapes(network):
    return [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, nn.Conv2d)]


def test_the_published_decoder():
    # The table of the authors' decoder.
    expected = [(512, 256), *[(256, 256)] * 3, (256, 128), (128, 128), (128, 64), (64, 64), (64, 3)]
    network = AdaptiveNet("vgg19")
    assert shapes(network.decoder) == expected
    assert network.factor == 8
    kinds = [type(m).__name__ for m in network.decoder.modules() if isinstance(m, nn.Conv2d | nn.Upsample)]
    assert kinds == ["Conv2d", "Upsample", *["Conv2d"] * 4, "Upsample", *["Conv2d"] * 2, "Upsample", *["Conv2d"] * 2]
    assert shapes(network.encoder) == [(i, o) for o, i in reversed(expected)]


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (16, 16), (33, 18)])
def test_results_are_as_large_as_the_photos(size):
    network = make()
    photo = torch.rand(2, 3, *size)
    result = network(photo, network.measure(torch.rand(1, 3, 40, 33)).unbind(1))
    assert result.shape == photo.shape
    assert 0 <= result.min() <= result.max() <= 1


def test_the_encoder_is_the_loss_network_but_for_its_borders():
    network, image = make(), torch.rand(1, 3, 64, 64)
    found = network.encode(image)
    expected = LossNetwork("bundled", ["relu3_2"])(image, ["relu3_2"])["relu3_2"]
    torch.testing.assert_close(found[..., 5:-5, 5:-5], expected[..., 5:-5, 5:-5])
    assert not torch.allclose(found, expected)


def test_an_even_image_has_even_features():
    features = make().encode(torch.full((1, 3, 32, 32), 0.7))
    torch.testing.assert_close(features, features[..., :1, :1].expand_as(features), rtol=1e-4, atol=1e-4)


def test_the_target_has_the_statistics_of_the_style_and_alpha_leads_to_it():
    network, photo = make(), torch.rand(1, 3, 32, 32)
    style = network.measure(torch.rand(1, 3, 48, 32) ** 3)
    full, half, none = (network.target(photo, style.unbind(1), alpha) for alpha in (1.0, 0.5, 0.0))
    torch.testing.assert_close(full.mean((2, 3)), style[:, 0], rtol=1e-4, atol=1e-4)
    features = network.encode(photo)
    torch.testing.assert_close(none, features)
    torch.testing.assert_close(half, (full + features) / 2)


def test_the_encoder_is_saved_and_not_trained():
    network = make()
    assert "encoder.layers.relu1_1.conv.weight" in network.state_dict()
    assert all(name.startswith("decoder.") for name, _ in network.named_parameters())
    other = AdaptiveNet()
    assert not any(other.encoder.state_dict()["layers.relu1_1.conv.weight"].flatten())
    other.load_state_dict(network.state_dict())
    photo, style = torch.rand(1, 3, 16, 16), network.measure(torch.rand(1, 3, 16, 16)).unbind(1)
    assert torch.equal(other.eval()(photo, style), network(photo, style))


def test_weights_of_torchvision_are_read(tmp_path):
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64)}
    weights = {f"features.{i}.weight": torch.rand(*shape, 3, 3) for i, shape in shapes.items()}
    biases = {f"features.{i}.bias": torch.rand(shape[0]) for i, shape in shapes.items()}
    torch.save(weights | biases, tmp_path / "vgg19.pth")
    network = AdaptiveNet("vgg19", "relu2_1")
    network.read_encoder(str(tmp_path / "vgg19.pth"))
    expected = [*weights.values(), *biases.values()]
    found = [m for m in network.encoder.modules() if isinstance(m, nn.Conv2d)]
    pairs = zip(expected, [*(m.weight for m in found), *(m.bias for m in found)], strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("norm", ["batch_instance", "switchable", "instance", "batch"])
def test_the_decoder_can_have_norms(norm):
    network = make(norm=norm)
    layers = [m for m in network.decoder.modules() if isinstance(m, type(norms.build(norm, 8)))]
    assert len(layers) == 5
    assert network(torch.rand(2, 3, 16, 16), network.measure(torch.rand(1, 3, 16, 16)).unbind(1)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "squeezenet1_1"}, "unknown loss_network of any style 'squeezenet1_1'"),
        ({"layer": "relu9_1"}, "unknown layer of loss network bundled 'relu9_1'"),
        ({"layer": "relu1_2"}, "layer relu1_2 sees single pixels and their neighbors: take a deeper one"),
        ({"norm": "bin"}, "unknown norm 'bin'"),
    ],
)
def test_networks_that_there_are_not(options, message):
    with pytest.raises(SettingError, match=message):
        AdaptiveNet(**options)
