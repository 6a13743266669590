"""Training the runs of a sweep, one after another, beside others that do the same in the same folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from norms.errors import SettingError
from sweeping.commands import command_of, shown, started
from sweeping.machine import machine
from sweeping.runs import (
    RECORD,
    SweepRun,
    alone,
    claim,
    is_claimed,
    local_locks,
    new_run,
    read_run,
    read_runs,
    remove_unsaved,
)
from sweeping.search import next_settings, own_runs
from sweeping.sweep_file import Sweep
from training.errors import ENDING, name_of
from training.terminal import printable

OUTPUT = "output.txt"
"""The name of the file in a run's folder that has what its training prints."""


class Runner:
    """Train what is left of a sweep.

    Args:
        sweep: The sweep.
        runs_dir: Where its folder is.
        overrides: Further words of each command.
        workers: How many runs to train at once.
    """

    def __init__(self, sweep: Sweep, runs_dir: Path, overrides: Sequence[str] = (), workers: int = 1) -> None:
        self.sweep, self.overrides, self.workers = sweep, list(overrides), workers
        self.folder = runs_dir / sweep.name
        self.signal = 0
        self._began = time.time()
        self._children: list[subprocess.Popen[bytes]] = []

    def runs(self) -> list[SweepRun]:
        """List the runs that have begun and belong to the sweep as its file is now.

        Raises:
            SettingError: If one has begun with another command, or one is there twice.
        """
        runs = own_runs(self.sweep, self.folder)
        for run in runs:
            command = self._command(run.settings)
            if run.command != command:
                raise SettingError(
                    f"{run.folder} has begun by another command, {shown(run.command)}; this one would be "
                    f"{shown(command)}: give another --runs_dir, or delete {self.folder} to begin anew"
                )
        return runs

    def planned(self) -> Iterator[SweepRun]:
        """Yield the runs that there are, and then those that are to come as far as the values of none decide that."""
        runs = self.runs()
        yield from runs
        number = self._number()
        while self.sweep.method != "bayes" and (run := self._next(runs, number)):
            yield run
            runs.append(run)
            number += 1

    def run(self) -> None:
        """Train until nothing is left to begin, or a signal comes."""
        started(self._command({}))
        self.runs()
        if option := local_locks(self.folder):
            print(
                f"warning: {self.folder} is mounted with {option}: no other machine sees that a run is taken, so start "
                "this sweep on one machine only, or mount it without",
                file=sys.stderr,
            )
        with self._forwarded(), ThreadPoolExecutor(self.workers) as pool:
            for worker in [pool.submit(self._work, number) for number in range(self.workers)]:
                worker.result()

    def words(self, run: SweepRun) -> list[str]:
        """Return the command of a run, with its folder; it goes on from a checkpoint if there is one."""
        place = ["--runs_dir", str(self.folder), "--name", run.folder.name]
        return [*run.command, *place, *(["--ckpt_path", "last"] if run.has_checkpoint() else [])]

    def _command(self, settings: Any) -> list[str]:
        return command_of(self.sweep, settings, self.overrides)

    def _number(self) -> int:
        return 1 + max((run.number for run in read_runs(self.folder)), default=0)

    def _next(self, runs: Sequence[SweepRun], number: int) -> SweepRun | None:
        settings = next_settings(self.sweep, runs)
        if settings is None:
            return None
        return new_run(self.sweep, self.folder, number, settings, self._command(settings))

    def _work(self, worker: int) -> None:
        while not self.signal and (claimed := self._claim()):
            run, lock = claimed
            try:
                self._train(run, lock, worker)
            finally:
                os.close(lock)

    def _claim(self) -> tuple[SweepRun, int] | None:
        """Take a run that was left unfinished, or has failed before this process began, or else is new."""
        with alone(self.folder):
            runs, number = self.runs(), self._number()
            for run in runs:
                failed = run.state == "failed" and run.ended < self._began
                if (run.state == "begun" or failed) and (lock := claim(run.folder)) is not None:
                    # Another process may have ended it after it was read, and before it could be taken.
                    if read_run(run.folder) == run:
                        return self._begun(run, runs), lock
                    os.close(lock)
            while new := self._next(runs, number):
                lock = claim(new.folder)
                # Network file systems list a folder late; then what another machine has begun is met here, by its name.
                if lock is not None and not (new.folder / RECORD).exists():
                    return self._begun(new, runs), lock
                if lock is not None:
                    os.close(lock)
                runs.append(new)
                number += 1
        return None

    def _begun(self, run: SweepRun, runs: Sequence[SweepRun]) -> SweepRun:
        remove_unsaved(run)
        how = "goes on from its checkpoint" if run.has_checkpoint() else "begins"
        left = self._time_left([each for each in runs if each != run])
        self._say(run, f"{how}{left}; its output: {run.folder / OUTPUT}")
        return run.to(state="begun", error="")

    def _train(self, run: SweepRun, lock: int, worker: int) -> None:
        words = self.words(run)
        start = time.monotonic()
        with (run.folder / OUTPUT).open("ab") as output:
            child = subprocess.Popen(
                started(words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**_alone(), **self._share(worker)},
                pass_fds=[lock],  # a run whose worker was killed is taken until its training ends, too
                process_group=0,  # Ctrl-C of a terminal reaches it by this process alone, and so once
            )
        self._children.append(child)
        if self.signal:  # which came before the child could get it
            child.send_signal(self.signal)
        status = child.wait()
        self._children.remove(child)
        seconds = run.seconds + time.monotonic() - start
        if status == 0:
            value = run.to(state="finished", seconds=seconds, machine=machine()).best(self.sweep)
            told = f", {self.sweep.metric} {value:.5g}" if value is not None else ""
            self._say(run, f"finished after {duration(seconds)}{told}")
        elif self.signal:
            run.to(seconds=seconds)
        else:
            error = _error(run.folder / OUTPUT, status)
            run.to(state="failed", seconds=seconds, error=error, machine=machine())
            self._say(run, f"failed: {error}")

    def _share(self, worker: int) -> dict[str, str]:
        """Give a worker that is not the only one a GPU, or a part of the processor's cores."""
        if self.workers == 1:
            return {}
        if count := torch.cuda.device_count():
            devices = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
            return {"CUDA_VISIBLE_DEVICES": devices[worker % count]}
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}

    def _time_left(self, others: Sequence[SweepRun]) -> str:
        seconds = [run.seconds for run in others if run.state == "finished"]
        if not seconds:
            return ""
        left = self.sweep.runs - sum(run.state in ("finished", "failed") for run in others)
        at_once = 1 + sum(run.state == "begun" and is_claimed(run.folder) for run in others)
        return f", about {duration(left * sum(seconds) / len(seconds) / at_once)} left"

    def _say(self, run: SweepRun, text: str) -> None:
        name = "".join(f" {part}" for part in run.folder.name.split("-")[1:])
        print(printable(f"run {run.number} of {self.sweep.runs}{name and ','}{name}: {text}"), flush=True)

    @contextmanager
    def _forwarded(self) -> Iterator[None]:
        """Pass signals that end a training on to those that run, and begin no more of them."""
        heard = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]  # as by nohup
        previous = {number: signal.signal(number, self._forward) for number in heard}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            told = f"\n{name_of(number)}: each training ends after this step, saved; Ctrl-C again ends it at once\n"
            with suppress(OSError):  # nobody may be there to read it
                os.write(2, told.encode())
        self.signal = number
        for child in self._children:
            child.send_signal(number)


def duration(seconds: float) -> str:
    """Write a time as a user would say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _alone() -> dict[str, str]:
    """Return the environment without SLURM's variables, by which a run would join those of other workers as a part."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}


def _error(output: Path, status: int) -> str:
    """Return the line by which a training said why it failed, or else its last one."""
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"it ended with status {status}"])[-1]
