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


def write_rows(rows: DataFrame, folder: Path, name: str) -> list[str]:
    """Write what was found beside the values as CSV, if there is anything, as :func:`write` does.

    Args:
        rows: Comparisons, or what ablations have come to.
        folder: Where the file goes; it is there.
        name: What it is called.

    Returns:
        The name of the file, or nothing.
    """
    if rows.empty:
        return []
    texts = rows.select_dtypes(include=["object", "string", "category"]).columns
    _without_formulas(rows.astype(dict.fromkeys(texts, "category"))).to_csv(folder / name, index=False)
    return [name]


def _without_formulas(table: DataFrame) -> DataFrame:
    names = [column for column in table if isinstance(table[column].dtype, CategoricalDtype)]
    return table.assign(**{column: table[column].cat.rename_categories(_quoted) for column in names})


def _quoted(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA) else name
