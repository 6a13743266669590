import copy
import io
import math

import pytest
import torch
from distributed import run_on_two
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from norms import MeanOnlyBatchNorm2d, initialize_weight_norm_, weight_norm

LAYERS = {
    "linear": (lambda: nn.Linear(3, 4), (5, 3)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), (2, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2), bias=False), (2, 3, 5, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 4, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 7)),
    "transposed2d": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), (2, 3, 4, 5)),
    "transposed3d": (lambda: nn.ConvTranspose3d(6, 3, 2, groups=3), (2, 6, 3, 2, 3)),
}


def build(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return make().double(), torch.randn(shape, dtype=torch.float64)


def tensors(layer, name="weight"):
    originals = layer.parametrizations[name]
    return originals.original0, originals.original1


def by_channel(outputs, layer):
    """Outputs as (channels, values)."""
    return outputs.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)


@pytest.mark.parametrize("name", LAYERS)
def test_the_function_stays_the_same(name):
    layer, x = build(name)
    before = layer(x)
    assert weight_norm(layer) is layer
    torch.testing.assert_close(layer(x), before)


@pytest.mark.parametrize("name", LAYERS)
def test_g_scales_one_output_channel(name):
    layer, x = build(name)
    layer.register_parameter("bias", None)
    before = by_channel(weight_norm(layer)(x), layer)
    g, _ = tensors(layer)
    assert g.numel() == len(before)
    for channel in range(len(before)):
        with torch.no_grad():
            g.flatten()[channel] *= 3
        expected = before.clone()
        expected[: channel + 1] *= 3
        torch.testing.assert_close(by_channel(layer(x), layer), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_filters_have_length_g(name):
    layer, _ = build(name)
    weight_norm(layer)
    g, v = tensors(layer)
    with torch.no_grad():
        g.copy_(torch.randn_like(g))
        v.mul_(torch.rand_like(v))
    if name.startswith("transposed"):
        inputs = layer.in_channels // layer.groups
        filters = [
            layer.weight[group * inputs : (group + 1) * inputs, o]
            for group in range(layer.groups)
            for o in range(layer.out_channels // layer.groups)
        ]
    else:
        filters = list(layer.weight)
    lengths = torch.stack([f.square().sum().sqrt() for f in filters])
    torch.testing.assert_close(lengths, g.flatten().abs())


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name):
    layer, _ = build(name)
    weight_norm(layer)
    function = layer.parametrizations.weight[0]
    g, v = (torch.randn_like(t).requires_grad_() for t in tensors(layer))
    assert torch.autograd.gradcheck(function, (g, v))
    assert torch.autograd.gradgradcheck(function, (g, v))


def test_gradients_are_those_of_the_paper():
    layer, _ = build("linear")
    weight_norm(layer)
    g, v = tensors(layer)
    grad = torch.randn_like(v)
    layer.weight.backward(grad)
    length = v.norm(dim=1, keepdim=True)
    grad_g = (grad * v).sum(1, keepdim=True) / length
    torch.testing.assert_close(g.grad, grad_g)
    torch.testing.assert_close(v.grad, g / length * grad - g * grad_g / length**2 * v)


@pytest.mark.parametrize(
    ("name", "dim"), [("linear", 0), ("conv1d", 0), ("conv2d", 0), ("conv3d", 0), ("transposed2d", 1)]
)
def test_state_dict_is_that_of_torch(name, dim):
    layer, x = build(name)
    theirs = parametrizations.weight_norm(copy.deepcopy(layer), dim=dim)
    ours = weight_norm(layer)
    with torch.no_grad():
        for g, v in (tensors(theirs), tensors(ours)):
            g.copy_(torch.randn_like(g))
            v.copy_(torch.randn_like(v))
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.no_grad():
        tensors(ours)[0].neg_()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(x), ours(x))


def test_older_keys_load():
    source, x = build("conv2d")
    state = nn.Sequential(weight_norm(source)).state_dict()
    older = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in state.items()
    }
    assert set(older) == {"0.weight_g", "0.weight_v"}
    target = nn.Sequential(weight_norm(LAYERS["conv2d"][0]().double()))
    for model in (copy.deepcopy(target), target):
        assert not torch.equal(model(x), source(x))
        model.load_state_dict(older)
        assert torch.equal(model(x), source(x))


