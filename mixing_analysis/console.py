"""From the command line of ``analyze.py`` to a report, and what the terminal says of it."""

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mixing_analysis import EXPECTED, binarized, figures, pictures, report, tables, values
from mixing_analysis.cautions import cautioned
from mixing_analysis.folder import renewed
from mixing_analysis.groups import fold
from mixing_analysis.kinds import LOGGED, families, word
from mixing_analysis.published import Published, published
from mixing_analysis.sources import read_runs
from mixing_analysis.tables import CSV, PARQUET
from mixing_analysis.values import Run
from normlab import as_installed
from norms.errors import SettingError
from norms.kinds import MixingKind
from training.doors import TRUSTED
from training.run import Run as RunOnDisk
from training.terminal import printable

FIGURES, PICTURES, PAGE = "figures", "pictures", "report.html"

MOST_ROWS = 40
"""More rows than this are left to the report."""

_KNOWN = (*TRUSTED, "lightning.pytorch")
"""What a configuration of ours names classes of."""


def write(
    sources: Sequence[str],
    groups: Sequence[tuple[str, tuple[str, ...]]],
    output: Path,
    evaluate: bool,
    batches: int,
    trusted: Sequence[str] = (),
) -> None:
    """Read the runs, write the report and print what it comes to.

    Args:
        sources: What the user calls runs.
        groups: Names and runs of what the user wants to see averaged.
        output: The folder of the report.
        evaluate: Whether to evaluate the networks with binarized gates.
        batches: At most how many batches of images to evaluate them on.
        trusted: Packages of others that runs to be evaluated may name classes of.

    Raises:
        SettingError: If there is no run, one cannot be read, or the report cannot be written.
    """
    named = dict(groups)
    if len(named) < len(groups):
        raise SettingError(f"two groups have the same name: {', '.join(name for name, _ in groups)}")
    sources = list(dict.fromkeys([*sources, *(member for members in named.values() for member in members)]))
    if not sources:
        raise SettingError(f"no run is given: expected {EXPECTED}")
    runs = list(map(cautioned, fold(read_runs(sources), named)))
    with renewed(output, (CSV, PARQUET, FIGURES, PICTURES, PAGE)) as folder:
        table = values.combine(runs)
        evaluated, reasons = _evaluate(runs, batches, trusted) if evaluate else (None, [])
        pictured, missing = _picture(runs, batches, trusted, reasons) if evaluate else ([], [])
        notes = [printable(f"{run.name}: {note}") for run in runs for note in run.notes]
        notes += map(printable, reasons + missing)
        written = tables.write(table, folder)
        drawn = figures.write(table, runs, folder / FIGURES)
        seen = pictures.write(pictured, folder / PICTURES)
        report.write(table, runs, evaluated, folder / PAGE, notes, written, pictured)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    for shown in _tables(table, runs, evaluated):
        console.print(shown)
    for line in _account(output, table, runs, notes, written, (len(drawn), len(seen)), trusted):
        console.print(printable(line))


def _account(
    output: Path,
    table: DataFrame,
    runs: Sequence[Run],
    notes: Sequence[str],
    written: Sequence[str],
    drawn: tuple[int, int],
    trusted: Sequence[str],
) -> Iterator[str]:
    """Tell what there is to know, what was written and what can be done next, a line each."""
    yield from (f"note: {note}" for note in notes[:MOST_ROWS])
    yield (
        f"wrote {output / written[0]}{''.join(f' and {name}' for name in written[1:])}: "
        f"{len(table)} values of {len(runs)} {_plural('run', len(runs))}"
    )
    if PARQUET not in written:
        yield f'for {PARQUET}, which is smaller and quicker to read: pip install "normlab[parquet]"'
    for folder, count in zip((FIGURES, PICTURES), drawn, strict=True):
        if count:
            yield f"wrote {output / folder}: {count} {_plural('file', count)}"
    yield f"wrote {output / PAGE}"
    yield "next:"
    yield f"  open {shlex.quote(str(output / PAGE))} in a browser"
    yield from (f"  {command}" for command in _next_commands(runs, trusted))


