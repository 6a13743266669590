"""Decorrelated batch normalization: the eigendecomposition as oracle, the published iteration, processes, precision."""

import copy
import io
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import norms
from norms.decorrelated import whitening_matrix

DIMS = [1, 2, 3]
MANY = 60


def build(dims=2, channels=4, group_size=2, seed=0, **options):
    """A layer in float64 with parameters and running statistics unlike the initial ones."""
    layer = norms.build("decorrelated_batch", channels, dims, group_size=group_size, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in layer.parameters():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        if layer.track_running_stats:
            layer(batch(dims, channels, seed=seed + 100))
    return layer


def batch(dims=2, channels=4, n=3, seed=1, dtype=torch.float64):
    """Channels that depend on each other, with means and variances of their own."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, channels, *(5, 4, 3)[:dims], generator=generator, dtype=torch.float64)
    mix = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    shift = torch.randn(channels, generator=generator, dtype=torch.float64) * 3
    x = torch.einsum("cd,nd...->nc...", mix, source) + shift.reshape(-1, *(1,) * dims)
    return x.to(dtype).contiguous()


def values(x):
    """All values of each channel, shape (C, M)."""
    return x.transpose(0, 1).flatten(1)


def zca(x, layer, statistics=None):
    """The output by eigendecomposition of each group's covariance, its definition."""
    v = values(x.detach().double())
    mean, out = v.mean(1), []
    covariances = [torch.cov(group, correction=0).reshape(len(group), -1) for group in v.split(layer.group_size)]
    if statistics is not None:
        mean, covariances = statistics
    centered = (v - mean[:, None]).split(layer.group_size)
    for group, covariance in zip(centered, covariances, strict=True):
        variances, axes = torch.linalg.eigh(covariance + layer.eps * torch.eye(len(group), dtype=torch.float64))
        out.append(axes @ torch.diag(variances.rsqrt()) @ axes.T @ group)
    white = torch.cat(out).reshape(x.shape[1], len(x), *x.shape[2:]).transpose(0, 1)
    weight, bias = (torch.as_tensor(p).detach().double() for p in affine(layer))
    return white * weight.reshape(-1, *(1,) * (x.ndim - 2)) + bias.reshape(-1, *(1,) * (x.ndim - 2))


def affine(layer):
    return (torch.ones(1), torch.zeros(1)) if layer.weight is None else (layer.weight, layer.bias)


def published_matrix(covariance, iterations, eps):
    """Huang et al. 2019, algorithm 1, word for word."""
    sigma = covariance + eps * torch.eye(len(covariance), dtype=covariance.dtype)
    normalized = sigma / torch.trace(sigma)
    p = torch.eye(len(covariance), dtype=covariance.dtype)
    for _ in range(iterations):
        p = (3 * p - p @ p @ p @ normalized) / 2
    return p / torch.trace(sigma).sqrt()


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"group_size": 1}, {"group_size": 4}])
@pytest.mark.parametrize("dims", DIMS)
def test_many_iterations_are_zca_whitening(dims, options):
    layer = build(dims, iterations=MANY, **options)
    x = batch(dims)
    torch.testing.assert_close(layer(x), zca(x, layer), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_few_iterations_are_the_published_ones(iterations):
    layer = build(channels=6, group_size=3, iterations=iterations, affine=False)
    x = batch(channels=6)
    centered = values(x) - values(x).mean(1, keepdim=True)
    white = [
        published_matrix(group @ group.T / group.shape[1], iterations, layer.eps) @ group for group in centered.split(3)
    ]
    torch.testing.assert_close(values(layer(x)), torch.cat(white), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("dims", DIMS)
def test_evaluation_whitens_by_averages_of_unbiased_covariances(dims, momentum):
    layer = norms.build("decorrelated_batch", 4, dims, group_size=2, iterations=MANY, momentum=momentum).double()
    mean, covariances = torch.zeros(4).double(), torch.eye(2).double().repeat(2, 1, 1)
    for step in range(1, 4):
        x = batch(dims, seed=step, n=step + 1)
        share = momentum or 1 / step
        observed = torch.stack([torch.cov(group) for group in values(x).split(2)])
        mean = (1 - share) * mean + share * values(x).mean(1)
        covariances = (1 - share) * covariances + share * observed
        layer(x)
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_covariance, covariances, rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked == 3
    layer.eval()
    x = batch(dims, seed=9)
    torch.testing.assert_close(layer(x), zca(x, layer, (mean, covariances)), rtol=1e-9, atol=1e-9)
    assert layer.num_batches_tracked == 3


def test_running_statistics_have_no_gradient():
    layer = build()
    for _ in range(2):
        layer(batch().requires_grad_()).pow(3).sum().backward()
    assert not any(buffer.requires_grad for buffer in layer.buffers())


def test_evaluation_without_running_statistics_uses_the_batch():
    layer = build(track_running_stats=False).eval()
    x = batch()
    torch.testing.assert_close(layer(x), layer.train()(x))
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", DIMS)
def test_groups_of_one_channel_are_batch_normalization(dims, training):
    ours = build(dims, group_size=1)
    theirs = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](4).double()
    state = ours.state_dict()
    state["running_var"] = state.pop("running_covariance").flatten()
    theirs.load_state_dict(state)
    ours.train(training), theirs.train(training)
    results = []
    for layer in (ours, theirs):
        x = batch(dims).requires_grad_()
        y = layer(x)
        y.pow(3).sum().backward()
        results.append((y, x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.running_covariance.flatten(), theirs.running_var)


@settings(deadline=None, max_examples=25)
@given(groups=st.integers(1, 3), group_size=st.integers(1, 5), seed=st.integers(0, 1000))
def test_the_covariance_of_the_output_approaches_the_identity(groups, group_size, seed):
    channels = groups * group_size
    x = batch(channels=channels, n=4, seed=seed)
    errors = []
    for iterations in (1, 2, 4, 7, MANY):
        layer = norms.DecorrelatedBatchNorm2d(channels, group_size, iterations, eps=1e-12, affine=False).double()
        y = layer(x)
        torch.testing.assert_close(values(y).mean(1), torch.zeros(channels, dtype=torch.float64), rtol=0, atol=1e-9)
        covariance = torch.stack([torch.cov(g, correction=0).reshape(len(g), -1) for g in values(y).split(group_size)])
        errors.append((covariance - torch.eye(group_size)).norm().item())
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-6
    assert group_size == 1 or errors[0] > 1e-3


def test_weak_directions_are_amplified_no_further_than_the_iterations_allow():
    covariance = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))[None]
    for iterations in (1, 5):
        matrix = whitening_matrix(covariance, iterations, 1e-9)[0]
        torch.testing.assert_close(matrix[1, 1].item(), 1.5**iterations, rtol=1e-6, atol=0)


