"""How the commands are entered and left: a parser for each, and one line on stderr for what ends it early.

Nothing here imports torch before a command runs, so that ``--help`` is quick.
"""

import argparse
import errno
import io
import re
import sys
from argparse import ArgumentError, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

import normlab
from training import parser_errors
from training.errors import DISK_FAULTS, TrainingError, disk_fault
from training.paths import from_home
from training.terminal import printable

TRUSTED = (*normlab.PACKAGES, "torch.nn")
"""What a run or checkpoint, which a stranger may have made, can name classes of."""


def command_parser(description: str, epilog: str | None = None, reads_runs: bool = True) -> ArgumentParser:
    """Make the parser of a command, which knows ``--help``, ``--version`` and ``--trust``, and no abbreviations.

    Args:
        description: What the command does.
        epilog: What its help says at the end.
        reads_runs: Whether it builds what runs name, for which there is ``--trust``.
    """
    parser = ArgumentParser(
        description=description,
        epilog=epilog,
        version=normlab.__version__,
        formatter_class=argparse.HelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    trust = (
        "let runs name classes of this package too, which is imported; only normlab's own and torch.nn are otherwise; "
        "may be given several times"
    )
    if reads_runs:
        parser.add_argument("--trust", metavar="PACKAGE", action="append", default=[], help=trust)
    return parser


def path_of(name: str) -> Path:
    """Return the path of a name on the command line, which need not be text; jsonargparse would read it as YAML.

    A ``~`` at its beginning is the home folder, as in a shell, which leaves it alone in ``--output=~/out``.

    Raises:
        ArgumentTypeError: If the name is empty, which ``Path`` would take for the folder at hand, or there is no such
            home folder.
    """
    if not name:
        raise ArgumentTypeError("expected a path, got an empty text")
    try:
        return from_home(name)
    except RuntimeError as error:
        raise ArgumentTypeError(str(error)) from error


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at its first ``--``: what is before it, and what goes on to other commands behind it."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:end]), list(arguments[end + 1 :])


def run_command(
    parser: argparse.ArgumentParser, run: Callable[[Any], None], arguments: Sequence[str] | None = None
) -> int:
    """Parse a command line and run the command; a mistake of the user and Ctrl-C end it with one line on stderr.

    Nothing but :data:`TRUSTED` and what ``--trust`` names is imported because a run names it.

    Args:
        parser: What the command line is parsed with.
        run: The command, called with the parsed options.
        arguments: The command line without the program, or None for that of the process.

    Returns:
        The exit status: 0, 1 after a disk that failed, 2 after a ``SettingError`` or a command line that cannot be
        parsed, or 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return end_in_one_line(lambda: _run_trusting(run, _parse(parser, arguments)))


def end_in_one_line(action: Callable[[], None], *mistakes: type[Exception]) -> int:
    """Run ``action``; only a bug ends it with a traceback, all else with one line on stderr.

    Args:
        action: What to run.
        mistakes: Which errors tell of a mistake, besides ``SettingError``.

    Returns:
        The exit status: 0, 1 after a training that went wrong or a disk that failed, 2 after a mistake, or 130 after
        Ctrl-C.
    """
    # A file's name need not be text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        action()
    except (KeyboardInterrupt, SystemExit) as error:
        # A trainer of Lightning makes an exit of Ctrl-C, with a status that could mean anything.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from norms.errors import SettingError

        text, status = str(error), 2
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            text, status = disk_fault(error, error.filename or "a file"), 1
        elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            text = f"{error.filename}: {error.strerror}"
        elif isinstance(error, TrainingError):
            status = 1
        elif not isinstance(error, (SettingError, *mistakes)):
            raise
        print("error:", printable(" ".join(line.strip() for line in text.splitlines())), file=sys.stderr)
        return status
    return 0


def _run_trusting(run: Callable[[Any], None], options: Any) -> None:
    from norms.imports import only_from

    trusted = getattr(options, "trust", [])
    if trusted and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # where train.py has found them, behind everything installed
    for package in trusted:
        _check_package(package)
    with only_from((*TRUSTED, *trusted), "--trust"):
        run(options)


def _check_package(name: str) -> None:
    from norms.errors import SettingError

    # Only its beginning, since looking for more imports it.
    if not all(part.isidentifier() for part in name.split(".")) or find_spec(name.partition(".")[0]) is None:
        raise SettingError(f"--trust: there is no package {name!r}")


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Namespace:
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        from norms.errors import SettingError

        options = [option.removeprefix("--") for option in re.findall(r"--[\w-]+", parser.format_help())]
        raise SettingError(parser_errors.shorten(str(error), arguments, options)) from error
