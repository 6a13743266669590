"""What callbacks ask of a GAN, whatever its networks are."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lightning_modules.base import TrainingModule

NEEDED = ("generator", "discriminator", "loss", "image_shape", "num_classes", "fixed_latents", "fixed_labels")


def is_gan(module: LightningModule) -> bool:
    """Return whether a module has what a GAN has."""
    return isinstance(module, TrainingModule) and all(hasattr(module, name) for name in NEEDED)


def scored(gan: Any, images: Tensor, labels: Tensor | None) -> Tensor:
    """Score images in [-1, 1], of these classes if the discriminator takes any; shape (N,)."""
    with_labels = gan.num_classes and not getattr(gan.discriminator, "auxiliary", False)
    # Past a compiled call, which would compile anew for a batch of another size.
    scores = gan.discriminator.forward(images, labels) if with_labels else gan.discriminator.forward(images)
    return scores[0] if isinstance(scores, tuple) else scores


def run_once(gan: Any, network: str) -> None:
    """Call a network, ``generator`` or ``discriminator``, with a single input, in evaluation mode."""
    if network == "discriminator":
        scored(gan, torch.zeros(1, *gan.image_shape, device=gan.device), gan.fixed_labels(1))
    else:
        inputs = (gan.fixed_latents(0, 1), gan.fixed_labels(1))
        gan.generator.forward(*(each for each in inputs if each is not None))
