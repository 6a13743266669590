"""The table of all claims of all pages."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pandas import DataFrame

from experiments.markdown import read_front_matter, table

HEAD = """# Experiments

Each page repeats what was claimed of normalization, at a size that two processor cores train in minutes, with several
seeds, and says what came out. `python -m experiments NAME` makes a page anew ([how](../guides/experiments.md)); none of
its numbers is typed by hand."""


def index(pages: Sequence[Path]) -> str:
    """Return the table of all claims as Markdown.

    Args:
        pages: The files of the pages; what is none is left out.
    """
    heads = [(file, head) for file in pages if (head := read_front_matter(file)) is not None]
    rows = [
        {
            "page": f"[{head['title']}]({file.name})",
            "claim": f"{claim['text']} ({claim['source']})",
            "published": claim["published"],
            "here": claim["here"],
            "verdict": claim["verdict"],
            "minutes": head["minutes"],
        }
        for file, head in heads
        for claim in head["claims"]
    ]
    if not rows:
        return f"{HEAD}\n"
    counts = Counter(row["verdict"] for row in rows)
    return f"{HEAD}\n\n{_sum(counts)}\n\n{table(DataFrame(rows))}\n"


def _sum(counts: "Counter[str]") -> str:
    """Say how many claims there are, and of each verdict."""
    each = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return f"Claims by verdict: {each}. *Minutes* is how long all trainings of the page took together."
