"""The precision that statistics and weights are computed in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .errors import SettingError


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float32, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def check_floating(x: Tensor, name: str) -> None:
    """Refuse activations that are no real floating-point numbers, to which a result would be cut."""
    if not x.is_floating_point():
        raise SettingError(f"{name} needs activations of a floating-point dtype, got {x.dtype}")
    check_wide(x, f"{name} needs activations")


def check_wide(x: Tensor, needs: str) -> None:
    """Refuse floating-point dtypes of 8 bits or less, which torch stores and does not compute with."""
    if x.is_floating_point() and x.dtype.itemsize < 2:
        raise SettingError(f"{needs} of float16, bfloat16, float32 or float64, got {x.dtype}: convert them before")


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast, which would round matrix products to half precision."""
    # Devices without autocast, such as meta, refuse to switch it off. Not every compiler can ask.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()
