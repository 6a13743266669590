"""Adversarial losses as pure functions of the discriminator's scores (unbounded logits, higher is more real)."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor

from norms.errors import SettingError
from norms.imports import resolve


class AdversarialLoss(Protocol):
    """Give the losses of the two sides of one game, each a scalar.

    A class with the attribute ``paired = True`` compares each generated image with a real one. Its ``generator`` takes
    the scores of real images as a second argument, and both of its methods need as many real scores as generated ones.

    The attribute ``boundary`` is the score above which an image counts as real; 0 for a loss without the attribute, and
    None if only differences of scores mean something. Adaptive augmentation asks for it.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the discriminator's loss, given its scores of real and of generated images."""

    @property
    def generator(self) -> Callable[..., Tensor]:
        """Return the generator's loss, given scores of generated images and, if ``paired``, of real ones."""


class Hinge:
    """Compute the hinge loss.

    Source:
        Lim and Ye 2017 (arXiv 1705.02894); Miyato et al. 2018 (arXiv 1802.05957), equations 16, 17.
    """

    @staticmethod
    def discriminator(real: Tensor, fake: Tensor) -> Tensor:
        """Return mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))).

        It is at least 0, and exactly 0 once every real score is at least 1 and every fake score at most -1.
        """
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    @staticmethod
    def generator(fake: Tensor) -> Tensor:
        """Return -mean D(G(z)), of either sign."""
        return -fake.mean()


class NonSaturating:
    """Compute the cross entropy of Goodfellow et al. 2014 (arXiv 1406.2661), equation 1 and section 3.

    s is the logistic function. Written with softplus, which neither overflows nor needs a guard within the logarithm.
    """

    @staticmethod
    def discriminator(real: Tensor, fake: Tensor) -> Tensor:
        """Return -mean log s(D(x)) - mean log(1 - s(D(G(z)))), above 0; 2 log 2 if the discriminator cannot tell."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    @staticmethod
    def generator(fake: Tensor) -> Tensor:
        """Return -mean log s(D(G(z))), above 0."""
        return F.softplus(-fake).mean()


class LeastSquares:
    """Compute the squared distance of the scores from their targets, 1 for real and 0 for generated images.

    Source:
        Mao et al. 2017 (arXiv 1611.04076), equation 9.
    """

    boundary = 0.5

    @staticmethod
    def discriminator(real: Tensor, fake: Tensor) -> Tensor:
        """Return mean (D(x) - 1)^2 / 2 + mean D(G(z))^2 / 2, at least 0; 1/4 if the discriminator cannot tell."""
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    @staticmethod
    def generator(fake: Tensor) -> Tensor:
        """Return mean (D(G(z)) - 1)^2 / 2, at least 0."""
        return (fake - 1).square().mean() / 2


class Wasserstein:
    """Compute the difference of the mean scores.

    It estimates a distance only if something bounds how steep the discriminator is, such as spectral normalization or
    :func:`lightning_modules.losses.penalties.gradient_penalty`. The weights are not clipped.

    Source:
        Arjovsky et al. 2017 (arXiv 1701.07875), section 3 and algorithm 1.
    """

    boundary = None

    @staticmethod
    def discriminator(real: Tensor, fake: Tensor) -> Tensor:
        """Return mean D(G(z)) - mean D(x), of either sign; 0 if the discriminator cannot tell."""
        return fake.mean() - real.mean()

    @staticmethod
    def generator(fake: Tensor) -> Tensor:
        """Return -mean D(G(z)), of either sign."""
        return -fake.mean()


class Relativistic:
    """Compute by how much each real image is scored above the generated one that it is paired with.

    Source:
        Jolicoeur-Martineau 2019 (arXiv 1807.00734), the relativistic standard GAN; Huang et al. 2024
        (arXiv 2501.05441), section 2, who pair it with R1 and R2, without which it may not converge.
    """

    paired = True
    boundary = None

    @staticmethod
    def discriminator(real: Tensor, fake: Tensor) -> Tensor:
        """Return mean softplus(-(D(x) - D(G(z)))), above 0; log 2 if the discriminator cannot tell.

        Raises:
            SettingError: If the scores are not as many on both sides.
        """
        _check_pairs(real, fake)
        return F.softplus(fake - real).mean()

    @staticmethod
    def generator(fake: Tensor, real: Tensor) -> Tensor:
        """Return mean softplus(-(D(G(z)) - D(x))), above 0.

        Raises:
            SettingError: If the scores are not as many on both sides.
        """
        _check_pairs(real, fake)
        return F.softplus(real - fake).mean()


def _check_pairs(real: Tensor, fake: Tensor) -> None:
    # A single score would be taken for a partner of all others.
    if real.shape != fake.shape:
        raise SettingError(
            f"a relativistic loss needs as many generated images as real ones, got {len(fake)} and {len(real)}"
        )


LOSSES: dict[str, type[AdversarialLoss]] = {
    "hinge": Hinge,
    "non_saturating": NonSaturating,
    "least_squares": LeastSquares,
    "wasserstein": Wasserstein,
    "relativistic": Relativistic,
}


def adversarial_loss(choice: str | type[AdversarialLoss]) -> AdversarialLoss:
    """Make a loss.

    Args:
        choice: A name in ``LOSSES``, or a class path or class of an :class:`AdversarialLoss`, built without arguments.

    Raises:
        SettingError: If there is no such thing, it takes arguments, or it has not both sides.
    """
    found: Any = resolve("adversarial loss", choice, LOSSES)
    if isinstance(found, type):
        try:
            inspect.signature(found).bind()
        except (TypeError, ValueError) as error:
            raise SettingError(f"adversarial loss {choice!r} cannot be built without arguments: {error}") from error
    loss: AdversarialLoss = found() if isinstance(found, type) else found
    for side in ("discriminator", "generator"):
        if not callable(getattr(loss, side, None)):
            raise SettingError(f"adversarial loss {choice!r} has no method {side}")
    return loss
