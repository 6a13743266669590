"""A user's own loggers, which fail at various places."""

from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger
from test_train import TINY

from training.command import main

pytestmark = [pytest.mark.filterwarnings(f"always:{text}") for text in (".* failed", "W&B cannot be reached")]

RAISED = "cannot write: no space left"


class Failing(CSVLogger):
    def __init__(self, where: str):
        super().__init__("theirs")
        self.where = where

    def _maybe_fail(self, place):
        if place == self.where:
            raise OSError(RAISED)

    @property
    def experiment(self):
        self._maybe_fail("experiment")
        return super().experiment

    def log_metrics(self, metrics, step=None):
        self._maybe_fail("log_metrics")
        super().log_metrics(metrics, step)

    def log_hyperparams(self, params=None):
        self._maybe_fail("log_hyperparams")

    def finalize(self, status):
        self._maybe_fail("finalize")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("tiny.yaml").write_text(TINY)


def rows(run="runs/tiny/version_0"):
    return (Path(run) / "metrics.csv").read_text().splitlines()


@pytest.mark.parametrize("where", ["experiment", "log_metrics", "log_hyperparams", "finalize"])
def test_a_failure_costs_one_warning_and_nothing_else(where, capfd):
    assert main(["fit", "--config", "tiny.yaml", "--name", "plain"]) == 0
    capfd.readouterr()
    logger = ["--trainer.logger", "test_guarded_loggers.Failing", "--trainer.logger.where", where]
    assert main(["fit", "--config", "tiny.yaml", *logger]) == 0
    err = capfd.readouterr().err
    assert err.count(f"Failing failed (OSError: {RAISED}); the training goes on without it") == 1
    assert "Traceback" not in err
    assert rows() == rows("runs/plain/version_0")


def test_one_that_works_gets_everything(capfd):
    logger = ["--trainer.logger", "test_guarded_loggers.Failing", "--trainer.logger.where", "nowhere"]
    assert main(["fit", "--config", "tiny.yaml", *logger]) == 0
    assert "warning" not in capfd.readouterr().err
    [theirs] = Path("theirs").rglob("metrics.csv")
    assert "train/loss" in theirs.read_text()


@pytest.mark.parametrize("variable", [("WANDB_PROJECT", "me/normlab"), ("WANDB_MODE", "banana")])
def test_lightnings_logger_with_a_variable_that_wandb_refuses(variable, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv(*variable)
    assert main(["fit", "--config", "tiny.yaml", "--trainer.logger", "pytorch_lightning.loggers.WandbLogger"]) == 0
    err = capfd.readouterr().err
    assert err.count("WandbLogger failed") == 1
    assert "Traceback" not in err
    assert "train/loss" in rows()[0]