def _evaluate(runs: Sequence[Run], batches: int, trusted: Sequence[str]) -> tuple[DataFrame, list[str]]:
    found = [DataFrame(columns=list(binarized.COLUMNS))]
    reasons = []
    console = Console(stderr=True)
    for run in track(runs, "evaluating binarized gates", console=console, disable=not sys.stderr.isatty()):
        try:
            found.append(binarized.evaluate(run, batches, trusted))
        except SettingError as error:
            reasons.append(f"{run.name} is not evaluated with binarized gates: {error}")
    return pd.concat(found[1:] or found, ignore_index=True), reasons


def _picture(
    runs: Sequence[Run], batches: int, trusted: Sequence[str], told: Sequence[str]
) -> tuple[list[pictures.Pictures], list[str]]:
    """Make the pictures of the first run of each group, and say which are missing and why, unless that is told."""
    first = list({run.group: run for run in reversed(runs)}.values())[::-1]
    found, reasons = [], []
    console = Console(stderr=True)
    chosen = first[: pictures.RUNS]
    for run in track(chosen, "making pictures", console=console, disable=not sys.stderr.isatty()):
        try:
            found.append(pictures.make(run, batches, trusted))
        except SettingError as error:
            if not any(reason.startswith(run.name) and reason.endswith(str(error)) for reason in told):
                reasons.append(f"{run.name} has no pictures: {error}")
    if found and len(chosen) < len(runs):
        names = ", ".join(each.run for each in found)
        reasons.append(f"pictures are of {names}: the first run of each group, {pictures.RUNS} at most")
    return found, reasons


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _tables(table: DataFrame, runs: Sequence[Run], evaluated: DataFrame | None) -> Iterator[Table]:
    last = values.at_last_step(table)
    by = "layer" if len(runs) == 1 else "group"
    kinds = values.kinds_of(runs)
    there = set(last["kind"].unique())
    for kind in kinds:
        if kind.per_channel and there & {kind.name, kind.name + LOGGED}:
            yield _gates(last, by, kind, published(kind, runs))
    for members in families(kinds).values():
        if there & {kind.name for kind in members}:
            yield _weights(last, by, members)
    if evaluated is not None and len(evaluated):
        ends = [f"every {kind.name} at {kind.low:g} or {kind.high:g}" for kind in kinds if kind.per_channel]
        largest = [f"every {name} at its largest weight" for name in families(kinds)]
        title = f"with {', '.join(ends + largest)}"
        yield _binarized(evaluated, {run.name: run.group for run in runs}, title)


