"""How well groups of runs do beside each other."""

from dataclasses import replace

import numpy as np
import pytest
from made_runs import make_run
from scipy import stats

from mixing_analysis.metric_effects import compare_metrics, describe, finding

LOSSES = {"a": (1.0, 1.2, 1.1, 0.9), "b": (1.6, 1.7, 1.65, 1.4), "c": (1.05, 1.15, 1.2, 0.95)}


def runs_of(losses=LOSSES, seeds=lambda name, place: place, **more):
    return [
        replace(
            make_run(f"{name}/{place}", name, config={"seed_everything": seeds(name, place)}, **more),
            metrics={"val/loss": loss, "val/extra": 2 * loss} if name == "a" else {"val/loss": loss},
        )
        for name, own in losses.items()
        for place, loss in enumerate(own)
    ]


@pytest.mark.parametrize("paired", [True, False])
def test_differences_are_those_of_scipy(paired):
    rows = compare_metrics(runs_of(seeds=lambda name, place: place if paired else ord(name) + 10 * place))
    assert rows[["first", "second"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert set(rows["metric"]) == {"val/loss"}, "which all runs of both have"
    assert set(rows["paired"]) == {paired}
    for _, row in rows.iterrows():
        first, second = LOSSES[row["first"]], LOSSES[row["second"]]
        test = stats.ttest_rel(second, first) if paired else stats.ttest_ind(second, first, equal_var=False)
        interval = test.confidence_interval()
        expected = [np.mean(second) - np.mean(first), interval.low, interval.high, test.pvalue]
        np.testing.assert_allclose(row[["difference", "low", "high", "p"]].to_numpy(float), expected, rtol=1e-9)
    ordered = np.sort(rows["p"])
    expected = np.minimum(np.maximum.accumulate(ordered * [3, 2, 1]), 1)
    np.testing.assert_allclose(np.sort(rows["p_holm"]), expected)


def test_only_what_is_beyond_seeds_is_called_a_difference():
    rows = compare_metrics(runs_of())
    assert "val/loss of b against a" in finding(rows)
    alike = compare_metrics(runs_of({name: LOSSES[name] for name in "ac"}))
    assert finding(alike).startswith("No metric differs beyond seeds: the smallest Holm-corrected p is 0.")
    assert describe(runs_of({name: LOSSES[name] for name in "ac"}))["rows"][0]["metric"] == "val/loss"


def test_groups_of_one_run_and_of_other_lengths_are_left_out():
    assert describe(runs_of({"a": (1.0, 2.0), "b": (1.0,)})) == {"finding": "", "rows": []}
    short, long = runs_of({"a": (1.0, 1.1, 1.2)}), runs_of({"b": (2.0, 2.1, 2.2)}, steps=(0, 100, 900))
    assert compare_metrics([*short, *long]).empty
