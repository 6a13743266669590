"""The examples are short, run, and print what they are there to show."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

SHOWN = {
    "layer": r"\d+% of the test digits are right\n1  BatchInstanceNorm2d\(16\)  rho: .*\n4  SwitchableNorm2d\(32\) ",
    "read_rho": r"\d+ rhos in 7 layers of runs/read_rho/version_0\n(.*\n)+and over the training.*\n\[1\.0, 0\.\d+",
    "own_style": r"style loss of held-out photos: \S+ after half of the steps, \S+ after all\nwrote painted.png",
    "convert_resnet": r"5 of 20 norms now have a rho, and the output is the same\n(.*\n){5}no way back: bn1 ",
    "write_norm": r"its derivative is right\n(.*\n)*group erase .* 0\.1\n  ContrastNorm2d\(3\)  erase: mean=1",
}


def test_every_example_is_run_and_shown_in_the_documentation():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SHOWN)
    page = (EXAMPLES.parent / "docs/guides/examples.md").read_text()
    assert set(re.findall(r'--8<-- "examples/(\w+)\.py"', page)) == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_an_example_shows_what_it_is_there_for(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(sys, "argv", [f"examples/{name}.py"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert re.search(SHOWN[name], shown), shown
