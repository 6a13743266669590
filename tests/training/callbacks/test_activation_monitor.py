"""Watching activations: closed forms of what is seen, that nothing is moved, and that a resumed run goes on."""

import csv
import math

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from stand_ins import TinyModel, fit
from torch import nn
from torch.nn import functional as F

from norms.errors import SettingError
from training.callbacks.activations import ACTIVATIONS, ActivationMonitor, activations, see, slope
from training.callbacks.checkpoint import RunCheckpoint


class Sigmoids(TinyModel):
    """Has two activations among its layers, and one more in a network that is not trained."""

    def __init__(self, broken: bool = False):
        super().__init__()
        self.broken = broken
        self.net.add_module("squash", nn.Sigmoid())
        self.net.add_module("halve", nn.ReLU())
        self.frozen = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        self.given = self.net[:-2](batch["image"]).detach()
        if self.broken and self.global_step == 5 and not self.resumes:
            raise RuntimeError("broken")
        return F.mse_loss(self.net(batch["image"]), batch["image"])


class Kept(Sigmoids):
    """Keeps what its sigmoid is given in the last step."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.kept = self.given.movedim(1, -1).flatten(0, -2).double()
        return loss


class GoOn(Callback):
    """Does what a run's folder does when a run goes on."""

    def on_train_start(self, trainer, pl_module):
        trainer.logger.go_on_at(trainer.global_step)


def train(folder, callbacks, model=Sigmoids, steps=7, **options):
    torch.manual_seed(0)
    return fit(folder, [*callbacks, RunCheckpoint(2)], model(), max_steps=steps, **options).lightning_module


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row.get("activations/all/dead")]


def test_a_training_with_it_is_the_same_bit_for_bit(tmp_path):
    watched = train(tmp_path / "watched", [ActivationMonitor(1, 3)])
    random = torch.get_rng_state()
    plain = train(tmp_path / "plain", [ActivationMonitor(None)])
    assert torch.equal(random, torch.get_rng_state())
    expected = plain.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in watched.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in watched.modules())
    assert not rows(tmp_path / "plain")


def test_what_is_logged_is_what_the_layers_were_given(tmp_path):
    model = train(tmp_path, [ActivationMonitor(3, units=2)], Kept)
    table = rows(tmp_path)
    assert [row["step"] for row in table] == ["0", "3", "6"]
    last = {key: float(value) for key, value in table[-1].items() if key.startswith("activations/")}
    for percent in (15, 50, 85):
        key = f"activations/00_squash/{{}}p{percent}"
        quantile = percent / 100
        assert last[key.format("")] == pytest.approx(float(torch.quantile(model.kept, quantile)), rel=1e-5)
        assert last[key.format("unit_01/")] == pytest.approx(
            float(torch.quantile(model.kept[:, 1], quantile)), rel=1e-5
        )
    assert {key.split("/")[1] for key in last} == {"00_squash", "01_halve", "all"}, "frozen networks are left out"
    # A sigmoid is above 0, and so a ReLU behind it is nowhere flat.
    assert last["activations/01_halve/saturated"] == 0
    assert last["activations/all/saturated"] == pytest.approx(last["activations/00_squash/saturated"] / 2)


def test_a_resumed_run_has_the_same_rows(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, [ActivationMonitor(1)])
    torch.manual_seed(0)
    broken = Sigmoids(broken=True)
    with pytest.raises(RuntimeError, match="broken"):
        fit(parts, [ActivationMonitor(1), RunCheckpoint(2)], broken, max_steps=7)
    assert rows(parts)[-1]["step"] == "4"
    broken.resumes = True
    fit(parts, [GoOn(), ActivationMonitor(1)], broken, max_steps=7, ckpt_path=parts / "checkpoints/last.ckpt")
    assert rows(parts) == rows(whole)


@pytest.mark.parametrize(
    ("layer", "low", "high"),
    [
        # sigmoid' = s (1 - s), a hundredth of 1/4 where s (1 - s) = 1/400; tanh' = 1 - tanh^2.
        (nn.Sigmoid(), -math.log(1 / (0.5 - math.sqrt(0.25 - 1 / 400)) - 1), None),
        (nn.Tanh(), -math.atanh(math.sqrt(0.99)), None),
        (nn.ReLU(inplace=True), 0.0, math.inf),
        (nn.LeakyReLU(0.01), -math.inf, math.inf),
    ],
)
def test_values_are_saturated_where_the_slope_is_a_hundredth(layer, low, high):
    values = torch.linspace(-8, 8, 4001)[:, None] + 0.001
    beyond = (values.abs() > -low) if high is None else (values < low)
    assert see(layer, values).saturated == pytest.approx(float(beyond.float().mean()), abs=1e-6)


def test_dead_are_the_channels_that_the_whole_batch_leaves_flat():
    image = torch.randn(5, 4, 6, 6)
    image[:, 1] = -image[:, 1].abs() - 0.1
    image[:, 3] = -1
    image[2, 3, 5, 5] = 1  # alive once
    seen = see(nn.ReLU(), image, units=4)
    assert (seen.dead, seen.width) == (1, 4)
    assert seen.units[:, 1] == pytest.approx([np.median(image[:, channel].numpy()) for channel in range(4)])


def test_slopes_are_differences_of_values():
    values = torch.linspace(-4, 4, 33, dtype=torch.float64) + 0.01
    for kind in ACTIVATIONS:
        difference = (kind()(values + 1e-6) - kind()(values - 1e-6)) / 2e-6
        assert torch.allclose(slope(kind(), values), difference, atol=1e-6), kind


def test_names_are_those_of_modules():
    assert list(activations(Sigmoids())) == ["net.squash", "net.halve"]


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"units": -1}])
def test_wrong_settings_are_refused(options):
    with pytest.raises(SettingError, match=r"activations\.\w+ must be at least"):
        ActivationMonitor(**options)


def test_a_model_without_activations_is_refused(tmp_path):
    with pytest.raises(SettingError, match="TinyModel has no activations"):
        fit(tmp_path, [ActivationMonitor(1)], TinyModel(), max_steps=1)
