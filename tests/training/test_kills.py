"""A run that is killed at whatever instant and resumed leaves what it would have left without the kill."""

import signal

import kills
import pytest
import torch
from processes import CONTEXT, ended

LAST = "checkpoints/last.ckpt"


@pytest.fixture(autouse=True)
def _without_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


def in_a_process(function, *args):
    process = CONTEXT.Process(target=function, args=args)
    process.start()
    return ended(process)


def content(run_dir):
    """All files but W&B's and the configuration of the resumption; of checkpoints, the step and the weights."""
    files = {}
    for path in sorted(run_dir.rglob("*")):
        if path.is_file() and not path.name.startswith("config_resumed"):
            files[str(path.relative_to(run_dir))] = path.read_bytes()
            if path.suffix == ".ckpt":
                state = torch.load(path, weights_only=True)
                files[str(path.relative_to(run_dir))] = (state["global_step"], str(state["state_dict"]))
    return files


@pytest.fixture(scope="module")
def instants(tmp_path_factory):
    """A training that ends, and what was on disk before each of its changes there, from the first checkpoint on."""
    folder = tmp_path_factory.mktemp("kills")
    assert in_a_process(kills.keep_instants, folder / "whole", folder / "instants") == 0
    copies = sorted((folder / "instants").iterdir(), key=lambda path: int(path.name))
    copies = [path for path in copies if (path / LAST).is_file()]
    # Of those before the closing ones, a part says as much.
    return folder / "whole", copies[:-24:2] + copies[-24:]


def test_at_any_instant(instants, tmp_path):
    whole, copies = instants
    assert len(copies) >= 30
    expected = content(whole)
    differing = {}
    for copy in copies:
        kills.train(copy, ckpt_path=copy / LAST)
        found = content(copy)
        wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        if wrong:
            differing[copy.name] = wrong
    assert differing == {}


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_by_sigkill(instants, tmp_path, share):
    whole, copies = instants
    instant = copies[round(share * (len(copies) - 1))]
    run = tmp_path / "run"
    assert in_a_process(kills.die_at, int(instant.name), run) == -signal.SIGKILL
    kills.train(run, ckpt_path=run / LAST)
    assert content(run) == content(whole)
