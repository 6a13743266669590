"""Runs as a notebook has them: one object for the table, comparisons and figures."""

from collections.abc import Sequence
from functools import cached_property
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from pandas import DataFrame

from mixing_analysis import DEFAULT_FORMATS, FORMATS, comparisons, figures, metric_effects, outputs, values
from mixing_analysis.choice import Chosen, choose
from mixing_analysis.figures import Drawing
from mixing_analysis.plots import STYLE
from mixing_analysis.selection import Selection
from mixing_analysis.values import Run, at_last_step, kinds_of
from norms.errors import SettingError, unknown
from norms.kinds import MixingKind
from training.terminal import printable


class Runs:
    """Hold what was read of runs; :func:`mixing_analysis.read` makes one.

    Args:
        runs: The runs, each in its group.
        notes: What there is to know of how they were found.
    """

    def __init__(self, runs: Sequence[Run], notes: Sequence[str] = ()) -> None:
        self.runs = tuple(runs)
        self._found = tuple(notes)

    @classmethod
    def read(cls, selection: Selection) -> "Runs":
        """Read the runs that a user asks for, see :func:`mixing_analysis.read`."""
        chosen: Chosen = choose(selection)
        return cls(chosen.runs, chosen.notes)

    @cached_property
    def table(self) -> DataFrame:
        """Every value, a row each: the columns are :data:`mixing_analysis.values.COLUMNS`."""
        return values.combine(self.runs)

    @property
    def groups(self) -> dict[str, list[str]]:
        """From the name of each group to those of its runs, which are averaged."""
        return {name: [run.name for run in runs] for name, runs in comparisons.sides_of(self.runs, "group").items()}

    @property
    def kinds(self) -> list[MixingKind]:
        """The kinds of values that there are."""
        return kinds_of(self.runs)

    @property
    def notes(self) -> list[str]:
        """What the reader of the numbers should know, a line each."""
        return [
            *map(printable, self._found),
            *map(printable, comparisons.notes_on_groups(self.table, self.runs)),
            *(printable(f"{run.name}: {note}") for run in self.runs for note in run.notes),
        ]

    def summary(self, every_step: bool = False) -> DataFrame:
        """Return mean and standard deviation over the runs of each group, layer by layer.

        Args:
            every_step: Whether of all steps; by default of the last one of each run.

        Returns:
            See :func:`mixing_analysis.comparisons.over_seeds`.
        """
        return comparisons.over_seeds(self.table if every_step else at_last_step(self.table), self.kinds)

    def compare(self, first: str = "", second: str = "") -> DataFrame:
        """Compare two groups, or two runs, layer by layer.

        Args:
            first: Name of a group or run; with neither name, all pairs of groups are compared.
            second: Name of that which it is compared with.

        Returns:
            See :data:`mixing_analysis.comparisons.COMPARED`: differences with 95 % intervals over seeds, Hedges' g, and
            p values corrected over layers.

        Raises:
            SettingError: If there is no such group or run.
        """
        if not first and not second:
            return comparisons.compare(self.table, self.runs).rows
        if not first or not second:
            raise SettingError("compare wants the names of two groups or runs, or none for all pairs of groups")
        known = [*self.groups, *(run.name for run in self.runs)]
        for name in (first, second):
            if name not in known:
                raise unknown("group", name, dict.fromkeys(known))
        return comparisons.compare(self.table, self.runs, [(first, second)]).rows

    def compare_metrics(self) -> DataFrame:
        """Compare how well groups do, by their validations: see :data:`mixing_analysis.metric_effects.COMPARED`."""
        return metric_effects.compare_metrics(self.runs)

    def omnibus(self) -> DataFrame:
        """Test whether the groups differ at all: see :func:`mixing_analysis.comparisons.omnibus`."""
        return comparisons.omnibus(self.table, self.runs)

    def figures(self) -> dict[str, Figure]:
        """Draw all figures, by name; see :func:`mixing_analysis.figures.write`."""
        drawn = {name: self._draw(draw) for name, draw in figures.drawings(self.table, self.runs).items()}
        return {name: figure for name, figure in drawn.items() if figure is not None}

    def figure(self, name: str) -> Figure:
        """Draw one figure, such as ``rho_layers``.

        Raises:
            SettingError: If there is none of this name, or nothing that it could show.
        """
        drawings = figures.drawings(self.table, self.runs)
        if name not in drawings:
            raise unknown("figure", name, drawings)
        figure = self._draw(drawings[name])
        if figure is None:
            raise SettingError(f"these runs have no figure {name}: there is nothing that it could show")
        return figure

    @staticmethod
    def _draw(draw: Drawing) -> Figure | None:
        with mpl.rc_context(STYLE):
            return draw()

    def report(self, folder: str | Path, formats: str | Sequence[str] = DEFAULT_FORMATS) -> Path:
        """Write the report that ``analyze.py`` writes, without evaluating networks anew.

        Args:
            folder: Where it goes.
            formats: Some of :data:`mixing_analysis.FORMATS`; also one, or several with commas.

        Returns:
            The folder.

        Raises:
            SettingError: If a format is unknown, or the folder cannot be written.
        """
        formats = formats.split(",") if isinstance(formats, str) else formats
        for name in formats:
            if name not in FORMATS:
                raise unknown("format", name, FORMATS)
        compared = comparisons.compare(self.table, self.runs)
        with outputs.renewed_report(Path(folder)) as staging:
            outputs.write(staging, self.table, self.runs, compared, None, self.notes, formats)
        return Path(folder)

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        runs, groups = (
            f"{len(each)} {word}{'' if len(each) == 1 else 's'}"
            for each, word in ((self, "run"), (self.groups, "group"))
        )
        return f"<{runs} in {groups}: {', '.join(self.groups)}>"

    def _repr_html_(self) -> str:
        found = comparisons.layer_values(at_last_step(self.table), self.kinds, ["run"])
        means = found[~found["measure"].isin(comparisons.OF_GATES[1:])].pivot(
            index="run", columns=["kind", "measure"], values="value"
        )
        names = [kind if measure == "mean" else f"{kind}, {measure}" for kind, measure in means]
        rows = [["run", "group", "steps", "layers", *names]]
        for run in self.runs:
            first, last = run.steps[0], run.steps[-1]
            steps = str(last) if first == last else f"{first} to {last}"
            numbers = ("" if number != number else f"{number:.3f}" for number in means.loc[run.name])
            rows.append([run.name, run.group, steps, str(len(run.architecture)), *numbers])
        head, *body = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
        lines = [head.replace("td>", "th>"), *body]
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
