"""Norms by name, class path or callable."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from .base import MomentNorm
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
from .errors import SettingError, check_range, check_types, did_you_mean
from .imports import resolve_callable
from .layer_pixel import LayerNormPixel
from .switchable import SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d

Builder = Callable[..., nn.Module]
"""Builds a norm from its number of channels and options: a class or another callable."""


def _group(num_features: int, num_groups: int | None = None, eps: float = 1e-5, affine: bool = True) -> nn.GroupNorm:
    if num_groups is None:
        # 32 groups as in the paper where they hold at least two channels each, else the next smaller power of two:
        # groups of one channel would be instance normalization.
        num_groups = next((g for g in (32, 16, 8, 4, 2) if num_features % g == 0 and num_features // g > 1), 1)
    check_range("num_groups", num_groups, at_least=1)
    return nn.GroupNorm(num_groups, num_features, eps, affine)


def _layer(num_features: int, eps: float = 1e-5, affine: bool = True) -> nn.GroupNorm:
    return nn.GroupNorm(1, num_features, eps, affine)


def _none(num_features: int) -> nn.Identity:
    return nn.Identity()


_BUILDERS: dict[str, tuple[Builder, ...]] = {
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


_NOT_OF_THE_SETTINGS = {
    "name": "the norm itself is named beside its options",
    **dict.fromkeys(("num_features", "dims", "num_conditions"), "it follows from the network"),
    **dict.fromkeys(("device", "dtype"), "the trainer chooses it"),
}
"""Arguments of :func:`build` and of layers that the settings of a network cannot give, and why."""


def _defaults(name: str | Builder, num_features: int) -> dict[str, Any]:
    """Return what differs here from the defaults of the classes: every norm has gamma and beta and fits every C."""
    if name == "instance":
        return {"affine": True}
    if name == "decorrelated_batch":
        return {"group_size": max(size for size in range(1, 17) if num_features % size == 0)}
    return {}


def names() -> list[str]:
    """Return the names that :func:`build` knows."""
    return list(_BUILDERS)


def register(name: str, builder: Builder | Sequence[Builder]) -> None:
    """Add a name for :func:`build`, :func:`norms.convert` and all that takes a norm by name.

    For instance, at the end of the file that defines the norm::

        norms.register("gated", GatedNorm)

    Args:
        name: The name; it has no dots, by which class paths are told from names.
        builder: The norm's class, or another callable, that is called with the number of channels and options. Three
            of them are those for 1, 2 and 3 spatial dimensions.

    Raises:
        SettingError: If the name is taken, empty or has a dot, or there are neither one nor three builders.
    """
    builders = (builder,) * 3 if callable(builder) else tuple(builder)
    if not name or "." in name:
        raise SettingError(f"the name of a norm has no dots and is not empty, got '{name}'")
    if len(builders) != 3 or not all(map(callable, builders)):
        raise SettingError(f"norm '{name}' needs one builder, or three for 1, 2 and 3 spatial dimensions")
    if _BUILDERS.get(name, builders) != builders:
        raise SettingError(f"norm '{name}' exists already: choose another name")
    _BUILDERS[name] = builders


def known_classes() -> dict[type[nn.Module], str]:
    """Return the name of every class of norms that has one; classes derived from it have none."""
    classes = [(kind, name) for name, kinds in _BUILDERS.items() for kind in kinds if isinstance(kind, type)]
    classes += [(kind, "batch") for kind in (*_SYNCHRONIZED, nn.SyncBatchNorm)]
    found: dict[type[nn.Module], str] = {nn.GroupNorm: "group", **dict(classes)}
    for kind, name in classes:
        if issubclass(kind, MomentNorm) and "spatial_dims" in vars(kind):
            # The same norm for input of any rank.
            found.setdefault(kind.__bases__[0], name)
    return found


def find_builder(name: str | Builder, dims: int, options: Sequence[str] = ()) -> Builder:
    """Return what builds a norm of a name, as :func:`build` takes it, that is to take options of these names."""
    if dims not in (1, 2, 3):
        raise SettingError(f"norms exist for 1, 2 or 3 spatial dimensions, got dims={dims}")
    if not isinstance(name, str):
        return name
    if name == "batch" and "sync" in options:
        return _SYNCHRONIZED[dims - 1]
    return resolve_callable("norm", name, {known: builders[dims - 1] for known, builders in _BUILDERS.items()})


def options_of(builder: Builder) -> list[str] | None:
    """Return the names of a builder's options; None if it takes any, or does not tell."""
    try:
        _, *parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters]


