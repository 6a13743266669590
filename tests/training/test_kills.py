"""A run that is killed at whatever instant and resumed leaves what it would have left without the kill."""

import signal

import kills
import torch
from processes import CONTEXT, ended

INSTANTS = 30


def killed(instant, run_dir, log):
    process = CONTEXT.Process(target=kills.train_until, args=(instant, run_dir, log))
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


def test_at_thirty_instants(tmp_path, monkeypatch):
    # Between two changes on disk, all instants are one.
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    whole = tmp_path / "whole"
    assert killed(-1, whole, tmp_path / "log") == 0
    expected = content(whole)
    changes = (tmp_path / "log").read_text().splitlines()
    first = next(i for i, line in enumerate(changes) if line.startswith("os.rename") and line.endswith("last.ckpt"))
    # Around each of the last ones, and evenly before.
    last = len(changes) - INSTANTS // 2
    step = (last - first) / (INSTANTS // 2)
    instants = [*(first + 1 + int(step * k) for k in range(INSTANTS // 2)), *range(last + 1, len(changes))]
    differing = {}
    for instant in instants:
        run = tmp_path / str(instant)
        assert killed(instant, run, tmp_path / "killed.log") == -signal.SIGKILL
        kills.train(run, ckpt_path=run / "checkpoints/last.ckpt")
        found = content(run)
        wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        if wrong:
            differing[changes[instant]] = wrong
    assert differing == {}
