"""The command line as users meet it: what it trains, where, how it goes on, and what it says to mistakes."""

import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import wandb_stand_ins
import yaml
from processes import ended, start
from pytorch_lightning import Trainer

from training.command import main
from training.layer_sync import NormSync

ROOT = Path(__file__).parents[1]

TINY = """
name: tiny
trainer: {max_steps: 12, accelerator: cpu, val_check_interval: 5, log_every_n_steps: 1, enable_model_summary: false}
checkpoint: {every_n_train_steps: 3}
mixing: {every_n_steps: 5}
samples: {every_n_steps: 5}
model: {class_path: stand_ins.TinyModel}
data: {class_path: stand_ins.TinyData}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """An empty working directory with a configuration, without W&B."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("tiny.yaml").write_text(TINY)


def fit(*args):
    return main(["fit", "--config", "tiny.yaml", *args])


def wait_for(file, seconds=120):
    end = time.monotonic() + seconds
    while not Path(file).is_file():
        assert time.monotonic() < end, f"{file} does not appear: {Path('log.txt').read_text()}"
        time.sleep(0.005)


def checkpoint(run):
    return torch.load(Path(run) / "checkpoints/last.ckpt", weights_only=True)


def assert_same_weights(run, other):
    weights, expected = checkpoint(run)["state_dict"], checkpoint(other)["state_dict"]
    assert weights.keys() == expected.keys()
    assert [key for key, value in weights.items() if not torch.equal(value, expected[key])] == []


def files():
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