@pytest.mark.parametrize("iterations", [10, 20])
def test_more_iterations_do_not_amplify_rounding_errors(iterations):
    # The published form of the iteration is off by 9 % after 10 and not finite after 20 of them, at condition 100.
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    covariance = (axes * torch.logspace(0, -2, 16, dtype=torch.float64)) @ axes.T
    exact = whitening_matrix(covariance[None], iterations, 1e-9)
    rounded = whitening_matrix(covariance[None].float(), iterations, 1e-9).double()
    assert (rounded - exact).norm() / exact.norm() < 1e-5
    unstable = published_matrix(covariance.float(), iterations, 1e-9).double()
    assert not (unstable - exact[0]).norm() / exact.norm() < 1e-2


class TestModulated:
    """gamma and beta from elsewhere, for instance one for each sample."""

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("dims", DIMS)
    def test_samples_with_their_own_gamma_and_beta(self, dims, training):
        layer = build(dims, affine=False).train(training)
        x = batch(dims)
        white = layer(x)
        weight, bias = torch.rand(2, 3, 4, dtype=torch.float64)
        y = layer(x, weight, bias)
        for n in range(3):
            column = (-1, *(1,) * dims)
            torch.testing.assert_close(y[n], white[n] * weight[n].reshape(column) + bias[n].reshape(column))
        torch.testing.assert_close(layer(x, weight, None), y - bias.reshape(3, 4, *(1,) * dims))
        shared = layer(x, weight[0], bias)
        torch.testing.assert_close(shared, layer(x, weight[:1].expand(3, -1), bias))

    def test_input_without_positions(self):
        layer = build(1, affine=False)
        x = batch(1).movedim(1, 2).flatten(0, 1)
        weight, bias = torch.rand(2, len(x), 4, dtype=torch.float64)
        torch.testing.assert_close(layer(x, weight, bias), layer(x) * weight + bias)


