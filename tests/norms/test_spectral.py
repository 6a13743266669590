import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from norms import fold_, power_iterate_, sigmas, spectral_norm
from norms.errors import SettingError

LAYERS = {
    "linear": (lambda: nn.Linear(3, 4), (5, 3)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), groups=2), (2, 4, 5, 6)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 3, 4)),
}

CONVOLUTIONS = {
    "plain": (lambda: nn.Conv2d(2, 3, 3), (4, 5)),
    "strided": (lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(1, 2), groups=2), (6, 7)),
    "same": (lambda: nn.Conv2d(2, 2, (4, 3), padding="same", dilation=(1, 2)), (4, 5)),
    "valid": (lambda: nn.Conv2d(2, 2, 2, padding="valid"), (3, 4)),
    "circular": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (4, 3)),
    "circular same": (lambda: nn.Conv2d(2, 2, 4, padding="same", padding_mode="circular"), (4, 5)),
    "reflect": (lambda: nn.Conv1d(2, 2, 3, padding=2, padding_mode="reflect"), (5,)),
    "replicate": (lambda: nn.Conv2d(2, 2, 3, padding=(1, 2), stride=2, padding_mode="replicate"), (4, 3)),
    "1d": (lambda: nn.Conv1d(3, 2, 3, stride=2, padding=2), (7,)),
    "3d": (lambda: nn.Conv3d(1, 2, 2, padding=1, stride=(1, 2, 1)), (2, 3, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2), (4,)),
    "transposed2d": (
        lambda: nn.ConvTranspose2d(2, 4, 4, stride=(2, 3), padding=1, output_padding=(1, 2), groups=2, dilation=(1, 2)),
        (3, 2),
    ),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 1, 2, stride=2), (2, 1, 2)),
}


