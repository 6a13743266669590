"""What was published of learned values, and which runs compare with it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixing_analysis.kinds import LOGGED
from mixing_analysis.values import Run
from norms.kinds import MixingKind


@dataclass(frozen=True)
class Published:
    """Say about which shares of the gates of a network ended near the ends of their range.

    Attributes:
        source: Where it was published.
        subject: Which network had learned what.
        shares: Of the whole network and of thirds of its depth, the shares ``below`` and ``above`` the ends of the
            kind's range.
        model: What the class of a module is called that has trained such a network.
        data: What the class of the data module is called that has such images.
        least_steps: How long a training is at least that compares, a fraction of the published one.
    """

    source: str
    subject: str
    shares: Mapping[str, Mapping[str, float]]
    model: re.Pattern[str]
    data: re.Pattern[str]
    least_steps: int

    def compares(self, run: Run) -> bool:
        """Return whether a run has trained such a network on such data, and for long enough."""
        config = run.config or {}
        classes = (_class_name(config.get(part)) for part in ("model", "data"))
        alike = all(map(re.fullmatch, (self.model, self.data), classes))
        return alike and run.steps[-1] >= self.least_steps


PUBLISHED = {
    "rho": Published(
        source="Nam & Kim 2018, figure 2",
        subject="a ResNet-110 that classifies CIFAR images",
        # Read off the figure, which speaks of lower and upper layers.
        shares={"network": {"below": 0.10, "above": 0.72}, "first": {"below": 0.21}, "last": {"below": 0.07}},
        model=re.compile(r"\w*Classifier"),
        data=re.compile(r"CIFAR\w*"),
        least_steps=10_000,
    ),
}
"""By the name of a kind."""


def published(kind: MixingKind, runs: Sequence[Run]) -> Published | None:
    """Return what was published of a kind, if all runs that have such values compare with it."""
    known = PUBLISHED.get(kind.name)
    names = {kind.name, kind.name + LOGGED}
    having = [run for run in runs if names & set(run.frame["kind"].unique())]
    return known if known is not None and having and all(map(known.compares, having)) else None


def _class_name(section: object) -> str:
    path = section.get("class_path") if isinstance(section, Mapping) else section
    return str(path).rpartition(".")[2]
