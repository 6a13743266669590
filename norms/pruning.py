"""Plain norms in the place of mixtures that have chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import MixingNorm
from .batch_instance import BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d
from .conversion import convert, replace_modules
from .errors import SettingError, check_range
from .kinds import RHO, STATISTICS
from .mixing import binarize_, mixing_layers
from .switchable import SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d

Plain = str | list[int]
"""What a layer became: ``batch``, ``instance`` or ``layer`` for all channels, or the list of the channels that are
normalized by the instance, where the others are by the batch."""

_GATED = (BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d)
_SWITCHED = (SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d)


class SplitNorm(nn.Module):
    r"""Normalize some channels by the statistics of each instance, and the others by those of the batch.

    It is what Batch-Instance Normalization is whose gates are all 0 or 1:

    .. math::
        y_c = \gamma_c \, \frac{x_c - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c

    with the moments of each instance for some channels c and those of the batch for the others. It is made of torch's
    own layers: ``batch``, an ``nn.BatchNorm2d`` or one of another dimension, normalizes all channels, and ``instance``,
    an ``nn.InstanceNorm2d`` likewise, those that are its own, in the place of what ``batch`` has made of them. That is
    quicker than to take the channels apart.

    Args:
        num_features: Number of channels C.
        instance: The numbers of the channels that the instance normalizes, at least one and not all.
        dims: Number of spatial dimensions: 1, 2 or 3.
        eps: Added to variances.
        momentum: Weight of the new batch in the running statistics.
        affine: Whether there are gamma and beta.
        track_running_stats: Whether there are running statistics.

    Raises:
        SettingError: If a number is none of a channel, or there is no channel of either side.

    Shape:
        Input and output: (N, C, L), (N, C, H, W) or (N, C, D, H, W).

    Source:
        Nam & Kim, Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks, NeurIPS 2018, section 3,
        at the ends of the range of rho.
    """

    channels: Tensor

    def __init__(
        self,
        num_features: int,
        instance: Sequence[int],
        dims: int = 2,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        chosen = set(instance)
        if len(chosen) != len(instance) or not chosen < set(range(num_features)) or not chosen:
            raise SettingError(
                f"instance must be some of the channels 0 to {num_features - 1}, each once and not all, got "
                f"{list(instance)}"
            )
        self.num_features = num_features
        batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        own = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 1]
        self.batch = batch(num_features, eps, momentum, affine, track_running_stats)
        self.instance = own(len(chosen), eps, affine=affine)
        # Which they are follows from the argument, so that a state need not hold it.
        self.register_buffer("channels", torch.tensor(sorted(chosen)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``."""
        own = self.instance(x.index_select(1, self.channels))
        normalized: Tensor = self.batch(x).index_copy_(1, self.channels, own)
        return normalized

    def extra_repr(self) -> str:
        """Return how many channels each side has."""
        return f"{self.num_features}, instance={len(self.channels)}"


def prune(model: nn.Module, within: float = 0.05) -> dict[str, Plain]:
    """Turn mixtures that are nearly pure into plain norms, in place.

    Gates within ``within`` of an end of their range move there, and switch weights that give one statistic all but
    ``within`` give it the rest, see ``within`` of :func:`norms.binarize_`. A layer of which nothing is left that mixes
    becomes torch's own: ``nn.BatchNorm2d``, ``nn.InstanceNorm2d``, ``nn.GroupNorm`` of one group for the statistics of
    the layer, or those of another dimension; one whose gates are at either end becomes a :class:`SplitNorm`. Gamma,
    beta and running statistics are kept. All other layers stay, and so do classes derived from those of this package
    and the norms that others have added.

    In evaluation the pruned model computes what the model with these mixtures binarized does, up to rounding.

    Args:
        model: A module that contains mixing layers, and is none itself.
        within: How far from pure a mixture may be, in [0, 0.5), as a share of the range of its values.

    Returns:
        What became of the layers that were replaced, by their dotted names; :func:`prune_as` does the same to a new
        network.

    Raises:
        SettingError: If ``within`` is out of range, or no mixture is as near to pure; the model is left as it was.
    """
    check_range("within", within, at_least=0, below=0.5)
    _check_near(model, within)
    binarize_(model, within=within)
    found = {name: _pure(layer) for name, layer in mixing_layers(model)}
    described = {name: plain for name, plain in found.items() if plain is not None}
    prune_as(model, described)
    return described


def prune_as(model: nn.Module, described: Mapping[str, Any]) -> None:
    """Replace mixing layers of a new network as :func:`prune` has replaced those of a trained one, in place.

    Args:
        model: A network as it was built for the training.
        described: What :func:`prune` has returned, or what a stranger's file says in its place.

    Raises:
        SettingError: If it does not fit the network.
    """
    layers = {name: layer for name, layer in mixing_layers(model) if type(layer) in _GATED + _SWITCHED}
    replacements: dict[nn.Module, nn.Module] = {}
    for name, plain in described.items():
        if name not in layers or not _fits(layers[name], plain):
            raise SettingError(f"its layer {name!r} cannot be pruned to {str(plain)[:40]!r} in this network")
        layer = layers[name]
        replacements[layer] = convert(layer, plain) if isinstance(plain, str) else _split(layer, plain)
    replace_modules(model, replacements)


def _fits(layer: Any, plain: Any) -> bool:
    if type(layer) in _SWITCHED:
        return plain in layer.statistics
    return plain in RHO.end_names or (isinstance(plain, list) and all(isinstance(channel, int) for channel in plain))


def _pure(layer: MixingNorm) -> Plain | None:
    """Say what plain norm a layer is; None if it is none."""
    if type(layer) in _GATED:
        rho: list[float] = layer.mixing_values()["rho"].tolist()
        if not set(rho) <= {0.0, 1.0}:
            return None
        instance = [channel for channel, gate in enumerate(rho) if gate == 0]
        return "batch" if not instance else "instance" if len(instance) == len(rho) else instance
    if type(layer) in _SWITCHED:
        weights = layer.mixing_values().values()
        pure = [name for i, name in enumerate(STATISTICS) if all(float(shares[i]) == 1 for shares in weights)]
        return pure[0] if pure else None
    return None


@torch.no_grad()
def _split(layer: Any, instance: Sequence[int]) -> SplitNorm:
    tracked = layer.running_mean is not None
    affine = layer.weight is not None
    split = SplitNorm(
        layer.num_features, instance, layer.spatial_dims, layer.eps, layer.momentum, affine, track_running_stats=tracked
    ).to(layer.rho)
    for norm, channels in ((split.batch, slice(None)), (split.instance, split.channels)):
        for name in ("weight", "bias", "running_mean", "running_var"):
            value, source = getattr(norm, name), getattr(layer, name)
            if value is None:
                continue
            if source is None:
                setattr(norm, name, None)
            else:
                value.copy_(source[channels]).requires_grad_(source.requires_grad)
    if tracked:
        split.batch.get_buffer("num_batches_tracked").copy_(layer.num_batches_tracked)
    return split.train(layer.training)


def _check_near(model: nn.Module, within: float) -> None:
    """Refuse a model without a mixture that is near to pure."""
    nearest = []
    for name, layer in mixing_layers(model):
        for kind in layer.kinds:
            nearest.append((float(kind.impurity(layer.mixing_values()[kind.name]).min()), kind, name))
    if not nearest:
        raise SettingError("there is nothing to prune: no layer of the network learns how to normalize")
    distance, kind, name = min(nearest, key=lambda one: one[0])
    if distance > within:
        what = "gate" if kind.per_channel else "switch"
        near = "an end" if kind.per_channel else "one statistic"
        raise SettingError(
            f"there is nothing to prune: no {what} is within {within:g} of {near}; the nearest, of {kind.name} in "
            f"{name}, is {distance:.2g} away"
        )
