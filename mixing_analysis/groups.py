"""Which runs are averaged: those that differ in nothing but their seeds, or that the user names."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace

from mixing_analysis.values import Run
from norms.errors import SettingError, did_you_mean
from training.repetitions import flat, seeds_of, settings_of
from training.terminal import printable

MOST_SETTINGS = 3
"""A group is named by the settings that set it apart unless there are more."""


def fold(runs: Sequence[Run], named: Mapping[str, Sequence[str]], by: Sequence[str] = ()) -> list[Run]:
    """Say of each run which group it is averaged in.

    Args:
        runs: The runs.
        named: From the name of a group to its runs, each called as the user called it or by the run's name. The other
            runs form a group where their configurations agree in all but seeds and what does not matter.
        by: Names of settings, such as ``model.norm``. If there are any, the other runs form a group where they agree in
            all of these, whatever else they differ in. A run without a configuration stays alone.

    Returns:
        The runs with their groups.

    Raises:
        SettingError: If a named group has an unknown run or one of another group, if runs of a group have different
            architectures, or if no run has a setting.
    """
    groups: dict[str, str] = {}
    for run in runs:
        if run.name in named and not any(_find(runs, run.name, each) is run for each in named[run.name]):
            raise SettingError(f"--group: {run.name} is the name of a run that is not in it: choose another name")
    for group, members in named.items():
        chosen = [_find(runs, group, member) for member in members]
        for run in chosen:
            if groups.setdefault(run.name, group) != group:
                raise SettingError(f"{run.name} cannot be in both groups {groups[run.name]} and {group}")
            _check_architecture(chosen[0], run)
    if by:
        groups |= _by_values([run for run in runs if run.name not in groups], by)
    groups, repetitions = _by_settings(runs, groups)
    return [
        replace(run, group=printable(groups[run.name]), notes=run.notes + repetitions.get(run.name, ())) for run in runs
    ]


def _by_values(runs: Sequence[Run], by: Sequence[str]) -> dict[str, str]:
    """Return the groups of runs that agree in some settings: ``norm=layer``."""
    settings = {run.name: _as_written(run.config) for run in runs if run.config is not None}
    known = {key for own in settings.values() for key in own}
    for key in map(_key, by):
        if key not in known:
            raise SettingError(f"--group: no run has a setting {key}{did_you_mean(key, known)}")
    groups: dict[str, str] = {}
    first: dict[str, Run] = {}
    for run in runs:
        if run.name in settings:
            own = settings[run.name]
            group = ", ".join(f"{key.rpartition('.')[2]}={own.get(key, 'not set')}" for key in map(_key, by))
            groups[run.name] = group
            _check_architecture(first.setdefault(group, run), run)
    return groups


def _as_written(config: Mapping[str, object]) -> dict[str, str]:
    """Name settings as on the command line, ``model.norm``, and classes by their last name."""
    return {
        _key(key): str(value).rpartition(".")[2] if key.endswith(".class_path") else str(value)
        for key, value in flat(dict(config)).items()
    }


def _key(name: str) -> str:
    return name.replace(".init_args", "").removesuffix(".class_path")


def _find(runs: Sequence[Run], group: str, member: str) -> Run:
    for run in runs:
        if member in (run.source, run.name):
            return run
    raise SettingError(f"group {group}: {member} is none of the runs")


def _check_architecture(first: Run, second: Run) -> None:
    difference = _difference(first, second)
    if difference:
        raise SettingError(
            f"runs of different architectures cannot be averaged, only compared: {first.name} has {difference[0]}, "
            f"{second.name} has {difference[1]}"
        )


def _difference(first: Run, second: Run) -> tuple[str, str] | None:
    ours, theirs = first.architecture, second.architecture
    if len(ours) != len(theirs):
        return f"{len(ours)} layers that learn how to normalize", str(len(theirs))
    for (layer, gates), (other, other_gates) in zip(ours.items(), theirs.items(), strict=True):
        known = gates is not None and other_gates is not None
        if layer != other or (known and gates != other_gates):
            return _describe(layer, gates), _describe(other, other_gates)
    return None


def _describe(layer: str, gates: int | None) -> str:
    return f"{layer} with switch weights" if gates == 0 else f"{layer} with {gates or 'some'} gates"


def _by_settings(runs: Sequence[Run], groups: Mapping[str, str]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Find the group of each run, by its name, and write notes of those that are alone as they repeat another."""
    alike: dict[Hashable, list[Run]] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for run in runs:
        if run.name in groups:
            continue
        key: Hashable = run.name if run.config is None else settings_of(run.config)
        members, seeds = alike.setdefault(key, []), seeds_of(run.config or {})
        repeated = next((member.name for member in members if seeds_of(member.config or {}) == seeds), None)
        if repeated is not None:
            notes[run.name] = (f"not averaged with {repeated}, which has the same settings and the same seeds",)
        if repeated is not None or (members and _difference(members[0], run)):
            alike[run.name] = [run]
        else:
            members.append(run)
    found = dict(groups)
    for members in alike.values():
        others = [other for other in alike.values() if other is not members]
        name = _group_name(members, others, groups.values())
        found.update((run.name, name) for run in members)
    return found, notes


def _settings(run: Run) -> frozenset[tuple[str, str]]:
    return settings_of(run.config or {})


def _group_name(members: Sequence[Run], others: Sequence[Sequence[Run]], taken: Collection[str]) -> str:
    first = members[0]
    if len(members) == 1:
        return first.name
    folders = {run.name.rpartition("/")[0] for run in members}
    folder = folders.pop() if len(folders) == 1 else ""  # those of a sweep have one each
    rivals = [runs[0] for runs in others if len(runs) > 1 and folder in ("", runs[0].name.rpartition("/")[0])]
    special = _settings(first) - frozenset.intersection(*map(_settings, rivals)) if rivals else frozenset()
    settings = ", ".join(sorted(key.rpartition(".")[2] + "=" + value for key, value in special))
    name = f"{folder} ({settings})" if folder and rivals else folder or settings
    if not name or name in taken or (rivals and not 0 < len(special) <= MOST_SETTINGS):
        return f"{first.name} and {len(members) - 1} more"
    return name
