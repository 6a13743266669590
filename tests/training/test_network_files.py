"""Networks in a file of their own: they paint as the run does, and hold nothing of where it lay."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torchvision.transforms.v2.functional import to_pil_image

import norms
from lightning_modules.gan import GAN
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from training.network_files import read_network, write_network
from training.run import Run


def make(**options):
    torch.manual_seed(0)
    model = StyleTransfer(**{"widths": [4, 8], "num_blocks": 1, "style_size": 64, **options}).eval()
    model.setup("fit")
    return model


@pytest.mark.parametrize("norm", ["batch_instance", "switchable", "instance", "batch"])
@pytest.mark.parametrize("styles", [None, ["night", "waves", "glass"]])
def test_the_network_of_the_file_paints_as_the_one_it_was_made_of(norm, styles, tmp_path):
    model, photo = make(norm=norm, styles=styles), torch.rand(1, 3, 20, 31)
    write_network(model, tmp_path / "net.safetensors", {})
    loaded = Run.find(tmp_path / "net.safetensors").load(StyleTransfer)
    for style in range(len(model.styles)):
        torch.testing.assert_close(loaded(photo, style), model(photo, style), atol=2e-3, rtol=0)
    assert loaded.style_names == model.style_names
    assert norms.mixing_values(loaded) == norms.mixing_values(model)
    assert not loaded.training


def test_the_file_names_no_folder_and_shows_small_pictures(tmp_path):
    style, weights = tmp_path / "secret" / "my picture.png", tmp_path / "secret" / "weights.pth"
    style.parent.mkdir()
    to_pil_image(torch.rand(3, 400, 200)).save(style)
    model = make(styles=[str(style)], style_size=300, weights=None)
    model.hparams["weights"] = str(weights)
    write_network(model, tmp_path / "net.safetensors", {"licence": "CC0"})
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert "secret" not in json.dumps(file.metadata())
        assert file.metadata()["licence"] == "CC0"
        assert file.get_tensor("style_image").shape == (3, 96, 48)
    loaded = Run.find(tmp_path / "net.safetensors").load(StyleTransfer)
    assert loaded.style_names == ["my picture"]


def test_a_folder_called_like_a_style_is_not_looked_into(tmp_path, monkeypatch):
    to_pil_image(torch.rand(3, 64, 64)).save(tmp_path / "mine.png")
    write_network(make(styles=[str(tmp_path / "mine.png")]), tmp_path / "net.safetensors", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert Run.find("net.safetensors").load(StyleTransfer).style_names == ["mine"]


def damaged(tmp_path, change):
    path = tmp_path / "net.safetensors"
    write_network(make(), path, {})
    with safe_open(path, "pt") as file:
        header, weights = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, weights)
    save_file(weights, path, header)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, weights: header.clear(), "holds weights, but no network of normlab with its settings"),
        (lambda header, weights: header.update(settings="{"), "is not a readable checkpoint"),
        (lambda header, weights: header.pop("settings"), "is not a readable checkpoint"),
        (lambda header, weights: header.update(settings='{"widths": [99999999]}'), "does not fit StyleTransfer"),
        (lambda header, weights: weights.pop("transformer.last.bias"), "does not fit StyleTransfer"),
        (lambda header, weights: weights["transformer.last.bias"].fill_(torch.nan), "weights that are not finite"),
    ],
)
def test_what_is_no_network(change, message, tmp_path):
    with pytest.raises(SettingError, match=message) as error:
        Run.find(damaged(tmp_path, change)).load(StyleTransfer)
    assert "\n" not in str(error.value)


def test_cut_off_files_and_other_modules_are_refused(tmp_path):
    path = damaged(tmp_path, lambda header, weights: None)
    with pytest.raises(SettingError, match="is a checkpoint of StyleTransfer, not of GAN"):
        Run.find(path).load(GAN)
    assert read_network(path)["normlab"]["module"] == "StyleTransfer"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SettingError, match="is not a readable checkpoint"):
        Run.find(path).load(StyleTransfer)
