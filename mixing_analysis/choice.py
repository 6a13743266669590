"""From what a user asks for to runs, each in its group."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from mixing_analysis import EXPECTED
from mixing_analysis.cautions import cautioned
from mixing_analysis.groups import fold
from mixing_analysis.kinds import GAMMA
from mixing_analysis.selection import Selection
from mixing_analysis.sources import named, read_run
from mixing_analysis.values import Run
from mixing_analysis.wandb_runs import PREFIX, offline_files
from norms.errors import SettingError
from training.run import Run as RunOnDisk

MOST_NAMES = 8
"""How many layers an error names."""


class Chosen(NamedTuple):
    """Hold the runs that a user asks for, and what there is to know of how they were found, a line each."""

    runs: list[Run]
    notes: list[str]


def choose(selection: Selection) -> Chosen:
    """Read the runs that a user asks for, and put them into groups.

    A folder stands for all runs below it. Those of them that cannot be read are left out with a note.

    Raises:
        SettingError: If there is no run, one that is named cannot be read, or none has the steps and layers.
    """
    found = _Found()
    for source in selection.sources:
        found.add(source)
    groups = {
        name: [one for member in members for one in found.add(member)] for name, members in selection.groups.items()
    }
    if not found.sources:
        raise SettingError(f"no run is given: expected {EXPECTED}")
    runs: list[Run] = []
    left_out: dict[str, SettingError] = {}
    for source, is_named in found.sources.items():
        try:
            runs.append(_narrowed(read_run(source), selection))
        except SettingError as error:
            if is_named:
                raise
            left_out[source] = error
    if not runs:
        raise next(iter(left_out.values()))
    groups = {name: [member for member in members if member not in left_out] for name, members in groups.items()}
    folded = fold(named(runs), groups, selection.by)
    notes = [*found.notes, *(f"{source} is left out: {error}" for source, error in left_out.items())]
    if selection.layers:
        notes.append(
            f"of the layers, only {', '.join(selection.layers)}: all that is said of a network is said of these"
        )
    return Chosen(list(map(cautioned, folded)), notes)


class _Found:
    """Collect the runs that are found where a user looks for them: from each to whether the user named it."""

    def __init__(self) -> None:
        self.sources: dict[str, bool] = {}
        self.notes: list[str] = []
        self._known: dict[str, str] = {}

    def add(self, source: str) -> list[str]:
        """Add the runs of a source, unless they are there, and return all of them as they are called."""
        runs = list(_runs_of(source))
        if len(runs) > 1:
            self.notes.append(f"{source} holds {len(runs)} runs, all of which are taken")
        called = []
        for run in runs:
            key = run if run.startswith(PREFIX) else str(Path(run).resolve())
            name = self._known.setdefault(key, run)
            self.sources[name] = self.sources.get(name, False) or len(runs) == 1
            called.append(name)
        return called


def _runs_of(source: str) -> Iterator[str]:
    if source.startswith(PREFIX):
        yield source
        return
    path = Path(source)
    matching = _in_order(glob(source)) if has_magic(source) and not path.exists() else []
    for place in matching or [source]:
        yield from list(_below(Path(place))) or [place]


def _below(folder: Path) -> Iterator[str]:
    """Yield the runs in a folder and below: nothing of a run is another run, and no link is followed."""
    run = RunOnDisk(folder)
    if run.newest_checkpoint() or run.mixing.is_dir() or len({file.stem for file in offline_files(folder)}) == 1:
        yield str(folder)
        return
    with suppress(NotADirectoryError, FileNotFoundError, PermissionError):
        folders = [child.name for child in folder.iterdir() if child.is_dir() and not child.is_symlink()]
        for name in _in_order(folders):
            if not name.startswith("."):
                yield from _below(folder / name)


def _in_order(names: Sequence[str]) -> list[str]:
    """Sort names as a reader would: ``version_2`` before ``version_10``."""
    return sorted(
        names,
        key=lambda name: [
            (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)
        ],
    )


def _narrowed(run: Run, selection: Selection) -> Run:
    """Return a run with the steps and layers that are asked for.

    Raises:
        SettingError: If it has none of them.
    """
    frame, steps = run.frame, selection.steps
    if steps.single:
        frame = frame[frame["step"].isin(steps.single)]
    else:
        frame = frame[frame["step"].between(steps.first, steps.last)]
    if not (frame["kind"] != GAMMA).any():
        raise SettingError(
            f"{run.source} has no values at the steps {steps}, but from {run.steps[0]} to {run.steps[-1]}"
        )
    if selection.layers:
        names = [name for name in frame["layer"].cat.categories if any(fnmatchcase(name, p) for p in selection.layers)]
        if not names:
            there = frame["layer"].cat.categories.tolist()
            more = f" and {len(there) - MOST_NAMES} more" if len(there) > MOST_NAMES else ""
            wanted, expected = " or ".join(selection.layers), ", ".join(there[:MOST_NAMES])
            raise SettingError(f"{run.source} has no layer {wanted}: expected {expected}{more}")
        frame = frame[frame["layer"].isin(names)]
    return replace(run, frame=frame.assign(layer=frame["layer"].cat.remove_unused_categories()))
