"""Train a tiny style network and a tiny GAN for long, and see whether anything grows.

Each is trained by the command ``train.py fit`` with all that accompanies a training by default: metrics, W&B offline,
the guard, mixing values, sample pictures, validations with scores, checkpoints, the best of them, and of the GAN its
singular values. A run has three processes: one makes the first twentieth of the steps, one resumes it and makes the
rest, and one resumes the end for ten steps more. Every {EVERY} steps the process notes, between two steps, its memory and
that of its children, its open files, threads, Python objects and the sizes of the run's files; of every step it notes
the time by the clock and that of the processor.

Flat is what grows by less than {MOST:.0%} over the second half of the steps. Growth is the slope over the medians of
{WINDOWS} windows, that of Theil and Sen, times the length of the half, relative to the median. Of files, which have to
grow with what is logged, it is the growth of bytes per step from the third quarter to the fourth.

    OMP_NUM_THREADS=1 python benchmarks/soak.py
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytorch_lightning as pl

RUNS = {
    "style": {
        "config": "style_transfer",
        "model.start": "null",
        "model.widths": "[4, 8]",
        "model.num_blocks": 1,
        "model.style_size": 32,
        "data.image_size": 32,
        "data.batch_size": 1,
        "checkpoint.monitor": "val/style",
    },
    "GAN": {
        "config": "gan",
        "model.architecture_options": "{width: 0.125}",
        "data.batch_size": 4,
        "metrics.val_images": 128,
        "checkpoint.monitor": "val/kid_garments",
    },
}
"""What is set of the configurations."""

COMMON = {
    "wandb.mode": "offline",
    "trainer.val_check_interval": 500,
    "trainer.limit_val_batches": 2,
    "samples.every_n_steps": 500,
    "mixing.every_n_steps": 50,
    "model.schedule": "constant",
}
STARTED = "NORMLAB_SOAK_STARTED"
EVERY, WINDOWS, MOST = 200, 10, 0.02

KINDS: dict[str, Callable[[int], bool]] = {
    "plain": lambda step: step % 50 != 0 and step % 10 != 9,
    "with a row of metrics": lambda step: step % 10 == 9 and step % 100 != 99,
    "with mixing values": lambda step: step % 50 == 0 and step % 500 != 0,
    "with a validation": lambda step: step % 500 == 499,
    "with picture and checkpoint": lambda step: step % 500 == 0,
}
"""Kinds of steps, by how many were done before; what is done between two steps belongs to the second."""


class Watch(pl.Callback):
    """Note what a training takes, as the first of its callbacks.

    Args:
        file: Where to, without its suffix.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self._begun: tuple[float, float] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the table of steps, whole and touched, so that it does not grow."""
        self._first = trainer.global_step
        self._times = np.full((trainer.max_steps - self._first, 2), np.nan)
        self._samples = self.file.with_suffix(".jsonl").open("w")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Note the last step, and sample."""
        step, now = trainer.global_step, _clocks()
        if self._begun is None:
            self._start = {"step": step, "seconds": time.time() - float(os.environ[STARTED]), "cpu": now[1]}
        else:
            self._times[step - 1 - self._first] = np.subtract(now, self._begun)
        if step % EVERY == 0:
            self._sample(trainer)
        self._begun = _clocks()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample once more, time some checkpoints, and write all of it."""
        self._sample(trainer)
        path = self.file.with_suffix(".ckpt")
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            trainer.save_checkpoint(path, weights_only=False)
            seconds.append(time.perf_counter() - start)
        saving = {"bytes": path.stat().st_size, "seconds": median(seconds)}
        path.unlink()
        np.save(self.file.with_suffix(".npy"), self._times)
        # Last, since it says that all of it is there.
        self.file.with_suffix(".json").write_text(json.dumps({"start": self._start, "checkpoint": saving}))

    def _sample(self, trainer: pl.Trainer) -> None:
        found = {"step": trainer.global_step, **_process(), "files": _files(Path(trainer.log_dir or ""))}
        print(json.dumps(found), file=self._samples, flush=True)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _process() -> dict[str, float]:
    """Look at this process, and at those that it has started."""
    import gc

    own, children = os.getpid(), _children(os.getpid())
    return {
        **dict(zip(("rss", "uss"), _memory(own), strict=True)),
        "children": len(children),
        "children's rss": sum(_memory(child)[0] for child in children),
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "objects": len(gc.get_objects()),
    }


def _memory(process: int) -> tuple[float, float]:
    """Return what a process has in memory, and what of it is its own, in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}
    return found["Rss"], found["Private_Clean"] + found["Private_Dirty"]


def _children(process: int) -> list[int]:
    found = []
    for each in os.listdir("/proc"):
        try:
            if each.isdecimal() and int(Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[1]) == process:
                found += [int(each), *_children(int(each))]
        except OSError:
            continue  # it has ended meanwhile
    return found


def _files(run: Path) -> dict[str, list[int]]:
    """Count the bytes and the files of each part of a run's folder."""
    sizes, counts = Counter[str](), Counter[str]()
    for folder, _, names in os.walk(run):
        for name in names:
            path = Path(folder, name)
            part = path.relative_to(run).parts[0]
            if part == "wandb":
                part = "W&B's record" if path.suffix == ".wandb" else "W&B's media" if "media" in path.parts else "W&B's logs"
            sizes[part] += path.stat().st_size
            counts[part] += 1
    return {part: [sizes[part], counts[part]] for part in sizes}


def phases(options: argparse.Namespace, name: str) -> list[Path]:
    """Train one of :data:`RUNS` in three processes, as far as their records are not there; returns the records."""
    ends = [options.steps // 20, options.steps, options.steps + 10]
    records = [options.folder / f"{name}-{number}" for number in range(3)]
    for number, (end, record) in enumerate(zip(ends, records, strict=True)):
        if record.with_suffix(".json").is_file():
            continue
        settings = {**COMMON, **RUNS[name], "name": name, "runs_dir": options.folder, "trainer.max_steps": end}
        words = [f"--{key}={value}" for key, value in settings.items()]
        words += ["--trainer.callbacks+=__main__.Watch", f"--trainer.callbacks.file={record}"]
        words += ["--ckpt_path=last"] if number else []
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.with_suffix(".log").open("w") as log:
            environment = os.environ | {STARTED: str(time.time())}
            command = [sys.executable, __file__, "--train", *words]
            subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
    return records


def main() -> None:
    """Train, or measure."""
    if sys.argv[1:2] == ["--train"]:
        from training.command import main as train

        sys.exit(train(["fit", *sys.argv[2:]]))
    options = _parse()
    for name in options.runs:
        phases(options, name)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), metavar="RUN")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
