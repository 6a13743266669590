"""One line out of jsonargparse's account of everything that it tried."""

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from training.yaml_text import YAMLRefusedError, check_yaml, whole_number

UNION = re.compile(r"Subtypes: \[(.*?)\]\n\s+Errors:\n(.*?)\n\s+Given value type: .*?Given value: (.*)", re.DOTALL)
"""What jsonargparse says of a value that fits none of several types: the types, an error for each, and the value."""


CAUSE = re.compile("Problem|Key must be|Import path|Expected a dot import path|Not of type")
"""Beginnings of an error that tells more than that the value is of another type."""


_BROKEN_FILE = re.compile("^Problems parsing config|^'utf-8' codec|^Unexpected config|Key must be a string")

_NEEDED_BY = re.compile(
    r"given class_path '([^']+)':\s+the following arguments are required|Given value: Namespace\(class_path='([^']+)'"
)
"""The class that lacks an argument, which stands alone as a value or among others."""


def shorten(message: str, args: Sequence[str], options: Iterable[str], hint: str = "see --help") -> str:
    """Shorten the message of a parse error to its cause, with the name that was probably meant.

    Args:
        message: What jsonargparse says.
        args: The command line that was parsed.
        options: Names of the options that exist.
        hint: What to do if something required is missing.

    Returns:
        One line.
    """
    if _BROKEN_FILE.search(message) and (broken := _broken_file(args, message)):
        text = broken
    elif unknown := re.search(r"(?:does not accept option|unrecognized arguments:) '?(?:--)?([^\s'=]+)", message):
        text = _unknown_option(unknown[1], set(options))
    elif required := re.search(r"arguments are required: (.*)", message):
        # Of a class that stands as a value, they are named without where they belong.
        names = [key.split(".")[-1] for key in required[1].split(", ")]
        if chosen := _NEEDED_BY.search(message):
            hint = f"{chosen[1] or chosen[2]} needs it, as init_args: {{{', '.join(f'{name}: ...' for name in names)}}}"
        text = f"no {' and no '.join(names)} given: {hint}"
    else:
        text = _shorten_value_error(message)
    # Values are the user's, of any length.
    return re.sub(r"\S{200,}", lambda found: f"{found[0][:60]}...", " ".join(text.split()))


def with_whole_number(args: Sequence[str], message: str) -> list[str]:
    """Write ``1e3`` as ``1000`` where a whole number is expected.

    Args:
        args: A command line.
        message: What jsonargparse says of it.

    Returns:
        The command line, changed where the message is about an option that is given so.
    """
    changed = list(args)
    names = re.findall(r'Parser key "([^"]+)":', message)
    if not names or "int" not in message:
        return changed
    for index, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if re.fullmatch(rf"--(.*\.)?{re.escape(names[-1])}", option):
            place, text = (index, value) if equals else (index + 1, "".join(args[index + 1 : index + 2]))
            if (whole := whole_number(text)) is not None:
                changed[place] = f"{option}={whole}" if equals else whole
    return changed


def _unknown_option(name: str, options: set[str]) -> str:
    section, sections = name.partition(".")[0], {option.partition(".")[0] for option in options}
    if section not in sections:
        name, options = section, sections
    return f"unknown option {name!r}{_did_you_mean(name, options)}"


def _broken_file(args: Sequence[str], message: str) -> str | None:
    for path in (Path(arg.removeprefix("--config=")) for arg in args):
        if os.path.isfile(path):  # unlike Path.is_file, of a text of any length
            try:
                text = path.read_text()
                check_yaml(text)
                settings = yaml.safe_load(text)
                root = yaml.compose(text, Loader=yaml.SafeLoader)
            except YAMLRefusedError as error:
                return f"{path}, {error}"
            except (yaml.YAMLError, ValueError) as error:
                return f"{path} is not valid YAML: {error}".replace(' in "<unicode string>",', "")
            if message.startswith("Unexpected config") and not isinstance(settings, dict):
                held = "is empty" if root is None else f"holds {_first_line(text)}"
                return f"{path} {held}, but a configuration is made of settings, such as name: run"
            for key in _keys(root):
                if f"string, got: {yaml.safe_load(yaml.serialize(key))}." in message:
                    return f"{path}, line {key.start_mark.line + 1}: {_no_text(key.value)}"
    return None


