import copy
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.transforms.v2.functional import normalize

from lightning_modules.networks.feature_net import FeatureNet, ImageNetNormalize
from lightning_modules.networks.loss_network import LossNetwork, default_layers
from norms.errors import SettingError

# Positions in torchvision's `features`, as the literature counts them.
POSITIONS = {
    "vgg16": {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15},
    "vgg19": {"relu1_1": 1, "relu2_1": 6, "relu3_1": 11, "relu3_4": 17},
    "squeezenet1_1": {"relu1": 1, "fire2": 3, "fire3": 4, "fire4": 6, "fire5": 7, "fire6": 9, "fire9": 12},
}


def random_features(name):
    """The part of a torchvision network that the layers above need, with random weights."""
    with torch.device("meta"):
        features = get_model(name).features
    features = features[: max(POSITIONS[name].values()) + 1].to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in features.parameters():
        fan_in = parameter[0].numel()
        parameter.data.normal_(std=(2 / fan_in) ** 0.5 if parameter.ndim > 1 else 0.1, generator=generator)
    return features


def squeezenet_file(folder, kind=".pth", prefix="features."):
    state = {f"{prefix}{key}": value for key, value in random_features("squeezenet1_1").state_dict().items()}
    path = folder / f"squeezenet{kind}"
    save_file(state, path) if kind == ".safetensors" else torch.save(state, path)
    return path


