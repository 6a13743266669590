"""What the page says in words: of what was published, of what may be noise, and of differences."""

import numpy as np
import pytest
from chromium import Chromium, find
from made_runs import make_run, two_groups

from mixing_analysis import report
from mixing_analysis.comparisons import compare
from mixing_analysis.values import combine

CIFAR = {"model": {"class_path": "lightning_modules.Classifier"}, "data": {"class_path": "data.CIFAR10"}}

RUNS = {
    "one": lambda: [make_run("one/version_0", steps=tuple(range(0, 110, 10)))],
    "groups": lambda: two_groups(seeds=3),
    "mixed": lambda: [make_run("rho", switches=0), make_run("switch", layers=0, steps=(0, 30))],
    "still": lambda: [make_run("still", drift=0.04, spread=0.04)],
    "alike": lambda: [make_run(f"{name}/{i}", name, seed=i + 3 * (name == "b")) for name in "ab" for i in range(3)],
    "apart": lambda: [make_run(f"apart/{seed}", seed=seed) for seed in range(2)],
    "pairs": lambda: two_groups(seeds=2),
    "seeded": lambda: [
        make_run(f"{name}/{seed}", name, seed=seed + 9 * (name == "b"), config={"seed_everything": seed})
        for name in "ab"
        for seed in range(3)
    ],
    "ends": lambda: [make_run("short", steps=(0, 40)), make_run("long", seed=1, steps=(0, 900))],
    "two": lambda: [make_run(f"two/{seed}", seed=seed, drift=0.04) for seed in range(2)],
    "published": lambda: [make_run("long", switches=0, steps=(0, 20_000), config=CIFAR)],
    "partly": lambda: [make_run("switch", layers=0), make_run("a", switches=0), make_run("b", switches=0, layers=2)],
}

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with Chromium(find()) as chromium:
        yield chromium


@pytest.fixture
def show(browser, tmp_path):
    """Open a page of runs, draw all of it, and check in the end that nothing went wrong meanwhile."""

    def opened(name):
        runs = RUNS[name]()
        browser.screen(1440, 900)
        browser.open(report.write(combine(runs), runs, None, tmp_path / f"{name}.html"))
        browser.run("redraw(true)")
        assert "NaN" not in text(browser, "main")
        assert "undefined" not in text(browser, "main")
        return runs

    yield opened
    assert browser.errors == []
    assert browser.requests == []


def text(browser, selector):
    return browser.run(f"document.querySelector({selector!r}).textContent")


def finding(browser, figure):
    return text(browser, f"#{figure} .finding").replace("\u00a0", " ")


def test_what_was_published_is_told_with_its_network_and_data(show, browser):
    show("published")
    head = browser.run("[...document.querySelectorAll('#rho-histogram th')].map(node => node.textContent)")
    assert [name for name in head if name == "published"] == ["published"] * 2
    network = "a ResNet-110 that classifies CIFAR images"
    told = f"In {network} about 10 % and 72 % are (Nam & Kim 2018, figure 2)."
    assert told in finding(browser, "rho-histogram")
    assert f"about 72 % in {network} (Nam & Kim 2018, figure 2)" in text(browser, "#numbers").replace("\u00a0", " ")
    assert f"Dashed: about the shares in {network}" in text(browser, "#rho-histogram figcaption")
    rows = browser.run(
        "[...document.querySelectorAll('#rho-histogram tbody tr')].map(row => "
        "[row.cells[2], row.cells[5]].map(cell => cell.textContent.replaceAll('\\u00a0', ' ')))"
    )
    assert rows == [["≈ 10 %", "≈ 72 %"], ["≈ 21 %", ""], ["", ""], ["≈ 7 %", ""]]


def test_what_may_be_noise_is_no_finding(show, browser):
    show("still")
    still = "No preference yet: the middle half of the gates of every layer is within 0.05 of 1, where training began."
    for figure in ("rho-depth", "rho-channels", "rho-bimodality", "rho-gamma"):
        assert finding(browser, figure) == still, figure
    assert finding(browser, "rho-histogram").endswith(still)
    assert finding(browser, "rho-training").startswith("The mean rho has hardly moved: from 1.000 at step 0 to 0.9")
    nothing = "On average over the layers: no preference yet in the means and no preference yet in the variances."
    assert finding(browser, "switch-layers") == nothing
    assert finding(browser, "switch-training") == "No preference yet: the weights are still within 0.05 of ⅓ each."


