"""gamma and beta by condition: samples one by one as the oracle, around every norm."""

import copy
import pickle

import pytest
import torch
from torch import nn

import norms
from norms.conditional import ConditionalNorm

NAMES = norms.names()
CONDITIONS = torch.tensor([2, 0, 2])


def build(name, dims=2, conditions=3, **options):
    """A layer in float64 with tables and running statistics unlike the initial ones."""
    layer = norms.build(name, 4, dims, num_conditions=conditions, **options).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.8 + 0.1)
        layer(batch(dims, seed=7), 0)
    return layer


def batch(dims=2, n=3, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, 4, *(5, 4, 3)[:dims], generator=generator, dtype=torch.float64) * 2 + 3).to(dtype)


def expected(layer, x, gammas, betas):
    """The output of the norm, with gamma and beta sample by sample."""
    y = copy.deepcopy(layer.norm)(x)
    column = (-1, *(1,) * (x.ndim - 2))
    rows = zip(y, gammas, betas, strict=True)
    return torch.stack([sample * gamma.reshape(column) + beta.reshape(column) for sample, gamma, beta in rows])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_sample_has_the_gamma_and_beta_of_its_condition(name, dims, training):
    layer = build(name, dims).train(training)
    x = batch(dims)
    rows = [layer.weight[k] for k in CONDITIONS], [layer.bias[k] for k in CONDITIONS]
    torch.testing.assert_close(copy.deepcopy(layer)(x, CONDITIONS), expected(layer, x, *rows))


@pytest.mark.parametrize("name", NAMES)
def test_shares_mix_gamma_and_beta(name):
    layer, x = build(name).eval(), batch()
    shares = torch.tensor([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [1.0, -0.5, 2.0]], dtype=torch.float64)
    rows = [
        [sum(share * entry for share, entry in zip(row, table, strict=True)) for row in shares]
        for table in (layer.weight, layer.bias)
    ]
    torch.testing.assert_close(layer(x, shares), expected(layer, x, *rows))
    torch.testing.assert_close(layer(x, shares[2]), layer(x, shares[2].expand(3, -1)))


@pytest.mark.parametrize("name", ["batch", "batch_instance", "decorrelated_batch"])
def test_one_condition_for_all_samples_can_be_given_in_several_ways(name):
    layer, x = build(name).eval(), batch()
    y = layer(x, torch.tensor([1, 1, 1]))
    one_hot = torch.tensor([0.0, 1.0, 0.0])
    for condition in (1, torch.tensor(1), torch.tensor([1, 1, 1], dtype=torch.uint8), one_hot, one_hot.double()):
        torch.testing.assert_close(layer(x, condition), y)


@pytest.mark.parametrize("name", ["batch", "mean_only_batch", "decorrelated_batch", "none"])
def test_values_without_positions(name):
    layer, x = build(name, 1).eval(), torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x, CONDITIONS), layer(x[..., None], CONDITIONS)[..., 0])


@pytest.mark.parametrize("condition", [CONDITIONS, 1, torch.rand(3, 3, dtype=torch.float64, requires_grad=True)])
@pytest.mark.parametrize(
    ("name", "training"),
    [("batch", True), ("batch_renorm", False), ("batch_instance", True), ("decorrelated_batch", True), ("none", False)],
)
def test_first_and_second_derivatives(name, training, condition):
    layer = build(name).train(training)

    def function(x, weight, bias, condition):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x, condition))

    x = batch(n=3)[..., :2, :1].clone().requires_grad_()
    inputs = (x, layer.weight, layer.bias, condition)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_conditions_that_do_not_occur_have_no_gradient():
    layer = build("batch")
    layer(batch(), CONDITIONS).pow(3).sum().backward()
    for table in (layer.weight, layer.bias):
        assert (table.grad[1] == 0).all()
        assert (table.grad[[0, 2]] != 0).all()


def test_tables_start_as_the_norm_would():
    layer = norms.build("batch_instance", 4, num_conditions=3, initial_gamma=0.5, dtype=torch.float64)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer.reset_parameters()
    assert {name: tuple(p.shape) for name, p in layer.named_parameters(recurse=False)} == {
        "weight": (3, 4),
        "bias": (3, 4),
    }
    assert (layer.weight == 0.5).all()
    assert (layer.bias == 0).all()
    assert layer.weight.dtype == layer.bias.dtype == torch.float64
    assert (norms.build("group", 4, num_conditions=3).weight == 1).all()


def test_copies_and_stored_states_compute_the_same():
    layer, x = build("batch_instance").eval(), batch()
    loaded = norms.build("batch_instance", 4, num_conditions=3).double().eval()
    loaded.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        torch.testing.assert_close(other(x, CONDITIONS), layer(x, CONDITIONS), rtol=0, atol=0)


