"""Swapping the norms of a model for others, with what they have learned."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .base import MixingNorm, MomentNorm
from .batch import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .conditional import channels_of
from .errors import SettingError
from .kinds import STATISTICS
from .registry import Builder, build, find_builder, known_classes, options_of

NATIVE_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BATCH_NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

_DIMS: dict[type[nn.Module], int] = {
    kind: dims for kinds in (NATIVE_BATCH_NORMS, _INSTANCE_NORMS) for dims, kind in enumerate(kinds, 1)
}


def convert(
    model: nn.Module,
    to: str | Builder,
    where: Callable[[str, nn.Module], bool] | None = None,
    exact: bool = False,
    dims: int = 2,
    **options: Any,
) -> nn.Module:
    """Swap the norms of ``model``, in place, for norms of another kind that go on with what was learned.

    For instance::

        model = torchvision.models.resnet18(weights="DEFAULT")
        norms.convert(model, "batch_instance", where=lambda name, norm: name.startswith("layer1"))

    Known are ``torch.nn.BatchNorm1d``, ``2d``, ``3d``, ``SyncBatchNorm``, ``InstanceNorm1d``, ``2d``, ``3d``,
    ``GroupNorm``, all norms of this package and the classes that :func:`norms.register` was given. Others derived from
    them are left as they are, since a forward of their own would be lost. So is ``torch.nn.LayerNorm``, which is not
    told its channels.

    Carried over are gamma and beta, the running statistics with their count, and rho or switch logits where both have
    them, as the same objects where their shape is the same: an optimizer made before goes on with them. Further the
    settings that both have, dtype, device, training mode and what is frozen; options replace settings. Forward hooks
    stay with the old layers. A variance becomes the standard deviation of batch renormalization or the diagonal of the
    covariance of decorrelated batch normalization, and back; rho starts at 0 where the norm uses the statistics of each
    instance and at 1 elsewhere. All else starts as in a new layer. Norms with instance statistics refuse the (N, C)
    input that ``BatchNorm1d`` takes, and in training planes of a single value: leave those out by ``where``.

    Conversions between norms that use the same statistics in evaluation leave the function there as it is, up to
    rounding, and are what ``exact`` allows. Running ones are those of ``batch``, ``batch_renorm``, ``batch_instance``
    with every rho 1 and ``switchable`` with all weight on the batch, for instance.

    Args:
        model: Any module; a norm itself is not changed, but returned converted.
        to: One of :func:`norms.names`, or a class path or callable as for :func:`norms.build`.
        where: Says of a norm by its dotted name and itself whether to convert it; by default all are. One that stands
            at several places of the model is converted, and stays one, if any of the places is chosen.
        exact: Refuse to change the function in evaluation. Then ``group`` has the number of groups that does not.
        dims: Number of spatial dimensions of the activations, which GroupNorm, SyncBatchNorm and
            :class:`norms.LayerNormPixel` do not know.
        options: Options of the new norms, see :func:`norms.build`.

    Returns:
        The model.

    Raises:
        ValueError: If there is nothing to convert, an option does not fit, or ``exact`` is asked for and not possible;
            the model is left as it was.
    """
    if "num_conditions" in options:
        raise SettingError(
            "convert makes no conditional norms, whose forward takes a condition: build them in the model"
        )
    chosen: dict[nn.Module, str] = {}
    # By exact type: a subclass may have a forward of its own, which a norm in its place would not have.
    known = known_classes()
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in known and (where is None or where(name, module)):
            chosen.setdefault(module, name)
    if not chosen:
        raise SettingError(f"nothing to convert: {_describe_norms(model)}")
    neighbors = _neighbors(model)
    converted = {}
    for norm, name in chosen.items():
        try:
            converted[norm] = _convert(norm, to, exact, dims, neighbors[norm], options)
        except ValueError as error:
            raise SettingError(f"{name or 'the norm'} ({type(norm).__name__}): {error}") from error
    return replace_modules(model, converted)


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put other modules in the place of some of ``model``, everywhere they stand; return the model or its replacement.

    The old ones do not contain each other.
    """
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if name and module in replacements:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, replacements[module])
    return replacements.get(model, model)


