"""What computes a norm and its gradient. Which engine is best depends on where the activations live and how they lie.

Each is made for one batch and keeps what its gradient will need: the moments and what follows from them, but no values
of the shape of the activations.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from norms.formula import BatchMoments, Formula

Population = tuple[Tensor, Tensor] | None
"""Mean and biased variance, each of shape (C,), that stand in for those of the batch."""


class Engine(ABC):
    """The computation of one batch.

    Args:
        formula: The norm.
        eps: Added to variances, positive.
        sync: Whether to pool the moments of the batch over all processes.

    Attributes:
        batch: Moments of the batch; there after :meth:`normalize`, where they are used and not a population.
    """

    batch: BatchMoments

    def __init__(self, formula: Formula, eps: float, sync: bool) -> None:
        self.formula = formula
        self.eps = eps
        self.sync = sync

    @abstractmethod
    def normalize(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        population: Population,
        mixing: tuple[Tensor, ...],
        keep: bool = True,
    ) -> Tensor:
        """Compute the normalized activations; of the dtype and the memory format of ``x``.

        Args:
            x: Activations, shape (N, C, *).
            weight: gamma, shape (C,) or (N, C); None is 1.
            bias: beta, likewise; None is 0.
            population: What stands in for the moments of the batch.
            mixing: What the formula depends on beside moments.
            keep: Whether gradients will be asked for.
        """

    @abstractmethod
    def differentiate(
        self,
        grad: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        population: Population,
        mixing: tuple[Tensor, ...],
        needs_x: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
        """Compute the gradients for x, if that is needed, for weight, bias and mixing from the one for the result."""
