"""A model, data and a trainer that take a second, for tests of what accompanies a training."""

import os
import time

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import norms
from data.stream import StreamDataset, StreamSampler, generator
from lightning_modules.base import TrainingModule
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from training.callbacks.step_axis import StepAxis
from training.lightning_private import leave_signals_alone
from training.loggers import MetricsLogger


class TinyModel(TrainingModule):
    """Denoises 8 x 8 images; has a layer of each mixing norm."""

    def __init__(
        self, width: int = 4, norm: str = "batch_instance", n_dis: int = 1, seconds: float = 0.0, seed: int = 0
    ):
        super().__init__(seed)
        self.save_hyperparameters()
        self.n_dis, self.seconds = n_dis, seconds
        self.net = nn.Sequential()
        self.net.add_module("first", nn.Conv2d(3, width, 3, padding=1))
        self.net.add_module("norm1", norms.build(norm, width))
        self.net.add_module("second", nn.Conv2d(width, width, 3, padding=1))
        self.net.add_module("norm2", norms.build("switchable", width))
        self.net.add_module("last", nn.Conv2d(width, 3, 3, padding=1))

    @property
    def batches_per_step(self):
        return self.n_dis

    def configure_optimizers(self):
        return self.adam(self, 1e-2)

    def loss(self, image):
        return F.mse_loss(self.net(image + 0.1 * self.noise(0, *image.shape)), image)

    def training_step(self, batch, batch_idx):
        time.sleep(self.seconds)
        loss = self.loss(batch["image"])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch["image"]), batch_size=len(batch["image"]))

    def sample_grid(self):
        with self.evaluation():
            return self.net(torch.linspace(0, 1, 192).view(1, 3, 8, 8))[0]

    def next_command(self, run_dir):
        return f"python use.py {run_dir}"


class PlainModel(TinyModel):
    """Has no mixing layer and makes no pictures."""

    sample_grid = TrainingModule.sample_grid

    def __init__(self, seed: int = 0):
        super().__init__(norm="batch", seed=seed)
        self.net.norm2 = nn.BatchNorm2d(4)


class BrokenModel(TinyModel):
    """Has a bug."""

    def __init__(self, at: str = "init"):
        super().__init__()
        self.at = at
        if at == "init":
            raise TypeError("a bug in the constructor")

    def training_step(self, batch, batch_idx):
        if self.global_step == 3:
            if self.at == "data":
                raise SettingError("the data does\nnot fit the model")
            raise ValueError("a bug in the training step")
        return super().training_step(batch, batch_idx)


class Images:
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return {"image": torch.rand(3, 8, 8, generator=generator(index))}


class TinyData(LightningDataModule):
    def __init__(
        self, batch_size: int = 2, batches_per_step: int = 1, num_workers: int = 0, folder: str = "", seed: int = 0
    ):
        super().__init__()
        self.batch_size, self.num_workers, self.folder, self.seed = batch_size, num_workers, folder, seed
        self.batches_per_step = batches_per_step

    def setup(self, stage):
        if self.folder and not os.path.isdir(self.folder):
            raise SettingError(f"no such folder of images: {self.folder}")

    def train_dataloader(self):
        stream = StreamDataset(Images(), seed=self.seed)
        size = self.batch_size * self.batches_per_step
        sampler = StreamSampler(size, lambda: self.trainer.global_step)
        return DataLoader(stream, batch_sampler=sampler, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(Images(), batch_size=6)


def fit(run_dir, callbacks, model=None, loggers=(), ckpt_path=None, data=None, **options):
    """Train in a run folder as ``train.py`` does, but with the given callbacks and loggers only."""
    defaults = {
        "max_epochs": -1,
        "max_steps": 12,
        "val_check_interval": 5,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "use_distributed_sampler": False,
        "enable_autolog_hparams": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    if any(isinstance(callback, Checkpoint) for callback in callbacks):
        defaults["enable_checkpointing"] = True
    if any(isinstance(callback, ProgressBar) for callback in callbacks):
        defaults["enable_progress_bar"] = True
    trainer = Trainer(
        **{**defaults, **options}, logger=[MetricsLogger(run_dir), *loggers], callbacks=[*callbacks, StepAxis()]
    )
    leave_signals_alone(trainer)
    trainer.fit(model or TinyModel(), data or TinyData(), ckpt_path=ckpt_path)
    return trainer


class Painter(StyleTransfer):
    """Paints by a formula."""

    def __init__(self, formula, photo_size=512):
        super().__init__(widths=[4], num_blocks=0, photo_size=photo_size)
        self.formula = formula

    def forward(self, image, style=0):
        return self.formula(image)
