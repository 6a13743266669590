"""Norms that exist for experiments alone: closed forms of their noise, and of the gradient that is lost."""

import pytest
import torch
from torch import nn

import norms
from experiments.layers_detached import BiasedBatchNorm
from experiments.layers_noise import NoisyBatchNorm
from experiments.parameters import ending, root_mean_square
from norms.errors import SettingError


def test_noise_has_the_moments_of_its_distribution():
    torch.manual_seed(0)
    layer = NoisyBatchNorm(400, shift=0.5, scale=1.5, jitter=0.2)
    x = torch.randn(64, 400, 4, 4)
    y, clean = layer(x).detach(), nn.BatchNorm2d(400)(x)
    means, deviations = y.mean((0, 2, 3)), y.std((0, 2, 3))
    # Centers are uniform: their standard deviation is the width / sqrt(12).
    assert means.abs().max() < 0.55
    assert float(means.std()) == pytest.approx(1 / 12**0.5, rel=0.1)
    # The variance of s y + m given the centers is sigma^2 + r^2 + r^2 / 3, for y has mean 0 and variance 1.
    assert float(deviations.square().mean()) == pytest.approx((1.5**3 - 1) / (3 * 0.5) + 0.04 * 4 / 3, rel=0.05)
    assert not torch.equal(layer(x), y), "drawn anew"
    evaluated = NoisyBatchNorm(400, scale=1.5, track_running_stats=False).eval()(x)
    torch.testing.assert_close(evaluated, 1.25 * clean)


def test_noise_without_noise_is_batch_normalization():
    x = torch.randn(8, 4, 5)
    quiet = NoisyBatchNorm(4, shift=0, scale=1, jitter=0)
    torch.testing.assert_close(quiet(x), nn.BatchNorm1d(4)(x))
    with pytest.raises(SettingError, match="scale must be at least 1"):
        NoisyBatchNorm(4, scale=0.5)


@pytest.mark.parametrize("shape", [(16, 4), (6, 4, 5, 5)])
def test_the_bias_cancels_and_its_gradient_is_lost_or_not(shape):
    torch.manual_seed(0)
    x, weights = torch.randn(shape), torch.randn(shape)
    plain = norms.BatchNorm(4)
    for differentiate in (True, False):
        layer = BiasedBatchNorm(4, differentiate=differentiate)
        with torch.no_grad():
            layer.shift.copy_(torch.tensor([3.0, -2.0, 0.0, 1.0]))
            layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
            plain.weight.copy_(layer.weight)
        y = layer(x)
        torch.testing.assert_close(y, plain(x), rtol=1e-4, atol=1e-5)
        (weights * y).sum().backward()
        dims = [0, *range(2, len(shape))]
        lost = weights.sum(dims) * layer.weight.detach() / (x.var(dims, correction=0) + layer.eps).sqrt()
        expected = torch.zeros(4) if differentiate else lost
        torch.testing.assert_close(layer.shift.grad, expected, rtol=1e-4, atol=1e-4)
        seen = layer.running_mean
        torch.testing.assert_close(seen, 0.1 * (x.mean(dims) + layer.shift.detach()), rtol=1e-4, atol=1e-5)


def test_gradient_descent_moves_the_bias_along_a_line_and_the_loss_not_at_all():
    torch.manual_seed(0)
    x, weights, lr = torch.randn(16, 4), torch.randn(16, 4), 0.1
    layer = BiasedBatchNorm(4, differentiate=False, affine=False)
    losses = []
    for _ in range(50):
        loss = (weights * layer(x)).sum()
        losses.append(float(loss.detach()))
        (grad,) = torch.autograd.grad(loss, layer.shift)
        with torch.no_grad():
            layer.shift -= lr * grad
    lost = weights.sum(0) / x.var(0, correction=0).add(layer.eps).sqrt()
    torch.testing.assert_close(layer.shift.detach(), -50 * lr * lost, rtol=1e-4, atol=1e-4)
    assert losses == pytest.approx([losses[0]] * 50, rel=1e-4)


def test_parameters_are_found_by_the_end_of_their_name():
    model = nn.Sequential(nn.Linear(1, 2), BiasedBatchNorm(2))
    assert ending(model, "shift") == [model[1].shift]
    assert ending(model, "1.bias") == [model[1].bias]
    with pytest.raises(SettingError, match="no parameter's name ends with 'hift'"):
        ending(model, "hift")
    with torch.no_grad():
        model[1].shift.copy_(torch.tensor([3.0, 4.0]))
    assert root_mean_square(ending(model, "shift")) == pytest.approx(12.5**0.5)
