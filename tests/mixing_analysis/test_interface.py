"""Runs as a notebook has them."""

import re
from dataclasses import replace

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import run_folders
from made_runs import make_run, two_groups

import mixing_analysis as mixing
from mixing_analysis import figures
from mixing_analysis.comparisons import COMPARED, compare
from mixing_analysis.interface import Runs
from mixing_analysis.values import COLUMNS, combine
from norms.errors import SettingError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for norm, seeds in (("slow", 3), ("fast", 3)):
        for seed in range(seeds):
            run_folders.make(tmp_path / "runs" / norm / f"version_{seed}", norm, seed)
    return tmp_path


@pytest.mark.parametrize(
    "sources",
    [["runs"], ["runs/*"], ["runs/*/version_*"], [["runs/slow", "runs/fast"]], ["runs/slow", "runs/fast/version_*"]],
)
def test_runs_are_found_as_one_names_them(folder, sources):
    runs = mixing.read(*sources)
    assert sorted(run.name for run in runs.runs) == [f"{n}/version_{i}" for n in ("fast", "slow") for i in range(3)]
    assert {name: sorted(own) for name, own in runs.groups.items()} == {
        name: [f"{name}/version_{i}" for i in range(3)] for name in ("slow", "fast")
    }


def test_paths_and_versions_in_order(folder):
    for seed in (10, 11):
        run_folders.make(folder / "runs" / "slow" / f"version_{seed}", "slow", seed)
    names = [run.name for run in mixing.read(folder / "runs" / "slow").runs]
    assert names == [f"slow/version_{i}" for i in (0, 1, 2, 10, 11)]


def test_the_table_is_tidy(folder):
    runs = mixing.read("runs", steps="50:", layers="*norm1")
    assert tuple(runs.table.columns) == COLUMNS
    assert set(runs.table["step"]) == {50, 100}
    assert set(runs.table["layer"]) == {"block.norm1"}
    assert mixing.read("runs", steps=[0, 100]).table["step"].unique().tolist() == [0, 100]


def test_the_summary_is_over_the_seeds(folder):
    runs = mixing.read("runs")
    rows = runs.summary().query("group == 'slow' and measure == 'mean' and layer == 'block.norm0'")
    own = runs.table.query("group == 'slow' and layer == 'block.norm0' and step == 100 and kind == 'rho'")
    means = own.astype({"value": np.float64}).groupby("run", observed=True)["value"].mean()
    assert rows["mean"].item() == pytest.approx(means.mean())
    assert rows["std"].item() == pytest.approx(means.std())
    assert set(runs.summary(every_step=True)["step"]) == {0, 50, 100}


def test_comparisons_are_those_of_the_report(folder):
    runs = mixing.read("runs", group="model.norm")
    first, second = runs.groups
    found = runs.compare(first, second)
    assert tuple(found.columns) == COMPARED
    assert found["paired"].all(), "both norms have the same seeds"
    pd.testing.assert_frame_equal(found, compare(runs.table, runs.runs).rows)
    pd.testing.assert_frame_equal(found, runs.compare())
    turned = runs.compare(second, first)
    np.testing.assert_allclose(turned["difference"], -found["difference"])
    np.testing.assert_allclose(turned["p_holm"], found["p_holm"])
    assert set(runs.omnibus()["test"]) == {"paired t"}
    with pytest.raises(SettingError, match=r"unknown group 'nrom=slow', did you mean 'norm=slow'\?"):
        runs.compare("nrom=slow", second)


def test_groups_by_name(folder):
    runs = mixing.read("runs/fast", group={"two": ["runs/slow/version_0", "runs/slow/version_1"]})
    assert {name: len(own) for name, own in runs.groups.items()} == {"fast": 3, "two": 2}


def test_figures_are_matplotlibs(folder):
    runs = mixing.read("runs/slow")
    assert isinstance(runs.figure("rho_layers"), matplotlib.figure.Figure)
    assert set(runs.figures()) == set(figures.drawings(runs.table, runs.runs)) - {
        "rho_gamma",
        "rho_relations",
        "rho_styles",
        "rho_settings",
        "outcomes",
    }, "without a checkpoint, enough layers, styles, data sets and metrics"
    with pytest.raises(SettingError, match=r"unknown figure 'rho_layer', did you mean 'rho_layers'\?"):
        runs.figure("rho_layer")


