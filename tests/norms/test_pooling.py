"""Pooling of moments, against the moments of the pool."""

import pytest
import torch
from distributed import run_on_two
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import draw

from norms.pooling import all_reduce, is_distributed, pool_batch, pool_layer, pool_processes

EPS = 1e-3


def moments(x, dims, keepdim=False):
    return x.mean(dims, keepdim=keepdim), x.var(dims, correction=0, keepdim=keepdim) + EPS


@settings(deadline=None, max_examples=50)
@given(shape=st.tuples(*[st.integers(1, 6)] * 3), seed=st.integers(0, 2**31))
def test_pooled_moments_are_the_moments_of_the_pool(shape, seed):
    x = draw(shape, seed)
    planes = moments(x, 2)
    torch.testing.assert_close(pool_batch(*planes), moments(x, (0, 2)))
    torch.testing.assert_close(pool_layer(*planes), tuple(t[..., 0] for t in moments(x, (1, 2), keepdim=True)))


def test_a_large_mean_costs_no_precision():
    # Exact in float32, where numbers of this size lie 2**-10 apart.
    mean = torch.randint(-1024, 1025, (64, 3), generator=torch.Generator().manual_seed(0)).double() / 1024 + 1e4
    for pool, dim in ((pool_batch, 0), (pool_layer, 1)):
        _, power = pool(mean.float(), torch.full_like(mean, 0.5).float())
        torch.testing.assert_close(power.double().flatten(), mean.var(dim, correction=0) + 0.5, rtol=1e-3, atol=0)


def test_no_planes_at_all_have_mean_zero_and_variance_one():
    mean, power = pool_batch(torch.empty(0, 3), torch.empty(0, 3))
    assert mean.tolist() == [0, 0, 0]
    assert power.tolist() == [1, 1, 1]


def test_a_single_process_is_not_distributed():
    assert not is_distributed()


COUNTS = {"even": (3, 3), "uneven": (4, 1), "empty": (5, 0)}


def own_part(rank, counts):
    x = draw((4, sum(counts)), seed=1)
    return x.split(counts, dim=1)[rank].clone().requires_grad_()


def statistics(x, grouped):
    """Mean, and biased variance or, of channels in groups of two, covariance; 0 of no values."""
    count = max(x.shape[1], 1)
    mean = x.sum(1) / count
    centered = x - mean[:, None]
    groups = centered.view(2, 2, -1)
    return mean, groups @ groups.mT / count if grouped else centered.square().sum(1) / count


def loss(mean, second):
    return mean.pow(3).sum() + second.pow(3).sum()


def pool_all(rank):
    results = {}
    for name, counts in COUNTS.items():
        for grouped in (False, True):
            x = own_part(rank, counts)
            mean, second, total = pool_processes(*statistics(x, grouped), x.shape[1])
            # A share of what both compute alike, for the gradients of both add up.
            (grad,) = torch.autograd.grad(loss(mean, second) / 2, x, create_graph=True)
            (curvature,) = torch.autograd.grad(grad.square().sum(), x)
            results[f"{name} {grouped}"] = [mean.detach(), second.detach(), total, grad.detach(), curvature]
    distance = torch.tensor([1e4 + rank], requires_grad=True)
    _, var, _ = pool_processes(distance, torch.tensor([0.25]), 1000)
    summed = all_reduce((rank + 1.0) * distance)
    summed.backward(torch.tensor([rank + 1.0]))
    return {**results, "large": var.detach(), "sum": [summed.detach(), distance.grad], "distributed": is_distributed()}


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    return run_on_two(pool_all, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", COUNTS)
def test_processes_pool_as_one_with_all_values(name, grouped, of_two_processes):
    counts = COUNTS[name]
    x = draw((4, sum(counts)), seed=1).requires_grad_()
    mean, second = statistics(x, grouped)
    (grad,) = torch.autograd.grad(loss(mean, second), x, create_graph=True)
    (curvature,) = torch.autograd.grad(grad.square().sum(), x)
    two = [each[f"{name} {grouped}"] for each in of_two_processes]
    for found_mean, found_second, total, *_ in two:
        torch.testing.assert_close([found_mean, found_second], [mean.detach(), second.detach()])
        assert total == sum(counts)
    torch.testing.assert_close(torch.cat([each[3] for each in two], dim=1), grad.detach())
    torch.testing.assert_close(torch.cat([each[4] for each in two], dim=1), curvature)


def test_a_large_mean_costs_processes_no_precision(of_two_processes):
    for each in of_two_processes:
        torch.testing.assert_close(each["large"], torch.tensor([0.5]), rtol=1e-6, atol=0)


def test_the_gradient_of_a_sum_over_processes_is_the_sum_of_their_gradients(of_two_processes):
    for rank, each in enumerate(of_two_processes):
        total, grad = each["sum"]
        assert total.item() == 1e4 + 2 * (1e4 + 1)
        assert grad.item() == (1 + 2) * (rank + 1)
        assert each["distributed"]