class TestFit:
    def test_fills_a_run_folder_and_says_so(self, capsys, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "offline")
        assert fit() == 0
        steps = [f"step_{step:07d}" for step in (0, 5, 10, 12)]
        run = Path("runs/tiny/version_0")
        assert {path.name for path in run.iterdir()} == {
            "checkpoints", "config.yaml", "metrics.csv", "mixing", "samples", "wandb"
        }  # fmt: skip
        assert [path.stem for path in sorted(run.glob("mixing/*.npz"))] == steps
        assert [path.stem for path in sorted(run.glob("samples/*.png"))] == steps
        assert checkpoint(run)["global_step"] == 12
        assert checkpoint(run)["hyper_parameters"].keys() == {"width", "norm", "n_dis", "seconds", "seed"}
        out = capsys.readouterr().out
        assert "step 12/12  loss" in out
        assert "finished after step 12 of 12: runs/tiny/version_0" in out
        assert "python use.py runs/tiny/version_0" in out
        (wandb_folder,) = run.glob("wandb/offline-run-*")
        assert f"wandb sync {run}/wandb/offline-run-*-{wandb_folder.name.rpartition('-')[2]}" in out

    def test_records_come_in_the_order_of_steps(self):
        assert fit() == 0
        lines = Path("runs/tiny/version_0/metrics.csv").read_text().splitlines()
        header = lines[0].split(",")
        rows = [dict(zip(header, line.split(","), strict=True)) for line in lines[1:]]
        kinds = [
            (int(row["step"]), next(key for key in ("train/loss", "val/loss", "rho/00_norm1/mean") if row[key]))
            for row in rows
        ]
        training = [(step, "train/loss") for step in range(1, 13)]
        validation = [(step, "val/loss") for step in (5, 10)]
        mixing = [(step, "rho/00_norm1/mean") for step in (0, 5, 10, 12)]
        order = {"train/loss": 0, "val/loss": 1, "rho/00_norm1/mean": 2}
        assert kinds == sorted(training + validation + mixing, key=lambda row: (row[0], order[row[1]]))

    def test_the_saved_configuration_repeats_the_run(self):
        assert fit("--seed_everything", "3", "--model.width", "5") == 0
        assert main(["fit", "--config", "runs/tiny/version_0/config.yaml", "--name", "again"]) == 0
        assert_same_weights("runs/again/version_0", "runs/tiny/version_0")

    def test_each_run_has_a_folder_of_its_own(self):
        Path("runs/tiny/version_7").mkdir(parents=True)
        assert fit("--trainer.max_steps", "1") == fit("--trainer.max_steps", "1") == 0
        assert {path.name for path in Path("runs/tiny").iterdir()} == {"version_7", "version_8", "version_9"}

    def test_configurations_are_merged_and_overridden(self, monkeypatch):
        Path("more.yaml").write_text("trainer: {max_steps: 2}\nmodel: {init_args: {width: 6, seed: 4}}\nname: more")
        monkeypatch.setenv("PL_FIT__CHECKPOINT__KEEP_ALL", "true")
        assert fit("--config", "more.yaml", "--model.width", "8", "--trainer.log_every_n_steps=2") == 0
        saved = yaml.safe_load(Path("runs/more/version_0/config.yaml").read_text())
        assert saved["trainer"]["max_steps"] == 2
        assert saved["trainer"]["log_every_n_steps"] == 2
        assert saved["model"]["init_args"] == {
            "width": 8,
            "norm": "batch_instance",
            "n_dis": 1,
            "seconds": 0.0,
            "seed": 4,
        }
        assert saved["checkpoint"].items() >= {"every_n_train_steps": 3, "keep_all": True}.items()

    def test_the_data_gives_as_many_batches_as_the_model_needs(self, monkeypatch):
        sizes = []
        monkeypatch.setattr(
            "stand_ins.TinyModel.training_step", lambda self, batch, i: sizes.append(len(batch["image"]))
        )
        assert fit("--model.n_dis", "3", "--trainer.max_steps", "0", "--trainer.fast_dev_run", "2") == 0
        assert sizes == [6, 6]
        assert "batches_per_step" not in Path("tiny.yaml").read_text()

    def test_a_dry_run_writes_nothing(self):
        before = files()
        assert fit("--trainer.fast_dev_run", "true") == 0
        assert files() == before

    def test_prints_the_configuration(self, capsys):
        assert fit("--print_config", "--model.width", "9") == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["model"]["init_args"]["width"] == 9
        assert not Path("runs").exists()

    def test_helps(self, capsys):
        assert main(["--help"]) == 0
        assert "PL_FIT__TRAINER__MAX_STEPS" in capsys.readouterr().out
        assert main(["fit", "--help"]) == 0
        assert "--mixing.every_n_steps" in capsys.readouterr().out

    def test_says_nothing_but_what_matters(self, capfd):
        assert fit() == 0
        err = capfd.readouterr().err
        for noise in ("Tip", "TPU", "num_workers", "warn", "deprecated", "Experiment logs directory"):
            assert noise not in err

    def test_a_bug_keeps_its_traceback(self):
        with pytest.raises(TypeError, match="a bug in the constructor") as error:
            fit("--model", "stand_ins.BrokenModel")
        assert error.traceback[-1].path.name == "stand_ins.py"
        assert not Path("runs").exists()
        with pytest.raises(ValueError, match="a bug in the training step"):
            fit("--model", "stand_ins.BrokenModel", "--model.at", "step")

    @pytest.mark.parametrize(
        "options", [["--trainer.enable_checkpointing", "false"], ["--trainer.enable_progress_bar=false"]]
    )
    def test_parts_can_be_turned_off(self, options, capsys):
        assert fit(*options) == 0
        assert Path("runs/tiny/version_0/checkpoints").exists() != ("checkpointing" in options[0])
        assert ("step 12/12" in capsys.readouterr().out) != ("progress" in options[0])

    @pytest.mark.slow
    def test_two_processes_share_a_run_folder(self):
        args = ["fit", "--config", "tiny.yaml", "--trainer.max_steps", "6"]
        process = start("train.py", *args, "--trainer.devices", "2", "--trainer.strategy", "ddp")
        assert ended(process, 200) == 0, Path("log.txt").read_text()
        assert [path.name for path in Path("runs/tiny").iterdir()] == ["version_0"]
        steps = [line.split(",")[0] for line in Path("runs/tiny/version_0/metrics.csv").read_text().splitlines()[1:]]
        assert steps == sorted(steps)
        assert len(steps) == 6 + 1 + 3
        assert Path("log.txt").read_text().count("finished after step") == 1

    def test_norms_are_synchronized_by_lightnings_option(self, monkeypatch):
        options = []
        monkeypatch.setattr("training.cli.Trainer", lambda **kwargs: options.append(kwargs) or Trainer(**kwargs))
        for value in ("false", "true"):
            assert fit("--trainer.max_steps", "1", "--trainer.sync_batchnorm", value) == 0
        assert [[type(plugin) for plugin in each["plugins"]] for each in options] == [[], [NormSync]]
        assert yaml.safe_load(Path("runs/tiny/version_1/config.yaml").read_text())["trainer"]["sync_batchnorm"]

    def test_synchronizing_twice_is_refused(self, capsys):
        plugins = ["--trainer.plugins", "training.layer_sync.NormSync"]
        assert fit("--trainer.sync_batchnorm", "true", *plugins) == 2
        assert "Choose one or the other" in capsys.readouterr().err
        assert fit("--trainer.max_steps", "1", *plugins) == 0


