"""From the command line of ``analyze.py`` to a report, and what the terminal says of it."""

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame
from rich.console import Console
from rich.progress import Progress, TaskID, track
from rich.table import Table

from mixing_analysis import DEFAULT_FORMATS, ablation, binarized, needs, outputs, pictures, pruning, values
from mixing_analysis.choice import choose
from mixing_analysis.comparisons import compare
from mixing_analysis.console_tables import MOST_ROWS, tables_of
from mixing_analysis.findings import answers
from mixing_analysis.outputs import FIGURES, PAGE, PICTURES, Written
from mixing_analysis.selection import Selection
from mixing_analysis.tables import PARQUET
from mixing_analysis.values import Run
from normlab import as_installed
from norms.errors import SettingError
from training.doors import TRUSTED
from training.run import Run as RunOnDisk
from training.terminal import printable

BATCHES = 32
"""On how many batches of images binarized and pruned networks are evaluated by default."""

_KNOWN = (*TRUSTED, "lightning.pytorch")
"""What a configuration of ours names classes of."""


def write(
    selection: Selection,
    output: Path,
    evaluate: bool,
    batches: int | None,
    trusted: Sequence[str] = (),
    formats: Sequence[str] = DEFAULT_FORMATS,
    ablate: bool = False,
    within: float | None = None,
) -> None:
    """Read the runs, write the report and print what it comes to.

    Args:
        selection: Which runs, steps and layers.
        output: The folder of the report.
        evaluate: Whether to evaluate the networks with binarized gates.
        batches: At most how many batches of images to evaluate them on; None for what suits each evaluation.
        trusted: Packages of others that runs to be evaluated may name classes of.
        formats: What is written, some of :data:`mixing_analysis.FORMATS`.
        ablate: Whether to force one layer at a time to a plain norm.
        within: How far from an end a gate may be that is pruned in an exported network; None exports none.

    Raises:
        SettingError: If there is no run, one cannot be read, or the report cannot be written.
    """
    if within is not None:
        pruning.check_within(within)
    runs, found = choose(selection)
    if within is not None:
        pruning.check_runs(len(runs))
    exports = () if within is None else (pruning.NETWORK, pruning.RECORD)
    with outputs.renewed_report(output, exports) as folder:
        table = values.combine(runs)
        pruned = None if within is None else pruning.export(runs[0], within, folder, batches or BATCHES, trusted)
        evaluated, reasons = _evaluate(runs, batches or BATCHES, trusted) if evaluate else (None, [])
        seen = evaluate and {"html", "png"} & {*formats}
        pictured, missing = _picture(runs, batches or BATCHES, trusted, reasons) if seen else ([], [])
        ablated, unable = _ablate(runs, batches or ablation.BATCHES, trusted) if ablate else (None, [])
        comparisons = compare(table, runs)
        notes = list(map(printable, found))
        notes += [printable(f"{run.name}: {note}") for run in runs for note in run.notes]
        notes += map(printable, [*reasons, *missing, *unable])
        written = outputs.write(folder, table, runs, comparisons, evaluated, notes, formats, pictured, ablated)
    # What is true of all numbers comes before what is said of each run, of which there may be more than has room.
    notes = [*map(printable, comparisons.notes), *notes]
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    for shown in tables_of(table, runs, evaluated, comparisons):
        _show(console, shown)
    for shown in () if ablated is None else needs.tables(ablated):
        _show(console, shown)
    kinds = {kind.name: kind for kind in values.kinds_of(runs)}
    export = [] if pruned is None else pruning.lines(pruned, output)
    commands = [] if pruned is None else [as_installed(pruning.next_command(pruned, output))]
    account = _account(output, table, runs, notes, written, trusted, commands)
    for line in (*answers(comparisons.omnibus, kinds), *export, *account):
        console.print(printable(line))


def _show(console: Console, shown: Table) -> None:
    """Print a table, and below it what is to be said of it, in lines as long as the terminal's."""
    caption, shown.caption = shown.caption, None
    console.print(shown)
    if caption is not None:
        console.print(caption, soft_wrap=False)


def _account(
    output: Path,
    table: DataFrame,
    runs: Sequence[Run],
    notes: Sequence[str],
    written: Written,
    trusted: Sequence[str],
    commands: Sequence[str],
) -> Iterator[str]:
    """Tell what there is to know, what was written and what can be done next, a line each."""
    yield from (f"note: {note}" for note in notes[:MOST_ROWS])
    if len(notes) > MOST_ROWS:
        where = f", which {output / PAGE} has" if written.page else ""
        yield f"note: and {len(notes) - MOST_ROWS} more{where}"
    if written.tables:
        yield (
            f"wrote {output / written.tables[0]}{''.join(f' and {name}' for name in written.tables[1:])}: "
            f"{len(table)} values of {len(runs)} {_plural('run', len(runs))}"
        )
        if PARQUET not in written.tables:
            yield f'for {PARQUET}, which is smaller and quicker to read: pip install "normlab[parquet]"'
    if written.figures:
        yield f"wrote {output / FIGURES}: {written.figures} {_plural('file', written.figures)}"
    if written.pictures:
        yield f"wrote {output / PICTURES}: {written.pictures} {_plural('file', written.pictures)}"
    commands = [*commands, *_next_commands(runs, trusted)]
    if written.page:
        yield f"wrote {output / PAGE}"
        commands = [f"open {shlex.quote(str(output / PAGE))} in a browser", *commands]
    if commands:
        yield "next:"
    yield from (f"  {command}" for command in commands)


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


def _ablate(runs: Sequence[Run], batches: int, trusted: Sequence[str]) -> tuple[DataFrame, list[str]]:
    found, reasons = [DataFrame(columns=list(ablation.COLUMNS))], []
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        for run in runs:
            task = bar.add_task(f"forcing the layers of {printable(run.name)}", total=None)

            def show(done: int, total: int, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total)

            try:
                found.append(ablation.ablate(run, batches, trusted, show))
            except SettingError as error:
                reasons.append(f"{run.name} is not ablated: {error}")
    return pd.concat(found[1:] or found, ignore_index=True), reasons


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


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
        command = f"python train.py fit --config {config} --seed {seed}  # another seed, to see the spread"
        return [as_installed(command)]
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
