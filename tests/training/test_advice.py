"""What an error advises is done, and it succeeds."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import analyze
from training.cli import TrainCLI
from training.command import main

TINY = """
name: tiny
trainer: {max_steps: 1, accelerator: cpu, val_check_interval: 1}
model: {class_path: stand_ins.TinyModel}
data: {class_path: stand_ins.TinyData}
"""
ACCUMULATION = (
    "[{class_path: pytorch_lightning.callbacks.GradientAccumulationScheduler, init_args: {scheduling: {1: 2}}}]"
)
GAN = ["fit", "--config", "gan"]
LEARN = [
    "fit", "--config", "classifier", "--trainer.accelerator", "cpu", "--trainer.val_check_interval", "2",
    "--model.widths", "[4, 4]", "--model.depths", "[1, 1]", "--data.batch_size", "4",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("tiny.yaml").write_text(TINY)


@pytest.fixture
def built(monkeypatch):
    """The command lines that were built up to their first batch, in the place of training."""
    lines = []

    def fit(self, **_):
        self.datamodule.trainer = self.trainer
        next(iter(self.datamodule.train_dataloader()))
        lines.append(self)

    monkeypatch.setattr(TrainCLI, "fit", fit)
    return lines


def error_of(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err.strip()


@pytest.mark.parametrize(
    ("section", "wrong", "meant"),
    [
        ("model", "lightning_modules.Gan", "GAN"),
        ("model", "lightning_modules.gan.gan", "GAN"),
        ("model", "Gan", "lightning_modules.GAN"),
        ("data", "data.bundled_digits", "BundledDigits"),
        ("data", "BundledDigit", "data.BundledDigits"),
    ],
)
def test_the_class_that_was_meant(section, wrong, meant, capsys, built):
    error = error_of([*GAN, f"--{section}.class_path={wrong}"], capsys)
    (advised,) = re.findall("did you mean '(.*)'", error)
    assert advised == meant
    path = advised if "." in advised else f"{wrong.rpartition('.')[0]}.{advised}"
    assert main([*GAN, f"--{section}.class_path={path}"]) == 0
    assert len(built) == 1


@pytest.mark.parametrize(
    "given",
    [
        ["--data.image_size=32"],
        ["--model.channels=3"],
        ["--model.channels=3", "--data.image_size=32"],
        ["--model.architecture=cnn48", "--data.image_size=28"],
        ["--data=data.BundledPhotos"],
    ],
)
def test_images_that_fit_the_model(given, capsys, built):
    error = error_of([*GAN, *given], capsys)
    settings = re.findall(r"([\w.]+): ([\w]+)(?! \(channels)", error.partition(": set ")[2])
    alternative = re.search(r" \(or ([\w.]+): (\w+)\)", error)
    ways = [[pair for pair in settings if not alternative or pair != alternative.groups()]]
    if alternative:
        ways += [[pair for pair in settings if pair[0] != "data.init_args.image_size"]]
    for way in ways:
        assert main([*GAN, *given, *(f"--{name}={value}" for name, value in way)]) == 0, way
    assert len(built) == len(ways)


def test_a_folder_of_small_images(capsys, built):
    Path("photos").mkdir()
    for number in range(3):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(f"photos/{number}.png")
    arguments = ["fit", "--config", "gan_cifar10", "--data", "data.ImageFolder", "--data.folder", "photos"]
    arguments += ["--data.num_workers", "0", "--data.batch_size", "1"]
    error = error_of(arguments, capsys)
    assert error.endswith("set data.init_args.image_size: 32")
    assert main([*arguments, "--data.init_args.image_size", "32"]) == 0
    # What the folder itself advises for a size that the model would take.
    arguments[2] = "style_transfer"
    assert main([*arguments, "--data.image_size", "64"]) == 2
    (resize,) = re.findall(r"set data\.resize: (\d+)", capsys.readouterr().err)
    assert main([*arguments, "--data.image_size", "64", "--data.resize", resize]) == 0


def test_images_with_the_labels_of_the_model(capsys, built):
    error = error_of([*LEARN, "--model.num_classes", "3"], capsys)
    (classes,) = re.findall(r"set model\.init_args\.num_classes: (\d+)", error)
    assert main([*LEARN, "--model.num_classes", classes]) == 0
    assert "take data.BundledDigits" in error_of([*LEARN, "--data", "data.BundledPhotos"], capsys)
    assert main([*LEARN, "--data", "data.BundledDigits"]) == 0


@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [
        ("trainer.gradient_clip_val", "1", ["--model.init_args.gradient_clip=1"]),
        ("trainer.accumulate_grad_batches", "2", ["--data.init_args.batch_size=128"]),
        ("trainer.callbacks", ACCUMULATION, ["--data.init_args.batch_size=128"]),
        ("trainer.callbacks", "pytorch_lightning.callbacks.EMAWeightAveraging", ["--model.init_args.ema_half_life=9"]),
    ],
)
def test_what_a_gan_cannot_have(option, value, instead, capsys, built):
    error = error_of([*GAN, f"--{option}={value}"], capsys)
    assert re.search(f"remove (it from )?{option}", error)
    assert all(each.strip("-").partition("=")[0] in error for each in instead)
    assert main([*GAN, *instead]) == 0
    # Other modules may have them.
    assert main(["fit", "--config", "tiny.yaml", f"--{option}={value}"]) == 0


def test_a_gan_without_norms_for_two_cores(capsys):
    said = (Path(__file__).parents[2] / "configs/gan_r3gan.yaml").read_text().partition("# For two CPU cores")[2]
    options = re.findall(r"--\S+ \S+", said.partition("\nname:")[0].replace("\n#", ""))
    assert len(options) == 8
    # As advised but for the time that it takes.
    short = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"]
    short += ["--data.batch_size=2", "--metrics.val_images=65", "--model.architecture_options.width=0.25"]
    given = [each.replace(" ", "=") for each in options]
    assert main(["fit", "--config", "gan_r3gan", *given, *short]) == 0
    assert Path("runs/gan_r3gan/version_0/checkpoints/best.ckpt").is_file()
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
@pytest.mark.parametrize("penalties", [[], ["--model.penalties.r1=1"]])
def test_a_gan_in_float16(precision, penalties, capsys, built):
    given = [*GAN, *penalties, "--trainer.accelerator=cpu"]
    error = error_of([*given, f"--trainer.precision={precision}"], capsys)
    (advised,) = re.findall(r"set trainer\.precision: (\S+)$", error)
    assert main([*given, f"--trainer.precision={advised}"]) == 0


@pytest.mark.parametrize("profiler", ["pytorch", "pytorch_lightning.profilers.PyTorchProfiler"])
def test_the_profiler_of_a_gan(profiler, capsys, built):
    error = error_of([*GAN, f"--trainer.profiler={profiler}"], capsys)
    assert error.endswith("set trainer.profiler to simple or advanced")
    assert not Path("runs").exists()
    for instead in ("simple", "advanced"):
        assert main([*GAN, f"--trainer.profiler={instead}"]) == 0


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_the_precision_of_style_transfer(precision, capsys):
    arguments = [
        "fit",
        "--config",
        "style_transfer",
        "--model.widths",
        "[4, 8]",
        "--model.num_blocks",
        "1",
        "--model.start",
        "null",
    ]
    arguments += ["--model.style_size", "32", "--data", "data.BundledPhotos", "--data.image_size", "32"]
    arguments += ["--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.max_steps", "1"]
    assert main([*arguments, "--trainer.precision", precision]) == 2
    (advised,) = re.findall(r"in precision 32-true, (64-true) or a mixed one", capsys.readouterr().err)
    assert not Path("runs").exists()
    assert main([*arguments, "--trainer.precision", advised]) == 0


@pytest.mark.filterwarnings("default")
def test_a_schedule_that_was_another_is_told(capsys):
    said = "the learning rate had fallen to 0 by step 2, and jumps to"
    assert main([*LEARN, "--trainer.max_steps", "2"]) == 0
    assert main([*LEARN, "--trainer.max_steps", "2", "--name", "cut", "--trainer.max_time", "00:00:01:00"]) == 0
    assert "jumps" not in capsys.readouterr().err
    assert main([*LEARN, "--trainer.max_steps", "4", "--ckpt_path", "last"]) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "jumps" in line]
    assert said in warning
    (steps,) = re.findall(r"begins with trainer\.max_steps: (\d+)", warning)
    assert main([*LEARN, "--trainer.max_steps", steps, "--name", "anew"]) == 0
    assert "jumps" not in capsys.readouterr().err


def test_a_folder_of_runs_names_them(capsys):
    assert main([*LEARN, "--trainer.max_steps", "1", "--name", "one"]) == 0
    assert main(["fit", "--config", "tiny.yaml", "--name", "two"]) == 0
    Path("runs/empty").mkdir()
    capsys.readouterr()
    assert analyze.main(["runs", "--no-evaluation", "--format", "csv"]) == 0
    assert "2 runs" in capsys.readouterr().out
    error = error_of(["fit", "--config", "tiny.yaml", "--ckpt_path", "runs"], capsys)
    assert error.endswith("runs is a folder of runs: name one of them, runs/one, runs/two")
    assert main(["fit", "--config", "tiny.yaml", "--ckpt_path", "runs/two", "--trainer.max_steps", "2"]) == 0


class TestEnvironment:
    @pytest.mark.parametrize("name", ["MODEL__INIT_ARGS__WIDTH", "MODEL__WIDTH"])
    def test_stands_for_an_option_that_is_not_given(self, name, built, monkeypatch):
        monkeypatch.setenv(f"PL_FIT__{name}", "6")
        assert main(["fit", "--config", "tiny.yaml"]) == 0
        assert main(["fit", "--config", "tiny.yaml", "--model.width", "7"]) == 0
        Path("tiny.yaml").write_text(TINY.replace("TinyModel", "TinyModel, init_args: {width: 8}"))
        assert main(["fit", "--config", "tiny.yaml"]) == 0
        assert [each.model.hparams["width"] for each in built] == [6, 7, 8]

    def test_of_data_and_trainer(self, built, monkeypatch):
        monkeypatch.setenv("PL_FIT__DATA__INIT_ARGS__BATCH_SIZE", "3")
        monkeypatch.setenv("PL_FIT__TRAINER__MIN_STEPS", "1")
        monkeypatch.setenv("PL_TEST__MODEL__WIDTH", "1")  # of another subcommand
        assert main(["fit", "--config", "tiny.yaml"]) == 0
        assert built[0].datamodule.batch_size == 3
        assert built[0].trainer.min_steps == 1

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("TRAINER__MAX_STEP", "3", "environment variable .*MAX_STEP: .*did you mean 'trainer.max_steps'"),
            ("MODEL__INIT_ARGS__WIDHT", "3", "unknown option 'widht' of .*did you mean 'width'"),
            ("MODEL__WIDTH", "wide", "model.init_args.width: expected int, got wide"),
            ("MODEL__WIDTH", "null", "model.init_args.width must have a value, got null"),
            ("BANANA", "1", "environment variable PL_FIT__BANANA: unknown option 'banana'"),
        ],
    )
    def test_is_checked_as_options_are(self, name, value, message, capsys, monkeypatch):
        monkeypatch.setenv(f"PL_FIT__{name}", value)
        assert re.search(message, error_of(["fit", "--config", "tiny.yaml"], capsys))
