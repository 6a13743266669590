"""Whatever a command is told to open, it does not wait for a named pipe."""

import os
from pathlib import Path

import pytest

from mixing_analysis.command import main as analyze
from mixing_analysis.folder import renewed
from norms.errors import SettingError
from stylizing.command import main as stylize
from training.command import main as train
from training.files import replacing
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


def test_in_a_report(pipe, capsys):
    os.mkdir("report")
    os.mkfifo("report/.analysis")
    with pytest.raises(SettingError, match=r"report/\.analysis: a named pipe"), renewed(Path("report"), ["page"]):
        pass
    os.makedirs("offline-run-1-a")
    os.mkfifo("offline-run-1-a/run-a.wandb")
    assert analyze(["offline-run-1-a"]) == 2
    assert capsys.readouterr().err == "error: offline-run-1-a/run-a.wandb: a named pipe (FIFO), not a file\n"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("elsewhere", path)])
def test_in_the_place_of_a_half_written_file(make, tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    make(tmp_path / "out.txt.partial")
    with replacing(tmp_path / "out.txt") as partial:
        partial.write_text("new")
    assert [(tmp_path / name).read_text() for name in ("out.txt", "elsewhere")] == ["new", "kept"]
