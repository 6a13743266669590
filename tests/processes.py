"""Processes for tests, forked from one that has imported everything already: they start at once, not in ten seconds."""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
multiprocessing.set_forkserver_preload(["torch", "wandb", "training.cli", "stand_ins"])


def start(door, *args, log="log.txt", **environment):
    """Run a command such as ``train.py`` in the working directory, its output to a file; returns the process."""
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    arguments = (door, [str(arg) for arg in args], Path.cwd(), Path(log).absolute(), variables)
    process = CONTEXT.Process(target=_run, args=arguments)
    process.start()
    return process


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
    # What a process that Python has started finds: Lightning starts others of the kind.
    sys.modules["__main__"].__spec__ = None
    runpy.run_path(sys.argv[0], run_name="__main__")
