from pathlib import Path

import pytest
import yaml

from norms.errors import SettingError
from training import shipped
from training.shipped import shipped_configs, shipped_sweeps, with_shipped_configs

ROOT = Path(__file__).parents[2]


def test_all_configurations_go_by_their_names():
    files = {path.stem: path for path in (ROOT / "configs").glob("*.yaml")}
    assert shipped_configs() | shipped_sweeps() == files
    assert {yaml.safe_load(path.read_text())["name"] for path in shipped_configs().values()} == set(shipped_configs())


def test_a_wheel_keeps_them_inside_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path, tmp_path / "none"))
    (tmp_path / "mine.yaml").touch()
    assert shipped_configs() == {"mine": tmp_path / "mine.yaml"}


@pytest.mark.parametrize("option", ["--config", "-c"])
def test_bare_names_are_replaced_and_nothing_else(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gan = str(ROOT / "configs/gan.yaml")
    assert with_shipped_configs(["fit", option, "gan", "--name", "gan"]) == ["fit", option, gan, "--name", "gan"]
    assert with_shipped_configs(["fit", f"{option}=gan", option, "a.yaml"]) == [
        "fit",
        f"{option}={gan}",
        option,
        "a.yaml",
    ]
    assert with_shipped_configs(["fit", option]) == ["fit", option]
    (tmp_path / "gan").touch()
    assert with_shipped_configs([option, "gan"]) == [option, "gan"]


def test_an_unknown_name_gets_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="unknown configuration 'clasifier', did you mean 'classifier'"):
        with_shipped_configs(["fit", "--config", "clasifier"])