def build(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return make().double(), torch.randn(shape, dtype=torch.float64)


def original(layer):
    return layer.parametrizations.weight.original


def vectors(layer):
    parametrization = layer.parametrizations.weight[0]
    return parametrization._u, parametrization._v


def matrix(layer, weight):
    return (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(1)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", LAYERS)
def test_sigma_converges_to_the_largest_singular_value(name):
    layer, _ = build(name)
    assert spectral_norm(layer) is layer
    weight = original(layer).detach()
    power_iterate_(layer)
    exact = torch.linalg.svdvals(matrix(layer, weight))[0]
    for _ in range(500):
        power_iterate_(layer)
    sigma = sigmas(layer)[""]
    assert sigma == pytest.approx(exact.item(), rel=1e-10)
    torch.testing.assert_close(layer.weight.detach(), weight / sigma)


def test_fifteen_iterations_at_the_start_and_one_per_forward_in_the_paper_s_order():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    weight = layer.weight.detach()
    state = torch.get_rng_state()
    spectral_norm(layer)
    torch.set_rng_state(state)
    u = F.normalize(torch.randn(3), dim=0)
    for _ in range(15):
        v = F.normalize(weight.T @ u, dim=0)
        u = F.normalize(weight @ v, dim=0)
    torch.testing.assert_close(vectors(layer), (u, v))
    u = F.normalize(torch.randn(3), dim=0)
    vectors(layer)[0].copy_(u)
    y = layer(torch.eye(4))
    v = F.normalize(weight.T @ u, dim=0)
    u = F.normalize(weight @ v, dim=0)
    torch.testing.assert_close(vectors(layer), (u, v))
    torch.testing.assert_close(y, (weight / (u @ weight @ v)).T + layer.bias)


def test_several_iterations_per_update():
    layer, x = build("conv2d")
    one, three = spectral_norm(copy.deepcopy(layer)), spectral_norm(layer, n_power_iterations=3)
    three.load_state_dict(one.state_dict())
    three(x)
    for _ in range(3):
        one(x)
    assert unchanged(three, snapshot(one))


@pytest.mark.parametrize("update", ["forward", "step"])
def test_reading_moves_nothing(update):
    layer, x = build("conv2d")
    spectral_norm(layer, update=update)
    before = snapshot(layer)
    for _ in range(3):
        assert torch.equal(layer.weight, layer.weight)
        assert list(sigmas(layer)) == [""]
    layer.eval()(x)
    assert unchanged(layer, before)


def test_each_forward_pass_in_training_moves_u_and_v_once():
    layer, x = build("conv2d")
    model = nn.Sequential(spectral_norm(layer))
    by_hand = copy.deepcopy(model)
    for _ in range(2):
        with torch.no_grad():
            model(x)
        power_iterate_(by_hand)
    assert unchanged(model, snapshot(by_hand))


def test_u_and_v_move_once_per_step():
    layer, x = build("conv2d")
    spectral_norm(layer, update="step")
    before = snapshot(layer)
    layer(x)
    assert unchanged(layer, before)
    power_iterate_(layer)
    assert not unchanged(layer, before)


@pytest.mark.parametrize("name", LAYERS)
def test_two_forward_passes_before_one_backward_pass(name):
    layer, x = build(name)
    spectral_norm(layer)
    by_hand = copy.deepcopy(layer)
    (layer(x).square().sum() - layer(2 * x).sum()).backward()
    for scores in (lambda: by_hand(x).square().sum(), lambda: -by_hand(2 * x).sum()):
        scores().backward()
    torch.testing.assert_close(original(layer).grad, original(by_hand).grad)


def test_gradient_is_that_of_the_paper():
    layer, _ = build("conv2d")
    spectral_norm(layer)
    grad, (u, v) = torch.randn_like(layer.weight), vectors(layer)
    layer.weight.backward(grad)
    sigma = u @ original(layer).detach().flatten(1) @ v
    share = (grad * layer.weight.detach()).sum()
    expected = (grad - share * torch.outer(u, v).view_as(grad)) / sigma
    torch.testing.assert_close(original(layer).grad, expected)


@pytest.mark.parametrize("input_size", [None, (4, 3)])
@pytest.mark.parametrize("name", ["conv2d", "transposed2d"])
def test_gradients(name, input_size):
    layer, _ = build(name)
    spectral_norm(layer, input_size=input_size)
    function, weight = layer.parametrizations.weight[0], original(layer)
    assert torch.autograd.gradcheck(function, weight)
    assert torch.autograd.gradgradcheck(function, weight)


def matrix_of(layer, size):
    """The matrix of a layer's linear map, column by column."""
    channels = layer.in_channels
    basis = torch.eye(channels * torch.Size(size).numel(), dtype=torch.float64).unflatten(1, (channels, *size))
    with torch.no_grad():
        return (layer(basis) - layer(torch.zeros_like(basis[:1]))).flatten(1).T


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_norm_of_the_convolution_itself(name):
    torch.manual_seed(0)
    make, size = CONVOLUTIONS[name]
    layer = make().double().eval()
    exact = torch.linalg.svdvals(matrix_of(layer, size))[0].item()
    spectral_norm(layer, input_size=size)
    u, v = vectors(layer)
    assert v.shape == (layer.in_channels, *size)
    assert u.shape == layer(torch.zeros(1, *v.shape, dtype=torch.float64)).shape[1:]
    assert 0.5 * exact < sigmas(layer)[""] <= exact * (1 + 1e-12)
    for _ in range(300):
        power_iterate_(layer)
    # Its singular values lie close together, which makes the iteration slow.
    assert sigmas(layer)[""] == pytest.approx(exact, rel=1e-3)
    assert torch.linalg.svdvals(matrix_of(layer, size))[0].item() == pytest.approx(1, rel=1e-3)


def test_norm_of_the_convolution_is_not_that_of_the_matrix():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    reshaped, itself = spectral_norm(copy.deepcopy(layer)), spectral_norm(layer, input_size=(8, 8))
    for _ in range(100):
        power_iterate_(itself)
    assert sigmas(reshaped)[""] == pytest.approx(3)
    # In each direction the map is the tridiagonal matrix of ones, with eigenvalues 1 + 2 cos(pi k / 9).
    assert sigmas(itself)[""] == pytest.approx((1 + 2 * math.cos(math.pi / 9)) ** 2, rel=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_state_dict_is_that_of_torch(name):
    layer, x = build(name)
    theirs = parametrizations.spectral_norm(copy.deepcopy(layer)).eval()
    ours = spectral_norm(layer).eval()
    for source, target in ((theirs, ours), (ours, theirs)):
        with torch.no_grad():
            original(source).normal_()
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(target(x), source(x))


def test_state_dict_round_trip():
    layer, x = build("conv2d")
    spectral_norm(layer)(x)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = spectral_norm(LAYERS["conv2d"][0]().double())
    other.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        assert torch.equal(other(x), layer(x))


def test_copies_are_independent():
    layer, x = build("conv2d")
    spectral_norm(layer)
    copied, before = copy.deepcopy(layer), snapshot(layer)
    copied(x)
    assert unchanged(layer, before)
    assert not unchanged(copied, before)


@pytest.mark.parametrize("input_size", [None, (5, 6)])
def test_compiles_whole(input_size):
    layer, x = build("conv2d")
    reference = copy.deepcopy(spectral_norm(layer, input_size=input_size))
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        ys = [module(x) for module in (compiled, reference)]
        torch.testing.assert_close(*ys)
        for y in ys:
            y.square().sum().backward()
    torch.testing.assert_close(original(layer).grad, original(reference).grad)
    torch.testing.assert_close(vectors(layer), vectors(reference))
    before = snapshot(layer)
    torch.testing.assert_close(compiled.eval()(x), reference.eval()(x))
    assert unchanged(layer, before)


@pytest.mark.parametrize("input_size", [None, (5, 6)])
def test_autocast_touches_neither_sigma_nor_the_weight(input_size):
    layer, x = build("conv2d")
    inside = spectral_norm(layer.float(), input_size=input_size)
    outside = copy.deepcopy(inside)
    outside(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert inside(x.float()).dtype == torch.bfloat16
        weight, sigma = inside.weight, sigmas(inside)
    assert unchanged(inside, snapshot(outside))
    assert torch.equal(weight, outside.weight)
    assert sigma == sigmas(outside)


@pytest.mark.parametrize("input_size", [None, (5, 6)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights(dtype, input_size):
    layer, x = build("conv2d")
    layer = spectral_norm(layer.float(), input_size=input_size).to(dtype)
    for _ in range(100):
        layer(x.to(dtype))
    exact = original(layer).detach().double() / sigmas(layer)[""]
    assert all(vector.dtype == torch.float32 for vector in vectors(layer))
    for vector in vectors(layer):
        assert vector.norm().item() == pytest.approx(1, abs=1e-6)
    assert layer.weight.dtype == dtype
    torch.testing.assert_close(layer.weight.double(), exact, rtol=0.51 * torch.finfo(dtype).eps, atol=1e-7)
    with torch.autocast("cpu", torch.bfloat16):
        converted = spectral_norm(LAYERS["conv2d"][0]().to(dtype), input_size=input_size)
    assert all(vector.dtype == torch.float32 for vector in vectors(converted))


def test_u_and_v_follow_the_precision():
    layer, x = build("linear")
    spectral_norm(layer.float())
    for dtype, expected in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
        layer.to(dtype)(x.to(dtype))
        assert all(vector.dtype == expected for vector in vectors(layer))


def test_u_and_v_may_be_rounded():
    layer, x = build("linear")
    parametrization = spectral_norm(layer.float()).parametrizations.weight[0]
    parametrization._u, parametrization._v = parametrization._u.bfloat16(), parametrization._v.bfloat16()
    for _ in range(50):
        layer(x.float())
    assert sigmas(layer)[""] == pytest.approx(torch.linalg.matrix_norm(original(layer), 2).item(), rel=0.01)


@pytest.mark.parametrize("input_size", [None, (5, 6)])
def test_zero_weights_are_safe(input_size):
    layer, x = build("conv2d")
    start = layer.weight.detach().clone()
    nn.init.zeros_(layer.weight)
    spectral_norm(layer, input_size=input_size)
    y = layer(x)
    torch.testing.assert_close(y, layer.bias.view(1, -1, 1, 1).expand_as(y))
    (grad,) = torch.autograd.grad(y.square().sum(), original(layer), create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), original(layer))
    assert grad.any()
    assert grad.isfinite().all()
    assert second.isfinite().all()
    assert sigmas(layer) == {"": 0}
    with torch.no_grad():
        original(layer).copy_(start)
    for _ in range(100):
        power_iterate_(layer)
    operator = matrix(layer, layer.weight) if input_size is None else matrix_of(layer, input_size)
    assert torch.linalg.svdvals(operator.detach())[0].item() == pytest.approx(1, rel=1e-2)


def test_u_and_v_survive_weights_that_are_not_finite():
    layer, x = build("linear")
    spectral_norm(layer)
    before = snapshot(layer)
    with torch.no_grad():
        original(layer).fill_(torch.nan)
    layer(x)
    for vector, name in zip(vectors(layer), ("_u", "_v"), strict=True):
        assert torch.equal(vector, before[f"parametrizations.weight.0.{name}"])


@settings(max_examples=30, deadline=None)
@given(outputs=st.integers(1, 5), inputs=st.integers(1, 5), scale=st.floats(-1e3, 1e3).filter(lambda s: abs(s) > 1e-3))
def test_the_scale_of_a_weight_is_lost(outputs, inputs, scale):
    layer = spectral_norm(nn.Linear(inputs, outputs).double())
    before, sigma = layer.weight.detach(), sigmas(layer)[""]
    assert 0 < sigma <= torch.linalg.svdvals(original(layer).detach())[0].item() * (1 + 1e-12)
    with torch.no_grad():
        original(layer).mul_(scale)
    power_iterate_(layer)
    # The iteration turns u and v on, with the sign of the scale, and cannot make sigma smaller.
    assert sigmas(layer)[""] >= abs(scale) * sigma * (1 - 1e-12)
    torch.testing.assert_close(layer.weight.detach() * sigmas(layer)[""], before * sigma * scale)


def test_averages_of_models_copy_u_and_v():
    layer, x = build("conv2d")
    spectral_norm(layer)
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=False)
    for _ in range(3):
        with torch.no_grad():
            original(layer).copy_(torch.randn_like(original(layer)))
        layer(x)
        average.update_parameters(layer)
    assert all(map(torch.equal, vectors(average.module), vectors(layer)))
    assert not torch.equal(original(average.module), original(layer))


def test_names_of_sigmas():
    model = nn.Sequential(spectral_norm(nn.Linear(2, 2)), nn.ReLU(), nn.Sequential(spectral_norm(nn.Conv1d(2, 2, 1))))
    model.attention = spectral_norm(nn.MultiheadAttention(2, 1), "in_proj_weight", update="step")
    found = sigmas(model)
    assert list(found) == ["0", "2.0", "attention.in_proj_weight"]
    assert list(sigmas(model.attention)) == ["in_proj_weight"]
    for name in ("0", "2.0"):
        layer = model.get_submodule(name)
        ratio = (original(layer) / layer.weight).detach()
        torch.testing.assert_close(ratio, torch.full_like(ratio, found[name]))


def test_without_a_device():
    with torch.device("meta"):
        layer = spectral_norm(nn.Conv2d(2, 3, 3))
        assert layer(torch.randn(1, 2, 4, 4)).shape == (1, 3, 2, 2)


def test_representation():
    assert "(0): _SpectralNorm(n_power_iterations=2, eps=1e-12, update=step)" in repr(
        spectral_norm(nn.Conv1d(1, 1, 1), n_power_iterations=2, update="step")
    )
    assert "update=forward, input_size=(5,)" in repr(spectral_norm(nn.Conv1d(1, 1, 1), input_size=[5]))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: nn.ReLU(), {}, "ReLU has no parameter 'weight'"),
        (lambda: nn.BatchNorm2d(3), {}, r"BatchNorm2d.weight must have .* 2 dimensions or more, got shape \(3,\)"),
        (lambda: spectral_norm(nn.Linear(2, 3)), {}, "ParametrizedLinear.weight is parametrized already"),
        (lambda: nn.Linear(2, 3), {"n_power_iterations": 0}, "n_power_iterations must be at least 1, got 0"),
        (lambda: nn.Linear(2, 3), {"eps": 0.0}, "eps must be above 0, got 0"),
        (lambda: nn.Linear(2, 3), {"update": "never"}, r"unknown update 'never' \(known: forward, step\)"),
        (
            lambda: nn.Linear(2, 3),
            {"input_size": (4,)},
            "input_size is for the weight of a convolution, not for Linear",
        ),
        (lambda: nn.Conv2d(2, 3, 3), {"input_size": (4,)}, r"input_size must be 2 positive numbers .*, got \(4,\)"),
        (lambda: nn.Conv2d(2, 3, 3), {"input_size": (4, 0)}, r"input_size must be 2 positive numbers .*, got \(4, 0\)"),
        (
            lambda: nn.Conv2d(2, 3, 3),
            {"input_size": (2, 9)},
            r"input_size \(2, 9\) does not fit this Conv2d: Calculated",
        ),
    ],
)
def test_what_cannot_be_normalized(make, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        spectral_norm(make(), **options)


class TestVectorsFromMemory:
    """u and v as ``to_empty`` or a damaged file leave them."""

    @pytest.mark.parametrize("content", [0.0, math.nan, math.inf])
    @pytest.mark.parametrize("name", LAYERS)
    @pytest.mark.parametrize("which", [("_u", "_v"), ("_u",), ("_v",)], ids="".join)
    def test_training_finds_them_again(self, name, content, which):
        layer, x = build(name)
        spectral_norm(layer, n_power_iterations=30)
        for vector in which:
            getattr(layer.parametrizations.weight[0], vector).fill_(content)
        layer(x)
        largest = torch.linalg.svdvals(matrix(layer, layer.weight.detach()))[0]
        assert largest == pytest.approx(1, rel=1e-2)

    @pytest.mark.parametrize("content", [0.0, math.nan, math.inf])
    @pytest.mark.parametrize("first", [lambda layer, x: layer(x), lambda layer, x: power_iterate_(layer)])
    def test_updates_by_step_find_them_before_the_first_step_too(self, content, first):
        layer, x = build("linear")
        spectral_norm(layer, update="step")
        for vector in vectors(layer):
            vector.fill_(content)
        layer.weight  # noqa: B018  reading moves nothing
        assert not any(vector.isfinite().all() and vector.any() for vector in vectors(layer))
        first(layer, x)
        assert torch.linalg.svdvals(layer.weight.detach())[0] == pytest.approx(1, rel=1e-2)
        before = snapshot(layer)
        layer(x)
        assert unchanged(layer, before)

    @pytest.mark.parametrize("content", [0.0, math.nan, math.inf])
    @pytest.mark.parametrize("which", ["_u", "_v"])
    def test_nothing_else_takes_them(self, content, which):
        layer, x = build("conv2d")
        model = nn.Sequential(spectral_norm(layer)).eval()
        getattr(layer.parametrizations.weight[0], which).fill_(content)
        with pytest.raises(SettingError, match=r"^a weight of shape \(6, 2, 3, 2\) cannot .* reset_parameters"):
            model(x)
        for read in (sigmas, fold_):
            with pytest.raises(SettingError, match=r"^0 cannot be normalized"):
                read(model)
        power_iterate_(model)
        assert fold_(model)(x).isfinite().all()

    def test_many_models_at_once_are_not_looked_at(self):
        layers = [spectral_norm(nn.Linear(3, 4)).eval() for _ in range(2)]
        states, x = [layer.state_dict() for layer in layers], torch.randn(5, 3)
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        many = torch.vmap(lambda state: torch.func.functional_call(layers[0], state, (x,)))(stacked)
        torch.testing.assert_close(many, torch.stack([layer(x) for layer in layers]))

    def test_a_module_from_the_meta_device_starts_anew(self):
        with torch.device("meta"):
            layer = spectral_norm(nn.Conv2d(4, 6, (3, 2), groups=2))
        layer.to_empty(device="cpu")
        assert all(vector.isnan().all() for vector in vectors(layer))
        layer.reset_parameters()
        nn.init.normal_(original(layer))
        trained = copy.deepcopy(layer)
        trained(torch.randn(2, 4, 5, 6))
        assert torch.linalg.svdvals(trained.weight.detach().flatten(1))[0] == pytest.approx(1, rel=0.2)
        for module in layer.modules():
            if module is not layer and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        assert all(torch.linalg.vector_norm(vector) == pytest.approx(1) for vector in vectors(layer))
        for _ in range(30):
            power_iterate_(layer)
        assert torch.linalg.svdvals(layer.weight.detach().flatten(1))[0] == pytest.approx(1, rel=1e-2)
