"""What weight and spectral normalization share: a weight that is computed from other tensors."""

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from .errors import SettingError
from .precision import check_wide

TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED_CONVOLUTIONS)


class WeightParametrization(nn.Module):
    """Mark the parametrizations in this package, by which they are found in a model."""

    hook: RemovableHandle | None = None
    """What the parametrized layer calls on behalf of the parametrization, if anything."""

    def check(self, label: str) -> None:
        """Refuse tensors that no weight follows from, of the weight that is called ``label``."""


P = TypeVar("P", bound=WeightParametrization)


class ParametrizedWeight(NamedTuple, Generic[P]):
    """Hold a weight that :func:`parametrized_weights` has found: ``name`` of ``layer``, computed from ``originals``."""

    label: str
    """Dotted name of the layer, followed by that of the tensor unless it is ``weight``."""
    layer: nn.Module
    name: str
    originals: parametrize.ParametrizationList
    parametrization: P


def parametrized_weights(model: nn.Module, kind: type[P]) -> Iterator[ParametrizedWeight[P]]:
    """Find the weights of a model that have a parametrization of this kind, in the order of ``named_modules``."""
    for path, originals in model.named_modules():
        if isinstance(originals, parametrize.ParametrizationList) and isinstance(originals[0], kind):
            prefix, _, name = path.rpartition("parametrizations.")
            owner = prefix.removesuffix(".")
            label = owner if name == "weight" else prefix + name
            yield ParametrizedWeight(label, model.get_submodule(owner), name, originals, originals[0])


def check_weight(module: nn.Module, name: str) -> Tensor:
    """Look up a weight that is to be parametrized, or say why it cannot be."""
    where = f"{type(module).__name__}.{name}"
    if parametrize.is_parametrized(module, name):
        raise SettingError(f"{where} is parametrized already: remove that first, see norms.fold_")
    weight = dict(module.named_parameters(recurse=False)).get(name)
    if weight is None:
        raise SettingError(f"{type(module).__name__} has no parameter '{name}'")
    if nn.parameter.is_lazy(weight):
        raise SettingError(f"{where} has no shape yet: run the module once before its weight is normalized")
    if weight.ndim < 2:
        raise SettingError(
            f"{where} must have outputs and inputs, 2 dimensions or more, got shape {tuple(weight.shape)}"
        )
    check_wide(weight, f"{where} needs values")
    return weight


@torch.no_grad()
def fold_(model: nn.Module) -> nn.Module:
    """Replace every weight- or spectrally normalized weight by the plain weight it is now, in place.

    This is for inference and export: outputs in evaluation mode stay the same bit for bit, the state dict has the keys
    of the plain layers, and nothing is normalized any more. A folded weight is a new parameter, unknown to optimizers
    made before. Parametrizations that others have put on top of ours are folded with them. To keep a model trainable,
    fold a copy: ``fold_(copy.deepcopy(model))``. ``model`` may itself be a normalized layer, and is returned.
    """
    found = list(parametrized_weights(model, WeightParametrization))
    for each in found:
        each.parametrization.check(each.label)
    for _, layer, name, originals, parametrization in found:
        trainable = any(original.requires_grad for original in originals.parameters(recurse=False))
        weight = nn.Parameter(getattr(layer, name), trainable)
        if parametrization.hook is not None:
            parametrization.hook.remove()
        # Copies of a parametrized layer share its class, from which torch removes the parametrized attribute.
        shared = type(layer)
        layer.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
        parametrize.remove_parametrizations(layer, name)
        # torch has left a buffer here if the weight came from several tensors, as gradients are off.
        delattr(layer, name)
        layer.register_parameter(name, weight)
    return model
