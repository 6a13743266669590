"""What a run's folder holds from its first step on."""

import logging

import pytest
import wandb_stand_ins
import yaml
from stand_ins import PlainModel, TinyModel, fit

from norms.errors import SettingError
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.run_folder import RunFolder

CONFIG = "name: tiny\nmodel:\n  width: 4\n"


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_holds_the_configuration_which_wandb_gets_too(tmp_path):
    fit(tmp_path, [RunFolder(CONFIG)])
    assert (tmp_path / "config.yaml").read_text() == CONFIG
    (update,) = [
        record["update"] for record in wandb_stand_ins.records(tmp_path, "config") if "name" in record["update"]
    ]
    assert {key: update[key] for key in ("name", "model")} == yaml.safe_load(CONFIG)
    assert "train/loss" in {key for row in wandb_stand_ins.rows(tmp_path) for key in row}


def test_stays_empty_when_the_data_is_wrong(tmp_path):
    model = TinyModel()

    def wrong(stage):
        raise SettingError("no such image")

    model.setup = wrong
    with pytest.raises(SettingError, match="no such image"):
        fit(tmp_path, [RunFolder(CONFIG)], model)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_keeps_its_configuration_and_tells_what_differs(tmp_path, caplog):
    fit(tmp_path, [RunFolder(CONFIG), RunCheckpoint(4)], max_steps=4)
    changed = CONFIG.replace("4", "5") + "ckpt_path: last.ckpt\nextra: 1\n"
    with caplog.at_level(logging.INFO):
        fit(tmp_path, [RunFolder(changed)], max_steps=6, ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert (tmp_path / "config.yaml").read_text() == CONFIG
    assert (tmp_path / "config_resumed_0000004.yaml").read_text() == changed
    message = (
        f"going on with other settings than those of {tmp_path / 'config.yaml'}: extra None -> 1, model.width 4 -> 5"
    )
    assert message in caplog.messages


def test_a_run_that_is_not_resumable_keeps_its_rows(tmp_path):
    fit(tmp_path, [RunFolder(CONFIG), RunCheckpoint(2)], max_steps=5)
    before = (tmp_path / "metrics.csv").read_text()
    with pytest.raises(SettingError, match="the checkpoint is of TinyModel"):
        fit(tmp_path, [RunFolder(CONFIG)], PlainModel(), max_steps=9, ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert (tmp_path / "metrics.csv").read_text() == before
    assert not list(tmp_path.glob("config_resumed*"))
