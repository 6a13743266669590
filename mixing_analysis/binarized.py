"""What becomes of a network whose gates are rounded: how near it is to one that could be pruned."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from pandas import DataFrame
from torch import nn

from lightning_modules.base import TrainingModule
from lightning_modules.gan import GAN
from mixing_analysis.evaluations import HeldOut, Latents, rms
from mixing_analysis.networks import evaluating, load_data, load_module
from mixing_analysis.values import Run
from norms.mixing import binarize_

Module = TypeVar("Module", bound=TrainingModule)

COLUMNS = ("run", "metric", "statistics", "learned", "binarized")

STATISTICS = ("as trained", "recalibrated")
"""Which running statistics a network is evaluated with: those of its training, which fit the learned gates, or those of
training data under the very gates that are evaluated."""


def evaluate(run: Run, batches: int = 32, trusted: Sequence[str] = ()) -> DataFrame:
    """Evaluate a run's network with the gates it has learned and with binarized ones, see :func:`compare`.

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
        held_out = None if isinstance(module, GAN) else HeldOut(load_data(run), batches)
        rows = [(run.name, *row) for row in compare(module, held_out, binarize_)]
        return DataFrame(rows, columns=list(COLUMNS))


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
    module: TrainingModule, held_out: HeldOut | None, change: Callable[[nn.Module], object]
) -> Iterator[Scores]:
    """Score a trained module and a changed copy of it.

    The metrics are those of the module's own validation, on held-out images. A GAN's validation does not see its
    generator; of the live generator, and the same latent vectors, these are told instead: ``rms_change``, the root mean
    square by which the change alters the images, in units of their range from 0 to 1; for comparison ``rms_between``,
    that between images of different latent vectors; and ``d_fake``, the discriminator's mean score.

    Args:
        module: The module, which is left as it is.
        held_out: Its held-out images, which a GAN does not need.
        change: What is done to the copy, in place.
    """
    if isinstance(module, GAN):
        return _generator_scores(module, change)
    assert held_out is not None
    return _validation_scores(module, held_out, change)


def tracks_statistics(network: nn.Module) -> bool:
    """Tell whether something in a network depends on running statistics."""
    return any(getattr(layer, "running_mean", None) is not None for layer in network.modules())


def _versions(
    module: Module, change: Callable[[nn.Module], object], recalibrated: Callable[[Module], Module]
) -> Iterator[tuple[str, Module, Module]]:
    """Copy a module: by statistics, with the learned gates and with changed ones."""
    changed = copy.deepcopy(module)
    change(changed)
    yield STATISTICS[0], module, changed
    if tracks_statistics(module):
        yield STATISTICS[1], recalibrated(module), recalibrated(changed)


def _validation_scores(
    module: TrainingModule, held_out: HeldOut, change: Callable[[nn.Module], object]
) -> Iterator[Scores]:
    for statistics, learned, changed in _versions(module, change, held_out.recalibrated):
        before, after = held_out.scores(learned), held_out.scores(changed)
        yield from (Scores(metric, statistics, before[metric], after[metric]) for metric in before)


def _generator_scores(gan: GAN, change: Callable[[nn.Module], object]) -> Iterator[Scores]:
    latents = Latents(gan)
    for statistics, learned, changed in _versions(gan, change, latents.recalibrated):
        before, after = latents.draw(learned), latents.draw(changed)
        # Images are in [-1, 1] here.
        yield Scores("rms_change", statistics, 0.0, rms((after - before) / 2))
        between = [rms((images - images.roll(1, 0)) / 2) for images in (before, after)]
        yield Scores("rms_between", statistics, between[0], between[1])
        yield Scores("d_fake", statistics, latents.d_fake(learned, before), latents.d_fake(changed, after))
