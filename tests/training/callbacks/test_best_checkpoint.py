"""The best checkpoint by a metric: which, that it survives a resume, and ending early."""

import errno
import io
import math
from pathlib import Path

import pytest
import torch
import wandb_stand_ins
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException
from stand_ins import TinyModel, fit
from tiny_gan import gan

from norms.errors import SettingError
from sampling.command import main as sample
from training.callbacks.checkpoint import RunCheckpoint, read_best
from training.callbacks.generation_metrics import GenerationMetrics
from training.callbacks.run_folder import RunFolder
from training.callbacks.summary import print_summary
from training.command import main
from training.run import Run
from training.wandb_logger import WandbLogger


class Scored(TinyModel):
    """Logs what it is told to."""

    values: dict
    metric: str

    def validation_step(self, batch, batch_idx):
        self.log(self.metric, float(self.values[self.global_step]), batch_size=len(batch["image"]))


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KilledError


class KilledError(Exception):
    pass


VALUES = {2: 0.5, 4: 0.3, 6: 0.9, 8: math.nan, 10: 0.2, 12: 0.2}


def train(run_dir, checkpoint, *callbacks, values=VALUES, metric="val/score", **options):
    callbacks = [RunFolder("name: run"), *callbacks, checkpoint]
    torch.manual_seed(0)
    model = Scored()
    model.values, model.metric = values, metric
    return fit(Path(run_dir), callbacks, model, val_check_interval=2, **{"max_steps": 12, **options})


def best(run_dir="run"):
    run = Run(run_dir)
    record = read_best(run)
    assert torch.load(run.best, weights_only=True)["global_step"] == record["step"]
    return record


def state(file):
    return torch.load(file, weights_only=True)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.mark.parametrize(
    ("metric", "mode", "value", "step"),
    [
        ("val/score", None, 0.2, 10),
        ("val/score", "max", 0.9, 6),
        ("val/accuracy", None, 0.9, 6),
        ("val/is_garments", None, 0.9, 6),
        ("val/isolated", None, 0.2, 10),
        ("val/coverage_garments", "min", 0.2, 10),
    ],
)
def test_the_best_is_kept_beside_the_last(metric, mode, value, step):
    train("run", RunCheckpoint(5, monitor=metric, mode=mode), metric=metric)
    record = best()
    assert (record["metric"], record["step"]) == (metric, step)
    assert record["value"] == pytest.approx(value)
    assert state("run/checkpoints/last.ckpt")["global_step"] == 12
    files = {path.name for path in Path("run/checkpoints").iterdir()}
    assert files == {"best.ckpt", "best.json", "last.ckpt"}


def test_nothing_is_kept_without_a_monitor():
    train("run", RunCheckpoint(5))
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["last.ckpt"]
    assert read_best(Run("run")) is None


@pytest.mark.parametrize(("killed_at", "resumed"), [(5, 3), (11, 9), (12, 9)])
def test_the_best_survives_a_resume(killed_at, resumed):
    train("whole", RunCheckpoint(3, monitor="val/score"))
    with pytest.raises(KilledError):
        train("run", RunCheckpoint(3, monitor="val/score"), StopAt(killed_at))
    last = "run/checkpoints/last.ckpt"
    assert state(last)["global_step"] == resumed
    train("run", RunCheckpoint(3, monitor="val/score"), ckpt_path=last)
    assert best("run") == best("whole")
    for name in ("best", "last"):
        weights, expected = (state(f"{run}/checkpoints/{name}.ckpt")["state_dict"] for run in ("run", "whole"))
        assert all(torch.equal(value, expected[key]) for key, value in weights.items())


