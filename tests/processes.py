"""Processes for tests, forked from one that has imported everything already: they start at once, not in ten seconds."""

import multiprocessing
import os
import runpy
import socket
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
multiprocessing.set_forkserver_preload(["torch", "wandb", "training.cli", "stand_ins"])


def start(door, *args, log="log.txt", **environment):
    """Run a command such as ``train.py`` in the working directory, its output to a file; returns the process."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **environment}
    arguments = (door, [str(arg) for arg in args], Path.cwd(), Path(log).absolute(), variables)
    process = CONTEXT.Process(target=_run, args=arguments)
    # The one that is forked, if it does not run yet, has to find the packages too.
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        process.start()
    return process


def start_all(count, door, *args):
    """Run a command, which is to train on so many devices by DDP, as all of its processes, as ``torchrun`` does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(count)}
    return [start(door, *args, log=f"log{rank}.txt", LOCAL_RANK=str(rank), **world) for rank in range(count)]


def start_two(door, *args):
    """Run a command, which is to train on two devices by DDP, as both of its processes."""
    return start_all(2, door, *args)


def ended(process, timeout=60):
    """Wait for a process; returns its exit status, minus the signal that killed it."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"the process was still running after {timeout} s")
    return process.exitcode


def _run(door, args, folder, log, variables):
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [str(ROOT / door), *args]
    # As in a process that was started by this command: Lightning starts others like it.
    sys.modules["__main__"].__spec__ = None
    runpy.run_path(sys.argv[0], run_name="__main__")
