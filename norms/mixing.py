"""Reading, optimizing, constraining and freezing what mixing layers learn, over a whole model."""

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .base import MixingNorm
from .batch import MeanOnlyBatchNorm
from .conditional import ConditionalNorm
from .errors import check_range, unknown
from .kinds import BUILTIN, MixingKind


class MixingValue(NamedTuple):
    """Hold one learned mixing value.

    Attributes:
        layer: Dotted name of the layer in the model.
        depth: Position of the layer among the model's mixing layers, from 0.
        kind: Name of the kind: ``rho`` (1 is batch, 0 is instance), ``mean_weight`` or ``var_weight`` (after the
            softmax), or one of another norm.
        channel: Channel of a value per channel, such as rho, otherwise None.
        statistic: Label of a labeled value, such as ``instance``, ``layer`` or ``batch``, otherwise None.
        value: The effective value, in the range of its kind.
    """

    layer: str
    depth: int
    kind: str
    channel: int | None
    statistic: str | None
    value: float


@dataclass(frozen=True)
class LayerReport:
    """Hold what one mixing layer has learned; ``print`` shows it as a line.

    Attributes:
        layer: Dotted name of the layer in the model.
        norm: Name of its class.
        num_features: Number of its channels.
        trained: Whether its mixing parameters are trained, not frozen.
        kinds: What it learns.
        values: The effective values by the kinds' names, on the CPU: shape (C,) for a kind per channel, otherwise one
            value per label.
    """

    layer: str
    norm: str
    num_features: int
    trained: bool
    kinds: tuple[MixingKind, ...]
    values: dict[str, Tensor]

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """The values by kind, each a handful of named numbers; see :meth:`MixingKind.summary`."""
        return {kind.name: kind.summary(self.values[kind.name]) for kind in self.kinds}

    def __str__(self) -> str:
        return str(Report([self]))


class Report(list[LayerReport]):
    """List the layers of a model; ``print`` shows them as a table."""

    def __str__(self) -> str:
        rows = [(report.layer, f"{report.norm}({report.num_features})", _line(report)) for report in self]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
        return "\n".join(f"{layer:{widths[0]}}  {norm:{widths[1]}}  {line}" for layer, norm, line in rows)


