"""Devices that a command line names."""

import torch

from norms.errors import SettingError

AUTO = "auto"
"""The accelerator, if there is one."""


def find_device(name: str | None) -> torch.device:
    """Find the device of a name; by default the accelerator, if there is one.

    Raises:
        SettingError: If it cannot be used.
    """
    if name in (None, AUTO):
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        found = torch.zeros(1, device=name)
        found.cpu()  # a device such as meta, which holds nothing, cannot
        return found.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]  # what follows is for torch's developers
        raise SettingError(f"--device: cannot use device {name!r}: {reason}") from error
