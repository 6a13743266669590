"""Draw images from a trained GAN.

Example:
    python sample.py runs/gan/version_0 -o samples.png
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from data.stream import generator
from lightning_modules.gan import GAN, TILE, enlarged_grid
from norms.errors import SettingError
from training.files import replacing
from training.parser_errors import positive, run_command
from training.run import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def draw(run: str | Path, count: int, seed: int = 0, averaged: bool = True) -> Tensor:
    """Draw images from a trained GAN.

    Args:
        run: A run folder or a checkpoint.
        count: How many images.
        seed: Image i is a function of the weights, seed and i alone, whatever ``count`` is.
        averaged: Whether to use the averaged generator or the live one.

    Returns:
        Images in [0, 1], shape (count, C, H, W).

    Raises:
        SettingError: If there is no GAN in ``run``.
    """
    gan = Run.find(run).load(GAN)
    latents = [torch.randn(gan.latent_dim, generator=generator(seed, i)) for i in range(count)]
    return gan.sample(torch.stack(latents), averaged).clamp(0, 1)


def _run(options: argparse.Namespace) -> None:
    output, folder = options.output, options.each
    if output is None and folder is None:
        output = Path("samples.png")
    singles = [] if folder is None else [folder / f"{i:05d}.png" for i in range(options.count)]
    _check_outputs(([] if output is None else [output]) + singles, options.overwrite)
    images = draw(options.run, options.count, options.seed, not options.no_ema)
    if output is not None:
        columns = options.columns or math.ceil(math.sqrt(options.count))
        grid = enlarged_grid(images, columns, options.scale)
        _write(grid, output)
        print(f"wrote {output}: {options.count} images, {grid.shape[2]}x{grid.shape[1]} pixels")
    for image, path in zip(images, singles, strict=False):
        _write(image, path)
    if folder is not None:
        print(f"wrote {len(singles)} images of {images.shape[3]}x{images.shape[2]} pixels to {folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sample.py", description="Draw images from a trained GAN.", allow_abbrev=False
    )
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="a run folder such as runs/gan/version_0, or a checkpoint"
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="the grid (default: samples.png)")
    parser.add_argument("--each", metavar="FOLDER", type=Path, help="also write each image to a file, at its own size")
    parser.add_argument("--count", metavar="N", type=positive, default=64, help="how many images (default: 64)")
    parser.add_argument("--columns", metavar="N", type=positive, help="columns of the grid (default: a square)")
    parser.add_argument("--scale", metavar="N", type=positive, help=f"enlarge in the grid (default: to {TILE} pixels)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="another seed, other images (default: 0)")
    parser.add_argument("--no-ema", action="store_true", help="draw from the live generator, not from its average")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    return parser


def _check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    writable = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE}
    for path in paths:
        if path.suffix.lower() not in writable:
            raise SettingError(f"{path} has no ending of an image format: choose for instance .png")
        if path.parent.exists() and not path.parent.is_dir():
            raise SettingError(f"cannot write {path}: {path.parent} is not a folder")
        if path.is_dir():
            raise SettingError(f"{path} is a folder: name a file, or write single files with --each")
        if path.exists() and not overwrite:
            raise SettingError(f"{path} exists: choose another path or add --overwrite")


def _write(image: Tensor, path: Path) -> None:
    picture = tvf.to_pil_image(tvf.to_dtype(image, torch.uint8, scale=True))
    try:
        # A run that is stopped must not leave half an image that looks like a result.
        with replacing(path) as partial:
            picture.save(partial, Image.registered_extensions()[path.suffix.lower()])
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error
