"""Time generator steps of a GAN as ``train.py`` trains it, against a plain loop of the same networks.

``train.py`` runs with everything at its defaults: guard, monitors, mixing values, pictures, metrics.csv, an offline W&B
run and the loading of images. The plain loop has the same networks, losses, optimizers and average of the generator,
images that are in memory, and nothing around it. Both take turns in this process. A figure is the ratio of the medians
over all steps but the first two of each round, followed by the interquartile range of the ratios of single rounds.

    python benchmarks/gan.py --threads 2 --markdown benchmarks/gan.md
"""

import argparse
import contextlib
import copy
import io
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

import torch
import torch.nn.functional as F
from rich.console import Console

from benchmarks import pages
from data import BundledGarments
from lightning_modules import GAN, ema

WARM_UP = 2


def now(device: str) -> float:
    """Look at the clock, once a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class TimedGAN(GAN):
    """Note when each step begins."""

    starts: list[float] = []  # noqa: RUF012 - shared on purpose

    def on_train_batch_start(self, *_: Any) -> None:
        """Look at the clock."""
        self.starts.append(now(self.device.type))

    def on_train_batch_end(self, *_: Any) -> None:
        """Look at the clock once more, if it is the last."""
        if self.global_step == self.trainer.max_steps:
            self.starts.append(now(self.device.type))


class Garments(BundledGarments):
    """Give the bundled garments as RGB, if the network wants that."""

    def take_shape(self, channels: int, image_size: int) -> None:
        """Take any shape."""
        super().take_shape(1, image_size)
        self.wanted = channels

    @property
    def channels(self) -> int:
        """As many as the network wants."""
        return getattr(self, "wanted", 1)

    def train_transform(self, item: dict[str, Any]) -> dict[str, Any]:
        """Repeat the gray channel."""
        return {**item, "image": item["image"].expand(self.channels, -1, -1)}


def through_train_py(options: argparse.Namespace) -> list[float]:
    """Train as a user does, in a folder of its own; return the seconds of the steps."""
    from training.command import main as train

    timed: Any = __import__("gan").TimedGAN
    timed.starts.clear()
    settings = {
        "--trainer.max_steps": options.steps + WARM_UP,
        "--trainer.accelerator": options.device,
        "--trainer.devices": 1,
        "--model": "gan.TimedGAN",
        "--model.architecture": options.architecture,
        "--model.channels": options.channels,
        "--model.n_dis": options.n_dis,
        "--data": "gan.Garments",
        "--data.batch_size": options.batch_size,
    }
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                status = train(["fit", *(f"{key}={value}" for key, value in settings.items())])
        finally:
            os.chdir(before)
    if status:
        raise SystemExit(f"train.py ended with status {status}")
    times = timed.starts
    return [after - begin for begin, after in pairwise(times)][WARM_UP:]


def plainly(options: argparse.Namespace) -> list[float]:
    """Train likewise by a loop; return the seconds of the steps."""
    device = torch.device(options.device)
    module = GAN(architecture=options.architecture, channels=options.channels, n_dis=options.n_dis).to(device)
    generator, discriminator = module.generator, module.discriminator
    average = copy.deepcopy(generator)
    adam_g = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.0, 0.9))
    adam_d = torch.optim.Adam(discriminator.parameters(), 2e-4, betas=(0.0, 0.9))
    images = torch.rand(256, *module.image_shape, device=device) * 2 - 1
    seconds = []
    for _ in range(options.steps + WARM_UP):
        start = now(device.type)
        for _ in range(options.n_dis):
            real = images[torch.randint(len(images), (options.batch_size,), device=device)]
            with torch.no_grad():
                fake = generator(torch.randn(options.batch_size, 128, device=device))
            loss = F.relu(1 - discriminator(real)).mean() + F.relu(1 + discriminator(fake)).mean()
            adam_d.zero_grad()
            loss.backward()
            adam_d.step()
        discriminator.requires_grad_(False)
        loss = -discriminator(generator(torch.randn(options.batch_size, 128, device=device))).mean()
        adam_g.zero_grad()
        loss.backward()
        adam_g.step()
        discriminator.requires_grad_(True)
        ema.update_(average, generator, 0.999)
        seconds.append(now(device.type) - start)
    return seconds[WARM_UP:]


def main() -> None:
    """Measure, and print and write what came out."""
    options = _parse()
    torch.set_num_threads(options.threads)
    os.environ.setdefault("WANDB_MODE", "offline")
    rounds = [(plainly(options), through_train_py(options)) for _ in range(options.rounds)]
    plain, ours = (statistics.median(s for each in side for s in each) for side in zip(*rounds, strict=True))
    ratios = sorted(statistics.median(b) / statistics.median(a) for a, b in rounds)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    what = (
        f"{options.architecture}, {options.channels} channels, batch {options.batch_size}, n_dis {options.n_dis}, "
        f"{options.rounds} rounds of {options.steps} steps: plain loop {plain * 1e3:.0f} ms, train.py "
        f"{ours * 1e3:.0f} ms, {ours / plain:.3f} times as long ({low:.3f}-{high:.3f})"
    )
    Console(soft_wrap=True, highlight=False).print(what)
    if options.markdown:
        lines = [
            *pages.heading("Steps of a GAN compared with a plain loop", __doc__ or "", options.threads, options.device),
            f"{what}.",
            "",
        ]
        options.markdown.write_text("\n".join(lines))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnet32")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--n-dis", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of either in a round")
    parser.add_argument("--markdown", type=Path, help="file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
