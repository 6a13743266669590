"""Switchable normalization: what it mixes, and sparse shares that end as a choice."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Case, derivatives, draw, sparsemax
from oracles import sparsestmax as published_sparsestmax
from torch import nn

import norms
from norms.switchable import sparsestmax

over = pytest.mark.parametrize
NATIVE = {
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "layer": lambda: nn.GroupNorm(1, 4),
    "batch": lambda: nn.BatchNorm2d(4),
}


def switched(to, **options):
    """A layer with all weight on one statistic."""
    layer = Case("switchable", 2, {}).experienced(**options)
    for logits in layer.mixing_parameters().values():
        nn.init.zeros_(logits)
        logits.data[norms.STATISTICS.index(to)] = 1e3
    return layer


@over("training", [True, False])
@over("statistic", NATIVE)
def test_with_all_weight_on_one_statistic_it_is_its_norm(statistic, training):
    layer = switched(statistic).train(training)
    native = NATIVE[statistic]().double().train(training)
    native.load_state_dict({name: layer.state_dict()[name] for name in native.state_dict()})
    x = draw((3, 4, 5, 2), seed=1).requires_grad_()
    y, expected = layer(x), native(x)
    torch.testing.assert_close(y, expected)
    ours, theirs = ([x, module.weight, module.bias] for module in (layer, native))
    torch.testing.assert_close(derivatives(y, ours), derivatives(expected, theirs))


def test_means_and_variances_are_mixed_apart():
    layer = norms.SwitchableNorm2d(4, affine=False).double()
    with torch.no_grad():
        layer.mean_weight.copy_(torch.tensor([0.0, 0.0, 1e3]))
        layer.var_weight.copy_(torch.tensor([1e3, 0.0, 0.0]))
    x = draw((3, 4, 5, 2), seed=1)
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / torch.sqrt(x.var((2, 3), correction=0, keepdim=True) + layer.eps)
    torch.testing.assert_close(layer(x), expected)


WITHOUT_BATCH = {"statistics": ("instance", "layer")}


class TestWithoutBatchStatistics:
    @over("dims", [1, 2, 3])
    def test_nothing_is_tracked_and_samples_are_independent(self, dims):
        case = Case("switchable", dims, WITHOUT_BATCH)
        layer = case.experienced()
        assert dict(layer.named_buffers()) == {}
        assert set(layer.state_dict()) == {"weight", "bias", "mean_weight", "var_weight"}
        x = case.data(n=4)
        y = layer(x)
        torch.testing.assert_close(y, torch.cat([layer(sample[None]) for sample in x]))
        torch.testing.assert_close(layer.eval()(x), y)

    def test_the_values_say_that_the_batch_has_no_share(self):
        layer = norms.SwitchableNorm2d(4, **WITHOUT_BATCH)
        for share in layer.mixing_values().values():
            assert share.tolist() == [0.5, 0.5, 0]


def test_the_order_of_the_statistics_is_one_whatever_order_they_are_named_in():
    layer = norms.SwitchableNorm2d(4, statistics=("batch", "instance"))
    assert layer.statistics == ("instance", "batch")
    with torch.no_grad():
        layer.mean_weight.copy_(torch.tensor([3.0, 1.0]).log())
    assert layer.mixing_values()["mean_weight"].tolist() == pytest.approx([0.75, 0, 0.25])


@over(
    "statistics",
    [("batch",), (), ("instance", "instance"), ("instance", "layer", "group"), ("batch", "layer", "batch")],
    ids=str,
)
def test_other_statistics_are_refused(statistics):
    with pytest.raises(ValueError, match="statistics must be two or three of instance, layer, batch, got"):
        norms.SwitchableNorm2d(4, statistics=statistics)


def test_no_steps_to_become_sparse_in_are_refused():
    with pytest.raises(ValueError, match="sparse_steps must be at least 1, got 0"):
        norms.SwitchableNorm2d(4, sparse_steps=0)


LOGITS = st.lists(st.floats(-3, 3), min_size=2, max_size=4).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


def last_radius(logits):
    return math.sqrt((len(logits) - 1) / len(logits))


def at_radius(logits, radius):
    return sparsestmax(logits, torch.tensor(radius, dtype=torch.float64))


class TestSparsestmax:
    @settings(deadline=None, max_examples=100)
    @given(logits=LOGITS, share=st.floats(0, 1.2))
    def test_gives_shares_outside_of_the_circle_in_the_order_of_the_logits(self, logits, share):
        radius = share * last_radius(logits)
        shares = at_radius(logits, radius)
        assert shares.ge(0).all()
        assert shares.sum().item() == pytest.approx(1)
        distance = (shares - 1 / len(logits)).norm().item()
        distinct = logits.sort().values.diff().min() > 1e-6
        if distinct:
            assert distance >= min(radius, last_radius(logits)) - 1e-6
            assert shares.argmax() == logits.argmax()
            assert shares[logits.argsort()].diff().ge(-1e-9).all()

    @settings(deadline=None, max_examples=100)
    @given(logits=LOGITS, share=st.floats(0, 0.99))
    def test_is_the_published_construction(self, logits, share):
        radius = share * last_radius(logits)
        if logits.sort().values.diff().min() > 1e-3:
            torch.testing.assert_close(
                at_radius(logits, radius), published_sparsestmax(logits, radius), rtol=1e-6, atol=1e-6
            )

    @settings(deadline=None, max_examples=50)
    @given(logits=LOGITS)
    def test_is_sparsemax_at_first_and_one_hot_at_last(self, logits):
        first, last = at_radius(logits, 0.0), at_radius(logits, last_radius(logits))
        torch.testing.assert_close(first, sparsemax(logits))
        assert sorted(last.tolist()) == [0] * (len(logits) - 1) + [1]
        assert logits[last.argmax()] >= logits.max() - 1e-9

    def test_two_shares_lie_half_a_circle_apart(self):
        for radius in (0.1, 0.3, 0.6):
            expected = torch.tensor([0.5 - radius / math.sqrt(2), 0.5 + radius / math.sqrt(2)], dtype=torch.float64)
            torch.testing.assert_close(at_radius(torch.tensor([0.0, 0.01], dtype=torch.float64), radius), expected)

    @over("radius", [0.0, 0.2, 0.5, 0.7])
    @over("logits", [[0.1, 0.2, 0.4], [2.0, 0.3, 0.1], [0.5, 0.45, -2.0]], ids=str)
    def test_derivatives(self, logits, radius):
        leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda values: at_radius(values, radius), (leaf,))
        assert torch.autograd.gradgradcheck(lambda values: at_radius(values, radius), (leaf,))

    @over("radius", [0.0, 0.3, 0.81, 0.82])
    def test_equal_logits_have_finite_shares_and_gradients(self, radius):
        leaf = torch.ones(3, dtype=torch.float64, requires_grad=True)
        shares = at_radius(leaf, radius)
        shares.square().sum().backward()
        assert shares.sum().item() == pytest.approx(1)
        assert leaf.grad.isfinite().all()


class TestSparseLayer:
    @over("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_has_chosen_one_statistic_after_so_many_batches(self, dtype):
        steps = 100
        layer = norms.SwitchableNorm2d(4, sparse_steps=steps).to(dtype)
        with torch.no_grad():
            layer.mean_weight.copy_(torch.tensor([0.1, 0.3, 0.2]))
            layer.var_weight.copy_(torch.tensor([0.3, 0.1, 0.2]))
        x = torch.randn(2, 4, 2, 2, dtype=dtype)
        for _ in range(steps - 10):
            layer(x)
        assert max(layer.mixing_values()["mean_weight"]) < 1
        for _ in range(10):
            layer(x)
        assert layer.mixing_values()["mean_weight"].tolist() == [0, 1, 0]
        assert layer.mixing_values()["var_weight"].tolist() == [1, 0, 0]

    def test_a_choice_once_made_is_the_norm_of_the_statistic(self):
        layer = norms.SwitchableNorm2d(4, sparse_steps=1, affine=False).double()
        with torch.no_grad():
            for logits in layer.mixing_parameters().values():
                logits.copy_(torch.tensor([0.2, 0.9, 0.3]))
        x = draw((3, 4, 5, 2), seed=1)
        layer(x)
        torch.testing.assert_close(layer(x), nn.GroupNorm(1, 4, affine=False)(x))

    def test_shares_move_in_training_alone_and_go_on_from_a_checkpoint(self):
        layer = Case("switchable", 2, {"sparse_steps": 8}).experienced()
        x = draw((3, 4, 5, 2), seed=1)
        before = copy.deepcopy(layer.mixing_values())
        layer.eval()(x)
        torch.testing.assert_close(layer.mixing_values(), before, rtol=0, atol=0)
        resumed = norms.SwitchableNorm2d(4, sparse_steps=8).double()
        resumed.load_state_dict(layer.state_dict())
        layer.train()
        for _ in range(5):
            torch.testing.assert_close(layer(x), resumed(x), rtol=0, atol=0)
        torch.testing.assert_close(layer.mixing_values(), resumed.mixing_values(), rtol=0, atol=0)

    def test_the_gradient_is_that_of_the_shares_in_use(self):
        # The radius moves before the gradient is computed.
        layer = Case("switchable", 2, {"sparse_steps": 4}).experienced()
        x = draw((3, 4, 5, 2), seed=1).requires_grad_()
        inputs = [x, *layer.parameters()]
        expected = derivatives(Case("switchable", 2, {}).published(x, layer), inputs)
        torch.testing.assert_close(derivatives(layer(x), inputs), expected)

    def test_starts_again_when_told(self):
        layer = Case("switchable", 2, {"sparse_steps": 2}).experienced()
        layer.reset_parameters()
        torch.testing.assert_close(layer.mixing_values()["var_weight"], torch.full((3,), 1 / 3).double())
        assert "sparse_steps=2" in repr(layer)
