"""A network in one file, by the command."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from lightning_modules.style_transfer import StyleTransfer
from stylizing.command import main as stylize
from stylizing.export import main
from training import graphs
from training.exporting import told_of
from training.network_files import write_network
from training.run import Run


@pytest.fixture
def network(tmp_path):
    model = StyleTransfer(widths=[4, 8], num_blocks=1, style_size=64, photo_size=32, styles=["night", "waves"])
    model.setup("fit")
    torch.nn.init.normal_(model.transformer.first.norm.bias)
    write_network(model, tmp_path / "first.safetensors", {})
    return tmp_path / "first.safetensors"


def test_it_says_what_it_wrote_and_what_comes_next(network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(network), "second.safetensors"]) == 0
    wrote, following = capsys.readouterr().out.splitlines()
    assert wrote.startswith("wrote second.safetensors (0.")
    assert wrote.endswith("styles: night, waves)")
    Image.effect_noise((40, 30), 80).convert("RGB").save("photo.jpg")
    command = following.removeprefix("next: python stylize.py ").split()
    for style in ("night", "waves"):
        assert stylize([*command, f"--style={style}", "--overwrite"]) == 0
        Path("out/photo.jpg").rename(f"{style}.jpg")
    assert stylize([*command, "--style", "waves=0.5", "--style", "night=0.5", "--overwrite"]) == 0
    pictures = {Path(name).read_bytes() for name in ("night.jpg", "waves.jpg", "out/photo.jpg")}
    assert len(pictures) == 3


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("network.bin", "network.bin: the name of a network's file ends in .safetensors, .onnx or .pt2"),
        ("full", "full exists: choose another name"),
        ("first.safetensors", "first.safetensors exists: choose another name"),
    ],
)
def test_nothing_is_replaced(file, message, network, monkeypatch, capsys):
    monkeypatch.chdir(network.parent)
    before = network.read_bytes()
    (network.parent / "full" / "of things").mkdir(parents=True)
    assert main([str(network), file]) == 2
    assert message in capsys.readouterr().err
    assert network.read_bytes() == before


def header(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_the_header_tells_of_the_network_and_its_training(network, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("data: {class_path: data.ImageFolder, init_args: {image_size: 96}}")
    torch.save({"global_step": 7, "normlab": {"module": "StyleTransfer"}}, run / "checkpoints/last.ckpt")
    told = told_of(Run(run))
    assert json.loads(told.pop("training")) == {"image_size": 96, "steps": 7}
    assert told == {"data": "not stated", "licence": "not stated"}

    model = Run.find(network).load(StyleTransfer)
    write_network(model, tmp_path / "a.safetensors", {"training": '{"steps": 7}', "data": "mine", "licence": "CC0"})
    assert main([str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), "--licence", "MIT"]) == 0
    found = header(tmp_path / "b.safetensors")
    assert (found["training"], found["data"], found["licence"]) == ('{"steps": 7}', "mine", "MIT")
    settings, written = json.loads(found["settings"]), json.loads(found["normlab"])
    assert (settings["norm"], settings["loss_network"], settings["styles"]) == (
        "batch_instance",
        "bundled",
        ["night", "waves"],
    )
    assert written["torch"] == torch.__version__
    assert written.keys() == {"module", "version", "torch"}


def test_without_onnx_the_command_says_what_to_install_before_it_loads_anything(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)
    assert main([str(tmp_path / "no such run"), str(tmp_path / "network.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: an ONNX file is written with onnx and onnxscript: pip install 'normlab[onnx]'"


@pytest.mark.slow
def test_a_graph_is_written(network, tmp_path, capsys):
    assert main([str(network), str(tmp_path / "network.pt2")]) == 0
    assert "network.pt2 (" in capsys.readouterr().out
    paint = torch.export.load(tmp_path / "network.pt2").module()
    photo, shares = torch.rand(1, 3, 20, 31), torch.tensor([0.25, 0.75])
    expected = Run.find(network).load(StyleTransfer)(photo, shares).detach()
    torch.testing.assert_close(paint(photo, shares), expected, atol=1e-5, rtol=0)


def test_a_folder_for_the_hub_has_a_card_whose_parts_are_there(network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(network), "hub/", "--licence", "CC0", "--data", "my |\nphotos"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "next: look at hub/README.md, then: hf upload YOU/NAME hub"
    card = Path("hub/README.md").read_text()
    _, matter, text = card.split("---\n", 2)
    tags = ["style-transfer", "image-to-image", "safetensors", "batch-instance-normalization"]
    assert yaml.safe_load(matter) == {
        "license": "cc0-1.0",
        "library_name": "normlab",
        "pipeline_tag": "image-to-image",
        "tags": tags,
    }
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 3 + 2 * 4
    assert {path.relative_to("hub").as_posix() for path in Path("hub/pictures").iterdir()} == set(pictures)
    assert len({(Path("hub") / picture).read_bytes() for picture in pictures}) == len(pictures)
    assert "my &#124; photos" in text
    assert "residual1.norm2.norm  BatchInstanceNorm2d(8)  rho: mean=1.00" in text
    monkeypatch.chdir("hub")
    Image.effect_noise((40, 30), 80).convert("RGB").save("photo.jpg")
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    assert Image.open("painted.jpg").size == (40, 30)


@pytest.mark.parametrize(
    ("licence", "said"),
    [("MIT", {"license": "mit"}), ("of my own", {"license": "other", "license_name": "of my own"}), (None, {})],
)
def test_the_card_names_the_licence_as_the_hub_does(licence, said, tmp_path):
    model = StyleTransfer(widths=[4], num_blocks=0, style_size=64, photo_size=32, norm="instance")
    model.setup("fit")
    write_network(model, tmp_path / "net.safetensors", {})
    arguments = [] if licence is None else ["--licence", licence]
    assert main([str(tmp_path / "net.safetensors"), str(tmp_path / "hub"), *arguments]) == 0
    _, matter, text = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    assert {key: value for key, value in yaml.safe_load(matter).items() if key.startswith("license")} == said
    assert "learned" not in text
