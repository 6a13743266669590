"""Batch-instance and switchable normalization: equivalences, closed forms, derivatives, and life as a module."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import norms

LAYERS = ["batch_instance", "switchable"]
DIMS = [1, 2, 3]
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def randomized(layer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.6 + 0.2)
    return layer


def batch(dims, channels=4, seed=1, dtype=torch.float64, n=3):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, channels, *(5, 4, 3)[:dims])
    per_channel = torch.randn(channels, generator=generator).reshape(1, -1, *(1,) * dims)
    return (torch.randn(shape, generator=generator) * 2 + 3 * per_channel).to(dtype)


def published_switchable(x, layer, batch_moments=None):
    """Luo et al. 2019, equation 3, written out statistic by statistic."""
    space = tuple(range(2, x.ndim))
    axes = {"instance": space, "layer": (1, *space), "batch": (0, *space)}
    means = {k: x.mean(a, keepdim=True) for k, a in axes.items()}
    variances = {k: ((x - means[k]) ** 2).mean(a, keepdim=True) for k, a in axes.items()}
    column = (1, -1, *(1,) * len(space))
    if batch_moments is not None:
        means["batch"], variances["batch"] = (m.reshape(column) for m in batch_moments)
    shares = [torch.exp(w) / torch.exp(w).sum() for w in (layer.mean_weight, layer.var_weight)]
    mean = sum(shares[0][i] * means[k] for i, k in enumerate(("instance", "layer", "batch")))
    variance = sum(shares[1][i] * variances[k] for i, k in enumerate(("instance", "layer", "batch")))
    return layer.weight.reshape(column) * (x - mean) / torch.sqrt(variance + layer.eps) + layer.bias.reshape(column)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("dims", DIMS)
def test_batch_instance_norm_at_rho_one_is_batch_norm(dims, momentum, training):
    ours = randomized(norms.build("batch_instance", 4, dims, momentum=momentum).double())
    theirs = BATCH[dims](4, momentum=momentum).double()
    nn.init.ones_(ours.rho)
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if k != "rho"})
    for seed in range(3):
        ours(batch(dims, seed=seed)), theirs(batch(dims, seed=seed))
    ours.train(training), theirs.train(training)
    assert_same(ours, theirs, batch(dims, seed=9))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", DIMS)
def test_batch_instance_norm_at_rho_zero_is_instance_norm(dims, training):
    ours = randomized(norms.build("batch_instance", 4, dims).double()).train(training)
    theirs = INSTANCE[dims](4, affine=True).double().train(training)
    nn.init.zeros_(ours.rho)
    theirs.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    assert_same(ours, theirs, batch(dims))


def assert_same(ours, theirs, x):
    grad = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(grad)
        results.append((y, leaf.grad, layer.weight.grad, layer.bias.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(rho=st.floats(0, 1), seed=st.integers(0, 1000))
def test_batch_instance_norm_is_linear_in_rho(rho, seed):
    layer = randomized(norms.BatchInstanceNorm2d(4).double(), seed)
    x, outputs = batch(2, seed=seed), {}
    for value in (0.0, 1.0, rho):
        nn.init.constant_(layer.rho, value)
        outputs[value] = layer(x)
    torch.testing.assert_close(outputs[rho], rho * outputs[1.0] + (1 - rho) * outputs[0.0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", DIMS)
def test_switchable_norm_is_the_published_formula(dims, training):
    layer = randomized(norms.build("switchable", 4, dims).double())
    layer(batch(dims, seed=3))
    layer.train(training)
    x = batch(dims)
    population = None if training else (layer.running_mean, layer.running_var)
    expected = published_switchable(x, layer, population)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_switchable_norm_with_all_weight_on_the_batch_is_batch_norm():
    layer = norms.SwitchableNorm2d(4).double()
    with torch.no_grad():
        for logits in layer.mixing_parameters():
            logits.copy_(torch.tensor([-1e3, -1e3, 0.0]))
    assert_same(layer, nn.BatchNorm2d(4).double(), batch(2))


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_first_and_second_derivatives(name, dims, training, options):
    layer = randomized(norms.build(name, 2, dims, **options).double()).train(training)
    names = [k for k, _ in layer.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    x = batch(dims, channels=2, n=2)[..., :3].clone().requires_grad_()
    inputs = (x, *layer.parameters())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_and_buffers_have_the_documented_names_shapes_and_values(name):
    state = norms.build(name, 5).state_dict()
    mixing = {"rho": (5,)} if name == "batch_instance" else {"mean_weight": (3,), "var_weight": (3,)}
    expected = {"weight": (5,), "bias": (5,), "running_mean": (5,), "running_var": (5,), "num_batches_tracked": ()}
    assert {k: tuple(v.shape) for k, v in state.items()} == {**expected, **mixing}
    starts_at_zero = {"bias", "running_mean", "num_batches_tracked"}
    assert all(bool((value == (0 if key in starts_at_zero else 1)).all()) for key, value in state.items())


@pytest.mark.parametrize("name", LAYERS)
def test_copies_and_stored_states_compute_the_same(name):
    layer = randomized(norms.build(name, 4).double())
    layer(batch(2))
    layer.eval()
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    loaded = norms.build(name, 4).double().eval()
    loaded.load_state_dict(torch.load(stored, weights_only=True))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        torch.testing.assert_close(other(batch(2)), layer(batch(2)), rtol=0, atol=0)
        assert [n for n, _ in norms.mixing_layers(other)] == [""]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-9)])
@pytest.mark.parametrize("name", LAYERS)
def test_half_precision_input_loses_only_its_own_rounding(name, dtype, bound):
    layer = randomized(norms.build(name, 4))
    x = batch(2).to(dtype)
    exact = copy.deepcopy(layer).double()(x.double())
    y = layer(x)
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() / exact.abs().clamp_min(1)).max() < bound


@pytest.mark.parametrize("name", LAYERS)
def test_a_module_in_half_precision_trains(name):
    layer = norms.build(name, 4, dtype=torch.bfloat16)
    x = batch(2).bfloat16().requires_grad_()
    layer(x).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in layer.parameters())
    assert layer.running_mean.dtype == torch.bfloat16


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_keeps_statistics_in_float32(name):
    layer = norms.build(name, 4)
    x = batch(2, dtype=torch.float32) + 100
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), layer(x.double()).float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_channels_last_changes_the_layout_and_not_the_values(name, training):
    layer = randomized(norms.build(name, 4)).train(training)
    x = batch(2, dtype=torch.float32)
    expected = copy.deepcopy(layer)(x)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", LAYERS)
def test_compiles_whole_in_training_and_evaluation(name, momentum):
    layer = randomized(norms.build(name, 4, momentum=momentum).double())
    plain = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        layer.train(training), plain.train(training)
        results = []
        for module in (compiled, plain):
            x = batch(2).requires_grad_()
            y = module(x)
            y.square().sum().backward()
            results.append((y, x.grad))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)
    for (key, a), b in zip(layer.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_exports_in_evaluation_with_any_batch_and_image_size(name):
    layer = randomized(norms.build(name, 4).double())
    layer(batch(2))
    layer.eval()
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(layer, (batch(2),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)).module()
    x = torch.randn(2, 4, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(exported(x), layer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_one_sample_is_enough(name):
    layer = norms.build(name, 4)
    assert layer(batch(2, n=1, dtype=torch.float32)).isfinite().all()
    assert layer.running_var.isfinite().all()


@pytest.mark.parametrize("name", LAYERS)
def test_constant_planes_give_beta_and_finite_gradients(name):
    layer = randomized(norms.build(name, 4))
    x = torch.zeros(2, 4, 3, 3, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, layer.bias.reshape(1, -1, 1, 1).expand_as(y))
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_a_nan_in_one_sample_does_not_reach_the_others_at_rho_zero():
    layer = norms.BatchInstanceNorm2d(4, initial_rho=0.0).eval()
    x = batch(2, dtype=torch.float32)
    x[0, 0, 0, 0] = torch.nan
    y = layer(x)
    assert y[1:].isfinite().all()
    assert y[0, 0].isnan().all()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("dims", "shape", "reason"),
    [
        (1, (3, 4), "do not exist for a single value per channel"),
        (2, (3, 4, 5), "needs 4-dimensional input"),
        (3, (3, 4, 5, 5), "needs 5-dimensional input"),
        (2, (3, 5, 6, 6), "built for 4 channels"),
        (2, (3, 4, 1, 1), "more than one value per channel"),
    ],
)
def test_wrong_shapes_are_refused_with_the_reason(name, dims, shape, reason):
    with pytest.raises(ValueError, match=reason):
        norms.build(name, 4, dims)(torch.randn(shape))


def test_a_single_value_per_plane_is_defined_in_evaluation():
    layer = norms.BatchInstanceNorm2d(4, initial_rho=0.0).eval()
    torch.testing.assert_close(layer(torch.randn(3, 4, 1, 1)), torch.zeros(3, 4, 1, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"num_features": 0}, {"eps": 0.0}, {"momentum": 1.5}, {"initial_rho": -0.1}, {"initial_rho": 1.1}],
)
def test_wrong_arguments_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        norms.BatchInstanceNorm2d(**{"num_features": 4, **options})
