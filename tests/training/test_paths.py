import re
from pathlib import Path

import pytest

from mixing_analysis import command as analyze
from norms.errors import SettingError
from sampling import command as sample
from stylizing import command as stylize
from training import export_features
from training.paths import local_path


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("runs", "runs"),
        ("/a/b c", "/a/b c"),
        ("~/runs", f"{Path.home()}/runs"),
        ("~", str(Path.home())),
        ("a/~/b", "a/~/b"),
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("C:/runs", "C:/runs"),
        ("a:b", "a:b"),
        ("", ""),
    ],
)
def test_are_read_by_one_rule(path, read):
    assert local_path("runs_dir", path) == read


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a::b", "runs_dir: 'a::b' has '::' in it"),
        ("file:///a::b", "runs_dir: '/a::b' has '::' in it"),
        ("s3://bucket/runs", "runs_dir: s3://bucket/runs is an address by s3; give the path of a local folder"),
        ("file://host/runs", "runs_dir: file://host/runs is on another machine"),
        ("~nobody-of-this-name/runs", "runs_dir: there is no home folder ~nobody-of-this-name"),
    ],
)
def test_that_cannot_be_read_are_refused(path, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        local_path("runs_dir", path)


@pytest.mark.parametrize(
    ("command", "arguments", "names"),
    [
        (stylize, ["~/run", "~/a.jpg", "--output=~/out"], ["run", "output"]),
        (sample, ["~/run", "--output=~/a.png", "--each=~/each"], ["run", "output", "each"]),
        (analyze, ["~/run", "--output=~/report"], ["output"]),
        (export_features, ["~/run", "~/net.safetensors"], ["run", "out"]),
    ],
)
def test_of_commands_begin_at_home(command, arguments, names):
    options = command._parser().parse_args(arguments)
    assert {getattr(options, name).parent for name in names} == {Path.home()}
    assert [path.parent for path in getattr(options, "inputs", [])] == [Path.home()] * (command is stylize)


def test_runs_to_analyze_begin_at_home():
    assert analyze._source("~/runs/gan/") == f"{Path.home()}/runs/gan"
    assert analyze._source("wandb:a/b/c") == "wandb:a/b/c"


@pytest.mark.parametrize("command", [sample, analyze])
def test_of_nobody_are_refused_in_one_line(command, capsys):
    assert command.main(["--output=x.png", "~nobody-of-this-name/run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no home folder ~nobody-of-this-name" in line
