"""Logging what the mixing layers learn while they learn it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from norms.errors import check_range
from norms.kinds import MixingKind
from norms.mixing import LayerReport, mixing_layers, report
from training.errors import TrainingError
from training.files import or_warn, replacing
from training.finite import not_finite
from training.loggers import MetricsLogger
from training.run import Run
from training.wandb_logger import WandbLogger

BINS = 32
"""Of a histogram over the range of a kind."""

Values = dict[str, LayerReport]


class MixingValues(Callback):
    """Log what every mixing layer has learned, at the start, every few steps and at the end.

    A step is an optimizer step, and values logged at step s are those after s of them. All loggers get the
    :meth:`~norms.kinds.MixingKind.summary` of each kind of value in each layer, such as

    - ``rho/<layer>/mean``, ``min``, ``max``, ``std``, ``share_below_0.1`` and ``share_above_0.9`` over the channels;
    - ``switch/<layer>/mean/<statistic>`` and ``switch/<layer>/var/<statistic>``, the softmaxed weights;

    where a layer's name begins with its depth, so that names sort by depth. Weights & Biases also gets a histogram of
    each kind that has a value per channel, with the same bins at every step, and at the end tables of all values. The
    exact values are kept in the run folder, in ``mixing/step_0000500.npz``, under keys such as ``<layer>/rho`` and
    ``<layer>/mean_weight``, and the kinds' descriptions beside them in ``mixing/kinds.json``.

    Args:
        every_n_steps: Steps between two logs.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        check_range("mixing.every_n_steps", every_n_steps, at_least=1)
        self.every_n_steps = every_n_steps
        self._run = Run("")
        self._logged_step: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the run; here, since processes agree on its folder, and each must ask."""
        self._run = Run.of(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what was logged before a training went back: its rows are dropped, and made anew."""
        self._logged_step = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log every few steps; here, so that rows come in the order of steps after those of the last batch."""
        if trainer.global_step % self.every_n_steps == 0:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the final values."""
        self._log(trainer, pl_module, last=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log the values that an interrupted training got to."""
        # Only if training had begun; and what went wrong may have taken the device or the disk with it.
        # A training that has gone wrong has no values that anybody should read.
        if self._logged_step is not None and not isinstance(exception, TrainingError):
            with suppress(Exception):
                self._log(trainer, pl_module, last=True, interrupted=True)

    def _log(self, trainer: Trainer, pl_module: LightningModule, last: bool = False, interrupted: bool = False) -> None:
        step = trainer.global_step
        values = read_values(pl_module) if trainer.is_global_zero else {}
        if not values or not_finite((kind.name, value) for _, kind, value in _kinds(values)):
            return  # the guard ends a training whose values are not finite
        # A training that was interrupted within a step may have logged it already.
        new = step != self._logged_step
        scalars: dict[str, Any] = dict(_scalars(values)) if new else {}
        for logger in trainer.loggers:
            # metrics.csv shall become what it would have been without the interruption.
            if scalars and not (interrupted and isinstance(logger, MetricsLogger)):
                logger.log_metrics(scalars, step)
                logger.save()
            if isinstance(logger, WandbLogger) and (new or last):
                logger.log_made(lambda: (_histograms(values) if new else {}) | (_tables(values) if last else {}), step)
        arrays: dict[str, Any] = {
            f"{layer}/{kind}": value.numpy() for layer, read in values.items() for kind, value in read.values.items()
        }
        with or_warn(), replacing(self._run.mixing_values(step)) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)
        if self._logged_step is None or not self._run.mixing_kinds.is_file():
            self._describe(trainer, values)
        self._logged_step = step

    def _describe(self, trainer: Trainer, values: Values) -> None:
        """Keep beside the values of what kinds they are."""
        described = [kind.to_dict() for kind in dict.fromkeys(kind for _, kind, _ in _kinds(values))]
        with or_warn(), replacing(self._run.mixing_kinds) as partial:
            partial.write_text(json.dumps(described, indent=1) + "\n")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams({"mixing_kinds": described})


def read_values(model: torch.nn.Module) -> Values:
    """Read the mixing values of every trained mixing layer of ``model``.

    Layers of which no parameter is trained, such as those of an averaged copy of a network, are passed over. Those of
    which only the mixing parameters are frozen are not.

    Args:
        model: Any module.

    Returns:
        From a layer's name, such as ``03.residual1.norm1``, to its report. The names are the dotted names of the
        modules without what all of them begin with, behind their depth.
    """
    trained = [
        reported
        for (_, layer), reported in zip(mixing_layers(model), report(model), strict=True)
        if any(parameter.requires_grad for parameter in layer.parameters())
    ]
    return dict(zip(layer_labels([reported.layer for reported in trained]), trained, strict=True))


def layer_labels(names: Sequence[str]) -> list[str]:
    """Name layers for a log: their dotted names without what all of them begin with, behind their depth."""
    parents = [name.split(".")[:-1] for name in names]
    alike = (len(set(parts)) == 1 for parts in zip(*parents, strict=False))
    shared = len(list(takewhile(bool, alike)))
    digits = max(2, len(str(len(names) - 1)))
    return [f"{depth:0{digits}d}.{'.'.join(name.split('.')[shared:])}" for depth, name in enumerate(names)]


def _kinds(values: Values) -> Iterator[tuple[str, MixingKind, Tensor]]:
    for layer, read in values.items():
        yield from ((layer, kind, read.values[kind.name]) for kind in read.kinds)


def _scalars(values: Values) -> Iterator[tuple[str, float]]:
    for layer, kind, value in _kinds(values):
        key = kind.log_key.replace("{layer}", layer)
        yield from ((f"{key}/{name}", number) for name, number in kind.summary(value).items())


def _histograms(values: Values) -> dict[str, Any]:
    import wandb

    histograms = {}
    for layer, kind, value in _kinds(values):
        if kind.per_channel:
            counts = np.histogram(value.numpy(), np.linspace(kind.low, kind.high, BINS + 1))
            histograms[f"{kind.log_key.replace('{layer}', layer)}/histogram"] = wandb.Histogram(np_histogram=counts)
    return histograms


def _tables(values: Values) -> dict[str, Any]:
    """Make one table for each beginning of a key, so that kinds which differ behind the layer share one."""
    import wandb

    columns: dict[str, list[str | int]] = {}
    rows: dict[str, list[list[Any]]] = {}
    for layer, kind, value in _kinds(values):
        beginning, _, end = kind.log_key.partition("/{layer}")
        names = range(len(value)) if kind.per_channel else [f"{end}/{label}".strip("/") for label in kind.labels]
        columns[beginning] = ["layer", "channel", kind.name] if kind.per_channel else ["layer", "statistic", "weight"]
        rows.setdefault(beginning, []).extend(
            [layer, name, number] for name, number in zip(names, value.tolist(), strict=True)
        )
    return {f"final/{key}": wandb.Table(columns=columns[key], data=data) for key, data in rows.items()}
