"""Watching, while a training goes on, how much of a difference between two images comes through a network."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_modules.classifier import Classifier
from lightning_modules.networks.lipschitz import classifier_bound, lipschitz_bound
from lightning_modules.networks.sensitivity import Function, steepest, steepest_pairs
from norms.errors import SettingError, check_range
from norms.spectra import input_sizes, linear_layers, spectra
from training.callbacks.gans import is_gan, scored
from training.finite import not_finite
from training.fsdp import whole_networks


class LipschitzMonitor(Callback):
    r"""Hold the Lipschitz constant of a classifier, or of a GAN's discriminator, between two numbers.

    A look moves nothing: a training is the same with it and without. It takes the network as it evaluates, images of
    the step's batch, and the Euclidean norm, of images as the network takes them and of logits or scores. All loggers
    get

    - ``lipschitz/bound``: a number above the constant, the product of the norms of the layers as linear maps; see
      :func:`~lightning_modules.networks.lipschitz.classifier_bound` and
      :func:`~lightning_modules.networks.lipschitz.lipschitz_bound`, which also say which networks have none;
    - ``lipschitz/reshaped``: that product with the norm of each convolution's weight as a matrix in the place of its
      norm as a map, which is what spectral normalization divides by. It is no bound;
    - ``lipschitz/data_median`` and ``lipschitz/data``: how steep the network is at the images, the middle and the
      largest of them, see :func:`~lightning_modules.networks.sensitivity.steepest`;
    - ``lipschitz/ascent``: the largest quotient that gradient ascent over pairs finds, a number below the constant; see
      :func:`~lightning_modules.networks.sensitivity.steepest_pairs`;
    - ``lipschitz/sigma_min`` and ``lipschitz/sigma_max``: of spectrally normalized weights as they are used, the
      smallest and the largest exact norm as a matrix; 1 if u and v were those of the weight.

    Args:
        every_n_steps: Steps between two looks, of which one is before the first step and one after the last; null for
            none.
        images: How many images of the batch are looked at.
        ascent: Steps of gradient ascent.

    Raises:
        SettingError: If an option is outside its range; when the training begins, if it is of another module.
    """

    def __init__(self, every_n_steps: int | None = None, images: int = 16, ascent: int = 20) -> None:
        check_range("lipschitz.every_n_steps", every_n_steps, at_least=1)
        check_range("lipschitz.images", images, at_least=1)
        check_range("lipschitz.ascent", ascent, at_least=0)
        self.every_n_steps, self.images, self.ascent = every_n_steps, images, ascent
        self._batch: Any = None
        self._seen_step: int | None = None
        self._looks, self._seconds, self._start = 0, 0.0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules of which it does not know what they are."""
        if self.every_n_steps is not None and not (isinstance(pl_module, Classifier) or is_gan(pl_module)):
            raise SettingError(
                f"lipschitz.every_n_steps is for classifiers and GANs, and {type(pl_module).__name__} is neither"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._batch, self._seen_step, self._start = None, None, time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look every few steps, before the step."""
        if self.every_n_steps is not None:
            self._batch = batch
            if trainer.global_step % self.every_n_steps == 0:
                with whole_networks(trainer):
                    self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look once more, at images of the last batch, and say what it has cost."""
        if self._batch is not None:
            with whole_networks(trainer):
                self._look(trainer, pl_module)
        if self._looks:
            share = self._seconds / max(self._seconds, time.monotonic() - self._start)
            print(f"lipschitz monitor: {self._looks} looks took {self._seconds:.2g} s, {share:.1%} of the training")

    def _look(self, trainer: Trainer, module: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or step == self._seen_step:
            return  # a step of several batches is looked at once, before the first of them
        if not_finite(module.state_dict().items()):
            return  # the guard ends such a training
        self._seen_step = step
        start = time.monotonic()
        numbers = measure(module, self._batch, self.images, self.ascent)
        for logger in trainer.loggers:
            logger.log_metrics({f"lipschitz/{name}": value for name, value in numbers.items()}, step)
            logger.save()
        self._looks, self._seconds = self._looks + 1, self._seconds + time.monotonic() - start


def measure(module: Any, batch: dict[str, Tensor], images: int, ascent: int) -> dict[str, float]:
    """Return what :class:`LipschitzMonitor` logs of a classifier or GAN, without ``lipschitz/``.

    Args:
        module: The module, which is left as it was.
        batch: Of its data.
        images: How many of its images to look at.
        ascent: Steps of gradient ascent.
    """
    seen, labels = batch["image"][:images], batch["label"][:images] if "label" in batch else None
    network: nn.Module
    bound: Callable[[dict[nn.Module, float]], float | None]
    function: Function
    if isinstance(module, Classifier):
        network, function, low = module, module.forward, 0.0
        bound = partial(classifier_bound, module.feature_net, module.head, images=seen)
    else:
        seen, low = 2 * seen - 1, -1.0
        network, function = module.discriminator, partial(_scored, module, labels)
        bound = partial(lipschitz_bound, network, images=seen)
    with module.evaluation():
        sizes = input_sizes(network, lambda: function(seen))
        found, layers = spectra(network, sizes), dict(linear_layers(network))
        maps = {layers[name]: each.sigma if each.operator is None else each.operator for name, each in found.items()}
        matrices = {layers[name]: each.sigma for name, each in found.items()}
        slopes, _ = steepest(function, seen)
        numbers = {
            "bound": bound(maps),
            "reshaped": bound(matrices),
            "data_median": float(slopes.median()),
            "data": float(slopes.max()),
            "ascent": float(steepest_pairs(function, seen, low, 1.0, ascent).max()),
        }
    normalized = [each.sigma for each in found.values() if each.estimate is not None]
    numbers |= {"sigma_min": min(normalized, default=None), "sigma_max": max(normalized, default=None)}
    return {name: value for name, value in numbers.items() if value is not None}


def _scored(gan: Any, labels: Tensor | None, images: Tensor) -> Tensor:
    scores: Tensor = scored(gan, images, labels)
    return scores
