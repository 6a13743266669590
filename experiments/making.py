"""From an experiment to its page: training what is missing, drawing, and writing."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.catalog import Experiment
from experiments.index import index
from experiments.markdown import markdown
from experiments.plots import save, styled
from experiments.reading import Runs, state_of
from experiments.telling import overrides_of
from norms.errors import SettingError
from sweeping.report import train_all
from sweeping.runner import Runner
from sweeping.runs import SweepRun, alone, read_runs
from sweeping.sweep_file import Sweep, read_sweep
from training.errors import TrainingError
from training.files import replacing

INDEX = "index.md"


def make(
    experiment: Experiment,
    runs_dir: Path,
    docs: Path,
    overrides: Sequence[str],
    workers: int,
    again: str,
) -> int:
    """Train what is missing of an experiment, and write its page of what there is then.

    Args:
        experiment: The experiment.
        runs_dir: Where the folders of its sweeps are.
        docs: Where its page goes.
        overrides: Further words of the command of each training; without any, those of the runs that are there.
        workers: How many runs to train at once; 0 for none.
        again: What was called, to be named where it is to be repeated.

    Returns:
        How many runs have failed.

    Raises:
        SettingError: If no run has ended, or runs have begun with another command.
        SystemExit: If a signal ended it, with 128 plus its number.
    """
    sweeps = [read_sweep(file) for file in experiment.sweeps]
    for sweep in sweeps if workers else ():
        _train(sweep, runs_dir, overrides, workers, again)
    runs = Runs(sweeps, runs_dir)
    if not (runs.frame["state"] != "failed").any():
        told = f"no run of {experiment.name} was trained to its end in {runs_dir}"
        raise SettingError(told if workers else f"{told}: leave out --no-training to train them, or give --runs_dir")
    with styled():
        page = experiment.page(runs)
        for figure in page.figures:
            print(save(figure.drawing, docs / f"{experiment.name}-{figure.name}.{figure.ending}"))
    file = docs / f"{experiment.name}.md"
    with replacing(file) as partial:
        partial.write_text(markdown(page, experiment, runs))
    print(file)
    if runs.missing:
        print(f"{runs.missing} of {runs.planned} runs of {experiment.name} are missing, and the page says so")
    return int((runs.frame["state"] == "failed").sum())


def write_index(docs: Path) -> Path:
    """Write the table of all claims of all pages, and return its file."""
    file = docs / INDEX
    with replacing(file) as partial:
        partial.write_text(index([page for page in sorted(docs.glob("*.md")) if page.name != INDEX]))
    return file


def _train(sweep: Sweep, runs_dir: Path, overrides: Sequence[str], workers: int, again: str) -> None:
    runner = Runner(sweep, runs_dir, overrides or _overrides(sweep, runs_dir), workers)
    _settle(runner)
    with suppress(TrainingError):  # what has failed is told of by then, and no reason to have no page
        train_all(runner, again)
    for run in _settle(runner):
        print(f"{run.folder} has diverged, which is a result: it is not trained again")


def _overrides(sweep: Sweep, runs_dir: Path) -> Sequence[str]:
    """Return the overrides of the first run that there is."""
    return next((overrides_of(sweep, run) or () for run in read_runs(runs_dir / sweep.name)), ())


def _settle(runner: Runner) -> list[SweepRun]:
    """Note runs that have failed because they diverged as finished, for they would do so again, and return them.

    Finished ones of which nothing is left are noted as begun, so that they are trained again.
    """
    with alone(runner.folder):
        runs = runner.runs()
        for run in runs:
            if run.state == "finished" and not run.versions():
                run.to(state="begun", seconds=0.0)
        diverged = [run for run in runs if run.state == "failed" and state_of(run) == "diverged"]
        return [run.to(state="finished") for run in diverged]
