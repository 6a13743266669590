"""Texts of figures are whole, and none runs into another, at the width of a page and of a column."""

from itertools import combinations

import matplotlib as mpl
import pytest
from made_runs import make_run, two_groups
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from mixing_analysis import figures
from mixing_analysis.plots import COLUMN, STYLE, WIDTH
from mixing_analysis.values import combine


def settings(number):
    return {"model": {"class_path": "some.Model", "init_args": {"norm": f"n{number % 3}", "lr": number // 3}}}


RUNS = {
    "one network": [make_run("styles/version_0", layers=15, shapes=True)],
    "two groups": two_groups(layers=6, shapes=True, metrics={"val/loss": 1.0}),
    "three architectures": [
        make_run(name, layers=len(name), seed=len(name), shapes=True) for name in ("a", "bb", "ccc")
    ],
    "long names": [
        make_run(
            f"a long name of a group {i}", seed=i, shapes=True, metrics={"val/loss": i * i % 5.0}, config=settings(i)
        )
        for i in range(6)
    ],
}


def texts_of(figure):
    """All texts that are in view, with the boxes that they fill."""
    hidden = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
            outside = [tick for tick in axis.get_major_ticks() if not low - 1e-9 <= tick.get_loc() <= high + 1e-9]
            hidden |= {label for tick in outside for label in (tick.label1, tick.label2)}
    found = [each for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]
    return [(each, each.get_window_extent()) for each in found if each not in hidden]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("width", [WIDTH, COLUMN])
def test_no_text_is_cut_off_or_runs_into_another(name, width):
    runs = RUNS[name]
    with mpl.rc_context(STYLE):
        for what, draw in figures.drawings(combine(runs), runs).items():
            figure = draw(width=width)
            if figure is None:
                continue
            FigureCanvasAgg(figure).draw()
            texts = texts_of(figure)
            for text, box in texts:
                inside = box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1
                assert inside, (what, text.get_text())
            names = {axes.xaxis.label for axes in figure.axes}
            titles = {each for axes in figure.axes for each, _ in texts if each.get_text() == axes.get_title("left")}
            along = [
                {label for tick in axes.xaxis.get_major_ticks() for label in (tick.label1, tick.label2)}
                for axes in figure.axes
            ]
            for group in (names, titles, *along):
                own = [(text.get_text(), box) for text, box in texts if text in group]
                assert not [(what, a, b) for (a, one), (b, other) in combinations(own, 2) if one.overlaps(other)]
