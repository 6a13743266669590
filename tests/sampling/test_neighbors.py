"""The training images that are most like samples."""

import re

import numpy as np
import pytest
import torch
import yaml
from gan_runs import make_gan, write_run
from PIL import Image

from data import BundledDigits
from lightning_modules.metrics.generated import to_bytes
from sampling.command import main
from sampling.neighbors import features_of, nearest
from sampling.trained import TrainedGenerator
from training.features import build_extractor
from training.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("gan") / "version_0", make_gan())


def test_the_nearest_are_those_of_all_distances():
    generator = torch.Generator().manual_seed(0)
    queries, references = torch.randn(7, 5, generator=generator), torch.randn(100, 5, generator=generator)
    found = nearest(queries, references.split(32), 6)
    distances = (queries[:, None].double() - references.double()).square().sum(2).sqrt()
    expected, order = distances.sort(1)
    torch.testing.assert_close(found.distances.double(), expected[:, :6], atol=1e-6, rtol=0)
    assert torch.equal(found.numbers, order[:, :6])


def test_a_copy_is_at_distance_0():
    references = 1000 + torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    found = nearest(references[[40, 3]], references.split(16), 1)
    assert found.distances.tolist() == [[0.0], [0.0]]
    assert found.numbers.tolist() == [[40], [3]]


def test_features_are_what_the_last_layer_of_the_discriminator_sees(tmp_path):
    gan = make_gan()
    features, name = features_of(Run(tmp_path), gan)
    images = torch.rand(3, 1, 16, 16)
    scores = gan.discriminator.linear(features(images)).squeeze(1)
    torch.testing.assert_close(scores, gan.discriminator(2 * images - 1))
    assert name == "features of the discriminator"


def test_features_are_those_of_the_metrics_if_the_run_has_any(tmp_path):
    (tmp_path / "config.yaml").write_text("metrics: {features: digits}")
    gan, images = make_gan(), torch.rand(3, 1, 16, 16)
    features, name = features_of(Run(tmp_path), gan)
    assert name == "features of digits"
    torch.testing.assert_close(features(images), build_extractor("digits")(to_bytes(images))[0])


def report(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_picture_shows_samples_and_neighbors(run, tmp_path, capsys):
    path = tmp_path / "neighbors.png"
    assert main([str(run), "--neighbors", "3", "--count", "2", "-o", str(path), "--scale", "1"]) == 0
    lines = report(capsys)
    assert lines[0] == f"wrote {path}: 2 samples, each before the 3 training images most like it"
    assert lines[1] == "distances in features of the discriminator:"
    data = BundledDigits()
    data.setup()
    for row in range(2):
        number = int(re.match(rf"  sample {row}: \S+ \((\d+)\)", lines[2 + row])[1])
        shown = np.asarray(Image.open(path))[2 + 18 * row : 18 + 18 * row, 24:40, 0]
        expected = 255 * data.train_images()[number]["image"][0].numpy()
        np.testing.assert_allclose(shown, expected, atol=1)
    distances = [float(text) for text in re.findall(r"(\S+) \(\d+\)", lines[2])]
    assert distances == sorted(distances)
    assert "of 297 samples" in lines[4]
    assert "of 297 held-out images" in lines[4]
    assert lines[-1].startswith("next: ")


def test_a_gan_that_draws_its_training_images_is_found_out(run, tmp_path, capsys, monkeypatch):
    data = BundledDigits()
    data.setup()
    known = torch.stack([data.train_images()[number]["image"] for number in range(64)])
    monkeypatch.setattr(TrainedGenerator, "draw", lambda self, latents, labels: known[: len(latents)])
    assert main([str(run), "--neighbors", "1", "--count", "3", "-o", str(tmp_path / "a.png")]) == 0
    lines = report(capsys)
    assert lines[2:5] == [f"  sample {number}: 0 ({number})" for number in range(3)]
    assert lines[5].startswith("median distance to the nearest training image: 0 of 297 samples, ")
    assert lines[5].endswith(", 0.00 times as far")


def of(class_path, **settings):
    return {"data": {"class_path": class_path, "init_args": settings}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "does not tell its data: there is no config.yaml that names them"),
        (of("data.Digits"), "data 'data.Digits': data has no Digits, did you mean 'BundledDigits'?"),
        (of("data.BundledDigits", size=3), "unexpected keyword argument 'size'"),
        (of("data.BundledDigits", image_size=32), "the model makes images of 1x16x16"),
        (of("stranger.Data"), "stranger is not trusted (to trust it: --trust stranger)"),
        (of("norms.BatchNorm2d", num_features=3), "is no data module"),
    ],
)
def test_runs_that_do_not_tell_their_data(config, message, run, tmp_path, capsys):
    copy = tmp_path / "version_0"
    (copy / "checkpoints").mkdir(parents=True)
    (copy / "checkpoints" / "last.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    if config is not None:
        (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert main([str(copy), "--neighbors", "3", "-o", str(tmp_path / "a.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_more_neighbors_than_images_are_refused(run, tmp_path, capsys):
    assert main([str(run), "--neighbors", "1501", "-o", str(tmp_path / "a.png"), "--count", "1"]) == 2
    assert "--neighbors must be at most 1500, got 1501" in capsys.readouterr().err
