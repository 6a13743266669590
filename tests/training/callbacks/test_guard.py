"""A training that goes wrong: it ends, in one message, with its last good checkpoint; or it is warned of."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from processes import ended, start_two
from stand_ins import TinyModel, fit
from torch import nn

import norms
from lightning_modules.gan import GAN
from lightning_modules.networks.sngan import ResNet
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.guard import Guard
from training.callbacks.mixing import MixingValues
from training.callbacks.samples import SampleImages
from training.command import main
from training.errors import TrainingError
from training.finite import is_finite, not_finite
from training.run import Run

TINY = """
name: tiny
trainer: {max_steps: 12, accelerator: cpu, val_check_interval: 5, log_every_n_steps: 1, enable_progress_bar: false}
checkpoint: {every_n_train_steps: 3}
mixing: {every_n_steps: 1}
samples: {every_n_steps: 1}
data: {class_path: stand_ins.TinyData}
"""


class FaultyModel(TinyModel):
    """Goes wrong in its eighth step, in one process of several."""

    def __init__(self, fault: str = "loss", lr: float = 1e-2, rank: int = 0, seed: int = 0):
        super().__init__(seed=seed)
        self.save_hyperparameters()
        self.fault, self.lr, self.rank = fault, lr, rank
        self.register_buffer("mask", torch.tensor([0, -torch.inf]))

    def configure_optimizers(self):
        return self.adam(self, self.lr)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.global_step != 7 or self.lr < 1e-2 or self.trainer.global_rank != self.rank:
            return loss
        if self.fault == "gradient":
            self.net.last.weight.register_hook(lambda gradient: gradient * torch.inf)
        elif self.fault == "buffer":
            nn.init.constant_(self.net.norm2.running_var, torch.inf)
        elif self.fault == "optimizer":
            self.optimizers().optimizer.state[self.net.last.bias]["exp_avg_sq"].fill_(torch.inf)
        return loss * torch.nan if self.fault == "loss" else loss


def small_networks(**options):
    return ResNet(4, (4, 4), (4, 4), 1)(**options)


def weights(folder):
    return torch.load(Path(folder) / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("loss", r"step 8: the loss \(nan\) is not finite"),
        ("gradient", r"step (8|9): (net\.|train/loss)"),
        ("buffer", r"step 9: net\.norm2\.running_var is not finite"),
        ("optimizer", r"step 9: the optimizer's state\.0\.state\.\d+\.exp_avg_sq is not finite"),
    ],
)
def test_what_is_not_finite_ends_the_training_and_never_replaces_the_last_checkpoint(fault, named, tmp_path):
    callbacks = [Guard(), MixingValues(1), SampleImages(1), RunCheckpoint(3)]
    with pytest.raises(TrainingError, match=named) as error:
        fit(tmp_path, callbacks, FaultyModel(fault))
    last = weights(tmp_path)
    assert last["global_step"] == 6
    assert not_finite(last["state_dict"].items()) == ["mask"], "a mask is meant to be infinite"
    assert f"the last good checkpoint is {tmp_path / 'checkpoints/last.ckpt'}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.partial"))


def test_the_command_that_is_told_goes_on_with_a_lower_learning_rate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("tiny.yaml").write_text(f"{TINY}model: {{class_path: test_guard.FaultyModel}}")
    assert main(["fit", "--config", "tiny.yaml"]) == 1
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    command = re.search(r"go on with a lower learning rate: python train\.py (fit .*)", message)[1]
    assert command.endswith("--model.lr=0.001")
    before = weights("runs/tiny/version_0")
    assert main(shlex.split(command)) == 0
    after = weights("runs/tiny/version_0")
    assert (before["global_step"], after["global_step"]) == (6, 12)
    rates = [
        {group["name"]: group["lr"] for group in state["optimizer_states"][0]["param_groups"]}
        for state in (before, after)
    ]
    assert rates[1] == pytest.approx({name: rate / 10 for name, rate in rates[0].items()})


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_processes_both_end_whichever_goes_wrong(rank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    Path("tiny.yaml").write_text(TINY)
    args = ["fit", "--config", "tiny.yaml", "--model", "test_guard.FaultyModel", "--model.rank", rank]
    two = start_two("train.py", *args, "--trainer.devices", 2, "--trainer.strategy", "ddp")
    statuses = [ended(process) for process in two]
    log = Path("log0.txt").read_text()
    assert statuses == [1, 1], log
    # The gradients are shared: the other process has not the same loss in this step, but the same weights after it.
    assert re.search(r"error: step 8: .*loss.* not finite, so the training ends; the last good checkpoint", log)
    assert "Traceback" not in log
    last = weights("runs/tiny/version_0")
    assert (last["global_step"], not_finite(last["state_dict"].items())) == (6, ["mask"])


def test_without_a_checkpoint_the_command_begins_anew(tmp_path):
    with pytest.raises(
        TrainingError, match=r"there is no checkpoint yet; begin anew with a lower .* fit --config \S+ --"
    ):
        fit(tmp_path, [Guard(), RunCheckpoint(100)], FaultyModel())


def test_the_last_step_of_a_training_without_checkpoints_is_looked_at(tmp_path):
    with pytest.raises(TrainingError, match=r"step 8: net\."):
        fit(tmp_path, [Guard(), SampleImages(100)], FaultyModel("gradient"), max_steps=8)


def test_a_gan_that_gets_one_broken_batch_ends(tmp_path):
    class Broken(GAN):
        def _to_model_range(self, images):
            images = super()._to_model_range(images)
            return images * torch.nan if self.global_step == 4 else images

    gan = Broken(small_networks, latent_dim=4, n_dis=1)
    with pytest.raises(TrainingError, match=r"step 5: train/loss_d \(nan\) and 1 more are not finite"):
        fit(tmp_path, [Guard(), SampleImages(1), RunCheckpoint(3)], gan)
    assert not not_finite(weights(tmp_path)["state_dict"].items())


def test_a_loss_that_explodes_is_warned_of_once(tmp_path, recwarn):
    class Exploding(TinyModel):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * 10**self.global_step

    fit(tmp_path, [Guard(), RunCheckpoint(4)], Exploding())
    warned = [str(w.message) for w in recwarn if "exploded" in str(w.message)]
    assert len(warned) == 1


def test_pure_mixtures_have_infinite_logits_and_train_on(tmp_path):
    model = TinyModel()
    norms.binarize_(model)
    norms.freeze_mixing_(model)
    fit(tmp_path, [Guard(), SampleImages(3), RunCheckpoint(3)], model)
    assert not_finite(weights(tmp_path)["state_dict"].items()) == ["net.norm2.mean_weight", "net.norm2.var_weight"]
    assert Run.find(tmp_path).load(TinyModel)
    assert (tmp_path / "samples/step_0000012.png").is_file()


def test_a_good_training_is_not_warned_of(tmp_path, recwarn):
    fit(tmp_path, [Guard(), RunCheckpoint(4)], TinyModel())
    assert not [w for w in recwarn if "exploded" in str(w.message)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_numbers_of_any_type_are_looked_at(dtype):
    good, bad = torch.tensor([0.0, 1.0]), torch.tensor([0.0, torch.nan])
    assert is_finite(good.to(dtype))
    assert not is_finite(bad.to(dtype))
    assert is_finite(torch.tensor([1, 2]))
