"""Reading, optimizing and constraining mixing values."""

import copy
import warnings

import pytest
import torch
from torch import nn

import norms
from norms.errors import SettingError
from norms.mixing import freeze_mixing_, report


def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        norms.BatchInstanceNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 2, 3), norms.SwitchableNorm2d(2), nn.BatchNorm2d(2)),
    )


def test_values_are_a_tidy_table_of_effective_weights():
    model = network()
    with torch.no_grad():
        model[1].rho.copy_(torch.tensor([0.0, 0.25, 0.5, 1.0]))
        model[2][1].mean_weight.copy_(torch.tensor([1.0, 2.0, 4.0]).log())
    rows = norms.mixing_values(model)
    rho = [(0, "rho", channel, None, value) for channel, value in enumerate((0.0, 0.25, 0.5, 1.0))]
    assert [r[1:] for r in rows[:4]] == rho
    assert {r.layer for r in rows} == {"1", "2.1"}
    means = {r.statistic: r.value for r in rows if r.kind == "mean_weight"}
    assert means == pytest.approx({"instance": 1 / 7, "layer": 2 / 7, "batch": 4 / 7})
    assert sum(r.value for r in rows if r.kind == "var_weight") == pytest.approx(1)
    assert {r.depth for r in rows if r.layer == "2.1"} == {1}


def test_a_model_without_mixing_layers_has_no_values():
    assert norms.mixing_values(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))) == []


def test_values_do_not_follow_later_training():
    layer = norms.BatchInstanceNorm2d(2)
    values = layer.mixing_values()["rho"]
    nn.init.zeros_(layer.rho)
    assert values.tolist() == [1, 1]


def test_projection_clamps_rho_and_leaves_the_rest():
    model = copy.deepcopy(network())
    with torch.no_grad():
        model[1].rho.copy_(torch.tensor([-0.5, 0.3, 1.0, 7.0]))
        model[2][1].mean_weight.fill_(5)
    norms.project_(model)
    torch.testing.assert_close(model[1].rho.detach(), torch.tensor([0.0, 0.3, 1.0, 1.0]))
    assert model[2][1].mean_weight.tolist() == [5, 5, 5]


def test_rho_leaves_its_upper_bound_when_the_gradient_points_inside():
    # A clamp in the forward pass would have gradient 0 at the start and fail here.
    layer = norms.BatchInstanceNorm2d(2)
    optimizer = torch.optim.SGD(norms.param_groups(layer, lr=0.1), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: norms.project_(layer))
    x = torch.randn(4, 2, 8, 8) + torch.randn(4, 2, 1, 1) * 3
    target = nn.InstanceNorm2d(2)(x)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.mse_loss(layer(x), target).backward()
        optimizer.step()
        assert ((layer.rho >= 0) & (layer.rho <= 1)).all()
    assert layer.rho.max() < 0.1


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = copy.deepcopy(network())
    model[0].bias.requires_grad_(False)
    groups = norms.param_groups(model, lr=0.5, weight_decay=0.1, lr_multipliers={"switch": 2})
    by_name = {g["name"]: g for g in groups}
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert [id(p) for p in by_name["rho"]["params"]] == [id(model[1].rho)]
    assert {id(p) for p in by_name["switch"]["params"]} == {id(p) for p in model[2][1].mixing_parameters().values()}
    assert {n: g["lr"] for n, g in by_name.items()} == {"weights": 0.5, "affine": 0.5, "rho": 5, "switch": 1}
    assert {n: g["weight_decay"] for n, g in by_name.items()} == {"weights": 0.1, "affine": 0, "rho": 0, "switch": 0}
    assert all(p.ndim > 1 for p in by_name["weights"]["params"])


OLDER = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")


@pytest.mark.parametrize(
    ("normalize", "lengths"),
    [
        (norms.weight_norm, "parametrizations.weight.original0"),
        (nn.utils.parametrizations.weight_norm, "parametrizations.weight.original0"),
        pytest.param(nn.utils.weight_norm, "weight_g", marks=OLDER),
    ],
)
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 3), nn.Linear(1, 8), nn.ConvTranspose2d(4, 8, 3, groups=2)], ids=str)
def test_lengths_of_weight_vectors_do_not_decay(layer, normalize, lengths):
    layer = normalize(copy.deepcopy(layer))
    groups = {group["name"]: group for group in norms.param_groups(layer, lr=1, weight_decay=0.1)}
    assert any(p is layer.get_parameter(lengths) for p in groups["affine"]["params"])
    assert groups["affine"]["weight_decay"] == 0
    assert len(groups["weights"]["params"]) == 1


