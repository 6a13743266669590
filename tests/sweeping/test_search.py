"""What comes next in a sweep: every point of a grid once, and draws of the distributions that were asked for."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from norms.errors import SettingError
from sweeping.runs import SweepRun
from sweeping.search import fits, next_settings
from sweeping.sweep_file import Choices, Interval, Sweep


def sweep_of(method="random", cap=400, **parameters):
    parameters = {(name,): each for name, each in parameters.items()}
    return Sweep("s", method, parameters, ("${args}",), "train.py", "loss", False, cap)


def drawn(sweep, count):
    runs = []
    while len(runs) < count:
        runs.append(SweepRun(Path(f"{len(runs)}-x"), next_settings(sweep, runs), [], "finished"))
    return [run.settings for run in runs]


def test_a_grid_goes_on_with_what_no_run_has():
    sweep = sweep_of("grid", None, a=Choices((1, 2)), b=Choices(("x", "y")))
    begun = [SweepRun(Path("1-x"), {"a": 1, "b": "y"}, []), SweepRun(Path("2-x"), {"a": 1, "b": "x"}, [])]
    assert next_settings(sweep, begun) == {"a": 2, "b": "x"}
    assert next_settings(sweep, drawn(sweep, 4) and [SweepRun(Path("1-x"), each, []) for each in sweep.grid()]) is None


@pytest.mark.parametrize(
    ("interval", "distribution"),
    [
        (Interval(-1, 3), stats.uniform(-1, 4)),
        (Interval(0.01, 10, log=True), stats.loguniform(0.01, 10)),
    ],
)
def test_random_draws_have_the_distribution(interval, distribution):
    pytest.importorskip("optuna")
    values = [settings["a"] for settings in drawn(sweep_of(a=interval), 200)]
    assert stats.kstest(values, distribution.cdf).pvalue > 0.01
    assert len(set(values)) == 200


def test_whole_and_rounded_numbers_and_choices_are_all_reached():
    pytest.importorskip("optuna")
    sweep = sweep_of(
        whole=Interval(2, 4, whole=True),
        rounded=Interval(0.1, 1, step=0.25),
        logged=Interval(1, 8, log=True, step=4),
        choice=Choices(([1, 2], "x", True)),
    )
    draws = drawn(sweep, 60)
    assert {settings["whole"] for settings in draws} == {2, 3, 4}
    # Multiples of q, as W&B rounds, but none beyond the limits.
    assert {settings["rounded"] for settings in draws} <= {0.1, 0.25, 0.5, 0.75, 1}
    assert {settings["logged"] for settings in draws} == {1, 4, 8}
    assert [choice in [settings["choice"] for settings in draws] for choice in ([1, 2], "x", True)] == [True] * 3


def test_a_draw_depends_on_its_number_alone():
    pytest.importorskip("optuna")
    sweep = sweep_of(a=Interval(0, 1), b=Interval(0, 1))
    draws = drawn(sweep, 5)
    assert drawn(sweep, 5) == draws
    assert abs(np.corrcoef([[settings[key] for settings in drawn(sweep, 60)] for key in "ab"])[0, 1]) < 0.4


def test_draws_end_at_run_cap():
    pytest.importorskip("optuna")
    sweep = sweep_of(cap=2, a=Interval(0, 1))
    assert next_settings(sweep, [SweepRun(Path(f"{n}-x"), {"a": 0.5}, []) for n in (1, 2)]) is None


def test_bayes_goes_where_values_were_good(tmp_path):
    pytest.importorskip("optuna")

    def values(maximize):
        sweep = Sweep("s", "bayes", {("a",): Interval(0, 1)}, (), "", "loss", maximize, 60)
        runs = []
        for number in range(40):
            settings = next_settings(sweep, runs)
            run = SweepRun(tmp_path / f"{number}-{maximize}", settings, [], "finished")
            folder = run.folder / "version_0"
            folder.mkdir(parents=True)
            (folder / "metrics.csv").write_text(f"step,loss\n1,{(settings['a'] - 0.7) ** 2}\n")
            runs.append(run)
        return [run.settings["a"] for run in runs[20:]]

    assert np.mean(np.abs(np.array(values(maximize=False)) - 0.7)) < 0.15  # 0.29 if they were drawn evenly
    assert np.mean(values(maximize=True)) < 0.3  # 0.5 if they were drawn evenly; the parabola is highest at 0


def test_bayes_takes_runs_without_a_value_for_what_they_are(tmp_path):
    pytest.importorskip("optuna")
    sweep = sweep_of("bayes", a=Interval(0, 1), b=Choices(("x", [1])))
    states = ["begun", "failed", "finished"]
    runs = [SweepRun(tmp_path / f"{n}-x", {"a": 0.5, "b": [1]}, [], state) for n, state in enumerate(states)]
    assert 0 <= next_settings(sweep, runs)["a"] <= 1


def test_a_missing_optuna_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(SettingError, match=r'method random needs Optuna: pip install "normlab\[sweep\]"'):
        next_settings(sweep_of(a=Interval(0, 1)), [])


def test_runs_of_what_is_no_longer_swept_are_left_out():
    sweep = sweep_of(a=Interval(0, 1), b=Choices((1, 2)))

    def belongs(**settings):
        return fits(sweep, SweepRun(Path("1-x"), settings, []))

    assert belongs(a=0.5, b=2)
    assert not belongs(a=0.5, b=3)
    assert not belongs(a=1.5, b=2)
    assert not belongs(b=2)
    assert not belongs(a=math.nan, b=2)
