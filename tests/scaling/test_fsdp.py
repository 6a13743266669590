"""Networks that FSDP2 has distributed over two processes learn what they learn whole, and anything reads their runs."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from processes import ended, start_two
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor

import norms
from data.module import ImageDataModule
from data.stream import generator
from lightning_modules import GAN, AnyStyle, Classifier, StyleTransfer
from mixing_analysis.command import main as analyze
from norms.errors import SettingError
from sampling.command import main as sample
from training.callbacks.landscape import Landscape
from training.command import main
from training.finite import named_values
from training.fsdp import check_fsdp2
from training.layer_sync import NormSync

CLASSES = 3
STYLE = {
    "style_size": 64,
    "widths": [4, 8],
    "num_blocks": 1,
    "content_layers": ["relu1_2"],
    "style_layers": ["relu1_1"],
}
SMALL_GAN = {"channels": 3, "latent_dim": 12, "ema_half_life": 20, "lr": 1e-3}
NARROW = {"image_size": 16, "width": 0.0625}


class OfAUser(pl.LightningModule):
    """Knows nothing of strategies, and has a weight beside its networks."""

    batches_per_step = 1

    def __init__(self):
        super().__init__()
        self.network, self.head = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Linear(1568, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def training_step(self, batch, batch_idx):
        logits = self.scale * self.head(self.network(batch["image"]).flatten(1))
        return nn.functional.cross_entropy(logits, batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


MODULES = {
    "of a user": OfAUser,
    "style": lambda: StyleTransfer(**STYLE, norm="batch_instance", stability_weight=0.1, channels_last=True),
    "styles": lambda: StyleTransfer(**STYLE, styles=["night", "waves"], separate_norms=True, norm="switchable"),
    "any style": lambda: AnyStyle(layer="relu2_1", style_layers=["relu1_1"], norm="batch_instance"),
    "classifier": lambda: Classifier(widths=(4, 8), depths=(1, 1), num_classes=CLASSES, norm="batch_renorm"),
    "gan": lambda: FreeGAN(
        **SMALL_GAN, architecture="resnet16", norm="batch_instance", n_dis=2, accumulate=2, gradient_clip=0.05
    ),
    "penalties": lambda: FreeGAN(
        **SMALL_GAN,
        architecture="sagan",
        architecture_options={**NARROW, "attention": 8},
        num_classes=CLASSES,
        n_dis=1,
        penalties={"r1": 1.0, "wgan_gp": 1.0, "orthogonal": 1e-2},
    ),
}


class FreeGAN(GAN):
    def on_fit_start(self):
        """Take any precision."""


class Pictures(ImageDataModule):
    """Random images in memory, each with a class and a style."""

    has_styles = True
    num_classes = CLASSES

    def __init__(self, batch_size: int = 2, batches_per_step: int = 1, seed: int = 0):
        super().__init__(batch_size, 16, 0, seed, batches_per_step)

    def load(self):
        images = torch.rand(16, 3, 16, 16, generator=generator(0))
        found = [{"image": x, "style": x**3, "label": n % CLASSES} for n, x in enumerate(images)]
        return found[:12], found[12:]


def trained(name, strategy, root):
    """Train for three steps; return the whole state, and how many bytes of it this process has held."""
    torch.manual_seed(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)
    module, held = MODULES[name](), Held()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_steps=3, precision="64-true", callbacks=[held],
        plugins=[NormSync()], use_distributed_sampler=False, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=root, num_sanity_val_steps=0,
        val_check_interval=2, check_val_every_n_epoch=None,
    )  # fmt: skip
    trainer.fit(module, datamodule=Pictures(batches_per_step=module.batches_per_step))
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return {"state": dict(module.state_dict()), "bytes": held.bytes, "val": found}


class Held(pl.Callback):
    def on_train_end(self, trainer, module):
        values = [p for p in module.parameters() if p.requires_grad or "GAN" in type(module).__name__]
        values += [v for o in trainer.optimizers for state in o.state.values() for v in state.values()]
        self.bytes = sum((v.to_local() if isinstance(v, DTensor) else v).nbytes for v in values)


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from test_fsdp import MODULES, trained
for name in MODULES:
    found = {strategy: trained(name, strategy, sys.argv[1]) for strategy in ("ddp", "fsdp2")}
    torch.save(found, f"{sys.argv[1]}/{name}{torch.distributed.get_rank()}.pt")
"""