def message_of(*arguments):
    with pytest.raises(SettingError) as error:
        LossNetwork(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", POSITIONS)
def test_layers_are_those_that_the_names_mean(name, tmp_path):
    features, positions = random_features(name), POSITIONS[name]
    path = tmp_path / "weights.safetensors"
    save_file({f"features.{key}": value for key, value in features.state_dict().items()}, path)
    network, image = LossNetwork(name, positions, path), torch.rand(2, 3, 40, 40)
    found = network(image, positions)
    assert list(found) == list(positions)
    normalized = normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for layer, position in positions.items():
        torch.testing.assert_close(found[layer], features[: position + 1](normalized))


def test_bundled_is_the_feature_network():
    layers = ["relu1_1", "relu2_2", "relu4_1"]
    network, image = LossNetwork("bundled", layers), torch.rand(2, 3, 32, 32)
    expected = FeatureNet.bundled().features(ImageNetNormalize()(image), layers)
    for layer, features in network(image, layers).items():
        torch.testing.assert_close(features, expected[layer])


@pytest.mark.parametrize("name", ["bundled", "vgg16", "vgg19", "squeezenet1_1"])
def test_default_layers_exist(name):
    customary = default_layers(name)
    message = message_of(name, ["nonesuch"])
    assert all(
        layer in message.split("(known: ")[1].rstrip(")").split(", ")
        for layer in (*customary.content, *customary.style)
    )


def test_gray_counts_as_three_equal_channels():
    network, gray = LossNetwork("bundled", ["relu2_1"]), torch.rand(1, 1, 16, 16)
    found, expected = network(gray, ["relu2_1"]), network(gray.repeat(1, 3, 1, 1), ["relu2_1"])
    torch.testing.assert_close(found["relu2_1"], expected["relu2_1"])


def test_what_lies_deeper_is_dropped():
    assert list(LossNetwork("bundled", ["relu2_1", "relu1_1"]).layers) == ["relu1_1", "relu1_2", "relu2_1"]


def test_a_pass_ends_at_the_deepest_wanted_layer():
    network = LossNetwork("bundled", ["relu1_1", "relu3_1"])
    ran = []
    for name, layer in network.layers.items():
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
    network(torch.rand(1, 3, 16, 16), ["relu1_1"])
    assert ran == ["relu1_1"]


def test_is_frozen_and_absent_from_checkpoints():
    owner = nn.ModuleDict({"loss": LossNetwork("bundled", ["relu2_1"]), "own": nn.Linear(1, 1)})
    assert list(owner.state_dict()) == ["own.weight", "own.bias"]
    assert len(list(owner.parameters())) == 2
    owner.load_state_dict(owner.state_dict(), strict=True)
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    owner.loss(image, ["relu2_1"])["relu2_1"].sum().backward()
    assert image.grad.abs().sum() > 0
    assert not any(buffer.requires_grad for buffer in owner.buffers())


def test_training_mode_changes_nothing():
    network, image = LossNetwork("bundled", ["relu4_1"]), torch.rand(1, 3, 32, 32)
    assert torch.equal(network.train()(image, ["relu4_1"])["relu4_1"], network.eval()(image, ["relu4_1"])["relu4_1"])


def test_follows_dtype_and_device_and_survives_copying():
    network = copy.deepcopy(LossNetwork("bundled", ["relu1_2"])).double()
    assert network(torch.rand(1, 3, 8, 8, dtype=torch.double), ["relu1_2"])["relu1_2"].dtype == torch.double
    assert {buffer.device.type for buffer in network.to("meta").buffers()} == {"meta"}


@pytest.mark.parametrize("kind", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["features.", ""])
def test_files_of_a_whole_model_or_of_its_features(kind, prefix, tmp_path):
    network = LossNetwork("squeezenet1_1", ["fire3"], str(squeezenet_file(tmp_path, kind, prefix)))
    expected = random_features("squeezenet1_1")[0].weight
    torch.testing.assert_close(network.layers["relu1"][0].weight, expected.detach())


def test_half_precision_files_become_float32(tmp_path):
    state = {key: value.half() for key, value in random_features("squeezenet1_1").state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    network = LossNetwork("squeezenet1_1", ["fire3"], tmp_path / "half.safetensors")
    assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}


def test_weights_that_were_downloaded_before_need_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    squeezenet_file(tmp_path).rename(cache / Path(get_model_weights("squeezenet1_1").DEFAULT.url).name)
    network = LossNetwork("squeezenet1_1", ["fire2"])
    torch.testing.assert_close(
        network.layers["relu1"][0].bias, random_features("squeezenet1_1")[0].bias.detach(), rtol=0, atol=0
    )


def test_no_weights_and_no_network(tmp_path, monkeypatch):
    def urlopen(request):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    message = message_of("vgg16", ["relu1_2"])
    assert "loss_network: vgg16" in message
    assert "no route to host" in message
    assert "https://download.pytorch.org/models/vgg16-" in message
    assert "weights:" in message
    assert "loss_network: bundled" in message


def test_a_broken_download_is_refused(tmp_path, monkeypatch):
    def load(url, **options):
        assert options["check_hash"]
        assert options["weights_only"]
        raise RuntimeError('invalid hash value (expected "39", got "00")')

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    assert 'invalid hash value (expected "39", got "00")' in message_of("vgg16", ["relu1_2"])


def test_unknown_names_are_refused():
    with pytest.raises(
        SettingError, match=r"^unknown loss_network 'vgg', did you mean .* \(known: bundled, vgg16, vgg19"
    ):
        default_layers("vgg")
    message = message_of("bundled", ["relu1_2", "relu9_9"])
    assert message.startswith("unknown layer of loss network bundled 'relu9_9', did you mean")


@pytest.mark.parametrize("name", ["bundled", "vgg16"])
def test_missing_files_are_refused(name, tmp_path):
    path = tmp_path / "nonesuch.pth"
    assert message_of(name, ["relu1_2"], path) == f"weights: there is no file {path}"


@pytest.mark.parametrize("kind", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(range(255, -1, -1)) * 16])
@pytest.mark.parametrize("name", ["bundled", "squeezenet1_1"])
def test_damaged_files_are_refused(name, kind, content, tmp_path):
    path = tmp_path / f"weights{kind}"
    path.write_bytes(content)
    message = message_of(name, ["relu1_1" if name == "bundled" else "relu1"], path)
    assert str(path) in message
    assert "it is damaged, or" in message, "nothing of the reader's insides"


def test_truncated_files_are_refused(tmp_path):
    path = squeezenet_file(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert message_of("squeezenet1_1", ["relu1"], path).startswith(f"weights: {path} cannot be read (it is")


def test_files_of_something_else_are_refused(tmp_path):
    path = squeezenet_file(tmp_path)
    message = message_of("vgg16", ["relu1_2"], path)
    assert message == f"weights: {path} is not of vgg16: features.2.weight must have shape (64, 64, 3, 3), got none"
    torch.save({"features.0.weight": torch.zeros(2)}, path)
    assert "features.0.weight must have shape (64, 3, 3, 3), got shape (2,)" in message_of("vgg16", ["relu1_2"], path)
    torch.save([1, 2], path)
    assert message_of("vgg16", ["relu1_2"], path) == f"weights: {path} holds list, not a dict of tensors by name"


def test_files_that_would_run_code_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(random_features("squeezenet1_1"), path)
    assert message_of("squeezenet1_1", ["relu1"], path).startswith(f"weights: {path} cannot be read (")
