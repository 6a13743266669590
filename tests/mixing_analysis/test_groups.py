"""Which runs are averaged."""

import copy

import numpy as np
import pytest

from mixing_analysis.groups import fold
from mixing_analysis.values import Run, frame
from norms.errors import SettingError

CONFIG = {
    "seed_everything": 0,
    "name": "style",
    "runs_dir": "runs",
    "ckpt_path": None,
    "trainer": {"max_steps": 100},
    "model": {"class_path": "M", "init_args": {"norm": "batch_instance", "lr": 10.0, "seed": 0}},
    "data": {"class_path": "D", "init_args": {"batch_size": 4, "seed": 0}},
    "mixing": {"every_n_steps": 50},
}


def run(name, seed=None, gates=(4, 4), changes=None, **options):
    values = {f"{i:02d}.n/rho": np.ones(count, np.float32) for i, count in enumerate(gates)}
    config = None
    if seed is not None:
        config = copy.deepcopy(CONFIG)
        config["seed_everything"] = config["model"]["init_args"]["seed"] = seed
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            part = config
            for parent in parents:
                part = part[parent]
            part[last] = value
    return Run(name, f"runs/{name}", frame({0: values}), group=name, config=config, **options)


def groups(runs, **named):
    return [folded.group for folded in fold(runs, named)]


