"""How a command ends: its exit status, and what it says on stderr."""

import sys
from argparse import ArgumentParser

import pytest
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from norms.errors import SettingError
from training.doors import command_parser, run_command, split_overrides


def command(run, arguments=("word",)):
    parser = ArgumentParser()
    parser.add_argument("given")
    return run_command(parser, run, arguments)


def raising(error):
    def run(options):
        raise error

    return run


def test_a_command_runs_with_its_options(capsys):
    given = []
    assert command(lambda options: given.append(options.given)) == 0
    assert given == ["word"]
    assert capsys.readouterr() == ("", "")


def test_without_arguments_those_of_the_process_count(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "of the process"])
    given = []
    assert command(lambda options: given.append(options.given), None) == 0
    assert given == ["of the process"]


def test_a_mistake_is_told_as_it_is(capsys):
    assert command(raising(SettingError("no such file: a  b"))) == 2
    assert capsys.readouterr() == ("", "error: no such file: a  b\n")


def test_ctrl_c_is_told_in_one_line(capsys):
    assert command(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_ctrl_c_of_which_a_trainer_has_made_an_exit(capsys):
    def run(options):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert command(run) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ValueError, match="a bug"):
        command(raising(ValueError("a bug")))


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], "0"), ([], "2"), (["word"], "5")])
def test_other_exits_are_left_alone(arguments, status, capsys):
    with pytest.raises(SystemExit, match=status):
        command(raising(SystemExit(5)), arguments)
    assert "interrupted" not in capsys.readouterr().err


def thin_parser():
    parser = command_parser("Does nothing.")
    parser.add_argument("run", type=str)
    parser.add_argument("--keep-colors", action="store_true")
    parser.add_argument("-n", "--number", type=PositiveInt, default=1)
    parser.add_argument("--share", type=ClosedUnitInterval | None)
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "no run given: see --help"),
        ("a b", "unknown option 'b'"),
        ("a --keep-colour", "unknown option 'keep-colour', did you mean 'keep-colors'?"),
        ("a --keep", "unknown option 'keep', did you mean 'keep-colors'?"),
        ("a -n 0", "number: must be above 0, got 0"),
        ("a -n 2.5", "number: expected int, got '2.5'"),
        ("a --share 2", "share: must be at least 0 and at most 1, got 2"),
        ("a --share=", "share: expected float, got ''"),
        ("a -n", "argument -n/--number: expected one argument"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_is_told_in_one_line(arguments, message, capsys):
    assert run_command(thin_parser(), raising(AssertionError("not parsed")), arguments.split()) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_options_have_their_types():
    given = []
    assert run_command(thin_parser(), given.append, ["a", "--keep-colors", "-n", "3", "--share", "1"]) == 0
    assert (given[0].run, given[0].keep_colors, given[0].number, given[0].share) == ("a", True, 3, 1.0)


@pytest.mark.parametrize("package", ["", "nope_of_this_name", "torch..nn", "a b", "nope_of_this_name.inner"])
def test_a_package_to_trust_must_be_there(package, capsys):
    assert run_command(command_parser("Do it."), lambda options: None, [f"--trust={package}"]) == 2
    assert capsys.readouterr().err == f"error: --trust: there is no package {package!r}\n"
    assert run_command(command_parser("Do it."), lambda options: None, ["--trust=torchvision.ops"]) == 0


@pytest.mark.parametrize(
    ("given", "own", "overrides"),
    [
        ("a --b 1", "a --b 1", ""),
        ("a -- --c 2", "a", "--c 2"),
        ("a --", "a", ""),
        ("-- x -- y", "", "x -- y"),
        ("", "", ""),
    ],
)
def test_what_goes_on_to_other_commands_is_behind_the_first_dashes(given, own, overrides):
    assert split_overrides(given.split()) == (own.split(), overrides.split())
