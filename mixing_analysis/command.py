"""See what the layers that learn how to normalize have learned, in one run and across runs.

Example:
    python analyze.py runs/style_transfer runs/gan -o report/
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from mixing_analysis import EXPECTED
from training.doors import command_parser, path_of, run_command
from training.paths import local_path


class Group(NamedTuple):
    """Name runs that the user wants to see averaged."""

    name: str
    runs: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _run(options: Namespace) -> None:
    runs, groups = [_source(run) for run in options.runs], [_group(group) for group in options.group]
    from mixing_analysis.console import write

    write(runs, groups, options.output, options.evaluation, options.batches, options.trust)


def _parser() -> ArgumentParser:
    parser = command_parser(
        "See what the layers that learn how to normalize have learned, in one run and across runs.",
        epilog="Runs whose configurations differ in nothing but seeds are averaged.",
    )
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="*", help=EXPECTED)
    add("-o", "--output", metavar="FOLDER", type=path_of, default=Path("report"), help="the report (default: report)")
    add(
        "--group",
        metavar="NAME=RUN,RUN",
        action="append",
        default=[],
        help="average these runs, of one architecture, under this name; may be given several times",
    )
    add(
        "--no-evaluation",
        dest="evaluation",
        action="store_false",
        help="do not evaluate the networks anew",
    )
    batches = "at most how many batches of images to evaluate binarized gates on (default: 32)"
    add("--batches", metavar="N", type=PositiveInt, default=32, help=batches)
    return parser


def _source(text: str) -> str:
    text = text.rstrip("/") or text
    return local_path("RUN", text) if text.startswith("~") else text


def _group(text: str) -> Group:
    name, _, members = text.partition("=")
    runs = tuple(_source(member) for member in members.split(",") if member)
    if not name or not runs:
        from norms.errors import SettingError

        raise SettingError(f"--group must be NAME=RUN,RUN, got {text!r}")
    return Group(name, runs)
