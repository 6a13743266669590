"""A program that is called as train.py is, and trains nothing: each step is a line of a file, and then a checkpoint."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
for option in ("runs_dir", "name", "ckpt_path"):
    parser.add_argument(f"--{option}")
for option in ("seed", "steps", "seconds", "value", "fail", "plain"):
    parser.add_argument(f"--{option}", type=float, default=0)
options = parser.parse_args()

told = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: told.append(number))
version = Path(options.runs_dir, options.name, "version_0")
checkpoint = version / "checkpoints/last.ckpt"
checkpoint.parent.mkdir(parents=True, exist_ok=options.ckpt_path == "last")
step = int(checkpoint.read_text()) if options.ckpt_path else 0
with Path(options.runs_dir, options.name, "starts.txt").open("a") as starts:
    starts.write(f"{os.getpid()}\n")
(version.parent / "slurm.txt").write_text(" ".join(name for name in os.environ if name.startswith("SLURM_")))
(version.parent / "threads.txt").write_text(os.environ.get("OMP_NUM_THREADS", ""))
while step < options.steps:
    if told:
        sys.exit(128 + told[0])
    time.sleep(options.seconds)
    if options.fail and not Path("mended").exists():
        print("error: the stub fails at\nerror: step", step)
        sys.exit(1)
    with (version / "steps.txt").open("a") as steps:
        steps.write(f"{step}\n")
    step += 1
    partial = checkpoint.with_suffix(".partial")
    partial.write_text(str(step))
    partial.replace(checkpoint)
(version / "metrics.csv").write_text(f"step,val/loss\n1,\n3,{options.value + 1}\n5,{options.value}\n7,nan\n")
if not options.plain:
    (version / "mixing").mkdir(exist_ok=True)
    (version / "mixing/step_0000005.npz").touch()
