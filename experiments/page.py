"""What a page consists of: the question, claims with their verdicts, figures, tables and limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure as Drawing
from pandas import DataFrame

Verdict = Literal["holds at this scale", "contradicted at this scale", "not decided at this scale"]
"""What can be said of a claim; :mod:`experiments.verdicts` decides it from numbers."""


@dataclass(frozen=True)
class Claim:
    """Hold what somebody has claimed, and what came out here.

    Args:
        text: The claim, in one sentence.
        source: Where it was made, such as ``Ioffe & Szegedy 2015, section 4.1``.
        published: The published figure, in words.
        here: What came out here: a text that code has made of numbers.
        verdict: What the numbers decide.
        rule: By which numbers, in words, such as ``accuracy with minus without, paired by seed``.
    """

    text: str
    source: str
    published: str
    here: str
    verdict: Verdict
    rule: str


@dataclass(frozen=True)
class Figure:
    """Hold a picture of a page.

    Args:
        name: The end of its file's name: that of the page ``dropout`` is ``dropout-NAME.svg``.
        drawing: The figure; :mod:`experiments.plots` makes such.
        caption: What one sees in it, below it.
        alt: What is read to those who cannot see it.
        ending: ``svg``, or ``jpg`` for what consists of photos, which are ten times as large in SVG.
    """

    name: str
    drawing: Drawing
    caption: str
    alt: str
    ending: Literal["svg", "jpg"] = "svg"


@dataclass(frozen=True)
class Table:
    """Hold a table of a page.

    Args:
        rows: Its rows. Their cells are texts, or numbers, of which four digits are shown; the index is left out.
        caption: What stands in it, above it.
    """

    rows: DataFrame
    caption: str


@dataclass(frozen=True)
class Page:
    """Hold a page; its parts follow each other in this order, and :mod:`experiments.markdown` adds how it was run.

    Args:
        title: Its title.
        question: What is asked, in two or three plain sentences.
        claims: What others have said, each with its verdict.
        figures: The pictures.
        tables: The numbers.
        limits: What the experiment cannot say, a sentence or two each.
        notes: What else is to be known of the numbers, a paragraph each, after the tables.
        setting: What is to be known of how it was run, a paragraph each, beside what the runs themselves tell.
        times: Numbers that differ each time that all runs are trained anew, such as seconds.
        timed: What was timed while the page was made, a paragraph each, below how long the trainings took.
    """

    title: str
    question: str
    claims: Sequence[Claim]
    figures: Sequence[Figure]
    tables: Sequence[Table]
    limits: Sequence[str]
    notes: Sequence[str] = ()
    setting: Sequence[str] = ()
    times: Sequence[Table] = ()
    timed: Sequence[str] = ()