def test_a_signal_right_after_the_best_validation_loses_nothing():
    class Signal(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 4:
                raise SIGTERMException(143)

    with pytest.raises(SIGTERMException):
        train("run", Signal(), RunCheckpoint(100, monitor="val/score"))
    assert best()["step"] == 4
    assert state("run/checkpoints/last.ckpt")["global_step"] == 4
    train("run", RunCheckpoint(100, monitor="val/score"), ckpt_path="run/checkpoints/last.ckpt", max_steps=6)
    assert best()["step"] == 4


def test_a_full_disk_leaves_the_best_before(monkeypatch):
    write = Path.write_bytes

    def full(self, data):
        if self.name.startswith("best") and state(io.BytesIO(data))["global_step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match="best.ckpt is as before, and the training goes on"):
        train("run", RunCheckpoint(100, monitor="val/score"), max_steps=6)
    assert best()["step"] == 2
    assert state("run/checkpoints/last.ckpt")["callbacks"]["RunCheckpoint"]["best"] == best()
    assert state("run/checkpoints/last.ckpt")["global_step"] == 6


def test_a_resumed_run_beats_the_best_before_it():
    train("run", RunCheckpoint(4, monitor="val/score"), max_steps=4)
    assert best()["step"] == 4
    train("run", RunCheckpoint(4, monitor="val/score"), ckpt_path="run/checkpoints/last.ckpt", max_steps=8)
    assert best()["step"] == 4  # 0.9 is worse
    train("run", RunCheckpoint(4, monitor="val/score"), ckpt_path="run/checkpoints/last.ckpt")
    assert best()["step"] == 10


def test_a_best_checkpoint_of_steps_that_are_made_again_is_void():
    train("run", RunCheckpoint(2, monitor="val/score", keep_all=True), max_steps=4)
    values = {**VALUES, 4: 0.6, 6: 0.7}
    start = "run/checkpoints/step_0000002.ckpt"
    train("run", RunCheckpoint(2, monitor="val/score"), ckpt_path=start, values=values, max_steps=6)
    # That of step 2 is gone: that of step 4 had taken its place.
    assert best() == {"metric": "val/score", "mode": "min", "value": pytest.approx(0.6), "step": 4}


def test_another_metric_begins_anew():
    train("run", RunCheckpoint(4, monitor="val/score"), max_steps=4)
    last = "run/checkpoints/last.ckpt"
    train("run", RunCheckpoint(4, monitor="val/score", mode="max"), ckpt_path=last, max_steps=6)
    assert best()["step"] == 6


def test_a_run_goes_on_from_its_best_checkpoint():
    train("run", RunCheckpoint(3, monitor="val/score"), max_steps=6)
    assert best()["step"] == 4
    train(
        "run",
        RunCheckpoint(3, monitor="val/score"),
        ckpt_path="run/checkpoints/best.ckpt",
        values={6: 0.1, 8: 0.4},
        max_steps=8,
    )
    assert best()["step"] == 6


def test_a_metric_that_is_never_logged_is_told_at_the_first_validation():
    with pytest.raises(SettingError, match=r"'val/scor', did you mean 'val/score'\? \(known: .*val/score\)") as caught:
        train("run", RunCheckpoint(3, monitor="val/scor"))
    assert "checkpoint.monitor" in str(caught.value)


def test_a_metric_that_not_each_validation_has(monkeypatch, tmp_path):
    from tiny_gan import Blots

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    metrics = GenerationMetrics("garments", ["kid"], val_images=30, every_n_steps=4)
    checkpoint = RunCheckpoint(3, monitor="val/kid_garments")
    fit(Path("run"), [metrics, checkpoint], gan(), data=Blots(), val_check_interval=2, max_steps=6)
    assert best()["step"] == 4
    # Samples can be drawn of it as of any checkpoint.
    assert sample(["run/checkpoints/best.ckpt", "-o", "samples.png", "--trust", "tiny_gan"]) == 0
    assert Path("samples.png").is_file()


class TestEarlyStopping:
    """Lightning's own, with the best checkpoint of the run."""

    def stopping(self):
        return EarlyStopping("val/score", patience=2, mode="min", check_finite=False)

    def test_ends_the_training_and_is_saved(self):
        trainer = train("run", RunCheckpoint(5, monitor="val/score"), self.stopping())
        assert trainer.global_step == 8
        assert state("run/checkpoints/last.ckpt")["global_step"] == 8
        assert best()["step"] == 4

    def test_its_patience_survives_a_resume(self):
        with pytest.raises(KilledError):
            train("run", RunCheckpoint(3, monitor="val/score"), self.stopping(), StopAt(7))
        last = "run/checkpoints/last.ckpt"
        trainer = train("run", RunCheckpoint(3, monitor="val/score"), self.stopping(), ckpt_path=last)
        assert trainer.global_step == 8
        assert best()["step"] == 4

    def test_by_the_command_line(self):
        Path("early.yaml").write_text(
            "trainer: {max_steps: 40, accelerator: cpu, val_check_interval: 2, callbacks: "
            "[{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 1, min_delta: 100}}]}\n"
            "model: {class_path: stand_ins.TinyModel}\ndata: {class_path: stand_ins.TinyData}\n"
            "checkpoint: {monitor: val/loss}"
        )
        assert main(["fit", "--config", "early.yaml"]) == 0
        assert state("runs/run/version_0/checkpoints/last.ckpt")["global_step"] == 4
        assert read_best(Run("runs/run/version_0"))["metric"] == "val/loss"


def test_the_end_tells_of_the_best_and_the_last(capsys):
    trainer = train("run", RunCheckpoint(5, monitor="val/score"), values={**VALUES, 12: 0.4})
    print_summary(trainer, Run("run"))
    assert "best val/score: 0.2 at step 10, in checkpoints/best.ckpt, last 0.4\n" in capsys.readouterr().out


def test_the_summary_of_wandb_holds_both(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers = [WandbLogger("run")]
    train("run", RunCheckpoint(5, monitor="val/score"), loggers=loggers, values={**VALUES, 12: 0.4})
    summary = {}
    for record in wandb_stand_ins.records("run", "summary"):
        summary |= record["update"]
    assert summary["best/val/score"] == pytest.approx(0.2)
    assert summary["best/step"] == 10
    assert summary["val/score"] == {"min": pytest.approx(0.2)}, "a value that is no number is none of the lowest"


def test_a_damaged_record_counts_as_none():
    train("run", RunCheckpoint(5, monitor="val/score"), max_steps=4)
    for text in ("", "[]", '{"metric": "val/score", "mode": "min", "value": "0.5", "step": 2}'):
        Path("run/checkpoints/best.json").write_text(text)
        assert read_best(Run("run")) is None
