"""The first lines of the page that a benchmark writes."""

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch


def heading(title: str, explanation: str, threads: int, device: str = "cpu") -> list[str]:
    """Return the lines that say what was measured, how and where.

    Args:
        title: Of the page.
        explanation: The docstring of the benchmark, which ends with a command.
        threads: How many computed.
        device: Where the networks were.
    """
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown load"
    return [
        f"# {title}",
        *explanation.partition("\n\n    python")[0].splitlines()[1:],
        "",
        f"    {shlex.join(['python', *sys.argv])}",
        "",
        f"On {processor()}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}, on {device}, with {load}; "
        f"torch {torch.__version__}, Lightning {pl.__version__}, Python {platform.python_version()}.",
        "",
    ]


def processor() -> str:
    """Return the processor's name, or its kind where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, with an empty line behind it."""
    return [
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
