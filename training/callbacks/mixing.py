"""Logging what the mixing layers learn while they learn it."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from norms.errors import check_range
from norms.kinds import MixingKind, plain_key
from norms.mixing import LayerReport, mixing_layers, report
from training.callbacks.mixing_plot import chosen, heat_map
from training.errors import TrainingError
from training.files import or_warn, replacing
from training.finite import not_finite
from training.fsdp import FSDP2Strategy
from training.layer_shapes import ShapeRecorder, write_shapes
from training.loggers import MetricsLogger
from training.run import Run
from training.wandb_logger import WandbLogger

BINS = 32
"""Of a histogram over the range of a kind."""

DRAWN = frozenset(4**power for power in range(2, 16))
"""The logs, counted from 0, at which heat maps are drawn beside the last: ever more rarely, since each draws all."""

SPREAD = ("min", "max", "std")
"""What of the summary of a whole network has no panel by default."""

Values = dict[str, LayerReport]


class MixingValues(Callback):
    """Log what every mixing layer has learned, at the start, every few steps and at the end.

    A step is an optimizer step, and values logged at step s are those after s of them. All loggers get the
    :meth:`~norms.kinds.MixingKind.summary` of each kind of value in each layer, such as

    - ``rho/<layer>/mean``, ``min``, ``max``, ``std``, ``share_below_0_1`` and ``share_above_0_9`` over the channels;
    - ``switch/<layer>/mean/<statistic>`` and ``switch/<layer>/var/<statistic>``, the softmaxed weights;

    where a layer is called as :func:`log_names` says, such as ``03_residual1_norm1``. With ``all`` in the place of the
    layer stands what the whole network has: of values per channel the summary over all channels of all layers, of
    others their mean over the layers. Weights & Biases also gets a histogram of each kind that has a value per channel,
    with the same bins at every step; now and then a picture of all layers by all steps, ``heat_map/rho``; and at the
    end tables of all values. The exact values are kept in the run folder, in ``mixing/step_0000500.npz``, under keys
    such as ``residual1.norm1/rho`` and ``residual1.norm1/mean_weight``, and the kinds' descriptions beside them in
    ``mixing/kinds.json``. What the layers work on, see
    :class:`training.layer_shapes.LayerShape`, is kept in ``mixing/layers.json``.

    Args:
        every_n_steps: Steps between two logs.
        wandb_layers: Whether Weights & Biases makes panels of single layers, histograms, tables and the spread of
            values too. Without, its history has them all the same.
    """

    def __init__(self, every_n_steps: int = 50, wandb_layers: bool = False) -> None:
        check_range("mixing.every_n_steps", every_n_steps, at_least=1)
        self.every_n_steps, self.wandb_layers = every_n_steps, wandb_layers
        self._run = Run("")
        self._logged_step: int | None = None
        self._layers: dict[str, str] = {}
        self._shapes: ShapeRecorder | None = None

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
        # A compiled network would be compiled anew without the hooks.
        if trainer.is_global_zero and not pl_module.hparams.get("compile") and not self._run.mixing_layers.is_file():
            self._shapes = ShapeRecorder(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep, of the first batch, what the layers work on."""
        shapes, self._shapes = self._shapes, None
        found = {} if shapes is None else shapes.stop()
        if named := {label: found[layer] for label, layer in self._layers.items() if layer in found}:
            write_shapes(named, self._run.mixing_layers)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the final values."""
        self._log(trainer, pl_module, last=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log the values that an interrupted training got to."""
        if self._shapes is not None:
            self._shapes.stop()
        # Only if training had begun; and what went wrong may have taken the device or the disk with it.
        # A training that has gone wrong has no values that anybody should read.
        # Where FSDP2 has distributed them, no process can read them alone.
        alone = isinstance(trainer.strategy, FSDP2Strategy) and not isinstance(exception, SIGTERMException)
        if self._logged_step is not None and not alone and not isinstance(exception, TrainingError):
            with suppress(Exception):
                self._log(trainer, pl_module, last=True, interrupted=True)

    def _log(self, trainer: Trainer, pl_module: LightningModule, last: bool = False, interrupted: bool = False) -> None:
        values = read_values(pl_module)  # for which FSDP2 needs all processes
        if not values or not_finite((kind.name, value) for _, kind, value in _kinds(values)):
            return  # the guard ends a training whose values are not finite
        if trainer.is_global_zero:
            self._write(trainer, values, last, interrupted)
        self._logged_step, self._layers = trainer.global_step, {label: read.layer for label, read in values.items()}

    def _write(self, trainer: Trainer, values: Values, last: bool, interrupted: bool) -> None:
        step = trainer.global_step
        # A training that was interrupted within a step may have logged it already.
        new = step != self._logged_step
        scalars: dict[str, Any] = dict(_scalars(values)) if new else {}
        arrays: dict[str, Any] = {
            f"{layer}/{kind}": value.numpy() for layer, read in values.items() for kind, value in read.values.items()
        }
        with or_warn(), replacing(self._run.mixing_values(step)) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)
        if self._logged_step is None or not self._run.mixing_kinds.is_file():
            self._describe(trainer, values)
        for logger in trainer.loggers:
            # metrics.csv shall become what it would have been without the interruption.
            if scalars and not (interrupted and isinstance(logger, MetricsLogger)):
                logger.log_metrics(scalars, step)
                logger.save()
            if isinstance(logger, WandbLogger) and (new or last):
                logger.log_made(lambda: self._made(values, step, new, last), step)

    def _made(self, values: Values, step: int, new: bool, last: bool) -> dict[str, Any]:
        """Make what W&B alone is given."""
        made = _histograms(values) if new else {}
        if last or step // self.every_n_steps in DRAWN:
            made |= self._heat_maps(values, step)
        return made | (_tables(values) if last else {})

    def _heat_maps(self, values: Values, step: int) -> dict[str, Any]:
        """Draw what is in the run folder, which has what was logged before a training was resumed, too."""
        import wandb

        files = {number: path for number, path in self._run.mixing_steps().items() if number <= step}
        if not files:
            return {}  # no disk could take them
        steps: dict[int, dict[str, np.ndarray]] = {}
        for number in chosen(list(files)):
            with np.load(files[number]) as arrays:
                steps[number] = dict(arrays)
        caption = f"each layer, from the input (top) to the output, at steps {min(steps)} to {step}"
        groups: dict[str, dict[MixingKind, None]] = {}
        for _, kind, _ in _kinds(values):
            groups.setdefault(heat_map_key(kind), {})[kind] = None
        return {key: wandb.Image(heat_map(steps, list(kinds)), caption=caption) for key, kinds in groups.items()}

    def _describe(self, trainer: Trainer, values: Values) -> None:
        """Keep beside the values of what kinds they are."""
        described = [kind.to_dict() for kind in dict.fromkeys(kind for _, kind, _ in _kinds(values))]
        with or_warn(), replacing(self._run.mixing_kinds) as partial:
            partial.write_text(json.dumps(described, indent=1) + "\n")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams({"mixing_kinds": described, "mixing_layers": [*values]})
                if not self.wandb_layers:
                    logger.hide(_secondary(values))


