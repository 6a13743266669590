"""Switchable Normalization (Luo et al., 2019)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from .base import MixingNorm, NormOptions
from .errors import SettingError, check_range
from .formula import Formula, Gradients, Moments
from .kinds import MEAN_WEIGHT, STATISTICS, VAR_WEIGHT, MixingKind
from .pooling import pool_layer, whole
from .recomputation import RecentPasses, snapshot


class SwitchableFormula(Formula):
    """Compute ``scale = 1 / sqrt(sum w'_k power_k)`` and ``offset = (mean - sum w_k mean_k) * scale``.

    The mixing tensors are the shares w and w', each of shape (K,) and with sum 1, of the K statistics, or their logits.

    Args:
        statistics: What is mixed, some of :data:`STATISTICS`.
        of_logits: Whether the mixing tensors are logits, to be turned into shares by a softmax.
    """

    per_sample = True

    def __init__(self, statistics: Sequence[str] = STATISTICS, of_logits: bool = False) -> None:
        super().__init__(uses_batch="batch" in statistics)
        self.statistics = statistics
        self.of_logits = of_logits

    def _shares(self, mixing: tuple[Tensor, ...]) -> list[Tensor]:
        return [given.softmax(0) if self.of_logits else given for given in mixing]

    def _sources(self, moments: Moments) -> dict[str, tuple[Tensor, Tensor]]:
        """Return by statistic the distance of the plane's mean from its mean, and its power."""
        sources: dict[str, tuple[Tensor, Tensor]] = {}
        if "instance" in self.statistics:
            sources["instance"] = moments.power.new_zeros(1), moments.power
        if "layer" in self.statistics:
            mean, power = pool_layer(moments.mean, moments.power)
            sources["layer"] = moments.mean - mean, power
        if "batch" in self.statistics:
            sources["batch"] = moments.deviation, moments.batch_power
        return sources

    def coefficients(self, moments: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset."""
        scale, centered = self._mix(self._sources(moments), self._shares(mixing))
        return scale, centered * scale

    def _mix(self, sources: dict[str, tuple[Tensor, Tensor]], shares: list[Tensor]) -> tuple[Tensor, Tensor]:
        # Shares sum to 1, so that the mean of the plane minus the mixed mean is a mixture of distances.
        distances, powers = zip(*sources.values(), strict=True)
        return torch.rsqrt(_weighted_sum(shares[1], powers)), _weighted_sum(shares[0], distances)

    def gradients(self, moments: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor) -> Gradients:
        """Differentiate scale and offset."""
        sources, shares = self._sources(moments), self._shares(mixing)
        scale, centered = self._mix(sources, shares)
        grad_centered = grad_offset * scale
        # -2 times the gradient for the mixed power.
        grad_mixed = torch.addcmul(grad_scale, grad_offset, centered) * scale.pow(3)
        mean = power = batch_power = deviation = None
        mean_grads, var_grads = [], []
        for (name, (distance, own_power)), of_mean, of_var in zip(
            sources.items(), shares[0].unbind(), shares[1].unbind(), strict=True
        ):
            mean_grads.append(grad_centered.new_zeros(()) if name == "instance" else (grad_centered * distance).sum())
            var_grads.append((grad_mixed * own_power).sum())
            share = grad_mixed * of_var
            if name == "instance":
                power = share
            elif name == "layer":
                share = share.mean(1, keepdim=True)
                power = share if power is None else power + share
                pulled = (grad_centered - grad_centered.mean(1, keepdim=True)) * of_mean
                mean = torch.addcmul(pulled, distance, share, value=-1)
            else:
                batch_power, deviation = share.sum(0), grad_centered * of_mean
        grads = [torch.stack(mean_grads), torch.stack(var_grads) / -2]
        if self.of_logits:
            grads = [share * (grad - (share * grad).sum()) for share, grad in zip(shares, grads, strict=True)]
        return Gradients(mean, power, batch_power, deviation, tuple(grads))


def _shares(logits: Tensor, radius: Tensor | None) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.softmax(0) if radius is None else sparsestmax(logits, radius)


def _by_statistic(logits: Tensor, radius: Tensor | None, statistics: Sequence[str]) -> Tensor:
    """Return a share for each of :data:`STATISTICS`, 0 for those that are not mixed."""
    shares = _shares(logits, radius)
    found = dict(zip(statistics, shares.unbind(), strict=True))
    return torch.stack([found.get(name, shares.new_zeros(())) for name in STATISTICS])


def _weighted_sum(shares: Tensor, values: Sequence[Tensor]) -> Tensor:
    first, *others = shares.unbind()
    total = values[0] * first
    for share, value in zip(others, values[1:], strict=True):
        total = torch.addcmul(total, value, share)
    return total


def sparsestmax(logits: Tensor, radius: Tensor) -> Tensor:
    r"""Find the point of the simplex nearest to ``logits``, and move it out of a circle around equal shares.

    At radius 0 it is sparsemax; from :math:`\sqrt{(K - 1) / K}`, the distance of the corners, it is one-hot. The shares
    have the shape of the logits, (K,), are not negative and sum to 1.

    Source:
        Shao et al. 2019, section 3.2; sparsemax from Martins & Astudillo 2016, arXiv 1602.02068, algorithm 1.
    """
    count = len(logits)
    corners = radius >= math.sqrt((count - 1) / count)
    radius = radius.to(logits.dtype)
    shares = _sparsemax(logits)
    # Each round leaves the circle within the face that the shares lie on; where that leaves the face, the next round
    # goes on from a face of it, which has one corner less.
    for _ in range(count - 1):
        face = (shares > 0).to(shares.dtype)
        center = face / face.sum()
        remaining = (radius.square() - (center - 1 / count).square().sum()).clamp_min(0).sqrt()
        direction = shares - center
        # Equal shares have no direction to leave by and stay until a gradient gives them one.
        length = direction.square().sum().clamp_min(1e-24).sqrt()
        inside = (length < remaining) & (length > 1e-11)
        shares = _sparsemax(torch.where(inside, center + direction * (remaining / length), shares))
    corner = torch.zeros_like(shares).scatter(0, shares.argmax(0, keepdim=True), 1.0)
    return torch.where(corners, corner, shares)


def _sparsemax(logits: Tensor) -> Tensor:
    ordered = logits.sort(descending=True).values
    ranks = torch.arange(1, len(logits) + 1, device=logits.device, dtype=logits.dtype)
    excess = ordered.cumsum(0) - 1
    support = (ranks * ordered > excess).sum()
    threshold = excess.gather(0, support.unsqueeze(0) - 1) / support
    return (logits - threshold).clamp_min(0)


class SwitchableNorm(MixingNorm):
    r"""Normalize by mixtures of instance, layer and batch statistics.

    Each layer learns how to mix the means, and separately the variances, of instance, layer and batch normalization:

    .. math::
        y = \gamma \, \frac{x - \sum_k w_k \mu_k}{\sqrt{\sum_k w'_k \sigma_k^2 + \epsilon}} + \beta, \qquad
        w = \mathrm{softmax}(\lambda), \quad w' = \mathrm{softmax}(\lambda'), \quad
        k \in \{\mathrm{instance}, \mathrm{layer}, \mathrm{batch}\}

    where instance moments are taken over positions, layer moments over C and positions and batch moments over N and
    positions, all with the biased variance, and all channels of the layer share the weights. In evaluation the batch
    moments are the running ones.

    With ``statistics=("instance", "layer")`` nothing depends on the batch, as batches of one sample want it. With
    ``sparse_steps`` the softmax gives way to SparsestMax, which keeps the shares outside a circle around equal shares
    whose radius grows with every training batch, until after so many the layer has chosen one statistic for the means
    and one for the variances.

    It mixes statistics, where :class:`BatchInstanceNorm2d` mixes normalized outputs. Where the authors' code differs
    from the paper, this layer follows the paper's formula and torch's conventions.

    Args:
        num_features: Number of channels C.
        statistics: What to mix: two or three of ``instance``, ``layer`` and ``batch``.
        sparse_steps: Training batches after which each weight is 0 or 1; None keeps the softmax.
        options: Those of :class:`norms.MomentNorm`, which also says what the layer keeps, takes and raises.

    Attributes:
        mean_weight (Parameter): Logits lambda of the means, shape (K,) in the order of ``statistics``, start at 1
            (equal).
        var_weight (Parameter): Logits lambda' of the variances, likewise.
        radius (Tensor): Radius of the circle, scalar, starts at 0, and 1 when the choice is made; None without
            ``sparse_steps``.
        sparse_step (Tensor): Training batches since the circle began to grow, int64 scalar; None without
            ``sparse_steps``. An average of models has to copy both, as ``AveragedModel`` does with
            ``use_buffers=False``: averaged, they lag behind, and no choice is made.

    Source:
        Luo et al., Differentiable Learning-to-Normalize via Switchable Normalization, ICLR 2019, section 2, equation 3;
        Shao et al., SSN: Learning Sparse Switchable Normalization via SparsestMax, CVPR 2019, section 3.2.
    """

    kinds = (MEAN_WEIGHT, VAR_WEIGHT)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        statistics: Sequence[str] = STATISTICS,
        sparse_steps: int | None = None,
        **options: Unpack[NormOptions],
    ) -> None:
        chosen = tuple(name for name in STATISTICS if name in statistics)
        if len(chosen) < 2 or len(chosen) != len(statistics):
            raise SettingError(f"statistics must be two or three of {', '.join(STATISTICS)}, got {list(statistics)}")
        check_range("sparse_steps", sparse_steps, at_least=1)
        self.statistics = chosen
        super().__init__(num_features, eps, momentum, **options)
        self.sparse_steps = sparse_steps
        device, dtype = options.get("device"), options.get("dtype")
        self.mean_weight = nn.Parameter(torch.empty(len(chosen), device=device, dtype=dtype))
        self.var_weight = nn.Parameter(torch.empty(len(chosen), device=device, dtype=dtype))
        self.radius: Tensor | None
        self.sparse_step: Tensor | None
        sparse = sparse_steps is not None
        self.register_buffer("radius", torch.zeros((), device=device, dtype=dtype) if sparse else None)
        self.register_buffer("sparse_step", torch.tensor(0, device=device) if sparse else None)
        self._passes = RecentPasses() if sparse else None
        self.reset_parameters()

    @property
    def uses_batch(self) -> bool:
        """Whether batch statistics are among those mixed."""
        return "batch" in self.statistics

    def reset_parameters(self) -> None:
        """Return parameters and running statistics to their initial values."""
        super().reset_parameters()
        nn.init.ones_(self.mean_weight)
        nn.init.ones_(self.var_weight)
        if self.radius is not None and self.sparse_step is not None:
            self.radius.zero_()
            self.sparse_step.zero_()

    def statistics_of(self, kind: MixingKind) -> tuple[str, ...]:
        """Return the statistics that the layer mixes."""
        return self.statistics

    def _formula(self) -> Formula:
        return SwitchableFormula(self.statistics, of_logits=self.radius is None)

    def _mixing(self) -> tuple[Tensor, ...]:
        if self.radius is None:
            return self.mean_weight, self.var_weight
        radius = snapshot(self.radius)
        return _shares(self.mean_weight, radius), _shares(self.var_weight, radius)

    def _normalize(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        y = super()._normalize(x, weight, bias)
        if self.training:
            self._grow_radius()
        return y

    @torch.no_grad()
    def _grow_radius(self) -> None:
        if self.radius is None or self.sparse_step is None or self.sparse_steps is None:
            return
        self.sparse_step.add_(1)
        progress = self.sparse_step.to(torch.float32) / self.sparse_steps
        corner = math.sqrt((len(self.statistics) - 1) / len(self.statistics))
        # At the end 1, which no dtype rounds to less than the corner's distance.
        self.radius.copy_(torch.where(progress < 1, progress * corner, 1))

    @torch.no_grad()
    def mixing_values(self) -> dict[str, Tensor]:
        """Return the shares of all :data:`STATISTICS` by kind, 0 for those that are not mixed."""
        return {
            kind.name: _by_statistic(whole(getattr(self, kind.name)), self.radius, self.statistics)
            for kind in self.kinds
        }

    @classmethod
    @torch.no_grad()
    def read_state(
        cls, state: Mapping[str, Tensor], *, statistics: Sequence[str] | None = None, **options: Any
    ) -> dict[str, Tensor] | None:
        """Read the shares; see :meth:`MixingNorm.read_state`. Two of them need ``statistics`` to say which."""
        logits = super().read_state(state)
        if logits is None:
            return None
        count = len(logits["mean_weight"])
        if statistics is None or len(statistics) != count:
            without_batch = count == 2 and "running_mean" not in state
            statistics = STATISTICS if count == len(STATISTICS) else STATISTICS[:2] if without_batch else ()
        if not statistics:
            raise SettingError(f"a switchable norm mixes {count} statistics, and does not say which")
        names = [name for name in STATISTICS if name in statistics]
        return {name: _by_statistic(values, state.get("radius"), names) for name, values in logits.items()}


class SwitchableNorm1d(SwitchableNorm, dims=1):
    """Normalize activations of shape (N, C, L)."""


class SwitchableNorm2d(SwitchableNorm, dims=2):
    """Normalize activations of shape (N, C, H, W)."""


class SwitchableNorm3d(SwitchableNorm, dims=3):
    """Normalize activations of shape (N, C, D, H, W)."""
