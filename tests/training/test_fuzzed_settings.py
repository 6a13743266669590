"""Whatever a configuration holds: it is run, or refused in one line before anything is written."""

import random
import time
from pathlib import Path

import pytest
import yaml

from training.cli import TrainCLI
from training.command import main

BASES = {
    "tiny": """
model: {class_path: stand_ins.TinyModel, init_args: {}}
data: {class_path: stand_ins.TinyData, init_args: {}}
""",
    "gan": """
model: {class_path: lightning_modules.GAN, init_args: {architecture: resnet16, channels: 1, norm: switchable}}
data: {class_path: data.BundledDigits, init_args: {image_size: 16}}
""",
    "style": """
model: {class_path: lightning_modules.StyleTransfer, init_args: {widths: [4, 8], num_blocks: 1, style_size: 32}}
data: {class_path: data.BundledPhotos, init_args: {image_size: 32}}
""",
    "classifier": """
model: {class_path: lightning_modules.Classifier, init_args: {widths: [4, 8], depths: [1, 1]}}
data: {class_path: data.BundledDigits, init_args: {}}
""",
}
COMMON = """
name: fuzzed
trainer: {max_steps: 1, accelerator: cpu, val_check_interval: 1}
checkpoint: {}
mixing: {}
samples: {}
"""

TOP = ["name", "runs_dir", "seed_everything", "ckpt_path", "weights_only"]
TOP += ["checkpoint.every_n_train_steps", "checkpoint.keep_all", "mixing.every_n_steps", "samples.every_n_steps"]
TRAINER = [f"trainer.{name}" for name in (
    "accelerator", "accumulate_grad_batches", "barebones", "benchmark", "callbacks", "check_val_every_n_epoch",
    "default_root_dir", "detect_anomaly", "deterministic", "devices", "enable_checkpointing", "fast_dev_run",
    "gradient_clip_algorithm", "gradient_clip_val", "inference_mode", "limit_test_batches", "limit_train_batches",
    "limit_val_batches", "log_every_n_steps", "logger", "max_epochs", "max_steps", "max_time", "min_epochs",
    "min_steps", "num_nodes", "num_sanity_val_steps", "overfit_batches", "plugins", "precision", "profiler",
    "reload_dataloaders_every_n_epochs", "strategy", "sync_batchnorm", "use_distributed_sampler", "val_check_interval",
)]  # fmt: skip
STEPPED = [
    "accumulate_grad_batches", "check_val_every_n_epoch", "gradient_clip_val", "limit_train_batches",
    "limit_val_batches", "log_every_n_steps", "max_time", "min_steps", "overfit_batches", "precision", "profiler",
    "val_check_interval",
]  # fmt: skip
OWN = {
    "tiny": ["model.width", "model.norm", "model.n_dis", "model.seed", "data.batch_size", "data.num_workers"],
    "gan": [
        "model.architecture", "model.channels", "model.norm", "model.norm_options", "model.norm_options.eps",
        "model.norm_options.affine", "model.norm_options.statistics", "model.latent_dim", "model.loss", "model.lr",
        "model.betas", "model.rho_lr_multiplier", "model.n_dis", "model.generator_batch_size", "model.ema_half_life",
        "model.dequantize", "model.seed", "data.batch_size", "data.image_size", "data.num_workers",
    ],
    "style": [
        "model.style", "model.style_size", "model.norm", "model.norm_options", "model.widths", "model.num_blocks",
        "model.loss_network", "model.weights", "model.content_layers", "model.style_layers", "model.loss_scaling",
        "model.content_weight", "model.style_weight", "model.tv_weight", "model.terms", "model.lr",
        "model.rho_lr_multiplier", "model.seed", "data.batch_size", "data.image_size", "data.seed",
    ],
    "classifier": [
        "model.num_classes", "model.norm", "model.widths", "model.depths", "model.lr", "model.weight_decay",
        "model.label_smoothing", "model.seed", "data.batch_size", "data.image_size", "data.num_workers", "data.seed",
        "model", "data", "model.class_path", "data.class_path", "model.init_args", "data.init_args", "trainer",
    ],
}  # fmt: skip

