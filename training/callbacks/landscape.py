"""Measuring, while a training goes on, how smooth its loss is and how much its layers' inputs shift."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from norms.errors import SettingError, check_range
from norms.spectra import linear_layers
from training.callbacks.mixing import layer_labels, log_names
from training.fsdp import FSDP2Strategy
from training.wandb_logger import WandbLogger

Moments = tuple[Tensor, Tensor]
"""Mean and standard deviation of each channel."""


class Landscape(Callback):
    r"""Measure the loss around the weights, and internal covariate shift, every few steps.

    A look moves nothing: a training is the same with it and without. It is made on the batch of a step, with the
    weights W before that step and those after it, all random numbers being the same. Where g is the gradient of the
    training loss L at W, and :math:`\eta` each of ``multiples`` times the learning rate of that step, it notes

    - ``loss``: L(W), and ``loss_min``, ``loss_max``: the range of :math:`L(W - \eta g)`;
    - ``gradient_norm``: :math:`\lVert g \rVert`, and ``gradient_change_min``, ``gradient_change_max``: the range of
      :math:`\lVert \nabla L(W - \eta g) - g \rVert`. The smaller, the longer is the gradient to be relied on;
    - ``lipschitz``: the largest :math:`|L(W - \eta g) - L(W)| / (\eta \lVert g \rVert)`, and ``smoothness``: the
      largest :math:`\lVert \nabla L(W - \eta g) - g \rVert / (\eta \lVert g \rVert)`: what the Lipschitz constants
      of the loss and of its gradient are at least.

    Of every convolution and linear layer but the first it notes, as means over these layers and for each of them,

    - ``ics``: :math:`\lVert G - G' \rVert`, where G is the gradient for the layer's parameters at W, and G' that where
      all parameters before it are as they are after the step; and ``ics_cosine``: the cosine between both;
    - ``input_shift``: how far the step moves the distribution of the layer's input over the batch: the 2-Wasserstein
      distance between normal distributions with the moments of each channel, relative to their spread:
      :math:`\sqrt{\sum_c (\Delta\mu_c^2 + \Delta\sigma_c^2) / \sum_c \sigma_c^2}`. Here random numbers are those of two
      steps, so that noise within the network counts.

    All loggers get these as ``landscape/loss_min`` and ``landscape/00_relu1_2_conv/ics``, in the row of the step. A
    look takes ``len(multiples) + layers + 1`` gradients.

    Args:
        every_n_steps: Steps between two looks; null for none.
        multiples: How far along the gradient the loss is looked at, as multiples of the learning rate, each above 0.
        layers: Of how many layers the shift is measured; they are spread over the network. 0 for none.

    Raises:
        SettingError: If an option is outside its range; when the training begins, if the module does not train by one
            optimizer and one loss, as GANs do not.

    Source:
        Santurkar et al., How Does Batch Normalization Help Optimization?, NeurIPS 2018, definition 2.1 and figure 4.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        multiples: tuple[float, ...] | list[float] = (0.5, 1.0, 2.0, 4.0),
        layers: int = 8,
    ) -> None:
        check_range("landscape.every_n_steps", every_n_steps, at_least=1)
        if not multiples:
            raise SettingError("landscape.multiples must name one; landscape.every_n_steps: null turns it off")
        for multiple in multiples:
            check_range("landscape.multiples", multiple, above=0)
        check_range("landscape.layers", layers, at_least=0)
        self.every_n_steps, self.multiples, self.layers = every_n_steps, tuple(multiples), layers
        self._begun: _Begun | None = None
        self._looks, self._seconds, self._start = 0, 0.0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a training that has not one loss, or of whose weights each process has a share."""
        if self.every_n_steps is not None and isinstance(trainer.strategy, FSDP2Strategy):
            raise SettingError("landscape.every_n_steps needs whole weights: take trainer.strategy: ddp, not fsdp2")
        if self.every_n_steps is not None and not pl_module.automatic_optimization:
            raise SettingError(
                f"landscape.every_n_steps is for trainings by one loss, and {type(pl_module).__name__} has several"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what was begun before a training went back."""
        self._begun, self._start = None, time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the weights before a step that is to be looked at, and the inputs that its layers see."""
        step = trainer.global_step
        if self.every_n_steps is not None and (step + 1) % self.every_n_steps == 0:
            found = _spread(_layers(pl_module), self.layers)
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            self._begun = _Begun(step, rate, _State(pl_module), found, _Inputs(found))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, once the optimizer has made its step."""
        begun = self._begun
        if begun is None:
            return
        begun.inputs.stop()
        self._begun = None
        if trainer.global_step == begun.step:
            return  # gradients are accumulated, and the next batch begins anew
        start = time.monotonic()
        values = self._look(trainer, pl_module, begun, batch, batch_idx)
        if trainer.is_global_zero:
            numbers = {f"landscape/{key}": value for key, value in values.items()}
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger) and not self._looks:
                    logger.hide([key for key in numbers if key.count("/") > 1])
                logger.log_metrics(numbers, trainer.global_step)
                logger.save()
        self._looks, self._seconds = self._looks + 1, self._seconds + time.monotonic() - start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what it has cost."""
        if self._looks:
            share = self._seconds / max(self._seconds, time.monotonic() - self._start)
            print(f"landscape: {self._looks} looks took {self._seconds:.2g} s, {share:.1%} of the training")

    def _look(
        self, trainer: Trainer, module: LightningModule, begun: "_Begun", batch: Any, batch_idx: int
    ) -> dict[str, float]:
        after, before, layers = _State(module), begun.before, begun.layers
        loss = _TrainingLoss(trainer, module, batch, batch_idx)
        try:
            with _silent(module):
                inputs = _Inputs(layers)
                loss.value()
                inputs.stop()
                before.restore()
                center, gradient = loss.gradient()
                values = self._along(loss, before, begun.rate, center, gradient)
                shifts = {
                    name: _shift_of_gradient(loss, before, after, layer, gradient) for name, layer in layers.items()
                }
        finally:
            after.restore()
        for name, shift in shifts.items():
            if name in begun.inputs.moments and name in inputs.moments:
                shift["input_shift"] = moved(begun.inputs.moments[name], inputs.moments[name])
        for key in dict.fromkeys(key for shift in shifts.values() for key in shift):
            found = [shift[key] for shift in shifts.values() if key in shift]
            values[key] = sum(found) / len(found)
        labels = log_names(layer_labels(list(shifts)))
        for label, shift in zip(labels, shifts.values(), strict=True):
            values |= {f"{label}/{key}": value for key, value in shift.items()}
        return values

    def _along(
        self, loss: "_TrainingLoss", start: "_State", rate: float, center: float, gradient: Sequence[Tensor]
    ) -> dict[str, float]:
        """Measure loss and gradient along the gradient, from the weights of ``start``."""
        norm = _norm(gradient)
        losses, changes, distances = [], [], []
        for multiple in self.multiples:
            start.restore(multiple * rate, gradient)
            value, other = loss.gradient()
            losses.append(value)
            changes.append(_distance(other, gradient))
            distances.append(multiple * rate * norm)
        values = {"loss": center, "loss_min": min(losses), "loss_max": max(losses), "gradient_norm": norm}
        values |= {"gradient_change_min": min(changes), "gradient_change_max": max(changes)}
        if min(distances) > 0:
            slopes = [abs(value - center) / distance for value, distance in zip(losses, distances, strict=True)]
            values["lipschitz"] = max(slopes)
            values["smoothness"] = max(change / far for change, far in zip(changes, distances, strict=True))
        return values


def moved(first: Moments, second: Moments) -> float:
    """Return how far moments of channels have moved, relative to the spread of the first; see :class:`Landscape`."""
    (mean, std), (new_mean, new_std) = first, second
    squares = (new_mean - mean).square() + (new_std - std).square()
    return float((squares.sum() / std.square().sum()).sqrt())


@dataclass(frozen=True)
class _Begun:
    """Hold what is noted before a step: its number, learning rate, weights, and the layers whose inputs are seen."""

    step: int
    rate: float
    before: "_State"
    layers: dict[str, nn.Module]
    inputs: "_Inputs"


class _State:
    """Keep all parameters and buffers of a module as they are now."""

    def __init__(self, module: nn.Module) -> None:
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._buffers = list(module.buffers())
        self.values = [parameter.detach().clone() for parameter in self.trained]
        self._kept = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def restore(self, rate: float = 0.0, direction: Sequence[Tensor] = ()) -> None:
        """Return to it, or to where a step of gradient descent leads from it."""
        for parameter, value in zip(self.trained, self.values, strict=True):
            parameter.copy_(value)
        for buffer, value in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(value)
        for parameter, slope in zip(self.trained, direction, strict=False):
            parameter.sub_(slope, alpha=rate)


class _TrainingLoss:
    """Compute the loss of a batch as the training does, each time with the same random numbers."""

    def __init__(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._context, self._module = trainer.precision_plugin.train_step_context, module
        self._batch, self._index = batch, batch_idx
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def value(self) -> Tensor:
        with isolate_rng(), torch.enable_grad(), self._context():
            output = self._module.training_step(self._batch, self._index)
        return output["loss"] if isinstance(output, Mapping) else output  # type: ignore[return-value]

    def gradient(self, parameters: Sequence[nn.Parameter] | None = None) -> tuple[float, Sequence[Tensor]]:
        loss = self.value()
        wanted = self._parameters if parameters is None else parameters
        return float(loss.detach()), torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)


class _Inputs:
    """Note the moments of what layers are given, until it is stopped."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.moments: dict[str, Moments] = {}
        self._hooks = [layer.register_forward_pre_hook(self._note(name)) for name, layer in layers.items()]

    def _note(self, name: str) -> Any:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            channels = -1 if isinstance(layer, nn.Linear) else 1
            values = inputs[0].detach().float().movedim(channels, 0).flatten(1)
            self.moments[name] = values.mean(1), values.std(1, correction=0)

        return note

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()


