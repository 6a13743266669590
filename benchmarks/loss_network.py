"""Compare loss networks by what another network says about the style transfer that is trained with them.

A style network is trained for the same few steps with each loss network. The judge is SqueezeNet 1.1 with weights of
ImageNet; it sees held-out photos as the untrained and as the trained style network paint them. Its losses are relative
(see lightning_modules.losses.perceptual): equality gives 0, and a style loss of 1 is as far from the style's Gram
matrices as zeros are. Where the judge is itself the loss network, it bounds what the others can reach.

The judge is independent of the random network and of classifiers. The bundled network is its student, so its figures
say how well it stands in for its teacher; whether the teacher is right is for the eye to say (--pictures).

    python benchmarks/loss_network.py --judge-weights squeezenet1_1.pth --out benchmarks/loss_network.md
"""

import argparse
import logging
import platform
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tvf
from torchvision.utils import save_image

from benchmarks import pages
from data import BundledPhotos, ImageFolder
from data.module import ImageDataModule
from lightning_modules.losses.perceptual import PerceptualLoss, usual_terms
from lightning_modules.networks.feature_net import BUNDLED, FeatureNet
from lightning_modules.networks.loss_network import LossNetwork, default_layers
from lightning_modules.style_transfer import StyleTransfer

COLUMNS = ("loss network", "style", "judge: style", "judge: content", "own: style", "own: content", "seconds")


@dataclass
class Candidate:
    """Describe a loss network to train with."""

    name: str
    loss_network: str = "bundled"
    weights: str | None = None

    def recipe(self) -> str:
        """Tell how its weights came to be, as far as their file says."""
        path = BUNDLED if self.weights is None else Path(self.weights)
        if path.suffix != ".safetensors":
            return path.name
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("recipe", path.name)


@dataclass
class Scores:
    """Hold the losses before and after a training, and how long it took."""

    judge_style: tuple[float, float]
    judge_content: tuple[float, float]
    own_style: tuple[float, float]
    own_content: tuple[float, float]
    seconds: float

    def cells(self) -> list[str]:
        """Return the figures as the table shows them."""
        pairs = (self.judge_style, self.judge_content, self.own_style, self.own_content)
        return [*(f"{before:.3f} -> {after:.3f}" for before, after in pairs), f"{self.seconds:.0f}"]


def random_network(folder: Path, seed: int) -> Candidate:
    """Write a network with orthogonal weights, which keep the scale of activations from layer to layer."""
    network = FeatureNet()
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight, gain=2**0.5)
    path = folder / "random.safetensors"
    network.save(path, {"recipe": "orthogonal weights, not trained"})
    return Candidate("random", weights=str(path))


@torch.no_grad()
def held_out_losses(loss: PerceptualLoss, module: StyleTransfer, photos: Tensor) -> tuple[float, float]:
    """Compute the style and content loss of the painted photos, clamped as they would be written to a file."""
    with module.evaluation():
        terms = loss(module(photos).clamp(0, 1), photos)
    return float(terms["style"]), float(terms["content"])


def measure(candidate: Candidate, style: str, photos: Tensor, options: argparse.Namespace) -> Scores:
    """Train with one loss network and one style, and let the judge compare before with after."""
    pl.seed_everything(options.seed, verbose=False)
    layers = {"content_layers": options.content_layers, "style_layers": options.style_layers}
    module = StyleTransfer(
        style=style,
        style_size=options.style_size,
        norm=options.norm,
        widths=options.widths,
        num_blocks=options.num_blocks,
        loss_network=candidate.loss_network,
        weights=candidate.weights,
        seed=options.seed,
        **(layers if candidate.loss_network == "bundled" else {}),
    )
    module.setup("fit")
    module.on_fit_start()
    judges = (_judge(module.style_image, options.judge_weights), module.loss)
    before = [held_out_losses(judge, module, photos) for judge in judges]
    seconds = _train(module, options)
    after = [held_out_losses(judge, module, photos) for judge in judges]
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        shown = photos[:6]
        with module.evaluation():
            painted = module(shown).clamp(0, 1)
        name = f"{candidate.name}_{Path(style).stem}.png"
        save_image(torch.cat([shown, painted]), options.pictures / name, nrow=len(shown))
    (judge_style, judge_content), (own_style, own_content) = (
        tuple(zip(*pair, strict=True)) for pair in zip(before, after, strict=True)
    )
    return Scores(judge_style, judge_content, own_style, own_content, seconds)