@torch.no_grad()
def carry_state(source: nn.Module, target: nn.Module) -> None:
    """Give a new norm the mode of another and what it has learned, as the same objects where they fit."""
    own = dict(source.named_parameters(recurse=False))
    frozen = bool(own) and not any(parameter.requires_grad for parameter in own.values())
    if getattr(source, "statistics", None) != getattr(target, "statistics", None):
        own = {name: own[name] for name in own.keys() & {"weight", "bias"}}  # logits of other statistics
    for name, parameter in list(target.named_parameters(recurse=False)):
        if name in own and own[name].shape == parameter.shape:
            setattr(target, name, own[name])
        elif frozen:
            parameter.requires_grad_(False)
    if getattr(source, "weight", None) is not None and source.bias is None:
        target.register_parameter("bias", None)
    buffers, variance = dict(source.named_buffers(recurse=False)), _running_variance(source)
    for name, buffer in list(target.named_buffers(recurse=False)):
        if name in buffers and buffers[name].shape == buffer.shape:
            setattr(target, name, buffers[name])
        elif name == _spread(target) and variance is not None:
            buffer.copy_(_as_spread(variance, target))
    target.train(source.training)


def _convert(
    norm: nn.Module, to: str | Builder, exact: bool, dims: int, like: Tensor | None, options: Mapping[str, Any]
) -> nn.Module:
    if _name(norm) == to and not options and type(norm) is not nn.SyncBatchNorm:
        return norm
    dims = getattr(norm, "spatial_dims", _DIMS.get(type(norm))) or dims
    new = build(to, channels_of(norm), dims, **{**_settings(norm, to, exact, dims), **options})
    if like is not None:
        new.to(like.device, like.dtype)
    carry_state(norm, new)
    if exact:
        _check_exact(norm, new)
    return new


def _name(norm: nn.Module) -> str:
    return "layer" if isinstance(norm, nn.GroupNorm) and norm.num_groups == 1 else known_classes()[type(norm)]


def _settings(norm: Any, to: str | Builder, exact: bool, dims: int) -> dict[str, Any]:
    taken = set(options_of(find_builder(to, dims)) or ())
    current = {"affine": norm.weight is not None or norm.bias is not None, "eps": norm.eps}
    if to != "instance" and _uses_batch(norm):
        # What torch's norms keep decides, not their attribute: they normalize by it, whatever the attribute says later.
        current |= {"momentum": norm.momentum, "track_running_stats": norm.running_mean is not None}
    settings: dict[str, Any] = {key: value for key, value in current.items() if key in taken}
    if getattr(norm, "sync", type(norm) is nn.SyncBatchNorm) and "momentum" in settings:
        # torch's batch normalization takes neither: the registry has ours for it.
        shared = {"sync": True, "process_group": norm.process_group}
        settings |= {key: value for key, value in shared.items() if key in taken or to == "batch"}
    if _name(norm) == to:
        others = taken - settings.keys()
        settings |= {key: value for key, value in vars(norm).items() if key in others}
    elif to == "batch_instance":
        settings["initial_rho"] = 0.0 if _function(norm) == _per_sample(1, norm) else 1.0
    elif to == "group" and exact:
        settings["num_groups"] = 1 if _function(norm) == _per_sample(channels_of(norm), norm) else channels_of(norm)
    return settings


def _uses_batch(norm: Any) -> bool:
    if isinstance(norm, MomentNorm):
        return norm.uses_batch
    return getattr(norm, "running_mean", None) is not None or known_classes()[type(norm)] == "batch"


def _spread(norm: nn.Module) -> str | None:
    return norm.spread if isinstance(norm, MomentNorm) else "running_var"


