"""Norms by name."""

import functools

import pytest
import torch
from torch import nn

import norms
from norms import registry
from norms.errors import SettingError


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", norms.names())
def test_every_name_builds_a_layer_that_keeps_the_shape(name, dims):
    x = torch.randn(2, 8, *(4,) * dims)
    layer = norms.build(name, 8, dims)
    assert layer(x).shape == x.shape
    affine = {key: len(value) for key, value in layer.named_parameters() if key in ("weight", "bias")}
    learned = {"none": set(), "mean_only_batch": {"bias"}}.get(name, {"weight", "bias"})
    assert affine == dict.fromkeys(learned, 8)


@pytest.mark.parametrize("name", [name for name in norms.names() if name != "none"])
def test_gamma_and_beta_can_be_left_out(name):
    parameters = dict(norms.build(name, 8, affine=False).named_parameters())
    assert not {"weight", "bias"} & set(parameters)


def test_the_two_layer_norms_average_over_what_their_names_say():
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64) * 3 + 1
    sample = norms.build("layer", 8).double()(x)
    pixel = norms.build("layer_pixel", 8).double()(x)
    torch.testing.assert_close(sample.mean((1, 2, 3)), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(pixel.mean(1), torch.zeros(2, 5, 5, dtype=torch.float64))
    torch.testing.assert_close(pixel.var(1, correction=0), torch.ones(2, 5, 5, dtype=torch.float64), rtol=1e-3, atol=0)
    assert (sample - pixel).abs().max() > 0.1


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (16, 8), (32, 16), (64, 32), (256, 32), (48, 16)])
def test_groups_hold_at_least_two_channels_unless_told_otherwise(channels, groups):
    assert norms.build("group", channels).num_groups == groups
    assert norms.build("group", channels, num_groups=channels).num_groups == channels


@pytest.mark.parametrize(
    ("name", "guess"), [("batch_instnace", "'batch_instance'"), ("switch", "'switchable'"), ("Group", "'group'")]
)
def test_a_misspelled_name_is_answered_with_the_nearest(name, guess):
    with pytest.raises(ValueError, match=f"unknown norm '{name}', did you mean {guess}"):
        norms.build(name, 4)


def test_a_name_like_no_other_is_answered_with_the_list():
    with pytest.raises(ValueError, match=rf"unknown norm 'xyz' \(known: {', '.join(norms.names())}\)"):
        norms.build("xyz", 4)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("batch", {"rho": 1}, "norm 'batch' has no option 'rho' .*momentum"),
        ("none", {"eps": 1}, "it has no options"),
        ("batch_instance", {"initial_rho": 2.0}, "initial_rho must be at least 0 and at most 1, got 2.0"),
        ("group", {"num_groups": 3}, "divisible"),
    ],
)
def test_wrong_options_are_refused(name, options, reason):
    with pytest.raises(ValueError, match=reason):
        norms.build(name, 4, **options)


@pytest.mark.parametrize("dims", [0, 4])
def test_other_dims_are_refused(dims):
    with pytest.raises(ValueError, match=f"1, 2 or 3 spatial dimensions, got dims={dims}"):
        norms.build("batch", 4, dims=dims)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_native_layers_stay_native_unless_they_are_to_share_statistics(dims):
    batch, instance = (getattr(nn, f"{kind}Norm{dims}d") for kind in ("Batch", "Instance"))
    assert type(norms.build("batch", 4, dims)) is batch
    assert type(norms.build("instance", 4, dims)) is instance
    shared = norms.build("batch", 4, dims, sync=True, initial_gamma=0.5)
    assert type(shared) is getattr(norms, f"BatchNorm{dims}d")
    assert shared.sync
    assert shared.weight.tolist() == [0.5] * 4


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("batch_renorm", "BatchRenorm"),
        ("mean_only_batch", "MeanOnlyBatchNorm"),
        ("decorrelated_batch", "DecorrelatedBatchNorm"),
        ("batch_instance", "BatchInstanceNorm"),
        ("switchable", "SwitchableNorm"),
    ],
)
def test_a_name_stands_for_the_class_of_the_dimension(name, kind, dims):
    layer = norms.build(name, 4, dims, sync=True)
    assert type(layer) is getattr(norms, f"{kind}{dims}d")
    assert layer.sync


class Scaled(nn.Module):
    """Somebody else's norm."""

    def __init__(self, channels, factor=2.0):
        super().__init__()
        self.channels, self.factor = channels, factor

    def forward(self, x):
        return x * self.factor


class Open(norms.BatchInstanceNorm2d):
    def __init__(self, num_features, extra=0, **options):
        super().__init__(num_features, **options)
        self.extra = extra


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    return norms.register


