"""The table, and what is computed from it, against pandas, scipy and closed forms."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixing_analysis.comparisons import correlations, layer_values, over_seeds
from mixing_analysis.effects import holm
from mixing_analysis.values import (
    BIMODAL,
    COLUMNS,
    DESCRIBED,
    Run,
    at_last_step,
    bimodality,
    combine,
    frame,
    histogram,
    summaries,
    with_thirds,
)
from norms.kinds import BUILTIN, RHO
from norms.mixing import LayerReport

LAYER_SUMMARY = RHO.summary_names
LOG_NAMES = {"below": "share_below_0_1", "above": "share_above_0_9"}


def network(rng, layers=3, channels=8, gamma=False):
    values = {}
    for layer in range(layers):
        values[f"{layer:02d}.a/rho"] = rng.random(channels + layer, np.float32)
        if gamma:
            values[f"{layer:02d}.a/gamma"] = rng.normal(size=channels + layer).astype(np.float32)
    values[f"{layers:02d}.s/mean_weight"] = rng.dirichlet([1, 1, 1]).astype(np.float32)
    values[f"{layers:02d}.s/var_weight"] = rng.dirichlet([1, 1, 1]).astype(np.float32)
    return values


def run(name, group=None, seed=0, steps=(0, 10), **options):
    rng = np.random.default_rng(seed)
    last = max(steps)
    values = {step: network(rng, gamma=step == last, **options) for step in steps}
    return Run(name, name, frame(values), group or name)


def rhos(name, layers, group=None, step=0):
    values = {f"{i:02d}.n/rho": np.array(gates, np.float32) for i, gates in enumerate(layers)}
    return Run(name, name, frame({step: values}), group or name)


@pytest.fixture
def table():
    return combine([run("a/0", "a", 0), run("a/1", "a", 1), run("b/0", seed=2, layers=5)])


def test_a_row_for_every_value():
    values = {
        "00.first/rho": np.array([0.25, 1], np.float32),
        "00.first/gamma": np.array([-2, 0.5], np.float32),
        "01.second/mean_weight": np.array([0.5, 0.25, 0.25], np.float32),
    }
    table = combine([Run("r", "runs/r", frame({7: values}), "g")])
    assert tuple(table.columns) == COLUMNS
    none = pd.NA
    expected = [
        ("r", "g", 7, "00.first", 0, 0, "rho", none, 0.25),
        ("r", "g", 7, "00.first", 0, 1, "rho", none, 1.0),
        ("r", "g", 7, "00.first", 0, 0, "gamma", none, -2.0),
        ("r", "g", 7, "00.first", 0, 1, "gamma", none, 0.5),
        ("r", "g", 7, "01.second", 1, none, "mean_weight", "instance", 0.5),
        ("r", "g", 7, "01.second", 1, none, "mean_weight", "layer", 0.25),
        ("r", "g", 7, "01.second", 1, none, "mean_weight", "batch", 0.25),
    ]
    assert table.astype(object).where(table.notna(), none).values.tolist() == [list(row) for row in expected]
    types = {"step": "int64", "depth": "int32", "channel": "Int32", "value": "float32"}
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == dict.fromkeys(COLUMNS, "category") | types


def test_steps_of_different_contents_come_in_order():
    few, many = {"00.a/rho": np.float32([0.5])}, {"00.a/rho": np.float32([1]), "00.a/gamma": np.float32([2])}
    rows = frame({20: many, 3: few})
    assert rows["step"].tolist() == [3, 20, 20]
    assert rows["value"].tolist() == [0.5, 1, 2]


def test_runs_of_different_layers_share_a_table():
    first, second = rhos("a", [[0.1], [0.2]]), run("b", layers=4)
    table = combine([first, second])
    assert len(table) == len(first.frame) + len(second.frame)
    for one in (first, second):
        rows = table[table["run"] == one.name].reset_index(drop=True)
        assert rows["layer"].tolist() == one.frame["layer"].tolist()
        assert rows["value"].tolist() == one.frame["value"].tolist()
        assert rows["channel"].isna().tolist() == one.frame["channel"].isna().tolist()


def test_the_architecture_is_layers_and_their_gates():
    assert run("a", layers=2, channels=4).architecture == {"00.a": 4, "01.a": 5, "02.s": 0}
    summary = frame({0: {"00.a/rho_summary": np.ones(len(LAYER_SUMMARY), np.float32)}})
    assert Run("w", "w", summary).architecture == {"00.a": None}
    assert run("a").steps == [0, 10]


def test_csv_holds_every_bit(table, tmp_path):
    table.to_csv(tmp_path / "mixing.csv", index=False)
    text = pd.read_csv(tmp_path / "mixing.csv", dtype={"value": np.float32, "channel": "Int32"})
    assert tuple(text.columns) == COLUMNS
    np.testing.assert_array_equal(text["value"], table["value"])
    for column in ("run", "group", "layer", "kind", "statistic", "step", "depth", "channel"):
        assert text[column].astype(object).fillna("none").tolist() == (
            table[column].astype(object).fillna("none").tolist()
        )


def test_summaries_are_those_of_pandas(table):
    by = ["run", "group", "step", "layer", "depth"]
    result = summaries(table, RHO)
    assert tuple(result.columns) == (*by, *DESCRIBED, "below", "above", "bimodality")
    groups = table[table["kind"] == "rho"].astype({"value": np.float64}).groupby(by, observed=True)["value"]
    expected = groups.describe().reset_index()
    result = result.sort_values(by, ignore_index=True)
    for ours, theirs in [("count", "count"), ("mean", "mean"), ("min", "min"), ("max", "max")]:
        np.testing.assert_allclose(result[ours], expected[theirs])
    for ours, theirs in [("q25", "25%"), ("median", "50%"), ("q75", "75%")]:
        np.testing.assert_allclose(result[ours], expected[theirs])
    np.testing.assert_allclose(result["std"], groups.std(ddof=0).to_numpy())
    below = groups.apply(lambda values: (values < 0.1).mean())
    np.testing.assert_allclose(result["below"], below.to_numpy())
    np.testing.assert_allclose(result["bimodality"], groups.apply(lambda values: sarle(values.to_numpy())).to_numpy())


def test_summaries_are_those_of_the_log():
    # Also where a gate lies exactly on a limit, which is 0.1 in float32.
    gates = torch.tensor([0.0, 0.1, 0.05, 0.9, 0.95, 1.0])
    logged = LayerReport("n", "BatchInstanceNorm2d", 6, True, (RHO,), {"rho": gates}).summary["rho"]
    ours = summaries(combine([rhos("a", [gates.tolist()])]), RHO).rename(columns=LOG_NAMES).iloc[0]
    assert {name: ours[name] for name in logged} == pytest.approx(logged, abs=1e-7)


def test_summaries_by_other_columns(table):
    (whole,) = summaries(table[table["run"] == "a/0"], RHO, ["run"]).to_dict("records")
    gates = table[(table["run"] == "a/0") & (table["kind"] == "rho")]["value"].astype(np.float64)
    assert whole["mean"] == pytest.approx(gates.mean())
    assert whole["count"] == len(gates)


def test_summaries_leave_out_what_is_no_number():
    result = summaries(combine([rhos("a", [[0.5, np.nan, 0.25], [np.nan]])]), RHO)
    assert result[["layer", "count", "mean"]].values.tolist() == [["00.n", 2, 0.375]]


def test_of_a_logged_summary_there_is_what_was_logged():
    logged = {
        0: {"00.a/rho_summary": np.float32([0.5, 0.25, 1, 0.125, 0.75, 0]), "01.b/rho": np.float32([1, 0.5])},
        1: {
            "00.a/rho_summary": np.float32([0.25, 0, 1, 0.5, 0, 1]),
            "01.b/rho_summary": np.float32([1, 1, 1, 0, 0, 1]),
        },
    }
    table = combine([Run("w", "w", frame(logged), "w")])
    result = summaries(table, RHO).rename(columns=LOG_NAMES).set_index(["step", "layer"])
    assert result.loc[(0, "00.a"), ["count", *LAYER_SUMMARY]].tolist() == [0, 0.5, 0.25, 1, 0.125, 0.75, 0]
    assert np.isnan(result.loc[(0, "00.a"), "median"])
    assert result.loc[(0, "01.b"), ["count", "mean", "median"]].tolist() == [2, 0.75, 0.75]
    means = layer_values(table, [RHO]).query("measure == 'mean'")
    assert means.sort_values(["step", "layer"])["value"].tolist() == [0.5, 0.75, 0.25, 1]
    (whole,) = summaries(table[table["step"] == 1], RHO, ["run"]).to_dict("records")
    assert (whole["mean"], whole["above"], whole["count"]) == (0.625, 1, 0)
    assert np.isnan(whole["std"])


def sarle(values):
    n = len(values)
    skewness = scipy.stats.skew(values, bias=False)
    kurtosis = scipy.stats.kurtosis(values, bias=False)
    return (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))


@given(st.lists(st.integers(0, 100), min_size=4, max_size=40).filter(lambda numbers: len(set(numbers)) > 1))
def test_bimodality_is_sarles_formula(numbers):
    values = np.array(numbers) / 100
    assert bimodality(values) == pytest.approx(sarle(values))


def test_bimodality_of_known_distributions():
    shares = (np.arange(100_000) + 0.5) / 100_000
    assert bimodality(shares) == pytest.approx(BIMODAL, abs=1e-3)
    assert bimodality(scipy.stats.norm.ppf(shares)) == pytest.approx(1 / 3, abs=1e-3)
    assert bimodality(np.repeat([0.0, 1.0], 5000)) == pytest.approx(1, abs=1e-3)
    assert np.isnan(bimodality(np.array([0, 0.5, 1])))
    assert np.isnan(bimodality(np.ones(10)))


def test_histogram_counts_every_gate_once():
    gates = [0.0, 0.05, 0.1, 0.25, 0.9, 0.95, 1.0, np.nan]
    table = combine([rhos("a", [gates]), rhos("b", [[0.5]])])
    bins = histogram(table, RHO, ["run"], bins=10)
    own = bins[bins["run"] == "a"]
    # The left edge belongs to a bin, as far as float32 can tell.
    assert own["count"].tolist() == [2, 1, 1, 0, 0, 0, 0, 0, 0, 3]
    assert own["share"].sum() == pytest.approx(1)
    np.testing.assert_allclose(own["left"], np.arange(10) / 10)
    np.testing.assert_allclose(own["right"], np.arange(1, 11) / 10)
    assert histogram(table, RHO, [], bins=2)["count"].tolist() == [4, 4]


def test_histogram_of_nothing_is_empty(table):
    switches = table[table["kind"] == "mean_weight"]
    assert histogram(switches, RHO).empty
    assert histogram(switches, RHO, []).empty
    assert summaries(switches, RHO).empty


def test_thirds_divide_the_layers_of_each_network():
    table = with_thirds(combine([rhos("a", [[1]] * 3), rhos("b", [[1]] * 7), rhos("c", [[1]])]))
    thirds = table.groupby("run", observed=True)["third"].apply(list)
    assert thirds["a"] == ["first", "middle", "last"]
    assert thirds["b"] == ["first"] * 3 + ["middle"] * 2 + ["last"] * 2
    assert thirds["c"] == ["first"]


def test_the_last_step_is_each_runs_own():
    gamma = {"00.n/gamma": np.float32([1])}
    later = Run("b", "b", frame({5: {"00.n/rho": np.float32([0.5])}, 9: gamma}), "b")
    last = at_last_step(combine([run("a", steps=(0, 3)), later]))
    assert last.groupby("run", observed=True)["step"].unique().map(list).to_dict() == {"a": [3], "b": [5]}


def test_correlations_are_those_of_scipy(table):
    result = correlations(table, RHO).set_index(["run", "layer"])
    assert set(result["step"]) == {10}
    assert len(result) == 3 + 3 + 5
    rows = table[(table["run"] == "b/0") & (table["step"] == 10)]
    for layer in ("00.a", "04.a"):
        rho, gamma = (
            rows[(rows["layer"] == layer) & (rows["kind"] == k)]["value"].to_numpy() for k in ("rho", "gamma")
        )
        own = result.loc[("b/0", layer)]
        assert own["count"] == len(rho)
        assert own["pearson"] == pytest.approx(scipy.stats.pearsonr(rho, gamma)[0], abs=1e-6)
        assert own["spearman"] == pytest.approx(scipy.stats.spearmanr(rho, gamma)[0])
        assert own["pearson_abs"] == pytest.approx(scipy.stats.pearsonr(rho, abs(gamma))[0], abs=1e-6)
        assert own["spearman_abs"] == pytest.approx(scipy.stats.spearmanr(rho, abs(gamma))[0])


def test_correlations_with_ties_and_constants():
    values = {
        "00.a/rho": np.float32([0, 0, 1, 1]),
        "00.a/gamma": np.float32([-3, 1, 2, 2]),
        "01.b/rho": np.float32([1, 1, 1]),
        "01.b/gamma": np.float32([1, 2, 3]),
    }
    first, second = correlations(combine([Run("r", "r", frame({0: values}), "r")]), RHO).to_dict("records")
    assert first["spearman"] == pytest.approx(scipy.stats.spearmanr([0, 0, 1, 1], [-3, 1, 2, 2])[0])
    assert first["pearson_abs"] == pytest.approx(0)
    assert np.isnan([second["pearson"], second["spearman"], second["spearman_abs"]]).all()


def test_seeds_are_folded_into_mean_and_spread():
    runs = [rhos("a/0", [[0.25, 0.75], [1]], "a"), rhos("a/1", [[1, 1], [0.5]], "a"), rhos("b", [[0.5]])]
    folded = over_seeds(combine(runs), [RHO]).query("measure == 'mean'").set_index(["group", "layer"])
    assert folded.loc[("a", "00.n"), ["runs", "mean"]].tolist() == [2, 0.75]
    assert folded.loc[("a", "00.n"), "std"] == pytest.approx(np.std([0.5, 1], ddof=1))
    assert folded.loc[("a", "01.n"), "mean"] == 0.75
    assert folded.loc[("b", "00.n"), "runs"] == 1
    assert np.isnan(folded.loc[("b", "00.n"), "std"])


def test_switch_weights_are_folded_each_by_itself(table):
    folded = over_seeds(at_last_step(table), BUILTIN)
    rows = folded[(folded["group"] == "a") & (folded["kind"] == "var_weight")]
    assert rows["measure"].tolist() == ["instance", "layer", "batch"]
    assert rows["mean"].sum() == pytest.approx(1)
    assert (rows["runs"] == 2).all()


def test_correlations_are_corrected_over_the_layers_of_a_run(table):
    for _, own in correlations(table, RHO).groupby("run", observed=True):
        p = [
            2 * scipy.stats.t.sf(abs(r) * np.sqrt((n - 2) / (1 - r**2)), n - 2)
            for r, n in own[["pearson", "count"]].to_numpy()
        ]
        np.testing.assert_allclose(own["p_holm"], holm(np.array(p)))
