"""Watching the singular values of a GAN while it trains."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from lightning_modules.networks.lipschitz import lipschitz_bound
from norms.errors import SettingError, check_range, unknown
from norms.spectra import Spectrum, input_sizes, linear_layers, spectra
from training.callbacks.gans import is_gan, run_once
from training.callbacks.mixing import layer_labels, log_names
from training.callbacks.spectral_plot import draw
from training.errors import RollbackError
from training.files import or_warn, replacing
from training.finite import not_finite
from training.fsdp import whole_networks
from training.loggers import MetricsLogger
from training.metrics_file import MetricsFile
from training.run import Run
from training.wandb_logger import WandbLogger

NETWORKS = ("discriminator", "generator")


class SpectralMonitor(Callback):
    """Log the singular values of a GAN's weights at the start, every few steps and at the end.

    A look moves nothing: a training is the same with it and without. It notes of every convolution, linear layer and
    embedding (see :class:`norms.spectra.Spectrum`)

    - ``estimate``: u^T W v, which a spectrally normalized weight W is divided by;
    - ``sigma``: the exact largest singular value of the weight as it is used, 1 if the estimate is exact;
    - ``operator``: the norm of the convolution as a map of its inputs, of the size that they have here;
    - ``rank``: the effective rank as a share of the full one;

    and of the whole network

    - ``estimate_error``: the largest distance of a normalized sigma from 1;
    - ``sigma``: the largest one;
    - ``rank``: the smallest one, of layers with more than one singular value;
    - ``bound``: a bound on the Lipschitz constant of the discriminator, see
      :func:`~lightning_modules.networks.lipschitz.lipschitz_bound`. Networks with other blocks than those named there,
      such as attention, have none.

    ``metrics.csv`` gets those of the networks, as ``spectral/discriminator/sigma``; Weights & Biases, which makes no
    panels of them by itself, and other loggers get all. Those of the layers are in ``spectral.csv`` in the run folder,
    and at the end in the picture ``spectral.png``. What all looks have cost is printed at the end.

    Args:
        every_n_steps: Steps between two looks; null for none.
        networks: ``discriminator``, ``generator`` or both.
    """

    def __init__(
        self, every_n_steps: int | None = 500, networks: tuple[str, ...] | list[str] = ("discriminator",)
    ) -> None:
        check_range("spectral.every_n_steps", every_n_steps, at_least=1)
        if not networks:
            raise SettingError("spectral.networks must name a network; spectral.every_n_steps: null turns it all off")
        for name in networks:
            if name not in NETWORKS:
                raise unknown("spectral.networks", name, NETWORKS)
        self.every_n_steps = every_n_steps
        self.networks = tuple(dict.fromkeys(networks))
        self._run = Run("")
        self._table: MetricsFile  # opened once, since a look must not read what all before it have written
        self._sizes: dict[str, dict[str, tuple[int, ...]]] = {}
        self._seen_step: int | None = None
        self._looks, self._seconds, self._start = 0, 0.0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the run; here, since processes agree on its folder, and each must ask."""
        self._run = Run.of(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the looks of steps that a resumed run makes again."""
        self._seen_step, self._start = None, time.monotonic()
        self._table = MetricsFile(self._run.spectral)
        if trainer.is_global_zero and self._run.spectral.is_file():
            with or_warn():
                self._table.keep_before(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look every few steps; here, so that rows come in the order of steps after those of the last batch."""
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            with whole_networks(trainer):
                self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look once more, draw the picture, and say what it has cost."""
        if self.every_n_steps is not None:
            with whole_networks(trainer):
                self._look(trainer, pl_module)
            self._finish(trainer)
        if self._looks:
            share = self._seconds / max(self._seconds, time.monotonic() - self._start)
            print(f"spectral monitor: {self._looks} looks took {self._seconds:.2g} s, {share:.1%} of the training")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw the picture of how an interrupted training got there, or one that has gone wrong."""
        if not isinstance(exception, RollbackError):
            with suppress(Exception):  # what went wrong may have taken the disk with it
                self._finish(trainer)

    def _look(self, trainer: Trainer, gan: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or not is_gan(gan) or step == self._seen_step:
            return
        if not_finite(
            (name, value) for each in self.networks for name, value in getattr(gan, each).state_dict().items()
        ):
            return  # the guard ends such a training
        start = time.monotonic()
        layers, whole = dict[str, float](), dict[str, float]()
        with gan.evaluation():
            for name in self.networks:
                found = self._spectra(gan, name)
                labels = log_names(layer_labels(list(found)))
                for label, spectrum in zip(labels, found.values(), strict=True):
                    layers |= {f"{name}/{label}/{key}": value for key, value in _numbers(spectrum).items()}
                whole |= {f"spectral/{name}/{key}": value for key, value in _of_network(found).items()}
                if (bound := self._bound(gan, name, found)) is not None:
                    whole[f"spectral/{name}/bound"] = bound
        of_layers = {f"spectral/{key}": value for key, value in layers.items()}
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and self._seen_step is None:
                logger.hide(["spectral", *whole, *of_layers])
            logger.log_metrics(whole if isinstance(logger, MetricsLogger) else whole | of_layers, step)
            logger.save()
        self._table.log_metrics(layers, step)
        self._table.save()
        self._seen_step = step
        self._looks, self._seconds = self._looks + 1, self._seconds + time.monotonic() - start

    def _spectra(self, gan: Any, name: str) -> dict[str, Spectrum]:
        network = getattr(gan, name)
        if name not in self._sizes:
            self._sizes[name] = input_sizes(network, lambda: run_once(gan, name))
        return spectra(network, self._sizes[name])

    def _bound(self, gan: Any, name: str, found: Mapping[str, Spectrum]) -> float | None:
        if name != "discriminator":
            return None
        norms: dict[nn.Module, float] = {}
        for label, layer in linear_layers(gan.discriminator):
            if (norm := found[label].operator) is not None:
                norms[layer] = norm
        return lipschitz_bound(gan.discriminator, norms, torch.zeros(1, *gan.image_shape, device=gan.device))

    def _finish(self, trainer: Trainer) -> None:
        rows = self._table.rows() if trainer.is_global_zero else []
        if not rows:
            return
        with or_warn(), replacing(self._run.spectral_plot) as partial:
            draw(rows, partial)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_made(self._picture, trainer.global_step)

    def _picture(self) -> dict[str, Any]:
        import wandb

        caption = f"singular values of the {' and the '.join(self.networks)}, from {self._run.spectral.name}"
        return {"spectral": wandb.Image(str(self._run.spectral_plot), caption=caption)}


def _numbers(spectrum: Spectrum) -> dict[str, float]:
    share = spectrum.rank / spectrum.full_rank
    values = {"estimate": spectrum.estimate, "sigma": spectrum.sigma, "operator": spectrum.operator, "rank": share}
    return {key: value for key, value in values.items() if value is not None}


def _of_network(found: Mapping[str, Spectrum]) -> dict[str, float]:
    errors = [abs(each.sigma - 1) for each in found.values() if each.estimate is not None]
    ranks = [each.rank / each.full_rank for each in found.values() if each.full_rank > 1]
    values = {"estimate_error": max(errors, default=None), "rank": min(ranks, default=None)}
    values["sigma"] = max((each.sigma for each in found.values()), default=None)
    return {key: value for key, value in values.items() if value is not None}