def test_a_network_in_which_nothing_keeps_the_scale_is_told_of():
    conv, norm = nn.Conv2d(3, 4, 3), norms.MeanOnlyBatchNorm2d(4)
    with pytest.warns(UserWarning, match=r"keeps no scale: without norms.weight_norm on the layers before"):
        norms.param_groups(nn.Sequential(conv, norm), lr=1)
    norms.param_groups(nn.Sequential(norms.weight_norm(conv), norm), lr=1)


class Sigmoid(nn.Module):
    def forward(self, logits):
        return logits.sigmoid()

    def right_inverse(self, values):
        return values.logit()


class TestParametrizedRho:
    def build(self):
        model = nn.Sequential(norms.BatchInstanceNorm2d(4, initial_rho=0.7))
        nn.utils.parametrize.register_parametrization(model[0], "rho", Sigmoid())
        return model

    def test_keeps_its_group_and_can_be_frozen(self):
        model = self.build()
        original = model[0].parametrizations.rho.original
        groups = {group["name"]: group["params"] for group in norms.param_groups(model, lr=1)}
        assert len(groups["rho"]) == 1
        assert groups["rho"][0] is original
        freeze_mixing_(model)
        assert not original.requires_grad
        assert not norms.report(model)[0].trained

    def test_is_read_projected_and_binarized_as_what_it_is_in_effect(self):
        model = self.build()
        with torch.no_grad():
            model[0].parametrizations.rho.original.copy_(torch.tensor([-3.0, 0.5, 2.0, 8.0]))
        effective = torch.tensor([-3.0, 0.5, 2.0, 8.0]).sigmoid()
        norms.project_(model)
        torch.testing.assert_close(model[0].mixing_values()["rho"], effective)
        torch.testing.assert_close(norms.report(model)[0].values["rho"], effective)
        norms.binarize_(model)
        assert model[0].rho.tolist() == [0, 1, 1, 1]

    def test_cannot_be_read_from_a_state_alone(self):
        layer = self.build()[0]
        with pytest.raises(SettingError, match="its rho is parametrized by code that no checkpoint has"):
            layer.read_state(layer.state_dict())

    def test_is_a_copy_in_a_copy(self):
        model = copy.deepcopy(self.build())
        torch.testing.assert_close(model[0].mixing_values()["rho"], torch.full((4,), 0.7))


class TestOutOfRange:
    @pytest.mark.parametrize(("value", "told"), [(1.7, True), (-0.2, True), (1.0, False), (1.0001, False)])
    def test_a_forgotten_projection_is_told_of(self, value, told):
        model = network()
        with torch.no_grad():
            model[1].rho[2] = value
        for read in (norms.report, norms.mixing_values):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                read(model)
            texts = [str(warning.message) for warning in caught]
            assert texts == ([text for text in texts if "of '1' lies in" in text and "norms.project_" in text])
            assert len(texts) == told


class TestSingleSamples:
    @pytest.mark.parametrize("norm", [norms.BatchInstanceNorm2d(4), norms.SwitchableNorm2d(4)], ids=str)
    def test_a_batch_of_one_sample_is_told_of_in_training(self, norm):
        x = torch.randn(1, 4, 5, 5)
        with pytest.warns(UserWarning, match="batch of one sample.* cannot learn to choose"):
            norm(x)
        norm.eval()(x)
        norm.train()(x.expand(2, -1, -1, -1))

    def test_norms_without_batch_statistics_want_it(self):
        norms.SwitchableNorm2d(4, statistics=("instance", "layer"))(torch.randn(1, 4, 5, 5))


def test_groups_that_would_be_empty_are_left_out():
    assert [g["name"] for g in norms.param_groups(nn.Conv2d(3, 3, 1, bias=False), lr=1)] == ["weights"]


