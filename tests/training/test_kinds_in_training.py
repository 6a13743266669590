"""A norm that learns what no norm of the package learns goes through a training without a word about it anywhere."""

import json

import numpy as np
import pytest
import torch
import wandb_stand_ins
import yaml
from stand_ins import TinyModel
from torch import nn

from norms import MixingNorm
from norms.kinds import MixingKind
from training.command import main

GATE = MixingKind("gate", low=-1.0, high=3.0, neutral=1.0, lr_multiplier=5.0)

BLEND = MixingKind("blend", labels=("plain", "scaled"), optimizer_group="blending", log_key="mix/{layer}/of")


class Gated(MixingNorm):
    """Scales by a gate per channel and blends the result with what came in."""

    kinds = (GATE, BLEND)

    def __init__(self, num_features):
        super().__init__(num_features, affine=False, track_running_stats=False)
        self.gate = nn.Parameter(torch.linspace(-1, 3, num_features))
        self.blend = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        plain, scaled = self.blend.softmax(0)
        return plain * x + scaled * self.gate[:, None, None] * x

    def _formula(self):
        raise NotImplementedError("it is none of moments")

    def mixing_values(self):
        return {"gate": self.gate.detach(), "blend": self.blend.detach().softmax(0)}


class GatedModel(TinyModel):
    """Has a layer of a kind of its own beside a switchable one."""

    def __init__(self, seed: int = 0):
        super().__init__(seed=seed)
        self.net.norm1 = Gated(4)


CONFIG = """
name: gated
trainer: {max_steps: 6, accelerator: cpu, val_check_interval: 3, log_every_n_steps: 1}
checkpoint: {every_n_train_steps: 3, keep_all: true}
mixing: {every_n_steps: 2}
samples: {every_n_steps: 6}
model: {class_path: test_kinds_in_training.GatedModel}
data: {class_path: stand_ins.TinyData}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "gated.yaml").write_text(CONFIG)
    assert main(["fit", "--config", "gated.yaml"]) == 0
    return tmp_path / "runs/gated/version_0"


def test_new_kinds_are_logged_and_kept(run):
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    names = [f"gate/00_norm1/{name}" for name in ("mean", "min", "max", "std", "share_below__0_6", "share_above_2_6")]
    names += ["mix/00_norm1/of/plain", "mix/00_norm1/of/scaled", "switch/01_norm2/mean/batch"]
    assert [name for name in names if name not in header] == []
    with np.load(run / "mixing/step_0000000.npz") as arrays:
        assert arrays["norm1/gate"] == pytest.approx(np.linspace(-1, 3, 4))
        assert arrays["norm1/blend"] == pytest.approx([0.5, 0.5])
    kinds = [MixingKind.from_dict(kind) for kind in json.loads((run / "mixing/kinds.json").read_text())]
    assert kinds[:2] == [GATE, BLEND]
    assert [kind.name for kind in kinds[2:]] == ["mean_weight", "var_weight"]


def test_new_kinds_reach_wandb(run):
    rows = {row["trainer/global_step"]: row for row in wandb_stand_ins.rows(run) if "gate/00_norm1/mean" in row}
    assert rows.keys() == {0, 2, 4, 6}
    assert rows[0]["gate/00_norm1/histogram.bins"] == pytest.approx(np.linspace(-1, 3, 33))
    assert sum(rows[0]["gate/00_norm1/histogram.values"]) == 4
    tables = {path.name.partition("_")[0]: path for path in run.glob("wandb/*/files/media/table/final/*.json")}
    assert tables.keys() == {"gate", "mix", "switch"}
    gates, mix = (json.loads(tables[name].read_text()) for name in ("gate", "mix"))
    assert gates["columns"] == ["layer", "channel", "gate"]
    assert [row[:2] for row in mix["data"]] == [["norm1", "of/plain"], ["norm1", "of/scaled"]]
    (config,) = [update for update in wandb_stand_ins.records(run, "config") if "mixing_kinds" in str(update)]
    assert "share" not in str(config)
    assert MixingKind.from_dict(config["update"]["mixing_kinds"][0]) == GATE


def test_new_kinds_have_their_learning_rates_and_ranges(run):
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    groups = {group["name"]: group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]}
    assert groups == {"weights": 0.01, "affine": 0.01, "gate": 0.05, "blending": 0.01, "switch": 0.01}
    gate = checkpoint["state_dict"]["net.norm1.gate"]
    assert not torch.equal(gate, torch.linspace(-1, 3, 4))
    assert gate.min() >= -1
    assert gate.max() <= 3


def test_a_resumed_training_ends_as_if_it_had_not_been_interrupted(run):
    whole, last = (run / "metrics.csv").read_text(), run / "checkpoints/last.ckpt"
    expected = torch.load(last, weights_only=True)["state_dict"]
    (run / "checkpoints/step_0000003.ckpt").rename(last)
    assert main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", "last"]) == 0
    resumed = torch.load(last, weights_only=True)["state_dict"]
    assert [key for key, value in expected.items() if not torch.equal(resumed[key], value)] == []
    assert (run / "metrics.csv").read_text() == whole
    assert yaml.safe_load((run / "config.yaml").read_text())["name"] == "gated"
