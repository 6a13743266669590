"""Groups of runs beside each other: which runs, at which step, in pairs or not, corrected over which layers."""

import numpy as np
import pytest
import scipy.stats
from made_runs import make_run, two_groups

from mixing_analysis import comparisons
from mixing_analysis.comparisons import COMPARED, compare, omnibus, sides_of
from mixing_analysis.effects import holm, repeated_measures
from mixing_analysis.values import Run, combine, frame


def rhos(name, layers, group=None, steps=(0,), **options):
    values = {f"{i:02d}.n/rho": np.array(gates, np.float32) for i, gates in enumerate(layers)}
    return Run(name, name, frame(dict.fromkeys(steps, values)), group or name, **options)


def compared(runs, *pairs):
    return compare(combine(runs), runs, pairs or None)


def of(found, measure, kind="rho"):
    return found.rows[(found.rows["kind"] == kind) & (found.rows["measure"] == measure)]


def layer_means(run, step):
    rows = run.frame[(run.frame["kind"] == "rho") & (run.frame["step"] == step)]
    return {layer: part["value"].to_numpy(np.float64) for layer, part in rows.groupby("layer", observed=True)}


def test_every_layer_is_compared_by_mean_and_shares():
    runs = two_groups()
    found = compared(runs)
    assert tuple(found.rows.columns) == COMPARED
    for measure, number in (
        ("mean", np.mean),
        ("below", lambda values: np.mean(values < np.float32(0.1))),
        ("above", lambda values: np.mean(values > np.float32(0.9))),
    ):
        rows = of(found, measure)
        assert rows["depth"].tolist() == [0, 1, 2, 3]
        p = []
        for _, row in rows.iterrows():
            slow, fast = (
                [number(layer_means(run, 100)[row["layer"]]) for run in runs if run.group == group]
                for group in ("slow", "fast")
            )
            assert row["mean_second"] - row["mean_first"] == pytest.approx(row["difference"])
            assert row["difference"] == pytest.approx(np.mean(fast) - np.mean(slow))
            same = np.ptp(slow + fast) == 0
            p.append(1 if same else scipy.stats.ttest_ind(fast, slow, equal_var=False).pvalue)
        np.testing.assert_allclose(rows["p"], p, rtol=1e-5)
        np.testing.assert_allclose(rows["p_holm"], holm(np.array(p)), rtol=1e-5)


def test_each_label_is_compared_and_corrected_by_itself():
    runs = two_groups()
    rows = of(compared(runs), "batch", "var_weight")
    for _, row in rows.iterrows():
        own = [
            r.frame[
                (r.frame["layer"] == row["layer"])
                & (r.frame["kind"] == "var_weight")
                & (r.frame["statistic"] == "batch")
                & (r.frame["step"] == 100)
            ]["value"].item()
            for r in runs
        ]
        assert row["p"] == pytest.approx(scipy.stats.ttest_ind(own[3:], own[:3], equal_var=False).pvalue, rel=1e-5)
    np.testing.assert_allclose(rows["p_holm"], holm(rows["p"].to_numpy()))


def seeded(seed, **model):
    return {"seed_everything": seed, "model": {"init_args": {"seed": seed, **model}}}


def test_the_same_seeds_are_compared_with_each_other_in_whatever_order():
    values = {"a": {0: 0.1, 1: 0.5, 2: 0.9}, "b": {2: 0.95, 0: 0.2, 1: 0.62}}
    runs = [
        rhos(f"{name}/{seed}", [[value]], name, config=seeded(seed, norm=name))
        for name, own in values.items()
        for seed, value in own.items()
    ]
    (row,) = of(compared(runs), "mean").to_dict("records")
    expected = scipy.stats.ttest_rel([0.2, 0.62, 0.95], [0.1, 0.5, 0.9]).pvalue
    assert row["paired"]
    assert row["p"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seeds", [(0, 1, 3), (0, 1), (0, 1, 1), (None, None, None)])
def test_other_seeds_are_not(seeds):
    config = [None if seed is None else seeded(seed) for seed in (0, 1, 2, *seeds)]
    names = ["a"] * 3 + ["b"] * len(seeds)
    runs = [
        rhos(f"{name}/{i}", [[i / 10]], name, config=own)
        for i, (name, own) in enumerate(zip(names, config, strict=True))
    ]
    assert not compared(runs).rows["paired"].any()


def steps_of(*runs):
    (row,) = of(compared(runs), "mean").to_dict("records")
    return row["step_first"], row["step_second"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 50, 100), (0, 50, 100), (100, 100)),
        ((0, 50), (0, 50, 900), (50, 50)),
        ((0, 50, 97), (0, 50, 100), (97, 100)),
        ((0, 50, 90), (0, 50, 100), (50, 50)),
        ((40,), (900,), (40, 900)),
        ((0, 40), (0, 900), (40, 900)),
        ((0,), (0,), (0, 0)),
        ((0,), (0, 10), (0, 10)),
    ],
)
def test_what_is_compared_is_the_last_step_of_both(first, second, expected):
    assert steps_of(rhos("a", [[1]], steps=first), rhos("b", [[1]], steps=second)) == expected


def test_the_values_are_those_of_that_step():
    short = Run("a", "a", frame({10: {"n/rho": np.float32([0.75])}}), "a")
    long = Run("b", "b", frame({10: {"n/rho": np.float32([0.5])}, 900: {"n/rho": np.float32([0])}}), "b")
    (row,) = of(compared([short, long]), "mean").to_dict("records")
    assert row["difference"] == -0.25


