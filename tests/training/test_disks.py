"""Disks that are full, fail or are emptied while a training writes: no checkpoint is spoiled, and no training lost."""

import errno
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO
from stand_ins import TinyModel, fit

from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.mixing import MixingValues
from training.callbacks.run_folder import RunFolder
from training.callbacks.samples import SampleImages
from training.command import main
from training.doors import end_in_one_line
from training.errors import TrainingError
from training.files import replacing, set_aside
from training.metrics_file import MetricsFile

CONFIG = "name: tiny\n"


def step_of(folder):
    return torch.load(Path(folder) / "checkpoints/last.ckpt", weights_only=True)["global_step"]


class Between(Callback):
    """Does something before one step, and something else before a later one."""

    def __init__(self, actions):
        self.actions = actions

    def on_train_batch_start(self, trainer, *_):
        self.actions.get(trainer.global_step, lambda: None)()


def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def limits_restored():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_that_finds_no_space_is_told_in_one_line_and_the_next_one_is_written(tmp_path, recwarn):
    steps = {}
    look = lambda name: lambda: steps.update({name: step_of(tmp_path)})  # noqa: E731
    callbacks = [
        Between({5: lambda: limit(2000), 7: look("full"), 8: lambda: limit(-1), 11: look("then")}),
        MixingValues(1), SampleImages(1), RunCheckpoint(3),
    ]  # fmt: skip
    with limits_restored():
        fit(tmp_path, callbacks, max_steps=12)
    assert steps == {"full": 3, "then": 9}
    told = [str(w.message) for w in recwarn if "last.ckpt" in str(w.message)]
    assert len(told) == 1
    assert f"cannot write {tmp_path}/checkpoints/last.ckpt: File too large (" in told[0]
    assert "bytes are needed, " in told[0]
    assert "of an earlier step is whole, and the training goes on to its next save" in told[0]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.filterwarnings("default")
def test_a_training_whose_end_finds_no_space_fails_with_the_old_checkpoint_whole(tmp_path):
    with (
        limits_restored(),
        pytest.raises(TrainingError, match=r"File too large .* with more space, go on with: python"),
    ):
        fit(tmp_path, [Between({5: lambda: limit(2000)}), RunCheckpoint(3)], max_steps=6)
    assert step_of(tmp_path) == 3
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.filterwarnings("default")
def test_a_full_disk_is_one_line_with_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    args = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    with limits_restored():
        limit(10_000)  # more than the settings need, less than a checkpoint
        assert main(["fit", "--model", "stand_ins.TinyModel", "--data", "stand_ins.TinyData", *args]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: cannot write runs/run/version_0/checkpoints/last.ckpt: File too large (")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_no_bug(number, tmp_path, capsys):
    def write():
        with replacing(tmp_path / "file") as partial:
            partial.write_text("half")
            raise OSError(number, os.strerror(number))

    assert end_in_one_line(write) == 1
    assert capsys.readouterr().err == f"error: cannot write {tmp_path / 'file'}: {os.strerror(number)}\n"


def test_a_full_temporary_folder_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    fit(tmp_path, [RunCheckpoint(3)], max_steps=3)
    assert step_of(tmp_path) == 3


def test_files_are_on_the_disk_before_they_take_their_place(tmp_path, monkeypatch):
    calls, sync, replace = [], os.fsync, os.replace

    def name(descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    monkeypatch.setattr(os, "fsync", lambda number: calls.append(("sync", name(number))) or sync(number))
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append(("replace", Path(new).name)) or replace(old, new))
    fit(tmp_path, [RunCheckpoint(3)], max_steps=3)
    expected = [("sync", "last.ckpt.partial"), ("replace", "last.ckpt"), ("sync", "checkpoints")]
    assert [call for call in calls if "metrics" not in call[1]][-3:] == expected


def test_a_run_folder_that_somebody_deletes_is_made_anew(tmp_path, recwarn, monkeypatch):
    folder = tmp_path / "version_0"

    def delete():
        folder.rename(tmp_path / "deleted")

    callbacks = [Between({4: delete}), RunFolder(CONFIG), MixingValues(1), SampleImages(1), RunCheckpoint(3)]
    monkeypatch.setattr(RunFolder, "on_fit_start", lambda *_: None)  # which starts W&B
    fit(folder, callbacks)
    told = [str(w.message) for w in recwarn if "is gone" in str(w.message)]
    assert told == [f"{folder}/config.yaml is gone; it is made anew at step 4, and the training goes on"]
    assert step_of(folder) == 12
    assert (folder / "config.yaml").read_text() == CONFIG
    assert (folder / "mixing/kinds.json").is_file()
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    assert header.startswith("step,")
    assert {row.split(",")[0] for row in rows} == {str(step) for step in range(4, 13)}


def test_rows_wait_for_a_disk_and_none_is_halved(tmp_path, recwarn):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"loss": 0.5}, 0)
    file.save()
    with limits_restored():
        limit((tmp_path / "metrics.csv").stat().st_size + 3)
        for step in (1, 2):
            file.log_metrics({"loss": 0.25}, step)
            file.save()
        assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,0.5\n"
    file.log_metrics({"loss": 0.125}, 3)
    file.save()
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,0.5\n1,0.25\n2,0.25\n3,0.125\n"
    assert len([w for w in recwarn if "its rows wait" in str(w.message)]) == 1


def test_what_is_set_aside_replaces_nothing(tmp_path):
    names = []
    for text in ("first", "second"):
        (tmp_path / "file").write_text(text)
        names.append(set_aside(tmp_path / "file").name)
    assert names == ["file.damaged", "file.damaged2"]
    assert (tmp_path / "file.damaged").read_text() == "first"


def test_a_model_of_ones_own_checkpoint_files_is_left_alone(tmp_path):
    class Own(TorchCheckpointIO):
        pass

    own = Own()
    trainer = fit(tmp_path, [RunCheckpoint(3)], TinyModel(), max_steps=3, plugins=[own])
    assert trainer.strategy.checkpoint_io is own
    assert step_of(tmp_path) == 3
