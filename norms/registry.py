"""Norms by name."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from .batch import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    MeanOnlyBatchNorm1d,
    MeanOnlyBatchNorm2d,
    MeanOnlyBatchNorm3d,
)
from .batch_instance import BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d
from .batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from .conditional import ConditionalNorm
from .decorrelated import DecorrelatedBatchNorm1d, DecorrelatedBatchNorm2d, DecorrelatedBatchNorm3d
from .layer_pixel import LayerNormPixel
from .switchable import SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d


def _group(num_features: int, num_groups: int | None = None, eps: float = 1e-5, affine: bool = True) -> nn.GroupNorm:
    if num_groups is None:
        # 32 groups as in the paper where they hold at least two channels each, else the next smaller power of two:
        # groups of one channel would be instance normalization.
        num_groups = next((g for g in (32, 16, 8, 4, 2) if num_features % g == 0 and num_features // g > 1), 1)
    return nn.GroupNorm(num_groups, num_features, eps, affine)


def _layer(num_features: int, eps: float = 1e-5, affine: bool = True) -> nn.GroupNorm:
    return nn.GroupNorm(1, num_features, eps, affine)


def _none(num_features: int) -> nn.Identity:
    return nn.Identity()


_BUILDERS: dict[str, Sequence[Callable[..., nn.Module]]] = {
    "batch": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    "batch_renorm": (BatchRenorm1d, BatchRenorm2d, BatchRenorm3d),
    "mean_only_batch": (MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d, MeanOnlyBatchNorm3d),
    "decorrelated_batch": (DecorrelatedBatchNorm1d, DecorrelatedBatchNorm2d, DecorrelatedBatchNorm3d),
    "instance": (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    "layer": (_layer,) * 3,
    "layer_pixel": (LayerNormPixel,) * 3,
    "group": (_group,) * 3,
    "batch_instance": (BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d),
    "switchable": (SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d),
    "none": (_none,) * 3,
}

# torch's batch normalization shares no statistics between processes; ours does.
_SYNCHRONIZED = (BatchNorm1d, BatchNorm2d, BatchNorm3d)


def _defaults(name: str, num_features: int) -> dict[str, Any]:
    """What is different here from the defaults of the classes: every norm has gamma and beta and fits every C."""
    if name == "instance":
        return {"affine": True}
    if name == "decorrelated_batch":
        return {"group_size": max(size for size in range(1, 17) if num_features % size == 0)}
    return {}


def names() -> list[str]:
    """The names that :func:`build` knows."""
    return list(_BUILDERS)


def build(name: str, num_features: int, dims: int = 2, num_conditions: int | None = None, **options: Any) -> nn.Module:
    """Build a normalization layer by name.

    ========================  =======================================================================
    name                      layer
    ========================  =======================================================================
    ``batch``                 ``torch.nn.BatchNorm1d/2d/3d``, or :class:`norms.BatchNorm1d`, ``2d``, ``3d`` with
                              ``sync=True``
    ``batch_renorm``          :class:`norms.BatchRenorm1d`, ``2d``, ``3d``
    ``mean_only_batch``       :class:`norms.MeanOnlyBatchNorm1d`, ``2d``, ``3d``
    ``decorrelated_batch``    :class:`norms.DecorrelatedBatchNorm1d`, ``2d``, ``3d``, in groups of 16 channels or of the
                              next smaller number that divides C
    ``instance``              ``torch.nn.InstanceNorm1d/2d/3d``, with ``affine=True`` by default
    ``layer``                 layer normalization over (C, H, W) of each sample
    ``layer_pixel``           layer normalization over C of each pixel
    ``group``                 ``torch.nn.GroupNorm``, 32 groups or as many as divide C into pairs or more
    ``batch_instance``        :class:`norms.BatchInstanceNorm1d`, ``2d``, ``3d``
    ``switchable``            :class:`norms.SwitchableNorm1d`, ``2d``, ``3d``
    ``none``                  identity
    ========================  =======================================================================

    Args:
        name: One of :func:`names`.
        num_features: Number of channels C.
        dims: Number of spatial dimensions: 1, 2 or 3.
        num_conditions: Number of conditions, such as classes or styles, that have a gamma and beta each: the layer is a
            :class:`norms.ConditionalNorm` around the named one then, also around ``none``.
        options: Further arguments of the layer, such as ``eps`` or ``initial_rho``.

    Returns:
        The layer, in training mode.

    Raises:
        ValueError: If the name is unknown, an option does not exist or has a wrong value, or dims is not 1, 2 or 3.
    """
    if name not in _BUILDERS:
        close = difflib.get_close_matches(name, _BUILDERS, n=1, cutoff=0.5)
        guess = f", did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"unknown norm '{name}'{guess} (known: {', '.join(_BUILDERS)})")
    if dims not in (1, 2, 3):
        raise ValueError(f"norms exist for 1, 2 or 3 spatial dimensions, got dims={dims}")
    builders = _SYNCHRONIZED if name == "batch" and "sync" in options else _BUILDERS[name]
    builder = builders[dims - 1]
    allowed = [p for p in inspect.signature(builder).parameters if p != "num_features"]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        known = f"its options are {', '.join(allowed)}" if allowed else "it has no options"
        raise ValueError(f"norm '{name}' has no option '{unknown[0]}' ({known})")
    defaults = _defaults(name, num_features)
    if num_conditions is None:
        return builder(num_features, **{**defaults, **options})
    if "affine" in allowed:
        defaults["affine"] = False
    norm = builder(num_features, **{**defaults, **options})
    table = {key: options[key] for key in ("device", "dtype") if key in options}
    return ConditionalNorm(norm, num_conditions, num_features, **table)
