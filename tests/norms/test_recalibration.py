"""Recalibration: closed forms, second implementations, splits, processes, and what it leaves alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from distributed import run_on_two
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import update_bn

import norms
from norms.conditional import ConditionalNorm
from norms.recalibration import recalibrate

FAMILY = ["batch", "batch_instance", "switchable", "batch_renorm", "mean_only_batch", "decorrelated_batch"]
OWN = FAMILY[1:]
OPTIONS = {"decorrelated_batch": {"group_size": 2}, "instance": {"track_running_stats": True}}
SIZES = (4, 3, 1)


def build(name, channels=4, dims=2, **options):
    """A layer in float64 with parameters and running statistics unlike the initial ones."""
    layer = norms.build(name, channels, dims, **OPTIONS.get(name, {}), **options).double()
    generator = torch.Generator().manual_seed(7)
    for value in layer.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.3)
    return layer


def data(sizes=SIZES, channels=4, dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (channels, *(5, 4, 3)[:dims])
    return [
        torch.randn(n, *shape, generator=generator, dtype=torch.float64) * (i + 1) + 3 * i for i, n in enumerate(sizes)
    ]


def tracked(name, layer, x):
    """What the layer tracks of ``x``, by its definition."""
    values = x.transpose(0, 1).flatten(1)
    if name == "mean_only_batch":
        return [values.mean(1)]
    if name == "batch_renorm":
        return [values.mean(1), torch.sqrt(values.var(1, correction=0) + layer.eps)]
    if name == "decorrelated_batch":
        groups = values.split(layer.running_covariance.shape[-1])
        return [values.mean(1), torch.stack([torch.cov(group) for group in groups])]
    return [values.mean(1), values.var(1)]


def running(layer):
    return [value for name, value in layer.named_buffers() if "running_" in name]


def assert_close(actual, expected, **tolerances):
    assert len(actual) == len(expected) > 0
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerances)


def everything(model):
    """All that recalibration may change for a while."""
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [
            (len(m._forward_pre_hooks), len(m._forward_hooks), len(m._forward_pre_hooks_with_kwargs))
            for m in model.modules()
        ],
        [{k: v for k, v in vars(m).items() if isinstance(v, bool | int | float | None)} for m in model.modules()],
    )


def assert_unchanged(model, before):
    after = everything(model)
    assert after[0].keys() == before[0].keys()
    assert all(torch.equal(value, before[0][name]) for name, value in after[0].items())
    assert after[1:] == before[1:]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", FAMILY)
def test_a_first_layer_gets_the_statistics_of_all_data(name, dims):
    layer = build(name, dims=dims)
    batches = data(dims=dims)
    assert recalibrate(layer, iter(batches)) is layer
    assert_close(running(layer), tracked(name, layer, torch.cat(batches)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FAMILY)
def test_a_first_layer_gets_the_average_over_batches_weighted_by_size(name):
    layer = build(name)
    batches = data()
    expected = [
        sum(n * value for n, value in zip(SIZES, values, strict=True)) / sum(SIZES)
        for values in zip(*(tracked(name, layer, batch) for batch in batches), strict=True)
    ]
    recalibrate(layer, batches, "minibatch")
    assert_close(running(layer), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimate", ["population", "minibatch"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_instance_norm_gets_the_average_over_instances(dims, estimate):
    layer = build("instance", dims=dims)
    batches = data(dims=dims)
    planes = torch.cat(batches).flatten(2)
    single = batches.pop()[0]
    recalibrate(layer, [*batches, single], estimate)
    assert_close(running(layer), [planes.mean(2).mean(0), planes.var(2).mean(0)], rtol=1e-12, atol=1e-12)


def test_values_without_positions():
    layer = nn.BatchNorm1d(4).double()
    batches = [torch.randn(n, 4, dtype=torch.float64) for n in (5, 2)]
    recalibrate(layer, batches)
    assert_close(running(layer), tracked("batch", layer, torch.cat(batches)), rtol=1e-12, atol=1e-12)


@given(cuts=st.sets(st.integers(1, 11), max_size=6), name=st.sampled_from(FAMILY), offset=st.sampled_from([0, 1e6]))
def test_how_the_data_are_split_does_not_matter(cuts, name, offset):
    [x] = data(sizes=(12,))
    x = x + offset
    parts = x.tensor_split(sorted(cuts))
    layer = build(name)
    recalibrate(layer, parts)
    assert_close(running(layer), tracked(name, layer, x), rtol=1e-9, atol=1e-8)


def test_float32_inputs_far_from_zero():
    x = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0)) + 1e4
    layer = recalibrate(nn.BatchNorm2d(2), x.split(5))
    torch.testing.assert_close(layer.running_var.double(), x.double().var((0, 2, 3)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("estimate", ["population", "minibatch"])
@pytest.mark.parametrize("first", ["batch", "batch_renorm"])
def test_deeper_layers_see_what_batch_statistics_make_of_the_data(first, estimate):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), build(first), nn.ReLU(), nn.Dropout(), nn.BatchNorm2d(4)).double()
    inputs, batches = [], data(sizes=(3, 3, 3))
    for batch in batches:
        x = F.conv2d(batch, model[0].weight, model[0].bias)
        inputs.append(
            F.batch_norm(x, None, None, model[1].weight, model[1].bias, training=True, eps=model[1].eps).relu()
        )
    moments = [tracked("batch", None, x) for x in inputs]
    expected = {
        "population": tracked("batch", None, torch.cat(inputs)),
        "minibatch": [sum(values) / 3 for values in zip(*moments, strict=True)],
    }
    recalibrate(model, batches, estimate)
    assert_close(running(model[4]), expected[estimate], rtol=1e-10, atol=1e-10)


def test_the_average_over_minibatches_is_that_of_torch():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
    ).double()
    theirs = copy.deepcopy(model)
    batches = data(sizes=(3, 3, 3))
    update_bn(batches, theirs)
    recalibrate(model, batches, "minibatch")
    for layer in (1, 4):
        assert_close(running(model[layer]), running(theirs[layer]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [tuple, list])
def test_batches_with_labels_are_taken_as_update_bn_takes_them(kind):
    inputs = data()
    reference = recalibrate(build("batch"), inputs)
    recalibrated = recalibrate(build("batch"), [kind((x, torch.zeros(len(x)))) for x in inputs])
    assert_close(recalibrated.running_var, reference.running_var)
    loader = torch.utils.data.DataLoader(list(zip(inputs[0], range(len(inputs[0])), strict=True)), batch_size=2)
    assert_close(
        recalibrate(build("batch"), loader).running_mean, recalibrate(build("batch"), [inputs[0]]).running_mean
    )


def test_evaluation_uses_the_new_statistics():
    layer = build("switchable")
    batches = data()
    values = torch.cat(batches).transpose(0, 1).flatten(1)
    recalibrate(layer, batches).eval()
    x = data(sizes=(2,), seed=1)[0]
    column = (1, -1, 1, 1)
    means = [x.mean((2, 3), keepdim=True), x.mean((1, 2, 3), keepdim=True), values.mean(1).reshape(column)]
    variances = [
        x.var((2, 3), correction=0, keepdim=True),
        x.var((1, 2, 3), correction=0, keepdim=True),
        values.var(1).reshape(column),
    ]
    shares = [torch.exp(w) / torch.exp(w).sum() for w in (layer.mean_weight, layer.var_weight)]
    mean, variance = (
        sum(w * m for w, m in zip(*pair, strict=True)) for pair in zip(shares, (means, variances), strict=True)
    )
    expected = (x - mean) / torch.sqrt(variance + layer.eps) * layer.weight.reshape(column) + layer.bias.reshape(column)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("name", FAMILY)
def test_former_statistics_do_not_matter(name):
    torch.manual_seed(0)
    model = nn.Sequential(build(name), nn.Conv2d(4, 4, 3).double(), build(name))
    other = copy.deepcopy(model)
    for layer in (other[0], other[2]):
        for value in running(layer):
            value.mul_(5).add_(3)
    for m in (model, other):
        recalibrate(m, data())
    assert_close(running(other[2]), running(model[2]), rtol=0, atol=0)


def network():
    torch.manual_seed(0)
    layers = [
        spectral_norm(nn.Conv2d(4, 4, 3)),
        build("batch_instance"),
        nn.Dropout(0.5),
        nn.BatchNorm2d(4, momentum=None),
    ]
    model = nn.Sequential(*layers, build("instance")).double()
    model[1].eval()
    return model


def test_nothing_but_running_statistics_changes():
    model = network()
    before = everything(model)
    random_state = torch.get_rng_state()
    recalibrate(model, data())
    assert torch.equal(torch.get_rng_state(), random_state)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[0][name])}
    assert changed == {f"{layer}.running_{kind}" for layer in (1, 3, 4) for kind in ("mean", "var")}
    assert everything(model)[1:] == before[1:]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["batches", "forward"])
def test_an_exception_leaves_everything_as_it_was(where, error):
    model = network()
    before = everything(model)
    seen = []

    def batches():
        for batch in data():
            seen.append(len(batch))
            if where == "batches" and len(seen) == 3:
                raise error
            yield batch

    def forward(network, batch):
        network(batch)
        if where == "forward" and len(seen) == 3:
            raise error

    with pytest.raises(error):
        recalibrate(model, batches(), forward=forward)
    assert len(seen) == 3
    assert_unchanged(model, before)


def test_a_layer_used_twice_pools_all_its_inputs():
    layer = nn.BatchNorm2d(4).double()
    first, second = data(sizes=(3, 2))

    def forward(model, batch):
        model(batch)
        model(input=second)

    recalibrate(layer, [first], forward=forward)
    assert_close(running(layer), tracked("batch", layer, torch.cat([first, second])), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FAMILY)
def test_norms_inside_of_conditional_norms(name):
    model = ConditionalNorm(build(name, affine=False), 3).double()
    recalibrate(model, data(), forward=lambda model, batch: model(batch, 1))
    assert_close(running(model), tracked(name, model.norm, torch.cat(data())), rtol=1e-12, atol=1e-12)


def test_a_layer_without_inputs_keeps_its_statistics():
    model = nn.ModuleList([build("batch"), build("batch")])
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, data(), forward=lambda model, batch: model[0](batch))
    assert torch.equal(model[1].running_var, before["1.running_var"])
    assert not torch.equal(model[0].running_var, before["0.running_var"])


def test_an_empty_batch_adds_nothing():
    layer = build("batch_instance")
    recalibrate(layer, [*data(), torch.zeros(0, 4, 5, 4, dtype=torch.float64)])
    assert_close(running(layer), tracked("batch", layer, torch.cat(data())), rtol=1e-12, atol=1e-12)


def test_a_model_without_running_statistics_needs_no_data():
    def batches():
        raise AssertionError("not needed")
        yield

    model = nn.Sequential(nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False))
    assert recalibrate(model, batches()) is model


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, r"^batches is empty: statistics need at least one batch$"),
        (
            data(),
            {"forward": lambda model, batch: None},
            r"^none of the model's 1 norms with running statistics was re",
        ),
        (data(), {"estimate": "moving"}, r"^unknown estimate 'moving' \(known: population, minibatch\)$"),
        (
            [data()[0] / 0],
            {},
            r"^the statistics of BatchInstanceNorm2d '0' over 80 values .* are not finite: its inputs",
        ),
        ([data()[0][:1, :, :1, :1]], {}, r"^the statistics of BatchInstanceNorm2d '0' over 1 values .* too few"),
    ],
)
def test_errors_change_nothing(batches, options, message):
    model = nn.Sequential(build("batch_instance"))
    before = everything(model)
    with pytest.raises(ValueError, match=message):
        recalibrate(model, batches, **options)
    assert_unchanged(model, before)


def test_a_single_value_has_a_mean():
    x = torch.tensor([[[[3.0]]], [[[5.0]]]])
    layer = recalibrate(norms.build("mean_only_batch", 1), [x[:1]])
    assert layer.running_mean.item() == 3
    recalibrate(layer, [x[:1], x[1:]])
    assert layer.running_mean.item() == 4


@pytest.mark.filterwarnings("ignore:BatchInstanceNorm2d trains on a batch of one sample")
def test_compiled_models():
    model = nn.Sequential(build("batch_instance"), build("batch"))
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    for batch in data():
        model(batch), compiled(batch)
    for m in (model, compiled):
        for seed in (1, 2):
            assert recalibrate(m, data(seed=seed)) is m
    assert_close(running(compiled), running(model), rtol=1e-10, atol=1e-10)


def test_synchronized_layers_of_torch_take_part():
    # They refuse to train on a CPU.
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(4))).double()
    recalibrate(model, data())
    assert_close(running(model[0]), tracked("batch", None, torch.cat(data())), rtol=1e-12, atol=1e-12)


def deep(name, **options):
    torch.manual_seed(0)
    return nn.Sequential(build(name, **options), nn.Conv2d(4, 4, 3).double(), build(name, **options))


TOGETHER = [
    ("batch", {}, "population", True),
    *((name, {"sync": True}, "population", False) for name in OWN),
    ("batch_renorm", {}, "minibatch", False),
    ("instance", {}, "population", False),
]


def recalibrate_in_a_process(rank):
    # The parts differ in length: layers or a wrapper that waited for the other process would wait for ever.
    part = data()[:1] if rank else data()[1:]
    together = []
    for name, options, estimate, wrap in TOGETHER:
        model = deep(name, **options)
        recalibrate(DistributedDataParallel(model) if wrap else model, part, estimate)
        together.append(running(model))
    alone = deep("batch_instance", sync=True)
    if rank == 0:
        recalibrate(alone, data(), sync=False)
    fed_by_other = recalibrate(build("batch"), data() if rank else [])
    with pytest.raises(ValueError, match=r"^batches is empty"):
        recalibrate(build("batch"), [])
    return {"together": together, "alone": running(alone), "fed_by_other": running(fed_by_other)}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return run_on_two(recalibrate_in_a_process, tmp_path_factory.mktemp("processes"))


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(TOGETHER)), ids=[case[0] for case in TOGETHER])
def test_two_processes_pool_what_they_saw(case, processes):
    name, options, estimate, _ = TOGETHER[case]
    first, second = (process["together"][case] for process in processes)
    assert_close(first, second, rtol=0, atol=0)
    alone = recalibrate(deep(name, **options), data(), estimate)
    assert_close(first, running(alone), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_one_process_needs_no_other_without_sync(processes):
    first, second = (process["alone"] for process in processes)
    assert_close(first, running(recalibrate(deep("batch_instance"), data())), rtol=1e-10, atol=1e-10)
    assert_close(second, running(deep("batch_instance")), rtol=0, atol=0)


@pytest.mark.slow
def test_a_process_without_data_gets_the_statistics_of_the_other(processes):
    for process in processes:
        assert_close(process["fed_by_other"], tracked("batch", None, torch.cat(data())), rtol=1e-10, atol=1e-10)
