r"""Normalization as pure functions of tensors, which ``torch.func`` and ``torch.fx`` take.

A function here keeps no state: what a layer learns or tracks is an argument, and nothing is changed in place. It is
written in elementary operations, so that ``torch.func.grad``, ``vmap``, ``jvp`` and ``jacrev`` can transform it, as
often as you like, and ``torch.compile`` can fuse it. The layers compute the same by torch's kernels, and are faster
outside a compiler.

Arguments that all functions share:

- ``x``: activations, shape (N, C, \*).
- ``weight``, ``bias``: gamma and beta, shape (C,), or (N, C) where samples have their own; None is 1 and 0.
- ``population``: mean and biased variance, each of shape (C,), in place of the batch's, as in evaluation.
- ``eps``: added to variances, positive.

The result has the shape and dtype of ``x``. ``torch.fx`` records a call as one node, if you write it as
``norms.functional.batch_norm(...)``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .batch import BatchFormula, MeanOnlyBatchFormula
from .batch_instance import BatchInstanceFormula
from .batch_renorm import BatchRenormFormula
from .formula import Formula
from .kinds import STATISTICS
from .moments import check_affine, modulate_plainly, widened
from .precision import check_floating
from .switchable import SwitchableFormula

Population = Sequence[Tensor] | None


@torch.fx.wrap
def normalize(
    x: Tensor,
    formula: Formula,
    eps: float,
    *mixing: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    population: Population = None,
    sync: Any = False,
) -> Tensor:
    """Normalize ``x`` by any formula, which depends on moments and on ``mixing``, such as rho.

    With ``sync`` the moments of the batch are pooled over all processes, or a process group. A ``SettingError`` is
    raised if gamma or beta does not fit, or ``x`` is not of a floating-point dtype.
    """
    check_floating(x, "normalize")
    check_affine(x, weight, bias)
    small = widened(x, weight, bias, *(population or (None, None)), *mixing)
    # Without a dimension of positions each value is a plane.
    y, _ = modulate_plainly(x.unsqueeze(2) if x.ndim == 2 else x, formula, eps, sync, *small)
    return y.reshape(x.shape)


@torch.fx.wrap
def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    population: Population = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize as :class:`norms.BatchNorm2d` does."""
    return normalize(x, BatchFormula(), eps, weight=weight, bias=bias, population=population)


@torch.fx.wrap
def mean_only_batch_norm(x: Tensor, bias: Tensor | None = None, *, population: Population = None) -> Tensor:
    """Subtract the mean as :class:`norms.MeanOnlyBatchNorm2d` does; the population's variance does not matter."""
    return normalize(x, MeanOnlyBatchFormula(), 1.0, bias=bias, population=population)


@torch.fx.wrap
def batch_instance_norm(
    x: Tensor,
    rho: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    population: Population = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize as :class:`norms.BatchInstanceNorm2d` does, by gates ``rho`` of shape (C,) in [0, 1]."""
    return normalize(x, BatchInstanceFormula(), eps, rho, weight=weight, bias=bias, population=population)


@torch.fx.wrap
def switchable_norm(
    x: Tensor,
    mean_weight: Tensor,
    var_weight: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    statistics: Sequence[str] = STATISTICS,
    population: Population = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize as :class:`norms.SwitchableNorm2d` does, by logits of shape (K,).

    They belong to the K ``statistics`` that are mixed, in the order of :data:`norms.STATISTICS`.
    """
    formula = SwitchableFormula(statistics, of_logits=True)
    return normalize(x, formula, eps, mean_weight, var_weight, weight=weight, bias=bias, population=population)


@torch.fx.wrap
def batch_renorm(
    x: Tensor,
    running_mean: Tensor,
    running_std: Tensor,
    r_max: float = 3.0,
    d_max: float = 5.0,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize as :class:`norms.BatchRenorm2d` does in training, corrected to running statistics of shape (C,).

    In evaluation it is :func:`batch_norm` by the population of these.
    """
    return normalize(x, BatchRenormFormula(r_max, d_max), eps, running_mean, running_std, weight=weight, bias=bias)
