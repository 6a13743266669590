"""The table of a run's metrics, which survives a resume, a full disk and damage."""

import csv
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from training.errors import disk_fault
from training.files import replacing, set_aside


class MetricsFile:
    """Keep rows of metrics in a CSV file; the columns are ``step`` and all metrics that any row has.

    Args:
        path: The file, which may hold rows already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics: list[dict[str, Any]] = []
        self._columns = self._header()
        self._failing = False
        self._kept: set[tuple[int, str]] = set()

    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int) -> None:
        """Add a row of what :meth:`keep_before` has not kept of it; :meth:`save` writes it."""
        new = {key: value for key, value in metrics.items() if key != "epoch" and (step, key) not in self._kept}
        if new:
            values = {key: value.item() if isinstance(value, Tensor) else value for key, value in new.items()}
            self.metrics.append({"step": step, **values})

    def save(self) -> None:
        """Write the rows added since the last call."""
        if not self.metrics:
            return
        try:
            new = set().union(*self.metrics)
            if self.path.is_file() and new <= set(self._columns):
                self._append()
            else:
                self._rewrite(chain(self._whole_rows(), self.metrics), new)
        except OSError as error:
            if not self._failing:
                warnings.warn(f"{disk_fault(error, self.path)}; its rows wait until that is possible", stacklevel=2)
            self._failing = True
        else:
            self.metrics, self._failing = [], False

    def keep_before(self, step: int) -> None:
        """Drop all rows but those of earlier steps; a file with damaged rows is set aside before."""
        self._kept = set()
        self._rewrite(self._rows_before(step))

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that have been written, whose values are texts."""
        return list(self._whole_rows())

    def _whole_rows(self) -> Iterator[dict[str, Any]]:
        return (row for row in self._read() if row is not None)

    def _rows_before(self, step: int) -> Iterator[dict[str, Any]]:
        damaged = 0
        for row in self._read():
            if row is None:
                damaged += 1
            elif int(row["step"]) < step:
                if int(row["step"]) == step - 1:
                    self._kept |= {(step - 1, key) for key in row if row[key]}
                yield row
        if damaged:
            aside = set_aside(self.path).name
            warnings.warn(f"{damaged} rows of {self.path} are damaged: it is now {aside}", stacklevel=2)

    def _header(self) -> list[str]:
        header = _cells(next(self._lines(), "step\n"))
        return header if "step" in header else ["step"]

    def _lines(self) -> Iterator[str]:
        """Yield the lines one by one, since a long training has more than should be in memory at once."""
        if self.path.is_file():
            with self.path.open(encoding="utf-8", errors="replace", newline="\n") as file:
                # A process killed while it appended may have left the beginning of a row.
                yield from (line for line in file if line.strip() and line.endswith("\n"))

    def _read(self) -> Iterator[dict[str, Any] | None]:
        """Yield the rows, None for each that cannot be read: what has damaged one must not end a training."""
        if self.path.exists() and not self.path.is_file():
            yield None
        lines = self._lines()
        header = _cells(next(lines, "step\n"))
        if "step" not in header:
            yield None
        for line in lines:
            cells = _cells(line)
            row = dict(zip(header, cells, strict=True)) if len(cells) == len(header) else {}
            number = row.get("step", "")
            yield row if number.isdecimal() and len(number) < 19 else None  # within 64 bits

    def _append(self) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="") as file:
                self._writer(file).writerows(self.metrics)
        except OSError:
            os.truncate(self.path, size)  # half a row would spoil the next one too
            raise

    def _rewrite(self, rows: Iterable[dict[str, Any]], new: Set[str] = frozenset()) -> None:
        self._columns = ["step", *sorted({*self._header(), *self._columns, *new} - {"step"})]
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(rows)

    def _writer(self, file: Any) -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self._columns, lineterminator="\n")


def number_in(text: str | None) -> float | None:
    """Return what a cell says, which may be NaN; None if it is empty, or damaged."""
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _cells(line: str) -> list[str]:
    """Read a line of a table; none of its cells if one holds what no text file does."""
    try:
        return [] if "\ufffd" in line or "\0" in line else next(csv.reader([line]))
    except (csv.Error, StopIteration):
        return []
