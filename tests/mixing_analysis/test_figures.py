"""The pictures show the values that they are drawn from."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib as mpl
import matplotlib.colors as mcolors
import numpy as np
import pytest
from made_runs import make_run, two_groups
from matplotlib.image import imread

from mixing_analysis import figures, plots
from mixing_analysis.comparisons import compare, correlations
from mixing_analysis.effects import ALPHA
from mixing_analysis.values import Run, combine, frame
from norms.errors import SettingError
from norms.kinds import RHO

OF_RHO = ["rho_histogram", "rho_layers", "rho_channels", "rho_gamma", "rho_training", "rho_relations"]
SWITCH = ["switch_layers", "switch_training"]


def draw(name, *runs):
    """One figure, laid out as if it were written."""
    with mpl.rc_context(plots.STYLE):
        figure = figures.drawings(combine(runs), runs)[name]()
        figure.draw_without_rendering()
    return figure


def last_values(run, kind="rho"):
    rows = run.frame[(run.frame["kind"] == kind) & (run.frame["step"] == max(run.steps))]
    return {layer: part["value"].to_numpy(np.float64) for layer, part in rows.groupby("layer", observed=True)}


def marks(axes):
    """The large marks of a plot, series by series."""
    return [line.get_xydata() for line in axes.lines if line.get_marker() in plots.MARKERS and len(line.get_xdata())]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, OF_RHO + SWITCH),
        ({"switches": 0}, OF_RHO),
        ({"switches": 4}, [*OF_RHO, *SWITCH, "switch_relations"]),
        ({"layers": 0}, SWITCH),
        (
            {"gamma": False, "steps": (0,)},
            ["rho_histogram", "rho_layers", "rho_channels", "switch_layers", "rho_relations"],
        ),
    ],
)
def test_what_is_known_is_drawn(options, expected, tmp_path):
    run = make_run("a", **options)
    paths = figures.write(combine([run]), [run], tmp_path / "figures", ("png", "svg"))
    assert sorted(paths) == sorted(
        tmp_path / "figures" / f"{name}.{kind}" for name in expected for kind in ("png", "svg")
    )
    assert sorted((tmp_path / "figures").iterdir()) == sorted(paths)
    for path in paths:
        if path.suffix == ".png":
            assert imread(path)[..., :3].std() > 0.01
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_equal_values_make_equal_files(tmp_path):
    runs = two_groups(seeds=2)
    first, second = (figures.write(combine(runs), runs, tmp_path / name, ("svg",)) for name in "ab")
    assert len(first) == len(OF_RHO + SWITCH + ["differences"])
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_pdf_has_fonts_that_can_be_edited_and_a_narrow_one_beside_it(tmp_path):
    run = make_run("a", switches=0)
    paths, again = (figures.write(combine([run]), [run], tmp_path / name, ("pdf",)) for name in "ab")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert sorted(path.name for path in paths) == sorted(
        f"{name}{end}.pdf" for name in OF_RHO for end in ("", "_column")
    )
    for path in paths:
        text = path.read_bytes()
        assert b"/CIDFontType2" in text
        assert b"/Type3" not in text
        width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", text)[1])
        assert width == pytest.approx(72 * (3.5 if path.stem.endswith("_column") else 7.0))


def test_every_text_of_a_narrow_figure_can_be_read_and_is_on_it():
    runs = [replace(run, metrics={"val/loss": float(place)}) for place, run in enumerate(two_groups(shapes=True))]
    with mpl.rc_context(plots.STYLE):
        for name, draw_it in figures.drawings(combine(runs), runs).items():
            figure = draw_it(width=plots.COLUMN)
            if figure is None:
                continue
            figure.draw_without_rendering()
            shown = [text for text in figure.findobj(mpl.text.Text) if text.get_text().strip() and text.get_visible()]
            assert len(shown) > 5, name
            assert min(text.get_fontsize() for text in shown) >= 6
            box = figure.get_tightbbox()
            assert box.x0 >= -0.02, name
            assert box.x1 <= plots.COLUMN + 0.02, name


def test_an_unknown_format_is_told(tmp_path):
    with pytest.raises(SettingError, match=r"unknown format 'jpg'.*known: png, svg, pdf, gif, mp4"):
        figures.write(combine([make_run("a")]), [make_run("a")], tmp_path, ("jpg",))


def test_histograms_hold_the_shares_beside_the_published_ones():
    config = {"model": {"class_path": "lightning_modules.Classifier"}, "data": {"class_path": "data.CIFAR10"}}
    run = make_run("a", layers=6, switches=0, drift=1.0, steps=(0, 20_000), config=config)
    axes = draw("rho_histogram", run).axes
    layers = list(last_values(run).values())
    parts = [layers, layers[:2], layers[2:4], layers[4:]]
    published = [[0.1, 0.72], [0.21], [], [0.07]]
    for each, chosen, known in zip(axes, parts, published, strict=True):
        heights = [bar.get_height() for bar in each.patches]
        gates = np.concatenate(chosen)
        assert heights[: len(known)] == known
        shares = np.histogram(gates, figures.BINS, (0, 1))[0] / len(gates)
        np.testing.assert_allclose(heights[len(known) :], shares)


def test_groups_have_outlines_of_all_their_gates():
    runs = two_groups()
    network = draw("rho_histogram", *runs).axes[0]
    outlines = [patch for patch in network.patches if hasattr(patch, "get_data")]
    for outline, group, color in zip(outlines, ("slow", "fast"), plots.GROUP_COLORS, strict=False):
        gates = np.concatenate([rho for run in runs if run.group == group for rho in last_values(run).values()])
        np.testing.assert_allclose(outline.get_data().values, np.histogram(gates, 10, (0, 1))[0] / len(gates))
        assert mcolors.to_hex(outline.get_edgecolor()) == color


def test_layers_have_mean_quartiles_and_channels():
    run = make_run("a")
    (axes,) = draw("rho_layers", run).axes
    values = list(last_values(run).values())
    (means,) = marks(axes)
    np.testing.assert_allclose(means, [[rho.mean(), row] for row, rho in enumerate(values)])
    dots, bars = axes.collections
    np.testing.assert_allclose(dots.get_offsets()[:, 0], np.concatenate(values))
    np.testing.assert_array_equal(np.rint(dots.get_offsets()[:, 1]), np.repeat(range(4), [len(rho) for rho in values]))
    expected = [[[np.quantile(rho, 0.25), row], [np.quantile(rho, 0.75), row]] for row, rho in enumerate(values)]
    np.testing.assert_allclose(bars.get_segments(), expected)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(last_values(run))
    assert axes.yaxis_inverted()


def test_layers_of_groups_are_averages_over_seeds():
    runs = two_groups()
    (axes,) = draw("rho_layers", *runs).axes
    for group, points in zip(("slow", "fast"), marks(axes), strict=True):
        layers = zip(*(last_values(run).values() for run in runs if run.group == group), strict=True)
        np.testing.assert_allclose(points[:, 0], [np.mean([rho.mean() for rho in seeds]) for seeds in layers])
        np.testing.assert_array_equal(np.rint(points[:, 1]), range(4))
    seeds = [line.get_xydata() for line in axes.lines if line.get_marker() == "|"]
    assert [len(each) for each in seeds] == [12, 12]


def test_channels_are_sorted():
    run = make_run("a")
    axes = draw("rho_channels", run).axes[0]
    (image,) = axes.images
    assert (image.norm.vmin, image.norm.vmax) == (0, 1)
    for strip, rho in zip(image.get_array(), last_values(run).values(), strict=True):
        assert np.unique(strip).tolist() == np.unique(rho.astype(np.float32)).tolist()
        assert (np.diff(strip) >= 0).all()
        shares = np.unique(strip, return_counts=True)[1] / len(strip)
        np.testing.assert_allclose(shares, 1 / len(rho), atol=1 / len(strip))


def test_correlations_with_gamma():
    run = make_run("a")
    (points,) = marks(draw("rho_gamma", run).axes[0])
    rho, gamma = last_values(run), last_values(run, "gamma")
    np.testing.assert_allclose(points[:, 0], [np.corrcoef(rho[layer], gamma[layer])[0, 1] for layer in rho], atol=1e-6)
    assert len(correlations(combine([run]), RHO)) == len(points)


def test_training_curves_count_every_channel_the_same():
    run = make_run("a", drift=1.0)
    means, shares = draw("rho_training", run).axes
    thin = [line for line in means.lines if line.get_color() == plots.SOFT]
    assert len(thin) == 4
    gates = np.concatenate(list(last_values(run).values()))
    (thick,) = [line for line in means.lines if line.get_color() == plots.GROUP_COLORS[0]]
    np.testing.assert_allclose(thick.get_xydata()[[0, -1]], [[0, 1], [100, gates.mean()]], rtol=1e-6)
    below, above, *_ = (line.get_ydata() for line in shares.lines)
    np.testing.assert_allclose([below[-1], above[-1]], [(gates < 0.1).mean(), (gates > 0.9).mean()])


def test_curves_of_a_group_end_with_its_shortest_run():
    runs = [make_run("a/0", "a", steps=(0, 50, 100)), make_run("a/1", "a", seed=1, steps=(0, 50))]
    means = draw("rho_training", *runs).axes[0]
    *thin, line = [line for line in means.lines if line.get_color() == plots.GROUP_COLORS[0]]
    np.testing.assert_array_equal(line.get_xdata(), [0, 50])
    assert [each.get_xdata().tolist() for each in thin] == [[0, 50, 100], [0, 50]], "each run as far as it goes"
    assert all(each.get_linewidth() < line.get_linewidth() for each in thin)


def test_bars_are_divided_by_the_weights():
    runs = two_groups()
    every = draw("switch_layers", *runs).axes
    assert len(every) == 4
    for place, (group, kind) in enumerate((g, k) for g in ("slow", "fast") for k in ("mean_weight", "var_weight")):
        seeds = [list(last_values(run, kind).values()) for run in runs if run.group == group]
        bars = every[place].patches
        for index, (statistic, color) in enumerate(plots.COLORS.items()):
            chosen = [bar for bar in bars if mcolors.to_hex(bar.get_facecolor()) == color]
            np.testing.assert_allclose(
                [bar.get_width() for bar in chosen], np.mean(seeds, axis=0)[:, index], rtol=1e-5, err_msg=statistic
            )
        assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(1)


def test_a_layer_that_never_mixes_batch_statistics_has_none():
    weights = {f"00.norm/{kind}": np.array([0.4, 0.6, 0.0], np.float32) for kind in ("mean_weight", "var_weight")}
    axes = draw("switch_layers", Run("a", "a", frame({0: weights}), "a")).axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [0.4, 0.6, 0], rtol=1e-6)


def test_training_of_switch_weights_is_the_mean_over_layers():
    run = make_run("a")
    for axes, kind in zip(draw("switch_training", run).axes, ("mean_weight", "var_weight"), strict=True):
        ends = np.mean(list(last_values(run, kind).values()), axis=0)
        for end, color in zip(ends, plots.COLORS.values(), strict=True):
            thick = [line for line in axes.lines if line.get_color() == color and line.get_linewidth() > 1]
            np.testing.assert_allclose(thick[0].get_ydata()[[0, -1]], [1 / 3, end], rtol=1e-5)
        low, high = axes.get_ylim()
        assert low == 0
        assert high > max(max(line.get_ydata()) for line in axes.lines)


def test_differences_have_their_intervals():
    runs = two_groups()
    every = draw("differences", *runs).axes
    found = compare(combine(runs), runs).rows
    gates = found[(found["kind"] == "rho") & (found["measure"] == "mean")]
    assert len(every) == 1 + 2 * 3
    axes = next(axes for axes in every if axes.get_title(loc="left") == "mean rho")
    bars, dots = axes.collections
    np.testing.assert_allclose(dots.get_offsets()[:, 0], gates["difference"])
    np.testing.assert_allclose(np.array(bars.get_segments())[:, :, 0], gates[["low", "high"]])
    filled = dots.get_facecolors()[:, :3].mean(axis=1) < 0.5
    np.testing.assert_array_equal(filled, gates["p_holm"] < ALPHA)
    assert filled.any()


def test_differences_from_the_first_group_are_drawn_while_they_fit():
    runs = [make_run(f"run{index}", seed=index, switches=0, layers=3) for index in range(4)]
    axes = draw("differences", *runs).axes
    assert [each.get_xlabel() for each in axes] == [f"run{index} minus run0" for index in (1, 2, 3)]
    several = [make_run(f"run{index}", seed=index) for index in range(4)]
    assert {each.get_xlabel() for each in draw("differences", *several).axes} == {"run1 minus run0"}


def test_networks_with_other_layers_have_axes_of_their_own():
    deep, shallow = draw("rho_layers", make_run("a"), make_run("b", layers=2), make_run("c", seed=3)).axes
    assert [len(marks(axes)) for axes in (deep, shallow)] == [2, 1]
    assert len(shallow.get_yticks()) == 2


def test_groups_without_common_layers_have_no_differences():
    runs = [make_run("a", switches=0), make_run("b", layers=0)]
    assert figures.drawings(combine(runs), runs)["differences"]() is None


def test_differences_are_those_of_groups_with_common_layers():
    runs = [make_run("a", layers=0), make_run("b", switches=0), make_run("c", switches=0, layers=2)]
    axes = draw("differences", *runs).axes
    assert [each.get_xlabel() for each in axes] == ["c minus b"]


def test_no_more_groups_than_can_be_told_apart():
    runs = [make_run(f"run{index}", seed=index) for index in range(figures.MOST_GROUPS + 2)]
    assert len(marks(draw("rho_layers", *runs).axes[0])) == figures.MOST_GROUPS


def test_a_history_that_knows_only_summaries():
    summaries = [np.array([mean, 0.1, 0.9, 0.2, 0.25, 0.5], np.float32) for mean in (1.0, 0.5)]
    steps = {step: {"00.norm/rho_summary": summary} for step, summary in zip((0, 10), summaries, strict=True)}
    run = Run("wandb", "wandb:a/b/c", frame(steps), "wandb")
    assert list(figures.drawings(combine([run]), [run])) == ["rho_training"]
    thick = [line for line in draw("rho_training", run).axes[0].lines if line.get_color() == plots.GROUP_COLORS[0]]
    np.testing.assert_allclose(thick[0].get_ydata(), [1, 0.5])
