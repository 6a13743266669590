"""Sweeps as users meet them: those that come with normlab, W&B's agent, and trainings that are real."""

import json
import os
import re
import shlex
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import wandb
import wandb_stand_ins
import yaml
from processes import ended, start
from wandb.wandb_agent import Agent

from sweeping import command
from sweeping.commands import command_of
from sweeping.runner import Runner
from sweeping.runs import is_claimed
from sweeping.search import next_settings
from sweeping.sweep_file import read_sweep
from training.command import main
from training.run import Run
from training.shipped import shipped_sweeps

ROOT = Path(__file__).parents[1]

TINY = """
name: tiny
trainer: {max_steps: 8, accelerator: cpu, val_check_interval: 4, log_every_n_steps: 1, enable_model_summary: false}
checkpoint: {every_n_train_steps: 2}
model: {class_path: stand_ins.TinyModel, init_args: {seconds: 0.05}}
data: {class_path: stand_ins.TinyData}
"""

SWEEP = """
name: small
program: train.py
command: ["${env}", "${interpreter}", "${program}", fit, --config, tiny.yaml, "${args}"]
method: grid
metric: {name: val/loss, goal: minimize}
parameters:
  seed: {value: 3}
  model.norm: {values: [batch_instance]}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    Path("tiny.yaml").write_text(TINY)
    Path("small.yaml").write_text(SWEEP)


def commands(name):
    return [run.command for run in Runner(read_sweep(shipped_sweeps()[name]), Path("runs")).planned()]


def saved_config(folder):
    return yaml.safe_load((Path(folder) / "config.yaml").read_text())


def seeds(config):
    return [config["seed_everything"], config["model"]["init_args"]["seed"], config["data"]["init_args"]["seed"]]


def test_one_option_sets_all_seeds(capsys):
    assert main(["fit", "--seed", "5", "--config", "tiny.yaml", "--seed=7", "--print_config"]) == 0
    assert seeds(yaml.safe_load(capsys.readouterr().out)) == [7, 7, 7]
    assert main(["fit", "--config", "tiny.yaml", "--seed", "x"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(("name", "runs"), [("sweep_norms", 12), ("sweep_rho_rate", 9), ("sweep_style_weight", 10)])
def test_the_sweeps_that_come_along_give_commands_that_train_takes(name, runs, capsys):
    pytest.importorskip("optuna")
    all_commands = commands(name)
    assert len({shlex.join(words) for words in all_commands}) == len(all_commands) == runs
    for words in (all_commands[0], all_commands[-1]):
        assert words[:3] == ["python", "train.py", "fit"]
        assert main([*words[2:], "--print_config"]) == 0
        config = yaml.safe_load(capsys.readouterr().out)
        assert config["name"] == name
        for word in words[words.index("--name") + 2 :]:
            key, _, value = word.removeprefix("--model.").partition("=")
            if value and key != "--seed":
                assert config["model"]["init_args"][key] in (value, yaml.safe_load(value))


def test_the_sweep_of_the_guide_is_one_that_train_takes():
    pytest.importorskip("optuna")
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/guides/sweeps.md").read_text(), re.DOTALL)
    Path("mine.yaml").write_text(text)
    sweep = read_sweep(Path("mine.yaml"))
    words = command_of(sweep, next_settings(sweep, []))
    assert main([*words[2:], "--print_config"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_sweeps())
def test_every_command_of_them_is_taken(name):
    pytest.importorskip("optuna")
    assert [words for words in commands(name) if main([*words[2:], "--print_config"]) != 0] == []


@pytest.mark.parametrize("name", shipped_sweeps())
def test_wandb_takes_them(name):
    """By the schema of W&B's server: pip install --no-deps sweeps, which asks for an old NumPy, and jsonschema."""
    jsonschema, sweeps = pytest.importorskip("jsonschema"), find_spec("sweeps")
    if sweeps is None:
        pytest.skip("the schema is not installed")
    schema = json.loads((Path(sweeps.submodule_search_locations[0]) / "config/schema.json").read_text())
    content = yaml.safe_load(shipped_sweeps()[name].read_text())
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(content)] == []
    assert [*jsonschema.Draft7Validator(schema).iter_errors({**content, "methd": "grid"})] != []


