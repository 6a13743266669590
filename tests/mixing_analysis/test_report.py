"""What the page holds is what was read, as far as it has room."""

import base64
import json
import re

import numpy as np
import pandas as pd
import pytest
from made_runs import make_run, two_groups

from mixing_analysis import rendering as pages
from mixing_analysis import report
from mixing_analysis.plots import COLORS, GROUP_COLORS
from mixing_analysis.values import Run, bimodality, combine, frame

PRECISION = 0.5 / report.LARGEST


def contents(*runs, **options):
    return report.contents(combine(runs), runs, **options)


def unpack(text):
    return np.frombuffer(base64.b64decode(text), "<u2")


def shares(text):
    packed = unpack(text)
    return np.where(packed > report.LARGEST, np.nan, packed / report.LARGEST)


def values(run, kind, step):
    """The arrays of a run as they were given, by layer."""
    rows = run.frame[(run.frame["kind"] == kind) & (run.frame["step"] == step)]
    return {layer: part["value"].to_numpy(np.float64) for layer, part in rows.groupby("layer", observed=True)}


def written(tmp_path, *runs, **options):
    path = report.write(combine(runs), runs, options.pop("binarized", None), tmp_path / "report.html", **options)
    page = path.read_text()
    return page, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_every_layer_and_step_is_summarized():
    runs = [make_run("a"), make_run("b", seed=1, layers=3, steps=(0, 20))]
    page = contents(*runs)
    packed = {name: shares(text) for name, text in page["channels"]["rho"]["packed"].items() if name != "histogram"}
    counts = unpack(page["channels"]["rho"]["packed"]["histogram"]).reshape(-1, report.BINS)
    cells = 0
    for run, described in zip(runs, page["runs"], strict=True):
        layers = page["architectures"][described["architecture"]]["rho"]
        assert described["steps"] == run.steps
        assert described["cells"]["rho"] == cells
        for step in run.steps:
            for layer, rho in values(run, "rho", step).items():
                assert layers[cells % len(layers) if run is runs[0] else (cells - 12) % len(layers)]["name"] == layer
                expected = (rho.mean(), (rho < 0.1).mean(), (rho > 0.9).mean(), *np.quantile(rho, (0.25, 0.75)))
                found = [packed[name][cells] for name in ("mean", "below", "above", "lower", "upper")]
                np.testing.assert_allclose(found, expected, atol=2 * PRECISION)
                np.testing.assert_array_equal(counts[cells], np.histogram(rho, report.BINS, (0, 1))[0])
                cells += 1
    assert cells == len(counts) == len(packed["mean"])


def test_all_channels_of_all_steps_are_there_while_there_is_room():
    runs = two_groups(seeds=1)
    page = contents(*runs)
    channels = shares(page["channels"]["rho"]["packed"]["channels"])
    for run, described in zip(runs, page["runs"], strict=True):
        assert described["channels"]["rho"]["steps"] == len(run.steps)
        expected = np.concatenate([rho for step in run.steps for rho in values(run, "rho", step).values()])
        start = described["channels"]["rho"]["start"]
        np.testing.assert_allclose(channels[start : start + len(expected)], expected, atol=PRECISION)


def test_beyond_that_the_last_step_is_kept(monkeypatch):
    runs = [make_run("a", steps=(0, 10, 20)), make_run("b", seed=1, steps=(0, 10))]
    total = sum(len(rho) for run in runs for rho in values(run, "rho", run.steps[-1]).values())
    monkeypatch.setattr(report, "MOST_CHANNELS", total)
    page = contents(*runs)
    channels = shares(page["channels"]["rho"]["packed"]["channels"])
    assert len(channels) == total
    for run, described in zip(runs, page["runs"], strict=True):
        expected = np.concatenate(list(values(run, "rho", run.steps[-1]).values()))
        assert described["channels"]["rho"]["steps"] == 1
        np.testing.assert_allclose(
            channels[described["channels"]["rho"]["start"] :][: len(expected)], expected, atol=PRECISION
        )