class TestReport:
    def test_sums_up_each_layer(self):
        model = network()
        with torch.no_grad():
            model[1].rho.copy_(torch.tensor([0.0, 0.05, 0.2, 0.95]))
            model[2][1].mean_weight.copy_(torch.tensor([1.0, 2.0, 5.0]).log())
            model[2][1].var_weight.copy_(torch.tensor([3.0, 3.0, 2.0]).log())
        gate, switch = report(model)
        assert (gate.layer, gate.norm, gate.num_features) == ("1", "BatchInstanceNorm2d", 4)
        assert (switch.layer, switch.norm, switch.num_features) == ("2.1", "SwitchableNorm2d", 2)
        std = ((0.09 + 0.0625 + 0.01 + 0.4225) / 4) ** 0.5
        expected = {"mean": 0.3, "min": 0, "max": 0.95, "std": std, "share_below_0_1": 0.5, "share_above_0_9": 0.25}
        assert gate.summary == {"rho": pytest.approx(expected)}
        assert switch.summary == {
            "mean_weight": pytest.approx({"instance": 1 / 8, "layer": 2 / 8, "batch": 5 / 8}),
            "var_weight": pytest.approx({"instance": 3 / 8, "layer": 3 / 8, "batch": 2 / 8}),
        }
        assert gate.values["rho"].tolist() == pytest.approx([0.0, 0.05, 0.2, 0.95])

    def test_prints_as_a_table(self):
        model = network()
        model[1].rho.requires_grad_(False)
        switch = "instance=0.33 layer=0.33 batch=0.33"
        assert str(report(model)).splitlines() == [
            "1    BatchInstanceNorm2d(4)  rho: mean=1.00 min=1.00 max=1.00 std=0.00 share_below_0_1=0.00"
            " share_above_0_9=1.00; frozen",
            f"2.1  SwitchableNorm2d(2)     mean_weight: {switch}; var_weight: {switch}",
        ]
        assert str(report(model)[1]) == f"2.1  SwitchableNorm2d(2)  mean_weight: {switch}; var_weight: {switch}"
        assert str(report(nn.ReLU())) == ""

    def test_reads_every_dtype_and_is_not_moved_by_later_training(self):
        model = nn.Sequential(norms.BatchInstanceNorm2d(2, dtype=torch.bfloat16), norms.SwitchableNorm2d(2))
        values = report(model)[0].values["rho"]
        nn.init.zeros_(model[0].rho)
        assert values.tolist() == [1, 1]


class TestFreezing:
    def test_stops_and_resumes_the_training_of_mixing_parameters_alone(self):
        model = network()
        model[0].weight.requires_grad_(False)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        freeze_mixing_(model)
        mixing = {"1.rho", "2.1.mean_weight", "2.1.var_weight"}
        assert {name for name, p in model.named_parameters() if p.requires_grad} == trained - mixing
        assert [layer.trained for layer in report(model)] == [False, False]
        assert {group["name"] for group in norms.param_groups(model, 1.0)} == {"weights", "affine"}
        freeze_mixing_(model, frozen=False)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == trained

    def test_holds_for_an_optimizer_with_momentum_that_was_made_before(self):
        layer = norms.BatchInstanceNorm2d(2, initial_rho=0.5)
        optimizer = torch.optim.Adam(norms.param_groups(layer, 0.01), 0.01)
        x = torch.randn(4, 2, 5, 5) + torch.randn(4, 2, 1, 1)

        def step():
            before = layer.rho.detach().clone(), layer.weight.detach().clone()
            layer(x).pow(4).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            return [not torch.equal(a, b) for a, b in zip(before, (layer.rho, layer.weight), strict=True)]

        assert step() == [True, True]
        freeze_mixing_(layer)
        assert step() == [False, True]
        freeze_mixing_(layer, frozen=False)
        assert step() == [True, True]


def test_a_statistic_alone():
    x = torch.randn(3, 4, 5, 5)
    one, two = norms.BatchInstanceNorm2d(4), norms.SwitchableNorm2d(4)
    torch.nn.init.uniform_(one.rho)
    model = nn.Sequential(one, two)
    expected = {
        "batch": nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
        "instance": nn.Sequential(nn.InstanceNorm2d(4), nn.InstanceNorm2d(4)),
        "layer": nn.Sequential(copy.deepcopy(one), nn.GroupNorm(1, 4)),
    }
    for statistic, reference in expected.items():
        forced = copy.deepcopy(model)
        norms.binarize_(forced, statistic)
        torch.testing.assert_close(forced(x), reference(x))
    with pytest.raises(SettingError, match=r"unknown statistic 'group' .*instance, batch, layer"):
        norms.binarize_(model, "group")


@pytest.mark.parametrize(
    ("mixed", "alone", "reference"),
    [
        (("instance", "layer"), "layer", nn.GroupNorm(1, 4)),
        (("layer", "batch"), "batch", nn.BatchNorm2d(4)),
        (("instance", "batch"), "instance", nn.InstanceNorm2d(4)),
    ],
)
def test_a_statistic_alone_of_two_that_a_switch_mixes(mixed, alone, reference):
    x = torch.randn(3, 4, 5, 5)
    layer = norms.SwitchableNorm2d(4, statistics=mixed)
    norms.binarize_(layer, alone)
    torch.testing.assert_close(layer(x), reference(x))
    (missing,) = {"instance", "layer", "batch"} - {*mixed}
    with pytest.raises(SettingError, match=f"unknown statistic '{missing}'"):
        norms.binarize_(layer, missing)
