"""Small plots: one for each style, and one for each pair of settings."""

import matplotlib as mpl
import numpy as np
import pytest
from made_runs import make_run

from mixing_analysis import figures, multiples, plots
from mixing_analysis.values import Run, combine, frame
from norms.kinds import RHO

PLACES, STYLES = ("first.norm", "residual1.norm1", "residual1.norm2"), ("mosaic", "waves")


def many_styles(name="many", seed=0):
    random = np.random.default_rng(seed)
    rho = {f"{place}.norms.{style}/rho": random.random(6).astype(np.float32) for place in PLACES for style in STYLES}
    return Run(name, name, frame({0: {key: np.ones(6, np.float32) for key in rho}, 10: rho}), name), rho


def draw(name, *runs):
    with mpl.rc_context(plots.STYLE):
        return figures.drawings(combine(runs), runs)[name]()


def test_each_style_has_a_plot_of_its_values_over_the_depth():
    run, rho = many_styles()
    axes = draw("rho_styles", run).axes
    assert [each.get_title(loc="left") for each in axes] == list(STYLES)
    for each, style in zip(axes, STYLES, strict=True):
        expected = [rho[f"{place}.norms.{style}/rho"].mean() for place in PLACES]
        np.testing.assert_allclose(each.lines[0].get_xydata(), list(enumerate(expected)), rtol=1e-5)


def test_the_page_has_the_places_of_each_style():
    run, rho = many_styles()
    page = multiples.describe_styles(combine([run]), [run], [RHO])
    assert [(each["style"], each["places"]) for each in page] == [(style, list(PLACES)) for style in STYLES]
    quartiles = np.quantile(rho["first.norm.norms.waves/rho"], [0.25, 0.75])
    assert page[1]["halves"][0] == pytest.approx(quartiles, abs=1e-4)
    plain = make_run("a")
    assert multiples.describe_styles(combine([plain]), [plain], [RHO]) == []
    assert draw("rho_styles", plain) is None


def test_two_settings_that_differ_by_themselves_make_rows_and_columns():
    runs = [
        make_run(f"{style}/{data}", seed=10 * i + j, config={"model": {"style": style, "width": i}, "data": data})
        for i, style in enumerate(("glass", "mosaic", "night"))
        for j, data in enumerate(("garments", "photos"))
    ]
    axes = draw("rho_settings", *runs).axes
    assert len(axes) == 6
    assert [each.get_title(loc="left") for each in axes[:2]] == ["data garments", "data photos"]
    assert [each.get_ylabel() for each in axes[::2]] == ["style glass", "style mosaic", "style night"]
    for each, run in zip(axes, runs, strict=True):
        rows = run.frame[run.frame["kind"].eq("rho") & run.frame["step"].eq(100)]
        means = rows.groupby("layer", observed=True)["value"].mean()
        np.testing.assert_allclose(each.lines[0].get_ydata(), means, rtol=1e-5)


def test_settings_that_go_together_are_no_grid():
    assert multiples.crossed({"a": {"x": "1", "y": "1"}, "b": {"x": "2", "y": "2"}}) is None
    assert multiples.crossed({"a": {"x": "1"}, "b": {"x": "2"}}) is None
    grid = {f"{x}{y}": {"x": str(x), "y": str(y), "same": "0", "z": str(x)} for x in range(2) for y in range(3)}
    assert multiples.crossed(grid) == ("y", "x")
