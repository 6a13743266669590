"""Command lines, against those of W&B's own agent."""

import subprocess
import sys

import pytest
from wandb.sdk.launch.sweeps import utils as wandb_sweeps

import normlab
from norms.errors import SettingError
from sweeping.commands import command_of, shown, started
from sweeping.sweep_file import Choices, Sweep

SETTINGS = {"seed": 3, "model.norm": "batch", "lr": 1e-05, "flag": True, "off": False, "model": {"widths": [1, 2]}}
MACROS = ("args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags", "args_json")


def sweep_of(*command, program="train.py"):
    parameters = {(name,): Choices((value,)) for name, value in SETTINGS.items()}
    return Sweep("s", "grid", parameters, command, program, None, False, None)


@pytest.mark.parametrize("macro", MACROS)
def test_settings_are_written_as_wandbs_agent_writes_them(macro):
    expected = wandb_sweeps.create_sweep_command_args({"args": {key: {"value": SETTINGS[key]} for key in SETTINGS}})
    assert command_of(sweep_of("x", f"${{{macro}}}", "y"), SETTINGS) == ["x", *expected[macro], "y"]


def test_other_macros_and_further_words_have_their_places(monkeypatch):
    monkeypatch.setenv("SOME_FOLDER", "photos")
    sweep = sweep_of("${env}", "${interpreter}", "${program}", "--data=${envvar:SOME_FOLDER}/x", "${args}")
    words = command_of(sweep, {"a": 1}, ["--b", "2"])
    assert words == ["python", "train.py", "--data=photos/x", "--a=1", "--b", "2"]
    assert wandb_sweeps.create_sweep_command(list(sweep.command))[3] == words[2]


@pytest.mark.parametrize(
    ("words", "overrides", "told"),
    [
        (["${program}", "${arsg}"], [], "command has no"),
        (["${args}", "${arsg}"], [], "unknown macro in command 'arsg', did you mean 'args'"),
        (["${args}", "${envvar:NO_SUCH}"], [], "there is no environment variable NO_SUCH"),
        (["${args}"], ["--seed", "4"], "--seed is what the sweep varies"),
        (["${args}"], ["--model.norm=batch"], "--model.norm is what the sweep varies"),
        (["${args}"], ["--runs_dir", "x"], "--runs_dir is what sweep.py gives to each run: give --runs_dir before --"),
        (["${args}"], ["--ckpt_path=last"], "--ckpt_path is what sweep.py gives to each run: remove it"),
    ],
)
def test_mistakes_are_told(words, overrides, told):
    with pytest.raises(SettingError, match=told):
        command_of(sweep_of(*words), SETTINGS, overrides)


def test_this_python_runs_a_script_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert started(["python", "train.py", "a b"]) == [sys.executable, str(normlab.ROOT / "train.py"), "a b"]
    (tmp_path / "train.py").touch()
    assert started(["python", "train.py"]) == [sys.executable, "train.py"]
    assert started(["python", "-m", "x"]) == [sys.executable, "-m", "x"]
    with pytest.raises(SettingError, match=r"there is no other.py here"):
        started(["python", "other.py"])
    with pytest.raises(SettingError, match="there is no program no-such-program"):
        started(["no-such-program"])


def test_an_installed_command_takes_the_place_of_the_script(tmp_path, monkeypatch):
    monkeypatch.setattr(normlab, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    script = tmp_path / "normlab-train"
    script.write_text("#!/bin/sh\necho $1\n")
    script.chmod(0o755)
    assert shown(["python", "train.py", "fit"]) == "normlab-train fit"
    assert subprocess.check_output(started(["python", "train.py", "fit"]), text=True) == "fit\n"
