"""Reading, optimizing and constraining what mixing layers learn, over a whole model."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from norms.base import MixingNorm
from norms.switchable import STATISTICS


class MixingValue(NamedTuple):
    """One learned mixing value.

    Attributes:
        layer: Dotted name of the layer in the model.
        depth: Position of the layer among the model's mixing layers, from 0.
        kind: ``rho`` (1 is batch, 0 is instance), ``mean_weight`` or ``var_weight`` (after the softmax).
        channel: Channel of a rho, otherwise None.
        statistic: ``instance``, ``layer`` or ``batch`` for a switch weight, otherwise None.
        value: The effective value, in [0, 1].
    """

    layer: str
    depth: int
    kind: str
    channel: int | None
    statistic: str | None
    value: float


def mixing_layers(model: nn.Module) -> Iterator[tuple[str, MixingNorm]]:
    """Yield (dotted name, layer) for every layer of ``model`` that learns how to normalize, in the model's order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, MixingNorm))


def mixing_values(model: nn.Module) -> list[MixingValue]:
    """Read every learned mixing value of ``model`` as a tidy table, which ``pandas.DataFrame`` takes as it is.

    Args:
        model: Any module; layers without mixing values are passed over.

    Returns:
        One row a value, in the model's order.
    """
    rows = []
    for depth, (name, layer) in enumerate(mixing_layers(model)):
        for kind, values in layer.mixing_values().items():
            for index, value in enumerate(values.tolist()):
                per_channel = kind == "rho"
                channel, statistic = (index, None) if per_channel else (None, STATISTICS[index])
                rows.append(MixingValue(name, depth, kind, channel, statistic, value))
    return rows


def project_(model: nn.Module) -> None:
    """Return every mixing parameter of ``model`` to its allowed set, in place: rho to [0, 1].

    Call it after each optimizer step, for instance by ``optimizer.register_step_post_hook``.
    """
    for _, layer in mixing_layers(model):
        layer.project_()


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    rho_lr_multiplier: float = 10.0,
    switch_lr_multiplier: float = 1.0,
) -> list[dict[str, Any]]:
    """Split the trainable parameters of ``model`` into groups for an optimizer.

    Weights of two dimensions or more decay. Biases and the gamma and beta of norms do not: decay would pull a
    normalized layer's scale to 0 for no gain. Mixing parameters do not either, since decay would pull rho to instance
    normalization and switch weights to equal shares, and have learning rates of their own.

    Args:
        model: Any module.
        lr: Learning rate of weights, biases and affine parameters.
        weight_decay: Weight decay of the weights.
        rho_lr_multiplier: Learning rate of rho relative to ``lr``; 10 in the paper's experiments.
        switch_lr_multiplier: Learning rate of the switch logits relative to ``lr``.

    Returns:
        Groups named ``weights``, ``affine``, ``rho`` and ``switch``, without those that would be empty.

    Source:
        Nam & Kim 2018, section 4, for the rate and the missing decay of rho.
    """
    multipliers = {"rho": rho_lr_multiplier, "switch": switch_lr_multiplier}
    mixing = {p: layer.optimizer_group for _, layer in mixing_layers(model) for p in layer.mixing_parameters()}
    groups: dict[str, dict[str, Any]] = {
        "weights": {"params": [], "lr": lr, "weight_decay": weight_decay},
        "affine": {"params": [], "lr": lr, "weight_decay": 0.0},
        **{name: {"params": [], "lr": lr * m, "weight_decay": 0.0} for name, m in multipliers.items()},
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            by_shape = "weights" if parameter.ndim > 1 else "affine"
            groups[mixing.get(parameter, by_shape)]["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items() if group["params"]]
