"""A film of the training shows the values of its steps."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from made_runs import make_run, two_groups
from PIL import Image

from mixing_analysis import evolution, figures, plots
from mixing_analysis.values import combine


def film(name, *runs):
    with mpl.rc_context(plots.STYLE):
        return evolution.films(combine(runs), runs)[name]


def values(run, kind, step):
    rows = run.frame[(run.frame["kind"] == kind) & (run.frame["step"] == step)]
    return [part["value"].to_numpy(np.float64) for _, part in rows.groupby("layer", observed=True)]


def test_frames_hold_histogram_means_quartiles_and_channels():
    run = make_run("a", drift=1.0)
    found = film("rho", run)
    assert found.steps == [0, 50, 100]
    whole, depth = found.figure.axes
    for frame, step in enumerate(found.steps):
        found.move(frame)
        layers = values(run, "rho", step)
        gates = np.concatenate(layers)
        shares = np.histogram(gates, 10, (0, 1))[0] / len(gates)
        np.testing.assert_allclose([bar.get_height() for bar in whole.patches[:10]], shares)
        (marks,) = [line for line in depth.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(marks.get_xdata(), [rho.mean() for rho in layers])
        halves = next(each for each in depth.collections if len(each.get_segments()) == 4)
        expected = [np.quantile(rho, [0.25, 0.75]) for rho in layers]
        np.testing.assert_allclose([segment[:, 0] for segment in halves.get_segments()], expected)
        dots = next(each for each in depth.collections if len(each.get_offsets()) == len(gates))
        np.testing.assert_allclose(dots.get_offsets()[:, 0], gates)
        np.testing.assert_array_equal(np.rint(dots.get_offsets()[:, 1]), np.repeat(range(4), list(map(len, layers))))


def test_groups_are_averages_over_runs_each_as_far_as_it_has_come():
    runs = [make_run("a/0", "a", 0, steps=(0, 50, 100)), make_run("a/1", "a", 1, steps=(0, 50)), make_run("b", seed=2)]
    found = film("rho", *runs)
    found.move(2)
    points = [line.get_xdata() for line in found.figure.axes[1].lines if line.get_marker() in plots.MARKERS[:2]]
    last = [[rho.mean() for rho in values(run, "rho", run.steps[-1])] for run in runs]
    np.testing.assert_allclose(points[0], np.mean(last[:2], axis=0))
    np.testing.assert_allclose(points[1], last[2])


def test_bars_of_weights_are_divided_as_the_weights_are():
    run = make_run("a")
    found = film("switch", run)
    for frame, step in enumerate(found.steps):
        found.move(frame)
        for axes, kind in zip(found.figure.axes, ("mean_weight", "var_weight"), strict=True):
            widths = np.reshape([bar.get_width() for bar in axes.patches], (3, -1)).T
            np.testing.assert_allclose(widths, values(run, kind, step), rtol=1e-5)
            ends = np.reshape([bar.get_x() + bar.get_width() for bar in axes.patches], (3, -1))
            np.testing.assert_allclose(ends[-1], 1, rtol=1e-5)


def test_of_many_steps_some_are_shown_and_the_last_stays(tmp_path):
    run = make_run("a", steps=tuple(range(0, 1000, 5)), switches=0, layers=2)
    path, video = evolution.write(combine([run]), [run], tmp_path, ["gif", "mp4"])
    assert (path.name, video.name) == ("rho_evolution.gif", "rho_evolution.mp4")
    assert film("rho", run).steps[:: evolution.MOST_FRAMES - 1] == [0, 995]
    with Image.open(path) as animation:
        assert animation.n_frames == evolution.MOST_FRAMES
        times, pictures = [], []
        for frame in range(animation.n_frames):
            animation.seek(frame)
            times.append(animation.info["duration"])
            pictures.append(np.asarray(animation.convert("L"), np.float64))
        assert animation.info["loop"] == 0
    assert times[-1] > 1000 > max(times[:-1])
    assert all((one != other).any() for one, other in itertools.pairwise(pictures))
    assert max(path.stat().st_size, video.stat().st_size) < 2_000_000
    av = pytest.importorskip("av")
    with av.open(video) as container:
        frames = [frame.to_ndarray(format="gray").astype(np.float64) for frame in container.decode(video=0)]
    assert len(frames) > evolution.MOST_FRAMES
    assert frames[0].shape == pictures[0].shape
    assert np.abs(frames[-1] - pictures[-1]).mean() < 3


def test_a_single_step_and_a_summary_are_no_film(tmp_path):
    run = make_run("a", steps=(0,))
    assert evolution.films(combine([run]), [run]) == {}
    assert figures.write(combine([run]), [run], tmp_path, ("gif",)) == []


def test_networks_of_other_layers_are_left_out():
    runs = [make_run("a", switches=0), make_run("b", switches=0, layers=2), make_run("c", switches=0, seed=4)]
    found = film("rho", *runs)
    assert [text.get_text() for text in found.figure.legends[0].get_texts()] == ["a", "c"]
    assert len(film("rho", *two_groups()).figure.axes[1].get_yticks()) == 4


def test_many_gates_have_no_dots(monkeypatch):
    monkeypatch.setattr(evolution, "MOST_GATES", 10)
    found = film("rho", make_run("a"))
    assert not any(isinstance(artist, mpl.collections.PathCollection) for artist in found.moving)
