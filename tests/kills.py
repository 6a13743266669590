"""Trainings that are killed at a given instant, for the test that they lose nothing."""

import os
import shutil
import signal
import sys
from pathlib import Path

import stand_ins
import torch

from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.mixing import MixingValues
from training.callbacks.run_folder import RunFolder
from training.callbacks.samples import SampleImages

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}


def train(run_dir, **options):
    torch.manual_seed(0)
    callbacks = [RunFolder("name: killed\n"), MixingValues(3), SampleImages(4), RunCheckpoint(2, keep_all=True)]
    stand_ins.fit(run_dir, callbacks, max_steps=7, val_check_interval=4, **options)


def keep_instants(run_dir, instants):
    """Train, and before each change on disk copy what a kill would leave there at this instant."""
    _before_changes(run_dir, lambda count: shutil.copytree(run_dir, Path(instants, str(count))))
    train(run_dir)


def die_at(instant, run_dir):
    """Train, and be killed before the given change on disk."""
    _before_changes(run_dir, lambda count: count == instant and os.kill(os.getpid(), signal.SIGKILL))
    train(run_dir)


def _before_changes(run_dir, act):
    count = acting = 0

    def hook(event, args):
        nonlocal count, acting
        writes = event == "open" and isinstance(args[1], str) and args[1][0] in "wax"
        if not acting and (writes or event in CHANGES) and str(args[0]).startswith(f"{run_dir}/"):
            acting, count = 1, count + 1
            act(count)
            acting = 0

    os.environ["WANDB_MODE"] = "disabled"  # of this process alone
    sys.addaudithook(hook)