def test_what_is_more_is_one(show, browser):
    (run,) = show("one")
    means = [rho.mean() for rho in last_layers(run)]
    assert finding(browser, "rho-depth").startswith(f"Layer means run from {min(means):.2f} (")
    assert finding(browser, "rho-channels").startswith("No channel leans to instance normalization: ")
    assert finding(browser, "rho-training").startswith("The mean rho goes from 1.000 at step 0 to ")
    found = finding(browser, "switch-layers")
    assert found.startswith("On average over the layers: ")
    for moment, kind in (("means", "mean_weight"), ("variances", "var_weight")):
        rows = run.frame[(run.frame["kind"] == kind) & (run.frame["step"] == 100)]
        average = rows.groupby("statistic", observed=True)["value"].mean().sort_values()
        if average.iloc[-1] - average.iloc[-2] >= 0.05:
            assert f"{average.index[-1]} statistics lead in the {moment} ({average.iloc[-1]:.2f})" in found
        else:
            assert f"none lead in the {moment}, though layers differ" in found


def test_layers_that_lean_are_named(show, browser):
    show("groups")
    assert finding(browser, "rho-channels").startswith("Leaning most to instance normalization: ")
    assert finding(browser, "difference").startswith("Beyond seeds 2 of 4 layers differ (Holm-corrected p < 0.05), ")


def last_layers(run):
    rows = run.frame[(run.frame["kind"] == "rho") & (run.frame["step"] == max(run.steps))]
    return [part["value"].to_numpy(np.float64) for _, part in rows.groupby("layer", observed=True)]


def test_seeds_that_differ_as_far_make_no_difference(show, browser):
    runs = show("alike")
    rows = compare(combine(runs), runs).rows.query("kind == 'rho' and measure == 'mean'")
    smallest = rows["p_holm"].min()
    assert smallest > 0.05
    assert finding(browser, "difference").startswith(
        f"No difference beyond seeds in 4 layers: the smallest Holm-corrected p = {smallest:.2g}. "
    )
    show("two")
    assert finding(browser, "difference").startswith("No difference yet: none is larger than 0.0")


def test_single_runs_and_two_seeds_say_what_would_be_needed(show, browser):
    show("apart")
    assert finding(browser, "difference").endswith(
        "A single run on a side cannot tell that from its seed; three to five seeds on each side would."
    )
    show("pairs")
    assert finding(browser, "difference").endswith(
        "Two seeds on a side can hardly tell; three to five seeds on each side would."
    )


def test_differences_open_on_what_has_common_layers(show, browser):
    show("partly")
    assert browser.run("[state.first, state.second, measures[state.measure].words]") == ["1", "2", "mean rho"]
    assert browser.run("document.querySelectorAll('#difference circle').length") == 2


@pytest.mark.parametrize("name", ["mixed", "one"])
def test_where_nothing_is_in_common_there_are_no_differences(name, show, browser):
    show(name)
    assert not browser.run("Boolean(document.getElementById('differences'))")


NUMBERS = ["difference", "low", "high", "g", "g_low", "g_high", "p_holm"]


def shown_differences(browser):
    rows = browser.run(f"layerDifferences().map(row => {NUMBERS}.map(name => row[name]))")
    return dict(zip(NUMBERS, np.array(rows).T, strict=True))


def test_differences_can_be_turned_around(show, browser):
    show("groups")
    before, words = shown_differences(browser), finding(browser, "difference")
    for key, index in (("first", 1), ("second", 0)):
        select = f"document.querySelector('#difference [data-key={key}]')"
        browser.run(f"{select}.selectedIndex = {index}; {select}.dispatchEvent(new Event('change'))")
        browser.settle()
    after = shown_differences(browser)
    for name, other in zip(NUMBERS, ["difference", "high", "low", "g", "g_high", "g_low"], strict=False):
        np.testing.assert_allclose(after[name], np.negative(before[other]))
    np.testing.assert_allclose(after["p_holm"], before["p_holm"])
    assert finding(browser, "difference") == words


def test_it_says_how_and_at_which_step_is_compared(show, browser):
    visible = "[...document.querySelectorAll('#difference figcaption span')].filter(node => !node.hidden)"
    show("groups")
    caption = browser.run(f"{visible}.map(node => node.textContent).join(' ')")
    assert "At step 100, the last that all runs of both have." in caption
    assert "Welch's t" in caption
    assert "paired t" not in caption
    assert text(browser, "#answers").startswith(
        "Over the whole network the 2 groups differ in rho: mean rho (Welch's t"
    )
    show("seeded")
    caption = browser.run(f"{visible}.map(node => node.textContent).join(' ')")
    assert "paired t" in caption
    show("ends")
    assert "long at step 900" in text(browser, "#compared-at").replace("\u2009", "")
    assert "the runs end at different steps, from 40 to 900" in text(browser, "#notes-list")
