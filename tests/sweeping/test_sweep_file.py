"""The file of a sweep: what it means, and what is said of a wrong one."""

import math
from pathlib import Path

import pytest
import yaml

from norms.errors import SettingError
from sweeping.sweep_file import Choices, Interval, nested, read_sweep, value_at

GRID = {"method": "grid", "parameters": {"a": {"values": [1, 2]}}}


def read(content, folder, name="some_sweep.yaml"):
    file = folder / name
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return read_sweep(file)


def parameter(spec, folder, method="random"):
    sweep = read({"method": method, "run_cap": 5, "parameters": {"a": spec}}, folder)
    return sweep.parameters["a",]


def test_a_grid_has_all_combinations_the_last_parameter_changing_first(tmp_path):
    specs = {"a": {"values": [1, 2]}, "b": {"value": "x"}, "c": {"parameters": {"d": {"values": [True, [3, 4]]}}}}
    sweep = read({"method": "grid", "parameters": specs}, tmp_path)
    assert [*sweep.grid()] == [
        {"a": 1, "b": "x", "c": {"d": True}},
        {"a": 1, "b": "x", "c": {"d": [3, 4]}},
        {"a": 2, "b": "x", "c": {"d": True}},
        {"a": 2, "b": "x", "c": {"d": [3, 4]}},
    ]
    assert sweep.runs == 4


def test_what_is_not_said_is_as_with_wandb(tmp_path):
    sweep = read(GRID, tmp_path)
    assert (sweep.name, sweep.program, sweep.metric, sweep.run_cap) == ("some_sweep", "train.py", None, None)
    assert sweep.command == ("${env}", "${interpreter}", "${program}", "${args}")
    assert read({**GRID, "metric": {"name": "val/loss"}}, tmp_path).maximize is False
    assert read({**GRID, "metric": {"name": "fid", "goal": "maximize"}}, tmp_path).maximize is True


def test_run_cap_limits_a_grid_too(tmp_path):
    assert read({**GRID, "run_cap": 1}, tmp_path).runs == 1
    assert read({**GRID, "run_cap": 9}, tmp_path).runs == 2


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"min": 0, "max": 4}, Interval(0, 4, whole=True)),
        ({"min": 0.0, "max": 4}, Interval(0, 4)),
        ({"min": 0, "max": 4, "distribution": "uniform"}, Interval(0, 4)),
        ({"min": 2, "max": 9, "distribution": "int_uniform"}, Interval(2, 9, whole=True)),
        ({"min": 1, "max": 9, "distribution": "q_uniform", "q": 0.5}, Interval(1, 9, step=0.5)),
        ({"min": 1, "max": 9, "distribution": "q_uniform"}, Interval(1, 9, step=1)),
        ({"min": 0.1, "max": 9, "distribution": "log_uniform_values"}, Interval(0.1, 9, log=True)),
        ({"min": 0, "max": 1, "distribution": "log_uniform"}, Interval(1, math.e, log=True)),
        ({"min": 1, "max": 9, "distribution": "q_log_uniform_values", "q": 2}, Interval(1, 9, log=True, step=2)),
        ({"values": [1, "x"], "distribution": "categorical"}, Choices((1, "x"))),
        ({"value": 1.5, "distribution": "constant"}, Choices((1.5,))),
    ],
)
def test_parameters_are_read_as_wandb_defines_them(spec, expected, tmp_path):
    assert parameter(spec, tmp_path) == expected


