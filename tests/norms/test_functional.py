"""The norms as functions: the layers once more, for torch.func and torch.fx."""

import pytest
import torch
from oracles import draw
from torch import nn

import norms
from norms import functional
from norms.errors import SettingError

C = 4
TWO = ("instance", "batch")


def moments(layer):
    return {"mean": layer.running_mean, "var": layer.running_var}


def affine(layer):
    return {"weight": layer.weight, "bias": layer.bias}


# By name: a layer, and the function of x, of the moments given and of the layer's parameters, that it is.
FUNCTIONS = {
    "batch": (
        norms.BatchNorm2d(C),
        lambda x, layer, given: functional.batch_norm(x, **affine(layer), **given),
    ),
    "mean_only_batch": (
        norms.MeanOnlyBatchNorm2d(C),
        lambda x, layer, given: functional.mean_only_batch_norm(x, layer.bias, given.get("mean")),
    ),
    "batch_instance": (
        norms.BatchInstanceNorm2d(C),
        lambda x, layer, given: functional.batch_instance_norm(x, layer.rho, **affine(layer), **given),
    ),
    "switchable": (
        norms.SwitchableNorm2d(C),
        lambda x, layer, given: functional.switchable_norm(
            x, layer.mean_weight, layer.var_weight, **affine(layer), **given
        ),
    ),
    "switchable of two": (
        norms.SwitchableNorm2d(C, statistics=TWO),
        lambda x, layer, given: functional.switchable_norm(
            x, layer.mean_weight, layer.var_weight, **affine(layer), **given, statistics=TWO
        ),
    ),
    "batch_renorm": (
        norms.BatchRenorm2d(C, schedule_steps=0, r_max=1.1, d_max=0.2),
        lambda x, layer, given: functional.batch_renorm(
            x, layer.running_mean.clone(), layer.running_std.clone(), 1.1, 0.2, **affine(layer)
        ),
    ),
}

over = pytest.mark.parametrize


@pytest.fixture(params=FUNCTIONS)
def norm(request):
    layer, function = FUNCTIONS[request.param]
    layer = layer.double().train()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
        layer(draw((3, C, 4, 3), 5))
    return layer, function


def loss(y):
    return (y.square() * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum()


@over("training", [True, False], ids=["training", "evaluation"])
def test_a_function_is_its_layer(norm, training):
    layer, function = norm
    if isinstance(layer, norms.BatchRenorm) and not training:
        pytest.skip("evaluation of batch renormalization is batch normalization by given moments")
    layer.train(training)
    x = draw((2, C, 4, 3), 1)
    mean_only = isinstance(layer, norms.MeanOnlyBatchNorm)
    given = {} if training else {"mean": layer.running_mean} if mean_only else moments(layer)
    expected = function(x, layer, given)
    torch.testing.assert_close(layer(x), expected)


def test_torch_func_differentiates_a_function_as_autograd_does_the_layer(norm):
    layer, function = norm
    x = draw((2, C, 4, 3), 1).requires_grad_()
    found = torch.func.grad(lambda x: loss(function(x, layer, {})))(x.detach())
    (expected,) = torch.autograd.grad(loss(layer(x)), x)
    torch.testing.assert_close(found, expected)


def test_forward_mode_is_the_transpose_of_reverse_mode(norm):
    layer, function = norm
    x, direction, upstream = (draw((2, C, 4, 3), seed) for seed in (1, 2, 3))
    _, pushed = torch.func.jvp(lambda x: function(x, layer, {}), (x,), (direction,))
    _, pull = torch.func.vjp(lambda x: function(x, layer, {}), x)
    torch.testing.assert_close((pushed * upstream).sum(), (pull(upstream)[0] * direction).sum())


def test_batches_that_are_mapped_over_do_not_see_each_other(norm):
    layer, function = norm
    batches = draw((3, 2, C, 4, 3), 1)
    mapped = torch.func.vmap(lambda x: function(x, layer, {}))(batches)
    torch.testing.assert_close(mapped, torch.stack([function(x, layer, {}) for x in batches]))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, C, 3)
        self.rho = nn.Parameter(torch.linspace(0, 1, C))

    def forward(self, x):
        return functional.batch_instance_norm(self.conv(x), self.rho, eps=1e-4).relu()


def test_torch_fx_traces_a_function_as_one_operation():
    block = Block()
    traced = torch.fx.symbolic_trace(block)
    assert functional.batch_instance_norm in [node.target for node in traced.graph.nodes]
    for size in (5, 8):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(traced(x), block(x))


@over("shape", [(5, C), (5, C, 3), (2, C, 2, 3), (2, C, 2, 3, 2)])
def test_inputs_of_any_rank_are_normalized_per_channel(shape):
    x = draw(shape, 1)
    y = functional.batch_norm(x, eps=0.0).movedim(1, 0).flatten(1)
    torch.testing.assert_close(y.mean(1), torch.zeros(C, dtype=y.dtype))
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(C, dtype=y.dtype))


def test_gamma_and_beta_of_each_sample():
    x, weight, bias = draw((2, C, 3, 3), 1), draw((2, C), 2), draw((2, C), 3)
    expected = functional.batch_norm(x) * weight[..., None, None] + bias[..., None, None]
    torch.testing.assert_close(functional.batch_norm(x, weight, bias), expected)


def test_half_precision_is_computed_in_float32_and_returned_as_it_came():
    x = (torch.randn(4, C, 8, 8) + 100).to(torch.bfloat16)
    y = functional.batch_instance_norm(x, torch.rand(C))
    assert y.dtype == torch.bfloat16
    assert y.float().mean().abs() < 0.01


@over(
    ("call", "message"),
    [
        (lambda x: functional.batch_norm(x, mean=torch.zeros(C)), "give both or none"),
        (lambda x: functional.batch_norm(x, eps=-1.0), "eps must be at least 0, got -1"),
        (lambda x: functional.batch_norm(x, torch.ones(3)), r"weight needs shape \(C,\) or \(N, C\)"),
        (lambda x: functional.switchable_norm(x, torch.ones(2), torch.ones(3)), "mean_weight needs a value for each"),
        (lambda x: functional.batch_renorm(x, torch.zeros(C), torch.ones(C), r_max=0.5), "r_max must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(SettingError, match=message):
        call(torch.randn(2, C, 3, 3))
