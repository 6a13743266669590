"""Logging what the mixing layers learn while they learn it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from norms.errors import SettingError
from norms.mixing import LayerReport, mixing_layers, report
from training.files import replacing
from training.run import Run

HISTOGRAM_EDGES = np.linspace(0, 1, 33)

Values = dict[str, LayerReport]


class MixingValues(Callback):
    """Log rho and the switch weights of every mixing layer, at the start, every few steps and at the end.

    A step is an optimizer step, and values logged at step s are those after s of them. Per layer, all loggers get

    - ``rho/<layer>/mean``, ``min``, ``max``, ``std``, ``share_below_0.1`` and ``share_above_0.9`` over the channels;
    - ``switch/<layer>/mean/<statistic>`` and ``switch/<layer>/var/<statistic>``, the softmaxed weights;

    where a layer's name begins with its depth, so that names sort by depth. Weights & Biases also gets a histogram of
    rho with the same bins at every step, and at the end one table of all values. The exact value of every channel is
    kept in the run folder, in ``mixing/step_0000500.npz``, under ``<layer>/rho``, ``<layer>/mean_weight`` and
    ``<layer>/var_weight``.

    Args:
        every_n_steps: Steps between two logs.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise SettingError(f"mixing.every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._run = Run("")
        self._logged_step: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the run; here, since processes agree on its folder, and each must ask."""
        self._run = Run.of(trainer)

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
        if self._logged_step is not None:
            with suppress(Exception):
                self._log(trainer, pl_module, last=True)

    def _log(self, trainer: Trainer, pl_module: LightningModule, last: bool = False) -> None:
        step = trainer.global_step
        values = read_values(pl_module) if trainer.is_global_zero else {}
        if not values:
            return
        # A training that was interrupted within a step may have logged it already.
        new = step != self._logged_step
        scalars: dict[str, Any] = dict(_scalars(values)) if new else {}
        for logger in trainer.loggers:
            metrics = scalars
            if isinstance(logger, WandbLogger):
                metrics = scalars | (_histograms(values) if new else {}) | (_tables(values) if last else {})
            if metrics:
                logger.log_metrics(metrics, step)
                logger.save()
        arrays: dict[str, Any] = {
            f"{layer}/{kind}": value.numpy() for layer, read in values.items() for kind, value in read.values.items()
        }
        with replacing(self._run.mixing_values(step)) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)
        self._logged_step = step


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


def _scalars(values: Values) -> Iterator[tuple[str, float]]:
    for layer, read in values.items():
        for kind, numbers in read.summary.items():
            prefix = f"rho/{layer}" if kind == "rho" else f"switch/{layer}/{_moment(kind)}"
            yield from ((f"{prefix}/{name}", number) for name, number in numbers.items())


def _histograms(values: Values) -> dict[str, Any]:
    import wandb

    return {
        f"rho/{layer}/histogram": wandb.Histogram(
            np_histogram=np.histogram(read.values["rho"].numpy(), HISTOGRAM_EDGES)
        )
        for layer, read in values.items()
        if "rho" in read.values
    }


def _tables(values: Values) -> dict[str, Any]:
    import wandb

    rho: list[list[Any]] = []
    switch: list[list[Any]] = []
    for layer, read in values.items():
        for kind, numbers in read.summary.items():
            if kind == "rho":
                rho += [[layer, channel, v] for channel, v in enumerate(read.values[kind].tolist())]
            else:
                switch += [[layer, f"{_moment(kind)}/{name}", number] for name, number in numbers.items()]
    tables = {}
    if rho:
        tables["final/rho"] = wandb.Table(columns=["layer", "channel", "rho"], data=rho)
    if switch:
        tables["final/switch"] = wandb.Table(columns=["layer", "statistic", "weight"], data=switch)
    return tables


def _moment(kind: str) -> str:
    return kind.removesuffix("_weight")