def test_whole_numbers_are_a_grid_as_well(tmp_path):
    assert parameter({"min": 2, "max": 4}, tmp_path, "grid") == Choices((2, 3, 4))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"parameters": {"a": {"values": [1, 2, 1.0]}}}, "a: a grid needs different values, got 1.0 twice"),
        ({"metod": "grid"}, "unknown key 'metod', did you mean 'method'"),
        ({"method": "gird"}, "unknown method 'gird', did you mean 'grid'"),
        ({"method": "random"}, "method random has no end: say by run_cap"),
        ({"method": "bayes", "run_cap": 3}, "method bayes needs metric"),
        ({"metric": "val/loss"}, "metric must have a name"),
        ({"metric": {"name": "a", "gaol": "minimize"}}, "unknown key of metric 'gaol', did you mean 'goal'"),
        ({"metric": {"name": "a", "goal": "min"}}, "unknown goal of metric 'min'"),
        ({"run_cap": 0}, "run_cap must be a whole number of at least 1, got 0"),
        ({"run_cap": True}, "run_cap must be a whole number"),
        ({"name": "a/b"}, "name: 'a/b' cannot be the name of a folder"),
        ({"name": 3}, "name must be a text, got 3"),
        ({"program": ["train.py"]}, "program must be a text"),
        ({"command": "train.py"}, "command must be a list of words"),
        ({"parameters": {}}, "parameters must name at least one parameter"),
        ({"parameters": {"a": {"parameters": {}}}}, "a.parameters must name at least one parameter"),
        ({"parameters": {"a": 3}}, "a must be such as {values: .1, 2.}, got 3"),
        ({"parameters": {"a": {"value": 1, "values": [1]}}}, "a: expected one of value, values, and min with max"),
        ({"parameters": {"a": {"parameters": {"b": {"max": 1}}}}}, "a.b: expected one of value, values"),
        ({"parameters": {"a": {"values": [1], "vlaue": 3}}}, "a: unknown key 'vlaue'"),
        ({"parameters": {"a": {"values": 3}}}, "a: values must be a list, got 3"),
        ({"parameters": {"a": {"values": []}}}, "a: values must be a list"),
        ({"parameters": {"a": {"values": [1, None]}}}, "a: W&B's agent writes null as None"),
        ({"parameters": {"a": {"values": [1], "distribution": "uniform"}}}, "values has the distribution categorical"),
        ({"parameters": {"a": {"min": 0.0, "max": 1.0}}}, "a: a grid needs values"),
        ({"parameters": {"a": {"min": 0.0}}}, "a: max must be a number, got None"),
        ({"parameters": {"a": {"min": "1e-3", "max": 1}}}, "min must be a number, got '1e-3', .* write 1.0e-3"),
        ({"parameters": {"a": {"min": 3, "max": 2}}}, "a: max must be above 3, got 2"),
        ({"parameters": {"a": {"min": 0, "max": 1, "distribution": "normal"}}}, "unknown distribution 'normal'"),
        ({"parameters": {"a": {"min": 0, "max": 1, "q": 1}}}, "q goes with distribution: q_uniform"),
        ({"parameters": {"a": {"min": 0, "max": 1, "q": 0, "distribution": "q_uniform"}}}, "q must be above 0"),
        ({"parameters": {"a": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}}, "min must be above 0"),
        ({"parameters": {"a": {"min": 0, "max": 1.5, "distribution": "int_uniform"}}}, "must be whole numbers"),
    ],
)
def test_mistakes_are_told_in_one_line_with_the_file(change, told, tmp_path):
    with pytest.raises(SettingError, match=told) as raised:
        read({**GRID, **change}, tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'some_sweep.yaml'}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1", "a sweep has method and parameters; a configuration is for train.py fit --config"),
        ("method: grid\nmethod: bayes", "the key 'method' is there twice"),
        ("method: [", "while parsing"),
        ("method: grid\nparameters: {a: {values: [2001-01-01]}}", "values must be texts, numbers"),
    ],
)
def test_other_files_are_refused(text, told, tmp_path):
    with pytest.raises(SettingError, match=told):
        read(text, tmp_path)


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(SettingError, match=r"none.yaml: No such file"):
        read_sweep(Path("none.yaml"))


def test_values_are_found_where_nesting_puts_them():
    values = {("a",): 1, ("b", "c"): 2, ("b", "d", "e"): 3}
    settings = nested(values)
    assert settings == {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    assert {path: value_at(settings, path) for path in values} == values
    assert value_at(settings, ("a", "b")) is None
