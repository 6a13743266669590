"""The functions compute what the layers do, and torch's transformations take them."""

import copy

import pytest
import torch
from torch import nn

import norms
from norms import functional
from norms.batch import BatchFormula
from norms.errors import SettingError


def affine(layer):
    return {"weight": layer.weight, "bias": layer.bias}


def renorm(layer, x):
    mean, std = layer.running_mean.clone(), layer.running_std.clone()
    return functional.batch_renorm(x, mean, std, 1.5, 0.5, **affine(layer))


CASES = {
    "batch": (lambda: norms.BatchNorm2d(3), lambda m, x, **p: functional.batch_norm(x, **affine(m), **p)),
    "mean only": (
        lambda: norms.MeanOnlyBatchNorm2d(3),
        lambda m, x, **p: functional.mean_only_batch_norm(x, m.bias, **p),
    ),
    "batch-instance": (
        lambda: norms.BatchInstanceNorm2d(3),
        lambda m, x, **p: functional.batch_instance_norm(x, m.rho, **affine(m), **p),
    ),
    "switchable": (
        lambda: norms.SwitchableNorm2d(3),
        lambda m, x, **p: functional.switchable_norm(x, m.mean_weight, m.var_weight, **affine(m), **p),
    ),
    "switchable without batch": (
        lambda: norms.SwitchableNorm2d(3, statistics=("instance", "layer")),
        lambda m, x: functional.switchable_norm(
            x, m.mean_weight, m.var_weight, **affine(m), statistics=("instance", "layer")
        ),
    ),
    "renorm": (lambda: norms.BatchRenorm2d(3, r_max=1.5, d_max=0.5, schedule_steps=0), renorm),
}
cases = pytest.mark.parametrize("case", CASES)


def made(case):
    """The layer in a state of its own, the function, and activations."""
    torch.manual_seed(3)
    make, function = CASES[case]
    layer = make().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand_like(parameter) * 0.8 + 0.1)
        for name, buffer in layer.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + (0.5 if name != "running_mean" else 0))
    return layer, function, torch.randn(4, 3, 3, 2, dtype=torch.float64) * 2 + 1


@cases
def test_a_function_is_its_layer_in_training_with_its_gradients(case):
    layer, function, x = made(case)
    x.requires_grad_()
    inputs = [x, *layer.parameters()]
    y, expected = function(layer, x), copy.copy(layer)(x)
    torch.testing.assert_close(y, expected)
    tangent = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, tangent), torch.autograd.grad(expected, inputs, tangent))


@pytest.mark.parametrize("case", ["batch", "mean only", "batch-instance", "switchable"])
def test_a_function_is_its_layer_in_evaluation(case):
    layer, function, x = made(case)
    variance = getattr(layer, "running_var", torch.ones(3))
    y = function(layer, x, population=(layer.running_mean, variance))
    torch.testing.assert_close(y, layer.eval()(x))


@cases
def test_gradients_of_samples_and_derivatives_forward_agree_with_the_layer(case):
    layer, function, x = made(case)
    batches = torch.stack([x, 2 * x.flip(0) - x.square()])
    frozen = [copy.deepcopy(layer) for _ in batches]
    loss_gradients = torch.vmap(torch.func.grad(lambda batch: function(layer, batch).pow(3).sum()))(batches)
    expected = []
    for batch, copied in zip(batches, frozen, strict=True):
        batch = batch.clone().requires_grad_()
        expected.append(torch.autograd.grad(copied(batch).pow(3).sum(), batch)[0])
    torch.testing.assert_close(loss_gradients, torch.stack(expected))

    tangent = torch.randn_like(x)
    y, along = torch.func.jvp(lambda batch: function(layer, batch), (x,), (tangent,))
    rows = torch.func.jacrev(lambda batch: function(layer, batch))(x)
    torch.testing.assert_close((rows * tangent).sum((4, 5, 6, 7)), along)
    _, from_layer = torch.autograd.functional.jvp(copy.deepcopy(layer), x, tangent)
    torch.testing.assert_close(along, from_layer)
    torch.testing.assert_close(y, copy.deepcopy(layer)(x))


def test_second_derivatives_by_transformation_agree_with_the_layer():
    layer, _, x = made("batch-instance")
    x = x[:2, :, :2, :1]
    found = torch.func.hessian(lambda rho: functional.batch_instance_norm(x, rho, layer.weight).pow(3).sum())(layer.rho)
    layer.bias.data.zero_()

    def cubes(rho):
        return torch.func.functional_call(layer, {"rho": rho}, (x,)).pow(3).sum()

    torch.testing.assert_close(found, torch.autograd.functional.hessian(cubes, layer.rho))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.rho = nn.Parameter(torch.rand(4))

    def forward(self, x):
        return norms.functional.batch_instance_norm(self.conv(x), self.rho).relu()


def test_a_traced_network_has_a_norm_as_one_node():
    block, x = Block(), torch.randn(2, 3, 4, 4)
    traced = torch.fx.symbolic_trace(block)
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"] == [functional.batch_instance_norm]
    assert torch.equal(traced(x), block(x))


def test_a_function_takes_features_without_positions_and_keeps_half_precision():
    layer = norms.BatchNorm1d(3)
    x = torch.randn(8, 3)
    torch.testing.assert_close(functional.batch_norm(x), layer(x))
    y = functional.batch_norm(x.bfloat16(), layer.weight)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, layer(x.bfloat16()))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_gamma_and_beta_of_another_shape_are_refused(name):
    with pytest.raises(SettingError, match=rf"{name} needs shape \(3,\) or \(2, 3\), got \(2,\)"):
        functional.batch_norm(torch.randn(2, 3, 4), **{name: torch.ones(2)})


FUNCTIONS = {
    "normalize": lambda x: functional.normalize(x, BatchFormula(), 1e-5),
    "batch_norm": functional.batch_norm,
    "mean_only_batch_norm": functional.mean_only_batch_norm,
    "batch_instance_norm": lambda x: functional.batch_instance_norm(x, torch.ones(3)),
    "switchable_norm": lambda x: functional.switchable_norm(x, torch.ones(3), torch.ones(3)),
    "batch_renorm": lambda x: functional.batch_renorm(x, torch.zeros(3), torch.ones(3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_that_are_no_real_floating_point_numbers_are_refused(name):
    assert set(FUNCTIONS) == {name for name in vars(functional) if name.endswith(("norm", "normalize"))}
    for dtype in (torch.uint8, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(SettingError, match=f"needs activations of a floating-point dtype, got {dtype}"):
            FUNCTIONS[name](torch.ones(2, 3, 4).to(dtype))