def error_of(runs, **named):
    with pytest.raises(SettingError) as caught:
        fold(runs, named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_seeds_of_one_configuration_are_averaged():
    runs = [run(f"style/version_{seed}", seed) for seed in range(3)]
    assert groups(runs) == ["style"] * 3


def test_what_does_not_change_what_is_learned_does_not_count():
    changes = {
        "name": "other",
        "runs_dir": "x",
        "ckpt_path": "last",
        "mixing.every_n_steps": 5,
        "data.init_args.seed": 9,
    }
    assert groups([run("a/0", 0), run("a/1", 1, changes=changes)]) == ["a", "a"]


def test_what_wandb_stores_as_a_whole_number_is_the_same_number():
    assert groups([run("a/0", 0), run("a/1", 1, changes={"model.init_args.lr": 10})]) == ["a", "a"]


@pytest.mark.parametrize("change", ["trainer.max_steps", "model.init_args.norm", "data.init_args.batch_size"])
def test_runs_of_different_settings_are_not_averaged(change):
    runs = [run("style/0", 0), run("style/1", 1, changes={change: 7})]
    assert groups(runs) == ["style/0", "style/1"]


def test_groups_of_one_folder_are_told_apart_by_their_settings():
    norm = {"model.init_args.norm": "switchable"}
    runs = [run("style/0", 0), run("style/1", 1), run("style/2", 0, changes=norm), run("style/3", 1, changes=norm)]
    first, second = "style (norm=batch_instance)", "style (norm=switchable)"
    assert groups(runs) == [first, first, second, second]


def test_groups_of_a_sweep_whose_runs_have_a_folder_each_are_called_by_their_settings():
    norms = [{}, {"model.init_args.norm": "switchable"}]
    runs = [run(f"{seed}-{which}/0", seed, changes=norms[which]) for seed in range(2) for which in range(2)]
    assert groups(runs) == ["norm=batch_instance", "norm=switchable"] * 2


def test_groups_that_no_short_name_tells_apart_are_named_by_a_run():
    many = {f"model.init_args.{name}": 1 for name in "abcd"}
    runs = [run("style/0", 0), run("style/1", 1), run("style/2", 0, changes=many), run("style/3", 1, changes=many)]
    assert groups(runs) == ["style/0 and 1 more"] * 2 + ["style/2 and 1 more"] * 2
    runs = [run("here/0", 0), run("there/0", 1)]
    assert groups(runs) == ["here/0 and 1 more"] * 2


def test_a_repeated_seed_is_no_further_one():
    folded = fold([run("a/0", 0), run("a/1", 1), run("a/2", 1)], {})
    assert [run.group for run in folded] == ["a", "a", "a/2"]
    note = "not averaged with a/1, which has the same settings and the same seeds"
    assert [run.notes for run in folded] == [(), (), (note,)]


def test_runs_of_unknown_settings_stay_alone():
    assert groups([run("a/0"), run("a/1")]) == ["a/0", "a/1"]


def test_the_user_names_groups():
    runs = [run("a/0"), run("a/1"), run("b/0", 0), run("b/1", 1), run("b/2", 2)]
    assert groups(runs, mine=["runs/a/0", "a/1"], b=["b/2"]) == [
        "mine",
        "mine",
        "b/0 and 1 more",
        "b/0 and 1 more",
        "b",
    ]


def test_named_groups_with_mistakes():
    runs = [run("a/0"), run("a/1"), run("b", gates=(4, 8)), run("c", gates=(4,)), run("d", gates=(4, 4))]
    assert error_of(runs, g=["a/0", "a/9"]) == "group g: a/9 is none of the runs"
    assert error_of(runs, g=["a/0"], h=["a/0"]) == "a/0 cannot be in both groups g and h"
    beginning = "runs of different architectures cannot be averaged, only compared: a/0 has "
    assert error_of(runs, g=["a/0", "b"]) == f"{beginning}01.n with 4 gates, b has 01.n with 8 gates"
    assert error_of(runs, g=["a/0", "c"]) == f"{beginning}2 layers that learn how to normalize, c has 1"
    assert groups(runs, g=["a/0", "d"])[0] == "g"


def test_gates_and_switches_are_different_architectures():
    weights = frame({0: {"00.n/mean_weight": np.ones(3, np.float32), "00.n/var_weight": np.ones(3, np.float32)}})
    runs = [run("a", gates=(4,)), Run("b", "b", weights)]
    assert error_of(runs, g=["a", "b"]).endswith("a has 00.n with 4 gates, b has 00.n with switch weights")


def test_a_run_of_which_only_summaries_are_known_may_be_averaged():
    summary = frame({0: {"00.n/rho_summary": np.ones(6, np.float32)}})
    runs = [run("a", gates=(4,)), Run("w", "wandb:a/b/c", summary)]
    assert groups(runs, g=["a", "wandb:a/b/c"]) == ["g", "g"]


def test_alike_settings_with_different_layers_are_not_averaged():
    assert groups([run("a/0", 0), run("a/1", 1, gates=(4, 8))]) == ["a/0", "a/1"]


def grouped_by(runs, *by, **named):
    return [folded.group for folded in fold(runs, named, by)]


def test_runs_that_agree_in_a_setting():
    runs = [
        run("a/version_0", 0, changes={"model.init_args.lr": 1}),
        run("a/version_1", 1, changes={"model.init_args.norm": "layer"}),
        run("b/version_0", 2, changes={"data.init_args.batch_size": 8}),
        run("weights.pt"),
    ]
    assert grouped_by(runs, "model.norm") == ["norm=batch_instance", "norm=layer", "norm=batch_instance", "weights.pt"]
    assert grouped_by(runs, "model.init_args.norm") == grouped_by(runs, "model.norm")
    assert grouped_by(runs, "model", "data.batch_size") == [
        "model=M, batch_size=4",
        "model=M, batch_size=4",
        "model=M, batch_size=8",
        "weights.pt",
    ]
    assert grouped_by(runs, "model.norm", own=["b/version_0"]) == [
        "norm=batch_instance",
        "norm=layer",
        "own",
        "weights.pt",
    ]


def test_a_setting_that_only_some_runs_have():
    runs = [run("a", 0, changes={"model.init_args.depth": 3}), run("b", 0)]
    assert grouped_by(runs, "model.depth") == ["depth=3", "depth=not set"]


def test_settings_that_do_not_group():
    with pytest.raises(
        SettingError, match=r"^--group: no run has a setting model\.nrom, did you mean 'model\.norm'\?$"
    ):
        grouped_by([run("a", 0)], "model.nrom")
    with pytest.raises(SettingError, match="different architectures cannot be averaged"):
        grouped_by([run("a", 0), run("b", 1, gates=(4,))], "model.norm")


def test_a_group_cannot_be_called_as_a_run_that_is_not_in_it():
    runs = [run("alone"), run("other/0", 0), run("other/1", 1)]
    assert "alone is the name of a run that is not in it" in error_of(runs, alone=["other/0", "other/1"])
    assert groups(runs, alone=["alone", "other/0"]) == ["alone", "alone", "other/1"]
