"""YAML, looked at before anything is built of it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from yaml.constructor import SafeConstructor

DEEPEST = 50
"""Levels of nesting."""

LARGEST = 100_000
"""Values, each alias counted as all that it stands for."""

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""What jsonargparse's own loader is derived of."""


class YAMLRefusedError(yaml.YAMLError):
    """Tell of YAML that could be read, but is too large, too deep or ambiguous."""


@dataclass
class _Collection:
    is_mapping: bool
    anchor: str | None
    size: int = 1
    children: int = 0
    keys: set[str] = field(default_factory=set)


def check_yaml(text: str) -> None:
    """Refuse YAML that would take for ever to look at, or of which nobody knows what it means.

    Args:
        text: Any YAML.

    Raises:
        YAMLRefusedError: If it nests deeper than ``DEEPEST``, its aliases stand for more than ``LARGEST`` values in all
            or for what they are part of, a key is there twice, or a number has thousands of digits.
        yaml.YAMLError: If it is no YAML.
    """
    open_collections: list[_Collection] = []
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_collections) == DEEPEST:
                raise _refused(f"nested deeper than {DEEPEST} levels", event)
            open_collections.append(_Collection(isinstance(event, yaml.MappingStartEvent), event.anchor))
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            closed = open_collections.pop()
            size, anchor = closed.size, closed.anchor
        elif isinstance(event, yaml.NodeEvent):
            size, anchor = _size_of(event, sizes), event.anchor
        else:
            continue
        if anchor:
            sizes[anchor] = size
        if open_collections:
            _add(open_collections[-1], size, event)


def _size_of(event: Any, sizes: dict[str, int]) -> int:
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in sizes:
            raise _refused(f"the alias {event.anchor!r} stands for nothing, or for what it is part of", event)
        return sizes[event.anchor]
    if event.implicit[0] and re.fullmatch(r"[-+]?[\d_]{1000,}", event.value):
        raise _refused(f"a number of {len(event.value)} digits", event)
    return 1


def _add(parent: _Collection, size: int, event: Any) -> None:
    parent.size += size
    if parent.size > LARGEST:
        raise _refused(f"aliases that stand for more than {LARGEST} values", event)
    is_key = parent.is_mapping and parent.children % 2 == 0
    parent.children += 1
    if is_key and isinstance(event, yaml.ScalarEvent):
        if event.value in parent.keys:
            raise _refused(f"the key {event.value!r} is there twice", event)
        parent.keys.add(event.value)


def _refused(problem: str, event: Any) -> YAMLRefusedError:
    return YAMLRefusedError(f"line {event.start_mark.line + 1}: {problem}")


def with_whole_numbers(text: str) -> str:
    """Write ``1e3`` as ``1000`` in YAML, which a setting that is a whole number takes, and any other number as well."""
    events: list[Any] = list(yaml.parse(text, Loader=yaml.SafeLoader))
    for event in reversed(events):
        plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        if plain and (whole := whole_number(event.value)):
            text = text[: event.start_mark.index] + whole + text[event.end_mark.index :]
    return text


def whole_number(text: str) -> str | None:
    """Return the digits of a whole number that is written with an exponent; None for anything else."""
    if not re.fullmatch(r"[+-]?\d+(\.\d*)?[eE]\+?\d+", text):
        return None
    number = float(text)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else None


def load_checked_yaml() -> None:
    """Let jsonargparse check YAML before it loads it, be it a file's or a value's; may be called again.

    It takes ``1:30`` for the text that it is, in which YAML 1.1 sees 90, a number to the base of 60.
    """
    for kind, construct in (
        ("int", SafeConstructor.construct_yaml_int),
        ("float", SafeConstructor.construct_yaml_float),
    ):
        yaml.add_constructor(f"tag:yaml.org,2002:{kind}", _without_base_60(construct), LOADER)
    if get_loader("yaml") is not _load:
        _LOADED_BY.append(get_loader("yaml"))
        set_loader("yaml", _load, (yaml.YAMLError,))


def _without_base_60(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda loader, node: node.value if ":" in node.value else construct(loader, node)


_LOADED_BY: list[Callable[[str], Any]] = []


def _load(text: str) -> Any:
    check_yaml(text)
    return _LOADED_BY[-1](with_whole_numbers(text))
