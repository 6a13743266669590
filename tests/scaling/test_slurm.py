"""The batch script of the documents, run by bash; what SLURM does is done by stand-ins."""

import os
import random
import shlex
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from processes import ROOT, ended, start

from norms.errors import SettingError
from training.hosts import as_started
from training.run import Run

SCRIPT = ROOT / "docs/slurm/run.sbatch"

TINY = {
    "name": "tiny",
    "trainer": {"max_steps": 20, "accelerator": "cpu", "val_check_interval": 10, "log_every_n_steps": 1},
    "checkpoint": {"every_n_train_steps": 10},
    "model": {"class_path": "stand_ins.TinyModel", "init_args": {"seconds": 0.05}},
    "data": {"class_path": "stand_ins.TinyData"},
    "wandb": {"mode": "disabled"},
}

COMMAND = ["python", "train.py", "fit", "--config", "tiny.yaml", "--ckpt_path", "auto"]

# Says with what it was called, and ends when it is told with which status, or when nobody has told it for long.
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > srun.partial
mv srun.partial srun.called
read -r -t 200 status <> srun.ends
exit "$status"
"""

SCONTROL = """#!/bin/bash
echo "$@" >> scontrol.called
"""

TORCHRUN = {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def cluster(monkeypatch):
    """A job of two nodes, one task each, whose number gives the port by which its processes find each other."""
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        path = Path("bin", name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    os.mkfifo("srun.ends")
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}{os.pathsep}{os.environ['PATH']}")
    while True:
        job = random.randrange(10_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", 15_000 + job)):
            break
    return {"SLURM_JOB_ID": f"31{job:04}", "SLURM_JOB_NAME": "normlab", "SLURM_CPUS_PER_TASK": "8", "SLURM_NNODES": "2",
            "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NODELIST": "127.0.0.[1-2]"}  # fmt: skip


def wait_for(found, seconds=60):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, [path.read_text() for path in Path().glob("log*.txt")]
        time.sleep(0.02)


def steps(run):
    return (
        [int(row.partition(",")[0]) for row in run.metrics.read_text().splitlines()[1:]] if run.metrics.exists() else []
    )


def train(variables, until=None):
    """Start the script and the tasks that it has srun start; returns their statuses and that of the script."""
    script = subprocess.Popen(["bash", SCRIPT, *COMMAND], env={**os.environ, **variables})
    wait_for(Path("srun.called").is_file)
    words = Path("srun.called").read_text().splitlines()
    Path("srun.called").unlink()
    assert words == ["--wait=120", *COMMAND]
    ranks = [{"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0"} for rank in range(2)]
    tasks = [start(*words[2:], log=f"log{rank}.txt", **variables, **ranks[rank]) for rank in range(2)]
    if until is not None:
        wait_for(until)
        for task in tasks:
            os.kill(task.pid, signal.SIGUSR1)
    statuses = [ended(task) for task in tasks]
    Path("srun.ends").write_text(f"{max(statuses)}\n")
    return statuses, script.wait(10)


def test_a_job_is_requeued_at_its_time_limit_and_ends_as_if_there_were_none(cluster):
    """By torchrun, the same command makes the same weights."""
    run = Run("runs/tiny/version_0")
    assert train(cluster, until=lambda: max(steps(run), default=0) >= 4) == ([138, 138], 138)
    assert 4 <= max(steps(run)) < 20
    assert Path("scontrol.called").read_text() == f"requeue {cluster['SLURM_JOB_ID']}\n"
    assert train({**cluster, "SLURM_RESTART_COUNT": "1"}) == ([0, 0], 0)
    assert Path("scontrol.called").read_text().count("\n") == 1
    assert [each.folder for each in Run.versions("runs/tiny")] == [run.folder]
    assert len([*run.folder.glob("config_resumed_*.yaml")]) == 1

    with socket.create_server(("127.0.0.1", 0)) as free:
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2", **TORCHRUN}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "ROLE_RANK": str(rank)} for rank in range(2)]
    words = [*COMMAND[1:], "--name", "whole"]
    assert [ended(each) for each in [start(*words, log=f"log{r}.txt", **world, **ranks[r]) for r in range(2)]] == [0, 0]
    whole = Run("runs/whole/version_0")
    at_once = whole.weights
    assert run.metrics.read_text() == whole.metrics.read_text()
    assert [name for name, value in run.weights.items() if not torch.equal(value, at_once[name])] == []
    assert len(at_once) > 5


@pytest.mark.parametrize("status", [0, 1, 137, 143])
def test_what_no_time_limit_has_ended_is_not_requeued(cluster, status):
    script = subprocess.Popen(["bash", SCRIPT, *COMMAND], env={**os.environ, **cluster})
    wait_for(Path("srun.called").is_file)
    Path("srun.ends").write_text(f"{status}\n")
    assert script.wait(10) == status
    assert not Path("scontrol.called").exists()


def test_the_script_asks_for_the_signal_in_time_and_for_restarts():
    options = {line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")}
    # Without B: before it, the processes get the signal and the script does not.
    assert {"--signal=USR1@180", "--requeue", "--open-mode=append"} <= options


@pytest.mark.filterwarnings("ignore:.*srun")
def test_the_trainer_takes_the_numbers_of_slurm(cluster, monkeypatch):
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    taken = {"num_nodes": 2, "devices": 4}
    assert as_started({"num_nodes": 1, "devices": "auto"}) == taken
    assert as_started({"num_nodes": 2, "devices": [0, 1, 2, 3]}) == {**taken, "devices": [0, 1, 2, 3]}
    with pytest.raises(SettingError, match=r"^trainer.devices is 2, but SLURM has brought 4 processes on this host: "):
        as_started({"num_nodes": 2, "devices": 2})
    with pytest.raises(SettingError, match=r"^trainer.num_nodes is 3, but SLURM has brought 2 hosts together: "):
        as_started({"num_nodes": 3, "devices": 4})
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert as_started({"num_nodes": 1, "devices": "auto"}) == {"num_nodes": 1, "devices": "auto"}


def test_the_command_of_the_script_is_one_that_train_takes(capsys):
    from training.command import main

    (command,) = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#   sbatch")]
    words = shlex.split(command.removeprefix("#"))
    assert words[:4] == ["sbatch", "docs/slurm/run.sbatch", "python", "train.py"]
    os.chdir(ROOT)
    assert main([*words[4:], "--print_config"]) == 0