def test_names_are_found_and_files_come_first(capsys):
    pytest.importorskip("optuna")
    assert command.main(["sweep_rho_rate", "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 9
    assert command.main(["sweep_norm"]) == 2
    assert "unknown sweep 'sweep_norm', did you mean 'sweep_norms'" in capsys.readouterr().err
    assert command.main(["sweep_norm.yaml"]) == 2
    assert capsys.readouterr().err == "error: there is no file sweep_norm.yaml\n"
    Path("sweep_norms").write_text(SWEEP)
    assert command.main(["sweep_norms", "--dry-run"]) == 0
    assert "tiny.yaml" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_bit_for_bit(capsys):
    process = start("sweep.py", "small.yaml", PYTHONPATH=os.environ["PYTHONPATH"])
    first = Path("runs/small/001")
    end = time.monotonic() + 120
    while not (first / "version_0/checkpoints/last.ckpt").is_file():
        assert time.monotonic() < end, Path("log.txt").read_text() + (first / "output.txt").read_text()
        time.sleep(0.02)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    training = int((first / "version_0/.lock").read_text())
    os.kill(training, signal.SIGKILL)
    while is_claimed(first):
        time.sleep(0.02)
    assert command.main(["small.yaml"]) == 0
    out = capsys.readouterr().out
    assert "run 1 of 1: goes on from its checkpoint" in out
    assert "1 of 1 runs are finished: runs/small" in out
    assert [seeds(saved_config(path)) for path in Path("runs/small").glob("*/version_*")] == [[3] * 3]
    assert len([*(first / "version_0").glob("config_resumed_*.yaml")]) == 1
    whole = ["fit", "--config", "tiny.yaml", "--seed", "3", "--name", "whole"]
    assert main(whole) == 0
    went_on, at_once = (Run(path).weights for path in (first / "version_0", "runs/whole/version_0"))
    assert [key for key in at_once if not torch.equal(went_on[key], at_once[key])] == []
    # A run that nobody has noted as finished, since its worker died before it, is not trained again.
    record = json.loads((first / "sweep.json").read_text())
    (first / "sweep.json").write_text(json.dumps({**record, "state": "begun"}))
    before = (first / "version_0/metrics.csv").read_bytes()
    assert command.main(["small.yaml"]) == 0
    assert (first / "version_0/metrics.csv").read_bytes() == before


@pytest.mark.slow
def test_wandbs_agent_trains_in_a_run_folder_and_its_own_run(monkeypatch, tmp_path):
    """W&B's agent itself, without its server: it is told to train as the server would tell it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_DIR"):  # which the agent sets
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")  # as `wandb agent some-project/abcd1234` does
    monkeypatch.setenv("WANDB_PROJECT", "some-project")
    Path("train.py").symlink_to(ROOT / "train.py")
    agent = Agent(None, None, sweep_id="abcd1234")
    agent._sweep_command = yaml.safe_load(SWEEP)["command"]
    settings = {"seed": {"value": 3}, "model.norm": {"value": "switchable"}}
    answer = agent._process_command({"type": "run", "run_id": "run1", "program": "train.py", "args": settings})
    assert "exception" not in answer
    assert agent._run_processes["run1"].wait(120) == 0
    config = saved_config("runs/tiny/version_0")
    assert seeds(config) == [3, 3, 3]
    assert config["model"]["init_args"]["norm"] == "switchable"
    assert Path("runs/tiny/version_0/wandb/run_id").read_text() == "run1\n"
    (started,) = wandb_stand_ins.records(tmp_path, "run")
    assert (started["run_id"], started["sweep_id"], started["project"]) == ("run1", "abcd1234", "some-project")
    assert {key: started["config"]["update"][key] for key in settings} == {"seed": 3, "model.norm": "switchable"}
    assert wandb.run is None
