import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from lightning_modules.gan import GAN
from sampling import draw as drawing
from sampling.command import main
from training.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a GAN whose live and averaged generators differ."""
    torch.manual_seed(0)
    gan = GAN(architecture="resnet16", channels=1, latent_dim=8)
    for parameter in gan.generator_ema.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("gan") / "version_0"
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder)
    trainer.strategy.connect(gan)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder


def pixels(path):
    return np.asarray(Image.open(path))


def fails(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_grid(run, tmp_path, capsys):
    path = tmp_path / "new" / "samples.png"
    assert main([str(run), "-o", str(path), "--count", "5", "--columns", "3"]) == 0
    assert capsys.readouterr().out == f"wrote {path}: 5 images, 224x152 pixels\n"
    grid = pixels(path)
    assert grid.shape[:2] == (8 + 2 * (64 + 8), 8 + 3 * (64 + 8))
    tile = grid[8:72, 8:72]
    assert (tile == tile[::4, ::4].repeat(4, 0).repeat(4, 1)).all()
    assert tile.std() > 5


def test_scale(run, tmp_path):
    path = tmp_path / "samples.png"
    main([str(run), "-o", str(path), "--count", "4", "--scale", "1"])
    assert pixels(path).shape[:2] == (2 + 2 * 18, 2 + 2 * 18)


def test_each_writes_single_images_alone(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(run), "--each", "single", "--count", "3"]) == 0
    assert capsys.readouterr().out == "wrote 3 images of 16x16 pixels to single\n"
    assert [path.name for path in tmp_path.iterdir()] == ["single"]
    written = sorted((tmp_path / "single").iterdir())
    assert [path.name for path in written] == ["00000.png", "00001.png", "00002.png"]
    drawn = drawing.draw(run, 3)
    for path, image in zip(written, drawn, strict=True):
        assert pixels(path).shape == (16, 16)
        np.testing.assert_allclose(pixels(path), 255 * image[0].numpy(), atol=1)


def test_output_and_each_show_the_same_images(run, tmp_path):
    path, folder = tmp_path / "samples.png", tmp_path / "single"
    main([str(run), "-o", str(path), "--each", str(folder), "--count", "2", "--scale", "1"])
    assert (pixels(path)[2:18, 20:36, 0] == pixels(folder / "00001.png")).all()


def test_default_output(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(run), "--count", "1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]


def test_an_image_depends_on_seed_and_number_alone(run):
    few, many = drawing.draw(run, 2), drawing.draw(run, 70)
    torch.testing.assert_close(many[:2], few, rtol=0, atol=1e-5)
    assert len(torch.unique(many.flatten(1).sum(1))) == 70
    assert not torch.allclose(drawing.draw(run, 2, seed=1), few, atol=1e-2)
    assert not torch.allclose(drawing.draw(run, 2, averaged=False), few, atol=1e-2)


def test_no_ema(run, tmp_path):
    for name, options in (("average", []), ("live", ["--no-ema"])):
        main([str(run), "-o", str(tmp_path / f"{name}.png"), "--count", "1", *options])
    assert (pixels(tmp_path / "average.png") != pixels(tmp_path / "live.png")).any()


def test_overwrites_only_when_told(run, tmp_path, capsys):
    path = tmp_path / "samples.png"
    path.write_text("precious")
    assert fails(capsys, run, "-o", path) == f"error: {path} exists: choose another path or add --overwrite\n"
    assert path.read_text() == "precious"
    assert main([str(run), "-o", str(path), "--count", "1", "--overwrite"]) == 0
    assert pixels(path).ndim == 3


def test_overwrites_no_single_image(run, tmp_path, capsys):
    (tmp_path / "00002.png").write_text("precious")
    assert "00002.png exists" in fails(capsys, run, "--each", tmp_path, "--count", "3")
    assert [path.name for path in tmp_path.iterdir()] == ["00002.png"]


def test_ctrl_c_is_told_in_one_line(run, tmp_path, capsys, monkeypatch):
    def draw(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "draw", draw)
    assert main([str(run), "-o", str(tmp_path / "new" / "a.png")]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["-o", "--each"])
def test_an_interrupted_write_leaves_what_was_there(run, option, tmp_path, capsys, monkeypatch):
    path = tmp_path / "00000.png"
    path.write_text("precious")

    def save(self, path, *arguments, **options):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    target = path if option == "-o" else tmp_path
    assert main([str(run), option, str(target), "--count", "1", "--overwrite"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "precious"


def test_the_ending_chooses_the_format(run, tmp_path):
    for name, kind in (("a.png", "PNG"), ("b.JPG", "JPEG"), ("c.webp", "WEBP")):
        assert main([str(run), "-o", str(tmp_path / name), "--count", "1"]) == 0
        assert Image.open(tmp_path / name).format == kind


def test_no_such_run(tmp_path, capsys):
    missing = tmp_path / "version_9"
    assert fails(capsys, missing, "-o", tmp_path / "a.png") == f"error: no such run folder or checkpoint: {missing}\n"


def test_checkpoint_of_another_model(tmp_path, capsys):
    path = tmp_path / "style.ckpt"
    torch.save({"normlab": {"module": "StyleTransfer", "version": "0"}, "state_dict": {}}, path)
    assert f"{path} is a checkpoint of StyleTransfer, not of GAN" in fails(capsys, path, "-o", tmp_path / "a.png")


def test_damaged_checkpoint(run, tmp_path, capsys):
    path = tmp_path / "damaged.ckpt"
    path.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes()[:1000])
    assert f"{path} is not a readable checkpoint" in fails(capsys, path, "-o", tmp_path / "a.png")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("file/samples.png", "is not a folder"),
        ("file/deeper/samples.png", "Not a directory"),
        ("samples", "has no ending of an image format"),
        ("samples.txt", "has no ending of an image format"),
        ("samples.psd", "has no ending of an image format"),
        ("folder.png", "is a folder: name a file"),
    ],
)
def test_unwritable_output(run, tmp_path, capsys, output, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert message in fails(capsys, run, "-o", tmp_path / output, "--count", "1")


@pytest.mark.parametrize(("option", "value"), [("--count", "0"), ("--columns", "x"), ("--scale", "-1")])
def test_wrong_number(run, option, value, capsys):
    wanted = f"expected int, got '{value}'" if value == "x" else f"must be above 0, got {value}"
    assert fails(capsys, run, f"{option}={value}") == f"error: {option[2:]}: {wanted}\n"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """The module of a stranger, which leaves a trace when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = "from pathlib import Path\nPath('trace').touch()\nfrom norms import BatchNorm2d as Norm\n"
    Path("trap.py").write_text(f"{code}from lightning_modules.losses.adversarial import Hinge as Loss\n")
    yield Path("trace")
    sys.modules.pop("trap", None)


