"""Which layer needs what it has learned: a network scored with one layer at a time forced to a plain norm."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from pandas import DataFrame
from pytorch_lightning import Callback, LightningModule, Trainer
from scipy import stats
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_modules.base import TrainingModule
from lightning_modules.gan import GAN
from mixing_analysis.binarized import STATISTICS, tracks_statistics
from mixing_analysis.evaluations import LATENTS, HeldOut, Latents, rms
from mixing_analysis.networks import evaluating, load_data, load_module, recalibrate_
from mixing_analysis.values import Run
from norms.base import MixingNorm
from norms.mixing import mixing_layers
from training.callbacks.mixing import layer_labels

COLUMNS = ("run", "layer", "depth", "forced", "metric", "statistics", "learned", "ablated", "low", "high", "parts")

BINARIZED = "binarized"
"""What a layer is forced to whose every mixture becomes the nearest pure one."""

BATCHES = 4
"""How many batches are scored by default."""

PARTS = 16
"""Into how many parts the images are divided, if they are as many, whose differences tell what is noise."""

CONFIDENCE = 0.95

Parts = dict[str, np.ndarray]
"""From a metric to its value on each part of the images."""


def ablate(
    run: Run,
    batches: int = BATCHES,
    trusted: Sequence[str] = (),
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> DataFrame:
    r"""Force one layer of a run's network at a time to a plain norm, with all else as learned, and score it.

    A layer is binarized, and forced to each statistic that it knows, see :func:`norms.binarize_`. The scores are those
    of the module's own validation on held-out images; and of GANs, whose validation does not see the live generator,
    those of :func:`mixing_analysis.binarized.compare`, averaged over parts of 16 images. What is a number of all images
    together, such as a Fréchet distance, is left out.

    The images are divided into n parts, each of which is scored with the learned layer and with the forced one. The
    differences d of the parts, with mean m and standard deviation s, give an interval of the change,

    .. math::
        m \pm t_{n - 1}(1 - 0.025 / L) \, s / \sqrt n,

    which holds at 95 % for all L layers at once (Bonferroni).

    Args:
        run: A run with a checkpoint of this project and the configuration that it was trained with.
        batches: At most how many batches of held-out images to score, and of training images to recalibrate with.
        trusted: Packages that the run may name classes of.
        progress: Is told how many of how many scores are known.

    Returns:
        The columns run, layer, depth (from 0), forced (``binarized`` or the statistic), metric, statistics (one of
        :data:`mixing_analysis.binarized.STATISTICS`; only the first where nothing depends on running statistics),
        learned, ablated, low and high (the interval of ablated minus learned, NaN for a single part) and parts.

    Raises:
        SettingError: If the run cannot be evaluated.
    """
    with evaluating(trusted):
        module = load_module(run)
        layers = [(name, layer) for name, layer in mixing_layers(module) if _is_trained(layer)]
        named = dict(zip(layer_labels([name for name, _ in layers]), (layer for _, layer in layers), strict=True))
        found = (
            _of_generator(module, named, progress)
            if isinstance(module, GAN)
            else _of_validation(module, HeldOut(load_data(run), batches), named, progress)
        )
        rows = [(run.name, *row) for row in found]
    return DataFrame(rows, columns=list(COLUMNS))


def _is_trained(layer: nn.Module) -> bool:
    """Tell whether a layer is none of an averaged copy."""
    return any(parameter.requires_grad for parameter in layer.parameters())


class _Scoring(NamedTuple):
    """Hold how a network is scored in parts.

    Attributes:
        network: The network.
        score: Scores it as it is. It is given what it has made of the learned network, None for that one itself, and
            returns the scores and what it makes of the network.
        sizes: How many images each part has.
        population: What statistics are recalibrated on.
        device: Where the network is.
    """

    network: nn.Module
    score: Callable[[Any], tuple[Parts, Any]]
    sizes: np.ndarray
    population: Sequence[Any]
    device: torch.device


def _rows(
    scoring: _Scoring, layers: dict[str, MixingNorm], progress: Callable[[int, int], object]
) -> Iterator[tuple[Any, ...]]:
    """Force every layer in every way, and score that."""
    inside = set(scoring.network.modules())
    ways = {
        (depth, name): (BINARIZED, *dict.fromkeys(each for kind in layer.kinds for each in kind.statistics))
        for depth, (name, layer) in enumerate(layers.items())
        if layer in inside
    }
    each_statistics = STATISTICS if tracks_statistics(scoring.network) else STATISTICS[:1]
    done, total = 0, len(each_statistics) * sum(map(len, ways.values()))
    for statistics in each_statistics:
        anew = statistics == STATISTICS[1]
        with _fitting(scoring, anew):
            learned, reference = scoring.score(None)
        for (depth, name), forced_to in ways.items():
            layer = layers[name]
            known = {_values(layer): learned}
            for forced in forced_to:
                with _forced(layer, forced):
                    values = _values(layer)
                    if values not in known:  # such as of a layer that is binarized to the batch alone
                        with _fitting(scoring, anew):
                            known[values], _ = scoring.score(reference)
                for metric, parts in known[values].items():
                    change = _change(learned[metric], parts, scoring.sizes, len(ways))
                    yield name, depth, forced, metric, statistics, *change, len(parts)
                done += 1
                progress(done, total)


def _change(before: np.ndarray, after: np.ndarray, sizes: np.ndarray, layers: int) -> tuple[float, ...]:
    """Return the means over all images, and the interval of their difference."""
    means = [float(np.average(values, weights=sizes)) for values in (before, after)]
    change, count = means[1] - means[0], len(sizes)
    if count < 2:
        return *means, math.nan, math.nan
    quantile = stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / layers, count - 1)
    half = float(quantile * (after - before).std(ddof=1) / math.sqrt(count))
    return *means, change - half, change + half


def _values(layer: MixingNorm) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(values.tolist()) for values in layer.mixing_values().values())


@contextmanager
def _forced(layer: MixingNorm, forced: str) -> Iterator[None]:
    """Force a layer, and give it back afterwards what it has learned."""
    kept = {name: parameter.detach().clone() for name, parameter in layer.mixing_parameters().items()}
    try:
        layer.binarize_(None if forced == BINARIZED else forced)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in layer.mixing_parameters().items():
                parameter.copy_(kept[name])


@contextmanager
def _fitting(scoring: _Scoring, anew: bool) -> Iterator[None]:
    """Recalibrate a network, if ``anew``, and give it back its statistics afterwards."""
    norms = [layer for layer in scoring.network.modules() if getattr(layer, "running_mean", None) is not None]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)] if anew else []
    try:
        if anew:
            recalibrate_(scoring.network, scoring.population, scoring.device)
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def _of_validation(
    module: TrainingModule,
    held_out: HeldOut,
    layers: dict[str, MixingNorm],
    progress: Callable[[int, int], object],
) -> list[tuple[Any, ...]]:
    """Ablate a module within a validation, which sets up all that its scores need."""
    ablating = _Ablating(held_out.training_batches(), layers, progress)
    held_out.scores(module, ablating)
    return ablating.rows


class _Ablating(Callback):
    def __init__(
        self, population: list[Any], layers: dict[str, MixingNorm], progress: Callable[[int, int], object]
    ) -> None:
        self.population, self.layers, self.progress = population, layers, progress
        self.batches: list[Any] = []
        self.rows: list[tuple[Any, ...]] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the images."""
        self.batches.append(batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score them again and again, now that numbers of all images together are done."""
        parts = [part for batch in self.batches for part in _split(batch, -(-PARTS // len(self.batches)))]
        sizes = np.array([_size(part) for part in parts])
        scoring = _Scoring(
            pl_module, lambda _: (_validated(pl_module, parts), None), sizes, self.population, pl_module.device
        )
        self.rows.extend(_rows(scoring, self.layers, self.progress))


def _size(batch: Any) -> int:
    """Return how many images a batch has; 1 if it is of a kind that is not known here, and counts as a whole."""
    if isinstance(batch, dict) and all(isinstance(value, Tensor) and value.ndim for value in batch.values()):
        lengths = {len(value) for value in batch.values()}
        return lengths.pop() if len(lengths) == 1 else 1
    return 1


def _split(batch: Any, count: int) -> list[Any]:
    """Divide a batch into parts of about the same size."""
    size = _size(batch)
    if size == 1:
        return [batch]
    chunks = {name: value.split(-(-size // min(size, count))) for name, value in batch.items()}
    return [dict(zip(chunks, part, strict=True)) for part in zip(*chunks.values(), strict=True)]


def _validated(module: LightningModule, parts: Sequence[Any]) -> Parts:
    """Return what a module logs of each part."""
    logged: list[dict[str, float]] = []

    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        if isinstance(value, Metric):
            logged[-1][name] = float(value.compute())
            value.reset()
        else:
            logged[-1][name] = float(value)

    def log_dict(values: Any, *_: Any, **__: Any) -> None:
        for name, value in values.items():
            log(name, value)

    for metric in module.modules():
        if isinstance(metric, Metric):
            metric.reset()
    vars(module).update(log=log, log_dict=log_dict)
    try:
        for number, part in enumerate(parts):
            logged.append({})
            module.validation_step(part, number)
    finally:
        del vars(module)["log"], vars(module)["log_dict"]
    names = dict.fromkeys(name for each in logged for name in each if all(name in other for other in logged))
    return {name: np.array([each[name] for each in logged]) for name in names}


def _of_generator(
    gan: GAN, layers: dict[str, MixingNorm], progress: Callable[[int, int], object]
) -> list[tuple[Any, ...]]:
    latents, population = Latents(gan), Latents(gan, key=1)
    size = LATENTS // PARTS

    def score(reference: Tensor | None) -> tuple[Parts, Tensor]:
        drawn = latents.draw(gan)
        scores = latents.scores(gan, drawn).view(PARTS, size).mean(1)
        parts = list(zip(drawn.split(size), (drawn if reference is None else reference).split(size), strict=True))
        return {
            # Images are in [-1, 1] here.
            "rms_change": np.array([rms((images - before) / 2) for images, before in parts]),
            "rms_between": np.array([rms((images - images.roll(1, 0)) / 2) for images, _ in parts]),
            "d_fake": scores.double().cpu().numpy(),
        }, drawn

    sizes, inputs = np.full(PARTS, size), [tuple(batch.values()) for batch in population.batches()]
    with torch.no_grad():
        return list(_rows(_Scoring(gan.generator, score, sizes, inputs, gan.device), layers, progress))
