"""Figures that pages share: colors that stay, names that do not overlap, curves that keep their shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

import norms
from experiments import plots

GAP = 0.1


def curves(values, count=40):
    steps = np.arange(count)
    rows = [
        DataFrame({"norm": norm, "folder": f"{norm}{seed}", "step": steps, "value": end * steps + seed})
        for norm, end in values.items()
        for seed in range(2)
    ]
    return rows[0] if len(rows) == 1 else DataFrame([row for each in rows for row in each.to_dict("records")])


def test_every_norm_has_a_look_of_its_own():
    assert set(norms.names()) <= set(plots.NORMS)
    assert len({look.color for look in plots.NORMS.values()}) == len(plots.NORMS)
    assert len({look.label for look in plots.NORMS.values()}) == len(plots.NORMS)


def test_a_norm_looks_the_same_whatever_is_beside_it():
    alone, beside = plots.looks(["batch"]), plots.looks(["switchable", "batch", "batch"], {"batch": "BN"})
    assert list(beside) == ["batch", "switchable"]
    assert beside["batch"] == alone["batch"]._replace(label="BN")
    assert [look.label for look in plots.looks([0.1, 0.01]).values()] == ["0.1", "0.01"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_names_are_apart_and_in_order_and_within_the_axes(heights):
    heights = sorted(heights)
    moved = plots._apart(heights, GAP)
    assert np.diff(moved).min(initial=GAP) >= GAP - 1e-9
    assert min(moved) >= 0
    assert max(moved) <= 1
    if np.diff(heights).min(initial=GAP) >= GAP:
        assert moved == pytest.approx(heights)


def test_curves_are_named_at_the_heights_of_their_ends():
    _, (axes,) = plots.panels(1)
    plots.curves(axes, curves({"batch": 1.0, "none": 3.0}), "norm")
    names = {text.get_text(): text.xy[1] for text in axes.texts}
    low, high = axes.get_ylim()
    assert names["batch"] == pytest.approx((39.5 - low) / (high - low))
    assert names["none"] == pytest.approx((117.5 - low) / (high - low))
    thick = [line for line in axes.lines if line.get_linewidth() > 1]
    assert [line.get_color() for line in thick] == [plots.NORMS[name].color for name in ("none", "batch")]
    assert thick[1].get_ydata() == pytest.approx(np.arange(40) + 0.5)


def test_long_curves_are_averaged_over_parts():
    rows = DataFrame({"value": np.arange(1000.0)}, index=np.arange(0, 5000, 5))
    thin = plots._thin(rows)
    assert len(thin) == plots.POINTS
    assert thin["value"].to_numpy() == pytest.approx(thin.index.to_numpy() / 5)
    assert thin["value"].mean() == pytest.approx(rows["value"].mean(), rel=1e-3)


def test_points_show_each_seed_and_the_mean_and_say_where_there_is_none():
    _, (axes,) = plots.panels(1)
    rows = [("batch", 1.0), ("batch", 3.0), ("none", float("nan"))]
    plots.points(axes, DataFrame(rows, columns=["norm", "loss"]), "norm", "loss")
    bar, marks = axes.lines
    assert bar.get_xdata() == pytest.approx([2, 2])
    assert sorted(marks.get_xdata()) == [1, 3]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "batch"]
    assert [text.get_text() for text in axes.texts] == ["none ended well"]


def test_shares_of_a_histogram_sum_to_one_and_the_ends_hold_what_is_beyond():
    _, (axes,) = plots.panels(1)
    plots.histogram(axes, [-1, 0.05, 0.5, 2], plots.NORMS["batch"])
    values = axes.patches[0].get_data().values
    assert values == pytest.approx([0.5, 0, 0, 0, 0, 0.25, 0, 0, 0, 0.25])


def test_bands_and_swept_numbers_are_means_over_seeds():
    _, (left, right) = plots.panels(2)
    frame = DataFrame({"norm": "batch", "step": [0, 1, 0, 1], "low": 0.0, "middle": [1, 2, 3, 4], "high": 9.0})
    plots.bands(left, frame, "norm", ["low", "middle", "high"])
    assert left.lines[0].get_ydata() == pytest.approx([2, 3])
    swept = DataFrame({"norm": "batch", "lr": [0.1, 0.01, 0.1, 0.01], "loss": [1.0, 2.0, 3.0, np.nan]})
    plots.swept(right, swept, "lr", "norm", "loss")
    assert right.lines[1].get_xdata() == pytest.approx([0.01, 0.1])
    assert right.lines[1].get_ydata() == pytest.approx([2, 2])
    assert right.get_xscale() == "log"
