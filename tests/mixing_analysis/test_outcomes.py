"""What runs have learned beside their metrics."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from made_runs import make_run, two_groups

from mixing_analysis import figures, outcomes, plots
from mixing_analysis.sources import read_runs
from mixing_analysis.values import combine, last_metrics


def gates(run):
    rows = run.frame[(run.frame["kind"] == "rho") & (run.frame["step"] == max(run.steps))]
    return rows["value"].to_numpy(np.float64)


def with_losses(runs, name="val/loss"):
    return [replace(run, metrics={name: 2 * gates(run).mean() + 1, "val/kid": 0.5}) for run in runs]


def test_each_run_has_its_mean_shares_and_weights():
    runs = with_losses(two_groups())
    found = {each.measure: each for each in outcomes.outcomes(combine(runs), runs)}
    assert {each.metric for each in found.values()} == {"val/loss"}, "a metric that all runs share says nothing"
    mean = found["mean rho"]
    assert mean.runs == [run.name for run in runs]
    np.testing.assert_allclose(mean.x, [gates(run).mean() for run in runs], rtol=1e-6)
    np.testing.assert_allclose(mean.y, [run.metrics["val/loss"] for run in runs])
    assert mean.rank.r == pytest.approx(1)
    above = found["share of rho above 0.9"]
    np.testing.assert_allclose(above.x, [(gates(run) > 0.9).mean() for run in runs])
    weights = [run.frame[run.frame["step"].eq(100) & run.frame["kind"].eq("var_weight")] for run in runs]
    expected = [each[each["statistic"] == "layer"]["value"].mean() for each in weights]
    np.testing.assert_allclose(found["layer weight of variances"].x, expected, rtol=1e-6)


def test_only_runs_with_both_count_and_three_of_them_are_needed():
    runs = with_losses(two_groups(switches=0))
    runs[0] = replace(runs[0], metrics={})
    found = outcomes.outcomes(combine(runs), runs)
    assert all(each.rank.n == 5 for each in found)
    few = with_losses([make_run("a"), make_run("b", seed=1)])
    assert outcomes.outcomes(combine(few), few) == []
    assert "outcomes" not in figures.drawings(combine(few), few)


def test_the_loss_comes_first_and_the_clear_are_told():
    runs = [make_run(f"run{index}", seed=index, drift=0.1 * index, switches=0) for index in range(9)]
    runs = [replace(run, metrics={"val/a": index % 3, "val/loss": gates(run).mean()}) for index, run in enumerate(runs)]
    page = outcomes.describe(combine(runs), runs)
    assert page[0]["metric"] == "val/loss"
    assert page[0]["clear"]
    assert not any(each["clear"] for each in page if each["metric"] == "val/a")
    with mpl.rc_context(plots.STYLE):
        axes = figures.drawings(combine(runs), runs)["outcomes"]().axes[0]
    shown = np.sort(np.concatenate([line.get_xdata() for line in axes.lines]))
    np.testing.assert_allclose(shown, np.sort([gates(run).mean() for run in runs]), rtol=1e-6)


def test_the_last_number_of_a_log_counts():
    rows = [
        {"step": "0", "val/loss": "3.0", "train/loss": "9"},
        {"step": "9", "val/loss": "", "val/kid": "nan"},
        {"step": "19", "val/loss": "1.5", "val/words": "none"},
    ]
    assert last_metrics(rows) == {"val/loss": 1.5}


def test_a_run_folder_tells_its_metrics(tmp_path):
    (tmp_path / "mixing").mkdir()
    np.savez(tmp_path / "mixing" / "step_0000010.npz", **{"block.norm1/rho": np.ones(3, np.float32)})
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n5,2.0,\n10,,0.25\n")
    (run,) = read_runs([str(tmp_path)])
    assert run.metrics == {"val/loss": 0.25}
    assert run.shapes == {}