def _table(*texts: str, numbers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for text in texts:
        table.add_column(text, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _gates(last: DataFrame, by: str, kind: MixingKind, known: Published | None) -> Table:
    """Tell the gates of each layer, or of each group with its spread; and of all, beside what was published."""
    columns = ["mean", "below", "above", "bimodality"]
    low, high = kind.ends
    shown = _table(by, numbers=["gates", f"mean {kind.name}", f"< {low:g}", f"> {high:g}", "bimodality"])
    each = [(_title(name, rows), rows) for name, rows in _parts(values.summaries(last, kind, ["run", by]), by)]
    if by == "layer":
        each.append(("all layers", values.summaries(last, kind, ["run"])))
    for name, rows in each:
        numbers = [_spread(rows[column], percent=column in ("below", "above")) for column in columns]
        shown.add_row(name, _count(rows["count"]), *numbers)
    shown.caption = "A bimodality above 0.56 tells of two peaks, or of a strong skew."
    if known is not None:
        of_network = known.shares["network"]
        shown.add_row("published*", "", "", *(f"about {of_network[column]:.0%}" for column in columns[1:3]), "")
        shown.caption = f"* In {known.subject} ({known.source}). {shown.caption}"
    return shown


def _weights(last: DataFrame, by: str, kinds: Sequence[MixingKind]) -> Table:
    """Tell the weights of each layer, or the means over the layers of each group with the spread over its runs."""
    shown = _table(by, "weights of", numbers=kinds[0].labels)
    weights = last[last["kind"].isin([kind.name for kind in kinds])]
    each = weights.groupby(["run", by, "kind", "statistic"], observed=True, sort=False)["value"].mean().reset_index()
    for name, rows in _parts(each, by):
        for kind in kinds:
            cells = [rows[(rows["kind"] == kind.name) & (rows["statistic"] == label)] for label in kind.labels]
            first = _title(name, rows) if kind is kinds[0] else ""
            shown.add_row(first, word(kind), *(_spread(cell["value"]) for cell in cells))
    return shown


def _binarized(evaluated: DataFrame, groups: Mapping[str, str], title: str) -> Table:
    """Tell what binarizing changes, for each group with the spread over its runs."""
    shown = _table("group", "metric", "statistics", numbers=["learned", "binarized", "change"])
    shown.title = title
    results = evaluated.assign(group=evaluated["run"].map(groups), change=evaluated["binarized"] - evaluated["learned"])
    for name, own in _parts(results, "group"):
        first = _title(name, own)
        for (metric, statistics), rows in own.groupby(["metric", "statistics"], sort=False):
            numbers = f"{rows['learned'].mean():.4g}", f"{rows['binarized'].mean():.4g}"
            change = f"{rows['change'].mean():+.2g}" + (f"±{rows['change'].std():.1g}" if len(rows) > 1 else "")
            shown.add_row(first, metric, statistics, *numbers, change)
            first = ""
    return shown


def _parts(frame: DataFrame, by: str) -> list[tuple[str, DataFrame]]:
    return list(frame.groupby(by, observed=True, sort=False))[:MOST_ROWS]


def _title(name: str, rows: DataFrame) -> str:
    runs = rows["run"].nunique()
    return name if runs == 1 else f"{name} ({runs} runs)"


def _spread(numbers: pd.Series, percent: bool = False) -> str:
    known = (100 if percent else 1) * numbers.dropna()
    if known.empty:
        return "?"
    digits = 1 if percent else 3
    spread = f"±{known.std():.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{spread}{'%' if percent else ''}"


def _count(counts: pd.Series) -> str:
    smallest, largest = counts.min(), counts.max()
    if largest == 0:
        return "?"
    return str(largest) if smallest == largest else f"{smallest} to {largest}"


def _next_commands(runs: Sequence[Run], trusted: Sequence[str]) -> list[str]:
    """Say how to find out how far the numbers are a matter of chance: by another seed, if there is only one.

    Training imports whatever a configuration names. So one that may be a stranger's is not recommended.
    """
    if len({run.group for run in runs}) < len(runs):
        return []
    for run in runs:
        if run.config is None or run.checkpoint is None or not _names_only(run.config, (*_KNOWN, *trusted)):
            continue
        config = shlex.quote(str(RunOnDisk.find(run.checkpoint).config))
        seed = int(run.config.get("seed_everything") or 0) + 1
        seeds = f"--seed_everything {seed} --model.seed {seed} --data.seed {seed}"
        return [as_installed(f"python train.py fit --config {config} {seeds}  # another seed, to see the spread")]
    return []


def _names_only(settings: Any, packages: Sequence[str]) -> bool:
    """Tell whether all dotted names among settings, any of which may be that of a class, are of these packages."""
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, list):
        return all(_names_only(each, packages) for each in settings)
    if not isinstance(settings, str) or not re.fullmatch(r"\s*[^\W\d]\w*(\.[^\W\d]\w*)+\s*", settings):
        return True
    return any(settings.strip().startswith(f"{package}.") for package in packages)
