"""Measuring the landscape: closed forms, that nothing is moved, and that a resumed run goes on."""

import csv
import math
from pathlib import Path

import pytest
import torch
from stand_ins import TinyModel, fit
from torch import nn

from lightning_modules.base import TrainingModule
from norms.errors import SettingError
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.landscape import Landscape, moved


def rows(folder):
    with Path(folder, "metrics.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row.get("landscape/loss")]


def numbers(row):
    return {key.removeprefix("landscape/"): float(value) for key, value in row.items() if key.startswith("landscape/")}


class Bowl(TrainingModule):
    """Has the loss 1/2 sum c x^2 over two layers of one weight each, of which the second sees the first."""

    def __init__(self, coupled=False, lr=0.1):
        super().__init__(0)
        self.lr = lr
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.coupled = coupled
        with torch.no_grad():
            self.first.weight.fill_(1.0)
            self.second.weight.fill_(2.0)

    def training_step(self, batch, batch_idx):
        ones = batch["image"].new_tensor([[1.0], [3.0]])
        hidden = self.first(ones)
        output = self.second(hidden)
        if self.coupled:
            return 0.5 * output.square().mean()
        a, b = self.first.weight.sum(), self.second.weight.sum()
        return 0.5 * (4 * a.square() + b.square()) + 0 * output.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


def test_a_parabola_has_the_values_of_its_closed_form(tmp_path):
    fit(tmp_path, [Landscape(1, (0.5, 2.0))], Bowl(), max_steps=1, limit_val_batches=0)
    (row,) = rows(tmp_path)
    found = numbers(row)

    def loss(a, b):
        return 0.5 * (4 * a**2 + b**2)

    # W = (1, 2), g = (4, 2), H = diag(4, 1); at 0.05 and 0.2 times g from W.
    along = [loss(1 - eta * 4, 2 - eta * 2) for eta in (0.05, 0.2)]
    curvature = math.hypot(4 * 4, 1 * 2)  # |H g|
    norm = math.hypot(4, 2)
    assert found["loss"] == pytest.approx(loss(1, 2))
    assert (found["loss_min"], found["loss_max"]) == pytest.approx((min(along), max(along)))
    assert found["gradient_norm"] == pytest.approx(norm)
    assert found["gradient_change_min"] == pytest.approx(0.05 * curvature)
    assert found["gradient_change_max"] == pytest.approx(0.2 * curvature, rel=1e-5)
    assert found["smoothness"] == pytest.approx(curvature / norm, rel=1e-5)
    slopes = [abs(value - loss(1, 2)) / (eta * norm) for value, eta in zip(along, (0.05, 0.2), strict=True)]
    assert found["lipschitz"] == pytest.approx(max(slopes), rel=1e-5)
    assert found["ics"] == 0, "the gradient of one layer does not depend on the other"


def test_covariate_shift_of_two_linear_layers_has_the_values_of_its_closed_form(tmp_path):
    fit(tmp_path, [Landscape(1)], Bowl(coupled=True, lr=0.025), max_steps=1, limit_val_batches=0)
    found = numbers(rows(tmp_path)[0])
    # L = 1/2 mean((b a x)^2), x = 1, 3, mean(x^2) = 5, so dL/da = 5 a b^2 = 20 at (1, 2), and a becomes 0.5.
    # dL/db = 5 a^2 b is 10 there, and 2.5 at the new a.
    assert found["ics"] == pytest.approx(7.5)
    assert found["ics_cosine"] == pytest.approx(1)
    # The input goes from 1, 3 (mean 2, deviation 1) to 0.5, 1.5 (mean 1, deviation 0.5).
    assert found["input_shift"] == pytest.approx(math.sqrt(1 + 0.25))
    assert found["00_second/ics"] == found["ics"], "the only layer that has another before it"


def test_the_distance_of_moments_is_that_of_normal_distributions():
    first = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
    second = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 6.0])
    assert moved(first, second) == pytest.approx(math.sqrt((9 + 16) / 5))
    assert moved(first, first) == 0


NOISY = "experiments.layers_noise.NoisyBatchNorm"
"""Draws from torch's default generator, which a look must leave where it is."""


def tiny(**options):
    torch.manual_seed(0)
    return TinyModel(norm=NOISY, **options)


def test_a_training_with_it_is_the_same_bit_for_bit(tmp_path):
    model, other = tiny(), tiny()
    fit(tmp_path / "watched", [Landscape(2)], model, max_steps=6)
    random = torch.get_rng_state()
    torch.manual_seed(0)
    other = tiny()
    fit(tmp_path / "plain", [], other, max_steps=6)
    assert torch.equal(random, torch.get_rng_state())
    expected = other.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    found = [float(row["landscape/loss"]) for row in rows(tmp_path / "watched")]
    assert len(found) == 3
    assert all(value > 0 for value in found)


class Broken(TinyModel):
    """Fails in its sixth step."""

    def training_step(self, batch, batch_idx):
        if self.global_step == 5 and not self.resumes:
            raise RuntimeError("broken")
        return super().training_step(batch, batch_idx)


def test_a_resumed_run_has_the_same_rows(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    torch.manual_seed(0)
    fit(whole, [Landscape(2), RunCheckpoint(2)], TinyModel(), max_steps=8)
    torch.manual_seed(0)
    broken = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        fit(parts, [Landscape(2), RunCheckpoint(2)], broken, max_steps=8)
    torch.manual_seed(0)
    broken = Broken()
    broken.resumes = True
    fit(parts, [Landscape(2), RunCheckpoint(2)], broken, max_steps=8, ckpt_path=parts / "checkpoints/last.ckpt")
    assert rows(parts) == rows(whole)
    assert [row["step"] for row in rows(whole)] == ["2", "4", "6", "8"]


def test_layers_are_spread_over_the_network(tmp_path):
    fit(tmp_path, [Landscape(1, layers=1)], TinyModel(), max_steps=1)
    (row,) = rows(tmp_path)
    assert [key for key in row if key.endswith("_last/ics")], "the last of two that have another before them"
    assert not [key for key in row if key.endswith("_second/ics")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "landscape.every_n_steps must be at least 1, got 0"),
        ({"multiples": []}, "landscape.multiples must name one"),
        ({"multiples": [1, 0]}, "landscape.multiples must be above 0, got 0"),
        ({"layers": -1}, "landscape.layers must be at least 0, got -1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        Landscape(**options)


def test_a_training_by_several_losses_is_refused(tmp_path):
    bowl = Bowl()
    bowl.automatic_optimization = False
    with pytest.raises(SettingError, match="trainings by one loss, and Bowl has several"):
        fit(tmp_path, [Landscape(1)], bowl, max_steps=1)
