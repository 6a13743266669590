"""W&B runs, written by W&B itself and read back from disk and from a server of our own."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import wandb_stand_ins
from made_runs import end_wandb
from stand_ins import PlainModel, fit

from mixing_analysis import wandb_runs
from mixing_analysis.sources import read_runs
from mixing_analysis.values import combine, summaries
from norms.errors import SettingError
from norms.kinds import RHO
from training.callbacks.mixing import MixingValues, log_names
from training.wandb_logger import WandbLogger

COLUMNS = ["mean", "min", "max", "std", "below", "above"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run folder with an offline run of W&B, made once."""
    folder = tmp_path_factory.mktemp("runs") / "tiny" / "version_0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        logger = WandbLogger(folder)
        logger.log_hyperparams({"model": {"class_path": "stand_ins.TinyModel"}, "seed_everything": 3})
        torch.manual_seed(0)
        fit(folder, [MixingValues(5)], loggers=[logger])
        end_wandb(logger, folder)
    return folder


def offline_folder(run_dir):
    (folder,) = run_dir.glob("wandb/offline-run-*")
    return folder


class Handler(wandb_stand_ins.Handler):
    """Answers what wandb.Api asks about one run."""

    def do_GET(self):  # noqa: N802
        name = self.path.removeprefix("/files/")
        if name not in self.server.files:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[name])))
        self.end_headers()
        self.wfile.write(self.server.files[name])

    def _graphql(self, request):
        query, variables = request["query"], request.get("variables") or {}
        if variables.get("name", variables.get("runName", variables.get("run"))) != "abc":
            return super()._graphql(request)
        rows = self.server.rows
        keys = {"lastStep": rows[-1]["_step"] if rows else -1, "keys": {}}
        texts = ("id", "name", "displayName", "state", "description", "notes", "createdAt", "heartbeatAt")
        if "RunFragment" in query:
            run = dict.fromkeys(("sweepName", "group", "jobType", "commit")) | {"tags": [], "readOnly": False}
            run |= dict.fromkeys(texts, "2026-01-01T00:00:00") | {"name": "abc", "displayName": "tiny/version_0"}
            run |= {"systemMetrics": "{}", "summaryMetrics": "{}", "user": {"name": "t", "username": "t"}}
            config = {key: {"value": value} for key, value in self.server.config.items()}
            run |= {"projectId": "1", "config": json.dumps(config), "historyLineCount": len(rows), "historyKeys": keys}
        elif "parquetHistory" in query:
            run = {"parquetHistory": {"parquetUrls": [], "liveData": [{"_step": row["_step"]} for row in rows]}}
        elif "history(" in query:
            run = {"history": [json.dumps(row) for row in rows]}
        elif "RunFiles" in query:
            here = f"{self.server.url}/files"
            found = [name for name in variables["fileNames"] if name in self.server.listed]
            common = {"id": "f", "mimetype": "application/json", "updatedAt": "2026-01-01T00:00:00", "md5": ""}
            nodes = [
                {**common, "name": name, "url": f"{here}/{name}", "directUrl": f"{here}/{name}", "sizeBytes": 1}
                for name in found
            ]
            page = {"endCursor": "", "hasNextPage": False}
            run = {"fileCount": len(nodes)}
            run["files"] = {"edges": [{"node": node, "cursor": ""} for node in nodes], "pageInfo": page}
        else:
            run = {"historyKeys": keys}
        return {"data": {"project": {"internalId": "1", "run": run}}}