class TestEvaluate:
    def test_validates_a_run_and_writes_nothing(self, capsys):
        assert fit() == 0
        before = files()
        assert main(["validate", "--config", "runs/tiny/version_0/config.yaml", "--ckpt_path", "last"]) == 0
        assert "val/loss" in capsys.readouterr().out
        assert files() == before

    def test_refuses_to_score_an_untrained_model(self, capsys):
        assert main(["validate", "--config", "tiny.yaml"]) == 2
        assert capsys.readouterr().err.startswith("error: validate needs a trained model: give --ckpt_path")


class TestResume:
    def test_last_goes_on_with_the_newest_run_that_has_a_checkpoint(self, capsys, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "offline")
        assert fit("--trainer.max_steps", "7") == 0
        Path("runs/tiny/version_1").mkdir()
        assert fit("--ckpt_path", "last") == 0
        assert not any(Path("runs/tiny/version_1").iterdir())
        assert "step 8/12" in capsys.readouterr().out
        run = Path("runs/tiny/version_0")
        assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 7
        assert yaml.safe_load((run / "config_resumed_0000007.yaml").read_text())["trainer"]["max_steps"] == 12
        first, second = wandb_stand_ins.records(run, "run")
        assert first["run_id"] == second["run_id"]
        rows = [row for row in wandb_stand_ins.rows(run) if "rho/00_norm1/mean" in row]
        values = {row["_step"]: row["rho/00_norm1/mean"] for row in rows}
        assert all(row["rho/00_norm1/mean"] == values[row["_step"]] for row in rows), "one step has two values"
        assert fit("--name", "whole") == 0
        assert_same_weights(run, "runs/whole/version_0")
        # What the first training told at its end, at a step that is not due, stays.
        ends, whole = (pd.read_csv(folder / "metrics.csv") for folder in (run, Path("runs/whole/version_0")))
        ends.loc[ends["step"] == 7, [name for name in ends if name.startswith(("rho/", "switch/"))]] = float("nan")
        pd.testing.assert_frame_equal(ends.dropna(how="all", subset=ends.columns[1:], ignore_index=True), whole)

    @pytest.mark.parametrize("path", ["moved/version_0", "moved/version_0/checkpoints/last.ckpt"])
    def test_a_path_goes_on_in_the_run_that_it_belongs_to(self, path):
        assert fit("--trainer.max_steps", "7") == 0
        Path("runs/tiny").rename("moved")
        Path("runs").rmdir()
        assert fit("--ckpt_path", path) == 0
        assert checkpoint("moved/version_0")["global_step"] == 12
        assert not Path("runs").exists()

    def test_a_checkpoint_outside_of_a_run_begins_a_new_run(self):
        assert fit("--trainer.max_steps", "7") == 0
        Path("runs/tiny/version_0/checkpoints/last.ckpt").rename("alone.ckpt")
        assert fit("--ckpt_path", "alone.ckpt") == 0
        assert checkpoint("runs/tiny/version_1")["global_step"] == 12

    @pytest.mark.parametrize("home", ["~/a b", "file://{}/a b"])
    def test_home_and_addresses_are_the_folders_that_they_name(self, home, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        home = home.format(tmp_path)
        assert fit(f"--runs_dir={home}", "--trainer.max_steps", "3") == 0
        assert fit(f"--runs_dir={home}", "--trainer.max_steps", "4", "--ckpt_path", f"{home}/tiny") == 0
        assert checkpoint(tmp_path / "a b/tiny/version_0")["global_step"] == 4
        assert not Path("runs").exists()

    def test_a_second_training_in_one_folder_is_refused(self, capsys, monkeypatch):
        assert fit("--trainer.max_steps", "3") == 0
        (run,) = Path("runs/tiny").iterdir()
        monkeypatch.setattr("training.lock.fcntl.lockf", lambda *_: (_ for _ in ()).throw(BlockingIOError))
        (run / ".lock").write_text("123\n")
        before = files()
        assert fit("--ckpt_path", "last") == 2
        line = f"error: {run} is being trained by another process, 123: wait for its end, or leave out --ckpt_path"
        assert capsys.readouterr().err.splitlines()[-1].startswith(line)
        assert files() == before

    def test_trains_outside_of_the_main_thread(self):
        statuses = []
        thread = threading.Thread(target=lambda: statuses.append(fit()))
        thread.start()
        thread.join(100)
        assert statuses == [0]
        assert checkpoint("runs/tiny/version_0")["global_step"] == 12

    def test_a_finished_run_is_left_as_it_is(self):
        assert fit() == 0
        before = {path: Path(path).read_bytes() for path in files()}
        assert fit("--ckpt_path", "last") == 0
        assert {path: Path(path).read_bytes() for path in files()} == before

    def test_tells_what_has_changed(self, caplog):
        assert fit("--trainer.max_steps", "7") == 0
        with caplog.at_level("INFO", logger="pytorch_lightning"):
            assert fit("--ckpt_path", "last", "--data.batch_size", "3") == 0
        changes = [text for text in caplog.messages if text.startswith("going on with other settings")]
        assert len(changes) == 1
        assert changes[0].endswith("data.init_args.batch_size 2 -> 3, trainer.max_steps 7 -> 12")

    # Each a command line, short, but with a second left after its first checkpoint.
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "command",
        [
            "--config tiny.yaml --model.seconds 0.02",
            f"--config {ROOT}/configs/gan.yaml --data.batch_size 4",
            f"--config {ROOT}/configs/style_transfer.yaml --data.image_size 32 --model.style_size 32",
        ],
        ids=lambda command: Path(command.split()[1]).stem,
    )
    def test_a_killed_run_ends_as_if_it_had_not_been_killed(self, command):
        args = ["fit", *command.split(), "--name", "run", "--trainer.accelerator", "cpu", "--trainer.max_steps", "24"]
        args += ["--checkpoint.every_n_train_steps", "3", "--trainer.val_check_interval", "8"]
        assert main([*args, "--runs_dir", "whole"]) == 0
        process = start("train.py", *args)
        wait_for("runs/run/version_0/checkpoints/last.ckpt")
        delay = random.uniform(0, 0.3)
        time.sleep(delay)
        process.kill()
        assert ended(process) == -signal.SIGKILL, "the run was over before it was killed"
        assert main([*args, "--ckpt_path", "last"]) == 0
        killed, whole = Path("runs/run/version_0"), Path("whole/run/version_0")
        assert_same_weights(killed, whole)
        lines, expected = ((run / "metrics.csv").read_text().splitlines() for run in (killed, whole))
        assert lines == expected, f"after {delay} s"

    @pytest.mark.slow
    def test_ctrl_c_saves_and_says_how_to_go_on(self):
        args = ["fit", "--config", "tiny.yaml", "--model.seconds", "0.02", "--trainer.max_steps", "200"]
        process = start("train.py", *args, "--data.num_workers", "1")
        wait_for("runs/tiny/version_0/checkpoints/last.ckpt")
        # As a terminal does: to all processes of the training.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in [*map(int, children), process.pid]:
            os.kill(pid, signal.SIGINT)
        assert ended(process) == 130
        log = Path("log.txt").read_text()
        assert "interrupted after step" in log
        assert "Traceback" not in log
        assert "SIGTERM" not in log
        command = next(line.strip() for line in log.splitlines() if "python train.py" in line)
        steps = checkpoint("runs/tiny/version_0")["global_step"] + 5
        assert main([*command.split()[2:], "--trainer.max_steps", str(steps)]) == 0
        assert checkpoint("runs/tiny/version_0")["global_step"] == steps

    @pytest.mark.slow
    @pytest.mark.parametrize("receiver", ["second", "all"])
    def test_two_processes_end_together_whoever_gets_a_signal(self, receiver):
        args = ["fit", "--config", "tiny.yaml", "--model.seconds", "0.02", "--trainer.max_steps", "5000"]
        args += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.num_workers", "1"]
        process = start("train.py", *args)
        wait_for("runs/tiny/version_0/checkpoints/last.ckpt", 200)
        pids = [process.pid]
        for pid in pids:  # which grow on the way: children, and theirs
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            pids += [int(child) for child in children]
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids[1:]}
        second = next(pid for pid, command in commands.items() if b"train.py" in command)
        for pid in [second] if receiver == "second" else pids:
            os.kill(pid, signal.SIGTERM)
        assert ended(process, 100) == 143, Path("log.txt").read_text()
        log = Path("log.txt").read_text()
        assert "Traceback" not in log
        assert log.count("interrupted after step") == 1
        assert "--ckpt_path runs/tiny/version_0/checkpoints/last.ckpt" in log