@pytest.mark.parametrize(
    ("norm", "kind", "options"),
    [
        ("torch.nn.SyncBatchNorm", nn.SyncBatchNorm, {"momentum": 0.5}),
        ("norms.SwitchableNorm1d", norms.SwitchableNorm1d, {"sparse_steps": 5}),
        (nn.BatchNorm1d, nn.BatchNorm1d, {"eps": 0.5}),
        (Scaled, Scaled, {"factor": 3.0}),
        (lambda channels, factor=1.0: Scaled(channels, factor), Scaled, {"factor": 3.0}),
        (functools.partial(Scaled, factor=3.0), Scaled, {}),
    ],
)
def test_class_paths_classes_and_functions_are_built_as_names_are(norm, kind, options):
    layer = norms.build(norm, 8, **options)
    assert type(layer) is kind
    assert getattr(layer, "num_features", getattr(layer, "channels", None)) == 8
    assert {name: getattr(layer, name) for name in options} == options
    assert getattr(layer, "factor", 3.0) == 3.0


def test_a_class_path_is_told_the_condition_like_a_name():
    layer = norms.build("torch.nn.SyncBatchNorm", 4, num_conditions=3)
    assert isinstance(layer, norms.ConditionalNorm)
    assert layer.norm.weight is None
    assert norms.build(Scaled, 4, num_conditions=3).weight.shape == (3, 4)
    with pytest.raises(SettingError, match="BatchNorm2d has a gamma or beta of its own"):
        norms.build(lambda channels: nn.BatchNorm2d(channels), 4, num_conditions=3)


@pytest.mark.parametrize(
    ("norm", "options", "reason"),
    [
        ("torch.nn.SynkBatchNorm", {}, r"^norm 'torch.nn.SynkBatchNorm' cannot be imported: .*SynkBatchNorm"),
        ("no_such_package.Norm", {}, "^norm 'no_such_package.Norm' cannot be imported: No module named"),
        ("torch..nn", {}, "^norm 'torch..nn' cannot be imported"),
        ("torch.nn", {}, "^norm 'torch.nn' must be a class or function, got a module"),
        ("math.sqrt", {}, "^norm 'math.sqrt' must build a torch.nn.Module, got a float"),
        ("torch.nn.GroupNorm", {}, "^norm 'torch.nn.GroupNorm' cannot be built .*missing .*'num_channels'"),
        (Scaled, {"faktor": 1.0}, r"^norm 'Scaled' has no option 'faktor', did you mean 'factor'\? \(.* factor\)$"),
        (Open, {"initial_roh": 1.0}, "^norm 'Open' has no option 'initial_roh', did you mean 'initial_rho'"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(norm, options, reason):
    with pytest.raises(SettingError, match=reason) as caught:
        norms.build(norm, 4, **options)
    assert "\n" not in str(caught.value)


def test_options_that_are_handed_on_to_a_base_are_options():
    layer = norms.build(Open, 4, extra=7, initial_rho=0.25, momentum=0.5)
    assert (layer.extra, layer.initial_rho, layer.momentum) == (7, 0.25, 0.5)
    assert norms.build(Open, 4, num_conditions=2).norm.weight is None
    known = registry.option_names(Open)
    assert known[0] == "extra"
    assert set(known) == {"extra", *registry.option_names("batch_instance")}


def test_a_class_that_uses_any_option_itself_gets_them():
    class Any(nn.Module):
        def __init__(self, channels, **options):
            super().__init__()
            self.options = options

    assert norms.build(Any, 4, whatever=1).options == {"whatever": 1}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_registered_name_is_as_good_as_any(registered, dims):
    registered("scaled", Scaled)
    registered("sync", (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
    assert norms.names()[-2:] == ["scaled", "sync"]
    assert norms.build("scaled", 4, dims, factor=5.0).factor == 5.0
    assert type(norms.build("sync", 4, dims)) is getattr(nn, f"BatchNorm{dims}d")
    with pytest.raises(SettingError, match="unknown norm 'scald', did you mean 'scaled'"):
        norms.build("scald", 4)
    registered("scaled", lambda channels: Scaled(channels, 7.0))
    assert norms.build("scaled", 4).factor == 7.0


@pytest.mark.parametrize(
    ("name", "builder", "reason"),
    [
        ("batch", Scaled, "a name of its own, without a dot, got 'batch'"),
        ("my.norm", Scaled, "without a dot, got 'my.norm'"),
        ("", Scaled, "a name of its own"),
        ("pair", (Scaled, Scaled), "needs one builder, or three for 1, 2 and 3 dimensions"),
        ("three", (Scaled, Scaled, "Scaled"), "needs one builder, or three"),
    ],
)
def test_what_cannot_be_registered(registered, name, builder, reason):
    with pytest.raises(SettingError, match=reason):
        registered(name, builder)
