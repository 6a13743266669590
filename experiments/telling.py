"""What runs tell of how they were trained: the commands, the sizes, the machine, the time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame

from experiments.reading import SEED, Runs
from sweeping.commands import command_of
from sweeping.runner import duration
from sweeping.runs import SweepRun, read_runs
from sweeping.sweep_file import Choices, Sweep, read_sweep
from training.metrics_file import MetricsFile


def overrides_of(sweep: Sweep, run: SweepRun) -> list[str] | None:
    """Return the words of a run's command after those of its sweep; None if the sweep has changed since it began."""
    own = command_of(sweep, run.settings)
    command = list(run.command)
    return command[len(own) :] if command[: len(own)] == own else None


def overrides(runs: Runs) -> dict[str, list[list[str] | None]]:
    """List, by the name of each sweep, the different overrides that its runs were trained with."""
    found: dict[str, list[list[str] | None]] = {}
    for sweep, run in runs.records():
        words, known = overrides_of(sweep, run), found.setdefault(sweep.name, [])
        if words not in known:
            known.append(words)
    return found


def sizes(runs: Runs) -> DataFrame:
    """Say of each sweep what it varies, how many runs there are, and of what size they are, a row each."""
    frame = runs.frame
    rows = []
    for sweep in runs.sweeps:
        own = frame[frame["sweep"] == sweep.name]
        configs = [config for folder in own["folder"] if (config := runs.config(folder))]
        rows.append(
            {
                "sweep": f"`{sweep.name}`",
                "varied": _varied(sweep, runs),
                "seeds": own[SEED].nunique() if SEED in own else 1,
                "runs": f"{len(own)} of {sweep.runs}" if len(own) < sweep.runs else len(own),
                "steps": _values(configs, "trainer", "max_steps"),
                "batch": _values(configs, "data", "init_args", "batch_size"),
                "model": _values(configs, "model", "class_path"),
                "data": _of_whom(configs),
            }
        )
    return DataFrame(rows)


def ends(runs: Runs) -> list[str]:
    """Say of each way in which a training did not come to its end how many there are, and which."""
    told = []
    for state in ("diverged", "failed"):
        frame = runs.frame[runs.frame["state"] == state]
        if len(frame):
            varied = [name for name in runs.settings.values() if runs.frame[name].nunique(dropna=False) > 1]
            cells = Counter(
                ", ".join(f"{name} {row[name]}" for name in varied if name != SEED) for _, row in frame.iterrows()
            )
            which = "; ".join(f"{cell} ({count})" if cell else f"{count}" for cell, count in cells.items())
            told.append(f"{len(frame)} of {len(runs.frame)} trainings {state}: {which}.")
    return told


def published(file: Path, runs_dir: Path) -> str:
    """Say where the published size is, and how far its trainings were run here.

    Args:
        file: The sweep of that size.
        runs_dir: Where its folder is, if any was begun.
    """
    sweep = read_sweep(file)
    runs = [run for record in read_runs(runs_dir / sweep.name) for run in record.versions()[:1]]
    steps = [int(row["step"]) for run in runs for row in MetricsFile(run.metrics).rows()[-1:]]
    told = f"The same at the published size is `configs/experiments/{file.name}`, {sweep.runs} runs"
    if not steps:
        return f"{told}."
    batch = _values([run.read_config() or {} for run in runs], "data", "init_args", "batch_size")
    begun = f"{len(steps)} {'was' if len(steps) == 1 else 'were'}"
    return f"{told}, of which {begun} begun here, up to step {max(steps)}, in batches of {batch}."


def machines(runs: Runs) -> list[str]:
    """List the machines that the runs were trained on, as far as they say."""
    return list(dict.fromkeys(run.machine for _, run in runs.records() if run.machine))


def times(runs: Runs) -> str:
    """Say how long the trainings took."""
    seconds = runs.frame["seconds"]
    low, high = duration(seconds.min()), duration(seconds.max())
    each = f"{low} each" if low == high else f"{low} to {high} each"
    return f"{len(seconds)} trainings took {duration(seconds.sum())} one after another, {each}."


def _varied(sweep: Sweep, runs: Runs) -> str:
    """Name the parameters that differ between runs, with their values."""
    parts = []
    for path, parameter in sweep.parameters.items():
        if runs.settings[path] == SEED:
            continue
        if not isinstance(parameter, Choices):
            parts.append(f"{runs.settings[path]}: {parameter.low:g} to {parameter.high:g}")
        elif len(parameter.values) > 1:
            parts.append(f"{runs.settings[path]}: {', '.join(map(str, parameter.values))}")
    return "; ".join(parts) or "nothing"


def _of_whom(configs: Sequence[Mapping[str, Any]]) -> str:
    """Name the data of the runs, and of a user's own file or folder the end of its path."""
    path = _values(configs, "data", "init_args", "path")
    own = "" if path in ("None", "unknown") else f" ({'/'.join(Path(path).parts[-2:])})"
    return _values(configs, "data", "class_path") + own


def _values(configs: Sequence[Mapping[str, Any]], *path: str) -> str:
    """Say which values a setting has in the runs."""
    values = dict.fromkeys(str(_at(config, path)) for config in configs)
    return ", ".join(value.rpartition(".")[2] if path[-1] == "class_path" else value for value in values) or "unknown"


def _at(config: Any, path: Sequence[str]) -> Any:
    for part in path:
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
