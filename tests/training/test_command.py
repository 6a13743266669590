"""The command's start, in which there is no training yet that could end by itself."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT

from training import cli
from training.command import main
from training.errors import ENDING, name_of


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("subcommand", ["fit", "validate"])
def test_a_signal_during_the_start_is_told_with_the_command_that_begins_anew(subcommand, number, monkeypatch, capsys):
    handlers = [signal.getsignal(each) for each in ENDING]
    monkeypatch.setattr(cli, "train", lambda _: signal.raise_signal(number))
    assert main([subcommand, "--name", "a b"]) == 128 + number
    told = f"interrupted by {name_of(number)}; begin anew with: python train.py {subcommand} --name 'a b'\n"
    assert capsys.readouterr() == ("", told)
    assert [signal.getsignal(each) for each in ENDING] == handlers


@pytest.mark.parametrize("by", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_one_process_of_several_tells_of_it(by, monkeypatch, capsys):
    monkeypatch.setenv(by, "1")
    monkeypatch.setattr(cli, "train", lambda _: signal.raise_signal(signal.SIGTERM))
    assert main(["fit"]) == 143
    assert capsys.readouterr() == ("", "")


def test_a_signal_while_modules_are_imported(tmp_path):
    process = subprocess.Popen([sys.executable, ROOT / "train.py", "fit"], stderr=subprocess.PIPE, cwd=tmp_path)
    maps = f"/proc/{process.pid}/maps"
    while process.poll() is None and "libtorch" not in Path(maps).read_text():  # long before Lightning
        time.sleep(0.01)
    process.terminate()
    assert process.communicate(timeout=60)[1] == (b"interrupted by SIGTERM; begin anew with: python train.py fit\n")
    assert process.returncode == 143
