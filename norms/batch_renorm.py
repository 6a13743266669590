"""Batch Renormalization (Ioffe, 2017)."""

import math
import warnings
from typing import Self, Unpack, cast

import torch
from torch import Tensor

from .base import CommonOptions, FormulaNorm
from .batch import BatchFormula
from .errors import check_range
from .formula import Formula, Gradients, Moments
from .recomputation import RecentPasses, snapshot


class BatchRenormFormula(Formula):
    """Compute ``scale = r / std_batch`` and ``offset = (mean - mean_batch) * scale + d``, with constants r and d.

    The mixing tensors are the running mean and standard deviation, each of shape (C,).

    Args:
        r_max: Limit of r, at least 1.
        d_max: Limit of d, not negative.
    """

    per_sample = False

    def __init__(self, r_max: float | Tensor, d_max: float | Tensor) -> None:
        super().__init__()
        self.r_max = r_max
        self.d_max = d_max

    def _correction(self, moments: Moments, mixing: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        # Detached one by one, since no_grad would let derivatives in forward mode pass.
        running_mean, running_std, mean, power = (
            t.detach() for t in (*mixing, moments.batch_mean, moments.batch_power)
        )
        # Limits are both numbers or both tensors, which torch's types do not say.
        r_max, d_max = cast(float, self.r_max), cast(float, self.d_max)
        r, d = power.sqrt() / running_std, (mean - running_mean) / running_std
        return torch.clamp(r, 1 / r_max, r_max), torch.clamp(d, -d_max, d_max)

    def coefficients(self, moments: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset."""
        r, d = self._correction(moments, mixing)
        scale = r * torch.rsqrt(moments.batch_power)
        return scale, torch.addcmul(d, moments.deviation, scale)

    def gradients(self, moments: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor) -> Gradients:
        """Differentiate scale and offset."""
        r, _ = self._correction(moments, mixing)
        scale = r * torch.rsqrt(moments.batch_power)
        grad = torch.addcmul(grad_scale, grad_offset, moments.deviation).sum(0)
        return Gradients(
            deviation=grad_offset * scale,
            batch_power=grad * scale / moments.batch_power,
            mixing=(None,) * len(mixing),
        )


def _rise(share: float | Tensor, start: float, stop: float) -> float | Tensor:
    """Return the value at a share of the way from start to stop."""
    inside = share.clamp(0, 1) if isinstance(share, Tensor) else min(max(share, 0.0), 1.0)
    return start + inside * (stop - start)


class BatchRenorm(FormulaNorm):
    r"""Normalize by batch statistics, corrected towards the running ones.

    Batch normalization whose training output is corrected to what evaluation would give, within limits that loosen as
    the running statistics settle. It makes training with small or dependent batches work:

    .. math::
        y = \gamma \left(\frac{x - \mu_B}{\sigma_B} \, r + d\right) + \beta, \qquad
        r = \mathrm{clip}_{[1/r_{max}, r_{max}]}\!\left(\frac{\sigma_B}{\sigma}\right), \quad
        d = \mathrm{clip}_{[-d_{max}, d_{max}]}\!\left(\frac{\mu_B - \mu}{\sigma}\right), \qquad
        \sigma_B = \sqrt{\sigma_B^2 + \epsilon}

    where the moments of the batch are taken over N and positions, with the biased variance, and :math:`\mu, \sigma` are
    the running mean and standard deviation, updated after use. No gradient flows through r and d. In evaluation
    :math:`y = \gamma (x - \mu) / \sigma + \beta`.

    The limits follow the paper's schedule by ``num_batches_tracked``: no correction for the first eighth of
    ``schedule_steps``, then a linear rise to ``d_max`` at five eighths and to ``r_max`` at the end. The default is the
    paper's 5,000, 25,000 and 40,000 steps; give the length of a shorter run.

    Args:
        num_features: Number of channels C.
        r_max: Final limit of the scale's correction, at least 1.
        d_max: Final limit of the offset's correction, not negative.
        schedule_steps: Training batches until both limits are final; 0 starts with them.
        options: Those of :class:`norms.MomentNorm`, which also says what the layer keeps, takes and raises, but
            ``track_running_stats``; ``momentum`` is 0.01 by default.

    Attributes:
        running_std (Tensor): In place of ``running_var`` the average of the batches' :math:`\sigma_B`, biased and with
            its epsilon, shape (C,), starts at 1. The paper averages the standard deviation, not the variance.
        num_batches_tracked (Tensor): int64 scalar, the step of the schedule.

    Source:
        Ioffe, Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models, NeurIPS 2017,
        algorithm 1 and section 4.
    """

    spread = "running_std"
    running_std: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        schedule_steps: int = 40_000,
        initial_gamma: float = 1.0,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(num_features, eps, momentum, initial_gamma=initial_gamma, **options)
        check_range("r_max", r_max, at_least=1)
        check_range("d_max", d_max, at_least=0)
        check_range("schedule_steps", schedule_steps, at_least=0)
        self.r_max = r_max
        self.d_max = d_max
        self.schedule_steps = schedule_steps
        self._passes = RecentPasses()

    def train(self, mode: bool = True) -> Self:
        """Set the mode. It warns if evaluation begins while the running statistics still tell of their start."""
        count = self.num_batches_tracked
        if self.training and not mode and count is not None and self.momentum and not count.is_meta:
            settled = math.ceil(math.log(0.1) / math.log1p(-self.momentum)) if self.momentum < 1 else 1
            if 0 < int(count) < settled:
                warnings.warn(
                    f"{type(self).__name__} evaluates after fewer than the {settled} training batches in which its "
                    f"running statistics, with momentum {self.momentum:g}, settle: train longer, with a larger "
                    "momentum, or call norms.recalibrate",
                    stacklevel=2,
                )
        return super().train(mode)

    def _formula(self) -> Formula:
        # Without running statistics there is nothing to correct to, as while norms.recalibrate estimates them.
        corrects = self.training and self.running_mean is not None
        return BatchRenormFormula(*self.limits()) if corrects else BatchFormula()

    def _mixing(self) -> tuple[Tensor, ...]:
        if self.running_mean is None or not self.training:
            return ()
        return snapshot(self.running_mean), snapshot(self.running_std)

    def _population(self) -> tuple[Tensor, Tensor, float]:
        assert self.running_mean is not None
        return self.running_mean, self.running_std.square(), 0.0

    def limits(self) -> tuple[float | Tensor, float | Tensor]:
        """Return r_max >= 1 and d_max >= 0, the limits in the next training batch: numbers or scalar tensors."""
        assert self.num_batches_tracked is not None
        # On another device to read the count would mean to wait for it, and in a graph to keep it for ever.
        count = self.num_batches_tracked
        readable = not torch.compiler.is_compiling() and count.device.type == "cpu"
        step = float(count) if readable else snapshot(count).to(torch.float32)
        # From 1 and 0 at an eighth of the schedule, r_max and d_max are reached at its end and at five eighths: the
        # paper's breakpoints, 5k, 25k and 40k steps, as parts of the whole.
        late = math.inf if self.schedule_steps == 0 else step / self.schedule_steps - 1 / 8
        return _rise(late * 8 / 7, 1, self.r_max), _rise(late * 2, 0, self.d_max)

    def observed_spread(self, second: Tensor, count: int | Tensor) -> Tensor:
        """Turn a biased second central moment into a standard deviation with its epsilon."""
        return (second + self.eps).sqrt()


class BatchRenorm1d(BatchRenorm, dims=1):
    """Normalize activations of shape (N, C) or (N, C, L)."""


class BatchRenorm2d(BatchRenorm, dims=2):
    """Normalize activations of shape (N, C, H, W)."""


class BatchRenorm3d(BatchRenorm, dims=3):
    """Normalize activations of shape (N, C, D, H, W)."""
