"""What --wandb.* sets, and what a run tells W&B of itself, as an offline run's file holds it."""

import copy
from pathlib import Path

import pytest
import stand_ins
import wandb
import wandb_stand_ins
import yaml
from test_train import TINY

from norms.errors import SettingError
from sweeping.runs import SweepRun
from training.best_values import best_of
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.mixing import MixingValues
from training.callbacks.run_folder import RunFolder
from training.command import main
from training.run import Run
from training.wandb_logger import WandbLogger
from training.wandb_options import WandbOptions, group_of

CONFIG = {
    "seed_everything": 0,
    "name": "tiny",
    "model": {"class_path": "lightning_modules.GAN", "init_args": {"norm": "switchable", "lr": 0.1, "seed": 0}},
    "wandb": {"notes": None},
}


def arguments(config=CONFIG, **options):
    return WandbOptions(**options).arguments(Run("runs/tiny/version_3"), config)


def changed(**init_args):
    config = copy.deepcopy(CONFIG)
    config["model"]["init_args"] |= init_args
    return config


def test_without_options_a_run_is_described_by_its_configuration():
    found = arguments()
    group = found.pop("group")
    assert group.startswith("tiny-")
    assert found == {
        "project": "normlab",
        "entity": None,
        "job_type": "fit",
        "tags": ["GAN", "switchable"],
        "notes": None,
        "name": "tiny/version_3",
    }


def test_seeds_that_a_sweep_trains_have_one_group_though_each_has_a_name(tmp_path):
    names = []
    for name in ("001-seed_0", "002-seed_1"):
        folder = tmp_path / "norms" / name / "version_0"
        folder.mkdir(parents=True)
        SweepRun(folder.parent, {}, []).to(state="begun")
        names.append(WandbOptions().arguments(Run(folder), CONFIG)["group"])
    assert names == [group_of(CONFIG, "norms")] * 2


def test_seeds_of_one_configuration_have_one_group_and_other_settings_another():
    group = arguments()["group"]
    assert arguments(changed(seed=7))["group"] == arguments(CONFIG | {"seed_everything": 3})["group"] == group
    assert arguments(CONFIG | {"wandb": {"notes": "other"}})["group"] == group
    assert arguments(changed(lr=0.2))["group"] != group
    assert group_of({}, "tiny") is None


def test_what_is_given_holds_before_variables_and_they_before_defaults(monkeypatch):
    given = {"project": "p", "entity": "e", "group": "g", "job_type": "j", "notes": "n", "name": "m"}
    assert arguments(**given) == {**given, "tags": ["GAN", "switchable"]}
    variables = {"PROJECT": "P", "ENTITY": "E", "RUN_GROUP": "G", "JOB_TYPE": "J", "NOTES": "N", "NAME": "M"}
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_TAGS", "x, y")
    assert arguments(**given) == {**given, "tags": ["GAN", "switchable", "x", "y"]}
    found = arguments()
    assert (found["project"], found["name"]) == ("P", "M")
    # W&B looks these up by itself.
    assert [found[name] for name in ("entity", "group", "job_type", "notes")] == [None] * 4
    assert arguments(tags=[])["tags"] == ["GAN", "switchable"]


def test_tags_are_a_list_or_a_text_and_none_is_there_twice():
    assert arguments(tags="a, GAN,b")["tags"] == arguments(tags=["a", "GAN", "b"])["tags"]
    assert arguments(tags="a, GAN,b")["tags"] == ["GAN", "switchable", "a", "b"]
    assert arguments(changed(norm="mypackage.MyNorm"))["tags"] == ["GAN", "MyNorm"]
    with pytest.raises(SettingError, match="a tag has 1 to 64 characters"):
        WandbOptions(tags=["x" * 65])


def test_variables_that_wandb_looks_up_by_itself_are_in_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "G")
    monkeypatch.setenv("WANDB_NOTES", "N")
    logger = WandbLogger(tmp_path, config=CONFIG)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.finalize("success")
    (run,) = wandb_stand_ins.records(tmp_path, "run")
    assert (run["run_group"], run["notes"], run["job_type"]) == ("G", "N", "fit")


@pytest.mark.parametrize(
    ("option", "variable", "disabled"),
    [("disabled", None, True), (None, "disabled", True), ("offline", "disabled", False), (None, None, False)],
)
def test_disabled_leaves_wandb_out(tmp_path, monkeypatch, option, variable, disabled):
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    callbacks = [RunFolder("name: a\n", WandbOptions(mode=option))]
    trainer = stand_ins.fit(tmp_path, callbacks, max_steps=1)
    assert any(isinstance(logger, WandbLogger) for logger in trainer.loggers) != disabled
    assert (tmp_path / "wandb").exists() != disabled


