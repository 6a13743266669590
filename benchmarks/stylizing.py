"""Time and weigh how photos are painted, by their size, against the same network called on the whole photo.

`stylize.py` shows the network a photo at 512 pixels and scales up what it paints. The naive way calls the network on
all pixels, as most scripts do, in inference mode and with the same layout of memory. Every figure is of a process of
its own, which paints a small photo first and then one of the size; processes of both ways take turns. Seconds are
medians, from the decoded photo to the painted one, and the peak of the resident memory is the highest of a way's.

A second table is of one photo at 512 pixels in each format that the network is exported to, and of eight photos at
once for each that is painted alone, all in one process and in turns.

    python benchmarks/stylizing.py --threads 2 --markdown benchmarks/stylizing.md
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import pages
from data.images import to_tensor
from data.photos import bundled_photo
from lightning_modules.style_transfer import StyleTransfer
from stylizing import graphs
from stylizing.painting import paint
from training.images import to_picture
from training.run import Run
from training.shipped import with_shipped_networks

WAYS = ("stylize.py", "naive")
TOGETHER = 8
SIZE_COLUMNS = (
    "longer side",
    "way",
    "seconds",
    "megapixels per second",
    "peak memory",
    "times as fast",
    "of the memory",
)
FORMAT_COLUMNS = ("format", "file", "time of a photo", "relative to torch")
Rows = list[tuple[str, ...]]


def photo_of(longer: int) -> Image.Image:
    """Return a photo, 4 wide by 3 high."""
    return bundled_photo("china.jpg").resize((longer, longer * 3 // 4), Image.Resampling.BICUBIC)


def load(run: str) -> StyleTransfer:
    """Load a run or network to measure, on the CPU."""
    return Run.find(with_shipped_networks(Path(run))).load(StyleTransfer)


def paint_naively(model: StyleTransfer, photo: Image.Image) -> Image.Image:
    """Call the network on all pixels of a photo."""
    with torch.inference_mode():
        return to_picture(model(to_tensor(photo)[None].to(model.device))[0].cpu())


def measure_here(run: str, longer: int, way: str, device: str = "cpu") -> None:
    """Print the seconds and the peak memory, in MB, of painting one photo in this process; on a GPU that of its own."""
    model, photo = load(run).to(device), photo_of(longer)
    painter = paint if way == WAYS[0] else paint_naively
    painter(model, photo_of(64))
    start = time.perf_counter()
    painter(model, photo)
    seconds = time.perf_counter() - start
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    if device == "cuda":
        kilobytes = torch.cuda.max_memory_allocated() / 1e3
    print(json.dumps([seconds, kilobytes / 1e3]))


def measure_sizes(options: argparse.Namespace) -> Rows:
    """Compare both ways for every size."""
    rows: Rows = []
    for longer in options.sizes:
        ways = WAYS if longer <= options.naive_up_to else WAYS[:1]
        found: dict[str, list[list[float]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way in ways:
                found[way].append(_in_a_process(options, longer, way))
        seconds = {way: statistics.median(each[0] for each in found[way]) for way in ways}
        memory = {way: max(each[1] for each in found[way]) for way in ways}
        for way in ways:
            ratios = ["", ""]
            if "naive" in ways:
                ratios = [f"{seconds['naive'] / seconds[way]:.2f}", f"{memory[way] / memory['naive']:.2f}"]
            rows.append(
                (
                    str(longer),
                    way,
                    f"{seconds[way]:.2f}",
                    f"{longer * (longer * 3 // 4) / 1e6 / seconds[way]:.2f}",
                    f"{memory[way]:.0f} MB",
                    *ratios,
                )
            )
    return rows


def _in_a_process(options: argparse.Namespace, longer: int, way: str) -> list[float]:
    command = [sys.executable, __file__, options.run, "--one", str(longer), way]
    command += ["--threads", str(options.threads), "--device", options.device]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:  # such as a process that is killed for its memory
        return [float("nan"), float("nan")]
    return list(json.loads(done.stdout.splitlines()[-1]))


def measure_formats(options: argparse.Namespace) -> Rows:
    """Compare the exported formats and batches with the network in torch, on one photo of 512 pixels."""
    import onnxruntime

    model = load(options.run)
    count = model.transformer.num_styles
    image = to_tensor(photo_of(512))[None]
    shares = [] if count is None else [torch.nn.functional.one_hot(torch.tensor(0), count).float()]
    ways: dict[str, tuple[int, int, Callable[[], Any]]] = {"torch": (0, 1, lambda: model(image, *shares))}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (graphs.ONNX, graphs.EXPORTED):
            graphs.write_graph(model, Path(folder) / f"network{suffix}", {})
        limits = onnxruntime.SessionOptions()
        limits.intra_op_num_threads = options.threads
        onnx, exported = (Path(folder) / f"network{suffix}" for suffix in (graphs.ONNX, graphs.EXPORTED))
        session = onnxruntime.InferenceSession(onnx, limits, providers=["CPUExecutionProvider"])
        fed = {given.name: x.numpy() for given, x in zip(session.get_inputs(), [image, *shares], strict=True)}
        program = torch.export.load(exported).module()
        ways["ONNX, by onnxruntime"] = (onnx.stat().st_size, 1, lambda: session.run(None, fed))
        ways["torch.export"] = (exported.stat().st_size, 1, lambda: program(image, *shares))
    batch = image.repeat(TOGETHER, 1, 1, 1)
    ways[f"torch, {TOGETHER} photos at once"] = (0, TOGETHER, lambda: model(batch, *shares))
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for _ in range(options.rounds + 1):
            for way, (_, photos, run) in ways.items():
                start = time.perf_counter()
                run()
                seconds[way].append((time.perf_counter() - start) / photos)
    medians = {way: statistics.median(each[1:]) for way, each in seconds.items()}
    return [
        (way, f"{size / 1e6:.1f} MB" if size else "", f"{medians[way]:.3f} s", f"{medians[way] / medians['torch']:.2f}")
        for way, (size, _, _) in ways.items()
    ]


def report(tables: dict[str, tuple[tuple[str, ...], Rows]], threads: int) -> str:
    """Write the markdown file."""
    lines = pages.heading("Stylizing compared", __doc__ or "", threads)
    for title, (columns, rows) in tables.items():
        lines += [f"## {title}", "", *pages.table(columns, rows)]
    return "\n".join(lines)


def main() -> None:
    """Measure, and print and write the tables."""
    options = _parse()
    torch.set_num_threads(options.threads)
    if options.one:
        measure_here(options.run, int(options.one[0]), options.one[1], options.device)
        return
    tables: dict[str, tuple[tuple[str, ...], Rows]] = {}
    for title, columns, measure in (
        ("Formats and batches", FORMAT_COLUMNS, measure_formats),
        ("Sizes of photos", SIZE_COLUMNS, measure_sizes),
    ):
        tables[title] = (columns, measure(options))
        table = Table(*columns, title=title)
        for row in tables[title][1]:
            table.add_row(*row)
        Console().print(table)
        if options.markdown:
            # After each table, so that what was measured outlives an interruption.
            options.markdown.write_text(report(tables, options.threads))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="bundled", help="a run, an exported network, or bundled")
    sizes = "longer sides of the photos, in pixels"
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024, 2048, 4096, 6000], help=sizes)
    naive = "largest size for which the naive way is taken; it needs about 0.7 GB a megapixel"
    parser.add_argument("--naive-up-to", type=int, default=4096, help=naive)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the sizes; formats are the CPU's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--markdown", type=Path, help="file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
