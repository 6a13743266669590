"""Adaptive instance normalization gives features the mean and deviation of others."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import norms
from norms import AdaptiveInstanceNorm
from norms.errors import SettingError

EPS = 1e-3
SHAPES = {1: (7,), 2: (5, 4), 3: (3, 4, 2)}


def features(dims=2, n=3, seed=0, scale=2.0, shift=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, *SHAPES[dims], generator=generator, dtype=torch.float64)
    return (x * scale + shift + torch.arange(4).view(-1, *(1,) * dims)).to(dtype)


def expected(x, mean, deviation):
    """The formula in NumPy."""
    x = x.double().numpy()
    axes = tuple(range(2, x.ndim))
    normalized = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPS)
    shape = (-1, x.shape[1], *(1,) * len(axes))
    return torch.from_numpy(np.reshape(deviation, shape) * normalized + np.reshape(mean, shape))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_formula(dims, channels_last):
    x, style = features(dims), features(dims % 3 + 1, seed=1, scale=0.5)
    if channels_last and dims == 2:
        x = x.to(memory_format=torch.channels_last)
    axes = tuple(range(2, style.ndim))
    mean, deviation = style.numpy().mean(axes), np.sqrt(style.numpy().var(axes) + EPS)
    layer = AdaptiveInstanceNorm(EPS)
    y = layer(x, style)
    torch.testing.assert_close(y, expected(x, mean, deviation), rtol=1e-10, atol=1e-10)
    assert y.stride() == x.stride()
    torch.testing.assert_close(layer(x, (torch.from_numpy(mean), torch.from_numpy(deviation))), y)
    one = layer(x, style[:1])
    torch.testing.assert_close(one, expected(x, mean[0], deviation[0]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer(x, [each[0] for each in layer.statistics(style)]), one)


def test_its_own_features_are_the_style_that_changes_nothing():
    x = features()
    torch.testing.assert_close(AdaptiveInstanceNorm()(x, x), x, rtol=1e-10, atol=1e-10)
    flat = torch.full((1, 4, 3, 3), 7.0, dtype=torch.float64)
    torch.testing.assert_close(AdaptiveInstanceNorm()(flat, x[:1])[0, :, 0, 0], x[0].mean((1, 2)))


def test_mixed_statistics_give_mixed_results():
    layer, x = AdaptiveInstanceNorm(), features(n=1)
    styles = [layer.statistics(features(n=1, seed=seed, scale=seed)) for seed in (1, 2)]
    mixed = [0.3 * a + 0.7 * b for a, b in zip(*styles, strict=True)]
    torch.testing.assert_close(layer(x, mixed), 0.3 * layer(x, styles[0]) + 0.7 * layer(x, styles[1]))


def test_first_and_second_derivatives():
    x, style = (features(n=2, seed=seed)[..., :2].clone().requires_grad_() for seed in (0, 1))
    layer = AdaptiveInstanceNorm()
    assert torch.autograd.gradcheck(layer, (x, style))
    assert torch.autograd.gradgradcheck(layer, (x, style))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_statistics_in_float32(dtype):
    x, style = features(shift=200.0, dtype=dtype), features(seed=1, shift=200.0, dtype=dtype)
    layer = AdaptiveInstanceNorm()
    mean, deviation = layer.statistics(style)
    assert mean.dtype == deviation.dtype == torch.float32
    exact = layer(x.double(), style.double())
    y = layer(x, style)
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() / exact.abs()).max() <= torch.finfo(dtype).eps


def test_it_learns_and_keeps_nothing():
    layer = AdaptiveInstanceNorm(EPS)
    assert layer.state_dict() == {}
    x = features()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.eval()):
        assert torch.equal(other(x, x[:1]), AdaptiveInstanceNorm(EPS)(x, x[:1]))
    assert repr(layer) == "AdaptiveInstanceNorm(eps=0.001)"


@pytest.mark.slow
def test_compiles_whole():
    layer, x, style = AdaptiveInstanceNorm(), features(), features(seed=1)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, style), layer(x, style))


def test_traced_as_one_node():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = AdaptiveInstanceNorm()

        def forward(self, x, style):
            return self.norm(x, style)

    x = features()
    torch.testing.assert_close(torch.fx.symbolic_trace(Around())(x, x[:1]), norms.AdaptiveInstanceNorm()(x, x[:1]))


@pytest.mark.parametrize(
    ("x", "style", "message"),
    [
        (torch.rand(2, 4), torch.rand(2, 4, 3), r"needs input of shape \(N, C, ...\) .* got shape \(2, 4\)"),
        (torch.rand(2, 4, 3), torch.rand(4), r"needs style of shape \(N, C, ...\)"),
        (torch.rand(2, 4, 3), torch.rand(2, 5, 3), "must have the 4 channels of the input, and one sample or its 2, "),
        (torch.rand(2, 4, 3), torch.rand(3, 4, 3), r"got a mean of shape \(3, 4\) and a deviation of shape \(3, 4\)"),
        (torch.rand(2, 4, 3), [torch.rand(4)], "features, or mean and standard deviation, got 1 tensors"),
        (torch.ones(2, 4, 3, dtype=torch.int64), torch.rand(2, 4, 3), "floating-point dtype"),
    ],
)
def test_what_does_not_fit(x, style, message):
    with pytest.raises(SettingError, match=message):
        AdaptiveInstanceNorm()(x, style)
    with pytest.raises(SettingError, match="eps must be above 0"):
        AdaptiveInstanceNorm(0.0)
