"""A network in one file, by the command."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_modules.style_transfer import StyleTransfer
from stylizing.command import main as stylize
from stylizing.export import main
from training.network_files import write_network


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
        ("network.bin", "network.bin: the name of a network's file ends in .safetensors"),
        ("first.safetensors", "first.safetensors exists: choose another name"),
    ],
)
def test_nothing_is_replaced(file, message, network, monkeypatch, capsys):
    monkeypatch.chdir(network.parent)
    before = network.read_bytes()
    assert main([str(network), file]) == 2
    assert message in capsys.readouterr().err
    assert network.read_bytes() == before
