"""Which settings the next run of a sweep has."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from norms.errors import SettingError
from sweeping.runs import SweepRun, read_runs
from sweeping.sweep_file import Choices, Interval, Sweep, nested, value_at


def next_settings(sweep: Sweep, runs: Sequence[SweepRun]) -> dict[str, Any] | None:
    """Return the settings of the next run.

    The next of a grid is the first that no run has. For ``random`` and ``bayes``, Optuna draws the n-th run with n as
    its seed, so that it does not matter which process does; ``bayes`` is its tree-structured Parzen estimator
    (Bergstra et al., NeurIPS 2011), which keeps away from runs that are not finished, as Optuna advises where several
    run at once.

    Args:
        sweep: The sweep.
        runs: Those that have begun.

    Returns:
        The settings as W&B's agent has them, or None if all runs have begun.

    Raises:
        SettingError: If Optuna is needed and not installed.
    """
    if len(runs) >= sweep.runs:
        return None
    if sweep.method == "grid":
        begun = [run.settings for run in runs]
        return next((settings for settings in sweep.grid() if settings not in begun), None)
    return _drawn(sweep, runs)


def _drawn(sweep: Sweep, runs: Sequence[SweepRun]) -> dict[str, Any]:
    try:
        import optuna
    except ImportError as error:
        raise SettingError(f'method {sweep.method} needs Optuna: pip install "normlab[sweep]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number = len(runs)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=number)
    if sweep.method == "bayes":
        sampler = optuna.samplers.TPESampler(seed=number, constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction="maximize" if sweep.maximize else "minimize")
    distributions = {".".join(path): _distribution(each) for path, each in sweep.parameters.items()}
    for run in runs if sweep.method == "bayes" else ():
        study.add_trial(_trial(sweep, run, distributions))
    drawn = study.ask(distributions).params
    return nested({path: _value(each, drawn[".".join(path)]) for path, each in sweep.parameters.items()})


def _distribution(parameter: Choices | Interval) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choices):
        return CategoricalDistribution(range(len(parameter.values)))  # since Optuna takes no lists
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _value(parameter: Choices | Interval, drawn: Any) -> Any:
    if isinstance(parameter, Choices):
        return parameter.values[drawn]
    if parameter.step is None:
        return drawn
    value = round(drawn / parameter.step) * parameter.step
    return min(max(value, parameter.low), parameter.high)


def _trial(sweep: Sweep, run: SweepRun, distributions: Any) -> Any:
    from optuna.trial import TrialState, create_trial

    params = {}
    for path, parameter in sweep.parameters.items():
        value = value_at(run.settings, path)
        params[".".join(path)] = parameter.values.index(value) if isinstance(parameter, Choices) else value
    value = run.best(sweep) if run.state == "finished" else None
    state = (
        TrialState.COMPLETE if value is not None else TrialState.FAIL if run.state != "begun" else TrialState.RUNNING
    )
    return create_trial(params=params, distributions=distributions, value=value, state=state)


def fits(sweep: Sweep, run: SweepRun) -> bool:
    """Return whether a run is one of this sweep, whose file may have been changed since."""
    return all(_holds(parameter, value_at(run.settings, path)) for path, parameter in sweep.parameters.items())


def own_runs(sweep: Sweep, folder: Path) -> list[SweepRun]:
    """List the runs in the folder of a sweep that belong to it as its file is now.

    Args:
        sweep: The sweep.
        folder: Where its runs are.

    Raises:
        SettingError: If two of them are of the same point of its grid, of which one would count twice.
    """
    runs = [run for run in read_runs(folder) if fits(sweep, run)]
    found: list[tuple[list[Any], SweepRun]] = []
    for run in runs if sweep.method == "grid" else ():
        values = [value_at(run.settings, path) for path in sweep.parameters]
        for others, other in found:
            if values == others:
                raise SettingError(
                    f"{other.folder} and {run.folder} are the same run of {sweep.name}: move one of them away, or give "
                    "the sweep the parameters back that told them apart"
                )
        found.append((values, run))
    return runs


def _holds(parameter: Choices | Interval, value: Any) -> bool:
    if isinstance(parameter, Choices):
        return value in parameter.values
    return isinstance(value, int | float) and parameter.low <= value <= parameter.high and math.isfinite(value)
