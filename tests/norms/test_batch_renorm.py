"""Batch renormalization: the correction, its schedule, and what follows from them."""

import copy
import warnings

import pytest
import torch
from oracles import Case, derivatives, draw
from torch import nn

import norms

over = pytest.mark.parametrize
DIMS = [1, 2, 3]


def layer_at(step, dims=2, **options):
    layer = Case("batch_renorm", dims, {}).experienced(**options)
    layer.num_batches_tracked.fill_(step)
    return layer


@over(
    ("step", "r_max", "d_max"),
    [
        (0, 1, 0),
        (5_000, 1, 0),
        (15_000, 1 + 2 * 10 / 35, 2.5),
        (25_000, 1 + 2 * 20 / 35, 5),
        (32_500, 1 + 2 * 27.5 / 35, 5),
        (40_000, 3, 5),
        (1_000_000, 3, 5),
    ],
)
def test_the_limits_follow_the_schedule_of_the_paper(step, r_max, d_max):
    assert list(layer_at(step).limits()) == pytest.approx([r_max, d_max])


def test_the_schedule_scales_with_the_run_and_ends_where_it_is_told():
    for step, scaled in ((5_000, 50), (20_000, 200), (30_000, 300), (40_000, 400)):
        expected = list(layer_at(step, r_max=2.0, d_max=0.5).limits())
        found = layer_at(scaled, r_max=2.0, d_max=0.5, schedule_steps=400).limits()
        assert list(found) == pytest.approx(expected)
    at_once = layer_at(0, r_max=1.5, d_max=0.5, schedule_steps=0).limits()
    assert list(at_once) == [1.5, 0.5]


def test_the_limits_follow_the_batches_seen():
    layer = norms.BatchRenorm2d(4, schedule_steps=8)
    limits = []
    for _ in range(10):
        limits.append(list(layer.limits()))
        layer(torch.randn(2, 4, 3, 3))
    assert limits[:2] == [[1, 0], [1, 0]]
    assert limits[-2:] == [[3, 5], [3, 5]]
    for limit in zip(*limits, strict=True):
        assert list(limit) == sorted(limit)
    r_limits, d_limits = zip(*limits, strict=True)
    assert r_limits[5] == pytest.approx(1 + 2 * 4 / 7)
    assert d_limits[3] == pytest.approx(5 * 2 / 4)


@over("dims", DIMS)
def test_it_is_batch_normalization_while_the_correction_has_no_room(dims):
    case = Case("batch_renorm", dims, {})
    ours = layer_at(5_000, dims)
    theirs = Case("batch", dims, {}).experienced(momentum=0.01)
    x = case.data().requires_grad_()
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected)
    gradients = (derivatives(t, [x, *layer.parameters()]) for t, layer in ((y, ours), (expected, theirs)))
    torch.testing.assert_close(*gradients)


@over("dims", DIMS)
def test_in_the_limits_training_gives_what_evaluation_does(dims):
    layer = layer_at(0, dims, schedule_steps=0, r_max=1e6, d_max=1e6)
    x = Case("batch_renorm", dims, {}).data()
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer.eval()(x))


def test_clips_scale_and_offset_in_both_directions():
    layer = norms.BatchRenorm2d(4, schedule_steps=0, r_max=2.0, d_max=0.5, affine=False).double()
    layer.load_population_(torch.tensor([3.0, -3.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 8.0, 1 / 8]))
    x = nn.BatchNorm2d(4, affine=False, eps=1e-12).double()(draw((3, 4, 5, 5), seed=1))
    # Mean 0 and deviation 1: d would be -3, 3, 0 and 0, r would be 1, 1, 1 / 8 and 8.
    expected = x * torch.tensor([1, 1, 0.5, 2.0])[:, None, None] + torch.tensor([-0.5, 0.5, 0, 0])[:, None, None]
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@over("dims", DIMS)
def test_no_gradient_flows_through_the_correction(dims):
    layer = layer_at(0, dims, schedule_steps=0, r_max=1.25, d_max=0.25)
    x = Case("batch_renorm", dims, {}).data().requires_grad_()
    axes = (0, *range(2, x.ndim))
    column = (-1, *(1,) * dims)
    mean, std = x.mean(axes), torch.sqrt(x.var(axes, correction=0) + layer.eps)
    # Numbers, that nothing could flow through.
    r, d = (
        torch.tensor(t.tolist(), dtype=torch.float64)
        for t in (std / layer.running_std, (mean - layer.running_mean) / layer.running_std)
    )
    assert ((r > 1.25) | (r < 0.8)).any()
    standard = (x - mean.reshape(column)) / std.reshape(column)
    expected = standard * r.clamp(0.8, 1.25).reshape(column) + d.clamp(-0.25, 0.25).reshape(column)
    expected = expected * layer.weight.reshape(column) + layer.bias.reshape(column)
    y = layer(x)
    torch.testing.assert_close(y, expected)
    inputs = [x, layer.weight, layer.bias]
    torch.testing.assert_close(derivatives(y, inputs), derivatives(expected, inputs))


def test_statistics_are_updated_after_use():
    layer = layer_at(0, schedule_steps=0, momentum=1.0, r_max=1e6, d_max=1e6)
    mean, std = layer.running_mean.clone(), layer.running_std.clone()
    x = draw((3, 4, 5, 5), seed=1)
    expected = (x - mean[:, None, None]) / std[:, None, None] * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))


def test_the_deviation_is_averaged_and_not_the_variance():
    layer = norms.BatchRenorm2d(1, momentum=None, eps=1e-12).double()
    x = nn.BatchNorm2d(1, affine=False, eps=1e-12).double()(draw((3, 1, 5, 5), seed=1))
    for scale in (1, 3):
        layer(scale * x)
    # The root of the average variance would be the root of 5.
    torch.testing.assert_close(layer.running_std, torch.tensor([2.0], dtype=torch.float64))


def test_starts_as_documented():
    state = norms.BatchRenorm2d(3, initial_gamma=0.5).state_dict()
    expected = {"weight": 0.5, "bias": 0, "running_mean": 0, "running_std": 1, "num_batches_tracked": 0}
    assert {name: set(value.flatten().tolist()) for name, value in state.items()} == {
        name: {value} for name, value in expected.items()
    }


@over(
    ("option", "value", "reason"),
    [("r_max", 0.9, "at least 1"), ("d_max", -0.1, "at least 0"), ("schedule_steps", -1, "at least 0")],
)
def test_limits_out_of_range_are_refused(option, value, reason):
    with pytest.raises(ValueError, match=f"{option} must .*{reason}, got {value}"):
        norms.BatchRenorm2d(4, **{option: value})


class TestEarlyEvaluation:
    @pytest.mark.parametrize(("momentum", "batches", "told"), [(0.01, 30, True), (0.3, 2, True), (0.3, 7, False)])
    def test_is_told_of_until_the_running_statistics_have_settled(self, momentum, batches, told):
        layer = norms.BatchRenorm2d(4, momentum=momentum)
        for _ in range(batches):
            layer(torch.randn(2, 4, 3, 3))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            layer.eval()
            layer.eval()
        assert len(caught) == told
        assert not told or "settle: train longer, with a larger momentum, or call norms.recalibrate" in str(caught[0])

    def test_is_not_told_of_before_training_nor_where_all_batches_count_alike(self):
        for layer in (norms.BatchRenorm2d(4), norms.BatchRenorm2d(4, momentum=1), norms.BatchRenorm2d(4, momentum=0)):
            layer.eval()
        layer = norms.BatchRenorm2d(4, momentum=None)
        layer(torch.randn(2, 4, 3, 3))
        layer.eval()
