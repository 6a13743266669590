"""Adversarial losses as pure functions of the discriminator's scores (unbounded logits, higher is more real)."""

import difflib
from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from norms.errors import SettingError


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator, mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))).

    Source: Lim and Ye 2017 (arXiv 1705.02894); Miyato et al. 2018 (arXiv 1802.05957), equation 16.

    Args:
        real: Scores of real images.
        fake: Scores of generated images; the two may differ in number.

    Returns:
        A scalar, at least 0; exactly 0 once every real score is at least 1 and every fake score at most -1.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Loss of the generator against a hinge discriminator, -mean D(G(z)).

    Source: Miyato et al. 2018 (arXiv 1802.05957), equation 17.

    Args:
        fake: Scores of generated images.

    Returns:
        A scalar of either sign.
    """
    return -fake.mean()


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Cross entropy of the discriminator, -mean log s(D(x)) - mean log(1 - s(D(G(z)))) with the logistic function s.

    Source: Goodfellow et al. 2014 (arXiv 1406.2661), equation 1. Written with softplus, which neither overflows nor
    needs a guard within the logarithm.

    Args:
        real: Scores of real images.
        fake: Scores of generated images; the two may differ in number.

    Returns:
        A scalar above 0; 2 log 2 where the discriminator cannot tell.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_generator(fake: Tensor) -> Tensor:
    """Non-saturating loss of the generator, -mean log s(D(G(z))) with the logistic function s.

    Source: Goodfellow et al. 2014 (arXiv 1406.2661), section 3.

    Args:
        fake: Scores of generated images.

    Returns:
        A scalar above 0.
    """
    return F.softplus(-fake).mean()


class AdversarialLoss(NamedTuple):
    """The two sides of one game."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


LOSSES = {
    "hinge": AdversarialLoss(hinge_discriminator, hinge_generator),
    "non_saturating": AdversarialLoss(non_saturating_discriminator, non_saturating_generator),
}


def adversarial_loss(name: str) -> AdversarialLoss:
    """Look up a loss.

    Raises:
        SettingError: If none has this name.
    """
    if name not in LOSSES:
        close = difflib.get_close_matches(name, LOSSES, n=1)
        guess = f", did you mean '{close[0]}'?" if close else ""
        raise SettingError(f"unknown adversarial loss '{name}'{guess} (known: {', '.join(LOSSES)})")
    return LOSSES[name]
