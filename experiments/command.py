"""Make the pages of experiments, and train what is missing of their sweeps before.

Examples:
    python -m experiments --list
    python -m experiments dropout
    python -m experiments dropout --no-training
    python -m experiments small_batches -- --trainer.max_steps 100
"""

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from training.doors import command_parser, path_of, run_command, split_overrides

EPILOG = """examples: --list | dropout | dropout --no-training | small_batches --workers 2 -- --trainer.max_steps 100.
What follows -- goes to every training; without it those that begin are as those that are there. Repeat the command to
go on with what was interrupted. Each training takes one thread, unless OMP_NUM_THREADS says otherwise, so that the
numbers do not depend on how many are trained at once."""


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
    from experiments.catalog import experiment, names
    from experiments.making import make, write_index
    from norms.errors import SettingError
    from training.errors import TrainingError
    from training.paths import local_path
    from training.terminal import lasting_output

    with lasting_output():
        if options.list:
            print("\n".join(names()))
            return
        try:
            chosen = [experiment(name) for name in dict.fromkeys(options.experiments)]
        except ModuleNotFoundError as error:
            raise SettingError(f"a page needs the package {error.name}, which is not installed") from error
        if not chosen and not options.index:
            raise SettingError("name an experiment; --list says which there are")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        runs_dir = Path(local_path("runs_dir", str(options.runs_dir)))
        workers = options.workers if options.training else 0
        again = shlex.join(["python", "-m", "experiments", *arguments])
        failed = sum(make(each, runs_dir, options.docs, overrides, workers, again) for each in chosen)
        print(write_index(options.docs))
        print("next, to see them in the documentation:\n  make docs")
        if failed and workers:
            raise TrainingError(f"{failed} run{'s' * (failed != 1)} failed; to try them again: {again}")


def _parser() -> ArgumentParser:
    parser = command_parser(
        "Train what is missing of experiments, and make their pages of the documentation.", EPILOG, reads_runs=False
    )
    parser.prog = "python -m experiments"
    add = parser.add_argument
    add("experiments", metavar="NAME", nargs="*", help="the experiment")
    runs_dir = "their sweeps are in folders of it (default: runs/experiments)"
    add("--runs_dir", metavar="FOLDER", type=path_of, default=Path("runs/experiments"), help=runs_dir)
    docs = "where the pages are written (default: docs/experiments)"
    add("--docs", metavar="FOLDER", type=path_of, default=Path("docs/experiments"), help=docs)
    add("--workers", metavar="N", type=PositiveInt, default=1, help="train this many runs at once (default: 1)")
    add("--no-training", dest="training", action="store_false", help="make the pages of the runs that there are")
    add("--index", action="store_true", help="write the table of all claims anew, which is done after each page too")
    add("--list", action="store_true", help="list the experiments")
    return parser
