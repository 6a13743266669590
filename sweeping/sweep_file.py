"""The YAML file of a sweep, as Weights & Biases defines it: what is swept, how, and by which command."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from data.files import check_file
from norms.errors import SettingError, check_range, unknown
from training.yaml_text import check_yaml

METHODS = ("grid", "random", "bayes")

KEYS = (
    "name", "description", "project", "entity", "program", "command", "method", "metric", "parameters", "run_cap",
    "early_terminate",
)  # fmt: skip
"""What W&B knows, without what is for its own servers."""

COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""What W&B's agent runs if the file has no command."""

DISTRIBUTIONS = ("uniform", "q_uniform", "int_uniform", "log_uniform", "log_uniform_values", "q_log_uniform_values")
"""Those of W&B that are drawn here; without a name it is the first, or the third between two whole numbers."""


@dataclass(frozen=True)
class Choices:
    """Hold the values that a parameter can have."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Interval:
    """Hold the range of a parameter that is a number.

    Args:
        low: The smallest value.
        high: The largest.
        log: Whether its logarithm is what is spread evenly.
        whole: Whether it is a whole number.
        step: What it is rounded to a multiple of; None for any value.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Sweep:
    """Hold a sweep.

    Args:
        name: What its runs are called together, a folder.
        method: One of ``METHODS``.
        parameters: What each parameter can be; the path of its name has several parts where it is nested.
        command: The words of the command, with W&B's macros.
        program: What ``${program}`` stands for.
        metric: What ``bayes`` optimizes, and what the runs are listed by.
        maximize: Whether more of it is better.
        run_cap: How many runs there are at most; None for all of a grid.
        ends_early: Whether W&B would end runs early that do badly, which only it does.
    """

    name: str
    method: str
    parameters: Mapping[tuple[str, ...], Choices | Interval]
    command: tuple[str, ...]
    program: str
    metric: str | None
    maximize: bool
    run_cap: int | None
    ends_early: bool = False

    @property
    def runs(self) -> int:
        """The number of runs."""
        sizes = (len(each.values) for each in self.parameters.values() if isinstance(each, Choices))
        grid = math.prod(sizes) if self.method == "grid" else math.inf
        return int(min(grid, self.run_cap or math.inf))

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield the settings of each point of the grid; the last parameter changes first."""
        choices = [each.values for each in self.parameters.values() if isinstance(each, Choices)]
        for values in product(*choices):
            yield nested(dict(zip(self.parameters, values, strict=True)))


def nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return settings as W&B's agent has them, by the first part of each path and within that by the next.

    Args:
        values: The value of each parameter.
    """
    settings: dict[str, Any] = {}
    for (*outer, last), value in values.items():
        place = settings
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return settings


