"""Measure how long many runs take to be read and drawn, and the page that shows them to open.

Makes run folders of the given size with invented values: rho goes from 1 to two peaks, or switch weights from a
third. Then it runs `analyze.py` on them in a process of its own, whose time and largest resident memory it tells, and
opens the page in headless Chromium, which must be installed, until its figures are drawn.

    python benchmarks/analysis.py --runs 200 --layers 40 --channels 64 --steps 10 --markdown benchmarks/analysis.md
"""

import argparse
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Python looks first in the folder of a script, where analysis is this benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
import yaml
from chromium import Chromium, find

from benchmarks import pages

ROOT = Path(__file__).resolve().parents[1]
STEPS_BETWEEN = 50
SEEDS_A_GROUP = 5

LIMITS = {"seconds": 60.0, "memory": 2.0, "load": 3.0, "page": 10.0}
"""What must not be exceeded: seconds of reading and drawing, GiB, seconds until the page is open, MB of the page."""


class Result(NamedTuple):
    """Hold the number of values, seconds of the process and of the processors for it, GiB, MB, seconds."""

    values: int
    seconds: float
    processor: float
    memory: float
    page: float
    load: float | None


def make_runs(folder: Path, runs: int, layers: int, channels: int, steps: int, switchable: bool = False) -> list[Path]:
    """Make run folders with invented values.

    Args:
        folder: Where they go.
        runs: How many; five at a time differ in their seed only.
        layers: Number of layers of each network.
        channels: Number of channels of each layer.
        steps: How often the values were logged.
        switchable: Whether the layers have switch weights instead of rho.

    Returns:
        The run folders.
    """
    random = np.random.default_rng(0)
    made = []
    for run in range(runs):
        path = folder / f"run_{run // SEEDS_A_GROUP:03d}" / f"version_{run % SEEDS_A_GROUP}"
        (path / "mixing").mkdir(parents=True)
        config = {"model": {"lr": run // SEEDS_A_GROUP, "seed": run}, "seed_everything": run}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        ends = (random.random((layers, channels)) < 0.8).astype(np.float32)
        logits = random.normal(size=(layers, 2, 3)).astype(np.float32)
        for step in range(steps):
            progress = step / max(1, steps - 1)
            noise = random.normal(0, 0.15, (layers, channels)).astype(np.float32) * np.float32(progress)
            rho = np.clip(1 + (ends - 1) * np.float32(progress) + noise, 0, 1)
            weights = np.exp(logits * np.float32(progress))
            weights /= weights.sum(-1, keepdims=True)
            arrays = {}
            for layer in range(layers):
                name = f"{layer:02d}.block{layer // 2}.norm{layer % 2}"
                if switchable:
                    arrays |= {f"{name}/mean_weight": weights[layer, 0], f"{name}/var_weight": weights[layer, 1]}
                else:
                    arrays[f"{name}/rho"] = rho[layer]
            np.savez(path / "mixing" / f"step_{step * STEPS_BETWEEN:07d}.npz", **arrays)
        made.append(path)
    return made


def measure(runs: Sequence[Path], output: Path) -> Result:
    """Analyze the runs, and open the page.

    Args:
        runs: Run folders.
        output: Where the report goes.
    """
    command = [sys.executable, str(ROOT / "analyze.py"), *map(str, runs), "-o", str(output)]
    before = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)})
    seconds = time.monotonic() - before
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory, processor = used.ru_maxrss / 2**20, used.ru_utime + used.ru_stime
    page = output / "report.html"
    values = len(pd.read_parquet(output / "mixing.parquet", columns=["step"]))
    return Result(values, seconds, processor, memory, page.stat().st_size / 1e6, _load(page))


def _load(page: Path) -> float | None:
    executable = find()
    if executable is None:
        return None
    with Chromium(executable) as browser:
        browser.screen(1440, 900)
        seconds = browser.open(page)
        if browser.errors:
            raise RuntimeError(f"the page has errors: {browser.errors}")
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print, or write, what it found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for option, default in (("runs", 200), ("layers", 40), ("channels", 64), ("steps", 10)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--switchable", action="store_true", help="switch weights instead of rho")
    parser.add_argument("--markdown", type=Path, help="write the result here")
    parser.add_argument("--keep", type=Path, help="keep the runs and the report in this folder")
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(given)
    folder = options.keep or Path(tempfile.mkdtemp())
    load = os.getloadavg()[0]
    try:
        sizes = (options.runs, options.layers, options.channels, options.steps)
        runs = make_runs(folder / "runs", *sizes, switchable=options.switchable)
        result = measure(runs, folder / "report")
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    text = _describe(result, given, load)
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


def _describe(result: Result, arguments: Sequence[str], load: float) -> str:
    def row(words: str, value: float | None, unit: str, limit: float) -> str:
        measured = "not measured, no Chromium" if value is None else f"{value:.2f} {unit}"
        verdict = "" if value is None else "yes" if value <= limit else "no"
        return f"| {words} | {measured} | {limit:g} {unit} | {verdict} |"

    libraries = f"torch {torch.__version__}, numpy {np.__version__}, pandas {pd.__version__}"
    machine = f"{pages.processor()}, {os.cpu_count()} cores, load {load:.1f} from other work"
    lines = [
        "# Many runs analyzed",
        "",
        (__doc__ or "").partition("\n\n")[2].rpartition("\n\n")[0],
        "",
        f"    python benchmarks/analysis.py {shlex.join(arguments)}",
        "",
        f"On {machine}, Python {platform.python_version()}, {libraries}, {_chromium()}.",
        "",
        f"| {result.values} values | measured | limit | kept |",
        "| --- | --- | --- | --- |",
        row("reading, writing and drawing, from the start of the process", result.seconds, "s", LIMITS["seconds"]),
        f"| seconds of processors in that time | {result.processor:.2f} s | | |",
        row("largest resident memory", result.memory, "GiB", LIMITS["memory"]),
        row("size of the page", result.page, "MB", LIMITS["page"]),
        row("the page opens, until its first figures are drawn", result.load, "s", LIMITS["load"]),
    ]
    return "\n".join(lines) + "\n"


def _chromium() -> str:
    executable = find()
    if executable is None:
        return "no Chromium"
    return subprocess.run([executable, "--version"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
