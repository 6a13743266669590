"""The page that lists the claims of all pages."""

from collections.abc import Sequence
from pathlib import Path

from experiments.markdown import claims_table, count, read_front_matter
from experiments.page import Claim

HEAD = """# Experiments

Each page repeats what was claimed of normalization, at a size that two processor cores train in minutes, with several
seeds, and says what came out. `python -m experiments NAME` makes a page anew ([how](../guides/experiments.md)); none of
its numbers is typed by hand."""

CHANCE = (
    "Each verdict stands on a 95 % interval of its own, so about one in twenty of those where nothing is to be found "
    "would say something by chance."
)


def index(pages: Sequence[Path]) -> str:
    """Return the claims of all pages as Markdown.

    Args:
        pages: The files of the pages; what is none is left out.
    """
    heads = [(file, head) for file in pages if (head := read_front_matter(file)) is not None]
    claims = {file: [Claim(**claim) for claim in head["claims"]] for file, head in heads}
    parts = [HEAD]
    if any(claims.values()):
        parts.append(f"**{count(claim for each in claims.values() for claim in each)}** {CHANCE}")
    for file, head in heads:
        parts.append(f"## [{head['title']}]({file.name})")
        time = f"All its trainings took {head['minutes']} minutes together."
        parts.append(f"{count(claims[file])} {time}" if claims[file] else time)
        parts += [claims_table(claims[file])] if claims[file] else []
    return "\n\n".join(parts) + "\n"
