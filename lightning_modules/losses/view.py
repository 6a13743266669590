"""What of its images a loss network is shown."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 8
"""Below how many pixels random views are shifted: the coarsest common stride of loss networks."""


class View(NamedTuple):
    """Say what of the images a loss network is shown, after they are scaled.

    A loss network takes every second pixel, more than once. An image that is always seen from the same place is painted
    with a lattice of these strides; one that is seen a little larger or smaller and shifted in every step is not.
    """

    scale: float
    right: int
    down: int

    def __call__(self, image: Tensor) -> Tensor:
        """Return the view of images, (B, C, H, W) -> (B, C, about scale * H - down, about scale * W - right)."""
        size = [max(1, round(self.scale * side)) for side in image.shape[-2:]]
        resized = F.interpolate(image, size, mode="bilinear", antialias=True)
        return resized[..., min(self.down, size[0] - 1) :, min(self.right, size[1] - 1) :]

    @classmethod
    def random(cls, jitter: float, generator: torch.Generator) -> "View":
        """Draw a view: a factor between ``exp(-jitter)`` and ``exp(jitter)``, and shifts of up to 7 pixels."""
        scale, right, down = torch.rand(3, generator=generator).tolist()
        return cls(math.exp(jitter * (2 * scale - 1)), int(SHIFT * right), int(SHIFT * down))
