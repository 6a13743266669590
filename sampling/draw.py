"""Images drawn from a trained GAN, and their files."""

import math
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

import normlab
from lightning_modules.gan import GAN
from lightning_modules.generation import TILE, enlarged_grid
from lightning_modules.metrics.generated import to_bytes
from norms.errors import SettingError, check_range
from sampling.files import Add, check_latents, check_new, write_latents, writer
from sampling.plan import WIDEST, Plan, find_labels
from sampling.trained import TrainedGenerator
from training.devices import find_device
from training.images import write_image
from training.terminal import printable

MOST = 1_000_000
"""Images of one command; others come of another seed."""

MOST_PIXELS = 150_000_000
"""In a grid; Pillow refuses to open files of many more."""

COUNT, COLUMNS = 64, 8
"""How many images are drawn if nobody says it, and how many columns, places or rows of other pictures than a grid."""

BATCH = 64
"""Images that are drawn at once. The last batch is filled up: how an image is rounded depends on how many there are."""


def draw(
    run: str | Path | GAN | TrainedGenerator,
    count: int,
    seed: int = 0,
    averaged: bool = True,
    labels: Sequence[int] = (),
    truncation: float | None = None,
) -> Tensor:
    """Draw images from a trained GAN.

    Args:
        run: A run folder, a checkpoint, an exported generator, or what is loaded from one of them.
        count: How many images.
        seed: Image i is a function of the weights, seed and i alone, whatever ``count`` is.
        averaged: Whether to use the averaged generator or the live one.
        labels: Classes, which the images take in turn; by default all that the generator has.
        truncation: The threshold of :func:`sampling.plan.truncated`.

    Returns:
        Images in [0, 1], shape (count, C, H, W).

    Raises:
        SettingError: If there is no GAN in ``run``, or no such class.
    """
    if isinstance(run, GAN):
        run = TrainedGenerator.of(run, averaged)
    trained = run if isinstance(run, TrainedGenerator) else TrainedGenerator.find(run, averaged)
    classes = find_labels([str(label) for label in labels], trained.num_classes, ())
    return torch.cat(list(batches(trained, Plan(count, trained.latent_dim, seed, truncation, classes))))


def batches(trained: TrainedGenerator, plan: Plan) -> Iterator[Tensor]:
    """Yield the images of a plan, in [0, 1], in batches of at most :data:`BATCH`, on the CPU."""
    for first in range(0, plan.count, BATCH):
        numbers = range(first, min(first + BATCH, plan.count))
        filled = [*numbers, *[first] * (BATCH - len(numbers))]
        labels = plan.classes(filled)
        # Noise of the CPU, since generators of other devices draw other numbers.
        latents = plan.latents(filled).to(trained.device)
        images = trained.draw(latents, None if labels is None else labels.to(trained.device))
        yield images[: len(numbers)].cpu()


def find_generator(options: Namespace) -> TrainedGenerator:
    """Find the generator and the device that the command line names.

    Raises:
        SettingError: If there is no such generator or device.
    """
    device = find_device(options.device)
    return TrainedGenerator.find(options.run, not options.no_ema, device)


def plan_of(options: Namespace, trained: TrainedGenerator, count: int) -> Plan:
    """Plan the images that the command line asks for.

    Args:
        options: The command line.
        trained: The generator.
        count: How many images or, in a sweep over classes, how many latent vectors.

    Raises:
        SettingError: If there are no such classes, or the latent vectors cannot be written to where they should be.
    """
    check_range("--truncation", options.truncation, above=0, at_most=WIDEST)
    if options.classes and not trained.num_classes:
        raise SettingError("--classes: this generator knows no classes: it was trained with num_classes: 0")
    labels = find_labels(options.label, trained.num_classes, trained.class_names)
    count *= len(labels) if options.classes else 1
    check_range("the number of images", count, at_most=MOST)
    plan = Plan(count, trained.latent_dim, options.seed, options.truncation, labels, options.classes)
    if options.save_latents is not None:
        check_latents(options.save_latents, plan, options.overwrite)
    return plan