@contextmanager
def _silent(module: LightningModule) -> Iterator[None]:
    """Let a module log nothing."""
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log, module.log_dict


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the trained convolutions and linear layers, in the order of the module, without the first."""
    layers = {
        name: layer
        for name, layer in linear_layers(module)
        if not isinstance(layer, nn.Embedding) and any(each.requires_grad for each in layer.parameters())
    }
    return dict(list(layers.items())[1:])


def _spread(layers: dict[str, nn.Module], count: int) -> dict[str, nn.Module]:
    """Return so many of some layers: with the first and the last, others spread over those between."""
    if count >= len(layers):
        return layers
    names = list(layers)
    places = [len(names) - 1] if count == 1 else [round(each * (len(names) - 1) / (count - 1)) for each in range(count)]
    return {names[place]: layers[names[place]] for place in places}


def _shift_of_gradient(
    loss: _TrainingLoss, before: _State, after: _State, layer: nn.Module, gradient: Sequence[Tensor]
) -> dict[str, float]:
    own = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    places = [place for place, parameter in enumerate(before.trained) if any(parameter is each for each in own)]
    before.restore()
    with torch.no_grad():
        for parameter, value in zip(before.trained[: places[0]], after.values, strict=False):
            parameter.copy_(value)
    _, shifted = loss.gradient(own)
    first, second = _flat([gradient[place] for place in places]), _flat(shifted)
    return {"ics": float((first - second).norm()), "ics_cosine": float(F.cosine_similarity(first, second, dim=0))}


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in tensors])


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(_flat(tensors).norm())


def _distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return float((_flat(first) - _flat(second)).norm())
