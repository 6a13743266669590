import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.v2 import functional as TF

import norms
from lightning_modules.networks.feature_net import BUNDLED, IMAGENET_MEAN, IMAGENET_STD, FeatureNet, ImageNetNormalize
from norms.errors import SettingError

LAYERS = ["relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu4_1"]
SMALL = {"widths": (4, 6), "depths": (2, 1)}


def trained_like(network):
    # Fresh batch norms are the identity up to eps: give them something to fold.
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in [
                (module.weight, -1.0, 2.0),
                (module.bias, -1.0, 1.0),
                (module.running_mean, -1.0, 1.0),
                (module.running_var, 0.2, 3.0),
            ]:
                tensor.data.uniform_(low, high, generator=generator)
    return network.eval()


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_imagenet_normalize_is_torchvisions_for_rgb_and_repeats_gray():
    rgb, gray = image(2, 3, 5, 7), image(2, 1, 5, 7)
    torch.testing.assert_close(ImageNetNormalize()(rgb), TF.normalize(rgb, list(IMAGENET_MEAN), list(IMAGENET_STD)))
    torch.testing.assert_close(ImageNetNormalize()(gray), ImageNetNormalize()(gray.expand(2, 3, 5, 7)))


def test_layers_have_vggs_names_and_resolutions_halve_per_stage():
    features = FeatureNet().features(image(2, 3, 32, 48), LAYERS)
    assert list(features) == LAYERS
    channels = {"1": 32, "2": 64, "3": 128, "4": 256}
    for name, value in features.items():
        stage = name[4]
        scale = 2 ** (int(stage) - 1)
        assert value.shape == (2, channels[stage], 32 // scale, 48 // scale)
        assert value.min() >= 0


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (17, 30)])
def test_any_size_is_taken_and_rounded_up(size):
    network = FeatureNet().eval()
    expected = tuple(-(-side // 8) for side in size)
    assert network(image(1, 3, *size)).shape == (1, 256, *expected)


def test_features_equal_the_forward_pass_and_stop_at_the_deepest_wanted_layer():
    network = FeatureNet(**SMALL).eval()
    x = image(1, 3, 8, 8)
    assert torch.equal(network.features(x, ["relu2_1"])["relu2_1"], network(x))
    reached = []
    for name, layer in network.layers.items():
        layer.register_forward_hook(lambda *_, name=name: reached.append(name))
    network.features(x, ["relu1_2", "relu1_1"])
    assert reached == ["relu1_1", "relu1_2"]


def test_unknown_layer_is_named_with_those_that_exist():
    with pytest.raises(
        SettingError, match=r"^unknown layer of the .* 'relu9_9', .* \(known: relu1_1, relu1_2, relu2_1\)$"
    ):
        FeatureNet(**SMALL).features(image(1, 3, 8, 8), ["relu1_1", "relu9_9"])


@pytest.mark.parametrize(("widths", "depths"), [((), ()), ((4,), (1, 1)), ((4, 0), (1, 1)), ((4,), (0,))])
def test_impossible_stages_are_refused(widths, depths):
    with pytest.raises(SettingError, match="widths and depths"):
        FeatureNet(widths, depths)


@pytest.mark.parametrize("norm", norms.names())
def test_every_norm_builds_and_gives_finite_gradients(norm):
    network = FeatureNet((16, 32), (1, 1), norm)
    network(image(2, 3, 8, 8)).square().mean().backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


def test_folding_keeps_the_activations_and_leaves_the_network_alone():
    network = trained_like(FeatureNet())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = network.folded()
    x = ImageNetNormalize()(image(2, 3, 33, 40))
    with torch.no_grad():
        expected, got = network.features(x, LAYERS), folded.features(x, LAYERS)
    for name in LAYERS:
        assert expected[name].std() > 0
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5 * float(expected[name].max()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    assert not folded.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad for p in network.parameters())


def test_only_batch_norm_folds():
    with pytest.raises(SettingError, match="has norm 'instance'"):
        FeatureNet(norm="instance", **SMALL).folded()


def test_saved_network_loads_frozen_and_equal_up_to_float16(tmp_path):
    network = trained_like(FeatureNet(**SMALL))
    network.save(tmp_path / "features.safetensors", {"data": "noise"})
    loaded = FeatureNet.load(tmp_path / "features.safetensors")
    x = image(1, 3, 16, 16)
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(loaded(x), expected, rtol=0, atol=2e-3 * float(expected.max()))
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training
    with safe_open(tmp_path / "features.safetensors", framework="pt") as file:
        assert file.metadata() == {"data": "noise", "widths": "[4, 6]", "depths": "[2, 1]"}


def test_what_is_no_feature_network_is_refused_in_one_line(tmp_path):
    text, foreign, short = (tmp_path / name for name in ("text", "foreign", "short"))
    text.write_text("no weights")
    save_file({"weight": torch.zeros(1)}, foreign)
    save_file({"weight": torch.zeros(1)}, short, metadata={"widths": "[4]", "depths": "[1]"})
    for path in (text, foreign, short, tmp_path / "missing"):
        with pytest.raises(SettingError, match="holds no feature network") as caught:
            FeatureNet.load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bundled_file_is_small_and_says_where_it_comes_from():
    assert BUNDLED.stat().st_size <= 2_000_000
    with safe_open(BUNDLED, framework="pt") as file:
        metadata = file.metadata()
    assert {"recipe", "data", "licence"} <= metadata.keys()
    scores = json.loads(metadata["scores"])
    assert float(scores["val/activations"]) < 0.2
    assert float(scores["val/grams"]) < 0.2


def test_bundled_network_sees_structure():
    network = FeatureNet.bundled()
    assert list(network.layers) == LAYERS
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[..., ::4] = 1
    shuffled = stripes.flatten()[torch.randperm(stripes.numel(), generator=torch.Generator().manual_seed(0))]
    one, other = (network(ImageNetNormalize()(x)) for x in (stripes, shuffled.view_as(stripes)))
    assert one.isfinite().all()
    assert (one - other).norm() > 0.5 * one.norm()


def test_another_activation_than_relu_is_not_folded():
    with pytest.raises(SettingError, match="activation relu"):
        FeatureNet((4,), (1,), activation=nn.Tanh).folded()
