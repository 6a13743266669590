"""The first lines of the page that a benchmark writes."""

import os
import platform
import shlex
import sys

import pytorch_lightning as pl
import torch


def heading(title: str, explanation: str, threads: int) -> list[str]:
    """Return the lines that say what was measured, how and where.

    Args:
        title: Of the page.
        explanation: The docstring of the benchmark, which ends with a command.
        threads: How many computed.
    """
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown load"
    return [
        f"# {title}",
        *explanation.partition("\n\n    python")[0].splitlines()[1:],
        "",
        f"    {shlex.join(['python', *sys.argv])}",
        "",
        f"On {platform.machine()}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}, with {load}; "
        f"torch {torch.__version__}, Lightning {pl.__version__}, Python {platform.python_version()}.",
        "",
    ]


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return a table in Markdown, with an empty line behind it."""
    return [
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