BOMB = "[&a [1,1,1,1,1,1,1,1,1,1]" + "".join(
    f", &{after} [{','.join([f'*{before}'] * 10)}]" for before, after in zip("abcdefghi", "bcdefghij", strict=True)
)
VALUES = [
    "null", "~", ".inf", "-.inf", ".nan", "nan", "inf", "-1", "-2", "0", "-0.0", "1", "2", "1.5", "1e3", "1e-3",
    "1e400", "9" * 400, "-" + "9" * 400, "9" * 5000, "4294967296", "9223372036854775807", "9223372036854775808",
    "1000000", "1_000",
    "0x10", "1e", "true", "yes", "''", "banana", "a.b", "os.getcwd", "collections.OrderedDict", "a/b", "/", "..", "é",
    "x" * 300, "x" * 5000, "a" + "/b" * 3000, '"a\\0b"', '"\\e[31m"', "[]", "[1]", "[null]", "[-1, 2]", "[a, b]",
    "[1, [2]]", "[.nan, .5]", "{}", "{a: 1}", "{a: 1, a: 2}", "{class_path: os.getcwd}", "{class_path: null}",
    "{class_path: norms.BatchNorm2d, init_args: 3}", "[" * 60 + "]" * 60, "[" * 3000 + "]" * 3000,
    "{a: " * 60 + "1" + "}" * 60,
    BOMB + "]", "&a [*a]", "!!python/object/apply:os.getcwd []", "[1", "{", "a: b: c", "*x", "|", "%", "@x",
    "2026-11-29",
]  # fmt: skip


@pytest.fixture(scope="module")
def parsers():
    return {}


@pytest.fixture(autouse=True)
def _quick_command_line(tmp_path, monkeypatch, parsers):
    """An empty folder, no W&B, and a parser that is built once, which takes longer than all the rest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    build = TrainCLI.setup_parser

    def build_once(self, *args):
        before = set(vars(self)) - {"_parsers"}
        if not parsers:
            build(self, *args)
            parsers.update({name: value for name, value in vars(self).items() if name not in before})
        vars(self).update(parsers)

    monkeypatch.setattr(TrainCLI, "setup_parser", build_once)


def command(base, option, value, in_file):
    """A command line with one value, as an argument or in the file, as a user would write it there."""
    config = f"{COMMON}{BASES[base]}"
    if not in_file:
        Path("config.yaml").write_text(config)
        return ["fit", "--config", "config.yaml", f"--{option}={value}"]
    settings = yaml.safe_load(config)
    *sections, name = option.split(".")
    if sections and sections[0] in ("model", "data") and name not in ("class_path", "init_args"):
        sections.insert(1, "init_args")
    place = settings
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = "THE VALUE"
    text = yaml.safe_dump(settings, default_flow_style=True, width=10**6)
    Path("config.yaml").write_text(text.replace("THE VALUE", value))
    return ["fit", "--config", "config.yaml"]


def what_is_wrong(arguments, capsys):
    """What is wrong with the answer to a command line, or nothing."""
    before, start = sorted(Path().rglob("*")), time.process_time()
    try:
        status = main(arguments)
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        err = capsys.readouterr().err
    if (took := time.process_time() - start) > 10:
        return f"took {took:.1f} s"
    if status == 0:
        return ""
    lines = err.splitlines()
    if status != 2 or len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > 2000:
        return f"status {status}, stderr {err[:500]!r}"
    return "" if sorted(Path().rglob("*")) == before else "refused, but something is written"


def fuzz(draw, base, options, count, capsys):
    """Give ``count`` options some value each; returns what is wrong, by case."""
    wrong = {}
    for _ in range(count):
        option, value, in_file = draw.choice(options), draw.choice(VALUES), draw.random() < 0.5
        if answer := what_is_wrong(command(base, option, value, in_file), capsys):
            wrong[option, value[:80], "file" if in_file else "argument"] = answer
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "options", "count"),
    [
        ("tiny", TRAINER + TOP, 160),
        ("gan", OWN["gan"], 90),
        ("style", OWN["style"], 90),
        ("classifier", OWN["classifier"], 60),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_value_is_run_or_refused_in_one_line(base, options, count, capsys, monkeypatch):
    # All of a training but its steps.
    monkeypatch.setattr(TrainCLI, "fit", lambda self, **_: self.model.prepare_data())
    assert fuzz(random.Random(base), base, options, count, capsys) == {}


@pytest.mark.slow
def test_every_value_that_is_taken_trains(capsys):
    options = [*OWN["tiny"], *TOP, *(name for name in TRAINER if name.partition(".")[2] in STEPPED)]
    assert fuzz(random.Random("steps"), "tiny", options, 40, capsys) == {}
