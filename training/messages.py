"""Which messages and warnings of the libraries a user gets to see, and how."""

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

IRRELEVANT_LOGS = re.compile(r"Tip: |(TPU|HPU) available|GPU available: False|Seed set to")
LIGHTNING_LOGS = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.seed",
    "lightning_fabric.utilities.rank_zero",
)

IRRELEVANT_WARNINGS = (
    ".*does not have many workers",  # small images need few
    ".*`srun` command is available",  # also where one process is meant, as for a run of a sweep
    ".*isinstance.treespec, LeafSpec",  # between Lightning and torch
    "(?s).*JsonargparseDeprecationWarning",
    "(?s).*deprecated in v4.*removed in v5",  # jsonargparse's, of what Lightning calls
    "(?s).*add_instantiator",  # its successor is younger than the oldest jsonargparse that is supported
)


@contextmanager
def relevant_messages() -> Iterator[None]:
    """Leave out of this block what Lightning and others say to everyone, and print each warning as one line."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    for name in LIGHTNING_LOGS:
        logging.getLogger(name).addFilter(_is_relevant)
    with warnings.catch_warnings():
        for pattern in IRRELEVANT_WARNINGS:
            warnings.filterwarnings("ignore", pattern)
        warnings.showwarning = show
        yield


def _is_relevant(record: logging.LogRecord) -> bool:
    return not IRRELEVANT_LOGS.search(record.getMessage())
