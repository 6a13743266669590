"""What layers work on is recorded as it is, and changes nothing."""

import pytest
import torch
from torch import nn

import norms
from lightning_modules.networks.gan_blocks import UpBlock
from lightning_modules.networks.transformer import TransformerNet
from norms import NormPerCondition
from norms.errors import SettingError
from training.layer_shapes import LayerShape, ShapeRecorder, read_shapes, write_shapes


def norm(channels):
    return norms.build("batch_instance", channels)


def test_it_is_the_convolution_before_and_the_input():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 9, padding=4), norm(8), nn.ReLU(), nn.Conv2d(8, 16, (3, 5), 2, (1, 2)), norm(16), norm(16)
    )
    recorder = ShapeRecorder(net)
    net(torch.randn(2, 3, 16, 24))
    assert recorder.stop() == {
        "1": LayerShape(3, 8, (9, 9), (16, 24)),
        "4": LayerShape(8, 16, (3, 5), (8, 12)),
        "5": LayerShape(None, 16, None, (8, 12)),
    }


def test_a_shortcut_of_1x1_is_beside_a_convolution_not_before():
    net = nn.Sequential(UpBlock(8, 4, norm), UpBlock(4, 4, norm))
    recorder = ShapeRecorder(net)
    net(torch.randn(2, 8, 4, 4))
    found = recorder.stop()
    assert found["1.norm1"] == LayerShape(4, 4, (3, 3), (8, 8))
    assert found["1.norm2"] == LayerShape(4, 4, (3, 3), (16, 16))
    assert found["0.norm1"].kernel_size is None


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_layers_of_style_networks_know_the_convolution_that_enlarges(upsampling):
    net = TransformerNet((4, 8, 12), 1, "batch_instance", upsampling=upsampling)
    recorder = ShapeRecorder(net)
    net(torch.rand(2, 3, 16, 16))
    found = recorder.stop()
    assert found["up1.norm"] == LayerShape(12, 8, (3, 3), (8, 8))
    assert found["up2.norm"] == LayerShape(8, 4, (3, 3), (16, 16))
    assert all(shape.kernel_size for shape in found.values())


def test_convolutions_of_another_network_are_not_before():
    net = nn.ModuleDict({"other": nn.Conv2d(3, 8, 5, padding=2), "own": nn.Sequential(norm(8))})
    recorder = ShapeRecorder(net)
    net["own"](net["other"](torch.randn(2, 3, 4, 4)))
    assert recorder.stop() == {"own.0": LayerShape(None, 8, None, (4, 4))}


def test_norms_of_all_conditions_have_the_place_of_the_one_that_is_called():
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), "norm": NormPerCondition({"a": norm(8), "b": norm(8)})})
    recorder = ShapeRecorder(net)
    net["norm"](net["conv"](torch.randn(2, 3, 6, 6)), 1)
    found = recorder.stop()
    assert found.keys() == {"norm.norms.a", "norm.norms.b"}
    assert {shape.resolution for shape in found.values()} == {(4, 4)}


def test_nothing_changes_and_nothing_stays():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8))
    x = torch.randn(2, 3, 8, 8)
    expected, state = net(x), torch.get_rng_state()
    recorder = ShapeRecorder(net)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)
    recorder.stop()
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_what_is_written_is_read(tmp_path):
    shapes = {"a.norm": LayerShape(3, 8, (9, 9), (16, 24)), "b.norm": LayerShape(None, 16, None, (8,))}
    write_shapes(shapes, tmp_path / "layers.json")
    assert read_shapes(tmp_path / "layers.json") == shapes
    assert read_shapes(tmp_path / "missing.json") == {}


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": {}}', '{"a": 3}', '{"a": {"in_channels": "x"}}'])
def test_a_damaged_file_is_told_in_a_line(text, tmp_path):
    (tmp_path / "layers.json").write_text(text)
    with pytest.raises(SettingError, match=r"layers\.json is damaged") as caught:
        read_shapes(tmp_path / "layers.json")
    assert "\n" not in str(caught.value)