def test_input_without_positions_is_input_with_one():
    x = batch(1).movedim(1, 2).flatten(0, 1)
    layer = build(1, iterations=MANY)
    torch.testing.assert_close(layer(x), zca(x, layer), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer(x[..., None]), layer(x)[..., None])


def test_parameters_and_buffers_have_the_documented_names_shapes_and_values():
    layer = norms.DecorrelatedBatchNorm2d(32, initial_gamma=0.5)
    expected = {
        "weight": torch.full((32,), 0.5),
        "bias": torch.zeros(32),
        "running_mean": torch.zeros(32),
        "running_covariance": torch.eye(16).repeat(2, 1, 1),
        "num_batches_tracked": torch.tensor(0),
    }
    layer(torch.randn(4, 32, 3, 3))
    layer.reset_parameters()
    assert layer.state_dict().keys() == expected.keys()
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


def test_copies_and_stored_states_compute_the_same():
    layer = build().eval()
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    loaded = norms.DecorrelatedBatchNorm2d(4, 2).double().eval()
    loaded.load_state_dict(torch.load(stored, weights_only=True))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        torch.testing.assert_close(other(batch()), layer(batch()), rtol=0, atol=0)


class TestPrecision:
    """float32 statistics, whatever the input."""

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-9)])
    def test_half_precision_input_loses_only_its_own_rounding(self, dtype, bound, training):
        layer = build().float().train(training)
        x = batch().to(dtype)
        exact = copy.deepcopy(layer).double()(x.double())
        y = layer(x)
        assert y.dtype == dtype
        assert ((y.double() - exact).abs() / exact.abs().clamp_min(1)).max() < bound

    def test_a_module_in_half_precision_trains(self):
        layer = norms.DecorrelatedBatchNorm2d(4, 2, dtype=torch.bfloat16)
        x = batch().bfloat16().requires_grad_()
        y = layer(x)
        y.float().square().mean().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in layer.parameters())
        assert x.grad.dtype == y.dtype == layer.running_covariance.dtype == torch.bfloat16

    @pytest.mark.parametrize("training", [True, False])
    def test_autocast_keeps_everything_in_float32(self, training):
        layer = build().float().train(training)
        x = batch(dtype=torch.float32).requires_grad_()
        plain = copy.deepcopy(layer)(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y, plain, rtol=0, atol=0)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_a_large_mean_costs_no_precision(self, memory_format):
        # 1e4 and its neighbors are exact in float32 in steps of 2**-10, so the data itself loses nothing.
        steps = torch.randint(-2048, 2049, (4, 4, 32, 32), generator=torch.Generator().manual_seed(0))
        x = steps.double() / 1024 + 1e4
        layer = norms.DecorrelatedBatchNorm2d(4, 4, iterations=MANY)
        y = layer(x.float().to(memory_format=memory_format)).double()
        assert (y - zca(x, layer)).abs().max() < 2e-3

    def test_the_gradient_takes_the_same_precision(self):
        layer, x = build().float(), batch(dtype=torch.float32)
        grads = []
        for dtype in (torch.float32, torch.float64):
            leaf = x.detach().to(dtype).requires_grad_()
            copy.deepcopy(layer).to(dtype)(leaf).pow(3).sum().backward()
            grads.append(leaf.grad.double())
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_channels_last_changes_the_layout_and_not_the_values(training):
    layer = build().train(training)
    x = batch()
    expected = copy.deepcopy(layer)(x)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert expected.is_contiguous()
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("dims", [1, 2])
def test_one_tensor_of_the_size_of_the_input_is_saved_for_the_gradient(dims):
    x = batch(dims, 8, n=64).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        build(dims, 8, track_running_stats=False)(x)
    large = {t.untyped_storage().data_ptr(): t.numel() for t in saved if t.numel() > 64}
    assert list(large.values()) == [x.numel()]