def test_copies_are_independent():
    layer, x = build("transposed1d")
    weight_norm(layer)
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(x), layer(x))
    with torch.no_grad():
        tensors(copied)[0].mul_(2)
    assert not torch.equal(copied(x), layer(x))


def test_state_dict_round_trip():
    layer, x = build("transposed1d")
    file = io.BytesIO()
    torch.save(weight_norm(layer).state_dict(), file)
    file.seek(0)
    other = weight_norm(LAYERS["transposed1d"][0]().double())
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("g_value", [0.0, 2.0])
@pytest.mark.parametrize("name", ["linear", "transposed1d"])
def test_zero_vectors_are_safe(name, g_value):
    layer, x = build(name)
    weight_norm(layer)
    g, v = tensors(layer)
    with torch.no_grad():
        v.zero_()
        g.fill_(g_value)
    assert not layer.weight.any()
    grads = torch.autograd.grad(layer(x).square().sum(), (g, v), create_graph=True)
    assert not grads[0].any()
    assert grads[1].any() == (g_value != 0)
    second = torch.autograd.grad(sum(grad.square().sum() for grad in grads), (g, v))
    assert all(t.isfinite().all() for t in (*grads, *second))


def test_a_layer_of_zeros_stays_so():
    layer, x = build("conv2d")
    nn.init.zeros_(layer.weight)
    assert not weight_norm(layer)(x).any()


def test_assigning_a_weight():
    layer, _ = build("conv2d")
    weight_norm(layer)
    new = torch.randn_like(layer.weight)
    with torch.no_grad():
        layer.weight = new.clone()
    torch.testing.assert_close(layer.weight, new)
    torch.testing.assert_close(tensors(layer)[0].flatten(), new.flatten(1).norm(dim=1))


def test_embeddings_are_normalized_by_row():
    torch.manual_seed(0)
    layer = weight_norm(nn.Embedding(5, 3))
    g, _ = tensors(layer)
    with torch.no_grad():
        g.copy_(torch.arange(1.0, 6)[:, None])
    torch.testing.assert_close(layer(torch.arange(5)).norm(dim=1), torch.arange(1.0, 6))


def test_other_tensors_of_a_module():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2)
    x = torch.randn(3, 1, 4)
    before = layer(x, x, x)[0]
    weight_norm(layer, "in_proj_weight")
    torch.testing.assert_close(layer(x, x, x)[0], before)
    assert tensors(layer, "in_proj_weight")[0].shape == (12, 1)


