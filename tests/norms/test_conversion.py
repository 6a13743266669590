"""Swapping norms: what is carried over, what stays the same function, and what is refused."""

import copy
import itertools
import pickle
import re

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import norms
from norms.conversion import convert

NAMES = [name for name in norms.names() if name != "none"]

# Each a norm of 4 channels in a state of its own, by the function that it is in evaluation.
SOURCES = {
    "batch": lambda: norms.build("batch", 4),
    "batch, untracked": lambda: norms.build("batch", 4, track_running_stats=False),
    "batch, synchronized": lambda: norms.build("batch", 4, sync=True),
    "batch, without gamma and beta": lambda: norms.build("batch", 4, affine=False),
    "batch_renorm": lambda: norms.build("batch_renorm", 4),
    "mean_only_batch": lambda: norms.build("mean_only_batch", 4),
    "decorrelated_batch": lambda: norms.build("decorrelated_batch", 4),
    "instance": lambda: norms.build("instance", 4),
    "instance, tracked": lambda: norms.build("instance", 4, track_running_stats=True),
    "layer": lambda: norms.build("layer", 4),
    "layer_pixel": lambda: norms.build("layer_pixel", 4),
    "group of 2": lambda: norms.build("group", 4, num_groups=2),
    "group of 4": lambda: norms.build("group", 4, num_groups=4),
    "batch_instance": lambda: norms.build("batch_instance", 4),
    "batch_instance, untracked": lambda: norms.build("batch_instance", 4, track_running_stats=False),
    "batch_instance at 1": lambda: with_rho(1.0),
    "batch_instance at 1, untracked": lambda: with_rho(1.0, track_running_stats=False),
    "batch_instance at 0": lambda: with_rho(0.0),
    "switchable": lambda: norms.build("switchable", 4),
    "switchable without batch": lambda: norms.build("switchable", 4, statistics=("instance", "layer")),
    **{f"switchable on {name}": lambda name=name: with_weight_on(name) for name in norms.STATISTICS},
    "one channel, layer": lambda: norms.build("layer", 1),
}

EXACT = {
    "batch": {"batch", "batch_renorm", "batch_instance"},
    "batch, untracked": {"batch", "batch_instance"},
    "batch, synchronized": {"batch", "batch_renorm", "batch_instance"},
    "batch, without gamma and beta": {"batch", "batch_renorm", "batch_instance"},
    "batch_renorm": {"batch", "batch_renorm", "batch_instance"},
    "mean_only_batch": {"mean_only_batch"},
    "decorrelated_batch": {"decorrelated_batch"},
    "instance": {"instance", "group", "batch_instance"},
    "instance, tracked": {"instance", "batch", "batch_renorm", "batch_instance"},
    "layer": {"layer", "group"},
    "layer_pixel": {"layer_pixel"},
    "group of 2": {"group"},
    "group of 4": {"group", "instance", "batch_instance"},
    "batch_instance": {"batch_instance"},
    "batch_instance, untracked": {"batch_instance"},
    "batch_instance at 1": {"batch_instance", "batch", "batch_renorm"},
    "batch_instance at 1, untracked": {"batch_instance", "batch"},
    "batch_instance at 0": {"batch_instance", "instance", "group"},
    "switchable": {"switchable"},
    "switchable without batch": {"switchable"},
    "switchable on instance": {"switchable", "instance", "group", "batch_instance"},
    "switchable on layer": {"switchable", "layer", "group"},
    "switchable on batch": {"switchable", "batch", "batch_renorm", "batch_instance"},
    "one channel, layer": {"layer", "instance", "group", "batch_instance"},
}

# What is converted here has not been trained.
pytestmark = pytest.mark.filterwarnings("ignore:BatchRenorm.* evaluates after fewer than")


def with_rho(value, **options):
    layer = norms.build("batch_instance", 4, **options)
    nn.init.constant_(layer.rho, value)
    layer.rho.requires_grad_(False)  # which randomized() leaves alone
    return layer