def read_values(model: torch.nn.Module) -> Values:
    """Read the mixing values of every trained mixing layer of ``model``.

    Layers of which no parameter is trained, such as those of an averaged copy of a network, are passed over. Those of
    which only the mixing parameters are frozen are not.

    Args:
        model: Any module.

    Returns:
        From a layer's name, such as ``residual1.norm1``, to its report, from the input of the network to its output.
        The names are those of :func:`layer_labels`.
    """
    trained = [
        reported
        for (_, layer), reported in zip(mixing_layers(model), report(model), strict=True)
        if any(parameter.requires_grad for parameter in layer.parameters())
    ]
    return dict(zip(layer_labels([reported.layer for reported in trained]), trained, strict=True))


def layer_labels(names: Sequence[str]) -> list[str]:
    """Name layers by where they are: their dotted names without what all of them begin with.

    A name that would begin with a number, which says little, keeps what stands before: ``blocks.0.norm``. A norm within
    another is called as :func:`outer_names` says. A layer that is the whole network is called ``layer``.
    """
    parts = [name.split(".") for name in outer_names(names)]
    alike = (len(set(part)) == 1 for part in zip(*(part[:-1] for part in parts), strict=False))
    shared = len(list(takewhile(bool, alike)))
    while shared and any(part[shared].isdecimal() for part in parts):
        shared -= 1
    return [".".join(part[shared:]) or "layer" for part in parts]


