"""What is logged of the mixing values: when, where, under which names, and that it is the truth."""

import copy
import csv
import json
import re
import time

import numpy as np
import pytest
import torch
import wandb_stand_ins
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers.logger import DummyLogger
from stand_ins import BrokenModel, PlainModel, TinyModel, fit
from torch import nn

import norms
from lightning_modules.networks.sngan import CNN, ResNet
from norms.errors import SettingError
from norms.kinds import RHO as GATE
from norms.kinds import MixingKind
from norms.mixing import LayerReport, freeze_mixing_
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.mixing import MixingValues, _scalars, layer_labels, log_names, read_values
from training.callbacks.run_folder import RunFolder
from training.layer_shapes import LayerShape, read_shapes
from training.run import Run
from training.wandb_logger import WandbLogger

STATISTICS = ("mean", "min", "max", "std", "share_below_0_1", "share_above_0_9")
RHO = {f"rho/00_norm1/{statistic}" for statistic in STATISTICS}
SWITCH = {f"switch/01_norm2/{moment}/{s}" for moment in ("mean", "var") for s in ("instance", "layer", "batch")}
WHOLE = {f"rho/all/{s}" for s in STATISTICS} | {key.replace("01_norm2", "all") for key in SWITCH}


class Recorder(DummyLogger):
    """Remembers every call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def log_metrics(self, metrics, step=None):
        self.calls.append((step, {key: value for key, value in metrics.items() if key.startswith(("rho", "switch"))}))

    @property
    def mixing(self):
        return [(step, metrics) for step, metrics in self.calls if metrics]


def csv_rows(run_dir):
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return {int(row.pop("step")): row for row in rows if any(key in RHO for key in row)}


def npz(run_dir, step):
    with np.load(run_dir / f"mixing/step_{step:07d}.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("every", "max_steps", "steps"), [(5, 12, [0, 5, 10, 12]), (5, 10, [0, 5, 10]), (100, 3, [0, 3])]
)
def test_logs_at_the_start_every_few_steps_and_at_the_end_once(tmp_path, every, max_steps, steps):
    recorder = Recorder()
    fit(tmp_path, [MixingValues(every)], loggers=[recorder], max_steps=max_steps)
    assert [step for step, _ in recorder.mixing] == steps
    assert all(metrics.keys() == RHO | SWITCH | WHOLE for _, metrics in recorder.mixing)
    assert sorted(path.name for path in tmp_path.glob("mixing/*.npz")) == [f"step_{step:07d}.npz" for step in steps]


def test_what_the_layers_work_on_is_kept_and_changes_nothing(tmp_path):
    model = TinyModel()
    fit(tmp_path / "a", [MixingValues(5)], copy.deepcopy(model), max_steps=3)
    shapes = read_shapes(tmp_path / "a" / "mixing" / "layers.json")
    assert list(shapes) == ["norm1", "norm2"]
    assert shapes["norm2"] == LayerShape(4, 4, (3, 3), (8, 8))
    (tmp_path / "b" / "mixing").mkdir(parents=True)
    (tmp_path / "b" / "mixing" / "layers.json").write_text("{}")  # so that nothing is recorded
    fit(tmp_path / "b", [MixingValues(5)], copy.deepcopy(model), max_steps=3)
    first, second = (npz(tmp_path / name, 3) for name in "ab")
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
    assert (tmp_path / "b" / "mixing" / "layers.json").read_text() == "{}"


def test_rows_of_the_log_come_in_the_order_of_steps(tmp_path):
    recorder = Recorder()
    fit(tmp_path, [MixingValues(5)], loggers=[recorder], max_steps=10)
    steps = [step for step, _ in recorder.calls]
    assert steps == sorted(steps)


def test_scalars_are_those_of_the_values(tmp_path):
    model = TinyModel()
    recorder = Recorder()
    with torch.no_grad():
        model.net.norm1.rho.copy_(torch.tensor([0.0, 0.05, 0.2, 0.95]))
        model.net.norm2.mean_weight.copy_(torch.tensor([1.0, 2.0, 5.0]).log())
        model.net.norm2.var_weight.copy_(torch.tensor([3.0, 3.0, 2.0]).log())
    fit(tmp_path, [MixingValues(5)], model, loggers=[recorder], max_steps=1)
    _, start = recorder.mixing[0]
    expected = {"mean": 0.3, "min": 0, "max": 0.95, "share_below_0_1": 0.5, "share_above_0_9": 0.25}
    expected["std"] = ((0.09 + 0.0625 + 0.01 + 0.4225) / 4) ** 0.5
    assert {key.rpartition("/")[2]: start[key] for key in RHO} == pytest.approx(expected, abs=1e-7)
    assert start["switch/01_norm2/mean/instance"] == pytest.approx(1 / 8)
    assert start["switch/01_norm2/mean/batch"] == pytest.approx(5 / 8)
    assert start["switch/01_norm2/var/layer"] == pytest.approx(3 / 8)
    exact = npz(tmp_path, 0)
    np.testing.assert_allclose(exact["norm1/rho"], [0.0, 0.05, 0.2, 0.95], rtol=1e-6)
    np.testing.assert_allclose(exact["norm2/var_weight"], [3 / 8, 3 / 8, 2 / 8], rtol=1e-6)
    assert exact.keys() == {"norm1/rho", "norm2/mean_weight", "norm2/var_weight"}


def test_what_the_whole_network_has_counts_every_channel_once_and_every_layer_once():
    rho = [torch.tensor([0.0, 0.05, 1.0]), torch.tensor([0.5])]
    logits = torch.tensor([[1.0, 0, 0], [0, 0, 3.0]])
    model = nn.ModuleList([norms.BatchInstanceNorm2d(len(values)) for values in rho])
    model.extend(norms.SwitchableNorm2d(2) for _ in logits)
    with torch.no_grad():
        for layer, values in zip(model, rho, strict=False):
            layer.rho.copy_(values)
        for layer, values in zip(model[2:], logits, strict=True):
            layer.mean_weight.copy_(values)
    found = dict(_scalars(read_values(model)))
    gates = np.array([0, 0.05, 1, 0.5])
    whole = [gates.mean(), 0, 1, gates.std(), 0.5, 0.25]
    assert [found[f"rho/all/{name}"] for name in STATISTICS] == pytest.approx(whole)
    weights = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    assert [found[f"switch/all/mean/{name}"] for name in norms.STATISTICS] == pytest.approx(weights.mean(0))
    assert found["switch/all/var/layer"] == pytest.approx(1 / 3)


def test_keys_are_of_letters_digits_underscores_and_slashes_and_keep_layers_apart():
    odd = MixingKind("gate-1", low=-0.5, log_key="odd gate/{layer}/of")
    values = {
        layer: LayerReport(layer, "Norm", 2, True, (kind,), {kind.name: torch.zeros(2)})
        for layer, kind in (("a.b", GATE), ("a_b", GATE), ("c/d é", odd))
    }
    keys = [key for key, _ in _scalars(values)]
    assert all(re.fullmatch("[A-Za-z_][A-Za-z0-9_/]*", key) for key in keys)
    assert len(set(keys)) == len(keys) == 5 * len(STATISTICS)
    assert {"rho/00_a_b/mean", "rho/01_a_b/mean", "odd_gate/02_c_d__/of/share_below__0_35"} <= set(keys)


def test_names_in_logs_sort_by_depth():
    names = log_names([f"norm{depth}" for depth in range(101)])
    assert (names[0], names[100]) == ("000_norm0", "100_norm100")
    assert names == sorted(names)


def test_all_records_agree_with_the_model(tmp_path):
    torch.manual_seed(0)
    model = TinyModel()
    wandb_logger = WandbLogger(tmp_path)
    fit(tmp_path, [MixingValues(5)], model, loggers=[wandb_logger])
    rows = {row["trainer/global_step"]: row for row in wandb_stand_ins.rows(tmp_path) if "rho/00_norm1/mean" in row}
    by_csv = csv_rows(tmp_path)
    assert rows.keys() == by_csv.keys() == {0, 5, 10, 12}
    for step, row in rows.items():
        rho = npz(tmp_path, step)["norm1/rho"]
        assert {key: row[key] for key in RHO | SWITCH} == pytest.approx({k: by_csv[step][k] for k in RHO | SWITCH})
        assert row["rho/00_norm1/mean"] == pytest.approx(rho.mean())
        assert row["rho/00_norm1/histogram.bins"] == pytest.approx(np.linspace(0, 1, 33))
        assert row["rho/00_norm1/histogram.values"] == np.histogram(rho, np.linspace(0, 1, 33))[0].tolist()
    np.testing.assert_array_equal(npz(tmp_path, 12)["norm1/rho"], model.net.norm1.rho.detach())
    assert npz(tmp_path, 12)["norm1/rho"].min() < 0.95, "rho has not moved, so that nothing is tested"
    tables = {path.name.partition("_")[0]: path for path in tmp_path.glob("wandb/*/files/media/table/final/*.json")}
    assert tables.keys() == {"rho", "switch"}
    rho = json.loads(tables["rho"].read_text())
    assert rho["columns"] == ["layer", "channel", "rho"]
    assert rho["data"] == [["norm1", i, pytest.approx(v)] for i, v in enumerate(model.net.norm1.rho.tolist())]
    switch = json.loads(tables["switch"].read_text())
    assert switch["columns"] == ["layer", "statistic", "weight"]
    names = [f"{moment}/{statistic}" for moment in ("mean", "var") for statistic in norms.STATISTICS]
    assert [row[:2] for row in switch["data"]] == [["norm2", name] for name in names]
    weights = torch.cat([model.net.norm2.mean_weight.softmax(0), model.net.norm2.var_weight.softmax(0)])
    assert [row[2] for row in switch["data"]] == pytest.approx(weights.tolist())


def test_a_training_that_raises_still_logs_its_last_values(tmp_path):
    recorder = Recorder()
    with pytest.raises(ValueError, match="a bug in the training step"):
        fit(tmp_path, [MixingValues(2)], BrokenModel(at="step"), loggers=[recorder])
    assert [step for step, _ in recorder.mixing] == [0, 2, 3]


def test_an_error_before_the_training_is_not_hidden_by_logging(tmp_path):
    model = TinyModel()
    model.configure_optimizers = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, [MixingValues(2)], model)
    assert not (tmp_path / "mixing").exists()


def test_a_model_without_mixing_layers_logs_nothing(tmp_path):
    recorder = Recorder()
    fit(tmp_path, [MixingValues(2)], PlainModel(), loggers=[recorder])
    assert recorder.mixing == []
    assert not (tmp_path / "mixing").exists()


def test_values_that_are_no_numbers_are_not_written(tmp_path):
    model = TinyModel()
    nn.init.constant_(model.net.norm1.rho, float("nan"))
    fit(tmp_path, [MixingValues(2)], model, max_steps=2)
    assert not (tmp_path / "mixing").exists()
    assert "rho" not in (tmp_path / "metrics.csv").read_text()


def test_refuses_an_impossible_interval():
    with pytest.raises(SettingError, match="every_n_steps must be at least 1, got 0"):
        MixingValues(0)


def test_layers_are_called_by_where_they_are():
    block = lambda: nn.ModuleDict({"norm": norms.BatchInstanceNorm2d(2)})  # noqa: E731
    model = nn.ModuleDict({"net": nn.ModuleDict({"body": nn.ModuleList([block() for _ in range(11)])})})
    assert list(read_values(model)) == [f"body.{depth}.norm" for depth in range(11)]
    model["other"] = norms.SwitchableNorm2d(2)
    assert list(read_values(model))[-2:] == ["net.body.10.norm", "other"]
    assert list(read_values(nn.ModuleDict({"net": nn.ModuleDict({"norm": norms.SwitchableNorm2d(2)})}))) == ["norm"]
    assert list(read_values(nn.ModuleList(norms.BatchInstanceNorm2d(1) for _ in range(3)))) == ["0", "1", "2"]
    assert list(read_values(norms.BatchInstanceNorm2d(1))) == ["layer"]
    assert layer_labels(["g.block1.norm1.norm", "g.block1.norm2.norm", "g.output.norm"]) == [
        *("block1.norm1", "block1.norm2", "output.norm"),
    ]
    assert layer_labels(["norm.norm", "norm"]) == ["norm.norm", "norm"], "which would be called alike"


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (
            ResNet(4, (4, 4, 4), (4,), 1),
            ["block1.norm1", "block1.norm2", "block2.norm1", "block2.norm2", "output.norm"],
        ),
        (CNN(4, (4, 4, 4), (4,), 1), ["block1.norm", "block2.norm"]),
    ],
)
def test_layers_of_generators(architecture, expected):
    gan = nn.ModuleDict(dict(zip(("generator", "discriminator"), architecture(3, 4, "switchable", None), strict=True)))
    assert list(read_values(gan)) == expected


def test_logging_is_cheap(tmp_path):
    class Deep(LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(norms.BatchInstanceNorm2d(128) for _ in range(20))

    class Stub:
        global_step, is_global_zero, log_dir = 0, True, str(tmp_path)
        loggers = (WandbLogger(tmp_path),)

    callback, model = MixingValues(1), Deep()
    callback.setup(Stub, model, "fit")
    callback.on_train_batch_start(Stub, model, None, 0)
    start = time.process_time()
    for Stub.global_step in range(1, 11):
        callback.on_train_batch_start(Stub, model, None, 0)
    # Of 50 steps of half a second, this is less than 0.5 %.
    assert (time.process_time() - start) / 10 < 0.1
    Stub.loggers[0].finalize("success")


def test_an_averaged_copy_of_a_network_is_not_logged_beside_it():
    network = nn.ModuleDict({"norm": norms.SwitchableNorm2d(2)})
    both = nn.ModuleDict({"net": network, "net_ema": copy.deepcopy(network).requires_grad_(False)})
    assert list(read_values(both)) == ["norm"]


def test_frozen_mixing_values_stay_in_the_log_under_the_same_names():
    network = nn.ModuleList([norms.BatchInstanceNorm2d(2), norms.SwitchableNorm2d(2), norms.BatchInstanceNorm2d(2)])
    names = list(read_values(network))
    freeze_mixing_(network[0])
    assert list(read_values(network)) == names == ["0", "1", "2"]


def test_a_training_that_goes_back_logs_the_dropped_steps_again(tmp_path):
    callbacks = [RunFolder("name: tiny\n"), MixingValues(2), RunCheckpoint(3, keep_all=True)]
    fit(tmp_path, callbacks, max_steps=4)
    before = csv_rows(tmp_path)
    assert list(before) == [0, 2, 4]
    fit(tmp_path, callbacks, max_steps=6, ckpt_path=Run(tmp_path).step_checkpoint(3))
    after = csv_rows(tmp_path)
    assert list(after) == [0, 2, 4, 6]
    assert after[4] == before[4]