MISTAKES = {
    "--config clasifier": "unknown configuration 'clasifier', did you mean 'classifier'[?].*",
    "--config missing.yaml": "config: File does not exist: '.*missing.yaml'",
    "--config broken.yaml": "broken.yaml is not valid YAML: .* line 2.*",
    "--config text.yaml": "text.yaml holds hello, but a configuration is made of settings, such as name: run",
    "--config section.yaml": "unknown option 'modle', did you mean 'model'[?]",
    "--trainer.max_step 4": "unknown option 'trainer.max_step', did you mean 'trainer.max_steps'[?]",
    "--trainer.max_s 4": "unknown option 'trainer.max_s'.*",  # no abbreviations
    "--model.widht 4": "model: unknown option 'widht' of stand_ins.TinyModel, did you mean 'width'[?]",
    "--model.width wide": "model.init_args.width: expected int, got wide",
    "--trainer.max_steps 1.5": "trainer.max_steps: expected int, got 1.5",
    "--model no_such_module.Model": "model: .*No module named 'no_such_module'",
    "--model stand_ins.TinyModle": "model: no class 'TinyModle' in stand_ins, did you mean 'TinyModel'[?]",
    "--model stand_ins.TinyData": "model: Import path .*does not correspond to a subclass of TrainingModule",
    "--model.norm batch_instanse": "unknown norm 'batch_instanse', did you mean 'batch_instance'.*",
    "--model.width 0": "num_features must be at least 1, got 0",
    "--data.batches_per_step 1": "data.init_args.batches_per_step follows from model.batches_per_step: remove it",
    "--trainer.max_steps -1": "trainer.max_steps must be at least 1, got -1",
    "--trainer.max_epochs 3": "trainer.max_epochs is 3, but data streams without epochs: use trainer.max_steps",
    "--trainer.logger false": "trainer.logger: false is not possible.*WANDB_MODE=disabled.*",
    "--trainer.accelerator abacus": "You selected an invalid accelerator name: .*abacus.*",
    "--mixing.every_n_steps 0": "mixing.every_n_steps must be at least 1, got 0",
    "--name a/b": "name must be the name of a folder, got 'a/b'",
    "--name a::b": "name: 'a::b' has '::' in it, which separates addresses; use another name",
    "--runs_dir s3://bucket": "runs_dir: s3://bucket is an address by s3; give the path of a local folder",
    "--ckpt_path a::b.ckpt": "ckpt_path: 'a::b.ckpt' has '::' in it, .*",
    "--ckpt_path last": "--ckpt_path last: no such run folder or checkpoint: runs/tiny",
    "--ckpt_path no.ckpt": "--ckpt_path no.ckpt: no such run folder or checkpoint: no.ckpt",
    "--ckpt_path text.yaml": "--ckpt_path text.yaml: text.yaml is not a readable checkpoint: .*",
    "--runs_dir text.yaml": "cannot make the run folder text.yaml/tiny/version_0: Not a directory",
    "--data.folder photos": "no such folder of images: photos",  # seen when the data is set up
}


