"""What is read of the runs of an experiment."""

import math

import pytest
from made_sweeps import write_grid, write_run, write_sweep

from experiments.reading import Runs
from norms.errors import SettingError

STOP = {"step": 20, "sign": "not_finite", "action": "stop", "reason": "train/loss (nan) is not finite"}


def accuracy(settings):
    return 0.5 + 0.3 * (settings["model.norm"] == "batch") + 0.01 * settings["seed"]


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path)[1]


def settings_of(norm, seed):
    return {"model.norm": norm, "seed": seed}


def test_a_row_per_run_in_the_order_of_the_grid_whichever_ended_first(sweep, tmp_path):
    backwards = list(sweep.grid())[::-1]
    for number, settings in enumerate(backwards, 1):
        write_run(tmp_path, sweep, number, settings, [{"step": 1, "val/accuracy": accuracy(settings)}])
    runs = Runs([sweep], tmp_path)
    assert list(runs.frame.columns) == ["norm", "seed", "sweep", "folder", "state", "seconds"]
    assert [*zip(runs.frame["norm"], runs.frame["seed"], strict=True)] == [
        (norm, seed) for norm in ("none", "batch") for seed in (0, 1, 2)
    ]
    assert (runs.missing, runs.planned) == (0, 6)
    last = runs.last("val/accuracy")
    assert last["val/accuracy"].tolist() == pytest.approx([0.5, 0.51, 0.52, 0.8, 0.81, 0.82])
    assert next((row.norm, run.folder.name) for row, run in runs.each()) == ("none", "version_0")


def test_runs_that_are_not_of_the_grid_or_still_trained_are_missing(sweep, tmp_path):
    write_run(tmp_path, sweep, 1, settings_of("none", 0), [{"step": 1}])
    write_run(tmp_path, sweep, 2, settings_of("none", 1), [{"step": 1}], state="begun")
    write_run(tmp_path, sweep, 3, settings_of("layer", 0), [{"step": 1}])
    runs = Runs([sweep], tmp_path)
    assert len(runs.frame) == 1
    assert runs.missing == 5


@pytest.mark.parametrize(
    ("state", "events", "loss", "expected"),
    [
        ("finished", [], 0.1, "finished"),
        ("finished", [{**STOP, "action": "warn"}], 0.1, "finished"),
        ("failed", [], 0.1, "failed"),
        ("failed", [STOP], 0.1, "diverged"),
        ("finished", [STOP], 0.1, "diverged"),
        ("finished", [], "nan", "diverged"),
        ("failed", [], "inf", "diverged"),
    ],
)
def test_how_a_run_has_ended(sweep, tmp_path, state, events, loss, expected):
    rows = [{"step": 1, "train/loss": "nan", "val/accuracy": 0.5}, {"step": 9, "train/loss": loss, "val/accuracy": 0.7}]
    write_run(tmp_path, sweep, 1, settings_of("none", 0), rows, state=state, events=events)
    runs = Runs([sweep], tmp_path)
    assert runs.frame["state"].tolist() == [expected]
    (value,) = runs.last("val/accuracy", diverged=0.1)["val/accuracy"]
    assert value == pytest.approx({"finished": 0.7, "diverged": 0.1, "failed": math.nan}[expected], nan_ok=True)
    assert runs.events()["sign"].tolist() == [event["sign"] for event in events]


def test_what_is_damaged_beside_the_metrics_of_a_run_is_passed_over(sweep, tmp_path):
    rows = [{"step": 1, "train/loss": "x", "val/accuracy": 0.5}, {"step": 2, "train/loss": 0.1, "val/accuracy": "x"}]
    version = write_run(tmp_path, sweep, 1, settings_of("none", 0), rows, events=[STOP])
    (version / "events.jsonl").write_text("[" * 100_000 + "\n")
    runs = Runs([sweep], tmp_path)
    assert runs.frame["state"].tolist() == ["finished"]
    assert runs.last("val/accuracy")["val/accuracy"].tolist() == [0.5]
    assert runs.events().empty


