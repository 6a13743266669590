"""Train all runs of a sweep, which a YAML file of Weights & Biases describes, without an account there.

Examples:
    python sweep.py sweep_norms
    python sweep.py configs/sweep_norms.yaml --workers 2
    python sweep.py sweep_norms -- --trainer.max_steps 100
    python sweep.py sweep_norms --dry-run
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from training.doors import command_parser, path_of, run_command, split_overrides

EPILOG = """examples: sweep_norms | my_sweep.yaml --workers 4 | sweep_norms -- --trainer.max_steps 100. What follows --
goes to every run. Repeat the command to go on with what was interrupted. Start it several times, on all machines that
share the folder, and each takes what the others have not begun."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 if runs have failed, 2 after an error of the user's, which is told in one line on stderr,
        or 128 plus the number of the signal that ended it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    own, overrides = split_overrides(arguments)
    return run_command(_parser(), partial(_run, arguments=arguments, overrides=overrides), own)


def _run(options: Namespace, arguments: Sequence[str], overrides: Sequence[str]) -> None:
    from normlab import as_installed
    from sweeping.report import list_commands, train_all
    from sweeping.runner import Runner
    from sweeping.sweep_file import read_sweep
    from training.paths import local_path
    from training.shipped import sweep_of
    from training.terminal import lasting_output

    sweep = read_sweep(sweep_of(options.sweep))
    runner = Runner(sweep, Path(local_path("runs_dir", str(options.runs_dir))), overrides, options.workers)
    with lasting_output():
        if options.dry_run:
            list_commands(runner)
        else:
            train_all(runner, as_installed(shlex.join(["python", "sweep.py", *arguments])))


def _parser() -> ArgumentParser:
    parser = command_parser(
        "Train all runs of a sweep, which a YAML file of Weights & Biases describes.", EPILOG, reads_runs=False
    )
    add = parser.add_argument
    add("sweep", metavar="SWEEP", type=path_of, help="the file, or the name of one that comes with normlab")
    runs_dir = "runs are trained in a folder of it that is called as the sweep (default: runs)"
    add("--runs_dir", metavar="FOLDER", type=path_of, default=Path("runs"), help=runs_dir)
    workers = "train this many runs at once; each takes a GPU in turn, or its part of the CPU's cores (default: 1)"
    add("--workers", metavar="N", type=PositiveInt, default=1, help=workers)
    dry = "print the command of each run and how it stands, and train nothing"
    add("--dry-run", dest="dry_run", action="store_true", help=dry)
    return parser