@pytest.mark.parametrize("name", ["conv2d", "transposed1d"])
def test_compiles_whole(name):
    torch.compiler.reset()
    layer, x = build(name)
    reference = copy.deepcopy(weight_norm(layer))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for module in (compiled, reference):
        module(x).square().sum().backward()
    torch.testing.assert_close(compiled(x), reference(x))
    for grad, expected in zip(tensors(layer), tensors(reference), strict=True):
        torch.testing.assert_close(grad.grad, expected.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    torch.manual_seed(0)
    layer = weight_norm(nn.Linear(4000, 2)).to(dtype)
    g, v = (t.detach().double() for t in tensors(layer))
    exact = g * v / v.square().sum(1, keepdim=True).sqrt()
    assert layer.weight.dtype == dtype
    # A norm computed in half precision would be off by several units in the last place, for the whole row alike.
    torch.testing.assert_close(layer.weight.double(), exact, rtol=0.51 * torch.finfo(dtype).eps, atol=1e-7)


def test_autocast_does_not_touch_the_weight():
    layer = weight_norm(nn.Linear(100, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, layer.weight.float())
        inside = layer.weight
        assert layer(torch.randn(1, 100)).dtype == torch.bfloat16
    assert torch.equal(inside, layer.weight)


@settings(max_examples=30, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.integers(1, 3),
    scale=st.floats(1e-3, 1e3),
    transposed=st.booleans(),
)
def test_the_length_of_v_does_not_matter(groups, inputs, outputs, kernel, scale, transposed):
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    layer = weight_norm(kind(groups * inputs, groups * outputs, kernel, groups=groups).double())
    before = layer.weight.detach()
    with torch.no_grad():
        tensors(layer)[1].mul_(scale)
    torch.testing.assert_close(layer.weight.detach(), before)


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (lambda: nn.Linear(2, 3), "wieght", "Linear has no parameter 'wieght'"),
        (lambda: nn.Linear(2, 3, bias=False), "bias", "Linear has no parameter 'bias'"),
        (lambda: nn.Linear(2, 3), "bias", r"Linear.bias must have .* 2 dimensions or more, got shape \(3,\)"),
        (lambda: weight_norm(nn.Linear(2, 3)), "weight", "ParametrizedLinear.weight is parametrized already"),
        (lambda: nn.LazyLinear(2), "weight", "LazyLinear.weight has no shape yet: run the module once"),
    ],
)
def test_what_cannot_be_normalized(make, name, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        weight_norm(make(), name)


class Network(nn.Module):
    """All kinds of layers, in another order than they are listed."""

    def __init__(self, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.last = weight_norm(nn.Linear(24, 3, bias))
        self.up = weight_norm(nn.ConvTranspose2d(6, 4, 4, stride=2, groups=2, bias=bias))
        self.down = weight_norm(nn.Conv2d(2, 6, 3, bias=bias))
        self.unnormalized = nn.Conv1d(4, 24, 1)
        self.double()

    def forward(self, x, shift=0.0):
        x = self.up(torch.relu(self.down(x))).flatten(2)
        return self.last(torch.relu(self.unnormalized(x)).mean(2) + shift)

    @property
    def normalized(self):
        return [self.down, self.up, self.last]


def batch(seed=0, size=16):
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(size, 2, 5, 6, generator=generator, dtype=torch.float64)


def outputs_of(layers, run):
    """What the layers return while ``run`` runs, in order."""
    found = []
    hooks = [layer.register_forward_hook(lambda layer, _, y: found.append(by_channel(y, layer))) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return found


def assert_std(outputs, std=1.0):
    # The epsilon under the root makes it a little smaller.
    expected = torch.full((len(outputs),), std, dtype=outputs.dtype)
    torch.testing.assert_close(outputs.std(1, correction=0), expected, rtol=1e-5, atol=0)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("init_scale", [1.0, 0.3])
def test_initialized_outputs_are_standardized(init_scale):
    model, x = Network(), batch()
    initialize_weight_norm_(model, x, init_scale=init_scale)
    outputs = outputs_of(model.normalized, lambda: model(x))
    assert [len(y) for y in outputs] == [6, 4, 3]
    for y in outputs:
        torch.testing.assert_close(y.mean(1), torch.zeros(len(y), dtype=y.dtype), rtol=0, atol=1e-10)
        assert_std(y, init_scale)


def test_initialization_leaves_v():
    model = Network()
    before = [tensors(layer)[1].clone() for layer in model.normalized]
    initialize_weight_norm_(model, batch())
    assert all(torch.equal(tensors(layer)[1], v) for layer, v in zip(model.normalized, before, strict=True))


def test_initialization_leaves_embeddings():
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Embedding(9, 3)), weight_norm(nn.Linear(3, 2)))
    before = tensors(model[0])[0].clone()
    initialize_weight_norm_(model, torch.arange(9))
    assert torch.equal(tensors(model[0])[0], before)
    assert_std(model(torch.arange(9)).T)


def test_without_bias_the_scale_alone_is_initialized():
    model, x = Network(bias=False), batch()
    initialize_weight_norm_(model, x)
    for y in outputs_of(model.normalized, lambda: model(x)):
        torch.testing.assert_close(y.std(1, correction=0), torch.ones(len(y), dtype=y.dtype), rtol=1e-6, atol=0)
        assert y.mean(1).abs().min() > 1e-3


def test_initialization_passes_all_arguments_on():
    model, x = Network(), batch()
    shift = torch.linspace(0, 5, len(x), dtype=torch.float64)[:, None]
    initialize_weight_norm_(model, x, shift)
    y = outputs_of([model.last], lambda: model(x, shift))[0]
    assert_std(y)


def test_a_layer_that_is_called_twice_is_initialized_at_its_first_call():
    torch.manual_seed(0)
    layer, x = weight_norm(nn.Linear(3, 3).double()), torch.randn(50, 3, dtype=torch.float64)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    initialize_weight_norm_(model, x)
    first, second = outputs_of([layer], lambda: model(x))
    assert_std(first)
    assert (second.std(1, correction=0) - 1).abs().min() > 1e-3


class Centering(nn.Module):
    """Mean-only batch normalization that puts new tensors in the place of its statistics."""

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x):
        mean = self.running_mean
        if self.training:
            mean = x.mean((0, 2, 3))
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean
        return x - (mean - self.bias)[:, None, None]