def value_at(settings: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return the value of a parameter; None if it is not there."""
    value: Any = settings
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def read_sweep(file: Path) -> Sweep:
    """Read the file of a sweep.

    Raises:
        SettingError: If it cannot be read, W&B would refuse it, or it asks for what only W&B can do.
    """
    content = _content(file)
    try:
        return _sweep(content, file.stem)
    except SettingError as error:
        raise SettingError(f"{file}: {error}") from error


def _content(file: Path) -> Any:
    check_file(file)
    try:
        text = file.read_text()
        check_yaml(text)
        return yaml.safe_load(text)
    except OSError as error:
        raise SettingError(f"{file}: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise SettingError(f"{file}: {error}") from error


def _sweep(content: Any, stem: str) -> Sweep:
    if not isinstance(content, dict) or "parameters" not in content:
        raise SettingError("a sweep has method and parameters; a configuration is for train.py fit --config")
    for key in content:
        if key not in KEYS:
            raise unknown("key", key, KEYS)
    method = content.get("method")
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    name = _text("name", content.get("name", stem))
    if not name.strip() or name in (".", "..") or "/" in name:
        raise SettingError(f"name: {name!r} cannot be the name of a folder")
    metric, maximize = _metric(content.get("metric"))
    if method == "bayes" and metric is None:
        raise SettingError("method bayes needs metric, such as metric: {name: val/loss, goal: minimize}")
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise SettingError(f"run_cap must be a whole number of at least 1, got {cap!r}")
    if cap is None and method != "grid":
        raise SettingError(f"method {method} has no end: say by run_cap how many runs there are")
    command = content.get("command", COMMAND)
    if not isinstance(command, (list, tuple)) or not command:
        raise SettingError("command must be a list of words, such as [${env}, ${interpreter}, ${program}, ${args}]")
    return Sweep(
        name=name,
        method=method,
        parameters=dict(_parameters(content["parameters"], (), method)),
        command=tuple(str(word) for word in command),
        program=_text("program", content.get("program", "train.py")),
        metric=metric,
        maximize=maximize,
        run_cap=cap,
        ends_early="early_terminate" in content,
    )


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingError(f"{key} must be a text, got {value!r}")
    return value


def _metric(metric: Any) -> tuple[str | None, bool]:
    if metric is None:
        return None, False
    if not isinstance(metric, dict) or "name" not in metric:
        raise SettingError("metric must have a name, such as metric: {name: val/loss, goal: minimize}")
    for key in metric:
        if key not in ("name", "goal"):
            raise unknown("key of metric", key, ("name", "goal"))
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise unknown("goal of metric", goal, ("minimize", "maximize"))
    return _text("name of metric", metric["name"]), goal == "maximize"


def _parameters(
    content: Any, outer: tuple[str, ...], method: str
) -> Iterator[tuple[tuple[str, ...], Choices | Interval]]:
    if not isinstance(content, dict) or not content:
        raise SettingError(f"{'.'.join((*outer, 'parameters'))} must name at least one parameter")
    for name, spec in content.items():
        path = (*outer, str(name))
        dotted = ".".join(path)
        if not isinstance(spec, dict):
            raise SettingError(f"{dotted} must be such as {{values: [1, 2]}}, got {spec!r}")
        if "parameters" in spec:
            yield from _parameters(spec["parameters"], path, method)
            continue
        try:
            parameter = _parameter(spec)
        except SettingError as error:
            raise SettingError(f"{dotted}: {error}") from error
        if method == "grid" and isinstance(parameter, Interval):
            if not parameter.whole:
                raise SettingError(f"{dotted}: a grid needs values, such as {{values: [1, 2]}}")
            parameter = Choices(tuple(range(int(parameter.low), int(parameter.high) + 1)))
        if method == "grid" and (twice := _first_repeated(parameter)):
            raise SettingError(f"{dotted}: a grid needs different values, got {twice[0]!r} twice")
        yield path, parameter


def _first_repeated(parameter: Choices | Interval) -> list[Any]:
    """Return, as a list, the first value that equals one before it, as 1.0 does 1; an empty list if there is none."""
    values = parameter.values if isinstance(parameter, Choices) else ()
    return [value for place, value in enumerate(values) if value in values[:place]][:1]


def _parameter(spec: Mapping[str, Any]) -> Choices | Interval:
    kinds = [key for key in ("value", "values", "min") if key in spec]
    if len(kinds) != 1:
        raise SettingError("expected one of value, values, and min with max")
    known = ("distribution", "min", "max", "q") if kinds == ["min"] else ("distribution", *kinds)
    for key in spec:
        if key not in known:
            raise unknown("key", key, known)
    if kinds == ["min"]:
        return _interval(spec)
    values = [spec["value"]] if kinds == ["value"] else spec["values"]
    implied = "constant" if kinds == ["value"] else "categorical"
    if spec.get("distribution", implied) != implied:
        raise SettingError(f"{kinds[0]} has the distribution {implied}, not {spec['distribution']}")
    if not isinstance(values, list) or not values:
        raise SettingError(f"values must be a list, got {values!r}")
    if None in values:
        raise SettingError("W&B's agent writes null as None, which train.py takes for a text: write 'null', in quotes")
    with suppress(TypeError):
        if json.loads(json.dumps(values)) == values:
            return Choices(tuple(values))
    raise SettingError(f"values must be texts, numbers, true, false, or lists and mappings of them, got {values!r}")


def _interval(spec: Mapping[str, Any]) -> Interval:
    bounds = {key: spec.get(key) for key in ("min", "max", "q") if key in spec or key == "max"}
    for key, value in bounds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            hint = ", which YAML takes for a text: write 1.0e-3" if isinstance(value, str) and "e" in value else ""
            raise SettingError(f"{key} must be a number, got {value!r}{hint}")
    low, high, step = spec["min"], spec["max"], spec.get("q")
    whole = isinstance(low, int) and isinstance(high, int)
    distribution = spec.get("distribution", "int_uniform" if whole else "uniform")
    if distribution not in DISTRIBUTIONS:
        raise unknown("distribution", distribution, DISTRIBUTIONS)
    if step is not None and not distribution.startswith("q_"):
        raise SettingError(f"q goes with distribution: q_uniform or q_log_uniform_values, not with {distribution}")
    if distribution.startswith("q_"):
        step = 1 if step is None else step
        check_range("q", step, above=0)
    if distribution == "int_uniform" and not whole:
        raise SettingError(f"min and max of int_uniform must be whole numbers, got {low} and {high}")
    if distribution == "log_uniform":  # whose limits are logarithms
        low, high = math.exp(low), math.exp(high)
    log = "log" in distribution
    if log:
        check_range("min", low, above=0)
    check_range("max", high, above=low)
    return Interval(low, high, log, distribution == "int_uniform", step)
