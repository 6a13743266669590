"""Numbers from features: against formulas of this file's own, against torch-fidelity, and what they are for."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from lightning_modules.metrics import scores
from lightning_modules.metrics.scores import (
    SCORES,
    compute_scores,
    estimators,
    fewest_images,
    frechet_distance,
    inception_score,
    kernel_distance,
    neighborhoods,
)


def features(count, dimension=6, seed=0, shift=0.0):
    keyed = torch.Generator().manual_seed(seed)
    mixed = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, dimension, generator=keyed) @ mixed + shift


REAL, FAKE = features(60), features(45, seed=1, shift=0.4)


def test_the_frechet_distance_is_that_of_two_gaussians():
    x, y = REAL.double().numpy(), FAKE.double().numpy()
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert frechet_distance(REAL, FAKE) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(FAKE, REAL) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(REAL, REAL + 3) == pytest.approx(6 * 9, rel=1e-6)


def test_the_frechet_distance_of_collapsed_images():
    # No covariance at all: what is left is the distance of the means and the other's variances.
    same = FAKE[:1].expand(10, -1)
    expected = (REAL.double().mean(0) - same[0].double()).square().sum() + REAL.double().var(0).sum()
    assert frechet_distance(REAL, same) == pytest.approx(float(expected), rel=1e-9)


def test_the_kernel_distance_sums_over_pairs_of_different_images():
    x, y = REAL[:7].double().tolist(), FAKE[:5].double().tolist()

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 6 + 1) ** 3

    within_x = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    between = [kernel(a, b) for a in x for b in y]
    expected = np.mean(within_x) + np.mean(within_y) - 2 * np.mean(between)
    assert kernel_distance(REAL[:7], FAKE[:5]) == pytest.approx(expected, rel=1e-9)


def test_the_kernel_distance_is_unbiased():
    # Of one distribution it is 0 on average, and the estimate with the pairs of an image with itself is not.
    values = [kernel_distance(features(20, seed=2 * i), features(20, seed=2 * i + 1)) for i in range(300)]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    biased = np.mean([(features(20, seed=i).square().sum(1) / 6 + 1).pow(3).mean() / 20 for i in range(20)])
    assert biased > 10 * error


def test_large_sets_are_taken_in_parts(monkeypatch):
    whole = compute_scores(SCORES, REAL, FAKE, FAKE)
    monkeypatch.setattr(scores, "_AT_ONCE", 100)
    assert compute_scores(SCORES, REAL, FAKE, FAKE) == pytest.approx(whole, rel=1e-12)


def test_the_inception_score_of_sure_and_of_unsure_classifiers():
    sure = 1000 * torch.eye(4).repeat(50, 1)
    labels = torch.arange(200) % 4
    order = np.random.RandomState(2020).permutation(200)
    shares = [np.bincount(labels[order[20 * i : 20 * i + 20]], minlength=4) / 20 for i in range(10)]
    entropies = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in shares]
    assert inception_score(sure) == pytest.approx(np.exp(entropies).mean(), rel=1e-9)
    assert 3.5 < inception_score(sure) <= 4
    assert inception_score(torch.zeros(200, 4)) == pytest.approx(1)
    assert inception_score(sure[:1].expand(200, 4)) == pytest.approx(1)


def test_neighborhoods_by_definition():
    x, y = REAL.double().numpy(), FAKE.double().numpy()

    def distance(a, b):
        return math.sqrt(((a - b) ** 2).sum())

    def radius(points, i, k):
        return sorted(distance(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]

    near = [radius(x, i, 3) for i in range(len(x))]
    dense = [radius(x, i, 5) for i in range(len(x))]
    near_fake = [radius(y, j, 3) for j in range(len(y))]
    within = [[distance(a, b) for b in y] for a in x]
    rows, columns = range(len(x)), range(len(y))
    expected = {
        "precision": np.mean([any(within[i][j] <= near[i] for i in rows) for j in columns]),
        "recall": np.mean([any(within[i][j] <= near_fake[j] for j in columns) for i in rows]),
        "density": np.mean([sum(within[i][j] < dense[i] for i in rows) for j in columns]) / 5,
        "coverage": np.mean([any(within[i][j] < dense[i] for j in columns) for i in rows]),
    }
    assert neighborhoods(REAL, FAKE) == pytest.approx(expected, rel=1e-12)
    assert 0 < expected["recall"] < 1
    assert 0 < expected["precision"] < 1


def test_neighborhoods_of_the_same_and_of_far_images():
    same, far = neighborhoods(REAL, REAL), neighborhoods(REAL, REAL + 100)
    # Within the open ball of an image lie itself and its four nearest neighbors.
    assert same == {"precision": 1, "recall": 1, "density": 1, "coverage": 1}
    assert far == dict.fromkeys(same, 0)


class TestTorchFidelity:
    """The same features, the same numbers."""

    def test_frechet_distance(self):
        fid = pytest.importorskip("torch_fidelity.metric_fid")
        statistics = [fid.fid_features_to_statistics(each.double()) for each in (FAKE, REAL)]
        expected = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        assert frechet_distance(REAL, FAKE) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("many", [False, True])
    def test_kernel_distance(self, many, monkeypatch):
        kid = pytest.importorskip("torch_fidelity.metric_kid")
        fake, real = features(70, seed=1, shift=0.4), features(70)
        subsets, size = (100, 40) if many else (1, 70)
        if many:
            monkeypatch.setattr(scores, "ALL_PAIRS", 50)
            monkeypatch.setattr(scores, "SUBSET_SIZE", size)
        found = kid.kid_features_to_metric(
            fake.double(), real.double(), kid_subsets=subsets, kid_subset_size=size, verbose=False
        )
        expected = found["kernel_inception_distance_mean"]
        assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-6)

    def test_inception_score(self):
        isc = pytest.importorskip("torch_fidelity.metric_isc")
        logits = 3 * features(205, 7)
        expected = isc.isc_features_to_metric(logits, splits=10)["inception_score_mean"]
        assert inception_score(logits) == pytest.approx(expected, rel=1e-6)

    def test_precision_and_recall(self):
        prc = pytest.importorskip("torch_fidelity.metric_prc")
        expected = prc.prc_features_to_metric(FAKE, REAL, prc_neighborhood=3, verbose=False)
        found = neighborhoods(REAL, FAKE)
        assert found["precision"] == pytest.approx(expected["precision"], rel=1e-6)
        assert found["recall"] == pytest.approx(expected["recall"], rel=1e-6)


def test_computes_what_is_asked_for_and_moves_no_random_state():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert list(compute_scores(["kid", "recall"], REAL, FAKE, FAKE)) == ["kid", "recall"]
    assert list(compute_scores(SCORES, REAL, FAKE, FAKE)) == list(SCORES)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_from_how_many_images_on_a_number_means_something():
    assert [fewest_images(name, 64) for name in SCORES] == [65, 2, 10, 6, 6, 6, 6]
    for name in SCORES:
        count = fewest_images(name, 6)
        assert math.isfinite(compute_scores([name], REAL[:count], FAKE[:count], FAKE[:count])[name])


def test_says_how_they_are_estimated():
    assert estimators(["kid"], 5000, 5000) == {"kid": "unbiased, all pairs"}
    assert estimators(["kid", "is"], 5001, 50) == {"kid": "unbiased, all pairs", "is": "10 splits"}
    assert estimators(["kid"], 5001, 5000) == {"kid": "unbiased, 100 subsets of 1000"}
