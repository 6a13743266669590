"""Checkpoints: when, which, and that neither a kill nor Ctrl-C loses them."""

import io
import signal
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from stand_ins import BrokenModel, TinyModel, fit

from norms.errors import SettingError
from training.callbacks.checkpoint import RunCheckpoint


def step_of(file):
    return torch.load(file, weights_only=True)["global_step"]


class Watcher(Callback):
    """Notes the step of the last checkpoint at the beginning of every step and validation."""

    def __init__(self, run_dir):
        self.file = run_dir / "checkpoints" / "last.ckpt"
        self.seen = {}

    def note(self, key):
        self.seen[key] = step_of(self.file) if self.file.is_file() else None

    def on_train_batch_start(self, trainer, *_):
        self.note(trainer.global_step)

    def on_validation_start(self, trainer, *_):
        self.note(f"validation {trainer.global_step}")


class At(Callback):
    """Does something when a number of steps is done."""

    def __init__(self, step, action, hook="on_train_batch_end"):
        self.step, self.action = step, action
        setattr(self, hook, self.act)

    def act(self, trainer, *_):
        if trainer.global_step == self.step:
            self.action()


def test_saves_every_few_steps_and_at_the_end(tmp_path):
    watcher = Watcher(tmp_path)
    fit(tmp_path, [RunCheckpoint(4), watcher], max_steps=10, val_check_interval=100)
    assert watcher.seen == dict(enumerate([None] * 4 + [4] * 4 + [8] * 2))
    assert step_of(watcher.file) == 10
    assert [path.name for path in watcher.file.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_waits_for_the_validation_of_its_step(tmp_path):
    # Otherwise a run killed in the validation would never make up for it.
    watcher = Watcher(tmp_path)
    fit(tmp_path, [RunCheckpoint(4), watcher], max_steps=12, val_check_interval=4)
    assert watcher.seen["validation 8"] == 4
    assert watcher.seen[8] == 8
    assert watcher.seen["validation 12"] == 8
    assert step_of(watcher.file) == 12


def test_keeps_all_checkpoints_on_request(tmp_path):
    fit(tmp_path, [RunCheckpoint(5, keep_all=True)], max_steps=12)
    steps = {path.name: step_of(path) for path in (tmp_path / "checkpoints").iterdir()}
    assert steps == {"last.ckpt": 12, "step_0000005.ckpt": 5, "step_0000010.ckpt": 10, "step_0000012.ckpt": 12}


def test_a_training_ended_by_something_else_is_saved(tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 3

    fit(tmp_path, [RunCheckpoint(100), Stop()])
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 3


def test_a_save_that_dies_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    write = Path.write_bytes

    def die(self, data):
        if step_of(io.BytesIO(data)) == 8:
            write(self, b"half a checkpo")
            raise RuntimeError("a bug in the file system")
        write(self, data)

    monkeypatch.setattr(Path, "write_bytes", die)
    with pytest.raises(RuntimeError, match="a bug in the file system"):
        fit(tmp_path, [RunCheckpoint(4)])
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 4
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_an_error_within_a_step_saves_nothing(tmp_path):
    with pytest.raises(ValueError, match="a bug in the training step"):
        fit(tmp_path, [RunCheckpoint(2)], BrokenModel(at="step"))
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("step", [3, 5], ids=["plain", "with validation"])
def test_a_signal_ends_the_step_and_saves(tmp_path, number, status, step, capsys):
    checkpoint = RunCheckpoint(100)
    watcher = Watcher(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SIGTERMException) as error, checkpoint.ctrl_c_saves():
        fit(tmp_path, [checkpoint, watcher, At(step - 1, lambda: signal.raise_signal(number), "on_train_batch_start")])
    assert error.value.code == status
    assert signal.getsignal(signal.SIGINT) is before
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == step
    assert (f"validation {step}" in watcher.seen) == (step == 5)
    assert "ending after this step" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    checkpoint = RunCheckpoint(2)
    with pytest.raises(SystemExit), checkpoint.ctrl_c_saves():
        fit(tmp_path, [checkpoint, At(3, twice, "on_train_batch_start")])
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 2


def test_ctrl_c_before_the_first_step_ends_at_once(tmp_path):
    checkpoint = RunCheckpoint(2)
    with pytest.raises(SystemExit), checkpoint.ctrl_c_saves():
        fit(tmp_path, [checkpoint, At(0, lambda: signal.raise_signal(signal.SIGINT), "on_fit_start")])
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("step", [4, 5, 7])
def test_a_run_resumed_after_a_signal_ends_as_if_there_had_been_none(tmp_path, step):
    # 5 is a step with validation, after which Lightning's own count of steps would be one off.
    model = TinyModel()
    initial = {key: value.clone() for key, value in model.state_dict().items()}
    fit(tmp_path / "whole", [RunCheckpoint(100)], model)
    stopped = TinyModel()
    stopped.load_state_dict(initial)
    with pytest.raises(SIGTERMException):
        fit(tmp_path / "stopped", [RunCheckpoint(100), At(step, lambda: signal.raise_signal(signal.SIGTERM))], stopped)
    resumed = TinyModel()
    fit(tmp_path / "stopped", [RunCheckpoint(100)], resumed, ckpt_path=tmp_path / "stopped/checkpoints/last.ckpt")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in resumed.state_dict().items())
    assert (tmp_path / "stopped/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()


def test_refuses_an_impossible_interval():
    with pytest.raises(SettingError, match="every_n_train_steps must be at least 1, got -3"):
        RunCheckpoint(-3)
