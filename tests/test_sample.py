import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gan_runs import GARMENTS, make_gan, write_run
from PIL import Image

from sampling import draw as drawing
from sampling.command import main
from training.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("gan") / "version_0", make_gan())


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional") / "version_0"
    return write_run(folder, make_gan(num_classes=10), "data.BundledGarments")


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
    wrote, following = capsys.readouterr().out.splitlines()
    assert wrote == f"wrote {path}: 5 images, 224x152 pixels"
    assert following == f"next: python sample.py {run} --interpolate 24 -o walk.gif"
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
    assert capsys.readouterr().out.splitlines()[0] == "wrote 3 images of 16x16 pixels to single"
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
    assert torch.equal(many[:2], few)
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

    monkeypatch.setattr(drawing, "batches", draw)
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
        (["--count", "1000000000000"], "--count must be at most 1000000, got 1000000000000"),
        (["--count", "2", "--scale", "100000"], "the grid would have 5,120,000,000,000 pixels"),
        (["--count", "100000", "--columns", "1", "--scale", "9"], "the grid would have 2,073,600,000 pixels"),
        (["-o", ""], "expected a path, got an empty text"),
        (["-o", f"{'x' * 300}.png"], "File name too long"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(options, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_modules.generation.recalibrate", None)  # which would take its time
    assert message in fails(capsys, run, *options)


def tile(path, row, column, columns=8):
    """The image at a place of a grid of 16-pixel images that are not enlarged."""
    return pixels(path)[2 + 18 * row : 18 + 18 * row, 2 + 18 * column : 18 + 18 * column, 0]


def test_a_sweep_has_a_row_for_each_class_and_the_same_noise_in_a_column(conditional, tmp_path, capsys):
    path = tmp_path / "classes.png"
    assert main([str(conditional), "--classes", "-o", str(path), "--count", "3", "--scale", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"rows: {', '.join(GARMENTS)}"
    assert pixels(path).shape[:2] == (2 + 10 * 18, 2 + 3 * 18)
    alone = tmp_path / "alone.png"
    for row, name in ((0, "0"), (3, "dress"), (9, "Ankle boot")):
        main([str(conditional), "--label", name, "-o", str(alone), "--count", "3", "--scale", "1", "--overwrite"])
        for column in range(3):
            # The rounding of a network may depend on what else is in the batch.
            np.testing.assert_allclose(tile(path, row, column), tile(alone, *divmod(column, 2)), atol=1)
    assert len({tile(path, row, 0).tobytes() for row in range(10)}) == 10


def test_classes_take_turns(conditional, tmp_path):
    """By default all of them, and of several --label those."""
    several, single = tmp_path / "several.png", tmp_path / "single.png"
    row = ["--count=5", "--columns=5", "--scale=1", "--overwrite"]
    for options, label in (([], 4), (["--label=1", "--label=Bag"], 1)):
        main([str(conditional), "-o", str(several), *row, *options])
        main([str(conditional), "-o", str(single), *row, f"--label={label}"])
        np.testing.assert_allclose(tile(several, 0, 4), tile(single, 0, 4), atol=1)
        assert abs(tile(several, 0, 1).astype(int) - tile(single, 0, 1)).max() > 1


def test_a_name_is_taken_before_a_number_and_in_any_case():
    from sampling.plan import find_labels

    assert find_labels(["10", "2", "1"], 4, ["1", "10", "2", "3"]) == (1, 2, 0)
    assert find_labels(["0"], 4, ["1", "10", "2", "3"]) == (0,)
    assert find_labels([], 3, []) == (0, 1, 2)
    assert find_labels([], 0, []) == ()
    assert find_labels(["BAG"], 2, ["bag", "shoe"]) == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "10"], "--label must be at least 0 and at most 9, got 10"),
        (["--label=-1"], "--label must be at least 0 and at most 9, got -1"),
        (["--label", "sneker"], "unknown class 'sneker', did you mean 'Sneaker'? (known: T-shirt/top, Trouser,"),
        (["--truncation", "0"], "--truncation must be above 0 and at most 10, got 0"),
        (["--truncation=11"], "--truncation must be above 0 and at most 10, got 11"),
        (["--classes", "--columns", "3"], "--classes cannot be combined with --columns"),
        (
            ["--interpolate", "5", "--each", "x", "--classes"],
            "--interpolate cannot be combined with --each and --classes",
        ),
        (["--neighbors", "5", "--each", "x"], "--neighbors cannot be combined with --each"),
        (["--fps", "5"], "--fps says how fast --interpolate goes, which is missing"),
        (["--each", "images.tar"], "--each images.tar: name a folder, or a file that ends in .zip or .npz"),
        (["--save-latents", "latents.npz"], "--save-latents latents.npz: name a file that ends in .safetensors"),
        (["--device", "cuda:77"], "--device: cannot use device 'cuda:77'"),
        (["--device", "toaster"], "--device: cannot use device 'toaster'"),
        (["--classes", "--count", "200000"], "the number of images must be at most 1000000, got 2000000"),
        (["--count", "900000", "--each", "x", "--save-latents", "a.safetensors", "--scale", "1"], None),
    ],
)
def test_what_cannot_be_asked_of_classes(options, message, conditional, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_modules.generation.recalibrate", None)  # which would take its time
    if message is None:
        monkeypatch.setattr("sampling.files.MOST_LATENT_VALUES", 8000)
        message = "--save-latents: 900000 vectors of 8 numbers are too many for one file, which holds 1000"
    assert message in fails(capsys, conditional, *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--label", "3"], ["--classes"]])
def test_a_generator_without_classes_says_so(options, run, capsys):
    assert "this generator knows no classes: it was trained with num_classes: 0" in fails(capsys, run, *options)


def test_without_a_configuration_classes_have_numbers_alone(conditional, tmp_path, capsys):
    path = tmp_path / "last.ckpt"
    path.write_bytes(Run.find(conditional).checkpoint.read_bytes())
    message = "--label Bag: nobody knows what the classes are called: give one of 0 to 9"
    assert message in fails(capsys, path, "--label", "Bag", "-o", tmp_path / "a.png")
    assert main([str(path), "--label", "8", "-o", str(tmp_path / "a.png"), "--count", "1"]) == 0
