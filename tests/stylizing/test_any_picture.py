"""Photos painted in the style of any picture, by the command."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from data import styles
from lightning_modules import AnyStyle
from stylizing import export
from stylizing.command import main
from training.command import main as train
from training.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    model = AnyStyle(layer="relu2_1", style_layers=["relu1_1"], photo_size=32, style_size=64)
    model.setup("fit")
    with torch.no_grad():  # so that no color is cut off
        list(model.network.decoder.parameters())[-2].mul_(0.2)
    folder = tmp_path_factory.mktemp("any") / "version_0"
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture
def pictures(tmp_path):
    for seed, name in enumerate(("photo.png", "mine.jpg", "other.png")):
        colors = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((47, 35), Image.Resampling.BICUBIC).save(tmp_path / name)
    return tmp_path


def painted(run, pictures, *styles):
    words = [word for style in styles for word in ("--style", style)]
    assert main([str(run), str(pictures / "photo.png"), "-o", str(pictures / "out"), "--overwrite", *words]) == 0
    with Image.open(pictures / "out" / "photo.png") as image:
        assert image.size == (47, 35)
        return np.asarray(image.convert("RGB")).astype(float)


def test_pictures_and_bundled_names_are_styles_and_mix(run, pictures):
    mine, waves = painted(run, pictures, str(pictures / "mine.jpg")), painted(run, pictures, "waves")
    assert np.abs(mine - waves).mean() > 1
    mixed = painted(run, pictures, f"{pictures / 'mine.jpg'}=0.5", "waves=0.5")
    assert min(np.abs(mixed - mine).mean(), np.abs(mixed - waves).mean()) > 0.2
    assert np.abs(mixed - (mine + waves) / 2).mean() < np.abs(mine - waves).mean() / 2


def test_the_exported_network_paints_the_same(run, pictures, capsys):
    file = pictures / "net.safetensors"
    assert export.main([str(run), str(file)]) == 0
    assert f"wrote {file}" in capsys.readouterr().out
    style = str(pictures / "other.png")
    assert np.abs(painted(run, pictures, style) - painted(file, pictures, style)).max() <= 2


@pytest.mark.parametrize("style", ["nonesuch.png", "wave"])
def test_pictures_that_are_not_there(run, pictures, capsys, style):
    assert main([str(run), str(pictures / "photo.png"), "-o", str(pictures / "out"), "--style", style]) == 2
    error = capsys.readouterr().err
    assert f"no style picture '{style}': there is no such file, and the bundled ones are glass" in error
    assert ("did you mean 'waves'?" in error) == (style == "wave")
    assert error.count("\n") == 1
    assert not (pictures / "out").exists()


def test_the_style_that_leaves_photos_alone_is_refused(run, pictures, capsys):
    assert main([str(run), str(pictures / "photo.png"), "-o", str(pictures / "out"), "--style", "photo"]) == 2
    assert "--strength" in capsys.readouterr().err


def test_equals_signs_in_paths_are_no_shares(run, pictures):
    mine = pictures / "mi=ne.jpg"
    (pictures / "mine.jpg").rename(mine)
    whole, waves = painted(run, pictures, str(mine)), painted(run, pictures, "waves")
    assert np.array_equal(painted(run, pictures, f"{mine}=1"), whole)
    words = ["-o", str(pictures / "sweep"), "--style", str(mine), "--style", "waves", "--sweep", "2"]
    assert main([str(run), str(pictures / "photo.png"), *words]) == 0
    with Image.open(pictures / "sweep" / "photo-1.png") as image:
        assert np.array_equal(np.asarray(image), whole)
    Image.new("L", (47, 35), 255).save(pictures / "ma=sk.png")
    words = ["-o", str(pictures / "mask"), "--style", "waves", "--mask", f"{pictures / 'ma=sk.png'}={mine}"]
    assert main([str(run), str(pictures / "photo.png"), *words]) == 0
    with Image.open(pictures / "mask" / "photo.png") as image:
        assert np.array_equal(np.asarray(image), whole)
    assert not np.array_equal(whole, waves)


def test_the_configuration_trains_and_paints(pictures, monkeypatch, capsys):
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    # With a norm in the decoder, whose rho is logged.
    model = ["--model.norm", "batch_instance", "--model.style_size", "64", "--model.photo_size", "32"]
    data = ["--data.image_size", "32", "--data.batch_size", "2"]
    steps = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu"]
    assert train(["fit", "--config", "any_style", *model, *data, *steps]) == 0
    told = "python stylize.py runs/any_style/version_0 photo.jpg -o out/ --style my_picture.jpg"
    assert told in capsys.readouterr().out
    run = pictures / "runs" / "any_style" / "version_0"
    assert (run / "samples" / "step_0000002.png").is_file()
    assert "rho" in (run / "metrics.csv").read_text()
    assert painted(run, pictures, "mine.jpg").shape == (35, 47, 3)


def test_a_run_on_photos_alone_is_refused(pictures, monkeypatch, capsys):
    monkeypatch.chdir(pictures)
    assert train(["fit", "--config", "any_style", "--data", "data.BundledPhotos"]) == 2
    assert "which BundledPhotos does not have: take data.StyledPhotos" in capsys.readouterr().err
    assert not (pictures / "runs").exists()


def test_less_strength_keeps_the_statistics_of_the_photo(run, pictures):
    model = Run.find(run).load(AnyStyle)
    photo = torch.rand(1, 3, 24, 32)
    style = model.find_style(["waves"])
    with torch.no_grad():
        weaker, blended = model.weakened(style, 0.25)
        assert blended == 1
        torch.testing.assert_close(model(photo, weaker), model(photo, style, alpha=0.25))
    options = ["-o", str(pictures / "weak"), "--style", "waves", "--strength"]
    changes = []
    for strength in ("1", "0.3"):
        assert main([str(run), str(pictures / "photo.png"), *options, strength, "--overwrite"]) == 0
        changes.append(np.asarray(Image.open(pictures / "weak" / "photo.png")).astype(float))
    assert np.abs(changes[0] - changes[1]).mean() > 0.1


def test_masks_may_have_as_many_pixels_as_photos(run, pictures, monkeypatch):
    Image.new("L", (600, 450), 255).save(pictures / "mask.png")
    Image.new("RGB", (600, 450), "red").save(pictures / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 512 * 512)  # as many as a bundled style has
    command = [str(run), str(pictures / "photo.png"), "-o", str(pictures / "out")]
    words = ["--mask", f"{pictures / 'mask.png'}=waves"]
    assert main([*command, *words]) == 2
    assert main([*command, *words, "--max-pixels", "270000"]) == 0


def test_names_of_photos_are_shown_and_not_obeyed(run, pictures, capsys):
    (pictures / "\x1b[31mbad\n.png").write_text("no image")
    with Image.open(pictures / "photo.png") as photo:
        Image.merge("RGBA", [*photo.split(), Image.new("L", photo.size, 9)]).save(pictures / "\x1b[31mclear.jpg", "PNG")
    assert main([str(run), str(pictures), "-o", str(pictures / "o\x1b[31mut")]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert err.count("\n") == 1
    assert r"\x1b[31mbad\n.png: not an image" in err
    assert r"left out transparency of 1 image" in out
    assert out.count(r"\x1b[31m") == 2


def test_a_sweep_measures_each_picture_once(run, pictures, monkeypatch):
    measured, scaled_style = [], styles.scaled_style
    monkeypatch.setattr(
        styles, "scaled_style", lambda style, *size: measured.append(style) or scaled_style(style, *size)
    )
    ends = [str(pictures / "mine.jpg"), "waves"]
    words = ["-o", str(pictures / "sweep"), "--sweep", "5", "--style", ends[0], "--style", ends[1]]
    assert main([str(run), str(pictures / "photo.png"), *words]) == 0
    assert measured == ends
    for number, shares in ((1, (1, 0)), (2, (0.75, 0.25)), (5, (0, 1))):
        expected = painted(run, pictures, *(f"{name}={share}" for name, share in zip(ends, shares, strict=True)))
        with Image.open(pictures / "sweep" / f"photo-{number}.png") as image:
            assert np.abs(np.asarray(image).astype(float) - expected).max() <= 1
