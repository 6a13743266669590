"""A term against lattices: patterns that repeat with the strides of the networks that make and judge an image."""

from typing import ClassVar

import torch
from torch import Tensor

from lightning_modules.losses.perceptual import Features, Term
from norms.errors import check_range

PERIODS = 8
"""How many periods a window has: few enough that a lattice keeps its phase in it, enough to even out strokes."""


class Lattice(Term):
    """Measure by how much pixels differ in the mean that lie at different places of a lattice; 0 without a lattice.

    Networks that halve and double the resolution know where in a square of ``period`` pixels each pixel lies. They use
    this to paint lines and dots at no cost, since a loss network whose strides they fit takes them for texture.

    Args:
        weight: Factor of the term in the loss, at least 0.
        period: Pixels after which the lattice repeats: the product of the network's strides.

    Raises:
        SettingError: If an argument is out of range.
    """

    name: ClassVar[str] = "lattice"

    def __init__(self, weight: float = 300.0, period: int = 4) -> None:
        super().__init__(weight)
        check_range("period", period, at_least=2, at_most=64)
        self.period = period

    def forward(self, image: Tensor, found: Features, wanted: Features) -> Tensor:
        """Compute :func:`lattice`."""
        return lattice(image, self.period)


def lattice(image: Tensor, period: int) -> Tensor:
    r"""Average, over windows of eight periods, the variance between the means of pixels of equal place in the lattice.

    .. math:: \frac{1}{p^2} \sum_{i,j < p} (\mu_{ij} - \bar\mu)^2, \qquad
        \mu_{ij} = \mathrm{mean}\{x_{hw} : h \equiv i, w \equiv j \bmod p\}

    An image smaller than a window is one window, without what is left over; one smaller than a period has none.

    Shape:
        (B, C, H, W) -> ()
    """
    height, width = (side // period for side in image.shape[-2:])
    if not height or not width:
        return image.new_zeros(())
    rows, columns = min(PERIODS, height), min(PERIODS, width)
    kept = image[..., : height // rows * rows * period, : width // columns * columns * period]
    cells = kept.unflatten(-1, (-1, columns, period)).unflatten(-4, (-1, rows, period))
    means = cells.to(torch.promote_types(image.dtype, torch.float32)).mean((3, 6))
    return means.var((3, 5), unbiased=False).mean()
