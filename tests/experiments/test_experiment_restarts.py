"""Real trainings of an experiment: by two workers, and killed and restarted, they make the same page."""

import os
import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from processes import start

from experiments import plots, summaries
from experiments.catalog import Experiment
from experiments.making import make
from experiments.markdown import TIME
from experiments.page import Figure, Page, Table
from sweeping import runner

SWEEP = {
    "name": "digits",
    "command": [
        "${interpreter}", "${program}", "fit", "--config", "classifier", "--trainer.max_steps", "40",
        "--trainer.val_check_interval", "20", "--trainer.log_every_n_steps", "4", "--checkpoint.every_n_train_steps",
        "2", "--wandb.mode", "disabled", "--data.batch_size", "16", "--data.image_size", "8",
        "--model.norm", "batch", "${args}",
    ],
    "method": "grid",
    "parameters": {"seed": {"values": [0, 1]}},
}  # fmt: skip


class Forked:
    """Stands for a process of a training, forked from one that has imported everything."""

    environment = None
    """As in ``env``, which lacks some while another worker is starting a process."""

    def __init__(self, words, stdout, env, **others):
        self.process = start("train.py", *words[2:], log=stdout.name, **{**self.environment, **env})

    def wait(self):
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.process.pid, number)


def page(runs):
    last = runs.last("val/accuracy", "val/loss")
    figure, (axes,) = plots.panels(1)
    plots.curves(axes, runs.curves("train/loss"), "seed")
    tables = [
        Table(summaries.summary(last, ["sweep"], {"val/accuracy": ".6f", "val/loss": ".6f"}), "Means."),
        Table(last.drop(columns=["folder", "seconds"]), "All."),
    ]
    return Page("Digits", "Is it the same?", [], [Figure("loss", figure, "Loss.", "Curves")], tables, ["Tiny."])


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Forked, "environment", dict(os.environ))
    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(Popen=Forked, DEVNULL=None, STDOUT=None))
    Path("digits.yaml").write_text(yaml.safe_dump(SWEEP))
    return Experiment("digits", (Path("digits.yaml"),), page)


def made(experiment, name, workers):
    """Make the page, and return how many runs have failed, the page without times, and its picture."""
    failed = make(experiment, Path(name, "runs"), Path(name, "docs"), [], workers, "again")
    text = Path(name, "docs/digits.md").read_text().partition(TIME)[0]
    return (
        failed,
        re.sub(r"^minutes: .*", "", text, flags=re.MULTILINE),
        Path(name, "docs/digits-loss.svg").read_bytes(),
    )


def kill_once_saved(run):
    """Kill the training of a run as soon as it has a checkpoint."""
    while not (run / "checkpoints/last.ckpt").is_file():
        time.sleep(0.005)
    os.kill(int((run / ".lock").read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_make_the_page_that_one_makes(experiment, capfd):
    expected = made(experiment, "alone", 1)
    assert expected[0] == 0
    first = Path("two/runs/digits/001-seed_0/version_0")
    killing = threading.Thread(target=kill_once_saved, args=[first], daemon=True)
    killing.start()
    failed, text, _ = made(experiment, "two", 2)
    killing.join()
    assert failed == 1
    assert "1 of 2 trainings failed" in text
    capfd.readouterr()
    assert made(experiment, "two", 2) == expected
    assert "run 1 of 2, seed_0: goes on from its checkpoint" in capfd.readouterr().out
