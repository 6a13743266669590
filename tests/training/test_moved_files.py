"""A style training that goes on, or is scored, where the files are gone that it began with."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning import Trainer
from torchvision.transforms.v2.functional import to_pil_image

from data import BundledPhotos
from lightning_modules import StyleTransfer
from training.command import main
from training.run import Run

SMALL = {
    "widths": [4, 8],
    "num_blocks": 1,
    "style_size": 64,
    "style_layers": ["relu1_1"],
    "content_layers": ["relu1_2"],
}
CONFIG = {
    "trainer": {"max_steps": 2, "accelerator": "cpu", "val_check_interval": 2, "limit_val_batches": 1},
    "model": {"class_path": "lightning_modules.StyleTransfer", "init_args": SMALL},
    "data": {"class_path": "data.BundledPhotos", "init_args": {"image_size": 32, "batch_size": 2}},
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("small.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("styles").mkdir()
    for number, name in enumerate(("first", "second")):
        colors = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(number))
        to_pil_image(colors).save(f"styles/{name}.png")


def fit(*args):
    assert main(["fit", "--config", "small.yaml", *args]) == 0


def goes_on(name):
    """Move all away that the run was made of, then score it, resume it, and say which styles it has."""
    for path in ("styles", "runs/base"):
        if os.path.exists(path):
            shutil.move(path, f"{path}_moved")
    run = Path("runs", name, "version_0")
    assert main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", str(run)]) == 0
    loaded, weights = Run.find(run).load(StyleTransfer), Run.find(run).weights
    Trainer(logger=False, limit_val_batches=1).validate(loaded, BundledPhotos(image_size=32, batch_size=2))
    assert all(value.equal(weights[key]) for key, value in loaded.state_dict().items() if key in weights)
    before = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--trainer.max_steps", "3"]) == 0
    after = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    pictures = [key for key in before["state_dict"] if key.startswith("style_image")]
    assert pictures
    assert all(before["state_dict"][key].equal(after["state_dict"][key]) for key in pictures)
    assert after["global_step"] == 3
    return [Path(style).stem for style in after["hyper_parameters"]["styles"] or []]


def test_one_style():
    fit("--name", "one", "--model.style", "styles/first.png")
    assert goes_on("one") == []


def test_a_folder_of_styles():
    fit("--name", "many", "--model.styles", "[styles]")
    assert goes_on("many") == ["first", "second"]


def test_a_network_to_begin_with():
    fit("--name", "base", "--model.style", "night")
    fit("--name", "later", "--model.start", "runs/base", "--model.style", "styles/first.png")
    assert goes_on("later") == []


def test_a_network_with_an_added_style():
    fit("--name", "base", "--model.styles", "[styles]")
    fit("--name", "grown", "--model.add_to", "runs/base", "--model.style", "waves")
    assert goes_on("grown") == ["first", "second", "waves"]
