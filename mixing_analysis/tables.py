"""The table of all values as files."""

from importlib.util import find_spec
from pathlib import Path

from pandas import CategoricalDtype, DataFrame

CSV, PARQUET, COMPARISONS, ABLATION = "mixing.csv", "mixing.parquet", "comparisons.csv", "ablation.csv"
OUTCOMES = "outcomes.csv"

FORMULA = ("=", "+", "-", "@", "'")
"""Begins what a spreadsheet takes for a formula, or for text that was kept from being one."""


def write(table: DataFrame, folder: Path) -> list[str]:
    """Write the table as CSV and, where pyarrow is installed, in a form that keeps its types.

    A name that a spreadsheet would take for a formula has an apostrophe in front in the CSV, which tells it not to.

    Args:
        table: The values, see :data:`mixing_analysis.values.COLUMNS`.
        folder: Where the files go; it is there.

    Returns:
        The names of the files.
    """
    _without_formulas(table).to_csv(folder / CSV, index=False)
    if find_spec("pyarrow") is None:
        return [CSV]
    table.to_parquet(folder / PARQUET, index=False)
    return [CSV, PARQUET]


def write_comparisons(rows: DataFrame, folder: Path) -> list[str]:
    """Write comparisons as CSV, if there are any, as :func:`write` does.

    Args:
        rows: See :data:`mixing_analysis.comparisons.COMPARED`.
        folder: Where the file goes; it is there.

    Returns:
        The name of the file, or nothing.
    """
    if rows.empty:
        return []
    names = ["first", "second", "kind", "measure", "layer"]
    _without_formulas(rows.astype(dict.fromkeys(names, "category"))).to_csv(folder / COMPARISONS, index=False)
    return [COMPARISONS]


def write_outcomes(rows: DataFrame, folder: Path) -> list[str]:
    """Write comparisons of metrics as CSV, if there are any, as :func:`write` does.

    Args:
        rows: See :data:`mixing_analysis.metric_effects.COMPARED`.
        folder: Where the file goes; it is there.

    Returns:
        The name of the file, or nothing.
    """
    if rows.empty:
        return []
    names = ["first", "second", "metric"]
    _without_formulas(rows.astype(dict.fromkeys(names, "category"))).to_csv(folder / OUTCOMES, index=False)
    return [OUTCOMES]


def write_ablation(rows: DataFrame, folder: Path) -> list[str]:
    """Write what ablations have come to as CSV, if there are any, as :func:`write` does.

    Args:
        rows: See :data:`mixing_analysis.ablation.COLUMNS`.
        folder: Where the file goes; it is there.

    Returns:
        The name of the file, or nothing.
    """
    if rows.empty:
        return []
    names = ["run", "layer", "forced", "metric", "statistics"]
    _without_formulas(rows.astype(dict.fromkeys(names, "category"))).to_csv(folder / ABLATION, index=False)
    return [ABLATION]


def _without_formulas(table: DataFrame) -> DataFrame:
    names = [column for column in table if isinstance(table[column].dtype, CategoricalDtype)]
    return table.assign(**{column: table[column].cat.rename_categories(_quoted) for column in names})


def _quoted(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA) else name
