"""The runs of an experiment as tables: what each was trained with, how it ended, and its metrics."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas import DataFrame

from norms.errors import SettingError
from sweeping.runs import SweepRun
from sweeping.search import own_runs
from sweeping.sweep_file import Sweep, value_at
from training.metrics_file import MetricsFile, number_in
from training.run import Run

State = Literal["finished", "diverged", "failed"]

OWN = ("sweep", "folder", "state", "seconds")
"""The columns of :attr:`Runs.frame` beside the settings."""

SEED = "seed"


class Runs:
    """Hold the runs of an experiment that have ended.

    Args:
        sweeps: Its sweeps.
        runs_dir: Where their folders are.
    """

    def __init__(self, sweeps: Sequence[Sweep], runs_dir: Path) -> None:
        self.sweeps, self.runs_dir = tuple(sweeps), runs_dir
        self._metrics: dict[str, DataFrame] = {}
        self._configs: dict[str, dict[str, Any]] = {}

    @cached_property
    def _records(self) -> list[tuple[Sweep, SweepRun]]:
        found = []
        for sweep in self.sweeps:
            runs = own_runs(sweep, self.runs_dir / sweep.name)
            order = {_text(settings): place for place, settings in enumerate(sweep.grid() if _is_grid(sweep) else ())}
            runs.sort(key=lambda run: order.get(_text(run.settings), run.number))
            found += [(sweep, run) for run in runs if run.state in ("finished", "failed")]
        return found

    @property
    def planned(self) -> int:
        """How many runs the sweeps have, with those that have not ended."""
        return sum(sweep.runs for sweep in self.sweeps)

    @property
    def missing(self) -> int:
        """How many of them have not ended."""
        return self.planned - len(self._records)

    @cached_property
    def settings(self) -> dict[tuple[str, ...], str]:
        """From the path of each parameter to its short name: the last part, or as much as tells it from others."""
        paths = list(dict.fromkeys(path for sweep in self.sweeps for path in sweep.parameters))
        return dict(zip(paths, _short([".".join(path) for path in paths]), strict=True))

    @cached_property
    def frame(self) -> DataFrame:
        """A row per run that has ended, in the order of the grid.

        The columns are the settings by their short names, such as ``norm`` and ``seed``, and :data:`OWN`: ``sweep`` is
        the name of the sweep; ``folder`` that of the training, such as ``runs/.../version_0``; ``state`` is
        ``finished``, ``diverged`` (the guard has ended it, or its last loss is not finite) or ``failed``; ``seconds``
        is the time of its process. A setting that a sweep does not have is NaN, and a list or mapping is JSON.
        """
        rows = []
        for sweep, run in self._records:
            values = {self.settings[path]: _plain(value_at(run.settings, path)) for path in sweep.parameters}
            newest = next(iter(run.versions()), None)
            folder = str(newest.folder if newest else run.folder)
            own = (sweep.name, folder, state_of(run), run.seconds)
            rows.append(values | dict(zip(OWN, own, strict=True)))
        return DataFrame(rows, columns=[*self.settings.values(), *OWN])

    def metrics(self, folder: str) -> DataFrame:
        """Return the metrics of a run, with ``step`` as the index; what a row does not have is NaN.

        Args:
            folder: As in :attr:`frame`.
        """
        if folder not in self._metrics:
            rows = DataFrame(MetricsFile(Run(folder).metrics).rows())
            numbers = rows.apply(pd.to_numeric, errors="coerce") if len(rows) else DataFrame(columns=["step"])
            self._metrics[folder] = numbers.set_index("step").sort_index(kind="stable")
        return self._metrics[folder]

    def curves(self, metric: str) -> DataFrame:
        """Return a metric of all runs over their trainings.

        Args:
            metric: A column of ``metrics.csv``, such as ``val/accuracy``.

        Returns:
            A row per finite value: the columns of :attr:`frame`, ``step`` and ``value``.

        Raises:
            SettingError: If no run has it.
        """
        parts = []
        for index, folder in self.frame["folder"].items():
            metrics = self.metrics(folder)
            if metric in metrics:
                values = metrics[metric][np.isfinite(metrics[metric])]
                parts.append(DataFrame({"run": index, "step": values.index, "value": values.to_numpy()}))
        if not parts:
            raise self._without(metric)
        return self.frame.merge(pd.concat(parts), left_index=True, right_on="run").drop(columns="run")

    def last(self, *metrics: str, share: float = 0.1, diverged: float = math.nan) -> DataFrame:
        """Return the mean of metrics over the end of each training.

        Args:
            metrics: Columns of ``metrics.csv``.
            share: Over which part of the steps; the last value always counts.
            diverged: What stands for a run that has diverged.

        Returns:
            :attr:`frame` with a column for each metric; NaN of a run that has failed or does not have it.

        Raises:
            SettingError: If no run has one of them.
        """
        frame = self.frame.copy()
        for metric in metrics:
            if not any(metric in self.metrics(folder) for folder in frame["folder"]):
                raise self._without(metric)
            ends = [self._end(folder, metric, share) for folder in frame["folder"]]
            frame[metric] = pd.Series(ends, frame.index, float).where(frame["state"] == "finished")
            frame.loc[frame["state"] == "diverged", metric] = diverged
        return frame

    def events(self) -> DataFrame:
        """Return what the guard has told of all runs.

        Returns:
            A row per event: the columns of :attr:`frame`, ``step``, ``sign``, ``action`` and ``reason``.
        """
        keys = ("step", "sign", "action", "reason")
        rows = [
            {"run": index, **{key: event.get(key) for key in keys}}
            for index, folder in self.frame["folder"].items()
            for event in events_of(Run(folder))
        ]
        told = DataFrame(rows, columns=["run", *keys])
        return self.frame.merge(told, left_index=True, right_on="run").drop(columns="run")

    def each(self) -> Iterator[tuple[Any, Run]]:
        """Yield each row of :attr:`frame` (``row.norm`` and so on) with its run, for what is in its folder beside."""
        for row in self.frame.itertuples(index=False):
            yield row, Run(str(row.folder))

    def config(self, folder: str) -> dict[str, Any]:
        """Return the configuration that a run began with; nothing if it has none.

        Args:
            folder: As in :attr:`frame`.
        """
        if folder not in self._configs:
            self._configs[folder] = Run(folder).read_config() or {}
        return self._configs[folder]

    def records(self) -> list[tuple[Sweep, SweepRun]]:
        """Return the runs that have ended, each with its sweep, in the order of the grid, however they were trained."""
        return list(self._records)

    def _end(self, folder: str, metric: str, share: float) -> float:
        values = self.metrics(folder).get(metric, pd.Series(dtype=float)).dropna()
        if values.empty:
            return math.nan
        last = values.index[-1]
        return float(values[(values.index > last * (1 - share)) | (values.index == last)].mean())

    def _without(self, metric: str) -> SettingError:
        known = sorted({name for folder in self.frame["folder"] for name in self.metrics(folder)})
        return SettingError(f"no run has the metric {metric!r} (known: {', '.join(known) or 'none'})")


def state_of(run: SweepRun) -> State:
    """Say how a run that has ended did so."""
    newest = next(iter(run.versions()), None)
    if newest is None:
        return "failed"
    if any(event.get("action") == "stop" for event in events_of(newest)):
        return "diverged"
    last: dict[str, float] = {}
    for row in MetricsFile(newest.metrics).rows():
        last |= {name: value for name in row if "loss" in name and (value := number_in(row[name])) is not None}
    if not all(map(math.isfinite, last.values())):
        return "diverged"
    return "finished" if run.state == "finished" else "failed"


def events_of(run: Run) -> list[dict[str, Any]]:
    """Read what the guard has told of a run; half a line at the end of the file is left out."""
    if not run.events.is_file():
        return []
    events = []
    for line in run.events.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        events += [event] if isinstance(event, dict) else []
    return events


def _short(names: Sequence[str]) -> list[str]:
    """Shorten dotted names from the left as far as they stay different."""
    lengths = dict.fromkeys(names, 1)
    while True:
        short = {name: ".".join(name.split(".")[-length:]) for name, length in lengths.items()}
        taken = [*short.values()]
        same = [name for name in names if taken.count(short[name]) > 1 or short[name] in OWN]
        if not same or all(short[name] == name for name in same):
            return taken
        for name in same:
            lengths[name] += 1


def _is_grid(sweep: Sweep) -> bool:
    return sweep.method == "grid"


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
