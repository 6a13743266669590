"""Finding numbers that are none."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor, of any type, holds neither NaN nor an infinity."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.is_floating_point() and tensor.itemsize == 1:
        tensor = tensor.float()  # torch can do little else with them
    return bool(torch.isfinite(tensor).all())


def not_finite(tensors: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """Yield the names of what is a tensor and not finite."""
    return (name for name, value in tensors if isinstance(value, Tensor) and not is_finite(value))


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
