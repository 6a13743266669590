"""What the analysis says of a kind of mixing values, and how a run describes its kinds."""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from norms.errors import SettingError
from norms.kinds import BUILTIN, MixingKind
from training.run import Run
from training.terminal import printable

GAMMA = "gamma"
"""The kind of the norm's ``weight``, one for every channel, which checkpoints hold."""

LOGGED = "_summary"
"""Ends the kind of rows that stand for the channels of a layer where no more of them is known than the log's summary,
as in the history of W&B."""

NOISE = 0.05
"""Values that differ by less, in parts of their kind's range, are no finding: a short training or another seed moves
them as far. So it is with shares, of 1."""


def word(kind: MixingKind) -> str:
    """Return what a kind is called in a title: of the weights of means, ``means``."""
    return kind.name if kind.per_channel else kind.title.removeprefix("weights of ")


def families(kinds: Iterable[MixingKind]) -> dict[str, list[MixingKind]]:
    """Put together the labeled kinds with the same labels that are optimized together, such as the weights of a switch.

    Returns:
        From the optimizer group of several kinds, or the name of a single one, to the kinds.
    """
    kinds = list(kinds)
    alike: dict[tuple[str, tuple[str, ...]], list[MixingKind]] = {}
    for kind in kinds:
        if not kind.per_channel:
            alike.setdefault((kind.optimizer_group, kind.labels), []).append(kind)
    found: dict[str, list[MixingKind]] = {}
    for (group, _), own in alike.items():
        taken = {*found, *(kind.name for kind in kinds)}
        found[group if len(own) > 1 and group not in taken else own[0].name] = own
    return found


def read_kinds(described: Any, source: object) -> tuple[MixingKind, ...]:
    """Read the kinds of mixing values that a run describes.

    Args:
        described: A list of what :meth:`norms.kinds.MixingKind.to_dict` returns, or None for an older run.
        source: Where it was read.

    Returns:
        These kinds, and those of this package's norms whose names are not among them.

    Raises:
        SettingError: If it is anything else.
    """
    try:
        own = tuple(_read_kind(dict(kind)) for kind in described or ())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SettingError(f"{source} does not describe kinds of mixing values: {error}") from error
    names = {kind.name for kind in own}
    return own + tuple(kind for kind in BUILTIN if kind.name not in names)


def described_kinds(run: Run) -> tuple[MixingKind, ...]:
    """Read the kinds of mixing values that a run's folder describes; see :func:`read_kinds`.

    Raises:
        SettingError: If the description is damaged.
    """
    path = run.mixing_kinds
    if not run.has_folder or not path.is_file():
        return BUILTIN
    try:
        return read_kinds(json.loads(path.read_text()), path)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"{path} is damaged: {error}") from error


def _read_kind(described: dict[str, Any]) -> MixingKind:
    kind = MixingKind.from_dict(described)
    for name in (kind.name, kind.optimizer_group):  # which figures are called by
        if not re.fullmatch(r"[\w-]+", name):
            raise SettingError(f"the name of a kind has letters, digits, _ and - alone, got {name!r}")
    return replace(kind, labels=tuple(map(printable, kind.labels)), title=printable(kind.title))