def with_weight_on(name):
    layer = norms.build("switchable", 4)
    for logits in layer.mixing_parameters().values():
        with torch.no_grad():
            logits.copy_(torch.tensor([0.0 if name == statistic else -1e4 for statistic in norms.STATISTICS]))
        logits.requires_grad_(False)
    return layer


def randomized(model, seed=0):
    """Random gamma, beta, mixing parameters and running statistics."""
    generator = torch.Generator().manual_seed(seed)

    def uniform_(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and parameter.requires_grad:
                uniform_(parameter, 0.3, 0.9)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                uniform_(buffer, -1, 1)
            elif name.endswith(("running_var", "running_std")):
                uniform_(buffer, 0.5, 2)
            elif name.endswith("running_covariance"):
                uniform_(buffer, -1, 1)
                buffer.copy_(buffer @ buffer.mT + torch.eye(buffer.shape[-1]))
            elif name.endswith("num_batches_tracked"):
                buffer.fill_(7)
    return model


def build(source):
    return randomized(SOURCES[source]()).double()


def batch(channels=4, dims=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    shape = (3, channels, *(5, 4, 3)[:dims])
    level = torch.randn(3, channels, *(1,) * dims, generator=generator)
    return (torch.randn(shape, generator=generator) * 2 + 3 * level).to(dtype)


MODELS = {
    "resnet18": lambda: torchvision.models.resnet18(),
    "vgg11_bn": lambda: torchvision.models.vgg.make_layers([64, "M", 128, "M", 256, 256, "M", 512, 512], True),
    "densenet121": lambda: torchvision.models.densenet121(),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(),
}


class TestNetworks:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_trained_network_stays_the_same_function_to_batch_instance_and_back(self, name):
        model = randomized(MODELS[name]()).double()
        original, x = copy.deepcopy(model), torch.randn(2, 3, 64, 64, dtype=torch.float64)
        count = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        assert convert(model, "batch_instance", exact=True) is model
        assert sum(type(module) is norms.BatchInstanceNorm2d for module in model.modules()) == count > 5
        for training in (False, True, False):
            self.assert_same_function(model, original, x, training)
        convert(model, "batch", exact=True)
        assert sum(type(module) is nn.BatchNorm2d for module in model.modules()) == count
        assert str(model) == str(original)
        self.assert_same_function(model, original, x, training=False)
        for (key, value), expected in zip(model.state_dict().items(), original.state_dict().values(), strict=True):
            torch.testing.assert_close(value, expected, msg=key)

    @staticmethod
    def assert_same_function(model, original, x, training):
        outputs = []
        for each in (model, original):
            torch.manual_seed(0)  # of dropout
            outputs.append(each.train(training)(x).detach())
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6 * outputs[1].abs().max().item())

    def test_also_in_single_precision(self):
        torch.manual_seed(0)
        model = randomized(torchvision.models.resnet18()).eval()
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            before = model(x)
            after = convert(model, "batch_instance")(x)
        assert (after - before).abs().max() <= 1e-6 * before.abs().max() * 4

    def test_an_optimizer_made_before_goes_on(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        before = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
        convert(model, "batch_instance")
        after = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        assert after - {id(model[1].rho)} == set(before)
        gamma = model[1].weight.detach().clone()
        model(torch.randn(2, 3, 6, 6)).square().sum().backward()
        optimizer.step()
        assert (model[1].weight != gamma).all()


@pytest.mark.parametrize("source", SOURCES)
class TestEveryPair:
    @staticmethod
    def build(source):
        return randomized(SOURCES[source]()).double().eval(), batch(1 if "one channel" in source else 4)

    def test_exact_allows_what_leaves_the_function_in_evaluation_alone(self, source):
        layer, x = self.build(source)
        expected, state = layer(x), copy.deepcopy(layer.state_dict())
        allowed = set()
        for to in norms.names():
            try:
                converted = convert(layer, to, exact=True)
            except ValueError as error:
                assert "not exact" in str(error)  # noqa: PT017
                if (source, to) != ("mean_only_batch", "batch_renorm"):  # which starts at a standard deviation of 1
                    assert (convert(layer, to)(x) - expected).abs().max() > 1e-6, to
            else:
                allowed.add(to)
                torch.testing.assert_close(converted(x), expected, rtol=0, atol=1e-12, msg=to)
        assert allowed == EXACT[source]
        for key, value in layer.state_dict().items():
            torch.testing.assert_close(value, state[key], msg=key)

    @pytest.mark.parametrize("to", norms.names())
    def test_becomes_every_other_norm_and_takes_along_what_both_have(self, source, to):
        layer, x = self.build(source)
        new = convert(layer, to)
        for name, tensor in itertools.chain(layer.named_parameters(), layer.named_buffers()):
            if name in new.state_dict() and name not in ("mean_weight", "var_weight"):
                assert getattr(new, name) is tensor, name
        if to not in ("none", "mean_only_batch"):
            assert (new.weight is None) == (layer.weight is None and layer.bias is None)
            assert new.eps == layer.eps
        assert not new.training
        assert all(tensor.dtype == torch.float64 for tensor in new.state_dict().values() if tensor.is_floating_point())
        y = new(x)
        for copied in (copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
            torch.testing.assert_close(copied(x), y)
        fresh = convert(SOURCES[source]().double().eval(), to)
        fresh.load_state_dict(new.state_dict())
        torch.testing.assert_close(fresh(x), y)
        assert new.train()(x).shape == x.shape


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("source", NAMES)
def test_the_number_of_dimensions_stays(source, dims):
    told = {"dims": dims} if source in ("layer", "layer_pixel", "group") else {}
    for to in norms.names():
        layer = convert(norms.build(source, 4, dims), to, **told)
        if to != source:
            assert type(layer) is type(norms.build(to, 4, dims))
        assert layer(batch(4, dims, torch.float32)).shape == batch(4, dims).shape


class TestSettings:
    def test_go_over_to_norms_that_have_them(self):
        layer = convert(nn.BatchNorm2d(4, eps=0.1, momentum=None, affine=False), "batch_instance")
        assert (layer.eps, layer.momentum, layer.weight, layer.track_running_stats) == (0.1, None, None, True)
        layer = convert(convert(layer, "switchable"), "batch", track_running_stats=False)
        assert (layer.eps, layer.momentum, layer.weight, layer.running_mean) == (0.1, None, None, None)

    def test_options_come_before_what_is_carried(self):
        layer = convert(nn.BatchNorm2d(4), "batch_instance", eps=0.1, momentum=0.5, affine=False, initial_rho=0.25)
        assert (layer.eps, layer.momentum, layer.weight) == (0.1, 0.5, None)
        assert layer.rho.tolist() == [0.25] * 4

    def test_of_running_statistics_are_not_taken_from_a_norm_that_has_none(self):
        default = norms.build("batch_renorm", 4)
        for source in ("instance", "layer", "group"):
            layer = convert(norms.build(source, 4), "batch_renorm")
            assert (layer.momentum, layer.running_std.tolist()) == (default.momentum, [1] * 4)
        assert convert(nn.InstanceNorm2d(4), "batch").track_running_stats
        assert convert(norms.build("switchable", 4, statistics=("instance", "layer")), "batch").running_mean is not None

    def test_instance_normalization_gets_no_running_statistics(self):
        assert convert(nn.BatchNorm2d(4), "instance").running_mean is None
        assert convert(nn.BatchNorm2d(4), "instance", track_running_stats=True).running_mean is not None

    def test_what_a_native_norm_keeps_counts_and_not_what_its_attribute_was_set_to(self):
        layer = randomized(nn.BatchNorm2d(4)).double().eval()
        layer.track_running_stats = False
        torch.testing.assert_close(convert(layer, "batch_instance")(batch()), layer(batch()))

    @pytest.mark.parametrize(("source", "rho"), [("batch", 1), ("instance", 0), ("layer", 1)])
    def test_rho_starts_where_the_norm_was(self, source, rho):
        layer = convert(norms.build(source, 4), "batch_instance")
        assert layer.rho.tolist() == [rho] * 4
        assert convert(norms.build(source, 4), "batch_instance", initial_rho=0.5).rho.tolist() == [0.5] * 4

    def test_instance_normalization_stays_it_in_training_and_evaluation(self):
        layer = randomized(norms.build("instance", 4)).double()
        converted = convert(layer, "batch_instance")
        for training in (True, False):
            torch.testing.assert_close(converted.train(training)(batch()), layer.train(training)(batch()))

    def test_a_norm_of_the_same_kind_is_left_alone_without_options(self):
        model = nn.Sequential(norms.SwitchableNorm2d(4), nn.BatchNorm2d(4))
        kept = model[0]
        convert(model, "switchable")
        assert model[0] is kept
        assert type(model[1]) is norms.SwitchableNorm2d

    def test_a_norm_of_the_same_kind_keeps_what_no_option_changes(self):
        layer = randomized(norms.build("switchable", 4, eps=0.1, statistics=("layer", "batch"), sync=True))
        new = convert(layer, "switchable", sparse_steps=9)
        assert (new.sparse_steps, new.eps, new.statistics, new.sync) == (9, 0.1, ("layer", "batch"), True)
        assert new.mean_weight is layer.mean_weight
        assert new.sparse_step == 0
        renorm = convert(norms.build("batch_renorm", 4, r_max=2.0), "batch_renorm", d_max=1.0)
        assert (renorm.r_max, renorm.d_max) == (2.0, 1.0)
        assert convert(nn.GroupNorm(2, 8), "group", eps=0.1).num_groups == 2
        assert convert(nn.GroupNorm(1, 8), "group").num_groups == 4

    def test_weights_of_other_statistics_start_equal(self):
        layer = randomized(norms.build("switchable", 4, statistics=("instance", "layer")))
        new = convert(layer, "switchable", statistics=("layer", "batch"))
        assert new.mixing_values()["mean_weight"].tolist() == [0, 0.5, 0.5]

    @pytest.mark.parametrize("layer", [nn.SyncBatchNorm(4), norms.BatchNorm2d(4, sync=True)])
    def test_synchronization_goes_along(self, layer):
        assert convert(layer, "batch_instance").sync
        batch_norm = convert(layer, "batch")
        assert type(batch_norm) is norms.BatchNorm2d
        assert batch_norm.sync
        assert not convert(nn.BatchNorm2d(4), "batch_instance").sync

    @pytest.mark.parametrize(
        "make",
        [nn.SyncBatchNorm, lambda c, process_group: norms.SwitchableNorm2d(c, sync=True, process_group=process_group)],
    )
    @pytest.mark.parametrize("to", ["torch.nn.SyncBatchNorm", nn.SyncBatchNorm, "batch", "batch_renorm"])
    def test_a_process_group_goes_along(self, make, to):
        group = object()
        assert convert(make(4, process_group=group), to).process_group is group
        assert getattr(convert(norms.SwitchableNorm2d(4), to), "process_group", None) is None


class TestRunningStatistics:
    def test_a_standard_deviation_holds_epsilon(self):
        layer = randomized(nn.BatchNorm2d(4, eps=0.1))
        renorm = convert(layer, "batch_renorm")
        torch.testing.assert_close(renorm.running_std, (layer.running_var + 0.1).sqrt())
        torch.testing.assert_close(convert(renorm, "batch").running_var, layer.running_var)
        assert renorm.num_batches_tracked is layer.num_batches_tracked

    def test_variances_are_the_diagonal_of_a_covariance(self):
        layer = randomized(nn.BatchNorm2d(4))
        whitening = convert(layer, "decorrelated_batch", group_size=2)
        torch.testing.assert_close(torch.block_diag(*whitening.running_covariance), layer.running_var.diag())
        whitening = randomized(norms.build("decorrelated_batch", 4, group_size=2))
        variances = torch.block_diag(*whitening.running_covariance).diagonal()
        torch.testing.assert_close(convert(whitening, "batch").running_var, variances)
        torch.testing.assert_close(convert(whitening, "batch_renorm").running_std, (variances + 1e-5).sqrt())

    def test_the_mean_alone_goes_along_where_there_is_no_variance(self):
        layer = randomized(nn.BatchNorm2d(4))
        mean_only = convert(layer, "mean_only_batch")
        assert mean_only.running_mean is layer.running_mean
        assert convert(mean_only, "batch").running_mean is layer.running_mean

    def test_the_norm_that_was_keeps_its_own(self):
        layer = randomized(nn.BatchNorm2d(4))
        variance = layer.running_var.clone()
        convert(convert(layer, "batch_renorm"), "batch")
        torch.testing.assert_close(layer.running_var, variance, rtol=0, atol=0)


class TestParameters:
    def test_are_frozen_where_the_norm_was(self):
        model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4)).requires_grad_(False)
        model[1].bias.requires_grad_(True)
        convert(model, "batch_instance")
        assert [p.requires_grad for p in model[0].parameters()] == [False] * 3
        assert {name for name, p in model[1].named_parameters() if p.requires_grad} == {"bias", "rho"}

    def test_a_norm_without_bias_stays_without(self):
        layer = randomized(nn.BatchNorm2d(4)).double().eval()
        layer.register_parameter("bias", None)
        for to in NAMES:
            assert convert(layer, to).bias is None
        torch.testing.assert_close(convert(layer, "batch_instance")(batch()), layer(batch()))

    def test_new_ones_are_like_the_nearest(self):
        norm = lambda: nn.InstanceNorm2d(4)  # noqa: E731
        half = nn.Sequential(nn.Conv2d(4, 4, 1).bfloat16(), norm(), norm(), nn.Conv2d(4, 4, 1), norm())
        convert(half, "batch_instance")
        assert [half[i].rho.dtype for i in (1, 2, 4)] == [torch.bfloat16, torch.bfloat16, torch.float32]
        first = convert(nn.Sequential(norm(), nn.Conv2d(4, 4, 1, device="meta")), "batch_instance")
        assert {tensor.device.type for tensor in first.state_dict().values()} == {"meta"}
        assert convert(norm(), "batch_instance").rho.dtype == torch.float32


class Gated(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class TestWhere:
    def test_chooses_by_name_and_norm(self):
        model = nn.ModuleDict({"a": nn.BatchNorm2d(4), "b": nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4))})
        seen = []

        def where(name, norm):
            seen.append((name, type(norm)))
            return name.startswith("b") and isinstance(norm, nn.BatchNorm2d)

        convert(model, "layer", where)
        assert seen == [("a", nn.BatchNorm2d), ("b.0", nn.BatchNorm2d), ("b.1", nn.GroupNorm)]
        assert [type(m) for m in (model["a"], *model["b"])] == [nn.BatchNorm2d, nn.GroupNorm, nn.GroupNorm]
        assert [m.num_groups for m in model["b"]] == [1, 2]

    @pytest.mark.parametrize("place", ["0", "2.0", "2.1"])
    def test_a_norm_at_several_places_stays_one(self, place):
        shared = nn.BatchNorm2d(4)
        model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared, shared))
        convert(model, "batch_instance", lambda name, _: name == place)
        assert type(model[0]) is norms.BatchInstanceNorm2d
        assert model[0] is model[2][0] is model[2][1]

    def test_classes_with_a_forward_of_their_own_are_left_alone(self):
        model = nn.Sequential(Gated(4), nn.BatchNorm2d(4))
        gated = model[0]
        convert(model, "batch_instance")
        assert model[0] is gated
        assert type(model[1]) is norms.BatchInstanceNorm2d

    def test_reaches_the_norm_in_a_conditional_one(self):
        model = randomized(norms.build("batch", 4, num_conditions=2)).double().eval()
        condition = torch.tensor([0, 1, 1])
        expected, tables = model(batch(), condition), (model.weight, model.bias)
        convert(model, "batch_instance", exact=True)
        assert type(model.norm) is norms.BatchInstanceNorm2d
        assert (model.weight, model.bias) == tables
        torch.testing.assert_close(model(batch(), condition), expected)

    def test_a_norm_itself_is_returned_converted(self):
        layer = nn.BatchNorm1d(4)
        assert type(convert(layer, "batch_instance")) is norms.BatchInstanceNorm1d
        assert type(layer) is nn.BatchNorm1d