@pytest.fixture
def server(monkeypatch, run_dir):
    """Has the run of ``run_dir`` as entity/project/abc."""
    server = wandb_stand_ins.Server()
    server.RequestHandlerClass = Handler
    server.config = {"_wandb": {"version": "1"}}
    for record in wandb_stand_ins.records(run_dir, "config"):
        server.config |= record["update"]
    server.rows = [nested(row) for row in wandb_stand_ins.rows(run_dir)]
    folder = offline_folder(run_dir) / "files"
    tables = folder.glob("media/table/**/*.json")
    server.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in tables}
    server.listed = list(server.files)
    monkeypatch.setenv("WANDB_API_KEY", wandb_stand_ins.API_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    yield server
    server.die()


def nested(row):
    """As W&B's server has it: what is written with dots on disk are values of W&B's own types."""
    result = {}
    for key, value in row.items():
        head, dot, name = key.rpartition(".")
        if dot and "/" not in name and not name.isdigit():
            result.setdefault(head, {})[name] = value
        else:
            result[key] = value
    return result


def test_an_offline_folder_says_what_the_run_folder_says(run_dir):
    ours, theirs = read_runs([str(run_dir), str(offline_folder(run_dir))])
    assert theirs.steps == ours.steps == [0, 5, 10, 12]
    assert theirs.config["seed_everything"] == 3
    table = combine([ours, theirs])
    exact, logged = (
        summaries(table[table["run"] == run.name], RHO).set_index(["step", "layer"])[COLUMNS].astype(float)
        for run in (ours, theirs)
    )
    pd.testing.assert_frame_equal(logged, exact, rtol=1e-6)
    assert exact.loc[(12, "norm1"), "mean"] < 0.95, "rho has not moved, so that nothing is tested"
    # To the last bit: single gates at the end, and switch weights at all steps.
    assert pick(theirs.frame, ["rho"]) == pick(ours.frame, ["rho"], step=12)
    switches = ["mean_weight", "var_weight"]
    assert pick(theirs.frame, switches) == pick(ours.frame, switches)
    assert "single gates at the last step only" in theirs.notes[0]


def pick(frame, kinds, step=None):
    rows = frame[frame["kind"].isin(kinds)]
    rows = rows if step is None else rows[rows["step"] == step]
    return rows.astype(object).fillna("none").values.tolist()


def test_the_server_says_what_the_offline_folder_says(run_dir, server):
    offline, online = read_runs([str(offline_folder(run_dir)), "wandb:entity/project/abc"])
    pd.testing.assert_frame_equal(online.frame, offline.frame)
    assert online.config == {"model": {"class_path": "stand_ins.TinyModel"}, "seed_everything": 3}
    assert online.name.endswith("tiny/version_0")
    assert online.notes == offline.notes


def test_a_run_of_before_names_had_underscores(server, run_dir):
    """Its keys have dots, its tables the depth, and its configuration no list of layers."""
    (expected,) = read_runs(["wandb:entity/project/abc"])
    del server.config["mixing_layers"]
    for row in server.rows:
        for key in list(row):
            older = key.replace("00_norm1", "00.norm1").replace("01_norm2", "01.norm2")
            row[older.replace("share_below_0_1", "share_below_0.1").replace("above_0_9", "above_0.9")] = row.pop(key)
    server.files = {
        name: data.replace(b'"norm1"', b'"00.norm1"').replace(b'"norm2"', b'"01.norm2"')
        for name, data in server.files.items()
    }
    assert "rho/00.norm1/share_below_0.1" in server.rows[0]
    (older,) = read_runs(["wandb:entity/project/abc"])
    pd.testing.assert_frame_equal(older.frame, expected.frame)
    assert older.config == expected.config


def test_a_run_that_was_begun_when_layers_were_called_otherwise_has_each_layer_once():
    layers = ["block1.norm", "block2.norm"]
    rows = [{"_step": 0, "rho/00.0.1/mean": 1, "rho/01.1.1/mean": 0.75}]
    rows += [{"_step": 5, "rho/00_block1_norm/mean": 0.5, "rho/01_block2_norm/mean": 0.25}]
    frame = wandb_runs._run("r", "r", {"mixing_layers": layers}, rows, None).frame
    means = frame[frame["statistic"] == "mean"]
    assert means[["layer", "depth", "value"]].values.tolist() == [
        ["block1.norm", 0, 1],
        ["block2.norm", 1, 0.75],
        ["block1.norm", 0, 0.5],
        ["block2.norm", 1, 0.25],
    ]


def test_layers_that_differ_by_a_dot_alone_stay_apart():
    layers = ["a.b", "a_b", "10"]
    rows = [{"_step": 0, **{f"rho/{name}/mean": depth / 4 for depth, name in enumerate(log_names(layers))}}]
    rows[0]["rho/all/mean"] = 0.25
    run = wandb_runs._run("r", "r", {"mixing_layers": layers}, rows, None)
    assert list(run.architecture) == layers
    means = run.frame[run.frame["statistic"] == "mean"]
    assert means["value"].tolist() == [0, 0.25, 0.5]
    assert means["depth"].tolist() == [0, 1, 2]


def test_a_run_that_goes_on_has_no_gates_of_channels_yet(server):
    server.rows = [row for row in server.rows if "final/rho" not in row][:-1]
    (run,) = read_runs(["wandb:entity/project/abc"])
    assert set(run.frame["kind"]) == {"rho_summary", "mean_weight", "var_weight"}
    assert run.notes == (wandb_runs.NO_CHANNELS,)


@pytest.mark.parametrize("lost", ["listed", "files"])
def test_a_table_that_cannot_be_had_is_told(server, lost):
    getattr(server, lost).clear()
    (run,) = read_runs(["wandb:entity/project/abc"])
    assert set(run.frame["kind"]) == {"rho_summary", "mean_weight", "var_weight"}
    assert "only the summaries of layers" in run.notes[0]
    assert "media/table/final/rho" in run.notes[0]


def test_a_resumed_run_is_read_from_all_its_parts(run_dir, tmp_path):
    whole = offline_folder(run_dir)
    for part in ("a", "b"):
        shutil.copytree(whole, tmp_path / "wandb" / f"offline-run-2026_{part}-{whole.name[-8:]}")
    shutil.rmtree(tmp_path / "wandb" / f"offline-run-2026_a-{whole.name[-8:]}" / "files")
    alone, both = read_runs([str(whole), str(tmp_path / "wandb")])
    pd.testing.assert_frame_equal(both.frame, alone.frame)


def error_of(source):
    with pytest.raises(SettingError) as caught:
        read_runs([str(source)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wandb_folder_of_several_runs_is_refused(run_dir, tmp_path):
    shutil.copytree(offline_folder(run_dir), tmp_path / "offline-run-1-a")
    other = shutil.copytree(offline_folder(run_dir), tmp_path / "offline-run-2-b")
    (file,) = other.glob("run-*.wandb")
    file.rename(other / "run-other.wandb")
    assert "holds several W&B runs: name one of" in error_of(tmp_path)


def test_a_damaged_offline_folder_is_told(tmp_path):
    (tmp_path / "offline-run-1-a").mkdir()
    (tmp_path / "offline-run-1-a" / "run-a.wandb").write_bytes(b"nonsense")
    assert "run-a.wandb is not a readable W&B file: " in error_of(tmp_path / "offline-run-1-a")


def test_a_run_without_learned_norms_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(tmp_path)
    fit(tmp_path, [MixingValues(5)], PlainModel(), loggers=[logger], max_steps=2)
    end_wandb(logger, tmp_path)
    assert "has learned no norms" in error_of(offline_folder(tmp_path))


def test_without_login():
    message = (
        "wandb:entity/project/abc cannot be read: nobody is logged in to W&B; run `wandb login` or set WANDB_API_KEY"
    )
    assert error_of("wandb:entity/project/abc") == message


def test_without_network(monkeypatch):
    monkeypatch.setattr(wandb_runs, "TIMEOUT", 1)
    monkeypatch.setenv("WANDB_API_KEY", wandb_stand_ins.API_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{wandb_stand_ins.closed_port()}")
    assert error_of("wandb:entity/project/abc").startswith("wandb:entity/project/abc cannot be read from W&B: ")


def test_a_run_that_is_not_there(server):
    message = error_of("wandb:entity/project/other")
    assert "wandb:entity/project/other cannot be read from W&B: Could not find run" in message


@pytest.mark.parametrize("source", ["wandb:", "wandb:run", "wandb:project/run", "wandb:a/b/c/d"])
def test_a_name_that_is_none(source):
    assert error_of(source) == f"{source} names no W&B run: expected wandb:ENTITY/PROJECT/RUN"


def test_numbers_that_are_none_stay_so():
    row = {"trainer/global_step": 1, "rho/00_a/mean": "NaN", "rho/00_a/max": None, "switch/01_b/var/layer": 0.25}
    found = wandb_runs._layer_values(row)
    assert found.keys() == {"00_a/rho_summary", "01_b/var_weight"}
    assert np.isnan(found["00_a/rho_summary"]).all()
    np.testing.assert_array_equal(found["01_b/var_weight"], [np.nan, 0.25, np.nan])
