"""The pictures of a page in a real browser: all are there, can be chosen and enlarged, and say what they show."""

import re

import pytest
from chromium import Chromium, find
from gan_runs import make_gan
from test_binarized import run_of
from test_pictures_of_versions import make, style_run

from lightning_modules.classifier import Classifier
from mixing_analysis import report
from mixing_analysis.values import combine

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium is installed")


def named(run, name):
    return type(run)(name, name, run.frame, name, run.config, run.checkpoint)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    gan = make_gan(norm="switchable", num_classes=2, architecture_options={"width": 0.25})
    classifier = Classifier(norm="batch_instance", widths=(4, 4), depths=(1, 1))
    runs = {
        "styles": style_run(folder, styles=["night", "waves"])[1],
        "gan": run_of(gan, folder / "gan"),
        "classifier": run_of(classifier, folder / "classifier", "data.BundledDigits", {"image_size": 8}),
    }
    given = {}
    for name, run in runs.items():
        given[name] = [named(run, name)], [make(named(run, name), batches=1)]
    given["both"] = [[*given["styles"][which], *given["gan"][which]] for which in (0, 1)]
    given["none"] = given["styles"][0], []
    for name, (own, made) in given.items():
        report.write(combine(own), own, None, folder / f"{name}.html", pictures=made)
    return {name: (folder / f"{name}.html", made) for name, (_, made) in given.items()}


@pytest.fixture
def show(pages):
    with Chromium(find()) as browser:

        def opened(name, width=1440):
            path, made = pages[name]
            browser.screen(width, 900)
            browser.open(path)
            browser.run("redraw(true)")
            return browser, made

        yield opened
        assert browser.errors == []
        assert browser.requests == []


def labels(browser, figure):
    return browser.run(f"[...document.querySelectorAll('#{figure} .tile svg')].map(n => n.getAttribute('aria-label'))")


def captions(browser, figure):
    found = browser.run(f"[...document.querySelectorAll('#{figure} .tile')].map(n => n.innerText)")
    return [each.replace("\N{MINUS SIGN}", "-") for each in found]


def test_versions_are_shown_with_their_scores_and_changes(show):
    browser, (made,) = show("styles")
    found = captions(browser, "versions")
    assert [each.split("\n")[0] for each in found] == ["given", "as learned", "binarized", "all batch", "all instance"]
    for style in range(2):
        browser.run(f"document.querySelectorAll('#versions .options button')[{style}].click()")
        browser.settle()
        learned = made.versions[0].scores["val/loss"]
        for caption, version in zip(captions(browser, "versions")[2:], made.versions[1:], strict=True):
            score = version.scores["val/loss"]
            assert f"val/loss {score:.4g}" in caption
            assert f", {score - learned:+.3f}\n" in caption
            assert f"pixels differ by {version.changes[style]:.3f}" in caption
        assert all("in the style " + ("night", "waves")[style] in label for label in labels(browser, "versions"))
    finding = browser.run("document.querySelector('#versions .finding').textContent")
    assert f"val/loss on {made.count} held-out image" in finding


def test_each_picture_is_its_part_of_the_sheet(show):
    browser, (made,) = show("styles")
    boxes = browser.run("[...document.querySelectorAll('#versions .tile svg')].map(n => n.getAttribute('viewBox'))")
    height, width = made.sheet.size
    assert boxes == [f"{column * (width + 4)} 0 {width} {height}" for column in range(5)]
    assert browser.run("[...document.querySelectorAll('#versions image')].every(n => n.getBBox().width > 0)")


@pytest.mark.parametrize("name", ["styles", "gan", "classifier"])
def test_activations_of_the_chosen_channel(name, show):
    browser, (made,) = show(name)
    assert len(made.channels) >= 2
    for place, channel in enumerate(made.channels[:2]):
        own = channel.activations
        browser.run(f"""{{ const list = document.querySelector('#activations select');
            list.selectedIndex = {place}; list.dispatchEvent(new Event("change")); }}""")
        browser.run("redraw(true)")
        found = captions(browser, "activations")
        ways = len(own.ways) + 1
        assert len(found) == ways * len(own.images)
        for image, number_of in enumerate(own.images):
            row = found[image * ways : (image + 1) * ways]
            assert row[0] == f"image {number_of + 1} of {own.compared}"
            for caption, way, means in zip(row[1:], own.ways, own.means, strict=True):
                assert caption == f"{way}\nmean {means[image]:.3f}"
        finding = browser.run("document.querySelector('#activations .finding').textContent")
        start = f"Channel {own.channel} of {own.layer} is {own.means[0][0]:.3f} on average"
        assert finding.replace("\N{MINUS SIGN}", "-").startswith(start)


def test_generators_have_no_picture_of_what_is_given(show):
    browser, _ = show("gan")
    found = captions(browser, "versions")
    assert [each.split("\n")[0] for each in found] == [
        "as learned",
        "binarized",
        "all batch",
        "all instance",
        "all layer",
    ]
    assert all("d_fake" in each for each in found)


def test_a_classifier_has_a_table(show):
    browser, (made,) = show("classifier")
    assert labels(browser, "versions") == []
    rows = browser.run("[...document.querySelectorAll('#versions tr')].map(n => [...n.cells].map(c => c.textContent))")
    assert rows[0] == ["Version", "val/loss", "val/accuracy", "change of val/loss"]
    assert [row[0] for row in rows[1:]] == ["as learned", "binarized", "all batch", "all instance"]
    assert [float(row[1]) for row in rows[1:]] == [pytest.approx(v.scores["val/loss"], rel=1e-3) for v in made.versions]


def test_a_picture_can_be_enlarged_and_is_closed_again(show):
    browser, _ = show("styles")
    browser.run("document.querySelector('#versions .tile button').click()")
    browser.settle()
    assert browser.run("document.getElementById('large').open")
    assert "The held-out image as it is" in browser.run("document.getElementById('large').innerText")
    browser.press("Escape")
    assert not browser.run("document.getElementById('large').open")


@pytest.mark.parametrize("width", [1440, 390])
def test_several_runs_stand_below_each_other_and_nothing_is_cut_off(width, show):
    browser, _ = show("both", width)
    assert len(labels(browser, "versions")) == 5 + 5
    assert browser.run("document.documentElement.scrollWidth") <= width
    size = browser.run("document.querySelector('#versions .tile svg').getBoundingClientRect().width")
    assert 256 <= size <= 384
    browser.run("document.querySelector('#chips input').click()")
    browser.settle()
    browser.run("redraw(true)")
    assert len(labels(browser, "versions")) == 5


def test_a_report_without_pictures_says_nothing_of_them(show):
    browser, _ = show("none")
    assert browser.run("document.getElementById('versions')") is None
    assert not re.search("What the gates do", browser.run("document.body.innerText"))


def test_on_paper_where_nothing_can_be_chosen_it_is_said_what_is_shown(show):
    browser, (made,) = show("styles")
    browser.run("document.querySelectorAll('#versions .options button')[1].click()")
    browser.settle()
    words = (
        "[...document.querySelectorAll('figure .printed')].map(n => n.innerText && n.offsetHeight ? n.innerText : '')"
    )
    assert browser.run(words) == ["", ""]
    browser.send("Emulation.setEmulatedMedia", media="print")
    channel = made.channels[0].activations
    assert browser.run(words) == ["in the style waves", f"channel {channel.channel} of {channel.layer}"]
