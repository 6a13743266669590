"""Which settings make runs repetitions of each other."""

import copy

import pytest

from training.monitors import MONITORS
from training.repetitions import seeds_of, settings_of

CONFIG = {
    "seed_everything": 1,
    "name": "a",
    "trainer": {"max_steps": 10, "logger": None, "log_every_n_steps": 10},
    "model": {"class_path": "M", "init_args": {"lr": 10.0, "seed": 2, "norm": "bin"}},
    "wandb": {"project": "normlab", "tags": None},
    "mixing": {"every_n_steps": 50},
}


def changed(path, value):
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split(".")
    part = config
    for parent in parents:
        part = part[parent]
    part[last] = value
    return config


def test_settings_and_seeds_are_flat_pairs_and_apart():
    expected = {("trainer.max_steps", "10"), ("model.class_path", "M"), ("model.init_args.lr", "10")}
    assert settings_of(CONFIG) == expected | {("model.init_args.norm", "bin")}
    assert seeds_of(CONFIG) == {("seed_everything", "1"), ("model.init_args.seed", "2")}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "b"),
        ("wandb.project", "mine"),
        ("wandb.tags", ["x"]),
        ("mixing.every_n_steps", 1),
        ("trainer.logger", {"class_path": "L", "init_args": {"save_dir": "x"}}),
        ("trainer.logger", [{"class_path": "L"}]),
        ("trainer.log_every_n_steps", 1),
        ("model.init_args.lr", 10),
    ],
)
def test_what_does_not_change_what_is_learned_is_left_out(path, value):
    assert settings_of(changed(path, value)) == settings_of(CONFIG)


@pytest.mark.parametrize(("path", "value"), [("trainer.max_steps", 11), ("model.init_args.norm", "in")])
def test_what_changes_it_is_kept(path, value):
    assert settings_of(changed(path, value)) != settings_of(CONFIG)
    assert seeds_of(changed(path, value)) == seeds_of(CONFIG)


def test_how_a_run_is_looked_at_is_no_difference_of_what_it_learns():
    config = {"model": {"lr": 1}, **{name: {"every_n_steps": 5} for name in MONITORS}}
    assert settings_of(config) == settings_of({"model": {"lr": 1}})