@pytest.mark.parametrize("centering", [Centering, MeanOnlyBatchNorm2d])
def test_mean_only_batch_normalization_completes_layers_without_bias(centering):
    torch.manual_seed(0)
    model = nn.Sequential()
    for _ in range(2):
        model.extend([weight_norm(nn.Conv2d(2, 2, 3, bias=False)), centering(2), nn.ReLU()])
    x = batch()
    initialize_weight_norm_(model.double().eval(), x)
    assert not model[1].running_mean.any()
    assert not model.training
    for y in outputs_of([model[1], model[4]], lambda: model.train()(x)):
        torch.testing.assert_close(y.mean(1), torch.zeros(2, dtype=y.dtype), rtol=0, atol=1e-10)
        assert_std(y)


def test_initialization_disturbs_nothing_else():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.BatchNorm2d(2), nn.Dropout(), weight_norm(nn.Conv2d(2, 3, 3)), nn.BatchNorm2d(3).eval(), nn.Conv2d(3, 2, 1)
    ).double()
    before, modes, random = snapshot(model), [m.training for m in model.modules()], torch.get_rng_state()
    initialize_weight_norm_(model, batch())
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == modes
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["2.bias", "2.parametrizations.weight.original0"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())


class Broken(nn.Module):
    def forward(self, x):
        raise ArithmeticError("broken")


def bypassing():
    model = Network()
    model.spare = weight_norm(nn.Linear(2, 2).double())
    model.spares = nn.ModuleList([weight_norm(nn.Linear(2, 2).double())])
    return model


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (bypassing(), batch(), "nothing was initialized, since the forward pass did not reach 'spare', 'spares.0'$"),
        (Network(), batch() * math.nan, "'down' needs two outputs or more per channel, all finite, which it does not"),
        (Network(), batch(size=1), "'last' needs two outputs or more per channel, all finite, which it does not"),
        (nn.Sequential(Network(), Broken()), batch(), "broken$"),
    ],
)
def test_failed_initialization_changes_nothing(model, x, message):
    model.eval()
    before = snapshot(model)
    with pytest.raises((ValueError, ArithmeticError), match=f"^{message}"):
        initialize_weight_norm_(model, x)
    assert unchanged(model, before)
    assert not any(m.training or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("init_scale", [0.0, -1.0, math.inf, math.nan])
def test_init_scale_must_be_positive(init_scale):
    with pytest.raises(ValueError, match=r"^init_scale must be above 0 and below inf, got "):
        initialize_weight_norm_(Network(), batch(), init_scale=init_scale)


def test_there_must_be_something_to_initialize():
    with pytest.raises(ValueError, match=r"^the model has no weight-normalized linear or convolutional layer$"):
        initialize_weight_norm_(nn.Sequential(nn.Linear(2, 2), weight_norm(nn.Embedding(2, 2))), batch())


def test_compiled_models_are_initialized_alike():
    reference, model, x = Network(), Network(), batch()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    compiled(x)
    for network in (compiled, reference):
        initialize_weight_norm_(network, x)
    assert unchanged(model, snapshot(reference))
    torch.testing.assert_close(compiled(x), reference(x))


def initialize_by(rank, sizes):
    model = Network()
    initialize_weight_norm_(model, batch(rank, sizes[rank]))
    return model.state_dict()


def initialize_together(rank):
    state = initialize_by(rank, (6, 1))
    try:
        initialize_by(rank, (1, 6))
    except ValueError as error:
        return state, str(error)
    return state, "no error"


def test_two_processes_agree_on_the_first_one_s_batch(tmp_path):
    expected = initialize_by(0, (6, 3))
    for state, error in run_on_two(initialize_together, tmp_path):
        assert all(torch.equal(value, expected[name]) for name, value in state.items())
        assert error.startswith("'last' needs two outputs or more")
    other = initialize_by(1, (6, 3))
    assert not torch.equal(other["down.bias"], expected["down.bias"])
