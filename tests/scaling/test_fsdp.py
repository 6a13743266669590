"""Networks that FSDP2 has distributed over two processes learn what they learn whole, and anything reads their runs."""

import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from processes import ended, start_two
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from data.module import ImageDataModule
from data.stream import generator
from lightning_modules import GAN, AnyStyle, Classifier, StyleTransfer
from norms.errors import SettingError
from training.callbacks.landscape import Landscape
from training.fsdp import check_fsdp2
from training.layer_sync import NormSync

CLASSES = 3
STYLE = {"style_size": 64, "widths": [4, 8], "num_blocks": 1, "content_layers": ["relu1_2"], "style_layers": ["relu1_1"]}
SMALL_GAN = {"channels": 3, "latent_dim": 12, "ema_half_life": 20, "lr": 1e-3}
NARROW = {"image_size": 16, "width": 0.0625}

MODULES = {
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
    found = {strategy: trained(name, strategy, sys.argv[1]) for strategy in ("ddp_find_unused_parameters_true", "fsdp2")}
    torch.save(found, f"{sys.argv[1]}/{name}{torch.distributed.get_rank()}.pt")
"""


@pytest.mark.slow
def test_it_learns_what_ddp_learns_with_half_the_memory(tmp_path, monkeypatch):
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    processes = start_two(script, tmp_path, Path(__file__).parent)
    assert [ended(process, timeout=200) for process in processes] == [0, 0], Path("log0.txt").read_text()
    for name in MODULES:
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True)
            whole, shared = found["ddp_find_unused_parameters_true"], found["fsdp2"]
            assert shared["state"].keys() == whole["state"].keys()
            for key, value in whole["state"].items():
                torch.testing.assert_close(shared["state"][key], value, rtol=1e-9, atol=1e-9, msg=f"{name} {key}")
            assert shared["val"] == pytest.approx(whole["val"], rel=1e-9)
            assert shared["val"]
            assert 0.45 < shared["bytes"] / whole["bytes"] < 0.6, name
