"""One way to tell of a wrong setting: what is wrong, where, and what would be right."""

import difflib
from collections.abc import Iterable, Mapping
from inspect import Signature
from numbers import Integral, Real
from operator import ge, gt, le, lt
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin


class SettingError(ValueError):
    """Tell of a setting, name or file of the user that cannot be used, told in one line."""


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return ``", did you mean 'NAME'?"`` for the known name nearest to ``name``, or nothing if none is near."""
    by_lower_case = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(name).lower(), list(by_lower_case), n=1, cutoff=0.5)
    return f", did you mean '{by_lower_case[close[0]]}'?" if close else ""


def unknown(kind: str, name: Any, known: Iterable[str]) -> SettingError:
    """Return the error for a name of some kind, such as ``norm``, that is not among the known ones."""
    known = list(known)
    return SettingError(f"unknown {kind} '{name}'{did_you_mean(name, known)} (known: {', '.join(known)})")


def check_range(
    name: str,
    value: float | None,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse a number outside its range by a ``SettingError``; NaN is outside every range, None a setting left open."""
    if value is None:
        return
    limits = ("at least", at_least, ge), ("above", above, gt), ("at most", at_most, le), ("below", below, lt)
    given = [(words, limit, holds) for words, limit, holds in limits if limit is not None]
    if not all(holds(value, limit) for _, limit, holds in given):
        wanted = " and ".join(
            f"{words} {limit if isinstance(limit, int) else f'{limit:g}'}" for words, limit, _ in given
        )
        raise SettingError(f"{name} must be {wanted}, got {value}")


_PLAIN: Mapping[Any, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
    NoneType: (NoneType, "null"),
}


def check_types(options: Mapping[str, Any], signature: Signature) -> None:
    """Refuse options of another type than the annotations of their parameters, where those are of plain types alone."""
    for name, value in options.items():
        hint = signature.parameters[name].annotation if name in signature.parameters else Any
        types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not all(isinstance(each, type) and each in _PLAIN for each in types):
            continue
        # Python counts true and false among the numbers.
        fits = bool in types if isinstance(value, bool) else isinstance(value, tuple(_PLAIN[each][0] for each in types))
        if not fits:
            raise SettingError(f"{name} must be {' or '.join(_PLAIN[each][1] for each in types)}, got {value!r}")
