"""Scores of style networks: the distance of distributions by an independent formula, and what it is 0 for."""

import numpy as np
import pytest
import scipy.linalg
import torch

from lightning_modules.losses.perceptual import relative_error
from lightning_modules.networks.loss_network import build_loss_network
from lightning_modules.scores import FrechetDistance, StyleScores


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_that_of_two_gaussians():
    picture, images = rand(1, 3, 5, 7), rand(4, 3, 6, 6, seed=1) ** 2 + 0.3
    metric = FrechetDistance(picture)
    metric.update(images[:1])
    metric.update(images[1:])
    moments = []
    for activations in (picture, images):
        flat = activations.double().permute(1, 0, 2, 3).reshape(3, -1).numpy()
        moments.append((flat.mean(1), np.cov(flat, bias=True)))
    (mean_s, cov_s), (mean, cov) = moments
    root = scipy.linalg.sqrtm(cov @ cov_s).real
    distance = ((mean - mean_s) ** 2).sum() + np.trace(cov + cov_s - 2 * root)
    expected = distance / ((mean_s**2).sum() + np.trace(cov_s))
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
    scaled = FrechetDistance(30 * picture)
    scaled.update(30 * images)
    assert float(scaled.compute()) == pytest.approx(expected, rel=1e-5)


def test_a_picture_is_at_no_distance_from_itself():
    picture = rand(1, 8, 9, 9)
    metric = FrechetDistance(picture)
    metric.update(picture.flip(-1))
    assert float(metric.compute()) == pytest.approx(0, abs=1e-6)


def test_photos_have_their_own_content_and_the_picture_its_own_style():
    picture, photo = rand(1, 3, 32, 32), rand(2, 3, 32, 32, seed=1)
    scores = StyleScores([picture, picture.flip(-1)])
    scores.update(photo, photo, [0, 1])
    unchanged = scores.compute()
    assert float(unchanged["content_bundled"]) == 0
    assert float(unchanged["style_fd_bundled"]) > 0
    alike = StyleScores([picture])
    alike.update(picture, photo[:1], [0])
    found = alike.compute()
    assert float(found["style_fd_bundled"]) == pytest.approx(0, abs=1e-5)
    network = build_loss_network("bundled", ["relu3_2"])
    activations = [network(image, ["relu3_2"])["relu3_2"] for image in (picture, photo[:1])]
    torch.testing.assert_close(found["content_bundled"], relative_error(*activations))
    product = (1 + found["content_bundled"]) * (1 + found["style_fd_bundled"])
    torch.testing.assert_close(found["art_bundled"], product)


def test_lpips_only_where_its_weights_are(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    scores = StyleScores([rand(1, 3, 32, 32)])
    assert not scores.lpips
