"""On what a training runs, in words."""

import os
import platform
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

CPUS = Path("/proc/cpuinfo")
"""Where Linux says what the processor is called."""


@cache
def machine() -> str:
    """Name the GPU or processor of this machine, and the versions that decide what a training comes to."""
    names = sorted({torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())})
    versions = f"torch {torch.__version__}, Lightning {version('pytorch-lightning')}"
    where = " and ".join(names) or f"{_processor()}, {os.cpu_count()} cores"
    return f"{where}; {versions}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", CPUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()
