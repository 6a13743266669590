"""A norm whose kinds of values exist nowhere else goes through everything that is read and drawn."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import wandb_stand_ins
from chromium import Chromium, find
from made_runs import end_wandb
from stand_ins import TinyModel, fit
from torch import nn

from mixing_analysis.command import main
from mixing_analysis.sources import read_runs
from mixing_analysis.values import combine, histogram, kinds_of, summaries
from norms import MixingNorm
from norms.errors import SettingError
from norms.kinds import MixingKind
from training.callbacks.mixing import MixingValues
from training.wandb_logger import WandbLogger

GATE = MixingKind("gate", high=2.0, neutral=1.5)
ROUTE = MixingKind("route", labels=("left", "right"), neutral=0.5, title="ways", log_key="way/{layer}/of")


class Routed(MixingNorm):
    """Scales every channel by a gate, and blends the result with what came in."""

    kinds = (GATE, ROUTE)

    def __init__(self, num_features):
        super().__init__(num_features, track_running_stats=False)
        self.gate = nn.Parameter(torch.linspace(0.0, 2.0, num_features))
        self.route = nn.Parameter(torch.zeros(2))
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x):
        left, right = self.route.softmax(0)
        return left * x + right * self.gate[:, None, None] * self.weight[:, None, None] * x

    def _formula(self):
        raise NotImplementedError("it normalizes nothing")

    def mixing_values(self):
        return {"gate": self.gate.detach().clone(), "route": self.route.detach().softmax(0)}

    @classmethod
    def read_state(cls, state, **options):
        read = super().read_state(state)
        return read and {**read, "route": read["route"].softmax(0)}


class RoutedModel(TinyModel):
    def __init__(self, seed=0):
        super().__init__(seed=seed)
        self.net.norm1 = Routed(4)
        with torch.no_grad():
            self.net.norm1.route.copy_(torch.tensor([0.0, 1.0]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with its values, their kinds, an offline run of W&B and a checkpoint; and the model."""
    folder = tmp_path_factory.mktemp("runs") / "routed" / "version_0"
    model = RoutedModel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        logger = WandbLogger(folder)
        trainer = fit(folder, [MixingValues(5)], model, loggers=[logger], max_steps=10)
        end_wandb(logger, folder)
        (folder / "checkpoints").mkdir()
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder, model.net.norm1


def values_of(run, kind, step):
    rows = run.frame[(run.frame["kind"] == kind) & (run.frame["step"] == step) & (run.frame["layer"] == "norm1")]
    return rows["value"].tolist()


@pytest.mark.parametrize("source", ["folder", "arrays", "checkpoint", "wandb"])
def test_every_source_says_the_same(source, trained, tmp_path):
    folder, layer = trained
    path = {"folder": folder, "checkpoint": folder / "checkpoints" / "last.ckpt"}.get(source)
    if source == "arrays":
        path = tmp_path / "routed"
        (path / "mixing").mkdir(parents=True)
        for file in (folder / "mixing").iterdir():
            (path / "mixing" / file.name).write_bytes(file.read_bytes())
    if source == "wandb":
        (path,) = folder.glob("wandb/offline-run-*")
    (run,) = read_runs([str(path)])
    assert values_of(run, "gate", 10) == layer.gate.tolist()
    assert values_of(run, "route", 10) == layer.route.softmax(0).tolist()
    assert {kind.name: kind for kind in kinds_of([run])}["gate"] == GATE
    assert [kind.name for kind in kinds_of([run])] == ["gate", "route", "mean_weight", "var_weight"]
    if source == "wandb":
        exact = np.mean(values_of(read_runs([str(folder)])[0], "gate", 5))
        assert values_of(run, "gate_summary", 5)[0] == pytest.approx(exact)
        assert "mixing_kinds" not in (run.config or {})


def test_a_checkpoint_alone_is_read_by_the_norms_that_are_loaded(tmp_path):
    layer = Routed(3)
    torch.save({f"net.block.norm.{key}": value for key, value in layer.state_dict().items()}, tmp_path / "model.pt")
    (run,) = read_runs([str(tmp_path / "model.pt")])
    assert run.architecture == {"norm": 3}
    assert run.frame["value"].tolist() == [0, 1, 2, 0.5, 0.5, 1, 1, 1]
    assert run.frame["statistic"].tolist()[3:5] == ["left", "right"]