def test_a_notebook_shows_a_small_table(folder):
    page = mixing.read("runs")._repr_html_()
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", line) for line in re.findall(r"<tr>(.*?)</tr>", page)]
    assert rows[0] == ["run", "group", "steps", "layers", "rho"]
    (own,) = [row for row in rows if row[0] == "fast/version_1"]
    table = mixing.read("runs").table.query("run == 'fast/version_1' and step == 100 and kind == 'rho'")
    assert own == ["fast/version_1", "fast", "0 to 100", "2", f"{table['value'].mean():.3f}"]


def test_names_are_text():
    (run, *_) = two_groups(seeds=1)
    hostile = replace(run, name="<img src=x>", group="a&b")
    page = Runs([hostile])._repr_html_()
    assert "<img" not in page
    assert "&lt;img src=x&gt;" in page
    assert "a&amp;b" in page


def test_of_switches_every_weight_has_a_column():
    page = Runs(two_groups(seeds=1))._repr_html_()
    assert "<th>mean_weight, instance</th>" in page
    assert repr(Runs(two_groups(seeds=1))) == "<2 runs in 2 groups: slow, fast>"
    assert len(Runs(two_groups())) == 6


def test_the_report_is_written(folder):
    written = mixing.read("runs").report("out", formats=("csv", "html"))
    assert written.name == "out"
    names = {path.name for path in written.iterdir()}
    assert names == {"mixing.csv", "mixing.parquet", "comparisons.csv", "report.html", ".analysis"}
    with pytest.raises(SettingError, match="unknown format 'jpg'"):
        mixing.read("runs").report("out", formats=["jpg"])


def test_notes_say_where_runs_of_a_group_end_apart(folder):
    assert not any("different steps" in note for note in mixing.read("runs").notes)
    (folder / "runs" / "slow" / "version_0" / "mixing" / "step_0000100.npz").unlink()
    (note,) = [note for note in mixing.read("runs").notes if "different steps" in note]
    assert note.startswith("the runs of slow end at different steps, from 50 to 100: ")


def test_a_figure_that_could_show_nothing_is_told():
    gates = make_run("gates", seed=1, switches=0)
    switches = make_run("switch", seed=2, layers=0, gamma=False)
    with pytest.raises(SettingError, match="these runs have no figure differences"):
        Runs([gates, switches]).figure("differences")


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"group": {"mine": "runs/slow"}}, {"group": {"mine": ["runs/slow"]}}),
        ({"group": ["model.norm", "model.seed"]}, {"group": "model.norm,model.seed"}),
        ({"group": None, "layers": None, "steps": None}, {}),
        ({"steps": 100}, {"steps": "100"}),
    ],
)
def test_one_or_several_are_asked_for_as_one_likes(options, same, folder):
    one, other = mixing.read("runs", **options), mixing.read("runs", **same)
    assert one.groups == other.groups
    pd.testing.assert_frame_equal(one.table, other.table)


def test_a_format_by_its_name(folder):
    written = mixing.read("runs").report("mine", formats="csv,html")
    assert {"mixing.csv", "report.html"} <= {path.name for path in written.iterdir()}


def test_one_name_alone_has_nothing_to_be_compared_with(folder):
    with pytest.raises(SettingError, match="compare wants the names of two groups"):
        mixing.read("runs").compare("slow")


def test_mistakes_are_told(folder):
    for arguments, options, message in (
        ((), {}, "no run is given"),
        (("nothing/*",), {}, r"no such run: nothing/\*"),
        (("runs",), {"steps": "5:1"}, "--steps must be FROM:TO"),
        (("runs",), {"layers": "foo"}, "has no layer foo: expected block.norm0, block.norm1"),
        (("runs",), {"group": "model.nothing"}, r"no run has a setting model\.nothing"),
    ):
        with pytest.raises(SettingError, match=message):
            mixing.read(*arguments, **options)


def test_the_table_of_made_runs_is_the_same():
    runs = two_groups()
    pd.testing.assert_frame_equal(Runs(runs).table, combine(runs))
