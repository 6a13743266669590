"""Norms by name, class path or class."""

import inspect
from collections.abc import Callable, Iterable, Sequence
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
from .errors import SettingError, did_you_mean
from .imports import parameters, resolve
from .layer_pixel import LayerNormPixel
from .switchable import SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d

Builder = Callable[..., nn.Module]


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


_BUILDERS: dict[str, Sequence[Builder]] = {
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

_OWN = tuple(_BUILDERS)

# torch's batch normalization shares no statistics between processes; ours does.
_SYNCHRONIZED = (BatchNorm1d, BatchNorm2d, BatchNorm3d)


def names() -> list[str]:
    """Return the names that :func:`build` knows."""
    return list(_BUILDERS)


def register(name: str, builder: Builder | Sequence[Builder]) -> None:
    """Give a norm a name, which :func:`build`, :func:`names` and :func:`norms.convert` know from then on.

    For instance::

        norms.register("filter_response", FilterResponseNorm)
        layer = norms.build("filter_response", 64)

    Args:
        name: The name; one that was registered before gets a new meaning.
        builder: A class or function, called with the number of channels first and the options by name; or three of
            them, for 1, 2 and 3 spatial dimensions.

    Raises:
        SettingError: If the name is one of this package's own or has a dot, as class paths have, or if there are
            neither one nor three builders.
    """
    if name in _OWN or not name or "." in name:
        raise SettingError(f"a registered norm needs a name of its own, without a dot, got '{name}'")
    builders = (builder,) * 3 if callable(builder) else tuple(builder)
    if len(builders) != 3 or not all(map(callable, builders)):
        raise SettingError(f"norm '{name}' needs one builder, or three for 1, 2 and 3 dimensions, got {builder!r}")
    _BUILDERS[name] = builders


def name_of(kind: type[nn.Module]) -> str | None:
    """Return the name that stands for a class, or for one that it makes for input of any rank; else None."""
    for name, builders in _BUILDERS.items():
        of_any_rank = [b.__base__ for b in builders if isinstance(b, type) and "spatial_dims" in vars(b)]
        if kind in (*builders, *of_any_rank):
            return name
    return None


def option_names(norm: str | Builder, dims: int = 2) -> list[str]:
    """Return the names of all options that :func:`build` takes for a norm."""
    return _options(_builder(norm, dims, sync=True))[0]


def build(
    norm: str | Builder, num_features: int, dims: int = 2, num_conditions: int | None = None, **options: Any
) -> nn.Module:
    """Build a normalization layer by name, by class path or from its class.

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
        norm: One of :func:`names`; or the path of any class or function, such as ``torch.nn.SyncBatchNorm`` or
            ``mypackage.MyNorm``, which is imported; or the class or function itself. It is called with the number of
            channels first and the options by name, whatever ``dims`` is.
        num_features: Number of channels C.
        dims: Number of spatial dimensions, 1, 2 or 3, for names.
        num_conditions: Number of conditions, such as classes or styles, that have a gamma and beta each: the layer is a
            :class:`norms.ConditionalNorm` around the norm then, also around ``none``.
        options: Further arguments of the layer, such as ``eps`` or ``initial_rho``.

    Returns:
        The layer, in training mode.

    Raises:
        SettingError: If there is no such norm, an option does not exist or has a wrong value, or dims is not 1, 2 or 3.
    """
    builder = _builder(norm, dims, sync="sync" in options)
    label = norm if isinstance(norm, str) else getattr(norm, "__name__", repr(norm))
    known, is_open = _options(builder)
    _refuse_unknown(label, [] if is_open else [name for name in options if name not in known], known)
    settings = _defaults(norm, num_features)
    if num_conditions is not None and "affine" in known:
        settings["affine"] = False
    layer = _call(builder, label, num_features, settings | options)
    if num_conditions is None:
        return layer
    table = {key: options[key] for key in ("device", "dtype") if key in options}
    return ConditionalNorm(layer, num_conditions, num_features, **table)


def _builder(norm: str | Builder, dims: int, sync: bool) -> Builder:
    if dims not in (1, 2, 3):
        raise SettingError(f"norms exist for 1, 2 or 3 spatial dimensions, got dims={dims}")
    if norm == "batch" and sync:
        return _SYNCHRONIZED[dims - 1]
    return resolve("norm", norm, {name: builders[dims - 1] for name, builders in _BUILDERS.items()})


def _options(builder: Builder) -> tuple[list[str], bool]:
    named, is_open = parameters(builder)
    # The number of channels is the first, whatever it is called.
    return list(named)[1:], is_open


def _refuse_unknown(label: str, wrong: Sequence[str], known: Iterable[str]) -> None:
    if wrong:
        listed = ", ".join(known)
        told = f"its options are {listed}" if listed else "it has no options"
        raise SettingError(f"norm '{label}' has no option '{wrong[0]}'{did_you_mean(wrong[0], known)} ({told})")


def _defaults(norm: str | Builder, num_features: int) -> dict[str, Any]:
    """Return what differs here from the defaults of the classes: every norm has gamma and beta and fits every C."""
    if norm == "instance":
        return {"affine": True}
    if norm == "decorrelated_batch":
        return {"group_size": max(size for size in range(1, 17) if num_features % size == 0)}
    return {}


def _call(builder: Builder, label: str, num_features: int, options: dict[str, Any]) -> nn.Module:
    try:
        inspect.signature(builder).bind(num_features, **options)
    except TypeError as error:
        raise SettingError(
            f"norm '{label}' cannot be built from a number of channels and these options: {error}"
        ) from error
    except ValueError:  # no signature to look at
        pass
    layer = builder(num_features, **options)
    if not isinstance(layer, nn.Module):
        raise SettingError(f"norm '{label}' must build a torch.nn.Module, got a {type(layer).__name__}")
    return layer