def test_channels_are_summed_up_over_their_own_range(trained):
    folder, layer = trained
    table = combine(read_runs([str(folder)]))
    (last,) = summaries(table[table["step"] == 10], GATE, ["run"]).to_dict("records")
    gate = layer.gate.detach().numpy()
    assert last["mean"] == pytest.approx(gate.mean())
    assert (last["below"], last["above"]) == ((gate < 0.2).mean(), (gate > 1.8).mean())
    bins = histogram(table[table["step"] == 10], GATE, bins=4)
    assert bins["right"].tolist() == [0.5, 1, 1.5, 2]
    assert bins["count"].tolist() == np.histogram(gate, 4, (0, 2))[0].tolist()


def test_the_command_tells_and_draws_them(trained, tmp_path, capsys, monkeypatch):
    folder, layer = trained
    assert main([str(folder), "-o", str(tmp_path / "report"), "--no-evaluation"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"gates +mean gate +< 0\.2 +> 1\.8 +bimodality", out)
    (row,) = re.findall(r"^ *norm1 +4 .*$", out, re.MULTILINE)
    assert row.split()[2] == f"{layer.gate.mean():.3f}"
    assert re.search(r"weights of +left +right", out)
    assert re.search(r"norm1 +ways +" + f"{layer.route.softmax(0)[0]:.3f}", out)
    assert "published" not in out
    drawn = {path.stem.removesuffix("_column") for path in (tmp_path / "report" / "figures").iterdir()}
    drawn -= {"gate_evolution", "route_evolution", "switch_evolution"}  # the films
    own = {"gate_histogram", "gate_layers", "gate_channels", "gate_training", "gate_gamma", "route_layers"}
    assert own | {"route_training", "switch_layers", "switch_training"} == {
        name.removesuffix("_column") for name in drawn
    }
    text = pd.read_csv(tmp_path / "report" / "mixing.csv")
    assert set(text["kind"]) == {"gate", "route", "mean_weight", "var_weight", "gamma"}


@pytest.mark.skipif(find() is None, reason="no Chromium is installed")
def test_the_page_shows_them(trained, tmp_path, capsys):
    folder, layer = trained
    assert main([str(folder), "-o", str(tmp_path / "report"), "--no-evaluation"]) == 0
    with Chromium(find()) as browser:
        browser.screen(1280, 900)
        browser.open(tmp_path / "report" / "report.html")
        browser.run("redraw(true)")
        figures = browser.run("[...document.querySelectorAll('figure')].map(node => node.id)")
        words = browser.run("document.querySelector('main').textContent")
        means = browser.run("gatesOf(channelKinds[0], 0, Infinity, 0)")
        weight = browser.run("weightOf(families.find(one => one.name === 'route'), 0, Infinity, 0, 0, 1)")
        ticks = browser.run("[...document.querySelectorAll('#gate-depth text')].map(node => node.textContent)")
        assert browser.errors == browser.requests == []
    assert figures[:5] == ["gate-histogram", "gate-depth", "gate-channels", "gate-training", "gate-bimodality"]
    assert {"gate-gamma", "route-layers", "route-training", "switch-layers"} < set(figures)
    assert means["mean"] == pytest.approx(layer.gate.mean().item(), abs=1e-4)
    assert weight == pytest.approx(layer.route.softmax(0)[1].item(), abs=1e-4)
    assert "2.0" in ticks
    assert "below 0.2" in words
    assert "undefined" not in words
    assert "NaN" not in words
    for word in ("Nam & Kim", "instance normalization", "{{"):
        assert word not in words


def test_kinds_that_differ_are_not_mixed_up(trained, tmp_path):
    folder, _ = trained
    other = tmp_path / "other" / "version_0"
    (other / "mixing").mkdir(parents=True)
    np.savez(other / "mixing" / "step_0000000.npz", **{"00.a/gate": np.ones(3, np.float32)})
    (other / "mixing" / "kinds.json").write_text(json.dumps([MixingKind("gate", high=3.0).to_dict()]))
    with pytest.raises(SettingError, match="mean different things by gate"):
        kinds_of(read_runs([str(folder), str(other)]))


@pytest.mark.parametrize("content", ["nonsense", '{"a": 1}', '[{"name": "gate", "low": 2}]', "[1]"])
def test_damaged_descriptions_are_told(content, tmp_path):
    (tmp_path / "mixing").mkdir()
    np.savez(tmp_path / "mixing" / "step_0000000.npz", **{"00.a/gate": np.ones(3, np.float32)})
    (tmp_path / "mixing" / "kinds.json").write_text(content)
    with pytest.raises(SettingError, match=r"kinds\.json"):
        read_runs([str(tmp_path)])


def test_kinds_reach_wandb(trained):
    folder, _ = trained
    updates = [str(record) for record in wandb_stand_ins.records(folder, "config")]
    assert any("mixing_kinds" in update for update in updates)
