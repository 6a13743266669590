"""The norms as functions: tensors in, tensors out, nothing kept.

They are made of elementary operations, so that ``torch.func`` (``grad``, ``vmap``, ``jvp``, ``hessian``), ``torch.fx``
and compilers take them. The layers compute the same by faster kernels, and keep running statistics.

Everywhere ``x`` has the shape (N, C), (N, C, L), (N, C, H, W) or the like, ``weight`` (gamma) and ``bias`` (beta) have
the shape (C,), or (N, C) for one per sample, and None stands for 1 and 0. ``mean`` and ``var``, each of shape (C,),
replace the moments of the batch, as in evaluation; give both or none. Variances are biased. Results have the dtype of
``x``; float16 and bfloat16 are computed in float32.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .batch import BatchFormula, MeanOnlyBatchFormula
from .batch_instance import BatchInstanceFormula
from .batch_renorm import BatchRenormFormula
from .errors import SettingError, check_range
from .formula import Formula
from .kinds import STATISTICS
from .moments import _plain, _widened
from .switchable import SwitchableFormula

P = ParamSpec("P")


def _traceable(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Let tensor-like classes take the call as one operation, as torch.fx does when it traces."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> Tensor:
        given = (*args, *options.values())
        if has_torch_function(given):
            return handle_torch_function(call, given, *args, **options)
        return function(*args, **options)

    return call


@_traceable
def normalize(
    x: Tensor,
    formula: Formula,
    *mixing: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Normalize by any formula.

    .. math::
        y = ((x - \mu_{nc}) \, \mathrm{scale}_{nc} + \mathrm{offset}_{nc}) \, \gamma_c + \beta_c

    where the formula makes scale and offset of the moments of planes and batch.

    Args:
        x: Activations.
        formula: The norm as a function of moments.
        mixing: What the formula depends on beside moments, such as rho.
        weight: gamma.
        bias: beta.
        mean: Mean in place of the batch's.
        var: Variance in place of the batch's.
        eps: Added to variances, at least 0.

    Returns:
        The normalized activations, of the shape and dtype of ``x``.

    Raises:
        SettingError: If only one of mean and var is given, eps is negative, or gamma or beta has another shape.
    """
    if (mean is None) != (var is None):
        raise SettingError("mean and var replace the moments of the batch together: give both or none")
    check_range("eps", eps, at_least=0)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape not in (x.shape[1:2], x.shape[:2]):
            raise SettingError(f"{name} needs shape (C,) or (N, C) for x of {tuple(x.shape)}, got {tuple(t.shape)}")
    positions = x.unsqueeze(2) if x.ndim == 2 else x
    y, _ = _plain(positions, formula, eps, False, *_widened(x, weight, bias, mean, var, *mixing))
    return y.view(x.shape)


@_traceable
def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Normalize by the moments of the batch; see :class:`norms.BatchNorm`.

    .. math::
        y = \gamma \, (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta
    """
    return normalize(x, BatchFormula(), weight=weight, bias=bias, mean=mean, var=var, eps=eps)


@_traceable
def mean_only_batch_norm(x: Tensor, bias: Tensor | None = None, mean: Tensor | None = None) -> Tensor:
    r"""Subtract the mean of the batch, or the one given; see :class:`norms.MeanOnlyBatchNorm`.

    .. math::
        y = x - \mu + \beta
    """
    var = None if mean is None else torch.ones_like(mean)
    return normalize(x, MeanOnlyBatchFormula(), bias=bias, mean=mean, var=var)


@_traceable
def batch_renorm(
    x: Tensor,
    running_mean: Tensor,
    running_std: Tensor,
    r_max: float = 3.0,
    d_max: float = 5.0,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Normalize by the moments of the batch, corrected towards running ones; see :class:`norms.BatchRenorm`.

    .. math::
        y = \gamma \, ((x - \mu_B) / \sigma_B \cdot r + d) + \beta, \qquad
        r = \mathrm{clip}(\sigma_B / \sigma, 1/r_{max}, r_{max}), \quad
        d = \mathrm{clip}((\mu_B - \mu) / \sigma, -d_{max}, d_{max})

    where no gradient flows through r and d; ``running_mean`` and ``running_std`` have the shape (C,).
    """
    check_range("r_max", r_max, at_least=1)
    check_range("d_max", d_max, at_least=0)
    formula = BatchRenormFormula(r_max, d_max)
    return normalize(x, formula, running_mean, running_std, weight=weight, bias=bias, eps=eps)


@_traceable
def batch_instance_norm(
    x: Tensor,
    rho: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Mix batch and instance normalization by rho, of shape (C,); see :class:`norms.BatchInstanceNorm`.

    .. math::
        y = \gamma \, (\rho \, \hat{x}^{(B)} + (1 - \rho) \, \hat{x}^{(I)}) + \beta
    """
    return normalize(x, BatchInstanceFormula(), rho, weight=weight, bias=bias, mean=mean, var=var, eps=eps)


@_traceable
def switchable_norm(
    x: Tensor,
    mean_weight: Tensor,
    var_weight: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
    statistics: Sequence[str] = STATISTICS,
) -> Tensor:
    r"""Normalize by mixtures of instance, layer and batch statistics; see :class:`norms.SwitchableNorm`.

    .. math::
        y = \gamma \, \frac{x - \sum_k w_k \mu_k}{\sqrt{\sum_k w'_k \sigma_k^2 + \epsilon}} + \beta

    where w and w' are the softmax of the logits ``mean_weight`` and ``var_weight``, each with a value for each of
    ``statistics``.
    """
    for name, logits in (("mean_weight", mean_weight), ("var_weight", var_weight)):
        if logits.shape != (len(statistics),):
            raise SettingError(f"{name} needs a value for each of {', '.join(statistics)}, got {tuple(logits.shape)}")
    formula = SwitchableFormula(statistics, of_logits=True)
    options = {"weight": weight, "bias": bias, "mean": mean, "var": var}
    return normalize(x, formula, mean_weight, var_weight, eps=eps, **options)
