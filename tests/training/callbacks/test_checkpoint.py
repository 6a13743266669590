"""Checkpoints: when, which, and that no kill loses them."""

import io
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from stand_ins import BrokenModel, fit

from norms.errors import SettingError
from training.callbacks.checkpoint import RunCheckpoint


def step_of(file):
    return torch.load(file, weights_only=True)["global_step"]


class Watcher(Callback):
    """Notes the step of the last checkpoint within every step and validation."""

    def __init__(self, run_dir):
        self.file = run_dir / "checkpoints" / "last.ckpt"
        self.seen = {}

    def note(self, key):
        self.seen[key] = step_of(self.file) if self.file.is_file() else None

    def on_before_backward(self, trainer, *_):
        self.note(trainer.global_step)

    def on_validation_start(self, trainer, *_):
        self.note(f"validation {trainer.global_step}")


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


def test_a_checkpoint_waits_for_the_row_of_its_step(tmp_path, monkeypatch):
    # Otherwise a run killed between the two would never make up for it.
    rows = {}

    def note(self, path, *args, **kwargs):
        rows[self.global_step] = (tmp_path / "metrics.csv").read_text().splitlines()[-1].split(",")[0]
        save(self, path, *args, **kwargs)

    save = Trainer.save_checkpoint
    monkeypatch.setattr(Trainer, "save_checkpoint", note)
    fit(tmp_path, [RunCheckpoint(4)], max_steps=10)
    assert rows == {4: "4", 8: "8", 10: "10"}


def test_refuses_an_impossible_interval():
    with pytest.raises(SettingError, match="every_n_train_steps must be at least 1, got -3"):
        RunCheckpoint(-3)
