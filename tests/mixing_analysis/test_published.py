"""What was published stands beside runs that compare with it, and nowhere else."""

import numpy as np
import pytest

from mixing_analysis import figures, report
from mixing_analysis.comparisons import compare
from mixing_analysis.console_tables import tables_of
from mixing_analysis.published import PUBLISHED, published
from mixing_analysis.values import Run, combine, frame
from norms.kinds import MEAN_WEIGHT, RHO


def run_of(model="lightning_modules.Classifier", data="data.CIFAR10", steps=64_000, name="run", config=True, **more):
    values = {step: {"00.norm/rho": np.linspace(0, 1, 10, dtype=np.float32), **more} for step in (0, steps)}
    settings = {"model": {"class_path": model, "init_args": {}}, "data": {"class_path": data}}
    return Run(name, f"runs/{name}", frame(values), name, config=settings if config else None)


COMPARABLE = [{}, {"data": "mypackage.CIFAR100"}, {"model": "mypackage.ResNetClassifier", "steps": 10_000}]

OTHERS = [
    {"steps": 40},
    {"model": "lightning_modules.StyleTransfer", "data": "data.BundledPhotos"},
    {"data": "data.BundledDigits"},
    {"model": "lightning_modules.GAN"},
    {"config": False},
]


@pytest.mark.parametrize("settings", COMPARABLE)
def test_runs_that_compare(settings):
    assert published(RHO, [run_of(**settings)]) is PUBLISHED["rho"]


@pytest.mark.parametrize("settings", OTHERS)
def test_runs_that_do_not(settings):
    assert published(RHO, [run_of(**settings)]) is None
    assert published(RHO, [run_of(), run_of(**settings, name="other")]) is None, "one of those shown does not"


def test_nothing_is_published_of_other_kinds():
    weights = {"01.norm/mean_weight": np.full(3, 1 / 3, np.float32)}
    assert published(MEAN_WEIGHT, [run_of(**weights)]) is None
    only_weights = Run("weights", "weights", frame({0: weights}), "weights")
    assert published(RHO, [run_of(), only_weights]) is PUBLISHED["rho"], "a run without rho is beside the point"


def told(run, tmp_path):
    table = combine([run])
    drawn = figures.drawings(table, [run])["rho_histogram"]()
    shown = next(tables_of(table, [run], None, compare(table, [run])))
    page = report.write(table, [run], None, tmp_path / "report.html").read_text()
    return [text.get_text() for legend in drawn.legends for text in legend.get_texts()], shown, page


def test_it_says_of_which_network_and_data(tmp_path):
    words = "a ResNet-110 that classifies CIFAR images"
    legend, shown, page = told(run_of(), tmp_path)
    assert legend == [f"{words}: Nam & Kim 2018, figure 2"]
    assert shown.caption.startswith(f"* In {words} (Nam & Kim 2018, figure 2). ")
    assert [list(column.cells)[-1] for column in shown.columns] == ["published*", "", "", "about 10%", "about 72%", ""]
    assert f"Dashed: about the shares in {words} (Nam &amp; Kim 2018, figure 2)." in page
    assert f'"subject":"{words}"' in page


@pytest.mark.parametrize("settings", OTHERS[:2])
def test_beside_other_networks_there_is_no_word_of_it(settings, tmp_path):
    legend, shown, page = told(run_of(**settings), tmp_path)
    assert legend == []
    assert "published*" not in list(shown.columns[0].cells)
    assert "Nam" not in shown.caption
    assert "Dashed: about" not in page
    assert '"published":null' in page
