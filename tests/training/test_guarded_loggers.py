"""A user's own loggers, which fail at various places."""

from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger
from test_train import TINY

from training.command import main
from training.guarded_loggers import NO_SECOND_WANDB, built_later

pytestmark = pytest.mark.filterwarnings("always:.* failed")

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


def test_lightnings_logger_of_wandb_is_refused_beside_ours(capfd):
    for logger in ("pytorch_lightning.loggers.WandbLogger", "WandbLogger"):
        assert main(["fit", "--config", "tiny.yaml", "--trainer.logger", logger]) == 2
        assert capfd.readouterr().err == f"error: {NO_SECOND_WANDB}\n"
    assert not Path("runs").exists()


def files(pattern):
    return sorted(str(path) for path in Path().rglob(pattern))


@pytest.mark.parametrize("logger", ["TensorBoardLogger", "pytorch_lightning.loggers.TensorBoardLogger"])
def test_tensorboard_writes_into_the_run_and_goes_on_there(logger):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main(["fit", "--config", "tiny.yaml", "--trainer.logger", logger, "--trainer.max_steps", "6"]) == 0
    run = Path("runs/tiny/version_0")
    again = ["fit", "--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/last.ckpt"]
    assert main([*again, "--trainer.max_steps", "9"]) == 0
    assert {str(Path(file).parent) for file in files("events.out.tfevents*")} == {f"{run}/tensorboard"}
    events = accumulators.EventAccumulator(f"{run}/tensorboard")
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 10))
    assert "step" not in events.Tags()["scalars"]


@pytest.mark.slow
def test_mlflow_writes_into_the_run():
    pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    from mlflow.tracking import MlflowClient

    assert main(["fit", "--config", "tiny.yaml", "--trainer.logger", "MLFlowLogger", "--trainer.max_steps", "4"]) == 0
    assert files("mlflow.db") == ["runs/tiny/version_0/mlflow.db"]
    folder = Path("runs/tiny/version_0").absolute()
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4]
    client.log_text(run.info.run_id, "x", "note.txt")
    assert files("note.txt") == [f"runs/tiny/version_0/mlflow/{run.info.run_id}/artifacts/note.txt"]
    assert not Path("mlruns").exists()


def test_a_place_for_artifacts_of_mlflow_is_kept_and_its_records_stay_in_the_run(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    build = built_later(MLFlowLogger, save_dir="./mlruns", tracking_uri=None, artifact_location="there")
    told = {}
    monkeypatch.setattr(MLFlowLogger, "__init__", lambda self, **arguments: told.update(arguments))
    build(tmp_path)
    assert (told["artifact_location"], told["tracking_uri"]) == ("there", f"sqlite:///{tmp_path}/mlflow.db")


def test_lightnings_csv_writes_into_the_run_unless_it_is_told_where():
    assert main(["fit", "--config", "tiny.yaml", "--trainer.logger", "CSVLogger"]) == 0
    run = "runs/tiny/version_0"
    assert files("metrics.csv") == [f"{run}/lightning_logs/version_0/metrics.csv", f"{run}/metrics.csv"]
    there = ["--trainer.logger.save_dir", "elsewhere"]
    assert main(["fit", "--config", "tiny.yaml", "--trainer.logger", "CSVLogger", *there]) == 0
    assert Path("elsewhere/lightning_logs/version_0/metrics.csv").is_file()
    assert not Path("runs/tiny/version_1/lightning_logs").exists()


def test_a_package_that_is_missing_is_one_line(capfd, monkeypatch):
    def missing(*args, **kwargs):
        raise ModuleNotFoundError("Requirement 'mlflow>=1.0.0' not met. HINT: Try running `pip install mlflow`")

    monkeypatch.setattr("pytorch_lightning.loggers.MLFlowLogger.__init__", missing)
    assert main(["fit", "--config", "tiny.yaml", "--trainer.logger", "MLFlowLogger"]) == 2
    told = "MLFlowLogger: Requirement 'mlflow>=1.0.0' not met. HINT: Try running `pip install mlflow`"
    assert capfd.readouterr().err == f"error: trainer.logger: {told}\n"
    assert not Path("runs").exists()
