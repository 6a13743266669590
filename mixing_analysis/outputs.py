"""The folder that a report is: its tables, its page and its figures."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from pandas import DataFrame

from mixing_analysis import figures, pictures, report, tables
from mixing_analysis.comparisons import Comparisons
from mixing_analysis.folder import renewed
from mixing_analysis.metric_effects import compare_metrics
from mixing_analysis.pictures import Pictures
from mixing_analysis.tables import ABLATION, COMPARISONS, CSV, OUTCOMES, PARQUET
from mixing_analysis.values import Run

FIGURES, PICTURES, PAGE = "figures", "pictures", "report.html"


class Written(NamedTuple):
    """Hold what was written: names of tables, numbers of files of figures and pictures, and whether there is a page."""

    tables: list[str]
    figures: int
    pictures: int
    page: bool


def renewed_report(output: Path, exports: Sequence[str] = ()) -> AbstractContextManager[Path]:
    """Return a folder to write a report to, of which the files take their places in ``output`` at the end.

    Args:
        output: The report.
        exports: Files that are written besides it, and stay when the next report is written without them.
    """
    return renewed(output, (CSV, PARQUET, COMPARISONS, OUTCOMES, ABLATION, FIGURES, PICTURES, PAGE, *exports))


def write(
    folder: Path,
    table: DataFrame,
    runs: Sequence[Run],
    comparisons: Comparisons,
    evaluated: DataFrame | None,
    notes: Sequence[str],
    formats: Sequence[str],
    pictured: Sequence[Pictures] = (),
    ablated: DataFrame | None = None,
) -> Written:
    """Write what there is to see of runs, as files.

    Args:
        folder: Where they go; it is there.
        table: The values of all runs.
        runs: The runs of the table.
        comparisons: See :func:`mixing_analysis.comparisons.compare`.
        evaluated: The results of :func:`mixing_analysis.binarized.evaluate`, if runs were evaluated.
        notes: What the reader should know, a line each.
        formats: Some of :data:`mixing_analysis.FORMATS`.
        pictured: Pictures of some of the runs, which are written where PNG is among the formats.
        ablated: The results of :func:`mixing_analysis.ablation.ablate`, if runs were ablated.
    """
    written = []
    if "csv" in formats:
        written += tables.write(table, folder)
        written += tables.write_rows(comparisons.rows, folder, COMPARISONS)
        written += tables.write_rows(compare_metrics(runs), folder, OUTCOMES)
        written += [] if ablated is None else tables.write_rows(ablated, folder, ABLATION)
    of_figures = [name for name in formats if name in figures.FORMATS]
    drawn = figures.write(table, runs, folder / FIGURES, of_figures) if of_figures else []
    seen = pictures.write(pictured, folder / PICTURES) if "png" in formats else []
    if "html" in formats:
        report.write(table, runs, evaluated, folder / PAGE, notes, written, comparisons, pictured, ablated)
    return Written(written, len(drawn), len(seen), "html" in formats)
