"""Objects by name, by class path or as they are, and what can be given to them."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from torch import nn

from .errors import SettingError, unknown

T = TypeVar("T", bound=Callable[..., Any])


def resolve(kind: str, given: str | T, known: Mapping[str, T]) -> T:
    """Return the class or function that is meant.

    A class path is imported, which runs the code of its module: it must come from the user.

    Args:
        kind: What is asked for, in words for messages, such as ``norm``.
        given: A known name, a class path such as ``torch.nn.SyncBatchNorm``, or the object itself.
        known: The objects that have names.

    Raises:
        SettingError: If the name is unknown, or the class path leads to nothing that can be called.
    """
    if not isinstance(given, str):
        return given
    if given in known:
        return known[given]
    if "." not in given:
        raise unknown(kind, given, known)
    try:
        found = pkgutil.resolve_name(given)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(f"{kind} '{given}' cannot be imported: {error}") from error
    if not callable(found):
        raise SettingError(f"{kind} '{given}' must be a class or function, got a {type(found).__name__}")
    return cast(T, found)


def parameters(builder: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return what can be given to a class or function by name, and whether it takes other names too.

    A class whose ``__init__`` takes ``**options`` is taken to hand them on to its base, unless that is ``nn.Module``,
    which takes none.

    Args:
        builder: A class, function or other callable.
    """
    if not inspect.isclass(builder):
        return _named(builder)
    found: dict[str, inspect.Parameter] = {}
    is_open = False
    for base in builder.__mro__:
        if base in (nn.Module, object):
            break
        if "__init__" in vars(base):
            named, is_open = _named(base if "__signature__" in vars(base) else vars(base)["__init__"])
            found = {**found, **{name: given for name, given in named.items() if name not in found}}
            if not is_open:
                break
    found.pop("self", None)
    return found, is_open


def _named(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    try:
        given = inspect.signature(function).parameters
    except ValueError:  # some functions written in C have no signature
        return {}, True
    named = {name: p for name, p in given.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in given.values())
