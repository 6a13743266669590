"""Progress in a log file and in a terminal."""

import re

from stand_ins import TinyModel, fit

from training.callbacks import progress
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.progress import RunProgress


def test_a_log_file_gets_lines_with_losses(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    fit(tmp_path, [RunProgress()], TinyModel(seconds=0.01), max_steps=4)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"step 1/4  loss [\d.]+", lines[0])
    assert re.fullmatch(r"step 2/4  loss [\d.]+  0\.\d+ s/step  0:00:0\d left", lines[1])
    assert re.fullmatch(r"step 4/4  loss [\d.]+  0\.\d+ s/step", lines[3])


def test_a_log_file_is_not_flooded(tmp_path, capsys):
    fit(tmp_path, [RunProgress()], max_steps=30)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1/30", "30/30"]


def test_a_resumed_run_goes_on_where_it_was(tmp_path, capsys):
    fit(tmp_path, [RunCheckpoint(4)], max_steps=4)
    fit(tmp_path, [RunProgress()], ckpt_path=tmp_path / "checkpoints/last.ckpt", max_steps=9)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["5/9", "9/9"]


def test_a_terminal_gets_a_bar_of_the_whole_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    fit(tmp_path, [RunProgress()], max_steps=7)
    captured = capsys.readouterr()
    assert "7/7" in captured.err
    assert " left loss 0." in captured.err
    assert captured.out == ""


def test_can_be_turned_off(tmp_path, capsys):
    bar = RunProgress()
    bar.disable()
    fit(tmp_path, [bar], max_steps=2)
    assert capsys.readouterr().out == ""


def test_accumulated_gradients_are_one_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    fit(tmp_path, [RunProgress()], max_steps=3, accumulate_grad_batches=2)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1/3", "2/3", "3/3"]
