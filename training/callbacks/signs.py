"""The ways in which a training can go wrong though all of its numbers are finite, each a class and a row of a table."""

import copy
import statistics
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from norms.recalibration import recalibrate
from norms.spectra import linear_layers, operator_norm
from training.callbacks.gans import scored

SAMPLES, GROUP = 64, 8
"""How many images are drawn, and how many of them in a row are of one class and are compared with each other."""

LATENTS = 2**32 - 5
"""Key of their latent vectors. It stands where training noise has the rank, and no rank is as high."""

ITERATIONS = 10
"""Lanczos steps for a singular value: a jump shows in one that is a few percent off, too."""

RETURNED = "the loss"
"""What is said of a loss that a training step returns, but does not log."""

OUTSIDE_TRAINING = ("val", "test")
"""How the names of metrics begin that say nothing of the training."""

LOWER_RATE = "a lower learning rate is likely to do better"
"""The advice that the guard's command follows by itself."""

Seen = TypeVar("Seen")


class Sign(ABC, Generic[Seen]):
    """Describe one way in which a training can go wrong.

    A sign is told once, when it was there in ``patience`` looks in a row. What it remembers is its attributes, of plain
    types, which are kept in checkpoints.
    """

    name: ClassVar[str]
    patience: ClassVar[int] = 5
    advice: ClassVar[str] = LOWER_RATE

    def __init__(self) -> None:
        self.in_a_row = 0
        self.told = False

    def look(self, seen: Seen) -> str | None:
        """Say what has gone wrong, in plain words, if it is time to tell; None if not."""
        reason = self.suspicion(seen)
        self.in_a_row = self.in_a_row + 1 if reason else 0
        if self.told or self.in_a_row < self.patience:
            return None
        self.told = True
        return reason

    @abstractmethod
    def suspicion(self, seen: Seen) -> str | None:
        """Say what is wrong in this look; None if nothing is."""


class Explosion(Sign[dict[str, float]]):
    """Find a loss that reaches ``FACTOR`` times its first value, or 1 if that is less.

    The losses of untrained networks are among the largest of a training: that of style transfer falls from 5. Those of
    GANs stay below 20.
    """

    name = "explosion"
    patience = 1
    FACTOR = 50

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, float] = {}

    def suspicion(self, seen: dict[str, float]) -> str | None:
        """Compare each loss with its first value."""
        for name, value in seen.items():
            first = self.first.setdefault(name, value)
            if abs(value) > self.FACTOR * max(1, abs(first)):
                return f"{name} has exploded, from {first:.4g} to {value:.4g}"
        return None


@dataclass(frozen=True)
class GANLook:
    """Hold what is seen of a GAN at one step."""

    diversity: float
    """Mean distance of images from fixed noise, those of a class from each other, as :func:`mean_distance`."""
    real_diversity: float
    """Mean distance of real images."""
    real_score: float
    """Mean score of real images."""
    fake_score: float
    """Mean score of generated images."""
    learning: float
    """Mean size of the derivative of the discriminator's loss with respect to a score, as :func:`learning_left`."""
    sigmas: dict[str, float]
    """The largest singular value of each convolution and linear layer of the generator, by name."""


class Collapse(Sign[GANLook]):
    """Find images from different noise that are nearly alike.

    Their mean distance is below ``ALIKE`` of that of real images, or has fallen below ``FALLEN`` of its highest so far
    and is below half of that of real images. That of a GAN in health is 0.7 to 1.2 of the real one.
    """

    name = "collapse"
    ALIKE, FALLEN = 0.05, 0.3

    def __init__(self) -> None:
        super().__init__()
        self.highest = 0.0

    def suspicion(self, seen: GANLook) -> str | None:
        """Compare the distance with that of real images, and with what it has been."""
        self.highest = max(self.highest, seen.diversity)
        fallen = seen.diversity < self.FALLEN * self.highest and seen.diversity < seen.real_diversity / 2
        if not fallen and seen.diversity >= self.ALIKE * seen.real_diversity:
            return None
        return (
            f"the generator has collapsed: its images of different noise have a mean distance of {seen.diversity:.2g}, "
            f"real ones {seen.real_diversity:.2g}"
        )


class Saturation(Sign[GANLook]):
    """Find a discriminator that is so sure of nearly every image that it does not learn any more.

    The derivative of its loss with respect to a score is on average below ``LEARNING``. For the hinge loss that is the
    share of scores within the margins; for the non-saturating one, and for a relativistic one, 1 minus the probability
    that the discriminator gives to what is right; Wasserstein's is always 1.
    """

    name = "saturation"
    advice = (
        "a lower learning rate of the discriminator (discriminator_lr_multiplier), fewer updates of it (n_dis) or a "
        "penalty may do better"
    )
    LEARNING = 0.02

    def suspicion(self, seen: GANLook) -> str | None:
        """Look at what is left to learn."""
        if seen.learning >= self.LEARNING:
            return None
        return (
            f"the discriminator is saturated: it scores real images {seen.real_score:.3g} and generated ones "
            f"{seen.fake_score:.3g}, where its loss has no slope, so that the generator learns from a fixed judge"
        )


