"""The workspace for W&B: what its panels are of is what runs log, and W&B's library takes it as it is."""

import json
import sys

import pytest
import wandb_stand_ins
from made_runs import end_wandb
from stand_ins import fit
from wandb.errors import CommError

from norms.errors import SettingError
from tools.wandb_workspace import main, workspace
from training.callbacks.mixing import MixingValues
from training.callbacks.run_folder import RunFolder
from training.callbacks.samples import SampleImages
from training.run import Run
from training.wandb_logger import WandbLogger

ws = pytest.importorskip("wandb_workspaces.workspaces")
from wandb_workspaces.reports.v2 import interface as panels  # noqa: E402

CONFIG = "name: tiny\nmodel:\n  class_path: stand_ins.TinyModel\n  init_args:\n    norm: batch_instance\n    lr: 0.1\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an offline run of W&B, made once."""
    folder = tmp_path_factory.mktemp("runs") / "tiny" / "version_0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        logger = WandbLogger(folder)
        logger.log_hyperparams({"model": {"init_args": {"norm": "batch_instance", "lr": 0.1}}})
        fit(folder, [RunFolder(CONFIG), MixingValues(5), SampleImages(10)], loggers=[logger])
        end_wandb(logger, folder)
    return Run(folder)


def keys_of(panel):
    """The keys of the history, of the summary and of the configuration that a panel shows."""
    if isinstance(panel, panels.LinePlot):
        return [panel.x, *panel.y], [], []
    if isinstance(panel, panels.MediaBrowser):
        return panel.media_keys, [], []
    scatter = isinstance(panel, panels.ScatterPlot)
    axes = [panel.x, panel.y] if scatter else [column.metric for column in panel.columns]
    summary = [axis.name for axis in axes if isinstance(axis, panels.SummaryMetric)]
    return [], summary, [axis.name for axis in axes if isinstance(axis, panels.Config)]


def test_each_panel_is_of_what_the_run_has_logged(run):
    made = workspace(run, "someone", "normlab", "mine")
    assert [section.name for section in made.sections] == [
        "Losses",
        "Learned normalization",
        "Layers by steps",
        "Single layers",
        "Runs compared",
        "Pictures",
    ]
    rows = wandb_stand_ins.rows(run.folder)
    logged = {key.partition(".")[0] for row in rows for key in row}
    summary = {
        f"{key}.{part}" if part else key
        for key, value in wandb_stand_ins.summary(run.folder).items()
        for part in (value if isinstance(value, dict) else [""])
    }
    config = {}
    for record in wandb_stand_ins.records(run.folder, "config"):
        config |= record["update"]
    shown = set()
    for section in made.sections:
        for panel in section.panels:
            history, last, settings = keys_of(panel)
            assert history or last
            assert set(history) <= logged
            assert set(last) <= summary
            for name in settings:
                value = config
                for part in name.split("."):
                    value = value[part]
            shown |= {*history, *last, *settings}
    assert {"val/loss", "val/loss.min", "rho/all/mean", "switch/all/var/batch"} <= shown
    assert {"heat_map/rho", "heat_map/switch", "samples"} <= shown
    assert {"rho/00_norm1/mean", "switch/01_norm2/mean/layer", "model.init_args.norm"} <= shown
    assert not made.sections[3].is_open


def test_loss_stands_against_rho(run):
    compared = workspace(run, "someone", "normlab", "mine").sections[4]
    scatters = [panel for panel in compared.panels if isinstance(panel, panels.ScatterPlot)]
    assert (scatters[0].x.name, scatters[0].y.name) == ("rho/all/mean", "val/loss.min")
    assert len(scatters) == 1 + 6
    (parallel,) = (panel for panel in compared.panels if isinstance(panel, panels.ParallelCoordinatesPlot))
    assert [column.metric.name for column in parallel.columns][:3] == [
        "model.init_args.norm",
        "model.init_args.lr",
        "rho/all/mean",
    ]


class Handler(wandb_stand_ins.Handler):
    """Keeps views."""

    def _graphql(self, request):
        if "upsertView" in request["query"]:
            return {"data": {"upsertView": {"view": {"id": "v", "name": "nw-abc-v"}, "inserted": True}}}
        return super()._graphql(request)


def test_the_command_saves_what_the_library_makes_of_it(run, monkeypatch, capsys):
    server = wandb_stand_ins.Server()
    server.RequestHandlerClass = Handler
    monkeypatch.setenv("WANDB_API_KEY", wandb_stand_ins.API_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert main([str(run.folder), "--project", "mine"]) == 0
    assert capsys.readouterr().out.strip().endswith("/tester/mine?nw=abc")
    (sent,) = (json.loads(body)["variables"] for path, body in server.received if b"upsertView" in body)
    spec = json.loads(sent["spec"])
    sections = spec["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections][:2] == ["Losses", "Learned normalization"]
    assert "rho/all/share_below_0_1" in json.dumps(sections[1])
    assert sent["entityName"] == "tester"
    server.die()


def error_of(capsys, *arguments):
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.strip()


def test_without_login(run, capsys):
    message = "error: nobody is logged in to W&B: run `wandb login` or set WANDB_API_KEY"
    assert error_of(capsys, str(run.folder)) == message


def test_what_wandb_refuses_is_told_in_one_line(run, capsys, monkeypatch):
    def save(self):
        raise CommError("no\nnetwork")

    monkeypatch.setattr(ws.Workspace, "save", save)
    assert error_of(capsys, str(run.folder), "--entity", "me") == "error: W&B does not take the workspace: no network"


def test_without_a_run(capsys, tmp_path):
    assert "no such run" in error_of(capsys, str(tmp_path / "none"), "--entity", "a")


def test_without_metrics(tmp_path):
    (tmp_path / "mixing").mkdir()
    with pytest.raises(SettingError, match=r"has logged nothing yet: metrics\.csv is missing or empty"):
        workspace(Run(tmp_path), "a", "b", "c")


def test_without_the_package(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    message = 'error: needs wandb-workspaces: pip install "normlab[workspace]"'
    assert error_of(capsys, str(run.folder), "--entity", "a") == message
