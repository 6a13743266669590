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
    estimates = {key.split("/")[1]: float(value) for key, value in last.items() if key.endswith("/estimate")}
    sigmas = norms.sigmas(gan.discriminator)
    expected = {f"{depth:02d}_{name.replace('.', '_')}": sigma for depth, (name, sigma) in enumerate(sigmas.items())}
    assert estimates == pytest.approx(expected), "only the discriminator is normalized"
    weight = gan.generator.to_image.weight.detach()
    (label,) = [key for key in last if key.startswith("generator/") and key.endswith("to_image/sigma")]
    assert float(last[label]) == pytest.approx(float(torch.linalg.matrix_norm(weight.flatten(1), 2)), rel=1e-5)
    metrics = [row for row in rows(tmp_path / "metrics.csv") if row["spectral/discriminator/sigma"]]
    assert [row["step"] for row in metrics] == ["0", "3", "6", "7"]
    columns = {key.removeprefix("spectral/") for key in metrics[-1] if key.startswith("spectral/")}
    assert columns == {
        *(f"discriminator/{value}" for value in ("estimate_error", "sigma", "rank", "bound")),
        *(f"generator/{value}" for value in ("sigma", "rank")),
    }
    sigmas = [
        float(value) for key, value in last.items() if key.startswith("discriminator/") and key.endswith("/sigma")
    ]
    assert float(metrics[-1]["spectral/discriminator/estimate_error"]) == pytest.approx(max(abs(s - 1) for s in sigmas))
    assert float(metrics[-1]["spectral/discriminator/bound"]) > 0
    assert "spectral monitor: 4 looks took" in capsys.readouterr().out
    assert Image.open(tmp_path / "spectral.png").width == 1024


class Broken(GAN):
    """Fails in its sixth step."""

    def training_step(self, batch, batch_idx):
        if self.global_step == 5 and not self.resumes:
            raise RuntimeError("broken")
        super().training_step(batch, batch_idx)


def test_a_resumed_run_goes_on_in_the_same_table_and_a_failed_one_has_a_picture(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, [SpectralMonitor(1)])
    torch.manual_seed(0)
    broken = Broken(small_networks, latent_dim=4, n_dis=1)
    with pytest.raises(RuntimeError, match="broken"):
        fit(parts, [SpectralMonitor(1), RunCheckpoint(2)], broken, max_steps=7)
    assert [row["step"] for row in rows(parts / "spectral.csv")][-1] == "5", "a row of what is made again"
    assert (parts / "spectral.png").is_file()
    broken.resumes = True
    fit(parts, [SpectralMonitor(1)], broken, max_steps=7, ckpt_path=parts / "checkpoints/last.ckpt")
    assert (parts / "spectral.csv").read_text() == (whole / "spectral.csv").read_text()


def test_it_does_nothing_when_it_is_off_or_there_is_no_gan(tmp_path):
    train(tmp_path / "off", [SpectralMonitor(None)], steps=2)
    fit(tmp_path / "other", [SpectralMonitor(1)], TinyModel(), max_steps=2)
    assert not list(tmp_path.rglob("spectral*"))


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
