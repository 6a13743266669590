"""Watching singular values: what is written, that nothing is moved, and that a resumed run goes on."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from stand_ins import TinyModel, fit

import norms
from lightning_modules.gan import GAN
from lightning_modules.networks.sngan import ResNet
from norms.errors import SettingError
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.spectral import SpectralMonitor
from training.callbacks.spectral_plot import draw


def small_networks(**options):
    return ResNet(4, (4, 4), (4, 4), 1)(**options)


def small_gan(**options):
    torch.manual_seed(0)
    return GAN(small_networks, latent_dim=4, n_dis=1, **options)


def rows(file):
    with Path(file).open(newline="") as stream:
        return list(csv.DictReader(stream))


def train(folder, callbacks, steps=7, **options):
    return fit(folder, [*callbacks, RunCheckpoint(2)], small_gan(), max_steps=steps, **options).lightning_module


BOTH = ["discriminator", "generator"]


def test_a_training_with_it_is_the_same_bit_for_bit(tmp_path):
    watched = train(tmp_path / "watched", [SpectralMonitor(1, BOTH)])
    random = torch.get_rng_state()
    plain = train(tmp_path / "plain", [])
    assert torch.equal(random, torch.get_rng_state())
    expected = plain.state_dict()
    assert watched.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in watched.state_dict().items())


def test_what_is_written_is_what_the_layers_have(tmp_path, capsys):
    gan = train(tmp_path, [SpectralMonitor(3, BOTH)]).eval()
    table = rows(tmp_path / "spectral.csv")
    assert [row["step"] for row in table] == ["0", "3", "6", "7"]
    last = table[-1]
    estimates = {key.split("/")[1].split(".", 1)[1]: value for key, value in last.items() if key.endswith("/estimate")}
    assert estimates.keys() == norms.sigmas(gan.discriminator).keys(), "only the discriminator is normalized"
    assert {key: float(value) for key, value in estimates.items()} == pytest.approx(norms.sigmas(gan.discriminator))
    weight = gan.generator.to_image.weight.detach()
    (label,) = [key for key in last if key.startswith("generator/") and key.endswith("to_image/sigma")]
    assert float(last[label]) == pytest.approx(float(torch.linalg.matrix_norm(weight.flatten(1), 2)), rel=1e-5)
    metrics = [row for row in rows(tmp_path / "metrics.csv") if row["spectral/discriminator/sigma"]]
    assert [row["step"] for row in metrics] == ["0", "3", "6", "7"]
    columns = {key.removeprefix("spectral/") for key in metrics[-1] if key.startswith("spectral/")}
    named = {"estimate_error", "sigma", "rank"}
    assert columns == {
        f"{n}/{value}"
        for n, values in zip(BOTH, (named | {"bound"}, named - {"estimate_error"}), strict=True)
        for value in values
    }
    sigmas = [
        float(value) for key, value in last.items() if key.startswith("discriminator/") and key.endswith("/sigma")
    ]
    assert float(metrics[-1]["spectral/discriminator/estimate_error"]) == pytest.approx(max(abs(s - 1) for s in sigmas))
    assert float(metrics[-1]["spectral/discriminator/bound"]) > 0
    assert "spectral monitor: 4 looks took" in capsys.readouterr().out
    assert Image.open(tmp_path / "spectral.png").width == 1024


def test_a_resumed_run_goes_on_in_the_same_table(tmp_path):
    train(tmp_path / "whole", [SpectralMonitor(1)], steps=6)
    train(tmp_path / "parts", [SpectralMonitor(1)], steps=4)
    with (tmp_path / "parts/spectral.csv").open("a") as file:
        file.write("5,1,1\n")  # of a step after the last checkpoint, and cut off
    # The schedule of the first part was over other steps, so that its weights differ from those of the whole.
    train(tmp_path / "parts", [SpectralMonitor(1)], steps=6, ckpt_path=tmp_path / "parts/checkpoints/last.ckpt")
    whole, parts = rows(tmp_path / "whole/spectral.csv"), rows(tmp_path / "parts/spectral.csv")
    assert [row["step"] for row in parts] == [row["step"] for row in whole] == [str(n) for n in range(7)]
    assert parts[0] == whole[0]


def test_it_does_nothing_when_it_is_off_or_there_is_no_gan(tmp_path):
    train(tmp_path / "off", [SpectralMonitor(None)], steps=2)
    fit(tmp_path / "other", [SpectralMonitor(1)], TinyModel(), max_steps=2)
    assert not list(tmp_path.rglob("spectral*"))


def test_an_interrupted_training_has_its_picture(tmp_path):
    class Broken(GAN):
        def training_step(self, batch, batch_idx):
            if self.global_step == 3:
                raise RuntimeError("broken")
            super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, [SpectralMonitor(1)], Broken(small_networks, latent_dim=4, n_dis=1))
    assert (tmp_path / "spectral.png").is_file()


def test_a_picture_of_one_look_can_be_drawn(tmp_path):
    draw([{"step": "0", "generator/00.a/sigma": "1.5", "generator/00.a/rank": "0.5"}], tmp_path / "one.png")
    assert Image.open(tmp_path / "one.png").size == (1024, 370)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "spectral.every_n_steps must be at least 1, got 0"),
        ({"networks": ["discriminatr"]}, "did you mean 'discriminator'"),
        ({"networks": []}, "spectral.networks must name a network"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        SpectralMonitor(**options)
