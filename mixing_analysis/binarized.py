"""What becomes of a network whose gates are rounded: how near it is to one that could be pruned."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pandas import DataFrame
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor, nn

from data.stream import generator
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

    The metrics are those of the module's own validation, on held-out images. A GAN's validation does not see its
    generator; of the live generator, and the same latent vectors, these are told instead: ``rms_change``, the
    root mean square by which binarizing changes the images, in units of their range from 0 to 1; for comparison
    ``rms_between``, that between images of different latent vectors; and ``d_fake``, the discriminator's mean
    score.

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
    with quiet(), only_from((*TRUSTED, *trusted), "--trust"):
        module = load_module(run)
        scores = (
            _generator_scores(module)
            if isinstance(module, GAN)
            else _validation_scores(module, load_data(run), batches)
        )
        try:
            rows = [(run.name, *row) for row in scores]
        # A module without forward and predict_step, or one that Lightning refuses to validate.
        except (ValueError, OSError, NotImplementedError, MisconfigurationException) as error:
            raise SettingError(" ".join(str(error).split())) from error
        return DataFrame(rows, columns=list(COLUMNS))


Scores = Iterator[tuple[str, str, float, float]]


def _versions(network: nn.Module, inputs: Iterable[Any], device: torch.device) -> Iterator[tuple[str, Any, Any]]:
    """Copy a network: by statistics, with the learned gates and with binarized ones."""
    binarized = copy.deepcopy(network)
    binarize_(binarized)
    yield STATISTICS[0], network, binarized
    if any(getattr(layer, "running_mean", None) is not None for layer in network.modules()):
        batches = list(inputs)
        yield STATISTICS[1], recalibrated(network, batches, device), recalibrated(binarized, batches, device)


def _validation_scores(module: TrainingModule, data: LightningDataModule, batches: int) -> Scores:
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=batches,
    )

    def validate(version: TrainingModule) -> Mapping[str, float]:
        (metrics,) = trainer.validate(version, datamodule=data, verbose=False)
        return metrics

    def training_batches() -> Iterator[Any]:
        data.setup("fit")
        return islice(data.train_dataloader(), batches)

    for statistics, learned, binarized in _versions(module, training_batches(), trainer.strategy.root_device):
        before, after = validate(learned), validate(binarized)
        yield from ((metric, statistics, before[metric], after[metric]) for metric in before)


@torch.no_grad()
def _generator_scores(gan: GAN) -> Scores:
    drawn = torch.randn(LATENTS, gan.latent_dim, generator=generator(gan.seed, 0))
    others = torch.randn(2 * LATENTS, gan.latent_dim, generator=generator(gan.seed, 1))
    latents, population = (torch.split(tensor, LATENT_BATCH) for tensor in (drawn, others))

    def draw(network: nn.Module) -> Tensor:
        return torch.cat([network(part) for part in latents])

    for statistics, learned, binarized in _versions(gan.generator, population, gan.device):
        before, after = draw(learned), draw(binarized)
        yield "rms_change", statistics, 0.0, _rms(after - before)
        yield "rms_between", statistics, _rms(before - before.roll(1, 0)), _rms(after - after.roll(1, 0))
        score = [gan.discriminator(images).mean().item() for images in (before, after)]
        yield "d_fake", statistics, score[0], score[1]


def _rms(difference: Tensor) -> float:
    # Images are in [-1, 1] here.
    return (difference / 2).double().square().mean().sqrt().item()
