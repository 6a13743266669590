"""What becomes of a network whose gates are rounded: how near it is to one that could be pruned."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pandas import DataFrame
from pytorch_lightning import Callback, LightningDataModule, Trainer
from torch import Tensor, nn

from data.stream import generator as keyed
from lightning_modules.base import TrainingModule
from lightning_modules.gan import GAN
from mixing_analysis.networks import load_data, load_module, quiet, recalibrated
from mixing_analysis.values import Run
from norms.errors import SettingError
from norms.imports import only_from
from norms.mixing import binarize_
from training.doors import TRUSTED

COLUMNS = ("run", "metric", "statistics", "learned", "binarized")

STATISTICS = ("as trained", "recalibrated")
"""Which running statistics a network is evaluated with: those of its training, which fit the learned gates, or those of
training data under the very gates that are evaluated."""

LATENTS, LATENT_BATCH = 256, 64


def evaluate(run: Run, batches: int = 32, trusted: Sequence[str] = ()) -> DataFrame:
    """Evaluate a run's network with the gates it has learned and with binarized ones, each on a copy of its own.

    The scores are those of :func:`compare`.

    Args:
        run: A run with a checkpoint of this project and the configuration that it was trained with.
        batches: At most how many batches of held-out images to evaluate on, and of training images to recalibrate
            with; a GAN needs no images.
        trusted: Packages that the run may name classes of, besides :data:`training.doors.TRUSTED`. They
            are imported, so that whoever can write to the run's folder can run what they hold.

    Returns:
        The columns run, metric, statistics (one of :data:`STATISTICS`; only the first where nothing depends on running
        statistics), learned and binarized.

    Raises:
        SettingError: If the run cannot be evaluated: it has no checkpoint or configuration, it names a class of a
            package that is not trusted, or its data are not there.
    """
    with evaluating(trusted):
        module = load_module(run)
        data = None if isinstance(module, GAN) else load_data(run)
        rows = [(run.name, *row) for row in compare(module, data, binarize_, batches)]
        return DataFrame(rows, columns=list(COLUMNS))


@contextmanager
def evaluating(trusted: Sequence[str]) -> Iterator[None]:
    """Let a run's network be evaluated without a word, and tell in one line why it cannot be.

    Args:
        trusted: See :func:`evaluate`.

    Raises:
        SettingError: If it cannot be evaluated.
    """
    with quiet(), only_from((*TRUSTED, *trusted), "--trust"):
        try:
            yield
        # A module without forward and predict_step, or one that Lightning refuses to validate.
        except (ValueError, OSError, NotImplementedError, MisconfigurationException) as error:
            raise SettingError(" ".join(str(error).split())) from error


class Scores(NamedTuple):
    """Hold what a network scores before and after a change.

    Attributes:
        metric: What is measured.
        statistics: One of :data:`STATISTICS`.
        before: With the learned mixtures.
        after: With the changed ones.
    """

    metric: str
    statistics: str
    before: float
    after: float


def compare(
    module: TrainingModule,
    data: LightningDataModule | None,
    change: Callable[[nn.Module], object],
    batches: int = 32,
    generator: nn.Module | None = None,
) -> Iterator[Scores]:
    """Score a trained module and a changed copy of it, both with running statistics as trained and recalibrated.

    The metrics are those of the module's own validation, on held-out images. A GAN's validation does not see its
    generator; of the generator, and the same latent vectors, with each class in turn, these are told instead:
    ``rms_change``, the root mean square by which the change alters the images, in units of their range from 0 to 1; for
    comparison ``rms_between``, that between images of different latent vectors; and ``d_fake``, the discriminator's
    mean score.

    Args:
        module: The module, which is left as it is.
        data: Its data, which a GAN does not need.
        change: What is done to the copy, in place.
        batches: See :func:`evaluate`.
        generator: The generator of a GAN that is meant, by default the live one.
    """
    if isinstance(module, GAN):
        return _generator_scores(module, generator or module.generator, change)
    assert data is not None
    return _validation_scores(module, data, change, batches)


def _versions(
    network: nn.Module, change: Callable[[nn.Module], object], inputs: Iterable[Any], device: torch.device
) -> Iterator[tuple[str, Any, Any]]:
    """Copy a network: by statistics, with the learned gates and with changed ones."""
    changed = copy.deepcopy(network)
    change(changed)
    yield STATISTICS[0], network, changed
    if tracks_statistics(network):
        batches = list(inputs)
        yield STATISTICS[1], recalibrated(network, batches, device), recalibrated(changed, batches, device)


def tracks_statistics(network: nn.Module) -> bool:
    """Tell whether something in a network depends on running statistics."""
    return any(getattr(layer, "running_mean", None) is not None for layer in network.modules())


def trainer_of(batches: int, *callbacks: Callback) -> Trainer:
    """Return a trainer that validates without a word, and writes nothing."""
    return Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=batches,
    )


def training_batches(data: LightningDataModule, batches: int) -> Iterator[Any]:
    """Yield the first batches that a training has seen, to recalibrate with."""
    data.setup("fit")
    return islice(data.train_dataloader(), batches)


def _validation_scores(
    module: TrainingModule, data: LightningDataModule, change: Callable[[nn.Module], object], batches: int
) -> Iterator[Scores]:
    trainer = trainer_of(batches)

    def validate(version: TrainingModule) -> Mapping[str, float]:
        (metrics,) = trainer.validate(version, datamodule=data, verbose=False)
        return metrics

    def population() -> Iterator[Any]:
        yield from training_batches(data, batches)

    for statistics, learned, changed in _versions(module, change, population(), trainer.strategy.root_device):
        before, after = validate(learned), validate(changed)
        yield from (Scores(metric, statistics, before[metric], after[metric]) for metric in before)


def latents_of(gan: GAN, key: int, count: int, size: int) -> list[tuple[Tensor, ...]]:
    """Draw what a GAN's generator is called with, in parts: latent vectors and, if there are classes, each in turn.

    Args:
        gan: The GAN.
        key: Tells several draws apart.
        count: How many latent vectors.
        size: How many in a part.
    """
    latents = torch.randn(count, gan.latent_dim, generator=keyed(gan.seed, key)).to(gan.device)
    labels = gan.fixed_labels(count)
    parts = [part.split(size) for part in ((latents,) if labels is None else (latents, labels))]
    return list(zip(*parts, strict=True))


def score_of(gan: GAN, images: Tensor, labels: Sequence[Tensor]) -> float:
    """Return the mean score that a GAN's discriminator gives to generated images.

    Args:
        gan: The GAN.
        images: In [-1, 1].
        labels: Their classes, if there are any.
    """
    scores = gan.discriminator(images, *([] if gan.auxiliary else labels))
    return float((scores[0] if gan.auxiliary else scores).mean())


def rms(difference: Tensor) -> float:
    """Return the root mean square of differences between images in [-1, 1], in units of [0, 1]."""
    return (difference / 2).double().square().mean().sqrt().item()


@torch.no_grad()
def _generator_scores(gan: GAN, generator: nn.Module, change: Callable[[nn.Module], object]) -> Iterator[Scores]:
    drawn, population = latents_of(gan, 0, LATENTS, LATENT_BATCH), latents_of(gan, 1, 2 * LATENTS, LATENT_BATCH)
    labels = [torch.cat(each) for each in zip(*(classes for _, *classes in drawn), strict=True)]

    def draw(network: nn.Module) -> Tensor:
        return torch.cat([network(*part) for part in drawn])

    for statistics, learned, changed in _versions(generator, change, population, gan.device):
        before, after = draw(learned), draw(changed)
        yield Scores("rms_change", statistics, 0.0, rms(after - before))
        yield Scores("rms_between", statistics, rms(before - before.roll(1, 0)), rms(after - after.roll(1, 0)))
        yield Scores("d_fake", statistics, *(score_of(gan, images, labels) for images in (before, after)))
