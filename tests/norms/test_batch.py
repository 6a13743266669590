"""Batch normalization against torch's, and its mean-only form."""

import copy

import pytest
import torch
from oracles import Case, draw
from torch import nn

import norms

over = pytest.mark.parametrize
NATIVE = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
OURS = {1: norms.BatchNorm1d, 2: norms.BatchNorm2d, 3: norms.BatchNorm3d}


def results(layer, x):
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(draw(x.shape, seed=9).to(x.dtype))
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


@over("dtype", [torch.float64, torch.float32], ids=str)
@over("options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None, "eps": 0.1}], ids=str)
@over("dims", [1, 2, 3])
def test_is_the_batch_normalization_of_torch_in_every_mode(dims, options, dtype):
    case = Case("batch", dims, {})
    native = case.experienced(dtype=dtype, **options)
    ours = OURS[dims](4, **options, dtype=dtype)
    ours.load_state_dict(native.state_dict(), strict=True)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for training in (True, True, False):
        x = case.data(n=3 + training, dtype=dtype)
        torch.testing.assert_close(results(ours.train(training), x), results(native.train(training), x), **tolerance)
        torch.testing.assert_close(dict(ours.state_dict()), dict(native.state_dict()), **tolerance)
        ours.zero_grad(), native.zero_grad()
    NATIVE[dims](4, **options, dtype=dtype).load_state_dict(ours.state_dict(), strict=True)


def test_momentum_zero_keeps_the_running_statistics_and_momentum_one_replaces_them():
    x = draw((3, 4, 5, 5), seed=1)
    kept, replaced = (norms.BatchNorm2d(4, momentum=momentum).double() for momentum in (0.0, 1.0))
    kept(x), replaced(x)
    assert not kept.running_mean.any()
    torch.testing.assert_close(replaced.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(replaced.running_var, x.var((0, 2, 3)))


@over("eps", [1e-5, 3e-4, 2e-6])
@over("make", [norms.BatchNorm2d, norms.BatchInstanceNorm2d, norms.SwitchableNorm2d])
def test_the_running_variance_of_constant_input_is_not_negative(make, eps):
    layer = make(4, eps=eps, momentum=1.0)
    layer(torch.full((3, 4, 5, 5), 7.0))
    torch.testing.assert_close(layer.running_var, torch.zeros(4), rtol=0, atol=1e-9)
    assert layer.running_var.ge(0).all()


class TestMeanOnly:
    def test_has_a_beta_and_no_gamma_and_no_variance(self):
        state = norms.MeanOnlyBatchNorm2d(4).state_dict()
        assert {name: tuple(value.shape) for name, value in state.items()} == {
            "bias": (4,),
            "running_mean": (4,),
            "num_batches_tracked": (),
        }
        assert not any(value.any() for value in state.values())
        assert norms.MeanOnlyBatchNorm2d(4, affine=False).bias is None

    @over("dims", [1, 2, 3])
    def test_keeps_the_scale_of_the_input(self, dims):
        layer = Case("mean_only_batch", dims, {}).experienced()
        x = Case("mean_only_batch", dims, {}).data()
        for training in (True, False):
            layer.train(training)
            torch.testing.assert_close(layer(3 * x) - layer(0 * x), 3 * (layer(x) - layer(0 * x)))

    def test_undoes_the_bias_of_the_layer_before_it_and_gives_it_no_gradient(self):
        conv = nn.Conv2d(3, 4, 3).double()
        layer = norms.MeanOnlyBatchNorm2d(4).double()
        moved = copy.deepcopy(conv)
        with torch.no_grad():
            moved.bias += 5
        x = draw((3, 3, 6, 6), seed=1)
        y = layer(conv(x))
        torch.testing.assert_close(layer(moved(x)), y)
        y.pow(3).sum().backward()
        torch.testing.assert_close(conv.bias.grad, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)