def mixing_layers(model: nn.Module) -> Iterator[tuple[str, MixingNorm]]:
    """Yield (dotted name, layer) for every layer that learns how to normalize, in the model's order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, MixingNorm))


def mixing_values(model: nn.Module) -> list[MixingValue]:
    """Read every learned mixing value of ``model`` as a tidy table, which ``pandas.DataFrame`` takes as it is.

    It has one row a value, in the model's order.
    """
    rows = []
    for depth, layer in enumerate(report(model)):
        for kind in layer.kinds:
            for index, value in enumerate(layer.values[kind.name].tolist()):
                channel, label = (index, None) if kind.per_channel else (None, kind.labels[index])
                rows.append(MixingValue(layer.layer, depth, kind.name, channel, label, value))
    return rows


def report(model: nn.Module) -> Report:
    """Read what every mixing layer of ``model`` has learned, with a single transfer from the device.

    It is a list of one report a layer, in the model's order, and ``print`` shows it as a table. A warning tells of
    values that a forgotten :func:`project_` has let out of their range. Where FSDP2 has distributed parameters, all
    processes have to call it.
    """
    layers = list(mixing_layers(model))
    values = [layer.mixing_values() for _, layer in layers]
    fetched = iter(_fetch([value for kinds in values for value in kinds.values()]))
    found = Report(
        LayerReport(
            name,
            type(layer).__name__,
            layer.num_features,
            any(parameter.requires_grad for parameter in layer.mixing_parameters().values()),
            layer.kinds,
            {kind: next(fetched) for kind in kinds},
        )
        for (name, layer), kinds in zip(layers, values, strict=True)
    )
    for layer in found:
        for kind in layer.kinds:
            low, high = (float(end) for end in layer.values[kind.name].aminmax())
            if low < kind.low - 1e-3 or high > kind.high + 1e-3:
                warnings.warn(
                    f"{kind.name} of '{layer.layer}' lies in [{low:.2f}, {high:.2f}], outside of "
                    f"[{kind.low:g}, {kind.high:g}]: call norms.project_ after each optimizer step",
                    stacklevel=2,
                )
    return found


def freeze_mixing_(model: nn.Module, frozen: bool = True) -> None:
    """Stop training the mixing parameters of ``model``, or train them again; all other parameters are left as they are.

    ``frozen`` says which. A frozen parameter has no gradient, so that an optimizer made before leaves it alone, and
    :func:`param_groups` leaves it out: an optimizer made while it is frozen does not train it later.
    ``DistributedDataParallel`` has to be told before it wraps the model.
    """
    for _, layer in mixing_layers(model):
        for parameter in layer.mixing_parameters().values():
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None


def project_(model: nn.Module) -> None:
    """Return every mixing parameter of ``model`` to its allowed set, in place, such as rho to [0, 1].

    Call it after each optimizer step, for instance by ``optimizer.register_step_post_hook``.
    """
    for _, layer in mixing_layers(model):
        layer.project_()


def binarize_(model: nn.Module, statistic: str | None = None, within: float = math.inf) -> None:
    """Replace every mixture in ``model`` by a pure one, in place; see :meth:`MixingNorm.binarize_`.

    Args:
        model: Any module.
        statistic: None for the nearest pure one. Otherwise ``instance`` or ``batch``, which rho and switch weights
            know, ``layer``, which switch weights know, or a name of another norm's: layers that do not know it keep
            their mixture.
        within: How far from pure a mixture may be that is replaced, as a share of the range of its values: gates within
            0.05 of an end, say, and switch weights of which one is 0.95 or more; by default any.

    Raises:
        SettingError: If no layer of the model knows the statistic.
    """
    layers = [layer for _, layer in mixing_layers(model)]
    known = [name for layer in layers for kind in layer.kinds for name in layer.statistics_of(kind)]
    if statistic not in (None, *known):
        raise unknown("statistic", statistic, dict.fromkeys(known))
    for layer in layers:
        layer.binarize_(statistic, within)


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    lr_multipliers: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters of ``model`` into groups for an optimizer.

    Weights of two dimensions or more decay. Biases, the gamma and beta of norms, also in tables by condition, and g of
    weight normalization do not: decay would pull a normalized layer's scale to 0 for no gain. Nor do mixing parameters,
    since decay would pull rho to instance normalization and switch weights to equal shares.

    Args:
        model: Any module.
        lr: Learning rate of weights, biases and affine parameters.
        weight_decay: Weight decay of the weights.
        lr_multipliers: Learning rates of mixing parameters relative to ``lr``, by optimizer group, such as ``rho`` and
            ``switch``. A group that is not named has the multiplier of its kind: 10 for rho, as in the paper's
            experiments, and 1 for switch logits.

    Returns:
        Groups named ``weights``, ``affine``, and one for each optimizer group of the model's mixing kinds, without
        those that would be empty.

    Raises:
        SettingError: If a multiplier is negative, or for a group that no layer of the model and of this package has.

    Source:
        Nam & Kim 2018, section 4, for the rate and the missing decay of rho.
    """
    multipliers = {kind.optimizer_group: kind.lr_multiplier for kind in BUILTIN}
    by_layer: dict[nn.Parameter, str] = {}
    for _, layer in mixing_layers(model):
        for kind in layer.kinds:
            multipliers[kind.optimizer_group] = kind.lr_multiplier
            by_layer[layer.mixing_parameters()[kind.name]] = kind.optimizer_group
    for group, multiplier in (lr_multipliers or {}).items():
        if group not in multipliers:
            raise unknown("optimizer group", group, multipliers)
        check_range(f"lr_multipliers['{group}']", multiplier, at_least=0)
        multipliers[group] = multiplier
    by_layer.update(dict.fromkeys(_scales(model), "affine"))
    groups: dict[str, dict[str, Any]] = {
        "weights": {"params": [], "lr": lr, "weight_decay": weight_decay},
        "affine": {"params": [], "lr": lr, "weight_decay": 0.0},
        **{name: {"params": [], "lr": lr * m, "weight_decay": 0.0} for name, m in multipliers.items()},
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            by_shape = "weights" if parameter.ndim > 1 else "affine"
            groups[by_layer.get(parameter, by_shape)]["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items() if group["params"]]


def _scales(model: nn.Module) -> list[nn.Parameter]:
    """Find the parameters of more than one dimension that scale what is normalized already."""
    modules, named = list(model.modules()), dict(model.named_parameters())
    # Lengths of weight vectors, by their names in our weight norm and torch's, and in torch's older one.
    ends = ("original0", "original1"), ("_g", "_v")
    lengths = [p for name, p in named.items() for g, v in ends if name[-len(g) :] == g and name[: -len(g)] + v in named]
    if not lengths and any(isinstance(module, MeanOnlyBatchNorm) for module in modules):
        warnings.warn(
            "MeanOnlyBatchNorm subtracts means and keeps no scale: without norms.weight_norm on the layers before it, "
            "which no layer of the model has, a network hardly learns",
            stacklevel=3,
        )
    tables = [p for m in modules if isinstance(m, ConditionalNorm) for p in m.parameters(recurse=False)]
    return lengths + tables


def _fetch(tensors: list[Tensor]) -> list[Tensor]:
    if not tensors:
        return []
    device = tensors[0].device
    flat = torch.cat([tensor.to(device, torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors])
    return list(flat.cpu().split([len(tensor) for tensor in tensors]))


def _line(report: LayerReport) -> str:
    parts = [
        f"{kind}: {' '.join(f'{name}={number:.2f}' for name, number in numbers.items())}"
        for kind, numbers in report.summary.items()
    ]
    return "; ".join(parts if report.trained else [*parts, "frozen"])