def _keys(node: Any) -> Iterator[yaml.Node]:
    """Yield the keys that are no text, of all mappings within a part of a YAML file."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                yield key
            yield from _keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _keys(part)


def _no_text(key: str) -> str:
    return f"the name of a setting must be a text, got {key}"


def _shorten_value_error(message: str) -> str:
    # Errors nest: the last key is the value itself, and the keys before it are the classes that it is an argument of.
    *_, text = re.split(r'Parser key "[^"]+":', message)
    where = ".init_args.".join(re.findall(r'Parser key "([^"]+)":', message))
    if union := UNION.search(text):
        branches = re.split(r"^\s+- ", union[2], flags=re.M)
        causes = [branch for branch in branches if CAUSE.match(branch)]
        types = union[1].replace(", <class 'NoneType'>", "")
        text = causes[0] if causes else f"expected {types}, got {_first_line(union[3])}"
    if unknown := re.search(r"class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", text):
        text = f"unknown option {unknown[2]!r} of {unknown[1]}{_did_you_mean(unknown[2], _arguments(unknown[1]))}"
    elif missing := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        module = import_module(missing[1])
        classes = [name for name, found in vars(module).items() if isinstance(found, type)]
        text = f"no class {missing[2]!r} in {missing[1]}{_did_you_mean(missing[2], classes)}{_hidden(module)}"
    elif word := re.search(r"Expected a dot import path string: (\w+)", text):
        text = f"no class {word[1]!r}{_did_you_mean_class(where, word[1])}"
    text = re.sub(r"(Got value: [^\n]*)\n.*", r"\1", text, flags=re.S).replace(". Got value:", ", got")
    text = re.sub(r"Key must be a string, got: (.*)\.", lambda found: _no_text(found[1]), text)
    text = _shorten_restriction(text, union[3] if union else "")
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    text = re.sub(r"^\s*Expected (an? )?", "expected ", text)
    if choice := re.fullmatch(r"expected Literal\[(.*)\], got '?(.*?)'?", text.strip()):
        known = re.findall("'(.*?)'", choice[1])
        text = f"expected one of {', '.join(known)}, got {choice[2]}{_did_you_mean(choice[2], known)}"
    # Of a value for which jsonargparse has no more than that it is none.
    if nested := re.fullmatch(r"expected .*, got NestedArg\(key='(.*?)', val='?(.*?)'?\)", text.strip()):
        where, text = f"{where}.{nested[1]}", f"expected another value, got {nested[2]}"
    return f"{where}: {text}" if where else text


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "") or "an empty text"


def _arguments(class_path: str) -> Iterable[str]:
    module, _, name = class_path.rpartition(".")
    found: Any = getattr(import_module(module), name)
    return inspect.signature(found).parameters


def _hidden(module: ModuleType) -> str:
    """Tell of a file of the user's that another module of the same name hides."""
    own, found = Path(module.__name__.replace(".", "/")).with_suffix(".py"), module.__file__
    if found is None or not own.is_file() or own.samefile(found):
        return ""
    return f" ({own} is hidden by {found}: rename it)"


def _shorten_restriction(text: str, value: str) -> str:
    if found := re.search(r"Not of type \w+: (.*?) ?does not conform to restriction (.*)", text):
        wanted = found[2]
        for sign, words in {"v>=": "at least ", "v<=": "at most ", "v>": "above ", "v<": "below "}.items():
            wanted = wanted.replace(sign, words)
        return f"must be {wanted}, got {found[1] or _first_line(value)}"
    number = r"Not of type \w+: (?:invalid literal for (int)\(\).*|could not convert string to (float)): (.*)"
    return re.sub(number, lambda found: f"expected {found[1] or found[2]}, got {found[3]}", text)


def _did_you_mean_class(section: str, name: str) -> str:
    package = {"model": "lightning_modules", "data": "data"}.get(section)
    if package is None:
        return ": expected one such as package.Class"
    # Not by their paths, of which the beginning would be alike for any name.
    meant = _did_you_mean(name, import_module(package).__all__)
    return meant.replace("'", f"'{package}.", 1) or ": expected one such as package.Class"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    # Not above, since it brings torch along, which a command needs seconds to import.
    from norms.errors import did_you_mean

    return did_you_mean(name, known)
