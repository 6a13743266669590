"""The configurations and the README say what is true of the code."""

import re
from pathlib import Path

import pytest

from train import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_complete(config, capsys):
    assert main(["fit", "--config", str(config), "--print_config"]) == 0
    shown = capsys.readouterr().out
    assert f"name: {config.stem}\n" in shown
    assert "max_steps: -1" not in shown


def test_the_readme_names_every_configuration():
    assert {path.name for path in CONFIGS} == set(re.findall(r"^\| `(\w+\.yaml)`", README, re.MULTILINE))


def trainings():
    return re.findall(r"python train\.py (fit --config \S+[^\n#]*)", README)


@pytest.mark.parametrize("command", trainings())
def test_the_training_commands_of_the_readme_are_accepted(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main([*command.split(), "--print_config"]) == 0


def test_the_files_that_the_readme_points_to_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
