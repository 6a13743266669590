"""Runs on a GPU, where there is one: ``pytest -m gpu``."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import Callback

import norms
from sampling import command as sampling_command
from stylizing import command as stylizing_command
from training.command import main

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

STEPS, EVERY = 12, 6

TRAININGS = ("style_transfer", "gan", "classifier")
"""The default ones."""

VARIANTS = {
    "float32": (),
    "bfloat16": ("--trainer.precision=bf16-mixed",),
    "compiled": ("--model.compile=true",),
}


class NoWaits(Callback):
    """Lets whatever waits for the GPU be an error, in steps that neither log nor look."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        quiet = 0 < trainer.global_step % EVERY < EVERY - 1
        torch.cuda.set_sync_debug_mode("error" if quiet else "default")

    def on_train_end(self, trainer, pl_module):
        torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, trainer, pl_module, exception):
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield
    torch.cuda.set_sync_debug_mode("default")


def fit(name, *args, steps=STEPS):
    config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    every = {part: {"every_n_steps": EVERY} for part in ("mixing", "guard")}
    trainer = {
        "accelerator": "cuda",
        "devices": 1,
        "max_steps": steps,
        "log_every_n_steps": EVERY,
        "val_check_interval": EVERY,
        "limit_val_batches": 1,
        "enable_progress_bar": False,
    }
    own = {"trainer": trainer, "checkpoint": {"every_n_train_steps": EVERY, "keep_all": True}, "name": "run", **every}
    Path("config.yaml").write_text(yaml.safe_dump(config | own))
    assert main(["fit", "--config", "config.yaml", *args]) == 0
    return Path("runs/run/version_0")


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TRAININGS)
def test_default_trainings_run(name, variant):
    run = fit(name, *VARIANTS[variant])
    assert all(value.isfinite().all() for value in weights(run).values() if value.is_floating_point())


@pytest.mark.parametrize("name", TRAININGS)
def test_no_step_waits_but_those_that_log(name):
    fit(name, "--trainer.callbacks+=test_gpu.NoWaits")


@pytest.mark.parametrize("name", TRAININGS)
def test_resumes_bit_by_bit_with_deterministic_kernels(name, monkeypatch):
    # Atomic additions, as in the gradients of indexing and interpolation, come in any order otherwise.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deterministic = "--trainer.deterministic=warn"
    run = fit(name, deterministic)
    first = weights(run)
    fit(name, deterministic, "--ckpt_path", str(run / f"checkpoints/step_{EVERY:07d}.ckpt"))
    second = weights(run)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def test_samples_are_those_of_the_cpu():
    run = fit("gan", steps=2)
    for device in ("cuda", "cpu"):
        assert sampling_command.main([str(run), "-o", f"{device}.png", "--count", "8", "--device", device]) == 0
    assert_alike("cuda.png", "cpu.png")


def test_photos_are_painted_as_on_the_cpu():
    Image.effect_mandelbrot((120, 90), (-2, -1, 1, 1), 50).convert("RGB").save("photo.png")
    for device in ("cuda", "cpu"):
        assert stylizing_command.main(["bundled", "photo.png", "-o", device, "--device", device]) == 0
    (ours,), (theirs,) = Path("cuda").iterdir(), Path("cpu").iterdir()
    assert_alike(ours, theirs)


def assert_alike(first, second):
    """Pictures differ by few levels of 255, since kernels round otherwise."""
    ours, theirs = (torch.tensor(list(Image.open(each).convert("RGB").tobytes())).float() for each in (first, second))
    assert (ours - theirs).abs().mean() < 2


@pytest.mark.parametrize("name", norms.names())
def test_norms_do_as_on_the_cpu(name):
    torch.manual_seed(0)
    layer, x = norms.build(name, 8), torch.randn(4, 8, 7, 7)
    found = []
    for device in ("cpu", "cuda"):
        moved = x.to(device).requires_grad_()
        layer.to(device).train()
        y = layer(moved)
        found.append([y, *torch.autograd.grad((y.square() * y).sum(), [moved, *layer.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["norms", "steps", "training"])
def test_benchmarks_run(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", ROOT / "benchmarks" / f"{name}.py")
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--device", "cuda", "--quick"])
    spec.loader.exec_module(benchmark)
    benchmark.main()
