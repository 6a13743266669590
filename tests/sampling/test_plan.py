"""Which latent vectors and classes are drawn."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from norms.errors import SettingError
from sampling.plan import Plan, latents, slerp, truncated


def test_a_vector_is_what_torch_draws_with_its_seed():
    plan = Plan(5, 7, seed=3)
    for number, seed in enumerate(plan.seeds(range(5))):
        expected = torch.randn(7, generator=torch.Generator().manual_seed(int(seed)))
        assert torch.equal(plan.latents([number])[0], expected)
    assert torch.equal(plan.latents([4, 1]), plan.latents(range(5))[[4, 1]])
    assert not torch.equal(Plan(5, 7, seed=4).latents([0]), plan.latents([0]))


@pytest.mark.parametrize("threshold", [0.02, 0.7, 2.0])
def test_truncated_values_are_distributed_as_those_drawn_again(threshold):
    drawn = truncated(latents(range(40), 500), threshold).flatten().double().numpy()
    assert abs(drawn).max() <= threshold
    assert scipy.stats.kstest(drawn, scipy.stats.truncnorm(-threshold, threshold).cdf).pvalue > 0.01


def test_truncation_keeps_the_order_and_changes_nothing_that_is_far_inside():
    values = torch.linspace(-5, 5, 101)
    assert (truncated(values, 1.5).diff() > 0).all()
    torch.testing.assert_close(truncated(values, 10.0), values, atol=1e-6, rtol=1e-6)
    closed = scipy.stats.truncnorm(-1.5, 1.5).ppf(scipy.stats.norm.cdf(values.double().numpy()))
    np.testing.assert_allclose(truncated(values.double(), 1.5).numpy(), closed, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 10.5, math.nan])
def test_a_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(SettingError, match="--truncation must be above 0 and at most 10"):
        truncated(torch.zeros(1), threshold)


def test_slerp_goes_along_a_circle():
    a, b = torch.tensor([2.0, 0.0, 0.0]).double(), torch.tensor([0.0, 2.0, 0.0]).double()
    shares = torch.linspace(0, 1, 7).double()
    angles = shares * math.pi / 2
    expected = 2 * torch.stack([angles.cos(), angles.sin(), torch.zeros(7)], 1)
    torch.testing.assert_close(slerp(a, b, shares), expected, atol=1e-12, rtol=0)


def test_slerp_begins_and_ends_at_its_vectors_of_any_length_and_keeps_to_a_length():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 128, generator=generator).double()
    ends = slerp(a, b, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.stack([a, b]), atol=1e-12, rtol=0)
    scaled = b * a.norm() / b.norm()
    torch.testing.assert_close(slerp(a, scaled, torch.rand(9)).norm(dim=1), a.norm().expand(9), atol=1e-9, rtol=0)
    assert slerp(a, b, torch.rand(3)).isfinite().all()


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0])
def test_slerp_between_parallel_vectors_is_straight(factor):
    a = torch.tensor([1.0, -2.0, 0.5]).double()
    torch.testing.assert_close(slerp(a, factor * a, torch.tensor([0.25])), (a + 0.25 * (factor - 1) * a)[None])


def test_a_sweep_has_a_row_of_all_vectors_for_each_class():
    plan = Plan(6, 4, labels=(5, 2), sweeps=True)
    assert [plan.vector(number) for number in range(6)] == [0, 1, 2, 0, 1, 2]
    assert plan.classes(range(6)).tolist() == [5, 5, 5, 2, 2, 2]
    assert torch.equal(plan.latents([1]), plan.latents([4]))
    assert plan.seeds([1]) == plan.seeds([4])
    assert Plan(6, 4, labels=(5, 2)).classes(range(6)).tolist() == [5, 2, 5, 2, 5, 2]
    assert Plan(6, 4).classes(range(6)) is None
