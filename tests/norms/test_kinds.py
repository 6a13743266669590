"""A kind of mixing value is described once, and all that reads values follows from that."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import norms
from norms import registry
from norms.errors import SettingError
from norms.kinds import BUILTIN, MixingKind
from norms.mixing import binarize_

GATE = MixingKind("gate", high=2.0, neutral=1.5, lr_multiplier=3.0)
BLEND = MixingKind("blend", labels=("left", "right"), optimizer_group="blends")


class Gated(norms.BatchInstanceNorm2d):
    """Batch-instance normalization with rho = gate / 2 * softmax(blend)[0]: two kinds that exist nowhere else."""

    kinds = (GATE, BLEND)

    def __init__(self, num_features, **options):
        super().__init__(num_features, **options)
        del self.rho
        self.gate = nn.Parameter(torch.full((num_features,), GATE.neutral))
        self.blend = nn.Parameter(torch.zeros(2))

    def reset_parameters(self):
        if hasattr(self, "rho"):
            super().reset_parameters()

    def _mixing(self):
        return (self.gate / 2 * self.blend.softmax(0)[0],)

    def mixing_values(self):
        return {"gate": self.gate.detach().clone(), "blend": self.blend.detach().softmax(0)}


def set_(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


def test_a_new_kind_reaches_all_that_reads_values():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Gated(4))
    set_(model[1].gate, [0.1, 1.9, 0.5, 3.0])
    with pytest.warns(UserWarning, match="gate of '1' lies in"):
        (read,) = norms.report(model)
    assert read.summary["gate"]["share_below_0_2"] == 0.25
    assert read.summary["gate"]["share_above_1_8"] == 0.5
    assert read.summary["blend"] == {"left": 0.5, "right": 0.5}
    assert "gate: mean=1.38" in str(read)
    with pytest.warns(UserWarning, match="gate of '1' lies in"):
        rows = norms.mixing_values(model)
    assert [(r.kind, r.channel, r.statistic) for r in rows[3:]] == [
        ("gate", 3, None),
        ("blend", None, "left"),
        ("blend", None, "right"),
    ]
    groups = {g["name"]: g for g in norms.param_groups(model, 0.1, lr_multipliers={"blends": 7})}
    assert groups["gate"]["lr"] == pytest.approx(0.3)
    assert groups["blends"]["lr"] == pytest.approx(0.7)
    assert groups["gate"]["params"] == [model[1].gate]
    norms.project_(model)
    assert model[1].gate.tolist() == pytest.approx([0.1, 1.9, 0.5, 2.0])
    set_(model[1].blend, [0.0, 1.0])
    binarize_(model)
    assert model[1].gate.tolist() == [0, 2, 0, 2]
    assert model[1].mixing_values()["blend"].tolist() == [0, 1]
    norms.freeze_mixing_(model)
    assert not model[1].gate.requires_grad
    assert model[1].weight.requires_grad


@pytest.fixture
def _gated_by_name(monkeypatch):
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    norms.register("gated", Gated)


@pytest.mark.usefixtures("_gated_by_name")
def test_a_registered_norm_is_built_and_converted_by_its_name():
    layer = norms.build("gated", 4, initial_gamma=0.5, momentum=0.2)
    assert type(layer) is Gated
    assert (layer.num_features, layer.momentum) == (4, 0.2)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)).double()
    weight, mean = model[1].weight, model[1].running_mean
    with pytest.raises(SettingError, match=r"not exact, since .* become the mixture of Gated"):
        norms.convert(model, "gated", exact=True)
    assert type(model[1]) is nn.BatchNorm2d
    norms.convert(model, "gated")
    assert type(model[1]) is Gated
    assert model[1].weight is weight
    assert model[1].running_mean is mean
    assert (model[1].eps, model[1].momentum, model[1].gate.dtype) == (1e-3, 0.3, torch.float64)
    set_(model[1].gate, [0.0, 0.5, 1.0, 2.0])
    gated, x = model[1], torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = model.eval()(x)
    norms.convert(model, "gated", exact=True)
    assert model[1] is gated
    norms.convert(model, "gated", momentum=0.7, exact=True)
    assert model[1].momentum == 0.7
    assert torch.equal(model(x), expected)
    assert model[1].gate is gated.gate
    norms.convert(model, "batch")
    assert type(model[1]) is nn.BatchNorm2d
    assert model[1].weight is weight
    assert model[1].eps == 1e-3


def test_a_norm_without_a_name_is_converted_to_but_not_from():
    model = nn.Sequential(nn.BatchNorm2d(4))
    assert type(norms.convert(model, Gated)[0]) is Gated
    with pytest.raises(SettingError, match=r"nothing to convert: none is known of the model's norms \(1 Gated\)"):
        norms.convert(model, "batch")


def test_an_unknown_optimizer_group_is_told_with_what_was_meant():
    with pytest.raises(SettingError, match="unknown optimizer group 'swich', did you mean 'switch'"):
        norms.param_groups(nn.Linear(2, 2), 0.1, lr_multipliers={"swich": 1})


@pytest.mark.parametrize("layer", [norms.BatchInstanceNorm2d(3), norms.SwitchableNorm1d(3)], ids=["rho", "switch"])
def test_labels_and_values_fit(layer):
    for kind in layer.kinds:
        values = layer.mixing_values()[kind.name]
        assert len(values) == (3 if kind.per_channel else len(kind.labels))
        assert values.tolist() == pytest.approx([kind.neutral] * len(values))
        assert tuple(kind.summary(values)) == kind.summary_names


@pytest.mark.parametrize("kind", [*BUILTIN, GATE, BLEND], ids=lambda kind: kind.name)
def test_a_described_kind_is_the_same_kind(kind):
    assert MixingKind.from_dict(kind.to_dict()) == kind == pickle.loads(pickle.dumps(kind))


@given(
    low=st.floats(-5, 5),
    width=st.floats(0.5, 9),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=9),
)
def test_shares_count_the_tenths_at_the_ends_of_any_range(low, width, shares):
    kind = MixingKind("x", low=low, high=low + width)
    values = torch.tensor([low + width * share for share in shares], dtype=torch.float64)
    summary = list(kind.summary(values).values())
    below, above = kind.ends
    assert summary[4:] == [
        pytest.approx((values.numpy() < below).mean()),
        pytest.approx((values.numpy() > above).mean()),
    ]
    assert (below - low) / width == pytest.approx(0.1) == pytest.approx((low + width - above) / width)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"low": 1.0}, "low below high"), ({"log_key": "x/y"}, "must name the {layer}")]
)
def test_a_kind_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(SettingError, match=message):
        MixingKind("x", **arguments)


def state_of(layer):
    return dict(layer.state_dict())


@pytest.mark.parametrize(
    "layer",
    [
        norms.BatchInstanceNorm2d(3, initial_rho=0.25),
        norms.SwitchableNorm2d(3),
        norms.SwitchableNorm2d(3, statistics=("instance", "layer")),
        norms.SwitchableNorm2d(3, sparse_steps=4),
    ],
    ids=["rho", "switch", "two", "sparse"],
)
def test_values_are_read_from_a_state_alone(layer):
    for kind in layer.kinds:
        if not kind.per_channel:
            parameter = layer.mixing_parameters()[kind.name]
            set_(parameter, [0.3, -0.2, 0.1][: len(parameter)])
    read = type(layer).read_state(state_of(layer))
    expected = layer.mixing_values()
    assert read.keys() == expected.keys()
    for name, values in read.items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=0)


def test_a_state_of_another_layer_or_one_that_does_not_say_enough_is_not_read():
    assert norms.SwitchableNorm2d.read_state(state_of(norms.BatchInstanceNorm2d(3))) is None
    two = norms.SwitchableNorm2d(3, statistics=("instance", "batch"))
    with pytest.raises(SettingError, match="mixes 2 statistics, and does not say which"):
        norms.SwitchableNorm2d.read_state(state_of(two))
    read = norms.SwitchableNorm2d.read_state(state_of(two), statistics=["batch", "instance"])
    assert read["mean_weight"].tolist() == [0.5, 0, 0.5]


def test_gates_go_to_the_nearer_end_and_switches_to_the_largest_weight():
    gated, switched = norms.BatchInstanceNorm2d(5), norms.SwitchableNorm2d(5)
    set_(gated.rho, [0, 0.49, 0.5, 0.51, 1])
    set_(switched.mean_weight, [0.1, 0.3, 0.2])
    set_(switched.var_weight, [-1.0, -1, -2])
    binarize_(nn.ModuleList([gated, switched, nn.BatchNorm2d(2)]))
    assert gated.rho.tolist() == [0, 0, 1, 1, 1]
    assert switched.mixing_values()["mean_weight"].tolist() == [0, 1, 0]
    assert switched.mixing_values()["var_weight"].tolist() == [1, 0, 0]


@pytest.mark.parametrize("largest", range(3))
@pytest.mark.parametrize("sparse_steps", [None, 10])
def test_a_binarized_switch_is_the_norm_of_its_statistic(largest, sparse_steps):
    layer = norms.SwitchableNorm2d(4, affine=False, sparse_steps=sparse_steps)
    for parameter in (layer.mean_weight, layer.var_weight):
        nn.init.zeros_(parameter)
        parameter.data[largest] = 0.5
    if sparse_steps:
        layer.radius.fill_(0.3)
    binarize_(layer)
    x = torch.randn(3, 4, 5, 5)
    running = nn.BatchNorm2d(4, affine=False)
    expected = (nn.InstanceNorm2d(4), nn.GroupNorm(1, 4, affine=False), running)[largest]
    torch.testing.assert_close(layer.eval()(x), expected.eval()(x))


def test_two_statistics_snap_to_one():
    layer = norms.SwitchableNorm2d(4, statistics=("instance", "batch"))
    set_(layer.mean_weight, [0.0, 1.0])
    binarize_(layer)
    assert layer.mixing_values()["mean_weight"].tolist() == [0, 0, 1]
    assert layer.mixing_values()["var_weight"].tolist() == [1, 0, 0]