def test_the_same_run_twice_is_told(sweep, tmp_path):
    for number in (1, 9):
        write_run(tmp_path, sweep, number, settings_of("none", 0), [{"step": 1}])
    with pytest.raises(SettingError, match=r"001-made and .*009-made are the same run of made: move one of them away"):
        _ = Runs([sweep], tmp_path).frame


def test_runs_that_a_removed_parameter_told_apart_are_told(sweep, tmp_path):
    for number, norm in enumerate(("none", "batch"), 1):
        write_run(tmp_path, sweep, number, settings_of(norm, 0), [{"step": 1}])
    _, smaller = write_sweep(tmp_path / "smaller", parameters={"seed": {"values": [0, 1, 2]}})
    with pytest.raises(SettingError, match="or give the sweep the parameters back that told them apart"):
        _ = Runs([smaller], tmp_path).frame


def test_a_curve_has_a_row_per_finite_value(sweep, tmp_path):
    rows = [
        {"step": 1, "a": 1.5},
        {"step": 2, "b": 2},
        {"step": 3, "a": "nan"},
        {"step": 4, "a": "inf"},
        {"step": 5, "a": 2.5},
    ]
    write_run(tmp_path, sweep, 1, settings_of("none", 0), rows)
    write_run(tmp_path, sweep, 2, settings_of("batch", 0), [{"step": 7, "a": 3}])
    write_run(tmp_path, sweep, 3, settings_of("batch", 1), [{"step": 7, "b": 3}])
    curves = Runs([sweep], tmp_path).curves("a")
    assert curves[["norm", "seed", "step", "value"]].to_numpy().tolist() == [
        ["none", 0, 1, 1.5],
        ["none", 0, 5, 2.5],
        ["batch", 0, 7, 3.0],
    ]
    with pytest.raises(SettingError, match=r"no run has the metric 'c' \(known: a, b\)"):
        Runs([sweep], tmp_path).curves("c")


def test_the_last_tenth_counts_and_no_more(sweep, tmp_path):
    rows = [{"step": step, "a": step} for step in range(101)]
    write_run(tmp_path, sweep, 1, settings_of("none", 0), rows)
    runs = Runs([sweep], tmp_path)
    assert runs.last("a")["a"].tolist() == [sum(range(91, 101)) / 10]
    assert runs.last("a", share=0.001)["a"].tolist() == [100]
    assert runs.last("a", share=0.0)["a"].tolist() == [100], "the last value always counts"


def test_names_of_settings_are_as_short_as_tells_them_apart(tmp_path):
    values = {"values": [1, 2]}
    parameters = {
        "seed": values,
        "model.optimizer.lr": values,
        "model.lr": values,
        "trainer": {"parameters": {"max_steps": values}},
        "model.state": values,
        "model.widths": {"values": [[4, 8]]},
    }
    _, sweep = write_sweep(tmp_path, parameters=parameters)
    settings = next(sweep.grid())
    write_run(tmp_path, sweep, 1, settings, [{"step": 1}])
    frame = Runs([sweep], tmp_path).frame
    own = ["seed", "optimizer.lr", "model.lr", "max_steps", "model.state", "widths"]
    assert list(frame.columns)[:6] == own
    assert frame[own].iloc[0].tolist() == [1, 1, 1, 1, 1, "[4, 8]"]


def test_several_sweeps_make_one_table(tmp_path):
    _, first = write_sweep(tmp_path)
    _, second = write_sweep(tmp_path, name="more", parameters={"model.lr": {"values": [0.1]}, "seed": {"values": [0]}})
    write_grid(tmp_path, first, accuracy)
    write_run(tmp_path, second, 1, {"model.lr": 0.1, "seed": 0}, [{"step": 1, "val/accuracy": 0.3}])
    runs = Runs([first, second], tmp_path)
    assert runs.frame["sweep"].tolist() == ["made"] * 6 + ["more"]
    assert runs.frame["lr"].isna().tolist() == [True] * 6 + [False]
    assert runs.planned == 7
