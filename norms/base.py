"""What the layers built on plane moments share, and what those that learn how to normalize add to it."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from norms.moments import pool_batch


class MomentNorm(nn.Module, ABC):
    """Base of the norms that derive an affine map from plane moments (see :mod:`norms.moments`).

    A subclass implements :meth:`_normalize`. Conventions are those of ``torch.nn.BatchNorm2d``: normalization uses the
    biased variance, ``running_var`` estimates the unbiased one, ``momentum`` weighs the new value, and evaluation uses
    the running statistics if they are tracked, otherwise the batch's own.

    Args:
        num_features: Number of channels C.
        eps: Added to variances, positive.
        momentum: Weight of the new batch in the running statistics, in [0, 1]; None averages all batches equally.
        affine: Whether to learn ``weight`` (gamma, starts at 1) and ``bias`` (beta, starts at 0), each of shape (C,).
        track_running_stats: Whether to keep ``running_mean`` (C,), ``running_var`` (C,) and ``num_batches_tracked``.
        device: Where parameters and buffers live.
        dtype: Dtype of parameters and buffers.

    Raises:
        ValueError: If an argument is outside its range.
    """

    spatial_dims: ClassVar[int]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        if eps <= 0:
            raise ValueError(f"eps must be positive, got {eps}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be None or lie in [0, 1], got {momentum}")
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if affine else None
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.empty(num_features, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("running_var", torch.empty(num_features, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0, device=device) if tracked else None)

    def reset_running_stats(self) -> None:
        """Forget the running statistics: mean 0, variance 1, no batches."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Return parameters and running statistics to their initial values."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    @abstractmethod
    def _normalize(self, x: Tensor, population: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize ``x`` with population statistics, or with the batch's own where they are None; see modulate."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``.

        Args:
            x: Activations, shape (N, C, L), (N, C, H, W) or (N, C, D, H, W) by the class's dimension.

        Returns:
            The normalized activations: shape, dtype and memory format of ``x``.

        Raises:
            ValueError: If the shape does not fit, or in training if a plane holds a single value.
        """
        self._check_input(x)
        use_population = not self.training and self.track_running_stats
        population = (self.running_mean, self.running_var) if use_population else (None, None)
        y, mean, var = self._normalize(x, population)
        if self.training and self.track_running_stats:
            self._update_running_stats(mean, var, x.numel() // x.shape[1])
        return y

    def _check_input(self, x: Tensor) -> None:
        name, dims = type(self).__name__, self.spatial_dims
        if x.ndim == 2 and dims == 1:
            raise ValueError(
                f"{name} needs (N, C, L) input, got shape {tuple(x.shape)}: "
                "instance statistics do not exist for a single value per channel"
            )
        if x.ndim != dims + 2:
            raise ValueError(f"{name} needs {dims + 2}-dimensional input (N, C, ...), got shape {tuple(x.shape)}")
        if x.shape[1] != self.num_features:
            raise ValueError(f"{name} was built for {self.num_features} channels, got shape {tuple(x.shape)}")
        if self.training and x.shape[2:].numel() == 1:
            raise ValueError(
                f"{name} needs more than one value per channel and sample in training, got shape {tuple(x.shape)}: "
                "the instance variance of a single value does not exist"
            )

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, var: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        batch_mean, batch_var = pool_batch(mean, var)
        # A tensor, not a float: reading the count back would break a compiled graph.
        momentum = 1 / self.num_batches_tracked.to(mean.dtype) if self.momentum is None else self.momentum
        for running, batch in ((self.running_mean, batch_mean), (self.running_var, batch_var * (count / (count - 1)))):
            running.copy_(running + momentum * (batch - running))

    def extra_repr(self) -> str:
        """The arguments, as in torch's own norms."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class MixingNorm(MomentNorm):
    """A norm that learns how to normalize, and says what it has learned.

    The methods belong to the module, not to tags on its parameters, because tags are lost when a module is copied.
    """

    optimizer_group: ClassVar[str]
    """Which learning rate multiplier of :func:`norms.param_groups` applies to the mixing parameters."""

    @abstractmethod
    def mixing_parameters(self) -> list[nn.Parameter]:
        """The parameters that decide the mixture."""

    @abstractmethod
    def mixing_values(self) -> dict[str, Tensor]:
        """The effective mixing values by kind, detached copies: probabilities, never logits."""

    def project_(self) -> None:
        """Return the mixing parameters to their allowed set, in place. Unconstrained parameters need nothing."""
