"""Adaptive instance normalization (Huang & Belongie, 2017): mean and deviation of another picture's features."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import SettingError, check_range
from .formula import Formula, Gradients, Moments
from .moments import modulate
from .precision import check_floating, wide_dtype
from .tracing import trace_call

Statistics = Sequence[Tensor]
"""Mean and standard deviation of a style, each of shape (C,), or (N, C) where samples have their own."""


class InstanceFormula(Formula):
    """Compute scale and offset of instance normalization: ``scale = 1 / std_instance``, ``offset = 0``."""

    per_sample = True

    def __init__(self) -> None:
        super().__init__(uses_batch=False)

    def coefficients(self, moments: Moments, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and offset."""
        return torch.rsqrt(moments.power), torch.zeros_like(moments.power)

    def gradients(self, moments: Moments, grad_scale: Tensor, grad_offset: Tensor, *mixing: Tensor) -> Gradients:
        """Differentiate scale and offset."""
        return Gradients(power=grad_scale * torch.rsqrt(moments.power) / moments.power)


class AdaptiveInstanceNorm(nn.Module):
    r"""Give each channel of each sample the mean and standard deviation that it has in the features of a style.

    .. math::
        y = \sigma(s) \, \frac{x - \mu(x)}{\sigma(x)} + \mu(s), \qquad
        \sigma(x) = \sqrt{\mathrm{Var}(x) + \epsilon}

    with moments over the positions of each sample and channel, and the biased variance. It learns nothing and keeps
    nothing. The style is another picture's features, or their statistics: as y is linear in these, a mixture of the
    statistics of several styles gives the same mixture of results.

    ``nn.Sequential`` hands on a single argument: a network passes the style to its layer itself.

    Args:
        eps: Added to variances, positive: to that of a style too, so that the features themselves for a style give the
            features.

    Raises:
        SettingError: If eps is not positive; in the forward pass if the style does not fit.

    Shape:
        Input and output: (N, C, \*) with one to three dimensions of positions. The style: features of shape (N, C, \*),
        or (1, C, \*) for all samples alike, of any positions; or a pair of mean and standard deviation, each of shape
        (N, C), or (C,) for all samples alike. Statistics are computed in float32 for bfloat16 and float16 input. A
        plane of one position, or of one value, becomes the style's mean.

    Source:
        Huang & Belongie, Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization, ICCV 2017,
        equations 5 to 8.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        check_range("eps", eps, above=0, below=math.inf)
        self.eps = eps

    def statistics(self, style: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return mean and standard deviation of each plane of features, (N, C, \*) -> (N, C) and (N, C)."""
        self._check(style, "style")
        wide, dims = style.to(wide_dtype(style)), tuple(range(2, style.ndim))
        variance, mean = torch.var_mean(wide, dims, correction=0)
        return mean, torch.sqrt(variance + self.eps)

    def forward(self, x: Tensor, style: Tensor | Statistics) -> Tensor:
        """Normalize ``x``, and give it the statistics of ``style``, which are features or a mean and a deviation."""
        if isinstance(x, torch.fx.Proxy):
            return trace_call(self, x, style)
        self._check(x, "input")
        if isinstance(style, Tensor):
            style = self.statistics(style)
        elif len(style) != 2:
            raise SettingError(f"style must be features, or mean and standard deviation, got {len(style)} tensors")
        # Of one sample for all.
        mean, deviation = (each[0] if each.ndim == 2 and len(each) == 1 else each for each in style)
        fitting = {x.shape[1:2], x.shape[:2]}
        if mean.shape not in fitting or deviation.shape not in fitting:
            raise SettingError(
                f"style must have the {x.shape[1]} channels of the input, and one sample or its {x.shape[0]}, got a "
                f"mean of shape {tuple(mean.shape)} and a deviation of shape {tuple(deviation.shape)}"
            )
        return modulate(x, InstanceFormula(), self.eps, weight=deviation, bias=mean)[0]

    def _check(self, x: Tensor, what: str) -> None:
        if x.ndim not in (3, 4, 5):
            raise SettingError(
                f"AdaptiveInstanceNorm needs {what} of shape (N, C, ...) with one to three dimensions of positions, "
                f"got shape {tuple(x.shape)}"
            )
        check_floating(x, type(self).__name__)

    def extra_repr(self) -> str:
        """Return the arguments, as torch's own norms do."""
        return f"eps={self.eps}"
