"""Batch-instance normalization: what it is at the ends of its gate, and between."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Case, draw
from torch import nn

import norms

over = pytest.mark.parametrize
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def assert_same(ours, theirs, x):
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(draw(x.shape, seed=5))
        results.append((y, leaf.grad, layer.weight.grad, layer.bias.grad))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def gated(dims, rho, **options):
    layer = Case("batch_instance", dims, {}).experienced(**options)
    nn.init.constant_(layer.rho, rho)
    return layer


@over("training", [True, False])
@over("momentum", [0.3, None])
@over("dims", [1, 2, 3])
def test_at_rho_one_it_is_batch_normalization(dims, momentum, training):
    ours = gated(dims, 1.0, momentum=momentum).train(training)
    theirs = BATCH[dims](4, momentum=momentum).double().train(training)
    theirs.load_state_dict({name: value for name, value in ours.state_dict().items() if name != "rho"})
    assert_same(ours, theirs, Case("batch_instance", dims, {}).data())
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), value)


@over("training", [True, False])
@over("dims", [1, 2, 3])
def test_at_rho_zero_it_is_instance_normalization(dims, training):
    ours = gated(dims, 0.0).train(training)
    theirs = INSTANCE[dims](4, affine=True).double().train(training)
    theirs.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    assert_same(ours, theirs, Case("batch_instance", dims, {}).data())


@settings(deadline=None, max_examples=20)
@given(rho=st.floats(0, 1), seed=st.integers(0, 1000), training=st.booleans())
def test_between_it_is_linear_in_rho(rho, seed, training):
    x = draw((3, 4, 5, 2), seed)
    ends, between = [gated(2, value).train(training)(x) for value in (0.0, 1.0)], gated(2, rho).train(training)(x)
    torch.testing.assert_close(between, (1 - rho) * ends[0] + rho * ends[1])


def test_each_channel_has_a_gate_of_its_own():
    x = draw((3, 2, 5, 5), seed=1)
    layer = norms.BatchInstanceNorm2d(2, dtype=torch.float64)
    with torch.no_grad():
        layer.rho.copy_(torch.tensor([0.0, 1.0]))
    expected = torch.cat([INSTANCE[2](1)(x[:, :1]), BATCH[2](1).double()(x[:, 1:])], 1)
    torch.testing.assert_close(layer(x), expected)


def test_the_gate_starts_where_it_is_told():
    assert norms.BatchInstanceNorm2d(3).rho.tolist() == [1, 1, 1]
    layer = norms.BatchInstanceNorm2d(3, initial_rho=0.25)
    assert layer.rho.tolist() == [0.25] * 3
    nn.init.ones_(layer.rho)
    layer.reset_parameters()
    assert layer.mixing_values()["rho"].tolist() == [0.25] * 3
    assert "initial_rho=0.25" in repr(layer)


@over("value", [-0.1, 1.1])
def test_a_gate_that_would_start_outside_is_refused(value):
    with pytest.raises(ValueError, match=f"initial_rho must be at least 0 and at most 1, got {value}"):
        norms.BatchInstanceNorm2d(4, initial_rho=value)
