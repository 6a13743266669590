"""The noise of batches, against layers that are given the batches."""

import pytest
import torch
from torch import nn

import norms
from experiments import batch_noise
from experiments.batch_noise import MEAN_ALONE, Noise


@pytest.fixture
def seen(monkeypatch):
    for name, value in (("POOL", 60), ("PROBES", 3), ("POSITIONS", 2), ("DRAWS", 40)):
        monkeypatch.setattr(batch_noise, name, value)
    draws = torch.randn(60, 4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return draws * torch.tensor([1.0, 2.0, 0.5, 3.0])[:, None] + 1


def by_hand(layer, seen, batch):
    """Let the layer normalize each batch that is drawn, with each image in it, as in training."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(57, generator=generator) for _ in range(40)]
    places = torch.randint(9, (2,), generator=generator)
    others = [3 + order[: batch - 1] for order in orders]
    layer = layer.double().train()
    normalized = torch.stack(
        [
            torch.stack([layer(torch.cat([seen[[image]], seen[each]]).unflatten(2, (3, 3)))[0] for image in range(3)])
            for each in others
        ]
    ).detach()
    return normalized.flatten(3)[..., places]


@pytest.mark.parametrize("batch", [2, 8])
def test_it_is_what_the_layer_makes_of_batches(seen, batch):
    layer = nn.BatchNorm2d(4, eps=1e-5)
    full, alone = batch_noise._noises(layer, "norm", seen, batch)
    assert [full.norm, alone.norm] == ["batch", MEAN_ALONE]
    expected = by_hand(layer, seen, batch)
    torch.testing.assert_close(full.values, expected - expected.mean(0))
    mean_only = norms.MeanOnlyBatchNorm2d(4)
    (only,) = batch_noise._noises(mean_only, "norm", seen, batch)
    torch.testing.assert_close(only.values, alone.values)
    spread = seen.std((0, 2), correction=0)[:, None]
    expected = by_hand(mean_only, seen, batch) / spread
    torch.testing.assert_close(only.values, expected - expected.mean(0))


def test_deviation_and_kurtosis_are_those_of_known_distributions():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(4000, 5, 5, 2, generator=generator, dtype=torch.float64)
    noise = Noise("batch", "norm", 8, 0.3 * normal)
    assert noise.deviation == pytest.approx(0.3, rel=0.01)
    assert noise.kurtosis == pytest.approx(0, abs=0.05)
    laplace = torch.distributions.Laplace(0.0, 1.0)
    torch.manual_seed(0)
    assert Noise("batch", "norm", 8, laplace.sample((4000, 5, 5, 2))).kurtosis == pytest.approx(3, abs=0.4)
