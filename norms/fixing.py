"""Norms whose statistics are fixed to those of one pass, so that an image can be computed in parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from .adaptive import AdaptiveInstanceNorm
from .base import MomentNorm
from .errors import SettingError
from .operators import spread
from .precision import wide_dtype
from .registry import known_classes

ROUNDING = 1e-3
"""How far, by rounding in float32, values may lie off a line, as a share of their deviation."""

CHANNELS = 8
"""How many channels are looked at at once."""

Line = tuple[Tensor, Tensor]
"""Slope and intercept of each plane, of shape (N, C)."""


@contextmanager
def fixed_statistics(model: nn.Module, *inputs: Any) -> Iterator[None]:
    r"""Fix the statistics of all norms to those of one pass over ``inputs``, while a block runs.

    In evaluation a norm maps every plane by a line, :math:`y = a_{nc} x + b_{nc}`, whose coefficients follow from
    statistics of the sample (see :mod:`norms.moments`). This calls ``model(*inputs)`` once without gradients, takes
    from what each norm was given and returned

    .. math::
        a = \frac{\mathrm{cov}(x, y)}{\mathrm{var}(x)}, \qquad b = \bar{y} - a \bar{x}

    and has the norms apply these lines to whatever they are given in the block: parts of the same samples, say, or the
    same samples in another resolution. It holds for all norms of :func:`norms.names`, conditional and adaptive ones
    too, and for classes added by :func:`norms.register`. Those that map no plane by a line, such as ``layer_pixel`` and
    ``decorrelated_batch``, stay as they are: what they make of a position depends on that position alone, as it does
    for batch statistics in evaluation. A plane that is constant in the pass becomes the constant that it became there.

    Args:
        model: A network in evaluation mode, which calls its norms in the same order in every pass.
        inputs: What it is called with.

    Raises:
        SettingError: If the model is in training mode, or it has a decorrelated norm that tracks no statistics.

    Shape:
        The block's samples are as many as those of ``inputs``, of any size.
    """
    if model.training:
        raise SettingError("fixed_statistics takes a model in evaluation mode: call model.eval() first")
    kinds = (MomentNorm, AdaptiveInstanceNorm, *known_classes())
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    lines = _observed(layers, model, inputs)
    try:
        for layer in layers:
            if lines[layer]:
                setattr(layer, "forward", _by_lines(lines[layer]))  # noqa: B010 - which no type allows
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _observed(layers: list[nn.Module], model: nn.Module, inputs: tuple[Any, ...]) -> dict[nn.Module, list[Line]]:
    """Return the lines by which each norm maps planes, in the order of its calls; none where it has no such lines."""
    lines: dict[nn.Module, list[Line]] = {layer: [] for layer in layers}

    def observe(layer: nn.Module, given: tuple[Any, ...], y: Tensor) -> None:
        line = _line(given[0], y)
        if line is not None:
            lines[layer].append(line)
        elif isinstance(layer, MomentNorm) and layer.uses_batch and layer.running_mean is None:
            raise SettingError(f"the statistics of {type(layer).__name__} cannot be fixed: it tracks none")

    hooks = [layer.register_forward_hook(observe) for layer in layers]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return lines


def _line(x: Tensor, y: Tensor) -> Line | None:
    """Return the line by which each plane was mapped, or None if that was no line."""
    # A few channels at once, since the activations of a large image fill the memory.
    lines = [_line_of_few(*few) for few in zip(x.split(CHANNELS, 1), y.split(CHANNELS, 1), strict=True)]
    allowed = max(ROUNDING, 4 * torch.finfo(y.dtype).eps) ** 2
    if any(left > allowed * total for _, _, left, total in lines):
        return None
    slopes, intercepts, *_ = zip(*lines, strict=True)
    return torch.cat(slopes, 1), torch.cat(intercepts, 1)


def _line_of_few(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float, float]:
    """Return slopes, intercepts, and the variance of ``y`` that they leave and that there was."""
    dtype, dims = wide_dtype(x), tuple(range(2, x.ndim))
    means = [t.to(dtype).mean(dims) for t in (x, y)]
    dx, dy = (t.to(dtype) - spread(mean, t) for t, mean in zip((x, y), means, strict=True))
    variance, covariance = dx.square().mean(dims), (dx * dy).mean(dims)
    varies = variance > (4 * torch.finfo(dtype).eps * means[0]).square()
    slope = torch.where(varies, covariance / variance, 0)
    total = float(dy.square().mean())
    left = dy.addcmul_(spread(slope, x), dx, value=-1).square_().mean()
    return slope, means[1] - slope * means[0], float(left), total


def _by_lines(lines: list[Line]) -> Callable[..., Tensor]:
    calls = cycle(lines)

    def forward(x: Tensor, *_: Any) -> Tensor:
        slope, intercept = next(calls)
        return torch.addcmul(spread(intercept, x), x.to(slope.dtype), spread(slope, x)).to(x.dtype)

    return forward
