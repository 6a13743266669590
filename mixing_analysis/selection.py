"""Which runs, steps and layers a user asks for. Nothing here imports torch, so that ``--help`` is quick."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Steps(NamedTuple):
    """Name steps: single ones, or if there are none those from the first to the last."""

    first: int = 0
    last: float = float("inf")
    single: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return what it is written as."""
        if self.single:
            return ",".join(map(str, self.single))
        return f"{self.first or ''}:{'' if self.last == float('inf') else self.last}"


class Selection(NamedTuple):
    """Hold what a user asks for.

    Attributes:
        sources: What the user calls runs.
        groups: From the name of a group to what the user calls its runs, which are read too.
        by: Names of settings; runs that agree in all of them are averaged.
        steps: Which steps.
        layers: Patterns of which layers; all if there are none.
    """

    sources: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = {}
    by: tuple[str, ...] = ()
    steps: Steps = Steps()
    layers: tuple[str, ...] = ()


def parse_steps(text: str) -> Steps:
    """Read which steps are meant: ``FROM:TO``, where either may be left out, or single ones with commas.

    Raises:
        SettingError: If it is something else, or ends before it begins.
    """
    from norms.errors import SettingError

    if not text:
        return Steps()
    parts = text.split(":") if ":" in text else text.split(",")
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if ":" not in text:
        if len(numbers) == len(parts):
            return Steps(single=tuple(numbers))
    elif len(parts) == 2 and len(numbers) == sum(map(bool, parts)):
        first, last = int(parts[0] or 0), int(parts[1]) if parts[1] else float("inf")
        if first <= last:
            return Steps(first, last)
    raise SettingError(f"--steps must be FROM:TO with FROM at most TO, or steps with commas, got {text!r}")


def parse_groups(texts: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Read which runs are averaged: ``NAME=RUN,RUN``, or names of settings with commas.

    Returns:
        The named groups, and the settings.

    Raises:
        SettingError: If a text is neither, or two groups have the same name.
    """
    from norms.errors import SettingError

    groups: dict[str, tuple[str, ...]] = {}
    by: list[str] = []
    for text in texts:
        name, equals, members = text.partition("=")
        runs = tuple(member.rstrip("/") or member for member in members.split(",") if member)
        if not equals and all(name.split(",")):
            by += name.split(",")
        elif not name or not runs:
            raise SettingError(f"--group must be NAME=RUN,RUN or a setting such as model.norm, got {text!r}")
        elif name in groups:
            raise SettingError(f"two groups have the same name: {name}")
        else:
            groups[name] = runs
    return groups, tuple(by)