class Jump(Sign[GANLook]):
    """Find a largest singular value of the generator of ``FACTOR`` times the median of the ``HISTORY`` looks before.

    It grows steadily in a training in health, and jumps when the training collapses.

    Source:
        Brock et al., Large Scale GAN Training for High Fidelity Natural Image Synthesis, ICLR 2019, section 4.
    """

    name = "jump"
    patience = 1
    FACTOR, HISTORY = 3, 5

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}

    def suspicion(self, seen: GANLook) -> str | None:
        """Compare each layer's value with its history."""
        reasons = []
        for name, sigma in seen.sigmas.items():
            before = self.history.get(name, [])
            if len(before) == self.HISTORY and sigma > self.FACTOR * (usual := statistics.median(before)) > 0:
                reasons.append(
                    f"the largest singular value of generator.{name} has jumped from {usual:.3g} to {sigma:.3g}"
                )
            self.history[name] = [*before, sigma][-self.HISTORY :]
        return reasons[0] if reasons else None


SIGNS_IN_LOSSES: tuple[type[Sign[dict[str, float]]], ...] = (Explosion,)
"""What is looked for in the losses of any training."""

SIGNS_IN_GANS: tuple[type[Sign[GANLook]], ...] = (Collapse, Saturation, Jump)
"""What is looked for in GANs besides."""


def training_losses(trainer: Trainer, outputs: Any) -> dict[str, float]:
    """Return the losses of the last step, by name.

    Args:
        trainer: The trainer.
        outputs: What the training step has returned.
    """
    found = {
        name: value
        for name, value in trainer.callback_metrics.items()
        if "loss" in name.lower() and not name.startswith(OUTSIDE_TRAINING)
    }
    if isinstance(outputs, dict) and isinstance(outputs.get("loss"), Tensor):
        found[RETURNED] = outputs["loss"]
    if not found:
        return {}
    # Together, since each reading makes a device wait.
    values = torch.stack([value.detach().float().mean() for value in found.values()]).tolist()
    losses = dict(zip(found, values, strict=True))
    if [str(value) for value in values].count(str(losses.get(RETURNED))) > 1:
        del losses[RETURNED]  # it is logged under a better name
    return losses


def look_at_gan(gan: Any, batch: dict[str, Tensor]) -> GANLook:
    """Look at a GAN; nothing of it is moved, and no random generator.

    The live generator draws, with the statistics of these images: it costs two of its forward passes, and one of the
    discriminator over as many real and generated images.

    Args:
        gan: The module, as :func:`~training.callbacks.gans.is_gan` wants it.
        batch: Real images of the last step, ``{"image": (N, C, H, W), "label": (N,)}``.

    Raises:
        SettingError: If the statistics are not finite.
    """
    real = batch["image"][:SAMPLES]
    with gan.evaluation():
        labels = gan.fixed_labels(SAMPLES // GROUP)
        labels = None if labels is None else labels.repeat_interleave(GROUP)
        inputs = [each for each in (gan.fixed_latents(LATENTS, SAMPLES), labels) if each is not None]
        # By one process alone, which must not wait for others.
        network = recalibrate(copy.deepcopy(gan.generator), [inputs], forward=lambda net, x: net(*x), sync=False)
        fake = network.eval()(*inputs)
        real_scores = scored(gan, 2 * real - 1, batch["label"][:SAMPLES] if gan.num_classes else None)
        fake_scores = scored(gan, fake[: len(real)], None if labels is None else labels[: len(real)])
        sigmas = {name: operator_norm(layer, iterations=ITERATIONS) for name, layer in linear_layers(gan.generator)}
    return GANLook(
        mean_distance((fake + 1) / 2, GROUP),
        mean_distance(real, len(real)),
        float(real_scores.mean()),
        float(fake_scores.mean()),
        learning_left(gan.loss, real_scores, fake_scores),
        sigmas,
    )


def mean_distance(images: Tensor, group: int) -> float:
    r"""Return the mean distance of two images of a group, :math:`\lVert x - y \rVert_2 / \sqrt{CHW}`; 0 of one image.

    Args:
        images: In [0, 1], shape (N, C, H, W).
        group: How many images in a row are compared with each other; it divides N.
    """
    flat = images.float().flatten(1).unflatten(0, (-1, group))
    total = float(torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum())
    pairs = len(flat) * group * (group - 1)
    return total / pairs / images[0].numel() ** 0.5 if pairs else 0.0


def learning_left(loss: Any, real: Tensor, fake: Tensor) -> float:
    r"""Return :math:`\frac{1}{2} \sum_i \lvert \partial L_D / \partial s_i \rvert` over the scores of both kinds.

    Args:
        loss: An :class:`~lightning_modules.losses.adversarial.AdversarialLoss`, which takes means.
        real: Scores of real images, shape (N,).
        fake: Scores of generated images, shape (N,).
    """
    with torch.enable_grad():
        scores = [each.detach().float().requires_grad_() for each in (real, fake)]
        slopes = torch.autograd.grad(loss.discriminator(*scores), scores)
    return sum(float(slope.abs().sum()) for slope in slopes) / 2
