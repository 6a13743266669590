"""Measure how long a training on very many images waits for its first batch, and how much memory their list takes.

A folder of a million JPEG files, in a thousand class folders, is made of hard links to a picture in each. Tar shards of
a thousand images each are written by webdataset's own writer. Every figure is of a process of its own, which has
imported everything before its time begins; memory is its highest resident memory less what it had then.

The second table has how many images per second are read from the same shards in random order, as bytes: by their
index, and, if it is given, by ``wids``, which webdataset had up to 0.2.111, with its default settings. For that:
``pip install --no-deps --target old webdataset==0.2.111``.

    python benchmarks/folder_index.py --place big/ --wids old/ --markdown benchmarks/folder_index.md
"""

import argparse
import io
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image
from rich.progress import track

import data
from benchmarks import pages
from data.module import ImageDataModule
from data.shards import find_shards
from data.stream import generator

EACH = 1000
"""Files of a class folder, and images of a shard."""

READ = 20_000, 300
"""How many images are read at random from shards: by the index, and by wids, which is slow."""

SOURCES: dict[str, Callable[[Path], ImageDataModule]] = {
    "ImageFolder": lambda place: data.ImageFolder(str(place / "files"), image_size=64),
    "LabeledFolder": lambda place: data.LabeledFolder(str(place / "files"), image_size=64),
    "Shards, first start": lambda place: data.Shards(str(place / "shards"), image_size=64),
    "Shards, next start": lambda place: data.Shards(str(place / "shards"), image_size=64),
}


def picture(number: int) -> bytes:
    """Return a JPEG file of 64 pixels."""
    content, values = io.BytesIO(), torch.randint(0, 256, (8, 8, 3), generator=generator(number), dtype=torch.uint8)
    Image.fromarray(values.numpy()).resize((64, 64)).save(content, "JPEG")
    return content.getvalue()


def make_folder(folder: Path, files: int) -> None:
    """Make a folder of so many files, unless it is there."""
    for number in track(range(0 if folder.exists() else files // EACH), f"{files} files"):
        inside = folder / f"n{number:08}"
        inside.mkdir(parents=True)
        (inside / f"n{number:08}_00000.JPEG").write_bytes(picture(number))
        for other in range(1, EACH):
            os.link(inside / f"n{number:08}_00000.JPEG", inside / f"n{number:08}_{other:05}.JPEG")


def make_shards(folder: Path, images: int) -> None:
    """Make shards of so many images, unless they are there."""
    if folder.exists():
        return
    import webdataset

    folder.mkdir(parents=True)
    pictures = [picture(number) for number in range(50)]
    with webdataset.ShardWriter(str(folder / "train-%06d.tar"), maxcount=EACH, verbose=0) as writer:
        for number in track(range(images), f"{images} images in shards"):
            writer.write({"__key__": f"{number:08}", "jpg": pictures[number % 50], "cls": number % EACH})


def first_batch(name: str, place: Path) -> dict[str, float]:
    """Take the first batch of a source; return the seconds till then, and the memory in MB."""
    before = resident()
    begin = time.perf_counter()
    module = SOURCES[name](place)
    next(iter(module.train_dataloader()))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": len(module.load()[0]), "seconds": seconds, "added": peak - before, "peak": peak}


def resident() -> float:
    """Return this process's resident memory in MB."""
    pages_of_memory = int(Path("/proc/self/statm").read_text().split()[1])
    return pages_of_memory * os.sysconf("SC_PAGE_SIZE") / 2**20


def read_at_random(wids: str, place: Path) -> float:
    """Read images in random order; return how many per second."""
    shards, count = sorted(map(str, (place / "shards").glob("*.tar"))), READ[bool(wids)]
    order = random.Random(0).sample(range(EACH * len(shards)), min(count, EACH * len(shards)))
    if wids:
        sys.path.insert(0, wids)
        from wids import ShardListDataset

        listed = [{"url": shard, "nsamples": EACH} for shard in shards]
        dataset = ShardListDataset(listed, cache_dir=str(place / "shards"), keep=True, transformations=[])
        begin = time.perf_counter()
        for index in order:
            dataset[index]
    else:
        files = find_shards(str(place / "shards"), labeled=True).files
        begin = time.perf_counter()
        for index in order:
            files[index].read()
    return len(order) / (time.perf_counter() - begin)


def main() -> None:
    """Make the data and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, required=True, help="a folder for the data, made if they are not there")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=100_000, help="in shards")
    parser.add_argument("--wids", default="", help="a folder with webdataset 0.2.111, to compare with wids")
    parser.add_argument("--markdown", type=Path, help="a file to write the tables to")
    options = parser.parse_args()
    make_folder(options.place / "files", options.files)
    make_shards(options.place / "shards", options.images)
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(1, spawn, initializer=torch.set_num_threads, initargs=(1,), max_tasks_per_child=1) as pool,
    ):
        os.environ["XDG_CACHE_HOME"] = cache
        begun = [pool.submit(first_batch, name, options.place).result() for name in SOURCES]
        ways = {"by the index of normlab": "", **({"by wids": options.wids} if options.wids else {})}
        reading = [
            (way, f"{pool.submit(read_at_random, path, options.place).result():,.0f}") for way, path in ways.items()
        ]
    lines = pages.heading("First batch of a million files", __doc__ or "", 1)
    rows = [
        (
            name,
            f"{found['images']:,.0f}",
            *(f"{found[key]:,.{digits}f}" for key, digits in (("seconds", 1), ("added", 0), ("peak", 0))),
        )
        for name, found in zip(SOURCES, begun, strict=True)
    ]
    lines += pages.table(("data", "images to train on", "seconds", "memory added, MB", "peak of the process, MB"), rows)
    lines += pages.table(("reading shards in random order", "images per second"), reading)
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
