"""Train a tiny style network and a tiny GAN for long, and note what they take; soak_report.py tells what grows.

Each is trained by ``train.py fit`` with all that accompanies a training: metrics, W&B offline, the guard, mixing
values, sample pictures, validations, the last and the best checkpoint, and of the GAN its singular values and scores. A
run has three processes: one makes the first twentieth of the steps, one goes on to the end, and one goes on for ten
steps more. Every 200 steps, between two of them, the process notes its memory and that of its children, its open files,
threads, Python objects and the sizes of the run's files. Of every step it notes the time by the clock and that of the
processor; of some, in the place of both, how many functions are called, which no other work on the machine disturbs. A
last process goes on once more, after the files have got as many rows and mixing values as a million steps leave. What
is there already is not made again.

    OMP_NUM_THREADS=1 python benchmarks/soak.py
    python benchmarks/soak_report.py --figure docs/soak.svg --markdown benchmarks/soak.md
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
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

COMMON: dict[str, Any] = {
    "wandb.mode": "offline",
    "trainer.val_check_interval": 500,
    "trainer.limit_val_batches": 2,
    "samples.every_n_steps": 500,
    "mixing.every_n_steps": 50,
    "model.schedule": "constant",
}
STARTED = "NORMLAB_SOAK_STARTED"
"""The environment variable with the time at which a process was started."""

EVERY = 200
"""Steps between two samples."""

COUNTED = 0, 1, 9
"""So many steps after a sample, and before a validation now and then, calls are counted: in a step of each kind."""

LONG = 1_000_000
"""Steps of the training whose files are made up in the end."""


class Watch(pl.Callback):
    """Note what a training takes, as the first of its callbacks.

    Args:
        file: Where to, without its suffix.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self._begun: tuple[float, float] | None = None
        self._calls = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the table of steps, whole and touched, so that it does not grow."""
        self._first = trainer.global_step
        self._times = np.full((trainer.max_steps - self._first, 3), np.nan)
        self._samples = self.file.with_suffix(".jsonl").open("w")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Note the last step, and sample."""
        sys.setprofile(None)
        step, now = trainer.global_step, _clocks()
        if self._begun is None:
            self._start = {"step": step, "seconds": time.time() - float(os.environ[STARTED]), "cpu": now[1]}
        elif self._calls:
            self._times[step - 1 - self._first, 2] = self._calls
        else:
            self._times[step - 1 - self._first, :2] = np.subtract(now, self._begun)
        if step % EVERY == 0:
            self._sample(trainer)
        self._calls, self._begun = 0, _clocks()
        if step % EVERY in COUNTED or step % 1000 == 999:
            sys.setprofile(self._count)

    def _count(self, frame: Any, event: str, _: Any) -> None:
        self._calls += event in ("call", "c_call")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample once more, time some checkpoints, and write all of it."""
        sys.setprofile(None)
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
    own, children = os.getpid(), _children(os.getpid())
    return {
        **dict(zip(("rss", "anonymous"), _memory(own), strict=True)),
        "children": len(children),
        "children's rss": sum(_memory(child)[0] for child in children),
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "objects": len(gc.get_objects()),
    }


def _memory(process: int) -> tuple[float, float]:
    """Return what a process has in memory, and what of it is no file, such as a library that others use too, in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}
    return found["Rss"], found["Anonymous"]


def _children(process: int) -> list[int]:
    found = []
    for each in os.listdir("/proc"):
        try:
            parent = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[1] if each.isdecimal() else ""
            if parent == str(process):
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
                part = "W&B: history" if path.suffix == ".wandb" else "W&B: logs"
                part = "W&B: pictures" if "media" in path.parts else part
            sizes[part] += path.stat().st_size
            counts[part] += 1
    return {part: [sizes[part], counts[part]] for part in sizes}


def train_in_phases(name: str, steps: int, folder: Path) -> None:
    """Train one of :data:`RUNS` in three processes, as far as their records are not there."""
    for number, end in enumerate((steps // 20, steps, steps + 10, steps + 20)):
        record = folder / f"{name}-{number}"
        if record.with_suffix(".json").is_file():
            continue
        if number == 3:
            lengthen(folder / name / "version_0")
        settings = {**RUNS[name], **COMMON, "name": name, "runs_dir": folder, "trainer.max_steps": end}
        words = [f"--{key}={value}" for key, value in settings.items()]
        words += ["--trainer.callbacks+=__main__.Watch", f"--trainer.callbacks.file={record}"]
        words += ["--ckpt_path=last"] if number else []
        folder.mkdir(parents=True, exist_ok=True)
        with record.with_suffix(".log").open("w") as log:
            environment = os.environ | {STARTED: str(time.time())}
            command = [sys.executable, __file__, "--train", *words]
            subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)


def lengthen(run: Path) -> None:
    """Give a run the files that :data:`LONG` steps leave: rows again and again, and mixing values of more steps."""
    steps = int((run / "metrics.csv").read_text().splitlines()[-1].partition(",")[0])
    for table in (run / "metrics.csv", run / "spectral.csv"):
        if table.is_file():
            header, *rows = table.read_text().splitlines(keepends=True)
            table.write_text(header + "".join(row for row in rows for _ in range(LONG // steps)))
    values = next(run.glob("mixing/step_*.npz")).read_bytes()
    for number in range(min(steps, LONG // COMMON["mixing.every_n_steps"])):
        (run / "mixing" / f"step_{number:07d}.npz").write_bytes(values)


def main() -> None:
    """Train, or start the trainings."""
    if sys.argv[1:2] == ["--train"]:
        from training.command import main as train

        sys.exit(train(["fit", *sys.argv[2:]]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), metavar="RUN")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    for name in options.runs:
        train_in_phases(name, options.steps, options.folder)


if __name__ == "__main__":
    main()
