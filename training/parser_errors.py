"""One line for what ends a command early, also out of jsonargparse's account of everything that it tried."""

import difflib
import inspect
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from norms.errors import SettingError

UNION = re.compile(r"Subtypes: \[(.*?)\]\n\s+Errors:\n(.*?)\n\s+Given value type: .*?Given value: (.*)", re.DOTALL)
"""What jsonargparse says of a value that fits none of several types: the types, an error for each, and the value."""


def run_command(parser: ArgumentParser, run: Callable[[Namespace], None], arguments: Sequence[str] | None) -> int:
    """Parse a command line and run the command; a mistake of the user and Ctrl-C end it with one line on stderr.

    Args:
        parser: What the command line is parsed with, which itself exits if it cannot be.
        run: The command, called with the parsed options.
        arguments: The command line without the program, or None for that of the process.

    Returns:
        The exit status: 0, 2 after a ``SettingError``, or 130 after Ctrl-C.
    """
    try:
        run(parser.parse_args(arguments))
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as error:
        # A trainer of Lightning makes an exit of Ctrl-C, with a status that could mean anything.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def positive(text: str) -> int:
    """Read a whole number of at least 1: the ``type`` of an option.

    Raises:
        ArgumentTypeError: If ``text`` is anything else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def shorten(message: str, args: Sequence[str], options: Iterable[str]) -> str:
    """Shorten the message of a parse error to its cause, with the name that was probably meant.

    Args:
        message: What jsonargparse says.
        args: The command line that was parsed.
        options: Names of the options that exist.

    Returns:
        One line.
    """
    if message.startswith("Problems parsing config"):
        text = _broken_file(args) or message
    elif unknown := re.search(r"(?:does not accept option|unrecognized arguments:) '?(?:--)?([^\s'=]+)", message):
        text = _unknown_option(unknown[1], set(options))
    elif required := re.search(r"arguments are required: (.*)", message):
        text = f"no {' and no '.join(key.split('.')[-1] for key in required[1].split(', '))} given: use --config FILE"
    else:
        text = _shorten_value_error(message)
    return " ".join(text.split())


def _unknown_option(name: str, options: set[str]) -> str:
    section, sections = name.partition(".")[0], {option.partition(".")[0] for option in options}
    if section not in sections:
        name, options = section, sections
    return f"unknown option {name!r}{_did_you_mean(name, options)}"


def _broken_file(args: Sequence[str]) -> str | None:
    for path in (Path(arg.removeprefix("--config=")) for arg in args):
        if path.is_file():
            try:
                yaml.safe_load(path.read_text())
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                return f"{path} is not valid YAML: {error}"
    return None


def _shorten_value_error(message: str) -> str:
    # Errors nest: the last key is the value itself, and the keys before it are the classes that it is an argument of.
    *_, text = re.split(r'Parser key "[^"]+":', message)
    where = ".init_args.".join(re.findall(r'Parser key "([^"]+)":', message))
    if union := UNION.search(text):
        branches = re.split(r"^\s+- ", union[2], flags=re.M)
        causes = [branch for branch in branches if re.match("Problem|Import path|Expected a dot import path", branch)]
        types = union[1].replace(", <class 'NoneType'>", "")
        text = causes[0] if causes else f"expected {types}, got {union[3].splitlines()[0]}"
    if unknown := re.search(r"class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", text):
        text = f"unknown option {unknown[2]!r} of {unknown[1]}{_did_you_mean(unknown[2], _arguments(unknown[1]))}"
    elif missing := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        text = f"no class {missing[2]!r} in {missing[1]}{_did_you_mean(missing[2], dir(import_module(missing[1])))}"
    text = re.sub(r"(Got value: [^\n]*)\n.*", r"\1", text, flags=re.S).replace(". Got value:", ", got")
    text = text.replace("Expected a dot import path string:", "expected a class, such as package.Class, got")
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    text = re.sub(r"^\s*Expected (an? )?", "expected ", text)
    return f"{where}: {text}" if where else text


def _arguments(class_path: str) -> Iterable[str]:
    module, _, name = class_path.rpartition(".")
    found: Any = getattr(import_module(module), name)
    return inspect.signature(found).parameters


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