class TestMistakes:
    @pytest.mark.parametrize(
        ("model", "reason"),
        [
            (nn.Linear(2, 2), "the model has no norm"),
            (nn.Sequential(Gated(4), nn.LayerNorm(4)), "none is known of the model's norms (1 LayerNorm)"),
            (
                nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
                "where chooses none of the model's norms (2 BatchNorm2d)",
            ),
        ],
    )
    def test_nothing_to_convert(self, model, reason):
        with pytest.raises(ValueError, match=f"^nothing to convert: {re.escape(reason)}$"):
            convert(model, "batch", where=lambda *_: False)

    @pytest.mark.parametrize(
        ("to", "options", "message"),
        [
            (
                "batch_instance",
                {"exact": True},
                "it normalizes by statistics of each sample over 2 of 4 channels, which",
            ),
            ("batch_instnace", {}, "unknown norm 'batch_instnace', did you mean 'batch_instance'"),
            ("batch_instance", {"rho": 1}, "norm 'batch_instance' has no option 'rho'"),
            ("batch_instance", {"dims": 4}, "dims=4"),
            ("group", {"num_groups": 3}, "divisible"),
        ],
    )
    def test_leave_the_model_as_it_was_and_name_the_layer(self, to, options, message):
        model = nn.Sequential(nn.BatchNorm2d(6), nn.GroupNorm(2, 4))
        before = list(model)
        with pytest.raises(ValueError, match=rf"^1 \(GroupNorm\): .*{message}"):
            convert(model, to, where=None if options.get("exact") else lambda name, _: name == "1", **options)
        assert all(a is b for a, b in zip(model, before, strict=True))

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"affine": False}, "its weight would be lost"),
            ({"eps": 0.1}, "its eps of 1e-05 would become 0.1"),
            ({"track_running_stats": False}, "by running statistics, which would become statistics of the batch"),
            ({"initial_rho": 0.5}, "which would become running statistics and .* mixed by rho"),
        ],
    )
    def test_options_that_change_the_function_are_not_exact(self, options, reason):
        with pytest.raises(ValueError, match=f"not exact, since .*{reason}"):
            convert(nn.BatchNorm2d(4), "batch_instance", exact=True, **options)

    def test_a_conditional_norm_cannot_stand_for_one_without_conditions(self):
        with pytest.raises(ValueError, match="whose forward takes a condition"):
            convert(nn.BatchNorm2d(4), "batch", num_conditions=2)

    def test_one_gate_between_forbids_the_way_back(self):
        layer = norms.BatchInstanceNorm2d(4)
        with torch.no_grad():
            layer.rho[2] = 0.999
        with pytest.raises(ValueError, match="mixed by rho, which would become running statistics"):
            convert(layer, "batch", exact=True)
        assert type(convert(layer, "batch")) is nn.BatchNorm2d


def test_a_norm_is_converted_to_its_own_name_with_other_options():
    model = nn.Sequential(nn.GroupNorm(1, 4))
    weight = model[0].weight
    norms.convert(model, "layer", eps=1e-3)
    assert (model[0].eps, model[0].num_groups) == (1e-3, 1)
    assert model[0].weight is weight


@pytest.mark.parametrize("norm", ["batch_instance", "switchable"])
def test_features_of_a_converted_network_can_be_extracted(norm):
    model = convert(torchvision.models.resnet18(num_classes=3).eval(), norm)
    extractor = create_feature_extractor(model, ["layer1.0.bn1", "layer3", "fc"])
    x, seen = torch.randn(2, 3, 32, 32), {}
    found = extractor(x)
    for name in found:
        # Copies, since the activation after a norm works in place.
        model.get_submodule(name).register_forward_hook(lambda m, args, y, name=name: seen.update({name: y.relu()}))
    model(x)
    torch.testing.assert_close({name: y.relu() for name, y in found.items()}, seen)
