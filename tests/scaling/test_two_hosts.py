"""Two hosts: a training over both, a link that is cut, a host that hangs, and one that comes back."""

import csv
import os
import re
import signal
import socket
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from processes import ended, start, start_two
from two_hosts import LINK, Hosts

from training.callbacks import heartbeat
from training.callbacks.heartbeat import Heartbeat
from training.command import main

TINY = """
name: tiny
trainer: {max_steps: 40, accelerator: cpu, val_check_interval: 20, log_every_n_steps: 1, enable_progress_bar: false,
  callbacks: [{class_path: two_hosts.KeepWeights}]}
checkpoint: {every_n_train_steps: 5}
mixing: {every_n_steps: 1000}
samples: {every_n_steps: 1000}
hosts: {silence: 3}
model: {class_path: stand_ins.TinyModel, init_args: {seconds: 0.1}}
data: {class_path: two_hosts.TinyStream, init_args: {batch_size: 2}}
"""

RUN = Path("runs/tiny/version_0")
LAST = RUN / "checkpoints/last.ckpt"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("tiny.yaml").write_text(TINY)


@pytest.fixture
def hosts():
    try:
        made = Hosts.made()
        both = made.__enter__()
    except OSError as error:
        pytest.skip(str(error))
    yield both
    made.__exit__(None, None, None)


def wait_for(what, timeout=200):
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "\n".join(path.read_text() for path in Path().glob("log*.txt"))
        time.sleep(0.1)


def read(path):
    return torch.load(path, weights_only=True)


def errors(log):
    return [line for line in Path(log).read_text().splitlines() if line.startswith("error: ")]


def assert_equal(weights, others):
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.slow
def test_a_training_over_a_cut_link_ends_on_both_sides_and_goes_on_bit_for_bit(hosts, tmp_path):
    args = ["fit", "--config", tmp_path / "tiny.yaml", "--runs_dir", tmp_path / "runs"]
    whole = start_two("train.py", *args, "--name", "whole", "--trainer.devices", 2, "--model.seconds", 0)
    logs = [tmp_path / f"log_of_host{host}.txt" for host in range(2)]
    two = [
        hosts.start_torchrun(host, "2", *args, "--ckpt_path", "auto", folder=tmp_path / f"host{host}", log=logs[host])
        for host in range(2)
    ]
    wait_for(LAST.is_file)
    hosts.ip(1, "link", "set", LINK, "down")
    wait_for(lambda: all(map(errors, logs)), 60)
    hosts.ip(1, "link", "set", LINK, "up")
    assert [ended(process, 200) for process in (*two, *whole)] == [0] * 4, logs[0].read_text()
    for host, log in enumerate(logs):
        assert len(errors(log)) == 1
        assert re.match(
            rf"error: process {1 - host}( on \S+)? has not been heard of for 3 s, so the training ends: look at that "
            "host and the network between; go on by the same command on all hosts, with --ckpt_path last$",
            *errors(log),
        )
    assert len(list(RUN.glob("config_resumed_*.yaml"))) == 1
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert {path.name for path in Path("host1").iterdir()} == {"weights1.pt"}, "only the first host has a run folder"
    weights = read("host0/weights0.pt")
    assert_equal(weights, read("host1/weights1.pt"))
    assert_equal(weights, read(LAST)["state_dict"])
    assert_equal(weights, read("weights0.pt"))


@pytest.mark.slow
def test_a_training_goes_on_without_a_host_that_hangs_and_with_one_that_comes(hosts, tmp_path):
    args = ["fit", "--config", tmp_path / "tiny.yaml", "--trainer.max_steps", 10**5, "--ckpt_path", "auto"]
    # Fewer seconds than by default to wait for what does not come.
    conf = ",last_call_timeout=8,keep_alive_interval=1,keep_alive_max_attempt=8"

    def start_on(host):
        return hosts.start_torchrun(host, "1:2", *args, folder=tmp_path, log=f"log{host}.txt", conf=conf)

    def rows():
        return [int(row["step"]) for row in csv.DictReader((RUN / "metrics.csv").open()) if row["train/loss"]]

    def resumed():
        return sorted(int(path.stem[-7:]) for path in RUN.glob("config_resumed_*.yaml"))

    first, second = start_on(0), start_on(1)
    # On a busy machine the first one may have begun alone.
    wait_for(lambda: LAST.is_file() and read(LAST)["TinyStream"]["images_per_step"] == 4)
    known, times = read(LAST)["TinyStream"], len(resumed())
    hosts.signal(1, signal.SIGSTOP)
    wait_for(lambda: len(resumed()) == times + 1)
    assert re.match(r"error: process 1( on \S+)? has not been heard of for 3 s, so", errors("log0.txt")[-1])
    hosts.signal(1, signal.SIGKILL)
    wait_for(lambda: read(LAST)["global_step"] > resumed()[-1])
    second = start_on(1)
    wait_for(lambda: len(resumed()) == times + 2 and read(LAST)["global_step"] > resumed()[-1])
    for process in (first, second):
        os.kill(process.pid, signal.SIGTERM)
    assert 0 not in [ended(first, 100), ended(second, 100)], "torchrun ends so after each signal"
    (alone, both), end = resumed()[-2:], read(LAST)["global_step"]
    assert rows() == list(range(1, end + 1))
    assert "a step takes 2 images, not 4 as before" in Path("log0.txt").read_text()
    images = known["images"] + 4 * (alone - known["steps"]) + 2 * (both - alone) + 4 * (end - both)
    assert read(LAST)["TinyStream"] == {"steps": end, "images": images, "images_per_step": 4}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_host_that_nobody_joins_ends_with_a_line(rank):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank)}
    process = start("train.py", "fit", "--config", "tiny.yaml", "--trainer.num_nodes", 2, "--hosts.joining", 1, **env)
    assert ended(process, 200) == 1  # the first process that is forked waits for all imports
    assert errors("log.txt") == [
        f"error: the 2 processes of this training have not found each other within 1 s at 127.0.0.1:{port}: "
        "check that the command runs on all 2 hosts, that this address is that of the first one, the same for all, and "
        "that each of them reaches it"
    ]