@pytest.mark.slow
def test_it_learns_what_ddp_learns_with_half_the_memory(tmp_path, monkeypatch):
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    processes = start_two(script, tmp_path, Path(__file__).parent)
    assert [ended(process, timeout=200) for process in processes] == [0, 0], Path("log0.txt").read_text()
    assert "FSDP2-wrapped module" not in Path("log0.txt").read_text()
    for name in MODULES:
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True)
            whole, shared = found["ddp"], found["fsdp2"]
            assert shared["state"].keys() == whole["state"].keys()
            for key, value in whole["state"].items():
                torch.testing.assert_close(shared["state"][key], value, rtol=1e-9, atol=1e-9, msg=f"{name} {key}")
            assert shared["val"] == pytest.approx(whole["val"], rel=1e-9)
            assert shared["val"]
            assert 0.45 < shared["bytes"] / whole["bytes"] < 0.6, name


CONFIG = """
seed_everything: 0
name: whole
model:
  class_path: lightning_modules.GAN
  init_args:
    {architecture: test_fsdp.tiny_networks, channels: 1, latent_dim: 4, n_dis: 1, norm: batch_instance}
data: {class_path: data.BundledDigits, init_args: {batch_size: 4, image_size: 8}}
trainer:
  {accelerator: cpu, devices: 2, strategy: fsdp2, max_steps: 5, val_check_interval: 3, check_val_every_n_epoch: null,
   limit_val_batches: 2, num_sanity_val_steps: 0, log_every_n_steps: 1}
mixing: {every_n_steps: 1}
samples: {every_n_steps: 2}
checkpoint: {every_n_train_steps: 2}
metrics: {features: garments, names: [kid], val_images: 8}
spectral: {every_n_steps: 2, networks: [generator, discriminator]}
lipschitz: {every_n_steps: 4, images: 2, ascent: 1}
guard: {every_n_steps: 2}
"""


class TinyGenerator(nn.Sequential):
    image_size = 8


def tiny_networks(channels, latent_dim, norm, norm_options=None):
    conv = nn.Conv2d(4, channels, 3, padding=1)
    generator = TinyGenerator(
        nn.Linear(latent_dim, 256), nn.Unflatten(1, (4, 8, 8)), norms.build(norm, 4), nn.ReLU(), conv, nn.Tanh()
    )
    first, last = nn.Conv2d(channels, 4, 3), nn.Linear(144, 1)
    judge = (norms.spectral_norm(first), nn.ReLU(), nn.Flatten(), norms.spectral_norm(last), nn.Flatten(0))
    return generator, nn.Sequential(*judge)