@pytest.mark.parametrize("room", [1, 7, 12, 20, 31, 43])
def test_and_beyond_that_every_so_manyth_channel(room, monkeypatch):
    run = make_run("a", layers=4, channels=8)
    monkeypatch.setattr(report, "MOST_CHANNELS", room)
    page = contents(run)
    channels = shares(page["channels"]["rho"]["packed"]["channels"])
    assert len(channels) <= max(room, 4)
    start = 0
    for layer, rho in zip(page["architectures"][0]["rho"], values(run, "rho", 100).values(), strict=True):
        shown = layer["shown"]
        assert layer["channels"] == len(rho)
        assert 1 <= shown <= len(rho)
        chosen = [index * len(rho) // shown for index in range(shown)]
        np.testing.assert_allclose(channels[start : start + shown], rho[chosen], atol=PRECISION)
        start += shown
    assert start == len(channels)


def test_steps_are_left_out_evenly_where_there_is_no_room(monkeypatch):
    steps = tuple(range(0, 1000, 10))
    runs = [make_run("a", steps=steps), make_run("b", steps=(0, 5))]
    monkeypatch.setattr(report, "MOST_CELLS", 150)
    page = contents(*runs)
    kept, few = (described["steps"] for described in page["runs"])
    assert (kept[0], kept[-1]) == (0, 990)
    assert 10 <= len(kept) <= 25
    assert np.ptp(np.diff(kept)) <= 10
    assert few == [0, 5]
    assert [described["logged"] for described in page["runs"]] == [100, 2]
    mean = shares(page["channels"]["rho"]["packed"]["mean"])
    expected = [rho.mean() for step in kept for rho in values(runs[0], "rho", step).values()]
    np.testing.assert_allclose(mean[: len(expected)], expected, atol=2 * PRECISION)


def test_switch_weights_are_those_of_means_then_of_variances():
    runs = two_groups(seeds=2)
    page = contents(*runs)
    packed = shares(page["weights"]["switch"]["packed"]).reshape(-1, 2, 3)
    for run, described in zip(runs, page["runs"], strict=True):
        first = described["cells"]["switch"]
        for index, step in enumerate(run.steps):
            means, variances = (values(run, kind, step) for kind in ("mean_weight", "var_weight"))
            for place, layer in enumerate(means):
                found = packed[first + index * len(means) + place]
                np.testing.assert_allclose(found, [means[layer], variances[layer]], atol=PRECISION)


def test_gamma_is_beside_rho():
    run = make_run("a")
    (found,) = contents(run)["gamma"]["rho"]
    rho, gamma = values(run, "rho", 100), values(run, "gamma", 100)
    assert [layer["name"] for layer in found["layers"]] == list(rho)
    for layer in found["layers"]:
        np.testing.assert_allclose(layer["gates"], rho[layer["name"]], atol=1e-4)
        np.testing.assert_allclose(layer["gamma"], gamma[layer["name"]], rtol=1e-4)
        assert layer["r"] == pytest.approx(np.corrcoef(rho[layer["name"]], gamma[layer["name"]])[0, 1], abs=1e-4)


def test_of_many_pairs_some_are_drawn(monkeypatch):
    monkeypatch.setattr(report, "MOST_PAIRS", 12)
    run = make_run("a")
    (found,) = contents(run)["gamma"]["rho"]
    assert 4 <= sum(len(layer["gates"]) for layer in found["layers"]) <= 24
    rho, gamma = values(run, "rho", 100), values(run, "gamma", 100)
    name = found["layers"][-1]["name"]
    assert found["layers"][-1]["r"] == pytest.approx(np.corrcoef(rho[name], gamma[name])[0, 1], abs=1e-4)


def test_runs_with_the_same_layers_share_an_architecture():
    page = contents(*two_groups(seeds=2), make_run("other", layers=2))
    assert [described["architecture"] for described in page["runs"]] == [0, 0, 0, 0, 1]
    assert [layer["third"] for layer in page["architectures"][0]["rho"]] == ["first", "first", "middle", "middle"]
    assert [layer["name"] for layer in page["architectures"][1]["switch"]] == ["02.block.switch0", "03.block.switch1"]
    assert page["groups"] == ["slow", "fast", "other"]
    assert [described["group"] for described in page["runs"]] == [0, 0, 1, 1, 2]


def test_a_layer_of_which_only_a_summary_is_known():
    summary = np.array([0.6, 0.1, 0.9, 0.2, 0.25, 0.5], np.float32)
    run = Run("wandb", "wandb:a/b/c", frame({0: {"00.norm/rho_summary": summary}}), "wandb")
    page = contents(run, make_run("a"))
    (described, _), gates = page["runs"], page["channels"]["rho"]["packed"]
    assert described["channels"]["rho"] == {"start": None, "steps": 1, "bimodality": [None], "bimodal": None}
    assert [shares(gates[name])[0] for name in ("mean", "below", "above")] == pytest.approx([0.6, 0.25, 0.5], abs=1e-4)
    assert np.isnan([shares(gates[name])[0] for name in ("lower", "upper")]).all()
    assert unpack(gates["histogram"])[: report.BINS].sum() == 0
    assert page["architectures"][0]["rho"][0]["channels"] == 0


def test_values_that_are_no_numbers_are_unknown():
    rho = np.array([0.25, np.nan, 0.75], np.float32)
    page = contents(Run("a", "a", frame({0: {"00.norm/rho": rho}}), "a"))
    np.testing.assert_allclose(
        shares(page["channels"]["rho"]["packed"]["channels"]), [0.25, np.nan, 0.75], atol=PRECISION
    )
    json.dumps(page, allow_nan=False)


def test_runs_of_one_kind_leave_out_the_other():
    only_rho, only_switch = contents(make_run("a", switches=0)), contents(make_run("a", layers=0))
    assert only_rho["weights"] == {}
    assert only_switch["channels"] == {}
    assert only_switch["gamma"] == {}
    assert only_switch["runs"][0]["cells"].keys() == {"switch"}


def test_bimodality_of_layers_and_of_the_network():
    run = make_run("a")
    (described,) = contents(run)["runs"]
    layers = list(values(run, "rho", 100).values())
    assert described["channels"]["rho"]["bimodality"] == pytest.approx([bimodality(rho) for rho in layers], abs=1e-4)
    assert described["channels"]["rho"]["bimodal"] == pytest.approx(bimodality(np.concatenate(layers)), abs=1e-4)


@pytest.mark.parametrize("options", [{"layers": 0}, {"layers": 1, "switches": 0}])
def test_many_runs_of_one_kind(options):
    # Enough for pandas to number them, and the layers, in integers of different sizes.
    runs = [make_run(f"run{index}", seed=index, steps=(0,), **options) for index in range(130)]
    page = contents(*runs)
    assert [described["name"] for described in page["runs"]] == [run.name for run in runs]
    assert {described["architecture"] for described in page["runs"]} == {0}
    assert len(page["gamma"].get("rho", [])) == (130 if "switches" in options else 0)


def test_the_rows_may_come_in_any_order():
    runs = two_groups(seeds=2)
    table = combine(runs)
    shuffled = table.sample(frac=1, random_state=0)
    assert report.contents(shuffled, runs) == report.contents(table, runs)


def test_binarized_evaluations_and_notes(tmp_path):
    rows = [("a", "val/loss", "as trained", 1.0, 1.5), ("a", "val/loss", "recalibrated", 1.0, np.nan)]
    binarized = pd.DataFrame(rows, columns=["run", "metric", "statistics", "learned", "binarized"])
    _, page = written(tmp_path, make_run("a"), binarized=binarized, notes=["a: without much"])
    assert page["binarized"][0] == dict(zip(binarized.columns, rows[0], strict=True))
    assert page["binarized"][1]["binarized"] is None
    assert page["notes"] == ["a: without much"]
    assert contents(make_run("a"), binarized=binarized[:0])["binarized"] is None


def test_names_cannot_leave_their_place(tmp_path):
    name = '</script><script>alert("{{js}} \\u2028 {{data}}")</script><!--'
    page, data = written(tmp_path, make_run(name))
    assert data["runs"][0]["name"] == name
    assert name not in page
    assert page.count("<script") == page.count("</script>") == 2


def test_equal_values_make_equal_pages(tmp_path):
    runs = two_groups(seeds=2)
    first, _ = written(tmp_path, *runs)
    assert written(tmp_path, *runs)[0] == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_page_asks_for_nothing(tmp_path):
    page, _ = written(tmp_path, make_run("a"))
    assert "default-src 'none'" in page
    addresses = re.findall(r"""(?:src|href)\s*=\s*["'`]?([^"'`\s>]+)""", page)
    assert {address.partition(":")[0] for address in addresses} == {"data"}
    assert re.findall(r"@import|@font-face|url\(|fetch\(|XMLHttpRequest|import\(", page) == []
    assert not re.search(r"{{\w+}}", page)


def test_the_script_finds_what_it_looks_for():
    page, script = pages.part("page.html"), pages.script()
    ids = set(re.findall(r'\bid="([\w-]+)"', page))
    assert set(re.findall(r'byId\("([\w-]+)"\)', script)) <= ids
    figures = [
        re.findall(r'<figure id="([\w{}-]+)"', pages.part(f"{name}.html")) for name in ("channels", "weights", "page")
    ]
    drawn = re.findall(r"\[`\$({\w+).name}(-\w+)`\]: ", script)
    assert {f"{{{{name}}}}{name}" for owner, name in drawn if owner == "{kind"} == set(figures[0])
    assert {f"{{{{name}}}}{name}" for owner, name in drawn if owner == "{family"} == set(figures[1])
    assert set(re.findall(r"(\w+): \1Figure", script)) == set(figures[2])
    conditions = re.search(r"function conditions\(kind\) {.*?return {(.*?)};", script, re.DOTALL)[1]
    whole = page + pages.part("channels.html") + pages.part("weights.html")
    assert set(re.findall(r'data-when="(\w+)', whole)) == set(re.findall(r"^ +(\w+):", conditions, re.MULTILINE))


def test_the_modules_of_the_script_share_one_scope():
    names = re.findall(r"^(?:const|let|function|class) (\w+)", pages.script(), re.MULTILINE)
    assert len(names) > 100
    assert sorted(names) == sorted(set(names))
    assert sorted(f"{name}.js" for name in pages.MODULES) == sorted(
        path.name
        for path in pages.resources.files("mixing_analysis").joinpath("page").iterdir()
        if path.suffix == ".js"
    )
    assert not re.search(r"^(import|export) ", pages.script(), re.MULTILINE)


def test_classes_of_the_script_have_a_style():
    classes = set(re.findall(r'class: "([\w-]+)"', pages.script()))
    assert {name for name in classes if f".{name}" not in pages.part("page.css")} == set()


def test_page_and_pictures_have_the_same_colors():
    light = pages.part("page.css").partition("@media")[0]
    found = dict(re.findall(r"--([\w-]+): (#\w{6});", light))
    assert {name: found[name] for name in COLORS} == COLORS
    assert tuple(found[f"run-{index}"] for index in range(len(GROUP_COLORS))) == GROUP_COLORS
