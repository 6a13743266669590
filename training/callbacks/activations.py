"""Watching what goes into the activations of a network while it trains."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from norms.errors import SettingError, check_range
from training.callbacks.mixing import layer_labels, log_names
from training.wandb_logger import WandbLogger

ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
)
"""The layers that are watched: each maps numbers one by one, always in the same way."""

PERCENTILES = (15, 50, 85)
"""Those of figure 1 of Ioffe & Szegedy 2015."""

FLAT = 0.01
"""A unit is saturated where its slope is below this share of the steepest one."""

WHOLE = "all"
"""What stands in the place of a layer for the whole network."""


class Seen(NamedTuple):
    """Hold what an activation was given by a batch.

    Attributes:
        percentiles: Those of all values together, see ``PERCENTILES``.
        units: Likewise of the first units alone, one row each.
        saturated: Share of values at which the slope is below ``FLAT`` of the steepest one.
        dead: Number of units that are saturated by the whole batch.
        values: How many values there are.
        width: How many units, or channels, there are.
    """

    percentiles: np.ndarray
    units: np.ndarray
    saturated: float
    dead: int
    values: int
    width: int


class ActivationMonitor(Callback):
    """Log what goes into each activation in a step of the training, at the start and every few steps.

    It looks at the batch that is trained on, in the mode in which it is trained on, the first time that a layer runs in
    the step. A look moves nothing: a training is the same with it and without. All loggers get, at step s after s
    steps,

    - ``activations/<layer>/p15``, ``p50`` and ``p85``: the percentiles of the input of the activation, over all units
      and the batch, as figure 1 of Ioffe & Szegedy 2015 (arXiv 1502.03167) shows them;
    - ``activations/<layer>/saturated``: the share of those inputs at which the slope of the activation is below 1 % of
      its steepest one. Those are inputs beyond 6.0 of a sigmoid, beyond 3.0 of a tanh, and below 0 of a ReLU;
    - ``activations/<layer>/dead``: the share of units, or channels, that are saturated by every value of the batch, so
      that nothing before them learns through them;
    - ``activations/<layer>/unit_00/p15`` and so on: the percentiles of the first units alone, as many as ``units``;

    and ``activations/all/saturated`` and ``dead`` of all layers together. Layers are called as
    :func:`training.callbacks.mixing.log_names` says. Seen are the activations of torch.nn that map numbers one by one
    (see ``ACTIVATIONS``) in networks that are trained; not those that a network applies as functions. On several
    devices it is the batch of the first.

    Args:
        every_n_steps: Steps between two looks; null for none.
        units: How many units of each layer are logged alone too.
    """

    def __init__(self, every_n_steps: int | None = None, units: int = 0) -> None:
        check_range("activations.every_n_steps", every_n_steps, at_least=1)
        check_range("activations.units", units, at_least=0)
        self.every_n_steps, self.units = every_n_steps, units
        self._looked: int | None = None
        self._seen: dict[str, Seen] = {}
        self._hooks: list[RemovableHandle] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse models in which nothing can be seen.

        Raises:
            SettingError: If the model has no activations among its layers, or is compiled.
        """
        if self.every_n_steps is None:
            return
        if pl_module.hparams.get("compile"):
            raise SettingError("a compiled model shows no activations: leave out activations.every_n_steps or compile")
        if not activations(pl_module):
            raise SettingError(
                f"activations.every_n_steps: {type(pl_module).__name__} has no activations of torch.nn as layers"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what was seen before a training went back: its rows are dropped, and made anew."""
        self._looked = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to look, if it is time."""
        step = trainer.global_step
        if self.every_n_steps is None or step % self.every_n_steps or step == self._looked:
            return
        if trainer.is_global_zero:
            self._looked, self._seen = step, {}
            for name, layer in activations(pl_module).items():
                self._hooks.append(layer.register_forward_pre_hook(self._hook(name)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what was seen."""
        self._stop()
        seen, self._seen = self._seen, {}
        if not seen or not all(np.isfinite(each.percentiles).all() for each in seen.values()):
            return  # the guard ends a training with other values
        named = [*activations(pl_module)]
        labels = dict(zip(named, log_names(layer_labels(named)), strict=True))
        numbers = _numbers({labels[name]: seen[name] for name in named if name in seen})
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and self._looked == 0:
                logger.hide(key for key in numbers if "/unit_" in key)
            logger.log_metrics(numbers, self._looked)
            logger.save()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the network alone."""
        self._stop()

    def _hook(self, name: str) -> Any:
        def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name not in self._seen:
                self._seen[name] = see(layer, inputs[0], self.units)

        return look

    def _stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def activations(model: nn.Module) -> dict[str, nn.Module]:
    """Return the activations of ``model`` by their names, in the order in which they are registered.

    Those of parts that are not trained, such as a loss network or an averaged copy, are left out.

    Args:
        model: A module whose children are networks.
    """
    return {
        name: layer
        for part, network in model.named_children()
        if any(parameter.requires_grad for parameter in network.parameters())
        for name, layer in network.named_modules(prefix=part)
        if isinstance(layer, ACTIVATIONS)
    }


@torch.no_grad()
def see(layer: nn.Module, inputs: Tensor, units: int = 0) -> Seen:
    """Look at what an activation is given.

    Args:
        layer: One of ``ACTIVATIONS``.
        inputs: Its input, (B, units), (B, channels, H, W) or (B, N, units).
        units: How many units to look at alone.
    """
    values = inputs.detach().float()
    values = values.movedim(1, -1) if values.ndim == 4 else values
    flat = slope(layer, values).abs() < FLAT * float(slope(layer, _LINE.to(values.device)).abs().max())
    by_unit = values.flatten(0, -2).cpu().numpy()
    return Seen(
        np.percentile(by_unit, PERCENTILES),
        np.percentile(by_unit[:, :units], PERCENTILES, axis=0).T,
        float(flat.float().mean()),
        int(flat.flatten(0, -2).all(0).sum()),
        by_unit.size,
        by_unit.shape[1],
    )


@torch.enable_grad()
def slope(layer: nn.Module, values: Tensor) -> Tensor:
    """Compute the derivative of an activation at each of some values; hooks of the layer do not run."""
    leaf = values.detach().clone().requires_grad_()
    # A copy of the leaf, which a layer may change in place.
    return torch.autograd.grad(layer.forward(leaf.clone()).sum(), leaf)[0]


_LINE = torch.linspace(-10, 10, 2001)
"""Where the steepest slope is looked for."""


def _numbers(seen: Mapping[str, Seen]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for label, layer in seen.items():
        rows = {"": layer.percentiles} | {f"unit_{number:02d}/": row for number, row in enumerate(layer.units)}
        for row, percentiles in rows.items():
            for percent, value in zip(PERCENTILES, percentiles, strict=True):
                numbers[f"activations/{label}/{row}p{percent}"] = float(value)
        numbers[f"activations/{label}/saturated"] = layer.saturated
        numbers[f"activations/{label}/dead"] = layer.dead / layer.width
    values, width = (sum(getattr(each, key) for each in seen.values()) for key in ("values", "width"))
    saturated = sum(each.saturated * each.values for each in seen.values()) / values
    numbers[f"activations/{WHOLE}/saturated"] = saturated
    numbers[f"activations/{WHOLE}/dead"] = sum(each.dead for each in seen.values()) / width
    return numbers
