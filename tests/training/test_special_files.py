"""Whatever a command is told to open, it does not wait for a named pipe."""

import os

import pytest

from norms.errors import SettingError
from stylizing.command import main as stylize
from training.command import main as train
from training.run import Run

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def pipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    return str(tmp_path / "pipe.yaml")


@pytest.mark.parametrize(
    "options",
    [
        ["--config", "{}"],
        ["--config={}"],
        ["--config", "gan", "--model", "{}"],
        ["--config", "gan", "--trainer={}"],
        ["--config", "style_transfer", "--model.style", "{}"],
        ["--config", "style_transfer", "--model.weights={}"],
        ["--config", "gan", "--ckpt_path", "{}"],
    ],
)
def test_on_the_command_line_of_training(pipe, capsys, options):
    assert train(["fit", *(option.format(pipe) for option in options)]) == 2
    assert capsys.readouterr().err == f"error: {pipe}: a named pipe (FIFO), not a file\n"


def test_in_the_environment(pipe, capsys, monkeypatch):
    monkeypatch.setenv("PL_FIT__CONFIG", pipe)
    assert train(["fit"]) == 2
    assert capsys.readouterr().err == f"error: {pipe}: a named pipe (FIFO), not a file\n"


def test_in_a_configuration(pipe, capsys, tmp_path):
    os.mkfifo("style.png")
    (tmp_path / "a.yaml").write_text("model: {init_args: {style: style.png}}")
    assert train(["fit", "--config", "style_transfer", "--config", "a.yaml"]) == 2
    assert "style picture style.png: a named pipe (FIFO), not a file" in capsys.readouterr().err


def test_names_that_are_no_text_are_refused(pipe, capsys):
    name = os.fsdecode(b"caf\xe9")
    assert train(["fit", "--config", "gan", "--data", "data.ImageFolder", "--data.folder", name]) == 2
    assert capsys.readouterr().err == "error: b'caf\\xe9' is no UTF-8, as a configuration must be: rename it\n"


def test_in_a_run(pipe, capsys, tmp_path):
    run = Run(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    os.mkfifo(run.checkpoints / "last.ckpt")
    os.mkfifo(run.config)
    with pytest.raises(SettingError, match="a named pipe"):
        _ = run.state
    assert run.read_config() is None
    assert stylize([pipe, pipe, "-o", "out"]) == 2
    assert capsys.readouterr().err == f"error: no such run folder or checkpoint: {pipe}\n"
