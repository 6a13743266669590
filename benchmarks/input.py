"""Measure how fast images are read, and how long trainings wait for them.

The first table has the images per second that each kind of data gives to a process that does nothing else with them,
by the number of its workers: the median over rounds, in which all kinds take turns. Photos are JPEG files of a folder
of your own, or else cut out of the bundled ones. The files of zip and shards are the same JPEG files of 128 pixels.

The second has, for shipped configurations, the share of a training step in which it waits for the next batch. Each
trains through train.py, with everything at its defaults, in a process of its own. Lightning's profiler times its
getting of a batch and its training on it; the share is that of the first in the sum of both, without the first steps.
At most 3 % are allowed.

    python benchmarks/input.py --markdown benchmarks/input.md
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image
from pytorch_lightning.profilers import SimpleProfiler
from rich.console import Console
from rich.table import Table

import data
from benchmarks import pages
from data.module import ImageDataModule
from data.photos import TRAIN_PHOTOS, bundled_photo

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = 0.03
WARM_UP = 5
LARGE = (4000, 3000)
CONFIGS = ("style_transfer", "styles", "video", "any_style", "gan", "gan_classes", "classifier")
"""Those that need nothing but the project."""

SOURCES: dict[str, Callable[[Path, int], ImageDataModule]] = {
    "photos of a folder, 256 px": lambda folder, workers: data.ImageFolder(
        str(folder / "photos"), batch_size=4, image_size=256, num_workers=workers
    ),
    "photos of 12 megapixels, 256 px": lambda folder, workers: data.ImageFolder(
        str(folder / "large"), batch_size=4, image_size=256, num_workers=workers
    ),
    "LabeledFolder of a zip file, 64 px": lambda folder, workers: data.LabeledFolder(
        str(folder / "squares.zip"), image_size=64, num_workers=workers
    ),
    "Shards, 64 px": lambda folder, workers: data.Shards(str(folder / "*.tar"), image_size=64, num_workers=workers),
    "BundledPhotos, 192 px": lambda _, workers: data.BundledPhotos(2, image_size=192, num_workers=workers),
    "StyledPhotos, 96 px, pairs": lambda _, workers: data.StyledPhotos(
        recolor=True, batch_size=4, image_size=96, num_workers=workers
    ),
    "BundledGarments, 28 px": lambda _, workers: data.BundledGarments(num_workers=workers),
    "BundledDigits, 16 px": lambda _, workers: data.BundledDigits(num_workers=workers),
}


class Durations(SimpleProfiler):
    """Write every duration and not their means; train.py is given it by its name."""

    def summary(self) -> str:
        """Return what Lightning writes at the end."""
        return json.dumps(self.recorded_durations)


def make_files(folder: Path, photos: Path | None, count: int) -> None:
    """Write what the kinds of data on disk read, cut out of the bundled photos."""
    whole = [bundled_photo(name) for name in TRAIN_PHOTOS]
    kinds = ("photos", (640, 480), count), ("large", LARGE, 4), ("squares", (128, 128), count)
    for name, (width, height), number in kinds:
        if name == "photos" and photos is not None:
            (folder / name).symlink_to(photos.absolute())
            continue
        (folder / name).mkdir()
        for place, photo in zip(range(number), cycle(whole)):
            side = min(photo.width / width, photo.height / height) * (1 - 0.5 * place / number)
            piece = photo.resize((width, height), Image.Resampling.BICUBIC, (0, 0, side * width, side * height))
            piece.save(folder / name / f"{place:06}.jpg", quality=90)
    with zipfile.ZipFile(folder / "squares.zip", "w") as archive, tarfile.open(folder / "squares.tar", "w") as shard:
        for place, path in enumerate(sorted((folder / "squares").iterdir())):
            archive.write(path, f"{place % 10}/{path.name}")
            shard.add(path, path.name)
            label = path.with_suffix(".cls")
            label.write_text(str(place % 10))
            shard.add(label, label.name)


def images_per_second(module: ImageDataModule, seconds: float) -> float:
    """Read batches for some seconds, after as many as workers read in advance."""
    batches = iter(module.train_dataloader())
    for _ in islice(batches, 2 * module.num_workers + 2):
        pass
    images, passed, start = 0, 0.0, time.perf_counter()
    while not images or passed < seconds:
        images += len(next(batches)["image"])
        passed = time.perf_counter() - start
    return images / passed


def waits(config: str, steps: int, folder: Path, options: list[str]) -> tuple[float, float, float]:
    """Train, and return the median seconds of a wait and of the rest of a step, and the share of all waits."""
    trainer = {"max_steps": steps + WARM_UP, "profiler": "input.Durations", "accelerator": "cpu"}
    trainer |= {"profiler.dirpath": folder, "profiler.filename": config}
    command = [sys.executable, ROOT / "train.py", "fit", "--config", config, f"--runs_dir={folder}/runs", *options]
    command += [f"--trainer.{key}={value}" for key, value in trainer.items()]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "WANDB_MODE": "offline"}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    durations = json.loads((folder / f"fit-{config}.txt").read_text())
    names = "[_TrainingEpochLoop].train_dataloader_next", "run_training_batch"
    waited, trained = (durations[name][WARM_UP:] for name in names)
    total = sum(waited)
    return statistics.median(waited), statistics.median(trained), total / (total + sum(trained))


def read(options: argparse.Namespace, folder: Path) -> list[tuple[str, ...]]:
    """Measure the kinds of data."""
    make_files(folder, options.photos, options.files)
    modules = {(name, workers): SOURCES[name](folder, workers) for name in SOURCES for workers in options.workers}
    for module in modules.values():
        module.setup()
    found: dict[tuple[str, int], list[float]] = {key: [] for key in modules}
    for _ in range(options.rounds):
        for key, module in modules.items():
            found[key].append(images_per_second(module, options.seconds))
    return [
        (name, *(f"{statistics.median(found[name, workers]):,.0f}" for workers in options.workers)) for name in SOURCES
    ]


def wait(options: argparse.Namespace, folder: Path) -> list[tuple[str, ...]]:
    """Measure the trainings."""
    rows = []
    for config in options.configs:
        waited, trained, share = waits(config, options.steps, folder, options.set)
        missed = f" > {ALLOWED:.0%}" if share > ALLOWED else ""
        rows.append((config, f"{waited * 1e3:.2f} ms", f"{trained * 1e3:.1f} ms", f"{share:.2%}{missed}"))
    return rows


def main() -> None:
    """Measure, and print and write the tables."""
    options = _parse()
    torch.set_num_threads(options.threads)
    lines = pages.heading("Input compared with training", __doc__ or "", options.threads)
    with tempfile.TemporaryDirectory() as folder:
        for title, columns, measure in (
            ("Images per second", ("data", *(f"{n} workers" for n in options.workers)), read),
            ("Waiting in a step", ("configuration", "wait", "training", "share of the wait"), wait),
        ):
            if not (options.workers if measure is read else options.configs):
                continue
            rows = measure(options, Path(folder))
            shown = Table(*columns, title=title)
            for row in rows:
                shown.add_row(*row)
            Console().print(shown)
            lines += [f"## {title}", "", *pages.table(columns, rows)]
            if options.markdown:
                options.markdown.write_text("\n".join(lines))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photos of at least 256 pixels")
    parser.add_argument("--files", type=int, default=500, help="files to make of a kind")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a kind and a number of workers in a round")
    parser.add_argument("--configs", nargs="*", default=list(CONFIGS))
    parser.add_argument("--steps", type=int, default=30, help="timed steps of a training")
    parser.add_argument("--set", nargs="*", default=[], help="further options of the trainings, such as --model.lr=1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", type=Path, help="file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
