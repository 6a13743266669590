"""Singular values, effective rank and operator norms against dense decompositions of what torch computes."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import norms
from norms.errors import SettingError
from norms.spectra import ITERATIONS, effective_rank, input_sizes, operator_norm, singular_values, spectra

LAYERS = {
    "linear": lambda: nn.Linear(7, 5),
    "tall": lambda: nn.Linear(5, 7),
    "embedding": lambda: nn.Embedding(6, 4),
    "conv": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "strided": lambda: nn.Conv2d(3, 4, 4, stride=2, padding=1),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1),
    "circular": lambda: nn.Conv1d(3, 3, 3, padding=1, padding_mode="circular"),
}


def matrix_of(layer):
    """Write a layer's weight as a matrix with a row per output, in a way of the test's own."""
    weight = layer.weight.detach().double().numpy()
    if isinstance(layer, nn.ConvTranspose2d):
        weight = np.swapaxes(weight, 0, 1)
    return weight.reshape(len(weight), -1)


def dense(layer, size):
    """Return the matrix of the map from an input to an output, column by column."""
    layer = copy.deepcopy(layer).double()
    nn.init.zeros_(layer.bias)
    units = torch.eye(layer.in_channels * math.prod(size), dtype=torch.float64).view(-1, layer.in_channels, *size)
    return layer(units).flatten(1).T.detach().numpy()


@pytest.mark.parametrize("name", LAYERS)
def test_singular_values_are_those_of_the_reshaped_weight(name):
    layer = LAYERS[name]().eval()
    expected = np.linalg.svd(matrix_of(layer), compute_uv=False)
    np.testing.assert_allclose(singular_values(layer).numpy(), expected, atol=3e-8 * expected[0])


def test_singular_values_reach_zero_without_nan():
    layer = nn.Linear(6, 4, bias=False)
    layer.weight = nn.Parameter(torch.ones(4, 6))
    np.testing.assert_allclose(singular_values(layer).numpy(), [math.sqrt(24), 0, 0, 0], atol=1e-6)


def test_effective_rank_of_known_spectra():
    assert effective_rank(torch.tensor([2.0, 2, 2, 2])) == pytest.approx(4)
    assert effective_rank(torch.tensor([3.0, 0, 0])) == pytest.approx(1)
    # exp of the entropy of (2/3, 1/3)
    assert effective_rank(torch.tensor([2.0, 1])) == pytest.approx(3 / 2 ** (2 / 3))
    assert effective_rank(torch.zeros(3)) == 0


@pytest.mark.parametrize("name", ["conv", "strided", "grouped", "transposed", "circular"])
def test_operator_norm_is_that_of_the_dense_map(name):
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    size = (6,) if name == "circular" else (6, 5)
    exact = np.linalg.norm(dense(layer, size), 2)
    assert operator_norm(layer, size) == pytest.approx(exact, rel=1e-5)
    # More steps than dimensions do no harm.
    assert operator_norm(layer, size, iterations=1000) == pytest.approx(exact, rel=3e-4)


@pytest.mark.parametrize(("source", "target", "size"), [(3, 128, 32), (128, 128, 16), (64, 64, 8)])
def test_the_usual_iterations_end_at_most_a_thousandth_below(source, target, size):
    torch.manual_seed(0)
    layer = nn.Conv2d(source, target, 3, padding=1).eval()
    nn.init.xavier_uniform_(layer.weight)
    usual, exact = (operator_norm(layer, (size, size), iterations=n) for n in (ITERATIONS, 200))
    assert 0.999 * exact <= usual <= exact * (1 + 1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_without_a_size_the_weight_counts_as_a_matrix(name):
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    assert operator_norm(layer, iterations=200) == pytest.approx(np.linalg.norm(matrix_of(layer), 2), rel=1e-4)


def test_a_weight_of_zero_has_no_norm():
    layer = nn.Conv2d(2, 2, 3)
    nn.init.zeros_(layer.weight)
    assert operator_norm(layer, (5, 5)) == 0


def test_a_weight_that_is_not_finite_has_none_either():
    layer = nn.Conv2d(2, 2, 3)
    nn.init.constant_(layer.weight, torch.nan)
    assert np.isnan(operator_norm(layer, (5, 5)))


def test_spectra_of_a_network_move_nothing():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2), nn.Embedding(3, 4))
    for layer in (network[0], network[3]):
        norms.spectral_norm(layer)
    with torch.no_grad():  # so that u and v do not fit any more
        network[0].parametrizations.weight.original += 0.1 * torch.randn(4, 3, 3, 3)
    network.eval()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    sizes = input_sizes(network, lambda: network[:4](torch.zeros(1, 3, 8, 8)))
    found = spectra(network, sizes)
    assert sizes == {"0": (8, 8)}
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert list(found) == ["0", "3", "4"]
    for key in ("0", "3"):
        # The estimate is known by itself, and sigma is what is left of the exact norm when it is divided by it.
        original = network.get_submodule(key).parametrizations.weight.original.detach().flatten(1)
        exact = float(torch.linalg.matrix_norm(original.double(), 2))
        assert found[key].estimate == pytest.approx(norms.sigmas(network)[key])
        assert found[key].sigma == pytest.approx(exact / found[key].estimate, rel=1e-6)
    assert found["0"].sigma > 1.01, "the estimate is meant to be wrong here"
    assert found["3"].sigma == pytest.approx(1, abs=1e-4)
    assert found["4"].estimate is None
    assert [each.full_rank for each in found.values()] == [4, 2, 3]
    assert found["3"].operator == pytest.approx(found["3"].sigma)
    assert found["0"].operator == pytest.approx(np.linalg.norm(dense(plain(network[0]), (8, 8)), 2), rel=0.04)


def plain(layer):
    return norms.fold_(copy.deepcopy(layer))


def test_a_convolution_of_unknown_input_has_no_operator_norm():
    assert spectra(nn.Sequential(nn.Conv2d(1, 1, 3)).eval(), {})["0"].operator is None


def test_training_mode_is_refused():
    with pytest.raises(SettingError, match=r"call model\.eval\(\) first"):
        spectra(nn.Linear(2, 2), {})