def write(options: Namespace) -> None:
    """Draw and write the images that the command line asks for, and say where they are.

    Raises:
        SettingError: If there is no GAN in the run, a file cannot be written, or the grid would be too large.
    """
    count = options.count or (COLUMNS if options.classes else COUNT)
    check_range("--count", count, at_most=MOST)
    output, each = options.output, options.each
    if output is None and each is None:
        output = Path("samples.png")
    if output is not None:
        check_picture(output, options.overwrite)
    trained = find_generator(options)
    plan = plan_of(options, trained, count)
    columns = min(options.columns or (plan.columns if plan.sweeps else math.ceil(math.sqrt(plan.count))), plan.count)
    if output is not None:
        check_grid(trained, plan.count, columns, options.scale)
    shown: list[Tensor] = []
    with ExitStack() as stack:
        takers: list[Add] = [] if output is None else [shown.append]
        if each is not None:
            takers.append(stack.enter_context(writer(each, plan, trained.image_shape, options.overwrite)))
        for batch in _watched(batches(trained, plan), plan.count):
            for take in takers:
                take(to_bytes(batch))
    if output is not None:
        _write_grid(enlarged_grid(torch.cat(shown), columns, options.scale), output, trained, plan)
    if each is not None:
        size = f"{trained.image_shape[2]}x{trained.image_shape[1]}"
        print(f"wrote {plan.count} images of {size} pixels to {printable(str(each))}")
    finish(options, plan, "--interpolate", "24", "-o", "walk.gif")


def _write_grid(grid: Tensor, output: Path, trained: TrainedGenerator, plan: Plan) -> None:
    write_image(grid, output)
    print(f"wrote {printable(str(output))}: {plan.count} images, {grid.shape[2]}x{grid.shape[1]} pixels")
    if plan.sweeps:
        print(f"rows: {printable(', '.join(name_of_class(trained, label) for label in plan.labels))}")


def finish(options: Namespace, plan: Plan, *following: str) -> None:
    """Write the latent vectors if the command line asks for them, and say what could be drawn next.

    Args:
        options: The command line.
        plan: What has been drawn.
        following: The options of the next command.
    """
    if options.save_latents is not None:
        write_latents(options.save_latents, plan)
        print(f"wrote {printable(str(options.save_latents))}: what the images are drawn from")
    command = shlex.join(["python", "sample.py", str(options.run), *following])
    print(f"next: {printable(normlab.as_installed(command))}")


def name_of_class(trained: TrainedGenerator, label: int) -> str:
    """Return what a class is called, or else its number."""
    return trained.class_names[label] if label < len(trained.class_names) else str(label)


def check_picture(path: Path, overwrite: bool) -> None:
    """Refuse a path that no image can be written to.

    Raises:
        SettingError: If it is such.
    """
    writable = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE}
    if path.suffix.lower() not in writable:
        raise SettingError(f"{path} has no ending of an image format: choose for instance .png")
    check_new(path, overwrite)


def _watched(parts: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """Show how far the drawing is, if it takes more than a moment and somebody looks."""
    console = Console(stderr=True)
    quiet = not sys.stderr.isatty() or count <= BATCH
    return iter(track(parts, "drawing", math.ceil(count / BATCH), console=console, transient=True, disable=quiet))


def check_grid(trained: TrainedGenerator, count: int, columns: int, scale: int | None) -> None:
    """Refuse a grid of more than :data:`MOST_PIXELS`.

    Raises:
        SettingError: If it is such.
    """
    _, height, width = trained.image_shape
    scale = scale or math.ceil(TILE / width)
    pixels = columns * math.ceil(count / columns) * height * width * scale**2
    if pixels > MOST_PIXELS:
        raise SettingError(
            f"the grid would have {pixels:,} pixels, and at most {MOST_PIXELS:,} are drawn: "
            "choose a smaller --scale or --count, or write single images with --each"
        )