def test_several_hosts_without_a_meeting_point_are_refused(capsys):
    assert main(["fit", "--config", "tiny.yaml", "--trainer.num_nodes", "2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: trainer.num_nodes is 2, but nothing says where the others are: start the command on each host by "
        "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint FIRST_HOST:29400, or set MASTER_ADDR, MASTER_PORT, "
        "NODE_RANK"
    )


@pytest.mark.parametrize(
    ("number", "variable", "value", "line"),
    [
        (2, "NODE_RANK", "first", "NODE_RANK must be a number from 0 to 1, got 'first'"),
        (2, "NODE_RANK", "2", "NODE_RANK must be a number from 0 to 1, got '2'"),
        (2, "NODE_RANK", "-1", "NODE_RANK must be a number from 0 to 1, got '-1'"),
        (1, "NODE_RANK", "1", "NODE_RANK must be a number from 0 to 0, got '1'"),
        (2, "MASTER_PORT", "http", "MASTER_PORT must be a number from 0 to 65535, got 'http'"),
        (2, "MASTER_PORT", "99999", "MASTER_PORT must be a number from 0 to 65535, got '99999'"),
        (2, "MASTER_ADDR", "", "MASTER_ADDR is empty: set it, or unset it"),
    ],
)
def test_variables_that_cannot_mean_anything_are_refused(capsys, monkeypatch, number, variable, value, line):
    good = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400", "NODE_RANK": "0"}
    for name, text in {**good, variable: value}.items():
        monkeypatch.setenv(name, text)
    options = ["--trainer.devices", "2", "--trainer.num_nodes", str(number)]
    assert main(["fit", "--config", "tiny.yaml", *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: the environment variable {line}"


@pytest.mark.parametrize(
    ("options", "variables", "line"),
    [
        (
            ["--trainer.devices", "2"],
            {},
            "trainer.devices is 2, but torchrun has brought 1 processes on this host: ",
        ),
        (
            ["--trainer.num_nodes", "3"],
            {},
            "trainer.num_nodes is 3, but torchrun has brought 2 hosts together: leave ",
        ),
        ([], {"TORCHELASTIC_USE_AGENT_STORE": "True"}, "torchrun --max-restarts would let the processes "),
    ],
)
def test_what_contradicts_torchrun_is_refused(capsys, monkeypatch, options, variables, line):
    world = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    for name, value in {**world, "TORCHELASTIC_RUN_ID": "1", "TORCHELASTIC_MAX_RESTARTS": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "--config", "tiny.yaml", *options]) == 2
    assert f"error: {line}" in capsys.readouterr().err


def test_a_heart_is_heard_until_it_stops_and_not_missed_when_all_is_done(monkeypatch):
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    with mock.patch.object(heartbeat, "BEAT", 0.02):
        first, second, third = (Heartbeat(rank, 3) for rank in range(3))
        wait_for(lambda: first.silence(0)[0] and len(first._hosts) == 2)
        second.end(done=False)
        third.end(done=True)
        time.sleep(0.5)
        first.silence(0)
        told = [first.silence(1) for _ in range(3)]
        assert [silence for _, silence in told] == [1, 2, 3]
        assert told[-1][0].startswith("process 1 on ")
        store.add("normlab/beat/1", 1)  # as a process does that follows it
        time.sleep(0.5)
        assert first.silence(1)[1] == 0
        first.end(done=True)