def outer_names(names: Sequence[str]) -> list[str]:
    """Call norms within norms, as those of conditions have one, as the outer ones: ``norm1``, not ``norm1.norm``."""
    outer = [re.sub(r"(\bnorm\d*)\.norm$", r"\1", name) for name in names]
    return outer if len(set(outer)) == len(names) else list(names)


def log_names(layers: Sequence[str]) -> list[str]:
    """Name layers for the keys of logs: their depth, by which names sort, and where they are, such as ``03_a_norm1``.

    These are letters, digits and underscores alone, see :func:`norms.kinds.plain_key`.
    """
    digits = max(2, len(str(len(layers) - 1)))
    return [plain_key(f"{depth:0{digits}d}_{layer}").replace("/", "_") for depth, layer in enumerate(layers)]


def heat_map_key(kind: MixingKind) -> str:
    """Return the key of the picture that W&B gets of a kind; kinds that share a beginning of their keys share it."""
    return f"heat_map/{_beginning(kind)}"


def _kinds(values: Values) -> Iterator[tuple[str, MixingKind, Tensor]]:
    for layer, read in values.items():
        yield from ((layer, kind, read.values[kind.name]) for kind in read.kinds)


def _logged(values: Values) -> Iterator[tuple[str, MixingKind, Tensor]]:
    """Yield the values of each kind in each layer, which is called as in logs."""
    names = dict(zip(values, log_names([*values]), strict=True))
    return ((names[layer], kind, value) for layer, kind, value in _kinds(values))


def _scalars(values: Values) -> Iterator[tuple[str, float]]:
    found: dict[MixingKind, list[Tensor]] = {}
    for layer, kind, value in _logged(values):
        found.setdefault(kind, []).append(value)
        yield from zip(kind.log_keys(layer), kind.summary(value).values(), strict=True)
    for kind, parts in found.items():
        whole = torch.cat(parts) if kind.per_channel else torch.stack(parts).mean(0)
        yield from zip(kind.log_keys("all"), kind.summary(whole).values(), strict=True)


def _histograms(values: Values) -> dict[str, Any]:
    import wandb

    histograms = {}
    for layer, kind, value in _logged(values):
        if kind.per_channel:
            counts = np.histogram(value.numpy(), np.linspace(kind.low, kind.high, BINS + 1))
            histograms[_histogram_key(layer, kind)] = wandb.Histogram(np_histogram=counts)
    return histograms


def _histogram_key(layer: str, kind: MixingKind) -> str:
    return plain_key(f"{kind.log_key.replace('{layer}', layer)}/histogram")


def _beginning(kind: MixingKind) -> str:
    """Return what stands before the layer; kinds that differ behind it share a table and a picture."""
    return plain_key(kind.log_key.partition("/{layer}")[0])


def _secondary(values: Values) -> list[str]:
    """List the keys of all but means and shares of the whole network, and heat maps."""
    kinds = dict.fromkeys(kind for _, kind, _ in _kinds(values))
    keys = [key for layer, kind, _ in _logged(values) for key in kind.log_keys(layer)]
    keys += [_histogram_key(layer, kind) for layer, kind, _ in _logged(values) if kind.per_channel]
    for kind in kinds:
        whole = zip(kind.summary_names, kind.log_keys("all"), strict=True)
        keys += [key for name, key in whole if kind.per_channel and name in SPREAD]
    return keys + list(dict.fromkeys(f"final/{_beginning(kind)}" for kind in kinds))


def _tables(values: Values) -> dict[str, Any]:
    """Make one table for each beginning of a key, so that kinds which differ behind the layer share one."""
    import wandb

    columns: dict[str, list[str | int]] = {}
    rows: dict[str, list[list[Any]]] = {}
    for layer, kind, value in _kinds(values):
        beginning, end = _beginning(kind), kind.log_key.partition("/{layer}")[2]
        names = range(len(value)) if kind.per_channel else [f"{end}/{label}".strip("/") for label in kind.labels]
        columns[beginning] = ["layer", "channel", kind.name] if kind.per_channel else ["layer", "statistic", "weight"]
        rows.setdefault(beginning, []).extend(
            [layer, name, number] for name, number in zip(names, value.tolist(), strict=True)
        )
    return {f"final/{key}": wandb.Table(columns=columns[key], data=data) for key, data in rows.items()}
