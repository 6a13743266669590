"""A norm as a function of moments: what differs between norms, and what it is written in."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """Hold what the coefficients of a norm may depend on. A power is a biased variance plus the norm's epsilon.

    Attributes:
        mean: Means of the planes, shape (N, C).
        power: Powers of the planes, shape (N, C).
        batch_mean: Means of the batch, or of the population that stands in for it, shape (C,).
        batch_power: Likewise, shape (C,).
        deviation: ``mean - batch_mean``, shape (N, C).
    """

    mean: Tensor
    power: Tensor
    batch_mean: Tensor
    batch_power: Tensor
    deviation: Tensor


class Gradients(NamedTuple):
    """Hold the gradients for what a formula depends on, of its shapes or of shapes that broadcast to them; None is 0.

    Those for powers are multiplied by -2, the factor that the derivative of ``power ** -0.5`` divides by.

    Attributes:
        mean: For the means of the planes, at fixed deviation.
        power: For the powers of the planes, times -2.
        batch_power: For the power of the batch, times -2.
        deviation: For the deviation.
        mixing: For the other tensors.
    """

    mean: Tensor | None = None
    power: Tensor | None = None
    batch_power: Tensor | None = None
    deviation: Tensor | None = None
    mixing: tuple[Tensor | None, ...] = ()


class BatchMoments(NamedTuple):
    """Hold the moments of a batch, together with those of other processes if they pool theirs.

    Attributes:
        mean: Shape (C,).
        var: Biased variance, shape (C,).
        total: Number of values per channel.
    """

    mean: Tensor
    var: Tensor
    total: int | Tensor


class Formula(ABC):
    """Describe a norm as a function of moments.

    Args:
        uses_batch: Whether batch moments enter the coefficients.
    """

    per_sample: ClassVar[bool]
    """Whether a sample's own moments enter the coefficients, other than to center."""

    def __init__(self, uses_batch: bool = True) -> None:
        self.uses_batch = uses_batch

    @abstractmethod
    def coefficients(self, moments: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset, each of a shape that broadcasts to (N, C), by differentiable operations.

        The batch's mean may enter by the deviation only, or without a gradient.

        Args:
            moments: Moments of planes and batch.
            mixing: What else the coefficients depend on, such as rho.
        """

    @abstractmethod
    def gradients(self, moments: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor) -> Gradients:
        """Differentiate the coefficients, given the gradients for scale and offset, both of shape (N, C)."""
