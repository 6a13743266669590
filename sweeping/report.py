"""What a sweep prints: its commands, and in the end its runs with what comes next."""

import shlex

from rich.console import Console
from rich.table import Table

from normlab import as_installed
from sweeping.commands import shown
from sweeping.runner import Runner, duration
from training.errors import TrainingError, name_of
from training.terminal import printable


def list_commands(runner: Runner) -> None:
    """Print the command of each run, and of one that has begun also how it stands."""
    for run in runner.planned():
        print(shown(runner.words(run)) + ("" if run.state == "new" else f"  # {run.state}"))
    if runner.sweep.method == "bayes":
        print("# what else a run of the method bayes trains with depends on the values of those before")


def train_all(runner: Runner, again: str) -> None:
    """Train what is left of a sweep, and print what there is then.

    Args:
        runner: The sweep's runner.
        again: The command, to be named where it is to be repeated.

    Raises:
        TrainingError: If runs have failed.
        SystemExit: If a signal ended it, with 128 plus its number.
    """
    if runner.sweep.ends_early:
        print("early_terminate is left to W&B: every run is trained to its end", flush=True)
    runner.run()
    runs = runner.runs()
    finished = [run for run in runs if run.state == "finished"]
    failed = [run for run in runs if run.state == "failed"]
    if runner.signal:
        told = f"interrupted by {name_of(runner.signal)}: {len(finished)} of {runner.sweep.runs} runs are finished"
        print(printable(f"{told}; go on with: {again}"))
        raise SystemExit(128 + runner.signal)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    table = Table("run", runner.sweep.metric or "state", "time")
    for run in runs:
        value = run.best(runner.sweep)
        shows_value = runner.sweep.metric and run.state == "finished"
        text = ("none" if value is None else f"{value:.5g}") if shows_value else run.state
        table.add_row(printable(str(run.folder)), text, duration(run.seconds))
    console.print(table)
    console.print(f"{len(finished)} of {runner.sweep.runs} runs are finished: {runner.folder}")
    if elsewhere := sum(run.state == "begun" for run in runs):
        console.print(f"being trained by other workers: {elsewhere}")
    # Norms that learn no mixture leave nothing to analyze.
    if any(version.mixing_steps() for run in finished for version in run.versions()):
        folder = shlex.quote(str(runner.folder))
        console.print(f"next:\n  {as_installed(f'python analyze.py {folder} -o report/')}")
    for run in failed:
        console.print(printable(f"{run.folder} failed: {run.error}"))
    if failed:
        raise TrainingError(f"{len(failed)} of {runner.sweep.runs} runs failed; to try them again: {again}")
