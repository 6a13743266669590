"""Synchronizing whole models, and what two processes learn against what one does."""

import copy
import pickle

import pytest
import torch
from distributed import run_on_two
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import norms
from norms.synchronize import desynchronize_, synchronize_

NATIVE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
OURS = (norms.BatchNorm1d, norms.BatchNorm2d, norms.BatchNorm3d)
WITH_BATCH_STATISTICS = ("batch_renorm", "mean_only_batch", "batch_instance", "switchable")


class Derived(nn.BatchNorm2d):
    """May do anything."""


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        norms.BatchInstanceNorm2d(4, initial_rho=0.7),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
        nn.BatchNorm1d(3),
    ).double()


def train(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for batch in batches:
        optimizer.zero_grad()
        (model(batch) - 1).pow(4).mean().backward()
        optimizer.step()


def images():
    """Three batches of four images of different contrast."""
    noise = torch.randn(3, 4, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return noise * torch.arange(1, 5).reshape(4, 1, 1, 1)


def train_on_a_half(rank):
    weights = {}
    for sync in (True, False):
        model = synchronize_(network()) if sync else network()
        train(DistributedDataParallel(model), images()[:, 2 * rank : 2 * rank + 2])
        weights[sync] = dict(desynchronize_(model).state_dict())
    return weights


def share_in_groups(rank):
    """What a layer makes of this process's batch in a group of both processes, and in one of its own."""
    alone, both = [distributed.new_group([process]) for process in range(2)][rank], distributed.new_group([0, 1])
    torch.manual_seed(rank)
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64) + rank
    found = {"x": x}
    for kind in (norms.BatchNorm2d, norms.BatchInstanceNorm2d, norms.DecorrelatedBatchNorm2d):
        options = {"group_size": 2} if kind is norms.DecorrelatedBatchNorm2d else {}
        for name, group in (("alone", alone), ("both", both)):
            layer = kind(4, sync=True, process_group=group, **options).double()
            inputs = x.clone().requires_grad_()
            y = layer(inputs)
            y.pow(3).sum().backward()
            found[f"{kind.__name__} {name}"] = [y.detach(), inputs.grad, layer.running_mean]
    model = norms.convert(nn.Sequential(nn.SyncBatchNorm(4, process_group=alone)), "batch_instance")
    found["kept"] = model[0].sync and model[0].process_group is alone
    model = synchronize_(nn.Sequential(nn.BatchNorm2d(4), norms.SwitchableNorm2d(4)), process_group=alone)
    found["given"] = all(layer.sync and layer.process_group is alone for layer in model)
    average = torch.optim.swa_utils.AveragedModel(model).module
    found["copied"] = (
        all(layer.process_group is alone for layer in average) and average[0].weight is not model[0].weight
    )
    return found


@pytest.mark.slow
def test_statistics_are_shared_within_a_process_group(tmp_path):
    results = run_on_two(share_in_groups, tmp_path)
    whole = torch.cat([found["x"] for found in results])
    for kind in (norms.BatchNorm2d, norms.BatchInstanceNorm2d, norms.DecorrelatedBatchNorm2d):
        options = {"group_size": 2} if kind is norms.DecorrelatedBatchNorm2d else {}
        for name, inputs in (("both", whole), ("alone", None)):
            for rank, found in enumerate(results):
                x = (found["x"] if inputs is None else inputs).clone().requires_grad_()
                layer = kind(4, **options).double()
                y = layer(x)
                y.pow(3).sum().backward()
                own = slice(None) if inputs is None else slice(3 * rank, 3 * rank + 3)
                torch.testing.assert_close(
                    found[f"{kind.__name__} {name}"], [y.detach()[own], x.grad[own], layer.running_mean]
                )
    assert all(found["kept"] and found["given"] and found["copied"] for found in results)


def sharded():
    torch.manual_seed(0)
    return nn.Sequential(
        norms.spectral_norm(nn.Conv2d(3, 8, 3)),
        norms.BatchInstanceNorm2d(8, initial_rho=0.7),
        norms.weight_norm(nn.Conv2d(8, 8, 3)),
        norms.SwitchableNorm2d(8, sparse_steps=20),
        norms.BatchRenorm2d(8, schedule_steps=0),
    )


def train_sharded(rank):
    """Train a model that FSDP2 has distributed beside one that is whole, and read both."""
    model, whole = sharded(), sharded()
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    for network in (model, whole):
        optimizer = torch.optim.SGD(norms.param_groups(network, lr=0.1))
        torch.manual_seed(1)
        for _ in range(2):
            optimizer.zero_grad()
            network(torch.randn(4, 3, 9, 9)).pow(3).mean().backward()
            optimizer.step()
            norms.project_(network)
    read = norms.mixing_values(model) == norms.mixing_values(whole)
    values = [
        {kind: of_kind.tolist() for layer in norms.report(network) for kind, of_kind in layer.values.items()}
        for network in (model, whole)
    ]
    norms.power_iterate_(model)
    norms.power_iterate_(whole)
    found = {"read": read, "values": values, "sigmas": [norms.sigmas(model), norms.sigmas(whole)]}
    for network in (model, whole):
        norms.binarize_(network)
    found["binarized"] = [[value.value for value in norms.mixing_values(network)] for network in (model, whole)]
    return found


@pytest.mark.slow
def test_what_layers_have_learned_can_be_read_under_fsdp(tmp_path):
    for found in run_on_two(train_sharded, tmp_path):
        assert found["read"]
        assert found["values"][0] == found["values"][1]
        assert found["sigmas"][0] == pytest.approx(found["sigmas"][1])
        assert found["values"][0]["rho"] != [0.7] * 8
        assert found["binarized"][0] == found["binarized"][1]
        assert set(found["binarized"][0]) == {0, 1}


@pytest.mark.slow
def test_two_processes_with_half_a_batch_each_learn_what_one_learns_with_the_whole(tmp_path):
    alone = network()
    train(alone, images())
    results = run_on_two(train_on_a_half, tmp_path)
    for weights in results:
        assert weights[True].keys() == alone.state_dict().keys()
        for key, expected in alone.state_dict().items():
            torch.testing.assert_close(weights[True][key], expected, rtol=1e-9, atol=1e-9, msg=key)
    differences = {key: (results[0][False][key] - value).abs().max() for key, value in alone.state_dict().items()}
    assert {key for key, difference in differences.items() if difference > 1e-3} >= {
        "0.weight",
        "1.rho",
        "4.running_var",
    }


class TestThereAndBack:
    @pytest.mark.parametrize(("native", "ours"), list(zip(NATIVE, OURS, strict=True)))
    @pytest.mark.parametrize(
        "options", [{}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.1, "momentum": None}]
    )
    def test_a_native_norm_gives_way_and_comes_back_with_the_same_tensors(self, native, ours, options):
        layer = native(4, **options).eval()
        tensors = [id(tensor) for tensor in (*layer.parameters(), *layer.buffers())]
        model = synchronize_(nn.Sequential(layer))
        assert type(model[0]) is ours
        assert model[0].sync
        assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == tensors
        desynchronize_(model)
        assert type(model[0]) is native
        assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == tensors
        assert str(model[0]) == str(layer)
        assert not model[0].training

    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
    )
    def test_a_copy_comes_back_too(self, copied):
        model = copied(synchronize_(nn.Sequential(nn.BatchNorm2d(4), norms.BatchInstanceNorm2d(4))))
        assert [type(layer) for layer in desynchronize_(model)] == [nn.BatchNorm2d, norms.BatchInstanceNorm2d]
        assert not model[1].sync

    @pytest.mark.parametrize("name", WITH_BATCH_STATISTICS)
    def test_norms_of_this_package_only_change_their_mode(self, name):
        model = nn.Sequential(norms.build(name, 4))
        layer = model[0]
        assert synchronize_(model)[0] is layer
        assert layer.sync
        assert desynchronize_(model)[0] is layer
        assert not layer.sync

    def test_norms_without_batch_statistics_are_left_alone(self):
        model = nn.Sequential(
            norms.SwitchableNorm2d(4, statistics=("instance", "layer")), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)
        )
        before, layers = str(model), list(model)
        assert str(synchronize_(model)) == before
        assert all(a is b for a, b in zip(model, layers, strict=True))

    def test_a_norm_at_two_places_stays_one(self):
        shared = nn.BatchNorm2d(4)
        model = synchronize_(nn.Sequential(shared, nn.Sequential(shared)))
        assert type(model[0]) is norms.BatchNorm2d
        assert model[0] is model[1][0]

    def test_a_norm_itself_is_replaced_in_what_is_returned(self):
        assert type(synchronize_(nn.BatchNorm1d(4))) is norms.BatchNorm1d
        assert type(desynchronize_(norms.BatchNorm1d(4))) is nn.BatchNorm1d

    def test_the_function_stays_without_other_processes(self):
        model, x = network(), images()[0]
        expected = copy.deepcopy(model)
        synchronize_(model)
        for training in (True, False):
            torch.testing.assert_close(model.train(training)(x), expected.train(training)(x))


class TestOthers:
    def test_a_class_derived_from_batch_norm_is_left_alone_with_a_warning(self):
        model = nn.Sequential(nn.BatchNorm2d(4), Derived(4))
        with pytest.warns(UserWarning, match="not synchronized, .* BatchNorm may be another norm: Derived$"):
            synchronize_(model)
        assert [type(layer) for layer in model] == [norms.BatchNorm2d, Derived]

    def test_a_sync_batch_norm_stays_one(self):
        model = nn.Sequential(nn.SyncBatchNorm(4))
        assert type(synchronize_(model)[0]) is type(desynchronize_(model)[0]) is nn.SyncBatchNorm
