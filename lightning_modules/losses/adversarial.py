"""Adversarial losses as pure functions of the discriminator's scores (unbounded logits, higher is more real)."""

from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor

from norms.errors import SettingError
from norms.imports import resolve


class AdversarialLoss(Protocol):
    """Give the losses of the two sides of one game, each a scalar."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the discriminator's loss, given its scores of real and of generated images."""

    def generator(self, fake: Tensor) -> Tensor:
        """Return the generator's loss, given the discriminator's scores of generated images."""


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


LOSSES: dict[str, type[AdversarialLoss]] = {"hinge": Hinge, "non_saturating": NonSaturating}


def adversarial_loss(choice: str | type[AdversarialLoss]) -> AdversarialLoss:
    """Make a loss.

    Args:
        choice: A name in ``LOSSES``, or a class path or class of an :class:`AdversarialLoss`, built without arguments.

    Raises:
        SettingError: If there is no such thing, or it has not both sides.
    """
    found: Any = resolve("adversarial loss", choice, LOSSES)
    loss: AdversarialLoss = found() if isinstance(found, type) else found
    for side in ("discriminator", "generator"):
        if not callable(getattr(loss, side, None)):
            raise SettingError(f"adversarial loss {choice!r} has no method {side}")
    return loss
