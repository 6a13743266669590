"""Find what a setting names: one of the known things, or any other by its class path."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .errors import SettingError, did_you_mean, unknown

_trusted: ContextVar[tuple[Sequence[str], str] | None] = ContextVar("_trusted", default=None)


@contextmanager
def only_from(packages: Sequence[str], option: str) -> Iterator[None]:
    """Refuse, within the block, to import anything else than these packages: a stranger may have written the settings.

    Args:
        packages: Names of packages or modules, which stand for all within them too.
        option: What the user can give the name of a further one to, for the message.
    """
    token = _trusted.set((packages, option))
    try:
        yield
    finally:
        _trusted.reset(token)


def _check_trusted(kind: str, path: str, module: str) -> None:
    if (trusted := _trusted.get()) is None:
        return
    packages, option = trusted
    if not any(f"{module}.".startswith(f"{package}.") for package in packages):
        own = module.partition(".")[0]
        raise SettingError(f"{kind} '{path}' is not imported, since {own} is not trusted (to trust it: {option} {own})")


def resolve(kind: str, choice: Any, known: Mapping[str, Any] | None = None) -> Any:
    """Return what ``choice`` stands for.

    Args:
        kind: What is chosen, such as ``norm``, for the message.
        choice: A known name, a class path such as ``mypackage.module.MyNorm``, or the object itself.
        known: The objects that have a name.

    Raises:
        SettingError: If there is no such name, module or attribute, or :func:`only_from` forbids to import it.
    """
    known = known or {}
    if not isinstance(choice, str):
        return choice
    if choice in known:
        return known[choice]
    if "." not in choice:
        raise unknown(kind, choice, known)
    _check_trusted(kind, choice, choice)
    found = _import(kind, choice)
    # A module of a trusted package has others for attributes.
    _check_trusted(kind, choice, str(getattr(found, "__module__", None) or getattr(found, "__name__", "")))
    return found


def resolve_callable(kind: str, choice: Any, known: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """Return what ``choice`` stands for, as :func:`resolve` does, and refuse what cannot be called."""
    found = resolve(kind, choice, known)
    if not callable(found):
        raise SettingError(f"{kind} {choice!r} cannot be called")
    return found


def _import(kind: str, path: str) -> Any:
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(f"{error.name}.")):
                continue  # a class within a class
            raise SettingError(f"{kind} '{path}': {module} needs the module {error.name}, which is missing") from error
        except (ImportError, TypeError, ValueError) as error:
            raise SettingError(f"{kind} '{path}' cannot be imported: {error}") from error
        for index, name in enumerate(parts[length:], start=length):
            if not hasattr(found, name):
                owner = ".".join(parts[:index])
                raise SettingError(f"{kind} '{path}': {owner} has no {name}{did_you_mean(name, dir(found))}")
            found = getattr(found, name)
        return found
    raise SettingError(f"{kind} '{path}': there is no module {parts[0]}")
