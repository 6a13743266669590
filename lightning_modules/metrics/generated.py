"""Features of images that a generator draws."""

import torch
from torch import Tensor

from lightning_modules.generation import ImageGenerator
from lightning_modules.metrics.extractors import Extractor

METRICS = 2**32 - 3
"""Key of the latent vectors that numbers are computed from, beside the keys in ``generation.py``."""

BATCH = 256


def to_bytes(images: Tensor) -> Tensor:
    """Round images in [0, 1] to 8 bits, as they would be saved, and as real ones are."""
    return (images.clamp(0, 1) * 255).round().byte()


@torch.no_grad()
def generated_features(model: ImageGenerator, extractor: Extractor, count: int) -> tuple[Tensor, Tensor]:
    """Draw images by the averaged generator from the same latent vectors at any time, and compute their features.

    Classes, if there are any, come in turn.

    Args:
        model: Draws the images.
        extractor: On the device of the model.
        count: How many images.

    Returns:
        Features (count, D) and logits (count, K).
    """
    features, logits = [], []
    labels = model.fixed_labels(count)
    for index, begin in enumerate(range(0, count, BATCH)):
        part = slice(begin, min(begin + BATCH, count))
        latents = model.fixed_latents(METRICS, part.stop - begin, index)
        images = model.sample(latents, None if labels is None else labels[part])
        found = extractor(to_bytes(images))
        features.append(found[0])
        logits.append(found[1])
    return torch.cat(features), torch.cat(logits)
