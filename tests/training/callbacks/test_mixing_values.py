"""What is logged of the mixing values: when, where, under which names, and that it is the truth."""

import copy
import csv
import json
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
from norms.errors import SettingError
from norms.mixing import freeze_mixing_
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.mixing import MixingValues, read_values
from training.callbacks.run_folder import RunFolder
from training.run import Run
from training.wandb_logger import WandbLogger

STATISTICS = ("mean", "min", "max", "std", "share_below_0.1", "share_above_0.9")
RHO = {f"rho/00.norm1/{statistic}" for statistic in STATISTICS}
SWITCH = {f"switch/01.norm2/{moment}/{s}" for moment in ("mean", "var") for s in ("instance", "layer", "batch")}


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
    assert all(metrics.keys() == RHO | SWITCH for _, metrics in recorder.mixing)
    assert sorted(path.name for path in tmp_path.glob("mixing/*.npz")) == [f"step_{step:07d}.npz" for step in steps]


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
    expected = {"mean": 0.3, "min": 0, "max": 0.95, "share_below_0.1": 0.5, "share_above_0.9": 0.25}
    expected["std"] = ((0.09 + 0.0625 + 0.01 + 0.4225) / 4) ** 0.5
    assert {key.rpartition("/")[2]: start[key] for key in RHO} == pytest.approx(expected, abs=1e-7)
    assert start["switch/01.norm2/mean/instance"] == pytest.approx(1 / 8)
    assert start["switch/01.norm2/mean/batch"] == pytest.approx(5 / 8)
    assert start["switch/01.norm2/var/layer"] == pytest.approx(3 / 8)
    exact = npz(tmp_path, 0)
    np.testing.assert_allclose(exact["00.norm1/rho"], [0.0, 0.05, 0.2, 0.95], rtol=1e-6)
    np.testing.assert_allclose(exact["01.norm2/var_weight"], [3 / 8, 3 / 8, 2 / 8], rtol=1e-6)
    assert exact.keys() == {"00.norm1/rho", "01.norm2/mean_weight", "01.norm2/var_weight"}


def test_all_records_agree_with_the_model(tmp_path):
    torch.manual_seed(0)
    model = TinyModel()
    wandb_logger = WandbLogger(tmp_path)
    fit(tmp_path, [MixingValues(5)], model, loggers=[wandb_logger])
    rows = {row["trainer/global_step"]: row for row in wandb_stand_ins.rows(tmp_path) if "rho/00.norm1/mean" in row}
    by_csv = csv_rows(tmp_path)
    assert rows.keys() == by_csv.keys() == {0, 5, 10, 12}
    for step, row in rows.items():
        rho = npz(tmp_path, step)["00.norm1/rho"]
        assert {key: row[key] for key in RHO | SWITCH} == pytest.approx({k: by_csv[step][k] for k in RHO | SWITCH})
        assert row["rho/00.norm1/mean"] == pytest.approx(rho.mean())
        assert row["rho/00.norm1/histogram.bins"] == pytest.approx(np.linspace(0, 1, 33))
        assert row["rho/00.norm1/histogram.values"] == np.histogram(rho, np.linspace(0, 1, 33))[0].tolist()
    np.testing.assert_array_equal(npz(tmp_path, 12)["00.norm1/rho"], model.net.norm1.rho.detach())
    assert npz(tmp_path, 12)["00.norm1/rho"].min() < 0.95, "rho has not moved, so that nothing is tested"
    tables = {path.name.partition("_")[0]: path for path in tmp_path.glob("wandb/*/files/media/table/final/*.json")}
    assert tables.keys() == {"rho", "switch"}
    rho = json.loads(tables["rho"].read_text())
    assert rho["columns"] == ["layer", "channel", "rho"]
    assert rho["data"] == [["00.norm1", i, pytest.approx(v)] for i, v in enumerate(model.net.norm1.rho.tolist())]
    switch = json.loads(tables["switch"].read_text())
    assert switch["columns"] == ["layer", "statistic", "weight"]
    names = [f"{moment}/{statistic}" for moment in ("mean", "var") for statistic in norms.STATISTICS]
    assert [row[:2] for row in switch["data"]] == [["01.norm2", name] for name in names]
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


def test_names_sort_by_depth_and_leave_out_what_is_common():
    block = lambda: nn.ModuleDict({"norm": norms.BatchInstanceNorm2d(2)})  # noqa: E731
    model = nn.ModuleDict({"net": nn.ModuleDict({"body": nn.ModuleList([block() for _ in range(11)])})})
    names = list(read_values(model))
    assert names[0] == "00.0.norm"
    assert names[10] == "10.10.norm"
    assert names == sorted(names)
    model["other"] = norms.SwitchableNorm2d(2)
    assert list(read_values(model))[-2:] == ["10.net.body.10.norm", "11.other"]
    assert list(read_values(nn.ModuleDict({"net": nn.ModuleDict({"norm": norms.SwitchableNorm2d(2)})}))) == ["00.norm"]
    many = nn.ModuleList(norms.BatchInstanceNorm2d(1) for _ in range(101))
    assert list(read_values(many))[100] == "100.100"


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
    assert list(read_values(both)) == ["00.norm"]


def test_frozen_mixing_values_stay_in_the_log_under_the_same_names():
    network = nn.ModuleList([norms.BatchInstanceNorm2d(2), norms.SwitchableNorm2d(2), norms.BatchInstanceNorm2d(2)])
    names = list(read_values(network))
    freeze_mixing_(network[0])
    assert list(read_values(network)) == names == ["00.0", "01.1", "02.2"]


def test_a_training_that_goes_back_logs_the_dropped_steps_again(tmp_path):
    callbacks = [RunFolder("name: tiny\n"), MixingValues(2), RunCheckpoint(3, keep_all=True)]
    fit(tmp_path, callbacks, max_steps=4)
    before = csv_rows(tmp_path)
    assert list(before) == [0, 2, 4]
    fit(tmp_path, callbacks, max_steps=6, ckpt_path=Run(tmp_path).step_checkpoint(3))
    after = csv_rows(tmp_path)
    assert list(after) == [0, 2, 4, 6]
    assert after[4] == before[4]
