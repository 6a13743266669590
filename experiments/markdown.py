"""A page as Markdown, for Material for MkDocs, with its claims as front matter too, from which the index is made."""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from pandas import DataFrame

import normlab
from experiments import telling
from experiments.catalog import CONFIGS, Experiment
from experiments.page import Claim, Figure, Page, Table, Verdict
from experiments.reading import Runs
from experiments.verdicts import CONTRADICTED, HOLDS, UNDECIDED
from sweeping.commands import shown

TIME = "## Time"
"""The heading of what differs each time that all runs are trained anew; all above is then equal, but for front matter's
``minutes``."""

SIGNS: dict[Verdict, str] = {HOLDS: "✓", CONTRADICTED: "✗", UNDECIDED: "○"}
"""Of verdicts, in the order in which they are counted."""

RULE = (
    "A claim *holds at this scale* if the whole 95 % interval of the difference that it is about, over seeds, is on "
    "the side that was claimed. If the whole interval is on the other side it is *contradicted at this scale*, else "
    "*not decided at this scale*. A claim that there is no difference names the margin within which it counts as none. "
    "Where seeds are the same in both cells they are compared in pairs."
)


def markdown(page: Page, experiment: Experiment, runs: Runs) -> str:
    """Return a page.

    Args:
        page: Its content.
        experiment: The experiment that it is of.
        runs: The runs that it was made of.
    """
    parts = [
        _front_matter(page, runs),
        f"# {page.title}",
        page.question,
        *([f"**{count(page.claims)}**"] if page.claims else ()),
        *_missing(runs),
        *(_claims(page.claims) if page.claims else ()),
        *(part for figure in page.figures for part in _figure(figure, experiment.name)),
        "## The numbers",
        *_tables(page.tables),
        *page.notes,
        "## How it was run",
        *_how(page, experiment, runs),
        "## What it cannot say",
        "\n".join(f"- {limit}" for limit in page.limits),
        TIME,
        telling.times(runs),
        *_tables(page.times),
        *page.timed,
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def sign(verdict: Verdict) -> str:
    """Write a verdict so that it is told from others at a glance."""
    return f"{SIGNS[verdict]} **{verdict}**"


def count(claims: Iterable[Claim]) -> str:
    """Say in a sentence how many claims there are of each verdict."""
    found = Counter(claim.verdict for claim in claims)
    words = (f"{SIGNS[each]} {found[each]} {_verb(each, found[each])}" for each in SIGNS if found[each])
    total = found.total()
    return f"Of {total} claim{'s' * (total != 1)}, {', '.join(words)} at this scale."


def _verb(verdict: Verdict, number: int) -> str:
    words = verdict.removesuffix(" at this scale")
    return {HOLDS: "holds" if number == 1 else "hold"}.get(verdict, f"{'is' if number == 1 else 'are'} {words}")


def table(rows: DataFrame) -> str:
    """Return a table in Markdown; numbers have four digits, and what is missing a dash."""
    numeric = [rows[name].dtype.kind in "fiu" for name in rows]
    lines = [_row(map(str, rows.columns)), "|" + "|".join("---:" if right else "---" for right in numeric) + "|"]
    lines += [_row(cell(value) for value in row) for row in rows.itertuples(index=False)]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """Write what stands in a cell of a table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"  # noqa: RUF001
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_front_matter(file: Path) -> dict[str, Any] | None:
    """Read what a page says at its head; None if it is not a page of an experiment."""
    text = file.read_text()
    if not text.startswith("---\n") or "\n---\n" not in text:
        return None
    head = yaml.safe_load(text[4:].partition("\n---\n")[0])
    return head if isinstance(head, dict) and "claims" in head else None


def _front_matter(page: Page, runs: Runs) -> str:
    head = {
        "title": page.title,
        "claims": [asdict(claim) for claim in page.claims],
        "missing": runs.missing,
        "minutes": round(float(runs.frame["seconds"].sum()) / 60, 1),
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=10**6)}---"


def _missing(runs: Runs) -> list[str]:
    if not runs.missing:
        return []
    return [f"!!! warning\n    {runs.missing} of {runs.planned} runs are missing: the numbers are of those there are."]


def claims_table(claims: Sequence[Claim]) -> str:
    """Return claims with what came out of them as a table."""
    rows = [
        {
            "": f"{number}.",
            "claim": f"{claim.text} ({claim.source})",
            "published": claim.published,
            "here": claim.here,
            "verdict": sign(claim.verdict),
        }
        for number, claim in enumerate(claims, 1)
    ]
    return table(DataFrame(rows))


def _claims(claims: Sequence[Claim]) -> list[str]:
    rules = [f"{number}. {claim.rule}" for number, claim in enumerate(claims, 1)]
    return ["## Claims and verdicts", claims_table(claims), f"{RULE} The numbers that decide:", "\n".join(rules)]


def _tables(tables: Sequence[Table]) -> list[str]:
    return [part for each in tables for part in (each.caption, table(each.rows))]


def _figure(figure: Figure, name: str) -> list[str]:
    return [f"![{figure.alt}]({name}-{figure.name}.{figure.ending})", f"*{figure.caption}*"]


def _how(page: Page, experiment: Experiment, runs: Runs) -> list[str]:
    sweeps = ", ".join(f"`configs/experiments/{file.name}`" for file in experiment.sweeps)
    parts = [_commands(experiment, runs), f"The grid is in {sweeps}.", table(telling.sizes(runs))]
    if runs.records():
        command = shown(runs.records()[0][1].command)
        parts.append(f"The first of the trainings was\n\n```bash\n{command}\n```")
    names = dict.fromkeys((experiment.name, *(file.stem for file in experiment.sweeps)))
    published = [file for name in names if (file := CONFIGS / f"{name}_published.yaml").is_file()]
    parts += [telling.published(file, runs.runs_dir) for file in published]
    parts += telling.ends(runs)
    parts += page.setting
    trained = telling.machines(runs)
    parts.append(f"normlab {normlab.__version__}" + (f", trained on {'; '.join(trained)}." if trained else "."))
    return parts


def _commands(experiment: Experiment, runs: Runs) -> str:
    """Say by which commands the runs and the page are made again."""
    found = telling.overrides(runs)
    changed = any(words is None for each in found.values() for words in each)
    known = {name: next((words for words in each if words is not None), []) for name, each in found.items()}
    make = ["python", "-m", "experiments", experiment.name]
    if len({tuple(words) for words in known.values()}) == 1:
        (words, *_) = known.values()
        lines = [shlex.join([*make, *(["--", *words] if words else [])])]
    else:
        files = {sweep.name: file.name for sweep, file in zip(runs.sweeps, experiment.sweeps, strict=True)}
        lines = [
            shlex.join(["python", "sweep.py", f"configs/experiments/{files[name]}", "--runs_dir", "runs/experiments"])
            + (f" -- {shlex.join(words)}" if words else "")
            for name, words in known.items()
        ] + [shlex.join(make)]
    note = "\n\nThe file of a sweep has been changed since its runs were trained." if changed else ""
    return "```bash\n" + "\n".join(lines) + "\n```" + note


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(each.split()).replace("|", "\\|") for each in cells) + " |"