def _running_variance(norm: Any) -> Tensor | None:
    """Return the variances, shape (C,), that the norm's spread buffer holds, if it has one."""
    spread = _spread(norm)
    values: Tensor | None = getattr(norm, spread, None) if spread else None
    if values is None:
        return None
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if spread == "running_std":
        return values.square() - norm.eps
    return values.diagonal(dim1=-2, dim2=-1).flatten() if spread == "running_covariance" else values


def _as_spread(variance: Tensor, norm: Any) -> Tensor:
    """Return what the norm's spread buffer holds for variances of shape (C,)."""
    spread = _spread(norm)
    if spread == "running_std":
        return torch.sqrt(variance + norm.eps)
    return variance.view(norm.running_covariance.shape[:2]).diag_embed() if spread == "running_covariance" else variance


def _check_exact(norm: Any, new: Any) -> None:
    before, after = _function(norm), _function(new)
    if before != after:
        raise SettingError(f"not exact, since it normalizes by {before}, which would become {after}")
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None and getattr(new, name) is None:
            raise SettingError(f"not exact, since its {name} would be lost")
    if norm.eps != new.eps:
        raise SettingError(f"not exact, since its eps of {norm.eps} would become {new.eps}")


def _function(norm: Any) -> str:
    """Say what the norm normalizes by in evaluation: the same words for the same function."""
    name = known_classes().get(type(norm), "none")
    if name == "none":
        return "nothing"
    if isinstance(norm, MixingNorm) and name not in ("batch_instance", "switchable"):
        return f"the mixture of {type(norm).__name__}"
    if name == "layer_pixel":
        return "statistics of each position"
    if name == "group":
        return _per_sample(norm.num_channels // norm.num_groups, norm)
    batch = "statistics of the batch" if norm.running_mean is None else "running statistics"
    if name == "mean_only_batch":
        return f"the mean of {batch} alone"
    if name == "decorrelated_batch":
        return f"{batch}, decorrelated in groups of {norm.group_size} by {norm.iterations} iterations"
    if name == "instance" and norm.running_mean is None:
        return _per_sample(1, norm)
    functions = {"instance": _per_sample(1, norm), "layer": _per_sample(channels_of(norm), norm), "batch": batch}
    if name == "batch_instance":
        pure = {(0.0,): functions["instance"], (1.0,): batch}
        return pure.get(tuple(set(norm.rho.tolist())), f"{batch} and {functions['instance']}, mixed by rho")
    return _switched(norm, functions) if name == "switchable" else batch


def _switched(norm: Any, functions: Mapping[str, str]) -> str:
    weights = [values.tolist() for values in norm.mixing_values().values()]
    for index, statistic in enumerate(STATISTICS):
        if all(values[index] == 1 and sum(values) == 1 for values in weights):
            return functions[statistic]
    mixture = " and ".join(" ".join(f"{value:g}" for value in values) for values in weights)
    return f"{', '.join(functions.values())} with weights {mixture}"


def _per_sample(channels: int, norm: nn.Module) -> str:
    return f"statistics of each sample over {channels} of {channels_of(norm)} channels"


def _neighbors(model: nn.Module) -> dict[nn.Module, Tensor | None]:
    """Return for each module a tensor whose device and dtype suit it: one of its own or else the nearest before it."""
    nearest = next(filter(torch.is_floating_point, chain(model.parameters(), model.buffers())), None)
    found = {}
    for module in model.modules():
        own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
        nearest = found[module] = next(filter(torch.is_floating_point, own), nearest)
    return found


def _describe_norms(model: nn.Module) -> str:
    known, kinds = known_classes(), [type(module) for module in model.modules()]
    norms = [kind for kind in kinds if kind in known or issubclass(kind, MomentNorm) or "norm" in kind.__name__.lower()]
    found = Counter(kind.__name__ for kind in norms)
    if not found:
        return "the model has no norm"
    reason = "where chooses none" if any(kind in known for kind in kinds) else "none is known"
    return f"{reason} of the model's norms ({', '.join(f'{count} {name}' for name, count in found.items())})"
