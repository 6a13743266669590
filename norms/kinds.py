"""What a layer can learn about how to normalize: each kind of value, described once for all that read it."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import SettingError

STATISTICS = ("instance", "layer", "batch")
"""What the switch weights weigh, in their index order."""


@dataclass(frozen=True)
class MixingKind:
    """Describe one kind of value that layers learn about how to normalize.

    Optimizer groups, logs, tables, figures and reports read it, so that a new kind needs no other code.

    Attributes:
        name: What the values are called, in :func:`norms.mixing_values` and in files.
        labels: What the values stand for, in order; empty for one value per channel.
        low: The smallest effective value.
        high: The largest effective value.
        neutral: The value before training, if all start alike.
        optimizer_group: The group of :func:`norms.param_groups` that the parameter belongs to; by default ``name``.
        lr_multiplier: Learning rate of the parameter relative to that of weights.
        log_key: Where logs keep the values of a layer, with ``{layer}`` for the layer; by default ``<name>/{layer}``.
        title: Words for figures; by default ``name``.
        end_names: Of values per channel, what normalizes a channel at ``low`` and at ``high``, such as ``instance`` and
            ``batch``; empty if that has no name.

    Raises:
        SettingError: If ``low`` is not below ``high`` or ``log_key`` does not name the layer.
    """

    name: str
    labels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    neutral: float | None = None
    optimizer_group: str = ""
    lr_multiplier: float = 1.0
    log_key: str = ""
    title: str = ""
    end_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        defaults = {"optimizer_group": self.name, "log_key": f"{self.name}/{{layer}}", "title": self.name}
        for field, default in defaults.items():
            object.__setattr__(self, field, getattr(self, field) or default)
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "end_names", tuple(self.end_names))
        if not self.low < self.high:
            raise SettingError(f"kind '{self.name}' needs low below high, got {self.low} and {self.high}")
        if "{layer}" not in self.log_key:
            raise SettingError(f"log_key of kind '{self.name}' must name the {{layer}}, got '{self.log_key}'")

    @property
    def per_channel(self) -> bool:
        """Whether there is one value per channel."""
        return not self.labels

    @property
    def statistics(self) -> tuple[str, ...]:
        """What a pure mixture can consist of: the labels, or the names of the ends."""
        return self.labels or self.end_names

    def pure(self, parameter: Tensor, index: int | None = None) -> Tensor:
        """Return the mixing parameter of the nearest pure mixture, or of that at an index of the layer's statistics."""
        if self.per_channel:
            upper = parameter >= (self.low + self.high) / 2 if index is None else torch.full_like(parameter, index) == 1
            return torch.where(upper, self.high, self.low)
        chosen = int(parameter.argmax()) if index is None else index
        return torch.where(torch.arange(len(parameter), device=parameter.device) == chosen, 0.0, -torch.inf)

    def impurity(self, values: Tensor) -> Tensor:
        """Return how far effective values are from pure, as a share of their range.

        That is the distance of each value per channel from the nearer end, shape (C,), or what the largest of labeled
        values lacks, shape ().
        """
        distance = (
            torch.minimum(values - self.low, self.high - values) if self.per_channel else self.high - values.max()
        )
        return distance.clamp_min(0) / (self.high - self.low)

    @property
    def ends(self) -> tuple[float, float]:
        """The limits below and above which a value counts as near an end: a tenth of the range from either."""
        tenth = (self.high - self.low) / 10
        return self.low + tenth, self.high - tenth

    @property
    def summary_names(self) -> tuple[str, ...]:
        """Names of the numbers that sum up a layer's values, in order."""
        if self.labels:
            return self.labels
        below, above = self.ends
        return "mean", "min", "max", "std", plain_key(f"share_below_{below:g}"), plain_key(f"share_above_{above:g}")

    def summary(self, values: Tensor) -> dict[str, float]:
        """Return by name what sums up a layer's values, shape (C,), or one per label.

        Of values per channel that is their mean, minimum, maximum, biased standard deviation and the shares near either
        end of the range, otherwise the value of each label.
        """
        if self.labels:
            numbers = values.tolist()
        else:
            below, above = self.ends
            parts = [values.mean(), values.min(), values.max(), values.std(correction=0)]
            shares = [(values < below).float().mean(), (values > above).float().mean()]
            numbers = [number.item() for number in (*parts, *shares)]
        return dict(zip(self.summary_names, numbers, strict=True))

    def log_keys(self, layer: str) -> tuple[str, ...]:
        """Return the keys under which logs keep the :meth:`summary` of a layer, in order; see :func:`plain_key`."""
        return tuple(plain_key(f"{self.log_key.replace('{layer}', layer)}/{name}") for name in self.summary_names)

    def to_dict(self) -> dict[str, Any]:
        """Return the description in types that JSON has."""
        return {**asdict(self), "labels": list(self.labels), "end_names": list(self.end_names)}

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> "MixingKind":
        """Return the kind that :meth:`to_dict` has described."""
        return cls(**described)


def plain_key(text: str) -> str:
    """Return a key as Weights & Biases asks for: all but letters, digits, underscores and slashes becomes ``_``."""
    return re.sub(r"[^\w/]", "_", text, flags=re.ASCII)


RHO = MixingKind("rho", neutral=1.0, lr_multiplier=10.0, end_names=("instance", "batch"))
"""The gates of batch-instance normalization: 1 is batch, 0 is instance normalization."""

MEAN_WEIGHT, VAR_WEIGHT = (
    MixingKind(
        f"{moment}_weight",
        labels=STATISTICS,
        neutral=1 / 3,
        optimizer_group="switch",
        log_key=f"switch/{{layer}}/{moment}",
        title=f"weights of {words}",
    )
    for moment, words in (("mean", "means"), ("var", "variances"))
)
"""The weights of switchable normalization, after the softmax."""

BUILTIN = (RHO, MEAN_WEIGHT, VAR_WEIGHT)
"""The kinds of this package's norms, which runs without a description of their own have."""
