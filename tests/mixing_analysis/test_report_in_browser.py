"""The page in a real browser: it loads in silence, its controls work, and what it shows is what was read."""

import numpy as np
import pandas as pd
import pytest
from chromium import Chromium, find
from made_runs import make_run, two_groups

from mixing_analysis import report
from mixing_analysis.comparisons import compare
from mixing_analysis.values import combine

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with Chromium(find()) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page for each combination of runs that is tested."""
    groups = two_groups(seeds=3)
    binarized = pd.DataFrame(
        [(run.name, "val/loss", "as trained", 1.0, 1.5 + index) for index, run in enumerate(groups)],
        columns=["run", "metric", "statistics", "learned", "binarized"],
    )
    runs = {
        "one": [make_run("one/version_0", steps=tuple(range(0, 110, 10)))],
        "rho": [make_run("rho", switches=0)],
        "switch": [make_run("switch", layers=0)],
        "step": [make_run("step", steps=(0,), gamma=False)],
        "groups": groups,
        "mixed": [make_run("rho", switches=0), make_run("switch", layers=0, steps=(0, 30))],
        "many": [make_run(f"run_{index:02d}", seed=index) for index in range(9)],
        "hostile": [make_run('<img src=x onerror="alert(1)"> & a name of many characters that goes on and on')],
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, given in runs.items():
        report.write(
            combine(given), given, binarized if name == "groups" else None, folder / f"{name}.html", ["a note"]
        )
    return {name: (folder / f"{name}.html", given) for name, given in runs.items()}


@pytest.fixture
def show(browser, pages):
    """Open a page, draw all of it, and check in the end that nothing went wrong meanwhile."""

    def opened(name, width=1440, dark=False):
        path, runs = pages[name]
        browser.screen(width, 900, dark)
        browser.open(path)
        browser.run("redraw(true)")
        return runs

    yield opened
    assert browser.errors == []
    assert browser.requests == []


def last_gates(run):
    rows = run.frame[(run.frame["kind"] == "rho") & (run.frame["step"] == max(run.steps))]
    return rows["value"].to_numpy(np.float64)


def move_to(browser, index):
    browser.run(f"""{{ const slider = document.getElementById("step");
        slider.value = {index}; slider.dispatchEvent(new Event("input", {{ bubbles: true }})); }}""")
    browser.settle()


def click(browser, selector):
    """Click on an element as a pointer does, where it is."""
    place = browser.run(f"""{{ const node = document.querySelector({selector!r});
        node.scrollIntoView({{ block: "center" }});
        const box = node.getBoundingClientRect(); [box.left + box.width / 2, box.top + box.height / 2] }}""")
    browser.point(*place, click=True)
    browser.settle()


def shown(browser, figure):
    return browser.run(f"document.querySelector('#{figure} .panels').innerHTML")


def text(browser, selector):
    return browser.run(f"document.querySelector({selector!r}).textContent")


def cells(browser, selector):
    return browser.run(
        f"[...document.querySelectorAll({selector!r})].map(row => "
        "[...row.cells].map(cell => cell.textContent.replaceAll('\\u00a0', ' ')))"
    )


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["one", "rho", "switch", "step", "groups", "mixed", "many", "hostile"])
def test_every_page_loads_in_silence_and_fits(name, width, dark, show, browser):
    show(name, width, dark)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(
        "[...document.querySelectorAll('figure')].every(figure => figure.querySelector('svg, table, p'))"
    )
    unseen = (
        "[...document.querySelectorAll('svg.plot *')].filter(node => /NaN|undefined|Infinity/.test(node.outerHTML))"
    )
    assert browser.run(f"{unseen}.map(node => node.outerHTML)") == []
    assert "NaN" not in text(browser, "main")
    assert "undefined" not in text(browser, "main")


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("one", {"rho", "switch"}),
        ("rho", {"rho"}),
        ("switch", {"switch"}),
        ("groups", {"rho", "switch", "binarized"}),
    ],
)
def test_a_section_is_there_if_its_values_are(name, sections, show, browser):
    show(name)
    found = browser.run("[...document.querySelectorAll('section[data-section]')].map(node => node.dataset.section)")
    assert set(found) == sections - {"binarized"}
    assert browser.run("Boolean(document.getElementById('binarized'))") == ("binarized" in sections)
    assert browser.run("Boolean(document.getElementById('differences'))") == (name == "groups")


def test_a_single_step_has_no_trainings_and_no_slider(show, browser):
    show("step")
    ids = browser.run("[...document.querySelectorAll('figure')].map(node => node.id)")
    of_rho = ["rho-histogram", "rho-depth", "rho-channels", "rho-relations"]
    assert ids == [*of_rho, "switch-layers"]
    assert browser.run("document.getElementById('controls').hidden")


def test_it_says_what_was_read(show, browser):
    (run,) = show("one")
    gates = last_gates(run)
    assert text(browser, "#lead").endswith("became in one/version_0: 6 layers, from step 0 to 100.")
    assert cells(browser, "#runs tbody tr") == [
        ["one/version_0", "runs/one/version_0", "6", "44", "0 to 100, 11 logged"]
    ]
    assert text(browser, "#numbers dd").startswith(f"{gates.mean():.2f}")
    assert "a note" in text(browser, "#notes-list")


def test_shares_are_those_of_the_gates(show, browser):
    (run,) = show("one")
    gates = last_gates(run)
    network = cells(browser, "#rho-histogram tbody tr")[0]
    below, above = ((gates < 0.1).mean(), (gates > 0.9).mean())
    assert network == [
        "Whole network",
        f"{below:.1%}".replace("%", " %"),
        f"{1 - below - above:.1%}".replace("%", " %"),
        f"{above:.1%}".replace("%", " %"),
        f"{gates.mean():.3f}",
    ]
    assert "ResNet" not in text(browser, "main")


def test_the_slider_moves_through_the_training(show, browser):
    show("one")
    figures = ("rho-histogram", "rho-depth", "rho-channels", "switch-layers", "rho-training")
    before = {figure: shown(browser, figure) for figure in figures}
    move_to(browser, 0)
    assert text(browser, "#step-text") == "step 0 of 100"
    assert cells(browser, "#rho-histogram tbody tr")[0][-1] == "1.000"
    click(browser, "#rho-histogram h3")
    browser.run("redraw(true)")
    for figure in figures:
        assert shown(browser, figure) != before[figure], figure
    move_to(browser, 10)
    browser.run("redraw(true)")
    for figure in figures:
        assert shown(browser, figure) == before[figure], figure


def test_play_goes_to_the_last_step(show, browser):
    show("one")
    move_to(browser, 8)
    browser.run(
        "window.seen = new Set(); new MutationObserver(() => "
        "seen.add(document.getElementById('step-text').textContent))"
        ".observe(document.getElementById('step-text'), { childList: true, characterData: true, subtree: true }); 0"
    )
    click(browser, "#play")
    browser.wait_for("state.step === 100 && !playing")
    browser.settle()
    assert text(browser, "#play") == "Play"
    assert set(browser.run("[...seen]")) == {"step 90 of 100", "step 100 of 100"}
    click(browser, "#play")
    assert text(browser, "#play") == "Pause"
    browser.wait_for("state.step > 0 && state.step < 100")
    click(browser, "#play")
    assert text(browser, "#play") == "Play"


@pytest.mark.parametrize("figure", ["rho-training", "rho-gamma", "switch-training"])
def test_a_layer_is_chosen_from_the_list(figure, show, browser):
    show("one")
    before = shown(browser, figure)
    select = f"document.querySelector('#{figure} select')"
    browser.run(f"{select}.focus(); {select}.selectedIndex = 2; {select}.dispatchEvent(new Event('change'))")
    browser.settle()
    browser.run("redraw(true)")
    assert shown(browser, figure) != before
    assert browser.run(f"document.activeElement === {select}")
    assert browser.run(f"{select}.selectedIndex") == 2


def test_a_layer_is_chosen_by_its_small_plot(show, browser):
    show("one")
    large = "#rho-training .panels .panels:first-child .line.fine"
    tracks = f"document.querySelectorAll({large!r}).length"
    assert browser.run(tracks) == 4
    click(browser, "#rho-training .mini:nth-child(2)")
    # Ten channels are in the second layer.
    assert browser.run(tracks) == 10
    assert browser.run("document.querySelector('#rho-training select').value") == "01.block.norm1"
    assert browser.run("document.activeElement.title") == "01.block.norm1"
    browser.press("Enter")
    assert browser.run(tracks) == 4


def test_small_plots_show_means_or_variances(show, browser):
    show("one")
    minis = "document.querySelector('#switch-training .minis').innerHTML"
    before = browser.run(minis)
    click(browser, "#switch-training .choice button:last-child")
    assert browser.run(minis) != before


def marks(browser, figure):
    return browser.run(f"document.querySelectorAll('#{figure} .mark').length")


def test_groups_are_averages_and_unfold_to_runs(show, browser):
    runs = show("groups")
    expected = [np.mean([last_gates(run).mean() for run in runs if run.group == group]) for group in ("slow", "fast")]
    spread = [
        np.std([last_gates(run).mean() for run in runs if run.group == group], ddof=1) for group in ("slow", "fast")
    ]
    rows = cells(browser, "#rho-histogram tbody tr")
    assert [row[1] for row in rows[:2]] == ["slow", "fast"]
    assert [row[-1] for row in rows[:2]] == [
        f"{mean:.3f} ± {std:.3f}" for mean, std in zip(expected, spread, strict=True)
    ]
    assert marks(browser, "rho-depth") == 2 * 4
    click(browser, "#unit button:last-child")
    browser.run("redraw(true)")
    assert marks(browser, "rho-depth") == 6 * 4
    assert len(cells(browser, "#rho-histogram tbody tr")) == 4 * 6
    assert browser.run("document.querySelectorAll('#switch-layers .plot').length") == 6 * 2


def test_runs_are_shown_and_hidden(show, browser):
    show("groups")
    click(browser, "#chips .chip:first-child")
    browser.run("redraw(true)")
    assert marks(browser, "rho-depth") == 4
    assert [row[0] for row in cells(browser, "#rho-histogram tbody tr")][:2] == ["Whole network", "Lower third"]
    # The last one cannot be hidden.
    assert browser.run("document.querySelector('#chips input:checked').disabled")
    click(browser, "#chips .chip:first-child")
    browser.run("redraw(true)")
    assert marks(browser, "rho-depth") == 8


def test_sections_follow_what_is_shown(show, browser):
    show("mixed")
    hidden = "[...document.querySelectorAll('section[data-section]')].map(section => section.hidden)"
    assert browser.run(hidden) == [False, False]
    click(browser, "#chips .chip:first-child")
    assert browser.run(hidden) == [True, False]
    assert text(browser, "#step-text") == "step 30 of 30"
    click(browser, "#chips .chip:first-child")
    assert browser.run(hidden) == [False, False]
    click(browser, "#chips .chip:last-child")
    assert browser.run(hidden) == [False, True]
    browser.run("redraw(true)")
    assert marks(browser, "rho-depth") == 4


def test_many_runs_are_searched(show, browser):
    show("many")
    assert browser.run("document.querySelectorAll('#chips .chip').length") == 6
    click(browser, "#picker summary")
    assert browser.run("document.querySelectorAll('#picker input:disabled').length") == 3
    click(browser, "#chips .chip:first-child")
    browser.run("document.getElementById('picker').open = true; document.getElementById('search').focus()")
    browser.send("Input.insertText", text="_08")
    browser.settle()
    assert browser.run("[...document.querySelectorAll('#picker .chip')].map(node => node.textContent)") == ["run_08"]
    click(browser, "#picker .chip")
    names = browser.run("[...document.querySelectorAll('#chips .chip')].map(node => node.textContent)")
    assert names == ["run_01", "run_02", "run_03", "run_04", "run_05", "run_08"]
    assert browser.run("new Set(state.shown.map(one => one.color)).size") == 6


def test_differences_are_those_of_the_table(show, browser):
    runs = show("groups")
    found = compare(combine(runs), runs).rows
    browser.run("Object.assign(state, { first: '0', second: '1' })")
    columns = ["difference", "low", "high", "g", "g_low", "g_high", "p", "p_holm"]
    for words, kind, measure in [
        ("mean rho", "rho", "mean"),
        ("share of rho above 0.9", "rho", "above"),
        ("instance weight of means", "mean_weight", "instance"),
        ("batch weight of variances", "var_weight", "batch"),
    ]:
        browser.run(f"state.measure = String(measures.findIndex(({{ words }}) => words === {words!r}))")
        names = browser.run("layerDifferences().map(row => row.layer.name)")
        rows = browser.run(f"layerDifferences().map(row => {columns}.map(name => row[name]))")
        of = found[(found["kind"] == kind) & (found["measure"] == measure)]
        assert names == of["layer"].tolist()
        np.testing.assert_allclose(np.array(rows, float), of[columns], atol=6e-4)
    assert browser.run("document.querySelectorAll('#difference circle').length") == 4
    browser.run("state.measure = '0'; update()")
    browser.settle()
    assert (
        browser.run("document.querySelectorAll('#difference .clear').length")
        == (found.query("kind == 'rho' and measure == 'mean'")["p_holm"] < 0.05).sum()
    )
    assert len(cells(browser, "#difference tbody tr")) == 4


def test_binarized_evaluations_are_averaged_over_seeds(show, browser):
    show("groups")
    assert cells(browser, "#binarized tbody tr") == [
        ["slow", "val/loss", "as trained", "1.000 ± 0.0", "2.500 ± 1.0", "+1.5 ± 1.0"],
        ["fast", "val/loss", "as trained", "1.000 ± 0.0", "5.500 ± 1.0", "+4.5 ± 1.0"],
    ]


def test_values_are_told_to_the_pointer(show, browser):
    (run,) = show("one")
    bar = "[...document.querySelector('#rho-histogram .plot').querySelectorAll('rect:not(.published)')].at(-1)"
    browser.run(f"{bar}.scrollIntoView({{ block: 'center' }})")
    browser.settle()
    box = browser.run(f"{{ const box = {bar}.getBoundingClientRect(); [box.left, box.top, box.width] }}")
    browser.point(box[0] + box[2] / 2, box[1] + 2)
    gates = last_gates(run)
    assert not browser.run("document.getElementById('tip').hidden")
    told = text(browser, "#tip").replace("\u00a0", " ")
    assert told == f"rho 0.9 to 1.0share{(gates > 0.9).mean():.1%}gates{(gates > 0.9).sum()}".replace("%", " %")
    browser.point(2, 2)
    assert browser.run("document.getElementById('tip').hidden")


def test_values_are_told_to_the_keyboard(show, browser):
    show("one")
    browser.run("document.querySelector('#rho-depth .plot').focus()")
    browser.press("ArrowRight")
    first = text(browser, "#say")
    assert first.startswith("00.block.norm0, ")
    browser.press("ArrowDown")
    assert text(browser, "#say") != first
    assert not browser.run("document.getElementById('tip').hidden")
    browser.press("Escape")
    assert browser.run("document.getElementById('tip').hidden")


def test_every_control_is_reached_by_the_keyboard(show, browser):
    show("groups")
    wanted = browser.run("""document.querySelectorAll(
        'button, select, input:not(:disabled):not(#search), svg.plot[tabindex="0"]').length""")
    reached = set()
    for _ in range(wanted + 40):
        browser.press("Tab")
        name = browser.run("""{ const node = document.activeElement;
            node === document.body ? '' : node.dataset.key ?? node.id ?? '' + node.className }""")
        reached.add(name)
    assert {
        "play",
        "step",
        "show:slow",
        "unit:run",
        "rho-layer",
        "rho-gamma-layer",
        "switch-moment:1",
        "measure",
    } <= reached


def test_names_are_text(show, browser):
    (run,) = show("hostile")
    assert run.name in text(browser, "#runs")
    assert browser.run("document.querySelectorAll('img').length") == 0


def test_it_prints_in_light_colors(show, browser):
    show("groups", dark=True)
    background = "getComputedStyle(document.documentElement).backgroundColor"
    dark = browser.run(background)
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run(background) != dark
    browser.run("window.dispatchEvent(new Event('afterprint'))")
    assert browser.run(background) == dark
    printed = browser.send("Page.printToPDF", transferMode="ReturnAsBase64")["data"]
    assert len(printed) > 10_000