class EndOneProcess(pl.Callback):
    """Send a signal to the second of two processes alone, after the third step."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_rank == 1 and trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def fit_by_two(*options):
    processes = start_two("train.py", "fit", "--config", "fsdp.yaml", *map(str, options))
    statuses = [ended(process, timeout=120) for process in processes]
    assert "Traceback" not in Path("log0.txt").read_text()
    return statuses


def checkpoint(name):
    return torch.load(Path("runs", name, "version_0", "checkpoints", "last.ckpt"), weights_only=True)


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on_by_any_strategy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("fsdp.yaml").write_text(CONFIG)
    assert fit_by_two() == [0, 0], Path("log0.txt").read_text()
    ending = ["--name", "ended", "--trainer.callbacks+=test_fsdp.EndOneProcess"]
    assert fit_by_two(*ending) == [143, 143], Path("log0.txt").read_text()
    assert checkpoint("ended")["global_step"] == 3
    for name in ("ddp", "one"):
        shutil.copytree("runs/ended", f"runs/{name}")
    assert fit_by_two("--ckpt_path", "runs/ended/version_0") == [0, 0], Path("log0.txt").read_text()
    assert fit_by_two("--ckpt_path", "runs/ddp/version_0", "--trainer.strategy", "ddp") == [0, 0]
    one = ["--ckpt_path", "runs/one/version_0", "--trainer.strategy", "auto", "--trainer.devices", "1"]
    assert main(["fit", "--config", "fsdp.yaml", *one]) == 0

    whole = checkpoint("whole")
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        expected = dict(named_values(whole[part], part))
        for name, tolerance in (("ended", 0), ("ddp", 1e-4)):
            found = dict(named_values(checkpoint(name)[part], part))
            assert found.keys() == expected.keys()
            for key in (key for key, value in expected.items() if isinstance(value, torch.Tensor | float)):
                values = (torch.as_tensor(each[key]) for each in (found, expected))
                torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance / 100, msg=key)
    assert checkpoint("one")["global_step"] == 5
    runs = {name: Path("runs", name, "version_0") for name in ("whole", "ended", "ddp", "one")}
    tables = {name: pd.read_csv(run / "metrics.csv") for name, run in runs.items()}
    pd.testing.assert_frame_equal(tables["ended"], tables["whole"])
    pd.testing.assert_frame_equal(tables["ddp"], tables["whole"], rtol=1e-3)
    last = {name: table["train/loss_d"].dropna().tail(2).mean() for name, table in tables.items()}
    assert last["one"] == pytest.approx(last["whole"], rel=0.2)
    for name in ("ended", "ddp"):
        pictures = [sorted(path.name for path in runs[each].rglob("*.png")) for each in (name, "whole")]
        assert pictures[0] == pictures[1]
        for step in range(6):
            found, expected = (np.load(runs[each] / f"mixing/step_000000{step}.npz") for each in (name, "whole"))
            assert [*found] == [*expected]
            assert np.concatenate([*found.values()]) == pytest.approx(np.concatenate([*expected.values()]), rel=1e-4)
    assert sample([str(runs["whole"]), "-o", "samples.png", "--trust", "test_fsdp"]) == 0
    assert analyze([str(runs["whole"]), "-o", "report"]) == 0


@pytest.mark.parametrize(
    ("options", "trainer", "reason"),
    [
        ({"compile": True}, {}, "model.init_args.compile does not work with trainer.strategy: fsdp2, but with ddp"),
        ({"gradient_clip": 1.0}, {}, "model.init_args.gradient_clip does not work"),
        ({}, {"gradient_clip_val": 1.0}, "trainer.gradient_clip_val does not work"),
        ({}, {"precision": "16-mixed"}, "trainer.precision: 16-mixed does not work"),
        ({}, {"callbacks": [WeightAveraging()]}, "WeightAveraging does not work"),
        ({}, {"strategy": ModelParallelStrategy()}, "take fsdp2 in the place of ModelParallelStrategy"),
    ],
)
def test_what_does_not_work_is_refused_in_a_line(options, trainer, reason, monkeypatch):
    sagan = {"architecture": "sagan", "architecture_options": {**NARROW, "attention": 8}}
    built = pl.Trainer(**{"accelerator": "cpu", "devices": 1, "strategy": "fsdp2", "logger": False, **trainer})
    monkeypatch.setattr(type(built), "precision", trainer.get("precision", "32-true"))  # on a CPU, 16 is bf16
    with pytest.raises(SettingError, match=reason) as error:
        check_fsdp2(built, GAN(**SMALL_GAN, **sagan, **options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["networks"], "distributed: OfAUser has no part 'networks'"),
        (["network", "network.0"], "distributed: network.0 is part of another network that is named there"),
        (["several"], "distributed: several is no network, since ModuleList has no forward"),
    ],
)
def test_parts_that_cannot_be_distributed_are_refused(names, reason):
    module = OfAUser()
    module.distributed, module.several = names, nn.ModuleList([nn.Linear(2, 2)])
    trainer = pl.Trainer(accelerator="cpu", devices=1, strategy="fsdp2", logger=False)
    with pytest.raises(SettingError, match=reason):
        check_fsdp2(trainer, module)


def test_weights_beside_distributed_ones_are_not_clipped_along_with_them():
    trainer = pl.Trainer(accelerator="cpu", devices=1, strategy="fsdp2", logger=False, gradient_clip_val=1.0)
    with pytest.raises(SettingError, match="gradient_clip_val does not work"):
        check_fsdp2(trainer, OfAUser())


def test_without_attention_gradients_are_clipped():
    trainer = pl.Trainer(accelerator="cpu", devices=1, strategy="fsdp2", logger=False)
    check_fsdp2(trainer, GAN(**SMALL_GAN, architecture="resnet16", gradient_clip=1.0))


def test_the_landscape_needs_whole_weights():
    trainer = pl.Trainer(accelerator="cpu", devices=1, strategy="fsdp2", logger=False)
    with pytest.raises(SettingError, match=r"needs whole weights: take trainer\.strategy: ddp"):
        Landscape(2).setup(trainer, MODULES["classifier"](), "fit")