def test_hooks_on_the_norm_see_its_input_and_the_norm_keeps_none_of_the_tables():
    layer, x = build("batch_instance"), batch()
    seen = []
    layer.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    layer(x, CONDITIONS)
    assert len(seen) == 1
    assert seen[0] is x
    assert layer.norm.weight is None
    assert [name for name, _ in layer.norm.named_parameters()] == ["rho"]


@pytest.mark.parametrize("name", NAMES)
def test_dtype_and_memory_format_are_those_of_the_norm(name):
    layer, x = build(name).float().eval(), batch(dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    y = layer(x, CONDITIONS)
    assert y.dtype == torch.bfloat16
    assert y.stride() == layer.norm(x).stride()
    exact = layer.double()(x.double(), CONDITIONS)
    assert ((y.double() - exact).abs() / exact.abs().clamp_min(1)).max() < 2**-6


@pytest.mark.parametrize("name", ["batch", "batch_instance"])
def test_autocast_rounds_no_shares(name):
    layer, x = build(name).float().eval(), batch(dtype=torch.float32)
    shares = torch.rand(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, shares)
    torch.testing.assert_close(y, layer(x, shares))


@pytest.mark.parametrize("name", ["batch", "decorrelated_batch"])
def test_no_samples_and_no_conditions(name):
    layer = build(name).eval()
    for condition in (torch.empty(0, dtype=torch.int64), torch.empty(0, 3), 1):
        assert layer(batch(n=0), condition).shape == (0, 4, 5, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch_instance", "decorrelated_batch"])
def test_compiles_whole(name):
    layer = build(name)
    plain = copy.deepcopy(layer)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for condition in (CONDITIONS, torch.rand(3, 3, dtype=torch.float64)):
        results = []
        for module, table in ((compiled, layer.weight), (plain, plain.weight)):
            y = module(batch(), condition)
            (grad,) = torch.autograd.grad(y.pow(3).sum(), table)
            results.append((y, grad))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_exports_in_evaluation_with_any_batch_size():
    layer = build("batch_instance").eval()
    auto = torch.export.Dim.AUTO
    arguments = (batch(), CONDITIONS)
    exported = torch.export.export(layer, arguments, dynamic_shapes=({0: auto, 2: auto}, {0: auto})).module()
    x, condition = torch.randn(2, 4, 9, 4, dtype=torch.float64), torch.tensor([1, 2])
    torch.testing.assert_close(exported(x, condition), layer(x, condition))


class TestWrongArguments:
    """Each is refused with what would be right."""

    @pytest.mark.parametrize(
        ("condition", "reason"),
        [
            (3, r"condition must be at least 0 and at most 2, got 3"),
            (-1, r"condition must be at least 0 and at most 2, got -1"),
            (torch.tensor([0, 5, 1]), r"condition must be at least 0 and at most 2, got 5"),
            (torch.tensor([0, -2, 1]), r"condition must be at least 0 and at most 2, got -2"),
            (torch.tensor([0, 1]), r"integers of shape \(\) or \(3,\), .* got torch.int64 of shape \(2,\)"),
            (torch.tensor([[0], [1], [2]]), r"got torch.int64 of shape \(3, 1\)"),
            (torch.rand(3, 4), r"a floating dtype and shape \(3,\) or \(3, 3\), got torch.float32 of shape \(3, 4\)"),
            (torch.tensor(0.5), r"got torch.float32 of shape \(\)"),
            (torch.tensor([True, False, True]), "got torch.bool"),
        ],
    )
    def test_conditions(self, condition, reason):
        with pytest.raises(ValueError, match=reason):
            build("batch")(batch(), condition)

    @pytest.mark.parametrize(
        "norm",
        [nn.BatchNorm2d(4), norms.BatchInstanceNorm2d(4), norms.MeanOnlyBatchNorm2d(4), norms.LayerNormPixel(4)],
    )
    def test_norms_with_gamma_or_beta(self, norm):
        with pytest.raises(ValueError, match=f"{type(norm).__name__} .* build the norm with affine=False"):
            ConditionalNorm(norm, 3)

    def test_numbers(self):
        with pytest.raises(ValueError, match="num_conditions must be at least 1, got 0"):
            ConditionalNorm(nn.Identity(), 0, 4)
        with pytest.raises(ValueError, match="Identity does not tell its number of channels: give num_features"):
            ConditionalNorm(nn.Identity(), 3)
        with pytest.raises(ValueError, match="num_features must be the 4 channels of GroupNorm, got 5"):
            ConditionalNorm(nn.GroupNorm(2, 4, affine=False), 3, 5)


class TestRegistry:
    @pytest.mark.parametrize("name", NAMES)
    def test_builds_every_norm_with_conditions(self, name):
        layer = norms.build(name, 8, num_conditions=3)
        assert isinstance(layer, ConditionalNorm)
        assert type(layer.norm) is type(norms.build(name, 8))
        assert layer.weight.shape == (3, 8)

    def test_hands_on_options_and_refuses_a_second_gamma(self):
        assert norms.build("group", 8, num_conditions=3, num_groups=2).norm.num_groups == 2
        with pytest.raises(ValueError, match="build the norm with affine=False"):
            norms.build("batch", 8, num_conditions=3, affine=True)


class TestInAModel:
    def model(self):
        return nn.ModuleList([nn.Conv2d(3, 4, 3), build("batch_instance").float(), norms.SwitchableNorm2d(4)])

    def test_tables_do_not_decay_though_they_are_matrices(self):
        model = self.model()
        groups = {group["name"]: group for group in norms.param_groups(model, 0.5, weight_decay=0.1)}
        decaying = [p for group in groups.values() if group["weight_decay"] for p in group["params"]]
        assert [id(p) for p in decaying] == [id(model[0].weight)]
        affine = [model[0].bias, model[1].weight, model[1].bias, model[2].weight, model[2].bias]
        assert {id(p) for p in groups["affine"]["params"]} == {id(p) for p in affine}
        assert [id(p) for p in groups["rho"]["params"]] == [id(model[1].norm.rho)]

    def test_mixing_values_are_found_inside(self):
        model = self.model()
        values = [row for row in norms.mixing_values(model) if row.kind == "rho"]
        assert {row.layer for row in values} == {"1.norm"}
        assert [row.value for row in values] == model[1].norm.rho.tolist()
        with torch.no_grad():
            model[1].norm.rho.fill_(2)
        norms.project_(model)
        assert model[1].norm.rho.tolist() == [1, 1, 1, 1]


def separate(name, dims=2):
    """Three norms whose parameters and running statistics differ, and the layer of them."""
    built = {f"style{k}": norms.build(name, 4, dims).double() for k in range(3)}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in built.values():
            for parameter in norm.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1)
            norm(batch(dims, seed=7))
    return norms.NormPerCondition(built), list(copy.deepcopy(built).values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_sample_has_the_norm_of_its_condition(name, dims, training):
    layer, alone = separate(name, dims)
    layer.train(training)
    x, conditions = batch(dims), torch.tensor([2, 0, 2])
    outputs = [norm.train(training)(x) for norm in alone]
    torch.testing.assert_close(layer(x, conditions), torch.stack([outputs[k][n] for n, k in enumerate([2, 0, 2])]))
    for norm, other in zip(layer.norms.values(), alone, strict=True):
        torch.testing.assert_close(norm.state_dict(), other.state_dict())


def test_shares_mix_what_the_norms_make():
    layer, alone = separate("batch_instance")
    x, outputs = batch(), [norm.eval()(batch()) for norm in alone]
    layer.eval()
    shares = torch.tensor([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [1.0, -0.5, 2.0]], dtype=torch.float64)
    mixed = [sum(s * y[n] for s, y in zip(row, outputs, strict=True)) for n, row in enumerate(shares)]
    torch.testing.assert_close(layer(x, shares), torch.stack(mixed))
    torch.testing.assert_close(layer(x, shares[2]), layer(x, shares[2].expand(3, -1)))
    for condition in (1, torch.tensor(1), torch.tensor([1, 1, 1], dtype=torch.uint8)):
        torch.testing.assert_close(layer(x, condition), outputs[1])


def test_each_condition_learns_its_own_rho():
    layer, _ = separate("batch_instance")
    layer(batch(), torch.tensor([2, 0, 2])).square().sum().backward()
    grads = [norm.rho.grad for norm in layer.norms.values()]
    assert grads[0].any()
    assert not grads[1].any()
    assert [value.layer for value in norms.mixing_values(layer)][::4] == [f"norms.style{k}" for k in range(3)]
    groups = {group["name"]: group["params"] for group in norms.param_groups(layer, 0.1)}
    assert [len(groups[name]) for name in ("rho", "affine")] == [3, 6]


def test_norms_by_condition_refuse_what_does_not_fit():
    layer, _ = separate("batch")
    assert layer.num_features == 4
    for condition in (3, -1, torch.tensor([0, 1, 3]), torch.tensor([0, 1]), torch.ones(3, 2)):
        with pytest.raises(norms.errors.SettingError, match="condition must be"):
            layer(batch(), condition)
    for impossible in ({}, {"a.b": nn.Identity()}, {"clear": nn.Identity()}):
        with pytest.raises(norms.errors.SettingError, match="names without dots"):
            norms.NormPerCondition(impossible)
