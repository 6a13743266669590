"""The other processes of a training: one that is gone, or cannot be reached, is not waited for."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from processes import CONTEXT, ended

from training.callbacks import companions
from training.callbacks.companions import Companions
from training.callbacks.signals import EndOnSignal
from training.errors import name_of
from training.run import Run

SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]
FAIL = [sys.executable, "-c", "raise SystemExit(3)"]


def wait_for_another(folder, command, begun, ready):
    """Be the first process of two, in a main thread that hears nothing."""
    other = subprocess.Popen(command)
    trainer = SimpleNamespace(num_devices=2, num_nodes=1, local_rank=0)
    os.dup2(os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT), 2)
    with (
        mock.patch.object(companions, "take_started_processes", return_value=[other]),
        mock.patch.object(companions, "is_distributed", return_value=begun),
        mock.patch.object(companions, "GRACE", 0.5),
        EndOnSignal().installed(alone=False),
        Companions().watched(trainer, Run(folder), ["fit", "--name", "a b"]),
    ):
        (folder / "pid").write_text(str(other.pid))
        while True:
            with suppress(BaseException):
                ready.set()
                time.sleep(1)


def is_there(pid):
    return Path(f"/proc/{pid}/cmdline").is_file() and Path(f"/proc/{pid}/cmdline").read_bytes() != b""


@pytest.mark.parametrize(
    ("begun", "receiver", "number", "status"),
    [
        (False, "first", signal.SIGTERM, 143),
        (False, "first", signal.SIGHUP, 129),
        (False, "first", signal.SIGINT, 130),
        (False, "second", signal.SIGTERM, 143),
        (False, "second", signal.SIGKILL, 1),
        (True, "second", signal.SIGKILL, 1),
        (True, "nobody", 3, 1),
    ],
)
def test_a_first_process_that_waits_for_ever_is_ended(tmp_path, begun, receiver, number, status):
    ready = CONTEXT.Event()
    command = FAIL if receiver == "nobody" else SLEEP
    process = CONTEXT.Process(target=wait_for_another, args=(tmp_path, command, begun, ready))
    process.start()
    assert ready.wait(60)
    second = int((tmp_path / "pid").read_text())
    if receiver != "nobody":
        os.kill(process.pid if receiver == "first" else second, number)
    assert ended(process, 30) == status
    assert not is_there(second)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    if status > 1:
        told = f"interrupted by {name_of(number)}; begin anew with: python train.py fit --name 'a b'"
        assert lines[-1:] == [told]
    told = [line for line in lines if line.startswith("error: ")]
    how = "was killed by SIGKILL" if receiver == "second" else "failed with status 3"
    line = f"error: process 1 of this training {how}, so the training ends; go on with: "
    assert [each[: len(line)] for each in told] == [line] * (status == 1)


def test_a_second_ctrl_c_amid_the_saving_waits_for_nobody(tmp_path):
    other, trainer = subprocess.Popen(SLEEP), SimpleNamespace(num_devices=2, num_nodes=1, local_rank=0)
    begin = time.monotonic()
    with (
        mock.patch.object(companions, "take_started_processes", return_value=[other]),
        mock.patch.object(companions, "is_distributed", return_value=True),
        pytest.raises(KeyboardInterrupt),
        Companions().watched(trainer, Run(tmp_path)),
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - begin < companions.PATIENCE / 3
    assert other.poll() == -signal.SIGKILL