def with_options(
    norm: str | Builder, options: Mapping[str, Any] | None, num_conditions: int | None = None
) -> Callable[[int], nn.Module]:
    """Return a function that builds a norm from its number of channels, for a network with options in its settings.

    Args:
        norm: As :func:`build` takes it.
        options: What the settings say: further arguments of the layer.
        num_conditions: As :func:`build` takes it.

    Raises:
        SettingError: If a name of an option is no text, or says what follows from the network or the trainer.
    """
    options = dict(options or {})
    for name in options:
        if not isinstance(name, str):
            raise SettingError(f"the name of a norm's option must be a text, got {name!r}")
        if name in _NOT_OF_THE_SETTINGS:
            raise SettingError(f"'{name}' is no option of a norm here: {_NOT_OF_THE_SETTINGS[name]}")
    return partial(build, norm, num_conditions=num_conditions, **options)


def _built(
    builder: Builder, label: str, num_features: int, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> nn.Module:
    try:
        norm = builder(num_features, **settings)
    except SettingError:
        raise
    except Exception as error:  # which may be any, since options may be of any type
        if not options:
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        reason = str(error).partition("\n")[0]
        raise SettingError(f"norm '{label}' cannot be built with {given}: {reason}") from error
    if not isinstance(norm, nn.Module):
        raise SettingError(f"norm '{label}' must build a torch.nn.Module, got {type(norm).__name__}")
    return norm


def build(
    name: str | Builder, num_features: int, dims: int = 2, num_conditions: int | None = None, **options: Any
) -> nn.Module:
    """Build a normalization layer by name, class path or callable.

    A name stands for the class of that name, but for these: ``batch`` is ``torch.nn.BatchNorm2d`` or, with
    ``sync=True``, :class:`norms.BatchNorm2d`; ``instance`` is ``torch.nn.InstanceNorm2d`` with gamma, beta; ``layer``
    normalizes over (C, H, W) of each sample and ``layer_pixel`` over C of each pixel; ``group`` has 32 groups, or as
    many as divide C into pairs or more; ``decorrelated_batch`` whitens groups of 16 channels, or of the next smaller
    number that divides C; ``none`` is the identity.

    Args:
        name: One of :func:`names`, to which :func:`register` adds; the path of a class such as
            ``torch.nn.SyncBatchNorm`` or ``mypackage.MyNorm``; or a callable. It is called with ``num_features`` and
            the options.
        num_features: Number of channels C.
        dims: Number of spatial dimensions: 1, 2 or 3. A class path or callable does not get to know it.
        num_conditions: Number of conditions, such as classes or styles, that have a gamma and beta each: the layer is a
            :class:`norms.ConditionalNorm` around the named one then, also around ``none``.
        options: Further arguments of the layer, such as ``eps`` or ``initial_rho``.

    Returns:
        The layer, in training mode.

    Raises:
        ValueError: If the name is unknown, an option does not exist or has a value of which the layer
            cannot be built, or dims is not 1, 2 or 3.
    """
    builder = find_builder(name, dims, tuple(options))
    label = name if isinstance(name, str) else getattr(name, "__name__", repr(name))
    allowed = options_of(builder)
    wrong = [] if allowed is None else sorted(set(options) - set(allowed))
    if wrong:
        known = f"its options are {', '.join(allowed)}" if allowed else "it has no options"
        raise SettingError(
            f"norm '{label}' has no option '{wrong[0]}'{did_you_mean(wrong[0], allowed or [])} ({known})"
        )
    defaults = _defaults(name, num_features)
    if num_conditions is not None and (allowed is None or "affine" in allowed):
        defaults["affine"] = False
    settings = {**defaults, **options}
    try:
        signature = inspect.signature(builder)
        signature.bind(num_features, **settings)
        check_types(options, signature)
    except TypeError as error:
        raise SettingError(f"norm '{label}' cannot be built from a number of channels and options: {error}") from error
    except SettingError:
        raise
    except ValueError:
        pass  # some that are written in C have no signature
    if isinstance(builder, type) and not issubclass(builder, nn.Module):
        raise SettingError(f"norm '{label}' must be a torch.nn.Module")
    if name in _BUILDERS:  # torch's own take any number
        check_range("eps", options.get("eps"), above=0, below=math.inf)
        check_range("momentum", options.get("momentum"), at_least=0, at_most=1)
    norm = _built(builder, label, num_features, settings, options)
    if num_conditions is None:
        return norm
    table = {key: options[key] for key in ("device", "dtype") if key in options}
    return ConditionalNorm(norm, num_conditions, num_features, **table)
