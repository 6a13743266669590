"""Every row of every logger has the number of the optimizer steps that were completed."""

import csv
from pathlib import Path

import pytest
import torch
import wandb_stand_ins
from processes import ended, start
from pytorch_lightning.loggers import CSVLogger
from stand_ins import TinyModel, fit
from test_train import TINY
from tiny_gan import Blots, gan

from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.guard import Guard
from training.callbacks.mixing import MixingValues
from training.callbacks.run_folder import RunFolder
from training.wandb_logger import WandbLogger


class Counting(TinyModel):
    """Counts the steps of its optimizer by itself, and logs the count."""

    steps = 0

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.register_step_post_hook(self._count)
        return optimizer

    def _count(self, *_):
        self.steps += 1

    def training_step(self, batch, batch_idx):
        self.log("train/in", float(self.steps + 1))
        self.log("train/mean", 0.0, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log("val/after", float(self.steps))

    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        checkpoint["steps"] = self.steps

    def on_load_checkpoint(self, checkpoint):
        super().on_load_checkpoint(checkpoint)
        self.steps = checkpoint["steps"]


def columns(file):
    """From each column of a table to its values, by step."""
    with Path(file).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = rows[0].keys() - {"step"}
    return {name: {int(row["step"]): float(row[name]) for row in rows if row[name]} for name in names}


@pytest.mark.parametrize(
    ("options", "steps", "validations"),
    [
        ({}, range(1, 13), [5, 10]),
        ({"log_every_n_steps": 5}, [5, 10], [5, 10]),
        ({"log_every_n_steps": 10, "val_check_interval": 4}, [10], [4, 8, 12]),
        (
            {"accumulate_grad_batches": 3, "val_check_interval": 6, "log_every_n_steps": 2},
            range(2, 13, 2),
            range(2, 13, 2),
        ),
    ],
)
def test_a_loss_has_the_number_of_its_step_and_a_validation_that_of_the_steps_before_it(
    tmp_path, options, steps, validations
):
    other = CSVLogger(tmp_path, name="other", version=0)
    trainer = fit(tmp_path, [], Counting(), loggers=[other], **options)
    assert trainer.global_step == 12
    for file in (tmp_path / "metrics.csv", tmp_path / "other/version_0/metrics.csv"):
        found = columns(file)
        assert found["train/in"] == {step: step for step in steps}
        assert found["val/after"] == {step: step for step in validations}
        assert found["train/mean"].keys() == {12}
        assert found.keys() - {"epoch"} == {"train/in", "train/loss", "train/mean", "val/after"}


@pytest.mark.parametrize("stop", [4, 5, 10])
@pytest.mark.parametrize("every", [1, 5])
def test_a_resumed_run_has_the_rows_of_a_whole_one(tmp_path, stop, every):
    callbacks = [RunFolder("name: tiny\n"), MixingValues(5), RunCheckpoint(stop, keep_all=True)]
    torch.manual_seed(0)
    fit(tmp_path, callbacks, Counting(), log_every_n_steps=every)
    whole = (tmp_path / "metrics.csv").read_text()
    checkpoint = tmp_path / f"checkpoints/step_{stop:07d}.ckpt"
    fit(tmp_path, callbacks, Counting(), log_every_n_steps=every, ckpt_path=checkpoint)
    assert (tmp_path / "metrics.csv").read_text() == whole
    assert columns(tmp_path / "metrics.csv")["train/in"].keys() == set(range(every, 13, every))


@pytest.mark.parametrize("n_dis", [1, 3])
def test_a_gan_counts_the_steps_of_its_generator(tmp_path, n_dis):
    data, callbacks = Blots(batches_per_step=n_dis), [Guard(every_n_steps=2)]
    fit(tmp_path, callbacks, gan(n_dis=n_dis), data=data, max_steps=4, val_check_interval=2)
    found = columns(tmp_path / "metrics.csv")
    assert found["train/loss_g"].keys() == {1, 2, 3, 4}
    assert found["val/d_real"].keys() == found["guard/sigma"].keys() == {2, 4}


def test_loss_validation_and_mixing_values_of_a_step_are_one_row_of_wandb(tmp_path):
    fit(tmp_path, [MixingValues(5)], loggers=[WandbLogger(tmp_path)], log_every_n_steps=5, max_steps=10)
    rows = {row["_step"]: row for row in wandb_stand_ins.rows(tmp_path)}
    assert len(rows) == len(wandb_stand_ins.rows(tmp_path))
    rho = next(key for key in rows[0] if key.startswith("rho/") and key.endswith("/mean"))
    holding = {step: [key for key in ("train/loss", "val/loss", rho) if key in row] for step, row in rows.items()}
    assert holding == {0: [rho], 5: ["train/loss", "val/loss", rho], 10: ["train/loss", "val/loss", rho]}
    assert all(row["trainer/global_step"] == step for step, row in rows.items())
    assert not any(key == "step" for row in rows.values() for key in row)


@pytest.mark.slow
def test_two_processes_count_alike_and_lightning_recommends_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("tiny.yaml").write_text(TINY)
    args = ["fit", "--config", "tiny.yaml", "--trainer.max_steps", "6", "--trainer.devices", "2"]
    assert ended(start("train.py", *args, "--trainer.strategy", "ddp"), 200) == 0, Path("log.txt").read_text()
    found = columns("runs/tiny/version_0/metrics.csv")
    assert found["train/loss"].keys() == set(range(1, 7))
    assert found["val/loss"].keys() == {5}
    assert "self.log('step'" not in Path("log.txt").read_text()
