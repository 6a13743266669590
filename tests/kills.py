"""Trainings that are killed at a given instant, for the test that they lose nothing."""

import os
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


def train_until(instant, run_dir, log, **options):
    """Train, log what is about to change on disk, and kill this process before the given one of these changes."""
    count = 0

    def hook(event, args):
        nonlocal count
        writes = event == "open" and isinstance(args[1], str) and args[1][0] in "wax"
        if (writes or event in CHANGES) and str(run_dir) in str(args[0]):
            if count == instant:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            with_log(f"{event} {args[0]} {args[1] if event == 'os.rename' else ''}\n")

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def with_log(line):
        os.write(file, line.encode())

    sys.addaudithook(hook)
    train(Path(run_dir), **options)
