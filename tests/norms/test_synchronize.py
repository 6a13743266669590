"""Synchronizing whole models, and what two processes learn against what one does."""

import copy
import pickle

import pytest
import torch
from distributed import run_on_two
from torch import nn
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
