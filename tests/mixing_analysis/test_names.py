"""Runs of strangers: what they call themselves, their layers and their values is shown, and nothing else happens."""

import json
import os
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import yaml

from mixing_analysis import figures, plots, tables
from mixing_analysis.command import main
from mixing_analysis.groups import fold
from mixing_analysis.sources import read_runs
from mixing_analysis.values import Run, combine, frame
from norms.errors import SettingError
from norms.kinds import MixingKind

NAMES = ["=cmd|' calc'!A0 $\\frac{x$ :warning: [red]", "\x1b]0;owned\x07\x1b[31m", os.fsdecode(b"_caf\xe9 $a$")]


def make(folder, layer="00.norm", steps=(0, 10), config=None, kinds=None):
    """A run folder without a checkpoint."""
    (folder / "mixing").mkdir(parents=True)
    for step in steps:
        values = np.linspace(1 - step / 10, 1, 6, dtype=np.float32)
        weights = np.array([0.2, 0.3, 0.5], np.float32)
        np.savez(
            folder / "mixing" / f"step_{step:07d}.npz", **{f"{layer}/rho": values, "zz.switch/mean_weight": weights}
        )
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if kinds is not None:
        (folder / "mixing" / "kinds.json").write_text(json.dumps(kinds))
    return str(folder)


def report(capfd, *arguments):
    assert main([*arguments, "--no-evaluation"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert [letter for letter in out if not letter.isprintable() and letter != "\n"] == []
    for path in Path("report/figures").glob("*.svg"):
        ElementTree.parse(path)
    return out


@pytest.fixture(autouse=True)
def _working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_report_of_runs_with_such_names(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that no name is broken
    runs = [make(Path("runs", name, "version_0"), layer="00.\x1b[2J$_{$") for name in NAMES]
    out = report(capfd, *runs)
    first = "=cmd|' calc'!A0 $\\frac{x$ :warning: [red]/version_0"
    for shown in (first, r"\x1b]0;owned\x07\x1b[31m/version_0", r"_caf\udce9 $a$/version_0"):
        assert shown in out
    table = pd.read_csv("report/mixing.csv")
    assert f"'{first}" in set(table["run"]) & set(table["group"])
    assert first in set(pd.read_parquet("report/mixing.parquet")["run"])
    assert len(list(Path("report/figures").glob("*.png"))) >= 6


def test_every_name_is_in_the_figures():
    runs = [
        Run(name, name, frame({0: {"00.n/rho": np.ones(3, np.float32)}}), name)
        for name in (r"$\frac{x$", "_hidden", "plain")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.drawings(combine(runs), runs)["rho_layers"]()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"$\frac{x$", "_hidden", "plain"]


@pytest.mark.parametrize("name", [r"$\frac{x$", "a$b$c", r"\$", "$$"], ids=["broken", "a formula", "escaped", "empty"])
def test_no_name_is_a_formula(name):
    run = Run(name, name, frame({0: {f"00.{name}/rho": np.ones(3, np.float32)}}), name)
    with mpl.rc_context(plots.STYLE):
        figure = figures.drawings(combine([run]), [run])["rho_channels"]()
        figure.draw_without_rendering()
    assert figure.axes[0].get_title(loc="left") == name
    assert not figure.axes[0].title.get_parse_math()


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2", "'-2"),
        ("@SUM(1)", "'@SUM(1)"),
        ("'=quoted", "''=quoted"),
        ("a=b", "a=b"),
    ],
)
def test_no_name_is_a_formula_of_a_spreadsheet(name, written, tmp_path):
    values = frame({0: {f"{name}/rho": np.ones(1, np.float32), "=/rho": np.ones(1, np.float32)}})
    table = combine([Run(name, name, values, name)])
    assert tables.write(table, tmp_path)[0] == "mixing.csv"
    rows = pd.read_csv(tmp_path / "mixing.csv")
    assert rows.loc[0, ["run", "group", "layer"]].tolist() == [written] * 3
    assert rows["layer"].tolist() == [written, "'="]
    assert table["run"].iloc[0] == name, "the table itself stays"


def test_groups_are_called_by_settings_that_may_hold_anything():
    runs = [
        make(Path("runs/a", f"version_{i}"), config={"seed_everything": i, "model": {"norm": norm}})
        for i, norm in enumerate(("\x1b[31m", "\x1b[31m", "plain", "plain", "other"))
    ]
    groups = [run.group for run in fold(read_runs(runs), {"\x9b2J": [runs[-1]]})]
    assert groups == [r"a (norm=\x1b[31m)"] * 2 + ["a (norm=plain)"] * 2 + [r"\x9b2J"]


def test_a_layer_is_called_so_that_it_can_be_printed():
    (run,) = read_runs([make(Path("runs/version_0"), layer="00.\x1b[31m")])
    assert list(run.architecture) == [r"00.\x1b[31m", "zz.switch"]


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "a b", ""])
@pytest.mark.parametrize("field", ["name", "optimizer_group"])
def test_no_kind_writes_outside_by_its_name(name, field):
    described = {**MixingKind("gate").to_dict(), field: name}
    if not name and field == "optimizer_group":
        described[field] = "../outside"
    source = make(Path("runs/version_0"), kinds=[described])
    with pytest.raises(SettingError, match=r"kinds\.json is damaged.*has letters, digits, _ and - alone"):
        read_runs([source])


def test_words_of_a_kind_are_printable():
    kind = MixingKind("gate", labels=("\x1b[1m",), title="\x07bell")
    (run,) = read_runs([make(Path("runs/version_0"), kinds=[kind.to_dict()])])
    assert run.kinds[0].labels == (r"\x1b[1m",)
    assert run.kinds[0].title == r"\x07bell"


def test_mistakes_are_told_without_escape_codes(capfd):
    assert main(["\x1b[2Jno such run"]) == 2
    assert capfd.readouterr().err.startswith(r"error: no such run: \x1b[2Jno such run")
