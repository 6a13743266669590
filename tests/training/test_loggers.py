"""metrics.csv over resumes, and W&B in all kinds of trouble."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import stand_ins
import torch
import wandb
import wandb_stand_ins
from pytorch_lightning import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from training.callbacks.mixing import MixingValues
from training.callbacks.samples import SampleImages
from training.loggers import MetricsLogger
from training.metrics_file import MetricsFile
from training.wandb_logger import WandbLogger


def read(run_dir):
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def log(logger, *rows):
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
        logger.save()


def test_csv_has_the_columns_of_all_rows(tmp_path):
    logger = MetricsLogger(tmp_path)
    log(logger, (0, {"b": 1.5}), (1, {"a": torch.tensor(2.0), "epoch": 0}), (1, {"b": 3, "c": float("nan")}))
    assert (tmp_path / "metrics.csv").read_text() == "step,a,b,c\n0,,1.5,\n1,2.0,,\n1,,3,nan\n"


def test_csv_of_a_resumed_run_goes_on_without_the_steps_that_are_made_again(tmp_path):
    log(MetricsLogger(tmp_path), *[(step, {"loss": step / 7}) for step in range(6)])
    resumed = MetricsLogger(tmp_path)
    resumed.go_on_at(2)
    log(resumed, (3, {"loss": 0.3}), (4, {"val": 1.0}))
    steps = [(row["step"], row.get("loss")) for row in read(tmp_path)]
    assert steps == [("0", "0.0"), ("1", str(1 / 7)), ("2", str(2 / 7)), ("3", "0.3"), ("4", None)]
    assert read(tmp_path)[-1] == {"step": "4", "val": "1.0"}


def test_csv_passes_over_what_it_has_of_the_step_at_which_a_run_goes_on(tmp_path):
    first = MetricsLogger(tmp_path)
    log(first, (1, {"loss": 0.5, "val": 2.0}), (1, {"rho": 0.25}), (2, {"loss": 0.125, "rho": 0.5}))
    whole = (tmp_path / "metrics.csv").read_text()
    resumed = MetricsLogger(tmp_path)
    resumed.go_on_at(1)
    log(resumed, (1, {"rho": 9.0}), (1, {"epoch": 0}), (2, {"loss": 0.125, "rho": 0.5}))
    assert (tmp_path / "metrics.csv").read_text() == whole
    log(resumed, (1, {"rho": 9.0, "new": 1.0}))
    assert read(tmp_path)[-1] == {"step": "1", "new": "1.0"}


def test_csv_drops_a_row_that_was_cut_off_by_a_kill(tmp_path):
    log(MetricsLogger(tmp_path), (0, {"loss": 0.5}), (1, {"loss": 0.25}))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,0.1")
    logger = MetricsLogger(tmp_path)
    logger.go_on_at(10)
    log(logger, (2, {"loss": 0.125}))
    assert [row["loss"] for row in read(tmp_path)] == ["0.5", "0.25", "0.125"]


def test_csv_makes_no_folder_before_its_first_row(tmp_path):
    logger = MetricsLogger(tmp_path / "run")
    logger.log_hyperparams({"a": 1})
    assert logger.experiment is not None
    assert not (tmp_path / "run").exists()
    assert logger.log_dir == str(tmp_path / "run")
    logger.finalize("success")


def test_finalize_writes_what_was_not_saved(tmp_path):
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("failed")
    assert read(tmp_path) == [{"step": "0", "loss": "1.0"}]


def log_and_end(logger, losses):
    log(logger, *[(step, {"loss": loss}) for step, loss in enumerate(losses)])
    logger.finalize("success")


def warnings_of(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(warning.message) for warning in caught]


@pytest.fixture
def server(monkeypatch):
    server = wandb_stand_ins.Server()
    monkeypatch.setenv("WANDB_API_KEY", wandb_stand_ins.API_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    yield server
    server.die()


def losses(run_dir):
    return {row["trainer/global_step"]: row["loss"] for row in wandb_stand_ins.rows(run_dir) if "loss" in row}


class TestWandb:
    def test_without_an_account_logs_offline_and_says_how_to_upload(self, tmp_path, caplog, monkeypatch):
        monkeypatch.chdir(tmp_path)
        logger = WandbLogger(tmp_path / "runs/a b/version_0")
        with warnings.catch_warnings(), caplog.at_level("INFO"):
            warnings.simplefilter("error")
            logger.log_hyperparams({"model": {"width": 4}})
            log(logger, *[(step, {"loss": step / 7}) for step in range(30)])
            logger.finalize("success")
        id = (tmp_path / "runs/a b/version_0/wandb/run_id").read_text().strip()
        assert logger.sync_command == f"wandb sync 'runs/a b/version_0/wandb'/offline-run-*-{id}"
        message = f"W&B: not logged in, so logging offline; upload the run with: {logger.sync_command}"
        assert [text for text in caplog.messages if "W&B" in text] == [message]
        assert losses(tmp_path / "runs/a b/version_0") == {step: pytest.approx(step / 7) for step in range(30)}
        (run,) = wandb_stand_ins.records(tmp_path / "runs/a b/version_0", "run")
        assert (run["run_id"], run["project"], run["display_name"]) == (id, "normlab", "a b/version_0")

    def test_rows_of_one_step_are_one_row(self, tmp_path):
        logger = WandbLogger(tmp_path)
        log(logger, (9, {"train": 1.0}), (9, {"val": 2.0}), (10, {"rho": 0.5}))
        logger.finalize("success")
        values = [
            (row["_step"], row.get("train"), row.get("val"), row.get("rho")) for row in wandb_stand_ins.rows(tmp_path)
        ]
        assert values == [(9, 1, 2, None), (10, None, None, 0.5)]

    def test_a_resumed_run_is_the_same_wandb_run(self, tmp_path):
        for steps in (range(3), range(2, 5)):
            logger = WandbLogger(tmp_path)
            log(logger, *[(step, {"loss": step / 7}) for step in steps])
            logger.finalize("success")
        first, second = wandb_stand_ins.records(tmp_path, "run")
        assert first["run_id"] == second["run_id"] == logger.version
        assert [row["_step"] for row in wandb_stand_ins.rows(tmp_path)] == [0, 1, 2, 2, 3, 4]

    def test_disabled_leaves_nothing_behind(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "disabled")
        logger = WandbLogger(tmp_path)
        log(logger, (0, {"loss": 1.0}))
        logger.log_image("samples", [torch.rand(3, 8, 8)], 0)
        logger.finalize("success")
        assert list(tmp_path.iterdir()) == []
        assert logger.sync_command is None

    @pytest.mark.parametrize("mode", ["offline", "dryrun"])
    def test_offline_mode_holds_for_who_is_logged_in(self, tmp_path, monkeypatch, server, mode):
        monkeypatch.setenv("WANDB_MODE", mode)
        logger = WandbLogger(tmp_path)
        log(logger, (0, {"loss": 1.0}))
        logger.finalize("success")
        assert losses(tmp_path) == {0: 1}
        assert server.received == []

    def test_variables_name_another_folder_and_project(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
        monkeypatch.setenv("WANDB_PROJECT", "mine")
        logger = WandbLogger(tmp_path / "run")
        log(logger, (0, {"loss": 1.0}))
        logger.finalize("success")
        assert losses(tmp_path / "elsewhere") == {0: 1}
        assert wandb_stand_ins.records(tmp_path / "elsewhere", "run")[0]["project"] == "mine"

    def test_who_is_logged_in_logs_online(self, tmp_path, server, caplog):
        logger = WandbLogger(tmp_path)
        with warnings.catch_warnings(), caplog.at_level("INFO"):
            warnings.simplefilter("error")
            log(logger, (0, {"loss": 0.5}), (1, {"loss": 0.25}))
            logger.finalize("success")
        sent = "".join(body.decode() for path, body in server.received if path.endswith("/file_stream"))
        assert '\\"loss\\":0.5' in sent
        assert '\\"loss\\":0.25' in sent
        assert f"W&B: {server.url}/tester/normlab/runs/{logger.version}" in caplog.messages
        assert logger.sync_command is None

    @pytest.mark.parametrize("network", ["none", "silent"])
    def test_without_network_falls_back_to_offline(self, tmp_path, monkeypatch, network):
        with wandb_stand_ins.silent_server() as silent:
            url = silent if network == "silent" else f"http://127.0.0.1:{wandb_stand_ins.closed_port()}"
            monkeypatch.setenv("WANDB_API_KEY", wandb_stand_ins.API_KEY)
            monkeypatch.setenv("WANDB_BASE_URL", url)
            logger = WandbLogger(tmp_path, init_timeout=1)
            start = time.monotonic()
            (message,) = warnings_of(lambda: log_and_end(logger, [0.5, 0.25]))
            assert time.monotonic() - start < 60
        assert message.startswith("W&B cannot be reached (")
        assert message.endswith(f"so this run is logged offline; upload it with: {logger.sync_command}")
        assert losses(tmp_path) == {0: 0.5, 1: 0.25}

    def test_an_invalid_key_falls_back_to_offline(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", "too short")
        logger = WandbLogger(tmp_path)
        with pytest.warns(UserWarning, match="cannot be reached .AuthenticationError.*logged offline"):
            log(logger, (0, {"loss": 0.5}))
        logger.finalize("success")
        assert losses(tmp_path) == {0: 0.5}

    def test_an_unwritable_place_means_no_wandb(self, tmp_path, monkeypatch):
        (tmp_path / "wandb").write_text("in the way")
        logger = WandbLogger(tmp_path)
        (message,) = warnings_of(lambda: log_and_end(logger, [0.5, 0.25]))
        assert re.match("W&B failed .*; the training goes on, and metrics.csv has everything.$", message)

    def test_a_server_that_dies_neither_stops_nor_hangs_the_end(self, tmp_path, server):
        logger = WandbLogger(tmp_path, finish_timeout=2)
        log(logger, *[(step, {"loss": step / 7}) for step in range(20)])
        server.die()
        log(logger, *[(step, {"loss": step / 7}) for step in range(20, 40)])
        start = time.monotonic()
        (message,) = warnings_of(lambda: logger.finalize("success"))
        assert time.monotonic() - start < 20
        (folder,) = (tmp_path / "wandb").glob("run-*")
        assert "TimeoutError" in message
        assert message.endswith(f"is in {folder}; upload it with: wandb sync --include-online {folder}")
        assert logger.sync_command == f"wandb sync --include-online {folder}"
        assert losses(tmp_path) == {step: pytest.approx(step / 7) for step in range(40)}

    @pytest.mark.parametrize("moment", ["middle", "end"])
    def test_a_killed_wandb_process_is_told_once(self, tmp_path, moment, capfd):
        logger = WandbLogger(tmp_path)
        log(logger, *[(step, {"loss": step / 7}) for step in range(5)])
        wandb_stand_ins.kill_wandb_process()

        def go_on():
            if moment == "middle":
                log(logger, *[(step, {"loss": step / 7}) for step in range(5, 300)])
                logger.log_image("samples", [torch.rand(3, 8, 8)], 300)
                logger.experiment.summary["best"] = 1
                logger.log_hyperparams({"a": 1})
            logger.finalize("success")

        (message,) = warnings_of(go_on)
        (folder,) = (tmp_path / "wandb").glob("offline-run-*")
        assert message.startswith("W&B failed (")
        assert f"the training goes on, and metrics.csv has everything. What W&B has recorded is in {folder};" in message
        assert message.endswith(str(logger.sync_command))
        wandb.teardown()
        assert "Traceback" not in capfd.readouterr().err

    def test_a_killed_wandb_process_of_an_online_run(self, tmp_path, server):
        logger = WandbLogger(tmp_path, finish_timeout=2)
        log(logger, (0, {"loss": 1.0}))
        wandb_stand_ins.kill_wandb_process()
        (message,) = warnings_of(lambda: log_and_end(logger, [0.5] * 9))
        assert "wandb sync --include-online" in message
        assert wandb.run is None

    def test_a_training_goes_on_without_wandb(self, tmp_path):
        class Kill(Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == 5:
                    wandb_stand_ins.kill_wandb_process()

        callbacks = [MixingValues(2), SampleImages(2), Kill()]
        messages = warnings_of(lambda: stand_ins.fit(tmp_path, callbacks, loggers=[WandbLogger(tmp_path)]))
        assert len([text for text in messages if "W&B" in text]) == 1
        assert [row["step"] for row in read(tmp_path) if "train/loss" in row] == [str(step) for step in range(1, 13)]
        assert [row["step"] for row in read(tmp_path) if "rho/00_norm1/mean" in row] == [
            "0",
            "2",
            "4",
            "6",
            "8",
            "10",
            "12",
        ]
        assert len(list(tmp_path.glob("samples/*"))) == 7

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("WANDB_PROJECT", "me/normlab"),
            ("WANDB_MODE", "banana"),
            ("WANDB_BASE_URL", "no url"),
            ("WANDB_RUN_ID", "a/b"),
            ("WANDB_INIT_TIMEOUT", "soon"),
        ],
    )
    def test_a_variable_that_wandb_refuses_is_told_and_the_run_kept(self, tmp_path, monkeypatch, name, value):
        monkeypatch.setenv(name, value)
        logger = WandbLogger(tmp_path)
        (message,) = warnings_of(lambda: log_and_end(logger, [0.5, 0.25]))
        assert message.startswith("W&B cannot be reached (")
        monkeypatch.delenv(name)  # which W&B reads the file with, too
        assert losses(tmp_path) == {0: 0.5, 1: 0.25}

    def test_if_nothing_works_nothing_is_logged(self, tmp_path, monkeypatch):
        def fail(*args, **kwargs):
            raise AttributeError("a broken installation")

        monkeypatch.setattr(wandb, "init", fail)
        monkeypatch.setattr(wandb, "setup", fail)
        logger = WandbLogger(tmp_path)
        (message,) = warnings_of(lambda: log_and_end(logger, [0.5, 0.25]))
        assert message.startswith("W&B failed (AttributeError: a broken installation); the training goes on")
        logger.experiment.summary["best"] = logger.experiment.config["a"].b(1)

    def test_a_picture_that_cannot_be_made_costs_only_itself(self, tmp_path, monkeypatch):
        make = wandb.Image
        monkeypatch.setattr(wandb, "Image", lambda image: make(image) if image.ndim == 3 else 1 / 0)
        logger = WandbLogger(tmp_path)

        def go_on():
            for step in range(4):
                logger.log_metrics({"loss": step / 7}, step)
                logger.log_image("samples", [torch.rand(3, 8, 8) if step in (0, 3) else torch.rand(8)], step)
            logger.finalize("success")

        (message,) = warnings_of(go_on)
        assert message.startswith("W&B could not log all pictures and tables (ZeroDivisionError")
        assert losses(tmp_path) == {step: pytest.approx(step / 7) for step in range(4)}
        assert len(list(tmp_path.glob("wandb/*run-*/files/media/images/*"))) == 2

    def test_a_frozen_wandb_process_is_not_waited_for(self, tmp_path, monkeypatch):
        monkeypatch.setattr("training.wandb_logger.PATIENCE", 1)
        logger = WandbLogger(tmp_path, finish_timeout=-8)
        log(logger, (0, {"loss": 1.0}))
        logger.experiment.log({})
        start = time.monotonic()
        with wandb_stand_ins.frozen_wandb_process():
            # More than its socket takes.
            rows = [(step, {f"loss{k}": 1.0 for k in range(2000)}) for step in range(200)]
            messages = warnings_of(lambda: [log(logger, *rows), time.sleep(1.5), log_and_end(logger, [1.0])])
        assert time.monotonic() - start < 40
        (message,) = messages
        assert message.startswith("W&B failed (TimeoutError: no answer for 1 s); the training goes on")

    def test_a_folder_that_is_gone_is_told(self, tmp_path):
        logger = WandbLogger(tmp_path)
        log(logger, (0, {"loss": 1.0}))
        shutil.rmtree(tmp_path / "wandb")
        (message,) = warnings_of(lambda: logger.finalize("success"))
        assert re.search(r"wandb/offline-run-.* is gone|is in .*wandb/offline-run-", message)

    def test_a_name_of_the_users_own(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_NAME", "mine")
        log_and_end(WandbLogger(tmp_path), [1.0])
        assert wandb_stand_ins.records(tmp_path, "run")[0]["display_name"] == "mine"

    def test_a_run_that_was_killed_and_resumed_is_uploaded_whole(self, tmp_path, monkeypatch):
        first = WandbLogger(tmp_path)
        log(first, *[(step, {"loss": step / 7}) for step in range(40)])
        log_and_end(first, [])
        (part,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
        part.write_bytes(part.read_bytes()[:-700])
        time.sleep(1.1)  # parts are named by the second
        second = WandbLogger(tmp_path)
        log(second, *[(step, {"loss": step / 7}) for step in range(30, 50)])
        second.finalize("success")
        server = wandb_stand_ins.Server()
        environment = {
            "WANDB_API_KEY": wandb_stand_ins.API_KEY,
            "WANDB_BASE_URL": server.url,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        command = ["bash", "-c", second.sync_command]
        subprocess.run(command, env={**os.environ, **environment}, cwd=tmp_path, capture_output=True, check=True)
        server.die()
        sent = [json.loads(body) for path, body in server.received if path.endswith("/file_stream")]
        chunks = [
            body["files"]["wandb-history.jsonl"] for body in sent if "wandb-history.jsonl" in body.get("files", {})
        ]
        steps = {json.loads(row)["_step"] for chunk in chunks for row in chunk["content"]}
        assert steps == set(range(50))

    def test_other_processes_of_a_training_log_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        logger = WandbLogger(tmp_path)
        log(logger, (0, {"loss": 1.0}))
        logger.experiment.log({"loss": 1.0})
        logger.finalize("success")
        assert list(tmp_path.iterdir()) == []


def test_rows_that_something_has_damaged_are_dropped_and_training_goes_on(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a\n1,0.5\n2,0.5,7,7\n3\n4,0.25\n5,0.1")
    file = MetricsFile(path)
    file.log_metrics({"b": 2.0}, 6)
    file.save()
    assert path.read_text() == "step,a,b\n1,0.5,\n4,0.25,\n6,,2.0\n"
