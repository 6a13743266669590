"""Norms by name."""

import re

import pytest
import torch
from torch import nn

import norms
from norms import registry


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


@pytest.mark.parametrize("norm", ["torch.nn.SyncBatchNorm", nn.SyncBatchNorm])
def test_a_class_path_or_a_class_is_as_good_as_a_name(norm):
    layer = norms.build(norm, 4, eps=0.1)
    assert type(layer) is nn.SyncBatchNorm
    assert (layer.num_features, layer.eps) == (4, 0.1)


def test_a_callable_builds_a_norm():
    assert norms.build(lambda channels: nn.GroupNorm(2, channels), 4).num_groups == 2


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ("torch.nn.BatchNorm2", "torch.nn has no BatchNorm2, did you mean 'BatchNorm2d'"),
        ("nowhere.Norm", "there is no module nowhere"),
        (lambda channels: channels, "must build a torch.nn.Module, got int"),
    ],
)
def test_what_builds_no_norm_is_refused(norm, message):
    with pytest.raises(norms.errors.SettingError, match=re.escape(message)):
        norms.build(norm, 4)


class Registered(norms.BatchInstanceNorm2d):
    pass


@pytest.fixture
def _registered(monkeypatch):
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    norms.register("registered", Registered)


@pytest.mark.usefixtures("_registered")
def test_a_registered_norm_has_a_name_and_is_converted_from_and_to():
    assert "registered" in norms.names()
    layer = norms.convert(norms.build("batch_instance", 4, initial_rho=0.3), "registered")
    assert type(layer) is Registered
    assert layer.rho.tolist() == pytest.approx([0.3] * 4)
    assert type(norms.convert(layer, "batch_instance")) is norms.BatchInstanceNorm2d
    with pytest.raises(ValueError, match="not exact, since it normalizes by the mixture of Registered"):
        norms.convert(layer, "batch_instance", exact=True)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("name", "builder", "message"),
    [
        ("batch", Registered, "norm 'batch' exists already"),
        ("a.b", Registered, "has no dots"),
        ("two", (Registered, Registered), "needs one builder, or three"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name, builder, message):
    with pytest.raises(ValueError, match=message):
        norms.register(name, builder)
