"""How a class or style reaches the layers of a network."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from norms import NormPerCondition
from norms.conditional import apply_affine
from norms.errors import SettingError, check_range
from norms.precision import wide_dtype
from norms.registry import Builder, with_options

NormFactory = Callable[[int], nn.Module]


def norm_factory(
    norm: str | Builder,
    norm_options: Mapping[str, Any] | None,
    num_conditions: int | None = None,
    separate: Sequence[str] = (),
) -> NormFactory:
    """Return what builds a network's norms from their numbers of channels.

    Args:
        norm: As :func:`norms.build` takes it.
        norm_options: Further arguments of that layer.
        num_conditions: How many conditions have a gamma and beta of their own, see :class:`norms.ConditionalNorm`;
            None for norms without conditions.
        separate: Names of the conditions if each shall have a norm of its own, with a rho or switch weights of its own
            beside gamma and beta, see :class:`norms.NormPerCondition`. Underscores take the place of dots, and make
            different what no layer can be called, such as ``clear``.

    Raises:
        SettingError: If an option's name is none that a setting may give.
    """
    make_norm = with_options(norm, norm_options, None if separate else num_conditions)
    return partial(_norm_per_condition, make_norm, _layer_names(separate)) if separate else make_norm


def normalized(norm: nn.Module, x: Tensor, condition: Tensor | int | None) -> Tensor:
    """Normalize ``x``, by the norm of a condition if there is one."""
    y: Tensor = norm(x) if condition is None else norm(x, condition)
    return y


class ModulatedNorm(nn.Module):
    r"""Give any norm a gamma and beta that a vector decides.

    .. math::
        y_n = (1 + A c_n) \odot \mathrm{norm}(x)_n + B c_n

    with the vector :math:`c_n` of sample n.

    Args:
        norm: As :func:`norms.build` takes it.
        norm_options: Further arguments of that layer.
        condition_dim: Length of the vector.
        num_features: Number of channels C.

    Shape:
        Input and output: (N, C, H, W). Condition: (N, condition_dim).

    Source:
        Brock, Donahue & Simonyan, Large Scale GAN Training for High Fidelity Natural Image Synthesis, ICLR 2019, arXiv
        1809.11096, appendix B.
    """

    def __init__(
        self, norm: str | Builder, norm_options: Mapping[str, Any] | None, condition_dim: int, num_features: int
    ) -> None:
        super().__init__()
        # A norm that is built for conditions has no gamma and beta of its own.
        self.norm: nn.Module = norm_factory(norm, norm_options, num_conditions=1)(num_features).get_submodule("norm")
        self.gain = nn.Linear(condition_dim, num_features, bias=False)
        self.offset = nn.Linear(condition_dim, num_features, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalize ``x``, and apply gamma and beta of the vectors."""
        gain, offset = self.gain(condition), self.offset(condition)
        return apply_affine(self.norm, x, 1 + gain.to(wide_dtype(gain)), offset.to(wide_dtype(offset)))


class ClassEmbedding(nn.Embedding):
    """Look up a vector for each class, or mix the vectors of all.

    Shape:
        Labels (N,), integers, or shares (N, K) -> (N, embedding_dim).
    """

    def forward(self, labels: Tensor) -> Tensor:
        """Return one vector per label."""
        return labels.to(self.weight.dtype) @ self.weight if labels.is_floating_point() else super().forward(labels)


def check_labels(labels: Tensor | None, samples: int, num_classes: int) -> None:
    """Refuse labels that do not fit a network.

    A class that is too large is found on the CPU; on a GPU the look would wait for it.

    Args:
        labels: None, integers (N,) or shares (N, K) of a floating dtype.
        samples: The number of samples N.
        num_classes: The number of classes K; 0 for a network that knows none.

    Raises:
        SettingError: If labels are missing or given to a network without classes, or have another shape, dtype or
            range.
    """
    if num_classes == 0 or labels is None:
        if labels is not None:
            raise SettingError("the network has no classes, so it takes no labels: build it with num_classes")
        if num_classes:
            raise SettingError(f"labels are missing: the network has {num_classes} classes")
        return
    shape = (samples, num_classes) if labels.is_floating_point() else (samples,)
    if tuple(labels.shape) != shape or labels.dtype == torch.bool:
        raise SettingError(
            f"labels must be integers of shape ({samples},) or shares of shape ({samples}, {num_classes}), got "
            f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        )
    if torch.compiler.is_compiling() or labels.is_floating_point() or labels.device.type != "cpu" or not samples:
        return
    for label in labels.aminmax():
        check_range("a label", int(label), at_least=0, at_most=num_classes - 1)


def _layer_names(conditions: Sequence[str]) -> list[str]:
    taken: list[str] = []
    for condition in conditions:
        name = condition.replace(".", "_")
        while name in taken or hasattr(nn.ModuleDict(), name):
            name += "_"
        taken.append(name)
    return taken


def _norm_per_condition(make_norm: NormFactory, conditions: Sequence[str], channels: int) -> nn.Module:
    return NormPerCondition({condition: make_norm(channels) for condition in conditions})
