"""The training images that are most like those that a GAN draws: has it learned them by heart?"""

import math
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from data.stream import Items
from lightning_modules.gan import GAN
from lightning_modules.generation import TILE, enlarged_grid
from lightning_modules.metrics.generated import to_bytes
from norms.errors import SettingError, check_range
from sampling.draw import COLUMNS, batches, check_grid, check_picture, finish, plan_of
from sampling.trained import TrainedGenerator
from training.devices import find_device
from training.features import build_extractor
from training.images import write_image
from training.run import Run
from training.run_data import class_names_of, data_of
from training.terminal import printable

COMPARED = 500
"""How many samples, and how many held-out images, the distances are summed up over."""

BATCH = 64

Features = Callable[[Tensor], Tensor]
"""Maps images in [0, 1], (N, C, H, W), to features (N, F)."""


class Nearest(NamedTuple):
    """Hold the nearest training images of some images, each row in order of their distances."""

    distances: Tensor
    """Euclidean distances of the features, (N, K)."""
    numbers: Tensor
    """Which training images these are, (N, K)."""


def nearest(queries: Tensor, references: Iterable[Tensor], count: int) -> Nearest:
    """Find the nearest references of each query by Euclidean distance.

    Args:
        queries: Features (N, F).
        references: Batches of features (M, F), of which no more than one is needed at a time.
        count: How many to find, at most as many as there are references.
    """
    distances = queries.new_full((len(queries), count), math.inf)
    numbers = torch.zeros_like(distances, dtype=torch.int64)
    seen = 0
    for batch in references:
        # Not by a product of matrices, for which equal features would not be at distance 0.
        found = torch.cdist(queries, batch, compute_mode="donot_use_mm_for_euclid_dist")
        places = torch.arange(seen, seen + len(batch), device=queries.device).expand(len(queries), -1)
        distances, order = torch.cat([distances, found], 1).topk(count, largest=False)
        numbers = torch.cat([numbers, places], 1).gather(1, order)
        seen += len(batch)
    return Nearest(distances, numbers)


def write(options: Namespace) -> None:
    """Write the picture of samples and their neighbors, and say how far they are.

    Raises:
        SettingError: If there is no GAN in the run, its data are not there, or the picture cannot be written.
    """
    output, shown, neighbors = options.output or Path("neighbors.png"), options.count or COLUMNS, options.neighbors
    check_picture(output, options.overwrite)
    device = find_device(options.device)
    run = Run.find(options.run)
    if run.module_name == TrainedGenerator.__name__:
        raise SettingError(f"--neighbors needs the run that {options.run} was made of, which knows its training images")
    gan = run.load(GAN).to(device)
    trained = TrainedGenerator.of(gan, not options.no_ema, class_names_of(run, gan))
    check_grid(trained, shown * (neighbors + 1), neighbors + 1, options.scale)
    training, held_out = _images(data_of(run, gan))
    check_range("--neighbors", neighbors, at_most=len(training))
    plan = plan_of(options, trained, max(shown, min(COMPARED, len(held_out))))
    features, name = features_of(run, gan)
    samples = torch.cat(list(batches(trained, plan)))
    queries = torch.cat(
        [_passed(features, samples.split(BATCH), device), _passed(features, _stacked(held_out, COMPARED), device)]
    )
    console, quiet = Console(stderr=True), not sys.stderr.isatty()
    total = math.ceil(len(training) / BATCH)
    looked_at = track(_stacked(training), "comparing", total, console=console, transient=True, disable=quiet)
    found = nearest(queries, (_passed(features, [batch], device) for batch in looked_at), neighbors)
    picture = _picture(samples[:shown], training, found.numbers[:shown], options.scale)
    write_image(picture, output)
    print(f"wrote {printable(str(output))}: {shown} samples, each before the {neighbors} training images most like it")
    _report(found, shown, len(samples), name)
    finish(options, plan, "--each", "images.npz", "--count", "50000")


def features_of(run: Run, gan: GAN) -> tuple[Features, str]:
    """Return what images are compared by, and what that is called.

    That is the network whose features the run's metrics are of or, without metrics, the discriminator.

    Args:
        run: The run of the GAN.
        gan: The GAN, on the device that compares.

    Raises:
        SettingError: If the network cannot be loaded, or the discriminator tells no features.
    """
    metrics = (run.read_config() or {}).get("metrics")
    choice = metrics.get("features") if isinstance(metrics, Mapping) else None
    if choice is not None:
        extractor = build_extractor(str(choice)).to(gan.device)
        extractor.check_images(gan.image_shape)
        return lambda images: extractor(to_bytes(images))[0], f"features of {extractor.name}"
    if not hasattr(gan.discriminator, "features"):
        name = type(gan.discriminator).__name__
        raise SettingError(f"--neighbors needs a discriminator with the method features, and {name} has none")
    return lambda images: gan.discriminator.features(2 * images - 1).flatten(1), "features of the discriminator"


def _images(data: Any) -> tuple[Items, Items]:
    """Return the training images, without what is random about them, and the held-out ones."""
    data.prepare_data()
    data.setup("fit")
    if not hasattr(data, "train_images") or not hasattr(data, "val_images"):
        name = type(data).__name__
        raise SettingError(f"--neighbors needs data with train_images() and val_images(), which {name} lacks")
    return data.train_images(), data.val_images()


def _stacked(images: Items, most: int | None = None) -> Iterator[Tensor]:
    count = len(images) if most is None else min(most, len(images))
    for first in range(0, count, BATCH):
        yield torch.stack([images[i]["image"] for i in range(first, min(first + BATCH, count))])


@torch.no_grad()
def _passed(features: Features, batches: Iterable[Tensor], device: torch.device) -> Tensor:
    return torch.cat([features(batch.to(device)) for batch in batches])


def _picture(samples: Tensor, training: Items, numbers: Tensor, scale: int | None) -> Tensor:
    """Lay out samples in a column and, behind a white line, their neighbors in rows."""
    scale = scale or math.ceil(TILE / samples.shape[-1])
    images = torch.stack([training[int(number)]["image"] for number in numbers.flatten()])
    left, right = (
        enlarged_grid(to_bytes(part), columns, scale) for part, columns in ((samples, 1), (images, numbers.shape[1]))
    )
    return torch.cat([left, left.new_full((3, left.shape[1], 2 * scale), 255), right], 2)


def _report(found: Nearest, shown: int, samples: int, name: str) -> None:
    print(f"distances in {name}:")
    for number, (distances, places) in enumerate(zip(*(each[:shown].tolist() for each in found), strict=True)):
        told = ", ".join(f"{distance:.3g} ({place})" for distance, place in zip(distances, places, strict=True))
        print(f"  sample {number}: {told}")
    closest = found.distances[:, 0]
    own, others = closest[:samples].median().item(), closest[samples:].median().item()
    print(
        f"median distance to the nearest training image: {own:.4g} of {samples} samples, {others:.4g} of "
        f"{len(closest) - samples} held-out images, {own / others:.2f} times as far"
    )
    print("a GAN that knows its training images by heart is far below 1; one whose samples are unlike them is above")