class TestMistakes:
    @pytest.mark.parametrize(("options", "message"), MISTAKES.items(), ids=MISTAKES)
    def test_are_told_in_one_line_and_leave_nothing_behind(self, options, message, capsys):
        Path("broken.yaml").write_text("trainer: [1,\n  b: {")
        Path("text.yaml").write_text("hello")
        Path("section.yaml").write_text(TINY.replace("model:", "modle:"))
        before = sorted(Path().rglob("*"))
        assert fit(*options.split()) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert re.fullmatch(f"error: {message}", line), line
        assert sorted(Path().rglob("*")) == before

    def test_in_the_environment(self, capsys, monkeypatch):
        monkeypatch.setenv("PL_FIT__TRAINER__MAX_STEPS", "many")
        assert main(["fit"]) == 2
        assert capsys.readouterr().err == "error: trainer.max_steps: expected int, got many\n"

    def test_nothing_given(self, capsys):
        assert main(["fit"]) == 2
        assert capsys.readouterr().err == "error: no data and no model given: use --config FILE\n"
        assert main(["trian"]) == 2
        assert capsys.readouterr().err.startswith("error: argument subcommand: invalid choice: 'trian'")

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--model.width", "5"], "the checkpoint was trained with other settings .* width was 4, is now 5"),
            (
                ["--model", "stand_ins.PlainModel"],
                "the checkpoint is of TinyModel, but the configured model is PlainModel",
            ),
        ],
    )
    def test_a_checkpoint_of_another_model_is_refused_and_left_alone(self, args, message, capsys):
        assert fit("--trainer.max_steps", "3") == 0
        before = {path: Path(path).read_bytes() for path in files()}
        capsys.readouterr()
        assert fit("--ckpt_path", "last", *args) == 2
        assert re.search(f"^error: {message}$", capsys.readouterr().err, re.MULTILINE)
        assert {path: Path(path).read_bytes() for path in files()} == before

    def test_a_damaged_checkpoint_is_told(self, capsys):
        assert fit("--trainer.max_steps", "3") == 0
        file = Path("runs/tiny/version_0/checkpoints/last.ckpt")
        file.write_bytes(file.read_bytes()[:-100])
        assert fit("--ckpt_path", "last") == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert line.startswith(f"error: --ckpt_path last: {file} is not a readable checkpoint: ")

    def test_seen_in_the_middle_of_the_training(self, capsys):
        assert fit("--model", "stand_ins.BrokenModel", "--model.at", "data") == 2
        assert capsys.readouterr().err.endswith("error: the data does not fit the model\n")
        assert Path("runs/tiny/version_0/metrics.csv").is_file()
