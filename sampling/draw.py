"""Images drawn from a trained GAN, and their files."""

import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.stream import generator
from lightning_modules.gan import GAN
from lightning_modules.generation import TILE, enlarged_grid
from norms.errors import SettingError, check_range
from training.images import write_image
from training.run import Run

MOST = 100_000
"""Images at once, which are in memory together; others come of another seed."""

MOST_PIXELS = 150_000_000
"""In a grid; Pillow refuses to open files of many more."""


def draw(run: str | Path | GAN, count: int, seed: int = 0, averaged: bool = True) -> Tensor:
    """Draw images from a trained GAN.

    Args:
        run: A run folder, a checkpoint, or what is loaded from it.
        count: How many images.
        seed: Image i is a function of the weights, seed and i alone, whatever ``count`` is.
        averaged: Whether to use the averaged generator or the live one.

    Returns:
        Images in [0, 1], shape (count, C, H, W).

    Raises:
        SettingError: If there is no GAN in ``run``.
    """
    gan = run if isinstance(run, GAN) else Run.find(run).load(GAN)
    latents = [torch.randn(gan.latent_dim, generator=generator(seed, i)) for i in range(count)]
    return gan.sample(torch.stack(latents), averaged=averaged).clamp(0, 1)


def write(options: Namespace) -> None:
    """Draw and write the images that the command line asks for, and say where they are.

    Raises:
        SettingError: If there is no GAN in the run, a file cannot be written, or the images would fill the memory.
    """
    check_range("--count", options.count, at_most=MOST)
    output, folder = options.output, options.each
    if output is None and folder is None:
        output = Path("samples.png")
    singles = [] if folder is None else [folder / f"{i:05d}.png" for i in range(options.count)]
    _check_outputs(([] if output is None else [output]) + singles, options.overwrite)
    gan = Run.find(options.run).load(GAN)
    columns = options.columns or math.ceil(math.sqrt(options.count))
    if output is not None:
        _check_grid(gan, options.count, min(columns, options.count), options.scale)
    images = draw(gan, options.count, options.seed, not options.no_ema)
    if output is not None:
        grid = enlarged_grid(images, columns, options.scale)
        write_image(grid, output)
        print(f"wrote {output}: {options.count} images, {grid.shape[2]}x{grid.shape[1]} pixels")
    for image, path in zip(images, singles, strict=False):
        write_image(image, path)
    if folder is not None:
        print(f"wrote {len(singles)} images of {images.shape[3]}x{images.shape[2]} pixels to {folder}")


def _check_grid(gan: GAN, count: int, columns: int, scale: int | None) -> None:
    _, height, width = gan.image_shape
    scale = scale or math.ceil(TILE / width)
    pixels = columns * math.ceil(count / columns) * height * width * scale**2
    if pixels > MOST_PIXELS:
        raise SettingError(
            f"the grid would have {pixels:,} pixels, and at most {MOST_PIXELS:,} are drawn: "
            "choose a smaller --scale or --count, or write single images with --each"
        )


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