def test_a_mode_that_is_given_holds_before_the_variable(tmp_path, monkeypatch):
    server = wandb_stand_ins.Server()
    monkeypatch.setenv("WANDB_API_KEY", wandb_stand_ins.API_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(tmp_path, WandbOptions(mode="online"))
    logger.log_metrics({"loss": 0.5}, 1)
    logger.finalize("success")
    server.die()
    assert any(path.endswith("/file_stream") for path, _ in server.received)
    assert logger.sync_command is None


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val/loss", "min"),
        ("val/kid_garments", "min"),
        ("val/fd_garments", "min"),
        ("val/accuracy", "max"),
        ("val/is_garments", "max"),
        ("val/recall_garments", "max"),
        ("val/coverage", "max"),
        ("val/isometry", "min"),
    ],
)
def test_the_name_of_a_metric_tells_whether_the_lowest_or_the_highest_is_best(metric, mode):
    assert best_of(metric) == mode


def test_the_summary_has_the_best_of_validations_and_the_last_of_all_else(tmp_path):
    logger = WandbLogger(tmp_path)
    for step, value in enumerate([3.0, 1.0, 5.0, 2.0]):
        logger.log_metrics({"val/loss": value, "val/accuracy_top5": value, "train/loss": value}, step)
    logger.finalize("success")
    summary = {}
    for record in wandb_stand_ins.records(tmp_path, "summary"):
        summary |= record["update"]
    assert (summary["val/loss"], summary["val/accuracy_top5"], summary["train/loss"]) == ({"min": 1}, {"max": 5}, 2)


def artifacts(run_dir):
    found = []
    for each in wandb_stand_ins.records(run_dir, "artifact"):
        step = yaml.safe_load(each.get("metadata") or "{}").get("step")
        files = {entry["path"]: Path(entry["local_path"]) for entry in each["manifest"]["contents"]}
        aliases = {*each["aliases"]} - {"latest"}
        found.append((each["name"].partition("-")[0], aliases, step, files))
    return [each for each in found if each[0] != "run"]  # the tables that W&B makes artifacts itself


@pytest.mark.parametrize("keep", [True, "all", False])
def test_checkpoints_and_tables_are_kept_as_artifacts_by_choice(tmp_path, keep):
    folder = RunFolder(yaml.safe_dump(CONFIG), WandbOptions(log_model=keep))
    callbacks = [folder, MixingValues(5), RunCheckpoint(5, monitor="val/loss")]
    stand_ins.fit(tmp_path, callbacks)
    run, found = Run(tmp_path), artifacts(tmp_path)
    each = [({f"step_{step}"}, step) for step in (5, 10, 12)] if keep == "all" else []
    kept = [*each, ({"best"}, 10), ({"last"}, 12)] if keep else []
    assert [(aliases, step) for name, aliases, step, _ in found if name == "model"] == kept
    if not keep:
        assert found == []
        return
    best, last = (files for name, aliases, _, files in found if aliases in ({"best"}, {"last"}) and name == "model")
    assert best["checkpoints/best.ckpt"].read_bytes() == run.best.read_bytes()
    assert last["checkpoints/last.ckpt"].read_bytes() == run.last.read_bytes()
    ((_, _, _, tables),) = [each for each in found if each[0] == "tables"]
    assert tables.keys() == {"config.yaml", "metrics.csv", "mixing/kinds.json", "mixing/step_0000012.npz"}
    assert tables["metrics.csv"].read_bytes() == run.metrics.read_bytes()


def test_an_artifact_that_cannot_be_made_costs_only_itself(tmp_path, monkeypatch, recwarn):
    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(wandb.Artifact, "add_file", fail)
    folder = RunFolder(yaml.safe_dump(CONFIG), WandbOptions(log_model=True))
    trainer = stand_ins.fit(tmp_path, [folder, RunCheckpoint(5)])
    assert trainer.global_step == 12
    told = [str(w.message) for w in recwarn if "artifact" in str(w.message)]
    assert len(told) == 2
    assert told[0].startswith("W&B could not take ")
    assert told[0].endswith("checkpoints/last.ckpt as an artifact (OSError: no space left)")
    assert [row["_step"] for row in wandb_stand_ins.rows(tmp_path)] == list(range(1, 13))


def test_options_of_the_command_line_are_in_the_offline_file_and_in_the_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY + "wandb: {project: mine, tags: [a, b], notes: first}\n")
    options = ["--wandb.entity", "us", "--wandb.notes", "second", "--wandb.name", "n", "--wandb.tags+", "c"]
    assert main(["fit", "--config", "tiny.yaml", *options, "--wandb.mode", "offline"]) == 0
    (run,) = wandb_stand_ins.records("runs/tiny/version_0", "run")
    assert (run["project"], run["entity"], run["notes"], run["display_name"]) == ("mine", "us", "second", "n")
    assert run["tags"] == ["TinyModel", "batch_instance", "a", "b", "c"]
    config = yaml.safe_load(Path("runs/tiny/version_0/config.yaml").read_text())
    assert run["run_group"] == group_of(config, "tiny")
    assert config["wandb"]["entity"] == "us"
