"""The runs of a sweep on disk: what each of them trains with, how it stands, and who trains it."""

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from norms.errors import SettingError
from sweeping.sweep_file import Choices, Sweep, value_at
from training.files import replacing
from training.metrics_file import MetricsFile, number_in
from training.run import Run
from training.run_paths import SWEEP_RECORD

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

RECORD = SWEEP_RECORD
"""The name of the file in a run's folder that says what it trains with and how it stands."""

State = Literal["new", "begun", "failed", "finished"]
"""How a run stands."""

STATES: tuple[State, ...] = get_args(State)

MOUNTS = Path("/proc/self/mountinfo")
"""Where Linux says which file systems there are, and with which options."""

OF_ONE_MACHINE = {"nolock", "local_lock=all", "local_lock=flock", "localflock"}
"""Options of NFS and Lustre by which locks are those of one machine, and no other one sees them."""

CLAIM = ".claim"
"""The name of the file that is locked as long as a process of the run lives."""


@dataclass(frozen=True)
class SweepRun:
    """Hold a run of a sweep.

    Args:
        folder: Where it is, such as ``runs/sweep_norms/003-seed_0-norm_batch``, in which ``train.py`` makes
            ``version_0``.
        settings: Its parameters, as W&B's agent has them.
        command: The command that it was begun with, without the folder.
        state: How it stands; one that is being trained has ``begun``.
        error: What it failed by.
        seconds: How long it has been trained.
        ended: When it failed or was finished, in seconds since 1970.
        machine: On what it was trained, in words; empty if it has not ended, or an earlier version has trained it.
    """

    folder: Path
    settings: Mapping[str, Any]
    command: Sequence[str]
    state: State = "new"
    error: str = ""
    seconds: float = 0.0
    ended: float = field(default_factory=time.time)
    machine: str = ""

    @property
    def number(self) -> int:
        """Its number in the sweep, from 1 on."""
        return int(self.folder.name.partition("-")[0])

    def to(self, **changes: Any) -> "SweepRun":
        """Write how the run stands now, and return it."""
        run = replace(self, **changes, ended=time.time())
        record = {key: value for key, value in asdict(run).items() if key != "folder"}
        with replacing(self.folder / RECORD) as partial:
            partial.write_text(json.dumps(record, indent=1))
        return run

    def versions(self) -> list[Run]:
        """List what ``train.py`` has begun, the newest first."""
        return Run.versions(self.folder)

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to go on from."""
        return any(version.newest_checkpoint() for version in self.versions())

    def best(self, sweep: Sweep) -> float | None:
        """Return the best value of the sweep's metric over the training; None if there is none."""
        rows = [row for run in self.versions()[:1] for row in MetricsFile(run.metrics).rows()]
        values = [number_in(row.get(sweep.metric)) for row in rows if sweep.metric]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        return (max if sweep.maximize else min)(finite, default=None)


def new_run(sweep: Sweep, folder: Path, number: int, settings: Mapping[str, Any], command: Sequence[str]) -> SweepRun:
    """Name a run by its number and by the parameters that differ between runs; nothing is made."""
    parts = [f"{number:03}"]
    for path, parameter in sweep.parameters.items():
        if not isinstance(parameter, Choices) or len(parameter.values) > 1:
            value = value_at(settings, path)
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            parts.append(re.sub(r"[^\w.+]+", "_", f"{path[-1].rpartition('.')[2]}_{text}").strip("_"))
    return SweepRun(folder / "-".join(parts)[:100], settings, list(command))


def read_runs(folder: Path) -> list[SweepRun]:
    """Read the runs of a sweep, by number.

    Raises:
        SettingError: If a file is not one that a sweep has written.
    """
    return sorted((read_run(file.parent) for file in folder.glob(f"*/{RECORD}")), key=lambda run: run.number)


def read_run(folder: Path) -> SweepRun:
    """Read how a run of a sweep stands.

    Raises:
        SettingError: If its file is not one that a sweep has written.
    """
    file = folder / RECORD
    if not re.match(r"\d+(-|$)", folder.name, re.ASCII):
        raise SettingError(f"{folder} has a run of a sweep, whose name begins with a number: rename it or move it away")
    try:
        run = SweepRun(folder=folder, **json.loads(file.read_text()))
        _check_record(run)
    except (ValueError, TypeError, RecursionError) as error:
        raise SettingError(f"{file} is damaged: delete it with its folder, and the run is trained anew") from error
    except OSError as error:
        raise SettingError(f"{file}: {error.strerror}") from error
    return run


def _check_record(run: SweepRun) -> None:
    """Raise a ``ValueError`` if a record has what no sweep writes."""
    known = (
        isinstance(run.settings, dict)
        and isinstance(run.command, list)
        and all(isinstance(word, str) for word in (*run.command, run.error, run.machine))
        and all(isinstance(number, int | float) and 0 <= number < math.inf for number in (run.seconds, run.ended))
    )
    if not known or run.state not in STATES:
        raise ValueError("no such record is written")


def remove_unsaved(run: SweepRun) -> None:
    """Remove what was begun and has no checkpoint to go on from."""
    for version in run.versions():
        if version.newest_checkpoint() is None:
            shutil.rmtree(version.folder)


def claim(folder: Path) -> int | None:
    """Take a run for this process and its children, until the last of them that has the file open ends.

    Returns:
        The open file, or None if another process has the run.

    Raises:
        SettingError: If the file system knows no locks.
    """
    file = _open(folder)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError as error:
        os.close(file)
        raise _lockless(folder, error) from error
    return file


def is_claimed(folder: Path) -> bool:
    """Return whether a process has the run."""
    file = claim(folder)
    if file is not None:
        os.close(file)
    return file is None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process looks for its next run, and be the only one that does, within this context."""
    file = _open(folder)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise _lockless(folder, error) from error
        yield
    finally:
        os.close(file)


def local_locks(folder: Path) -> str:
    """Return the option of a network file system by which no other machine sees locks in a folder; empty if none is."""
    try:
        mounts = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:  # not on Linux
        return ""
    place = Path(os.path.realpath(folder))
    around = [words for words in mounts if place.is_relative_to(words[4])]
    options = max(around, key=lambda words: len(words[4]))[-1] if around else ""
    return next((option for option in options.split(",") if option in OF_ONE_MACHINE), "")


def _open(folder: Path) -> int:
    if fcntl is None:
        raise SettingError("sweep.py needs locks of files as Linux and macOS have them; use wandb agent on Windows")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / CLAIM, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise SettingError(f"cannot write into {folder}: {error.strerror}") from error


def _lockless(folder: Path, error: OSError) -> SettingError:
    return SettingError(f"cannot lock files in {folder}: {error.strerror}; give --runs_dir on another file system")
