"""Runs a function on two processes that talk through gloo."""

import os
import tempfile
from datetime import timedelta
from pathlib import Path

import processes  # noqa: F401, whose processes are forked from one that has imported torch
import torch
from torch import distributed, multiprocessing


def run_on_two(function, tmp_path, *args):
    """Call ``function(rank, *args)`` in two new processes of one group; returns what they return, in rank order.

    ``function`` must be importable (no lambda, no closure) and return what ``torch.load(weights_only=True)`` reads.
    An exception in either process is raised here, with the traceback from there.
    """
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    multiprocessing.start_processes(_work, (folder, function, args), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _work(rank, folder, function, args):
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    distributed.init_process_group("gloo", store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        torch.save(function(rank, *args), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
    # At times a thread that gloo has left aborts an orderly exit of the interpreter.
    os._exit(0)
