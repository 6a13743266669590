"""Values of layers beside what the layers work on."""

import warnings

import matplotlib as mpl
import numpy as np
import pytest
from made_runs import make_run, two_groups

from mixing_analysis import figures, plots
from mixing_analysis.layer_relations import beside, describe, draw, relations
from mixing_analysis.values import combine
from norms.kinds import MEAN_WEIGHT, RHO, VAR_WEIGHT


def last_means(run, kind="rho"):
    rows = run.frame[(run.frame["kind"] == kind) & (run.frame["step"] == max(run.steps))]
    return rows.groupby("layer", observed=True)["value"].mean().to_numpy(np.float64)


def test_properties_are_those_of_the_layers_and_values_averages_over_runs():
    runs = two_groups(layers=6, shapes=True)
    found = {(each.group, each.name): each for each in relations(combine(runs), runs, [RHO])}
    assert {name for _, name in found} == {"depth", "channels", "kernel size", "resolution"}
    expected = {
        "depth": range(6),
        "channels": [8, 8, 16, 16, 32, 32],
        "kernel size": [9, 3, 3, 3, 3, 3],
        "resolution": [64, 64, 32, 32, 16, 16],
    }
    for (group, name), each in found.items():
        np.testing.assert_allclose(each.x, expected[name])
        seeds = [last_means(run) for run in runs if run.group == group]
        np.testing.assert_allclose(each.y, np.mean(seeds, axis=0), rtol=1e-6)
        assert (each.halves[:, 0] <= each.halves[:, 1]).all()
        assert each.rank.n == 6


def test_without_shapes_only_depth_and_channels_are_known():
    run = make_run("a", switches=4)
    assert {each.name for each in relations(combine([run]), [run], [RHO])} == {"depth", "channels"}
    switch = relations(combine([run]), [run], [MEAN_WEIGHT, VAR_WEIGHT])
    assert {(each.kind.name, each.label, each.name) for each in switch} == {
        (kind, label, "depth") for kind in ("mean_weight", "var_weight") for label in ("instance", "layer", "batch")
    }


def test_three_layers_tell_nothing():
    run = make_run("a", layers=3, switches=3, shapes=True)
    assert [relations(combine([run]), [run], kinds) for kinds in ([RHO], [MEAN_WEIGHT, VAR_WEIGHT])] == [[], []]


def test_weights_have_a_relation_for_each_label():
    run = make_run("a", switches=7, layers=0, shapes=True)
    found = [each for each in relations(combine([run]), [run], [MEAN_WEIGHT, VAR_WEIGHT]) if each.name == "resolution"]
    assert len(found) == 6
    rows = run.frame[run.frame["step"] == 100]
    for each in found:
        own = rows[(rows["kind"] == each.kind.name) & (rows["statistic"] == each.label)]
        np.testing.assert_allclose(each.y, own["value"])
        assert each.halves is None


def test_a_clear_relation_is_called_so_on_the_page():
    run = make_run("a", layers=12, switches=0, shapes=True, drift=0.0)
    depth = run.frame["depth"].to_numpy()
    run.frame["value"] = np.where(run.frame["kind"] == "rho", 1 - 0.05 * depth, run.frame["value"]).astype(np.float32)
    page = {each["name"]: each for each in describe(combine([run]), [run], [RHO])}
    assert page["depth"]["clear"]
    assert page["depth"]["r"] == pytest.approx(-1)
    flat = describe(*([combine([make_run("b", layers=12)]), [make_run("b", layers=12)]]), [RHO])
    assert not any(each["clear"] for each in flat)


def test_many_groups_leave_room_for_the_plots():
    runs = [make_run(f"run{index}", seed=index, layers=6, shapes=True) for index in range(plots.MOST_GROUPS)]
    with mpl.rc_context(plots.STYLE), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.drawings(combine(runs), runs)["rho_relations"](width=plots.COLUMN)
        figure.draw_without_rendering()
    assert min(axes.get_window_extent().height for axes in figure.axes) > 0.8 * figure.dpi


def test_the_figure_states_correlation_interval_and_number():
    run = make_run("a", layers=9, shapes=True)
    with mpl.rc_context(plots.STYLE):
        axes = figures.drawings(combine([run]), [run])["rho_relations"]().axes
    found = relations(combine([run]), [run], [RHO])
    assert [each.texts[0].get_text() for each in axes] == [str(each.rank) for each in found]
    assert all("n = 9" in str(each.rank) and "[" in str(each.rank) for each in found)
    for each, relation in zip(axes, found, strict=True):
        x, y = each.lines[0].get_data()
        np.testing.assert_allclose(y, relation.y)
        assert np.abs(np.log2((x + 1) / (relation.x + 1))).max() < 0.13


def test_a_layer_alone_is_drawn_where_it_is_and_others_around_it():
    assert beside(np.array([9.0, 3, 3, 3, 3])).tolist() == [0, -0.375, -0.125, 0.125, 0.375]
    runs = [make_run("a", layers=4, channels=16, switches=0, shapes=True)]
    plots_of = {each.get_xlabel(): each for each in draw(combine(runs), runs, {"a": 0}, [RHO]).axes}
    assert plots_of["kernel size"].lines[0].get_xdata()[0] == pytest.approx(9)
    assert all(tick == int(tick) for tick in plots_of["depth"].get_xticks())
