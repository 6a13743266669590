"""Watching Lipschitz constants: what is written, its order, that nothing is moved, and that a resumed run goes on."""

import csv
from pathlib import Path

import pytest
import torch
from stand_ins import TinyModel, fit

from data.arrays import BundledDigits
from lightning_modules.classifier import Classifier
from lightning_modules.gan import GAN
from lightning_modules.networks.sngan import ResNet
from norms.errors import SettingError
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.lipschitz import LipschitzMonitor


def classifier():
    torch.manual_seed(0)
    return Classifier(widths=(4, 6), depths=(1, 1), schedule="constant")


def small_networks(**options):
    return ResNet(4, (4, 4), (4, 4), 1)(**options)


def gan():
    torch.manual_seed(0)
    return GAN(small_networks, latent_dim=4, n_dis=1)


def train(folder, callbacks, module, steps=5, **options):
    data = None if isinstance(module, GAN) else BundledDigits(batch_size=8, image_size=8)
    return fit(folder, [*callbacks, RunCheckpoint(2)], module, data=data, max_steps=steps, **options).lightning_module


def looks(folder):
    with Path(folder, "metrics.csv").open(newline="") as stream:
        table = [row for row in csv.DictReader(stream) if row["lipschitz/data"]]
    return {
        int(row["step"]): {
            key.removeprefix("lipschitz/"): float(value)
            for key, value in row.items()
            if key.startswith("lipschitz/") and value
        }
        for row in table
    }


def test_a_training_with_it_is_the_same_bit_for_bit_and_numbers_are_in_order(tmp_path, capsys):
    watched = train(tmp_path / "watched", [LipschitzMonitor(2, images=4, ascent=3)], classifier())
    random = torch.get_rng_state()
    plain = train(tmp_path / "plain", [], classifier()).state_dict()
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, plain[key]) for key, value in watched.state_dict().items())
    found = looks(tmp_path / "watched")
    assert [*found] == [0, 2, 4, 5]
    for each in found.values():
        assert each.keys() == {"bound", "reshaped", "data_median", "data", "ascent"}
        assert 0 < each["data_median"] <= each["data"] <= each["ascent"] <= each["bound"]
    assert "lipschitz monitor: 4 looks took" in capsys.readouterr().out


def test_a_step_of_several_batches_is_looked_at_once(tmp_path, capsys):
    train(tmp_path, [LipschitzMonitor(1, images=2, ascent=0)], classifier(), steps=2, accumulate_grad_batches=3)
    assert "lipschitz monitor: 3 looks took" in capsys.readouterr().out
    assert [*looks(tmp_path)] == [0, 1, 2]


def test_a_spectrally_normalized_discriminator_has_the_norms_of_its_weights_and_their_product(tmp_path):
    train(tmp_path, [LipschitzMonitor(2, images=3, ascent=3)], gan(), steps=2)
    first, last = looks(tmp_path).values()
    for each in (first, last):
        assert 0 < each["data_median"] <= each["data"] <= each["ascent"] <= each["bound"]
        assert 0.9 < each["sigma_min"] <= each["sigma_max"] < 1.3
        # Two blocks, one with two convolutions beside a shortcut; their sigmas are near 1, and operators larger.
        assert each["reshaped"] < each["bound"]


def test_a_resumed_run_has_the_same_rows(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    monitor = {"every_n_steps": 2, "images": 3, "ascent": 1}
    train(whole, [LipschitzMonitor(**monitor)], classifier())
    train(parts, [LipschitzMonitor(**monitor)], classifier(), steps=4)
    train(parts, [LipschitzMonitor(**monitor)], classifier(), ckpt_path=parts / "checkpoints" / "last.ckpt")
    assert looks(parts) == looks(whole)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"every_n_steps": 0}, "lipschitz.every_n_steps must be at least 1, got 0"),
        ({"images": 0}, "lipschitz.images must be at least 1, got 0"),
        ({"ascent": -1}, "lipschitz.ascent must be at least 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(SettingError, match=told):
        LipschitzMonitor(**options)


def test_it_is_for_classifiers_and_gans(tmp_path):
    with pytest.raises(SettingError, match=r"lipschitz.every_n_steps is for classifiers and GANs, and TinyModel is"):
        fit(tmp_path, [LipschitzMonitor(1)], TinyModel())
    fit(tmp_path / "off", [LipschitzMonitor()], TinyModel(), max_steps=1)
    assert "lipschitz" not in (tmp_path / "off" / "metrics.csv").read_text()