def main() -> None:
    """Measure all candidates, and print and write the table."""
    options = _parse()
    torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    table = Table(*COLUMNS, title="Style transfer by loss network, held-out photos, before -> after training")
    photos = _held_out_photos(options)
    with tempfile.TemporaryDirectory() as folder:
        candidates = [_candidate(text, Path(folder), options) for text in options.networks]
        recipes = {candidate.name: candidate.recipe() for candidate in candidates}
        rows = [
            [candidate.name, Path(style).stem, *measure(candidate, style, photos, options).cells()]
            for style in options.styles
            for candidate in candidates
        ]
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if options.out:
        options.out.write_text(_markdown(rows, recipes))


def _judge(style_image: Tensor, weights: str) -> PerceptualLoss:
    layers = default_layers("squeezenet1_1")
    network = LossNetwork("squeezenet1_1", {*layers.content, *layers.style}, weights)
    judge = PerceptualLoss(network, usual_terms(layers.content, layers.style))
    judge.set_style(tvf.to_dtype(style_image[None], torch.float32, scale=True))
    return judge


def _train(module: StyleTransfer, options: argparse.Namespace) -> float:
    trainer = pl.Trainer(
        max_steps=options.steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    data = BundledPhotos(options.batch_size, options.image_size, seed=options.seed)
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    return time.perf_counter() - start


def _held_out_photos(options: argparse.Namespace) -> Tensor:
    data: ImageDataModule = BundledPhotos(image_size=options.image_size)
    if options.photos is not None:
        data = ImageFolder(options.photos, val_folder=options.photos, image_size=options.image_size)
    return torch.cat([batch["image"] for batch in data.val_dataloader()])[: options.count]


def _candidate(text: str, folder: Path, options: argparse.Namespace) -> Candidate:
    match text.partition("="):
        case "random", "", _:
            return random_network(folder, options.seed)
        case "bundled", "", _:
            return Candidate("bundled")
        case "judge", "", _:
            return Candidate("judge", "squeezenet1_1", options.judge_weights)
    name, _, path = text.partition("=")
    return Candidate(name, weights=path)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge-weights", required=True, help="weights of torchvision's squeezenet1_1")
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["random", "bundled", "judge"],
        help="random, bundled, judge, or NAME=FILE for a feature network in a file",
    )
    parser.add_argument("--content-layers", nargs="+", help="of all but the judge, by default the customary ones")
    parser.add_argument("--style-layers", nargs="+", help="likewise")
    parser.add_argument("--styles", nargs="+", default=["waves"], help="bundled style pictures or image files")
    parser.add_argument("--photos", help="folder of held-out photos, by default the bundled ones for validation")
    parser.add_argument("--count", type=int, default=16, help="how many of them are judged")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--style-size", type=int, default=256)
    parser.add_argument("--norm", default="batch_instance")
    parser.add_argument("--num-blocks", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="markdown file to write")
    parser.add_argument("--pictures", type=Path, help="folder for painted photos")
    return parser.parse_args()


def _markdown(rows: list[list[str]], recipes: dict[str, str]) -> str:
    hardware = f"{pages.processor()}, torch {torch.__version__}, Python {platform.python_version()}"
    lines = [
        "# Loss networks compared",
        *(__doc__ or "").partition("\n\n    python")[0].splitlines()[1:],
        "",
        f"    {shlex.join(['python', *sys.argv])}",
        "",
        f"On {hardware}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(f"- {name}: {recipe}" for name, recipe in recipes.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
