"""Records of runs on disk: what another program or a user has made of them is told in one line."""

import json

import pytest

from norms.errors import SettingError
from sweeping.runs import RECORD, SweepRun, read_run, read_runs
from sweeping.search import own_runs
from sweeping.sweep_file import Choices, Sweep

SWEEP = Sweep("s", "grid", {("a",): Choices((1, 2))}, ("${args}",), "train.py", "loss", False, None)


def begun(folder, name="001-a_1", **changes):
    run = SweepRun(folder / name, {"a": 1}, ["python"])
    run.folder.mkdir()
    run.to(state="finished")
    if changes:
        record = json.loads((run.folder / RECORD).read_text())
        (run.folder / RECORD).write_text(json.dumps(record | changes))
    return run.folder


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": None},
        {"settings": [1]},
        {"command": None},
        {"command": "python"},
        {"command": [1]},
        {"state": "odd"},
        {"state": []},
        {"error": None},
        {"machine": 5},
        {"seconds": None},
        {"seconds": "9"},
        {"seconds": -1},
        {"seconds": float("inf")},
        {"ended": float("nan")},
        {"other": 1},
    ],
)
def test_a_record_that_no_sweep_has_written_is_damaged(tmp_path, changes):
    folder = begun(tmp_path, **changes)
    with pytest.raises(SettingError, match=r"sweep\.json is damaged: delete it with its folder"):
        read_run(folder)


def test_a_record_that_cannot_be_read_is_told(tmp_path):
    folder = begun(tmp_path)
    (folder / RECORD).write_text("[" * 100_000)
    with pytest.raises(SettingError, match="is damaged"):
        read_run(folder)
    (folder / RECORD).unlink()
    (folder / RECORD).mkdir()
    with pytest.raises(SettingError, match="Is a directory"):
        read_run(folder)


def test_a_run_of_another_name_is_not_called_damaged(tmp_path):
    begun(tmp_path, "old_001")
    with pytest.raises(SettingError, match="old_001 has a run of a sweep, whose name begins with a number"):
        read_runs(tmp_path)


def test_a_metric_that_is_no_number_does_not_count(tmp_path):
    run = read_run(begun(tmp_path))
    (run.folder / "version_0").mkdir()
    (run.folder / "version_0/metrics.csv").write_text("step,loss\n1,3\n2,x\n3,nan\n4,2\n")
    assert run.best(SWEEP) == 2


def test_a_run_that_is_there_twice_is_told(tmp_path):
    begun(tmp_path)
    assert len(own_runs(SWEEP, tmp_path)) == 1
    begun(tmp_path, "007-copy")
    with pytest.raises(SettingError, match=r"001-a_1 and .*007-copy are the same run of s: move one of them away"):
        own_runs(SWEEP, tmp_path)
