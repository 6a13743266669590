"""The table of a run's metrics, which survives a resume, a full disk and damage."""

import csv
import os
import warnings
from collections.abc import Mapping
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
        self._columns = self._read()[0]
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
            if self.path.is_file() and set().union(*self.metrics) <= set(self._columns):
                self._append()
            else:
                self._rewrite([*self._read()[1], *self.metrics])
        except OSError as error:
            if not self._failing:
                warnings.warn(f"{disk_fault(error, self.path)}; its rows wait until that is possible", stacklevel=2)
            self._failing = True
        else:
            self.metrics, self._failing = [], False

    def keep_before(self, step: int) -> None:
        """Drop all rows but those of earlier steps; a file with damaged rows is set aside before."""
        _, rows, damaged = self._read()
        if damaged:
            aside = set_aside(self.path).name
            warnings.warn(f"{damaged} rows of {self.path} are damaged: it is now {aside}", stacklevel=2)
        rows = [row for row in rows if int(row["step"]) < step]
        self._kept = {(step - 1, key) for row in rows if int(row["step"]) == step - 1 for key in row if row[key]}
        self._rewrite(rows)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that have been written, whose values are texts."""
        return self._read()[1]

    def _read(self) -> tuple[list[str], list[dict[str, Any]], int]:
        """Read the columns and the rows that can be read, and count those that cannot."""
        if not self.path.is_file():
            return ["step"], [], int(self.path.exists())
        # A process killed while it appended may have left the beginning of a row.
        text = self.path.read_bytes().decode(errors="replace")
        header, *lines = [_cells(line) for line in text.split("\n")[:-1] if line.strip()] or [["step"]]
        if "step" not in header:
            return ["step"], [], 1 + len(lines)
        # Nor can a row that something else has damaged be allowed to end a training.
        rows = [dict(zip(header, cells, strict=True)) for cells in lines if len(cells) == len(header)]
        rows = [row for row in rows if row["step"].isdecimal() and len(row["step"]) < 19]  # within 64 bits
        return header, rows, len(lines) - len(rows)

    def _append(self) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="") as file:
                self._writer(file).writerows(self.metrics)
        except OSError:
            os.truncate(self.path, size)  # half a row would spoil the next one too
            raise

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        columns = set().union(*rows) | set(self._columns)
        self._columns = ["step", *sorted(columns - {"step"})]
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
        return [] if {"\ufffd", "\0"} & set(line) else next(csv.reader([line]))
    except (csv.Error, StopIteration):
        return []
