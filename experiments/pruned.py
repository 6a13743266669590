"""What rounding and pruning do to the trained networks of runs whose norms are mixtures, measured once for each run."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas import DataFrame
from torch import nn

from lightning_modules.base import TrainingModule
from lightning_modules.gan import GAN
from lightning_modules.metrics.generated import generated_features
from lightning_modules.metrics.scores import compute_scores
from mixing_analysis.binarized import STATISTICS, tracks_statistics
from mixing_analysis.evaluations import HeldOut
from mixing_analysis.networks import evaluating, load_data, load_module
from mixing_analysis.pruning import count_parameters, shared, timed, write
from mixing_analysis.sources import read_run
from norms.errors import SettingError
from norms.mixing import binarize_, mixing_layers
from norms.pruning import Plain, prune
from training.exporting import told_of
from training.features import build_extractor, real_features
from training.files import replacing
from training.run import Run

LEARNED, BINARIZED, PLAIN = "as learned", "binarized", "binarized and pruned"

NEAR = {f"within {within:g}": within for within in (0.05, 0.1, 0.2, 0.49)}
"""Versions in which mixtures become plain that are so near to pure; half of the range is more than pruning takes."""

FILE = "pruned.csv"
"""What is measured of a run is kept under this name in its folder, until there is another checkpoint."""

BATCHES, IMAGES = 8, 1000
"""How many batches of held-out photos style networks are scored on, and how many images generators are."""

Changed = Mapping[str, Plain]


def _plain(network: nn.Module) -> Changed:
    binarize_(network)
    return prune(network, 0.0)


def _binarized(network: nn.Module) -> Changed:
    binarize_(network)
    return {}


VERSIONS: Mapping[str, Callable[[nn.Module], Changed]] = {
    BINARIZED: _binarized,
    **{name: partial(prune, within=within) for name, within in NEAR.items()},
    PLAIN: _plain,
}
"""What is done to a network: all its mixtures are rounded, and go on as layers that could mix; or those that are within
some distance of pure become plain norms; or all do, however far from pure they are."""


def measured(folder: str) -> DataFrame:
    """Score and time a run's network as it has learned and in all :data:`VERSIONS`.

    Args:
        folder: Of the training.

    Returns:
        A row per version, kind of statistics (see :data:`mixing_analysis.binarized.STATISTICS`; of a generator alone
        recalibrated ones) and metric: ``version``, ``statistics``, ``metric``, ``value``; and of the version
        ``plain``, the share of its mixing layers that are plain norms, ``gates``, the share of gates at an end of their
        range (NaN if there are none), ``parameters``, ``bytes`` and ``speed``, how many times as fast as the learned
        network it is. Of a threshold under which nothing changes these are the
        numbers of the learned network.

    Raises:
        SettingError: If the run cannot be evaluated.
    """
    file, checkpoint = Run(folder).folder / FILE, Run(folder).checkpoint
    if file.is_file() and file.stat().st_mtime >= Path(checkpoint).stat().st_mtime:
        return pd.read_csv(file)
    found = DataFrame(_rows(folder))
    with replacing(file) as partial_file:
        found.to_csv(partial_file, index=False)
    return found


def _rows(folder: str) -> Iterator[dict[str, Any]]:
    run = read_run(folder)
    with evaluating(()):
        module: Any = load_module(run)
        data = load_data(run)
        held_out = None if isinstance(module, GAN) else HeldOut(data, BATCHES)
        score: Callable[[Any], Iterator[dict[str, Any]]]
        score = partial(_photo_scores, held_out) if held_out else _generator_scores(module, data)
        on_disk = Run.find(run.checkpoint or "")
        # Before anything is drawn, since a sampler is kept that copies would share.
        learned = list(score(copy.deepcopy(module)))
        original: Any = shared(copy.deepcopy(module), on_disk)
        told = told_of(on_disk)
        size = {"parameters": count_parameters(original), "bytes": write(original, None, told)}
        same = {"plain": 0.0, **size, "speed": 1.0, "gates": _binary(original)}
        yield from ({"version": LEARNED, **row, **same} for row in learned)
        layers = len(list(mixing_layers(original)))
        for version, change in VERSIONS.items():
            changed_module, changed = copy.deepcopy(module), copy.deepcopy(original)
            try:
                plain = change(_part(changed_module))
            except SettingError:  # there is nothing to prune
                yield from ({"version": version, **row, **same} for row in learned)
                continue
            changed.pruned = dict(change(changed))
            (before, after), _ = timed(original, changed, module, held_out)
            numbers = {"plain": len(plain) / layers, "parameters": count_parameters(changed), "speed": before / after}
            numbers |= {"bytes": write(changed, None, told), "gates": _binary(_rounded(original, version))}
            yield from ({"version": version, **row, **numbers} for row in score(changed_module))


def _rounded(network: nn.Module, version: str) -> nn.Module:
    """Return a copy of a network with the gates of a version, in layers that could mix."""
    copied = copy.deepcopy(network)
    binarize_(copied, within=NEAR.get(version, math.inf))
    return copied


def _binary(network: nn.Module) -> float:
    """Return the share of gates per channel that are at an end of their range; NaN if there are none."""
    values = [
        kind.impurity(layer.mixing_values()[kind.name])
        for _, layer in mixing_layers(network)
        for kind in layer.kinds
        if kind.per_channel
    ]
    return float((torch.cat(values) == 0).float().mean()) if values else math.nan


def _part(module: TrainingModule) -> nn.Module:
    """Return the part of a module that is changed: of a GAN the averaged generator."""
    return module.generator_ema if isinstance(module, GAN) else module


def _photo_scores(held_out: HeldOut, module: TrainingModule) -> Iterator[dict[str, Any]]:
    versions = [module, held_out.recalibrated(module)] if tracks_statistics(module) else [module]
    for statistics, version in zip(STATISTICS, versions, strict=False):
        for metric, value in held_out.scores(version).items():
            yield {"statistics": statistics, "metric": metric, "value": value}


def _generator_scores(gan: GAN, data: Any) -> Callable[[GAN], Iterator[dict[str, Any]]]:
    gan.check_data(data)
    extractor = build_extractor("garments")
    real, _ = real_features(data.train_images(), IMAGES, extractor)

    def score(version: GAN) -> Iterator[dict[str, Any]]:
        fake, logits = generated_features(version, extractor, IMAGES)
        for name, value in compute_scores(["fd", "kid"], real, fake, logits).items():
            yield {"statistics": STATISTICS[1], "metric": f"val/{extractor.score_name(name)}", "value": value}

    return score