def test_other_ends_are_not_passed_over():
    same = compared([rhos("a", [[1]], steps=(0, 97)), rhos("b", [[0.5]], steps=(0, 100))])
    assert not any("step" in note for note in same.notes)
    other = compared([rhos("a", [[1]], steps=(0, 40)), rhos("b", [[0.5]], steps=(0, 40, 900))])
    assert other.notes[0].startswith("the runs end at different steps, from 40 to 900: ")
    apart = compared([rhos("a", [[1]], steps=(40,)), rhos("b", [[0.5]], steps=(900,))])
    assert apart.notes[1].startswith("in 1 of 1 comparisons there is no step in common but the start: ")


def test_single_runs_have_differences_alone_and_say_what_would_be_needed():
    found = compared([rhos("a", [[0.5]]), rhos("b/0", [[1], [1]], "b"), rhos("b/1", [[0.75], [1]], "b")])
    (only,) = of(found, "mean").to_dict("records")
    assert (only["layer"], only["runs_first"], only["runs_second"], only["difference"]) == ("00.n", 1, 2, 0.375)
    assert np.isnan([only[name] for name in ("low", "high", "g", "p", "p_holm")]).all()
    assert found.notes[-1].endswith("three to five seeds on each side would")


def test_layers_are_compared_by_name_wherever_they_lie():
    values = [{"a/rho": np.float32([1])}, {"new/rho": np.float32([0]), "a/rho": np.float32([0.5])}]
    runs = [Run(name, name, frame({1: own}), name) for name, own in zip("xy", values, strict=True)]
    (row,) = of(compared(runs), "mean").to_dict("records")
    assert (row["layer"], row["depth"], row["difference"]) == ("a", 0, -0.5)


def test_networks_without_common_layers_have_no_comparisons():
    found = compared([make_run("rho", switches=0), make_run("switch", layers=0, steps=(0, 30))])
    assert tuple(found.rows.columns) == COMPARED
    words = "rho and switch have no layer and kind of values in common that could be compared"
    assert (len(found.rows), found.notes) == (0, (words,))


def test_all_pairs_of_groups_or_else_of_runs():
    runs = [*two_groups(), make_run("third", seed=9)]
    found = compared(runs)
    pairs = list(dict.fromkeys(zip(found.rows["first"], found.rows["second"], strict=True)))
    assert pairs == [("slow", "fast"), ("slow", "third"), ("fast", "third")]
    assert found.pairs == 3
    assert list(sides_of(runs[:3])) == [run.name for run in runs[:3]]
    named = compared(runs, ("third", "slow/version_0")).rows
    assert set(zip(named["first"], named["second"], strict=True)) == {("third", "slow/version_0")}


def test_of_too_many_pairs_it_says_how_many_are_left_out(monkeypatch):
    monkeypatch.setattr(comparisons, "MOST_ROWS", 30)
    runs = [make_run(f"run{index}", seed=index, switches=0) for index in range(6)]
    found = compared(runs)
    pairs = found.rows[["first", "second"]].drop_duplicates()
    assert found.pairs == 15
    assert len(pairs) == 3
    assert any(note.startswith("of the 15 pairs of 6, the first 3 are compared") for note in found.notes)


def test_whether_groups_differ_at_all_is_asked_of_the_whole_network():
    runs = [*two_groups(), *(make_run(f"third/{seed}", "third", seed=30 + seed, drift=0.1) for seed in range(3))]
    runs += [make_run("alone", seed=7)]
    found = omnibus(combine(runs), runs)
    row = found[(found["kind"] == "rho") & (found["measure"] == "mean")].iloc[0]
    means = [
        [np.concatenate([*layer_means(run, 100).values()]).mean() for run in runs if run.group == group]
        for group in ("slow", "fast", "third")
    ]
    assert (row["groups"], row["test"]) == (3, "Alexander-Govern")
    assert row["p"] == pytest.approx(scipy.stats.alexandergovern(*means).pvalue, rel=1e-5)
    gates = found[found["kind"] == "rho"]
    np.testing.assert_allclose(gates["p_holm"], holm(gates["p"].to_numpy()))


def test_of_paired_groups_the_omnibus_has_repeated_measures():
    random = np.random.default_rng(0).random((3, 4))
    runs = [
        rhos(f"{name}/{seed}", [[value]], name, config=seeded(seed, norm=name))
        for name, own in zip("abc", random, strict=True)
        for seed, value in enumerate(own)
    ]
    row = omnibus(combine(runs), runs).iloc[0]
    assert row["test"] == "repeated measures"
    assert row["p"] == pytest.approx(repeated_measures(random.T), rel=1e-5)


def test_of_groups_whose_runs_end_apart_it_is_said_even_where_none_are_compared():
    ends = {"a": (0, 80, 80), "b": (80, 80), "c": (40, 80)}
    runs = [
        make_run(f"{name}/{seed}", name, seed=seed, steps=(0, own) if own else (0,), switches=0, gamma=False)
        for name, steps in ends.items()
        for seed, own in enumerate(steps)
    ]
    words = "what is averaged of their last values is where each of them ends"
    assert [note for note in compared(runs).notes if words in note] == [
        f"the runs of a end at different steps, from 0 to 80: {words}",
        f"the runs of c end at different steps, from 40 to 80: {words}",
    ]
    alone = compared(runs[:3]).notes
    assert alone[0].startswith("the runs of a end at different steps, from 0 to 80")
