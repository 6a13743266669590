"""Relations, styles and outcomes on the page show what Python has computed, and figures can be saved."""

import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from chromium import Chromium, find
from made_runs import make_run, two_groups
from matplotlib.image import imread
from test_multiples import many_styles

from mixing_analysis import report
from mixing_analysis.values import combine

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with Chromium(find()) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    groups = [
        replace(run, metrics={"val/loss": float(index), "val/kid": float(index % 2)})
        for index, run in enumerate(two_groups(layers=6, shapes=True))
    ]
    for name, runs in {"groups": groups, "styles": [many_styles()[0]]}.items():
        report.write(combine(runs), runs, None, folder / f"{name}.html")
    return folder, report.contents(combine(groups), groups)


@pytest.fixture
def show(browser, pages):
    def opened(name, dark=False):
        browser.screen(1440, 900, dark)
        browser.open(pages[0] / f"{name}.html")
        browser.run("redraw(true)")

    yield opened
    assert browser.errors == []
    assert browser.requests == []


def texts(browser, selector):
    return browser.run(f"[...document.querySelectorAll({selector!r})].map(node => node.textContent.trim())")


def test_ranks_are_those_of_python(show, browser, pages):
    show("groups")
    ranks = [text.replace("\u2212", "-") for text in texts(browser, "#rho-relations .rank")]
    assert sorted(ranks) == sorted(each["rank"] for each in pages[1]["relations"]["rho"])
    assert len(texts(browser, "#rho-relations .panel")) == 4
    marks = browser.run("document.querySelectorAll('#rho-relations svg.plot .mark').length")
    assert marks == 4 * 2 * 6
    assert texts(browser, "#rho-styles") == []


def test_outcomes_of_the_chosen_metric(show, browser, pages):
    show("groups")
    for metric in ("val/loss", "val/kid"):
        browser.run(f"""{{ const node = document.querySelector("#outcome select");
            node.value = {metric!r}; node.dispatchEvent(new Event("change", {{ bubbles: true }})); }}""")
        browser.settle()
        browser.run("redraw(true)")
        expected = [each["rank"] for each in pages[1]["outcomes"] if each["metric"] == metric]
        assert [text.replace("\u2212", "-") for text in texts(browser, "#outcome .rank")] == expected
        assert set(texts(browser, "#outcome h4")) == {metric}


def test_each_style_has_a_panel(show, browser):
    show("styles")
    assert texts(browser, "#rho-styles h4") == ["mosaic", "waves"]
    assert texts(browser, "#outcome") == []


@pytest.mark.parametrize("figure", ["rho-histogram", "rho-depth", "rho-relations", "switch-layers", "outcome"])
def test_a_saved_figure_needs_nothing_of_the_page(figure, show, browser):
    show("groups")
    drawing = ElementTree.fromstring(browser.run(f"standalone(document.getElementById({figure!r}))"))
    every = list(drawing.iter())
    for node in every:
        assert "class" not in node.attrib
        assert not any("var(" in value or "color-mix" in value or "px" in value for value in node.attrib.values())
    shapes = browser.run(f"document.querySelectorAll('#{figure} svg.plot :is(path, line, rect, circle)').length")
    assert sum(node.tag.endswith(("path", "line", "rect", "circle")) for node in every) >= shapes > 5
    words = {node.text for node in every if node.tag.endswith("text")}
    assert words >= {"slow", "fast"}
    assert words >= set(
        browser.run(f"[...document.querySelectorAll('#{figure} svg.plot text')].map(t => t.firstChild.data)")
    )


@pytest.mark.parametrize("dark", [False, True])
def test_the_buttons_save_files(dark, show, browser, tmp_path):
    show("groups", dark)
    browser.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.run("document.querySelectorAll('#rho-depth .save button').forEach(button => button.click())")
    end = time.monotonic() + 20
    while len(files := sorted(path.name for path in tmp_path.glob("rho-depth.???"))) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    assert files == ["rho-depth.png", "rho-depth.svg"]
    picture = imread(tmp_path / "rho-depth.png")[..., :3]
    assert (np.median(picture) < 0.5) == dark
    assert picture.std() > 0.03
    width = float(ElementTree.parse(tmp_path / "rho-depth.svg").getroot().get("width"))
    assert picture.shape[1] == 2 * width


def test_paper_has_no_buttons_but_the_names_of_what_is_shown(show, browser):
    show("groups")
    visible = "node => getComputedStyle(node).display !== 'none'"
    assert browser.run(f"[...document.querySelectorAll('.save')].some({visible})")
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert not browser.run(f"[...document.querySelectorAll('.save')].some({visible})")
    assert browser.run(f"[...document.querySelectorAll('.legend .shown')].every({visible})")
    assert set(texts(browser, "section[data-section=rho] .legend .shown > span")) == {
        "slow",
        "fast",
    }


def test_runs_of_a_group_are_followed_as_far_as_each_of_them_goes(browser, tmp_path):
    runs = [make_run("a/0", "a", steps=(0,)), *(make_run(f"a/{seed}", "a", seed=seed) for seed in (1, 2))]
    report.write(combine(runs), runs, None, tmp_path / "page.html")
    browser.screen(1440, 900)
    browser.open(tmp_path / "page.html")
    browser.run("choose('group'); redraw(true)")
    for figure, lines in (("rho", 2), ("switch", 2 * 6)):
        drawn = texts_of_lines(browser, f"#{figure}-training .fine")
        assert sum("L" in line for line in drawn) == lines, figure
    (words,) = texts(browser, "#rho-training .finding")
    assert words == "Of a there are no two steps that could be compared."
    assert browser.errors == []


def texts_of_lines(browser, selector):
    return browser.run(f"[...document.querySelectorAll({selector!r})].map(node => node.getAttribute('d') ?? '')")
