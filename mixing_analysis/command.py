"""See what the layers that learn how to normalize have learned, in one run and across runs.

Example:
    python analyze.py runs/style_transfer runs/gan -o report/
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pandas import DataFrame
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mixing_analysis import figures, report, snapped, values
from mixing_analysis.folder import renewed
from mixing_analysis.groups import fold
from mixing_analysis.kinds import LOGGED, PUBLISHED, families, word
from mixing_analysis.sources import EXPECTED, read_runs
from mixing_analysis.values import Run
from norms.errors import SettingError
from norms.kinds import MixingKind
from training.parser_errors import positive, run_command

CSV, PARQUET, FIGURES, PAGE = "mixing.csv", "mixing.parquet", "figures", "report.html"

MOST_ROWS = 40
"""More rows than this are left to the report."""


class Group(NamedTuple):
    """Runs that the user wants to see averaged."""

    name: str
    runs: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> None:
    named = {group.name: group.runs for group in options.group}
    sources = list(dict.fromkeys([*options.runs, *(member for members in named.values() for member in members)]))
    if not sources:
        raise SettingError(f"no run is given: expected {EXPECTED}")
    runs = fold(read_runs(sources), named)
    with renewed(options.output, (CSV, PARQUET, FIGURES, PAGE)) as folder:
        table = values.combine(runs)
        evaluated, reasons = _evaluate(runs, options.batches) if options.snapped else (None, [])
        notes = [f"{run.name}: {note}" for run in runs for note in run.notes] + reasons
        table.to_csv(folder / CSV, index=False)
        written = _write_parquet(table, folder / PARQUET)
        drawn = figures.write(table, runs, folder / FIGURES)
        report.write(table, runs, evaluated, folder / PAGE, notes)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for shown in _tables(table, runs, evaluated):
        console.print(shown)
    for note in notes[:MOST_ROWS]:
        console.print(f"note: {note}")
    console.print(
        f"wrote {options.output / CSV}{f' and {PARQUET}' if written else ''}: "
        f"{len(table)} values of {len(runs)} {_plural('run', runs)}"
    )
    if not written:
        console.print(f'for {PARQUET}, which is smaller and quicker to read: pip install "normlab[parquet]"')
    console.print(f"wrote {options.output / FIGURES}: {len(drawn)} {_plural('file', drawn)}")
    console.print(f"wrote {options.output / PAGE}")
    console.print("next:")
    console.print(f"  open {shlex.quote(str(options.output / PAGE))} in a browser")
    for command in _next_commands(runs):
        console.print(f"  {command}")


def _write_parquet(table: DataFrame, path: Path) -> bool:
    """Write the table in a form that keeps its types, if what can do so is installed."""
    if find_spec("pyarrow") is None:
        return False
    table.to_parquet(path, index=False)
    return True


def _evaluate(runs: Sequence[Run], batches: int) -> tuple[DataFrame, list[str]]:
    found = [DataFrame(columns=list(snapped.COLUMNS))]
    reasons = []
    console = Console(stderr=True)
    for run in track(runs, "evaluating snapped gates", console=console, disable=not sys.stderr.isatty()):
        try:
            found.append(snapped.evaluate(run, batches))
        except SettingError as error:
            reasons.append(f"{run.name} is not evaluated with snapped gates: {error}")
    return pd.concat(found[1:] or found, ignore_index=True), reasons


def _plural(word: str, things: Sequence[object]) -> str:
    return word if len(things) == 1 else f"{word}s"


def _tables(table: DataFrame, runs: Sequence[Run], evaluated: DataFrame | None) -> Iterator[Table]:
    last = values.at_last_step(table)
    by = "layer" if len(runs) == 1 else "group"
    kinds = values.kinds_of(runs)
    there = set(last["kind"].unique())
    for kind in kinds:
        if kind.per_channel and there & {kind.name, kind.name + LOGGED}:
            yield _gates(last, by, kind)
    for members in families(kinds).values():
        if there & {kind.name for kind in members}:
            yield _weights(last, by, members)
    if evaluated is not None and len(evaluated):
        yield _snapped(evaluated, {run.name: run.group for run in runs})


def _table(*texts: str, numbers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for text in texts:
        table.add_column(text, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _gates(last: DataFrame, by: str, kind: MixingKind) -> Table:
    """The gates of each layer, or of each group with the spread over its runs; and of all, beside the published."""
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
    if published := PUBLISHED.get(kind.name, {}).get("network"):
        shown.add_row("published*", "", "", *(f"about {published[column]:.0%}" for column in columns[1:3]), "")
        shown.caption = f"* Nam & Kim 2018, figure 2. {shown.caption}"
    return shown


def _weights(last: DataFrame, by: str, kinds: Sequence[MixingKind]) -> Table:
    """The weights of each layer, or the means over the layers of each group with the spread over its runs."""
    shown = _table(by, "weights of", numbers=kinds[0].labels)
    weights = last[last["kind"].isin([kind.name for kind in kinds])]
    each = weights.groupby(["run", by, "kind", "statistic"], observed=True, sort=False)["value"].mean().reset_index()
    for name, rows in _parts(each, by):
        for kind in kinds:
            cells = [rows[(rows["kind"] == kind.name) & (rows["statistic"] == label)] for label in kind.labels]
            first = _title(name, rows) if kind is kinds[0] else ""
            shown.add_row(first, word(kind), *(_spread(cell["value"]) for cell in cells))
    return shown


def _snapped(evaluated: DataFrame, groups: Mapping[str, str]) -> Table:
    """What snapping changes, for each group with the spread over its runs."""
    shown = _table("group", "metric", "statistics", numbers=["learned", "snapped", "change"])
    shown.title = "with every gate at the nearer end, every switch at its largest weight"
    results = evaluated.assign(group=evaluated["run"].map(groups), change=evaluated["snapped"] - evaluated["learned"])
    for name, own in _parts(results, "group"):
        title = _title(name, own)
        for (metric, statistics), rows in own.groupby(["metric", "statistics"], sort=False):
            numbers = f"{rows['learned'].mean():.4g}", f"{rows['snapped'].mean():.4g}"
            change = f"{rows['change'].mean():+.2g}" + (f"±{rows['change'].std():.1g}" if len(rows) > 1 else "")
            shown.add_row(title, metric, statistics, *numbers, change)
            title = ""
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


def _next_commands(runs: Sequence[Run]) -> list[str]:
    """What tells how far the numbers are a matter of chance: another seed, if there is only one."""
    if len({run.group for run in runs}) < len(runs):
        return []
    for run in runs:
        if run.config is None or run.checkpoint is None:
            continue
        config = shlex.quote(str(run.checkpoint.parents[1] / "config.yaml"))
        seed = int(run.config.get("seed_everything") or 0) + 1
        seeds = f"--seed_everything {seed} --model.seed {seed} --data.seed {seed}"
        return [f"python train.py fit --config {config} {seeds}  # another seed, to see the spread"]
    return []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="analyze.py",
        description="See what the layers that learn how to normalize have learned, in one run and across runs.",
        epilog="Runs whose configurations differ in nothing but seeds are averaged.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", type=_source, nargs="*", help=EXPECTED)
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, default=Path("report"), help="the report (default: report)"
    )
    parser.add_argument(
        "--group",
        metavar="NAME=RUN,RUN",
        type=_group,
        action="append",
        default=[],
        help="average these runs, of one architecture, under this name; may be given several times",
    )
    parser.add_argument(
        "--no-snapped", dest="snapped", action="store_false", help="do not evaluate the networks with snapped gates"
    )
    parser.add_argument(
        "--batches",
        metavar="N",
        type=positive,
        default=32,
        help="at most how many batches of images to evaluate snapped gates on (default: 32)",
    )
    return parser


def _source(text: str) -> str:
    return text.rstrip("/") or text


def _group(text: str) -> Group:
    name, _, members = text.partition("=")
    runs = tuple(_source(member) for member in members.split(",") if member)
    if not name or not runs:
        raise argparse.ArgumentTypeError(f"must be NAME=RUN,RUN, got {text!r}")
    return Group(name, runs)