@pytest.mark.parametrize("setting", ["norm", "loss"])
def test_no_module_is_imported_because_a_checkpoint_names_it(setting, run, trap, capsys):
    state = torch.load(Run.find(run).checkpoint, weights_only=True)
    state["hyper_parameters"][setting] = f"trap.{setting.title()}"
    torch.save(state, "model.ckpt")
    assert "trap is not trusted (to trust it: --trust trap)" in fails(capsys, "model.ckpt", "-o", "a.png")
    assert not trap.exists()
    assert main(["model.ckpt", "-o", "a.png", "--count", "1", "--trust", "trap"]) == 0
    assert trap.exists()


def test_norms_of_torch_are_trusted(run, tmp_path):
    state = torch.load(Run.find(run).checkpoint, weights_only=True)
    state["hyper_parameters"]["norm"] = "torch.nn.BatchNorm2d"
    torch.save(state, tmp_path / "model.ckpt")
    assert main([str(tmp_path / "model.ckpt"), "-o", str(tmp_path / "a.png"), "--count", "1"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "1000000000000"], "--count must be at most 100000, got 1000000000000"),
        (["--count", "2", "--scale", "100000"], "the grid would have 5,120,000,000,000 pixels"),
        (["--count", "100000", "--columns", "1", "--scale", "9"], "the grid would have 2,073,600,000 pixels"),
        (["-o", ""], "expected a path, got an empty text"),
        (["-o", f"{'x' * 300}.png"], "File name too long"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(options, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, run, *options)
