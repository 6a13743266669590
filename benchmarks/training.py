"""Time and weigh training steps of style transfer by the options for speed, against a plain loop.

The plain loop does what tutorials of fast style transfer write: the network and the loss network in torch's usual
layout, an image that is doubled before it is convolved, all activations of the photos as deep as those of the
paintings, and no framework around it. The network, the
photos, the loss and the optimizer are the same: the published network with instance normalization, VGG-16 with random
weights, and the published loss. Every figure is of processes of their own, which take turns. Seconds are the median
over the steps of all of them after the first two, memory is the highest peak of what is resident, and the last column
is how far the losses are from the plain loop's at most, relative to them.

    python benchmarks/training.py --threads 2 --markdown benchmarks/training.md
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
from pathlib import Path
from typing import Any
from unittest import mock

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models import vgg16

from benchmarks import pages
from lightning_modules.losses.perceptual import SCALINGS, gram_matrix
from lightning_modules.networks import transformer
from lightning_modules.networks.loss_network import LossNetwork, default_layers
from lightning_modules.style_transfer import StyleTransfer

PLAIN = "plain loop"
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("32-true", {}),
    "as it is": ("32-true", {}),
    "channels_last": ("32-true", {"channels_last": True}),
    "channels_last, compile": ("32-true", {"channels_last": True, "compile": True}),
    "channels_last, bf16-mixed": ("bf16-mixed", {"channels_last": True}),
    "channels_last, bf16-mixed, compile": ("bf16-mixed", {"channels_last": True, "compile": True}),
}
"""By name, the precision and the options of the module."""
COLUMNS = ("way", "step", "times as fast", "memory", "of the memory", "losses differ by")


class Watch(pl.Callback):
    """Note the time and the loss of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, _: Any, __: Any, outputs: dict[str, Tensor], *___: Any) -> None:
        """Stop the clock."""
        self.losses.append(float(outputs["loss"]))
        self.seconds.append(time.perf_counter() - self._start)


def build(options: argparse.Namespace, weights: Path, **changes: Any) -> StyleTransfer:
    """Build the module, with the same weights every time."""
    torch.manual_seed(0)
    size = {"widths": [4, 8], "num_blocks": 1, "style_size": 64} if options.quick else {"style_size": 256}
    fixed = {"norm": "instance", "loss_network": "vgg16", "weights": str(weights), "loss_scaling": "published"}
    return StyleTransfer(**{**size, **fixed, **changes})


def photos(options: argparse.Namespace) -> list[dict[str, Tensor]]:
    """Return the batches, the same every time."""
    keyed = torch.Generator().manual_seed(0)
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    return [{"image": torch.rand(shape, generator=keyed)} for _ in range(options.steps)]


def train(options: argparse.Namespace, way: str, weights: Path) -> Watch:
    """Train for some steps by Lightning."""
    precision, changes = WAYS[way]
    watch = Watch()
    trainer = pl.Trainer(
        max_steps=options.steps,
        precision=precision,
        accelerator=options.device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    trainer.fit(build(options, weights, **changes), DataLoader(photos(options), batch_size=None))
    return watch


def train_plainly(options: argparse.Namespace, weights: Path) -> Watch:
    """Train likewise by a loop."""

    def convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
        return nn.Conv2d.forward(conv, F.interpolate(x, scale_factor=2.0))

    with mock.patch.object(transformer, "convolve_doubled", convolve):
        return _train_plainly(options, weights)


def _train_plainly(options: argparse.Namespace, weights: Path) -> Watch:
    watch, module = Watch(), build(options, weights)
    network, layers = module.transformer, default_layers("vgg16")
    needed = {*layers.content, *layers.style}
    judge = LossNetwork("vgg16", needed, weights)
    module.setup("fit")
    module.to(options.device)
    judge.to(options.device)
    style = module.style_image[None].float() / 255
    grams = {layer: gram_matrix(features) for layer, features in judge(style, layers.style).items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    scale = SCALINGS["published"]
    for batch in photos(options):
        watch.on_train_batch_start()
        optimizer.zero_grad()
        photo = batch["image"].to(options.device, non_blocking=True)
        painted = network(photo)
        found, wanted = judge(painted, needed), judge(photo, needed)
        content = sum(F.mse_loss(found[layer], wanted[layer]) for layer in layers.content)
        styles = sum(
            F.mse_loss(gram_matrix(found[layer]), grams[layer].expand(len(painted), -1, -1)) for layer in grams
        )
        loss = scale.content_weight * content + scale.style_weight * styles
        loss.backward()
        optimizer.step()
        watch.on_train_batch_end(None, None, {"loss": loss.detach()})
    return watch


def measure_here(options: argparse.Namespace, way: str, weights: Path) -> None:
    """Print the seconds and losses of the steps, and the peak memory, in MB, of one way in this process."""
    watch = train_plainly(options, weights) if way == PLAIN else train(options, way, weights)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    print(json.dumps({"seconds": watch.seconds[2:], "losses": watch.losses, "memory": kilobytes / 1e3}))


def measure(options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Compare all ways."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "vgg16.pth"
        torch.manual_seed(0)
        torch.save(vgg16(weights=None).features.state_dict(), weights)
        for _ in range(options.rounds):
            for way in options.ways:
                found[way].append(_in_a_process(way, weights, options.threads))
    plain = found[PLAIN]
    rows = []
    for way, runs in found.items():
        seconds, usual = (statistics.median(s for run in each for s in run["seconds"]) for each in (runs, plain))
        memory, most = (max(run["memory"] for run in each) for each in (runs, plain))
        apart = max(abs(a / b - 1) for a, b in zip(runs[0]["losses"], plain[0]["losses"], strict=True))
        ratios = f"{usual / seconds:.2f}", f"{memory:.0f} MB", f"{memory / most:.2f}"
        rows.append((way, f"{seconds:.2f} s", *ratios, f"{apart:.1e}"))
    return rows


def _in_a_process(way: str, weights: Path, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--one", way, str(weights)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, and print and write the table."""
    options = _parse()
    torch.set_num_threads(options.threads)
    if options.one:
        measure_here(options, options.one[0], Path(options.one[1]))
        return
    rows = measure(options)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if options.markdown:
        title = "Training steps of style transfer compared"
        lines = pages.heading(title, __doc__ or "", options.threads, options.device) + pages.table(COLUMNS, rows)
        options.markdown.write_text("\n".join(lines))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY", help=str(list(WAYS))
    )
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="steps of a way in a round")
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see whether it works")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "WEIGHTS"), help=argparse.SUPPRESS)
    parser.add_argument("--markdown", type=Path, help="file to write")
    options = parser.parse_args()
    options.ways = list(dict.fromkeys([PLAIN, *options.ways]))
    return options


if __name__ == "__main__":
    main()
