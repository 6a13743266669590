"""Finding numbers that are none."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from norms.mixing import mixing_layers


def is_finite(tensor: Tensor, or_infinite: bool = False) -> bool:
    """Return whether a tensor, of any type, holds neither NaN nor an infinity; or only whether it holds no NaN."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # Where FSDP2 has distributed it, each process looks at its share.
    tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if tensor.is_floating_point() and tensor.itemsize == 1:
        tensor = tensor.float()  # torch can do little else with them
    return not tensor.isnan().any() if or_infinite else bool(tensor.isfinite().all())


def not_finite(tensors: Iterable[tuple[str, Any]], may_be_infinite: Collection[str] = ()) -> list[str]:
    """List the names of what is a tensor and not finite.

    Args:
        tensors: Names and values.
        may_be_infinite: The names of what may hold infinities, but no NaN.
    """
    return [
        name
        for name, value in tensors
        if isinstance(value, Tensor) and not is_finite(value, or_infinite=name in may_be_infinite)
    ]


def may_be_infinite(module: nn.Module) -> set[str]:
    """Name what may hold infinities in a module's state: what does now, such as a mask, and all :func:`logits`."""
    return logits(module).union(not_finite(module.state_dict().items()))


def logits(module: nn.Module) -> set[str]:
    """Name the logits of mixing layers in a module's state, which are infinite where a mixture is pure."""
    return {f"{name}.{kind.name}" for name, layer in mixing_layers(module) for kind in layer.kinds if kind.labels}


def named_values(state: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield everything within nested dictionaries and lists, each by its path behind ``name``."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from named_values(value, f"{name}.{key}")
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from named_values(value, f"{name}.{index}")
    else:
        yield name, state


def has_finite_weights(module: nn.Module) -> bool:
    """Return whether all parameters are finite; if not, nothing can be shown of the module."""
    return not not_finite(module.named_parameters(), logits(module))
