"""One training per run folder."""

import multiprocessing
import os
import re
import signal
import threading

import pytest
from processes import CONTEXT

from norms.errors import SettingError
from training.lock import locked
from training.run import Run


def hold(folder, begun, forks):
    with locked(folder):
        if forks:
            multiprocessing.get_context("fork").Process(target=signal.pause, daemon=True).start()
        begun.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path, request):
    begun = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(tmp_path, begun, getattr(request, "param", False)))
    process.start()
    assert begun.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_training_is_told_who_holds_it(tmp_path, holder):
    message = (
        f"{tmp_path} is being trained by another process, {holder.pid}: wait for its end, or leave out --ckpt_path"
    )
    for _ in range(2):
        with pytest.raises(SettingError, match=re.escape(message)), locked(tmp_path):
            pass


@pytest.mark.parametrize("way", [".", "link", "../{}"])
def test_trainings_of_one_process_are_kept_apart(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    (tmp_path.parent / f"{tmp_path.name}-link").symlink_to(tmp_path)
    other = {"link": tmp_path.parent / f"{tmp_path.name}-link"}.get(way, tmp_path / way.format(tmp_path.name))
    refused = []

    def train():
        with pytest.raises(SettingError) as error, locked(other):
            pass
        refused.append(str(error.value))

    with locked(tmp_path):
        for _ in range(2):
            thread = threading.Thread(target=train)
            thread.start()
            thread.join()
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    line = "is being trained by this process: wait for its end, or leave out --ckpt_path to begin another run"
    assert refused == [f"{other} {line}"] * 2
    with locked(other):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("holder", [False, True], indirect=True, ids=["alone", "with workers that live on"])
def test_dies_with_its_process(tmp_path, holder):
    holder.kill()
    holder.join()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_folders_that_go_or_cannot_be_written(tmp_path):
    with (
        pytest.raises(SettingError, match=r"cannot write into the run folder .*: No such file"),
        locked(tmp_path / "no"),
    ):
        pass
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        (tmp_path / "run/.lock").unlink()
        (tmp_path / "run").rmdir()
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("training.lock.fcntl.lockf", lambda *_: (_ for _ in ()).throw(OSError(37, "No locks")))
    with locked(tmp_path):
        pass


def test_a_new_run_removes_what_a_process_that_was_killed_during_its_start_has_left(tmp_path):
    for number in range(4):
        (tmp_path / f"version_{number}").mkdir()
    for number in (0, 2, 3):
        (tmp_path / f"version_{number}/.lock").write_text("1\n")
    (tmp_path / "version_2/config.yaml").touch()
    assert Run.new(tmp_path).version == 3
    # One that is just being started may have no lock yet, and one with a file holds a run.
    assert {path.name for path in tmp_path.iterdir()} == {"version_1", "version_2", "version_3"}
    with locked(tmp_path / "version_3"):
        assert Run.new(tmp_path).version == 4


def test_a_new_run_leaves_the_start_of_another_process_alone(tmp_path, tmp_path_factory, holder):
    folder = tmp_path_factory.mktemp("runs") / "version_0"
    folder.symlink_to(tmp_path)
    assert Run.new(folder.parent).version == 1
    assert [path.name for path in folder.iterdir()] == [".lock"]