class TestUnusualInput:
    """Few values, none, or all the same."""

    def test_one_sample_is_enough(self):
        layer = norms.DecorrelatedBatchNorm2d(4, 2, iterations=MANY).double()
        x = batch(n=1)
        torch.testing.assert_close(layer(x), zca(x, layer), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("iterations", [5, 15])
    def test_fewer_values_than_channels_of_a_group(self, iterations):
        layer = norms.DecorrelatedBatchNorm1d(16, iterations=iterations)
        x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = layer(x)
        y.pow(3).sum().backward()
        assert all(t.isfinite().all() for t in (y, x.grad, layer.running_covariance))

    @pytest.mark.parametrize("shape", [(0, 4), (0, 4, 3), (2, 4, 0)])
    def test_an_empty_batch_moves_nothing(self, shape):
        layer = build(1)
        before = copy.deepcopy(layer.state_dict())
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert y.shape == x.grad.shape == shape
        assert (layer.weight.grad == 0).all()
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())

    def test_no_samples_have_no_gamma(self):
        empty = torch.empty(0, 4, dtype=torch.float64)
        assert build()(batch()[:0], empty, empty).shape == (0, 4, 5, 4)

    def test_constant_channels_give_beta_and_finite_gradients(self):
        layer = build().float()
        x = torch.full((2, 4, 3, 3), 7.0, requires_grad=True)
        y = layer(x)
        torch.testing.assert_close(y, layer.bias.reshape(1, -1, 1, 1).expand_as(y))
        y.sum().backward()
        assert x.grad.isfinite().all()

    def test_shapes_without_values(self):
        layer = norms.DecorrelatedBatchNorm2d(4, 2, device="meta")
        assert layer(torch.empty(2, 4, 3, 3, device="meta")).shape == (2, 4, 3, 3)

    @pytest.mark.parametrize(
        ("dims", "shape", "reason"),
        [
            (2, (3, 4, 5), "needs 4-dimensional input"),
            (3, (3, 4, 5, 5), "needs 5-dimensional input"),
            (2, (3, 5, 6, 6), "built for 4 channels"),
            (2, (1, 4, 1, 1), "more than one value per channel"),
        ],
    )
    def test_wrong_shapes_are_refused_with_the_reason(self, dims, shape, reason):
        with pytest.raises(ValueError, match=reason):
            build(dims)(torch.randn(shape))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "group_size must divide num_features = 24, got 16: possible are 1, 2, 3, 4, 6, 8, 12, 24"),
        ({"group_size": 0}, "group_size must divide num_features = 24, got 0"),
        ({"group_size": 48}, "group_size must divide num_features = 24, got 48"),
        ({"group_size": 8, "iterations": 0}, "iterations must be at least 1, got 0"),
        ({"group_size": 8, "eps": 0.0}, "eps must be above 0"),
        ({"num_features": 0}, "num_features must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused_with_what_would_be_right(options, reason):
    with pytest.raises(ValueError, match=reason):
        norms.DecorrelatedBatchNorm2d(**{"num_features": 24, **options})


@pytest.mark.parametrize(("channels", "size"), [(3, 3), (24, 12), (34, 2), (37, 1), (64, 16)])
def test_by_name_the_group_size_fits_the_channels(channels, size):
    assert norms.build("decorrelated_batch", channels).group_size == size


def test_the_representation_tells_what_is_special():
    assert "group_size=2, iterations=7" in repr(norms.DecorrelatedBatchNorm2d(4, 2, iterations=7))
