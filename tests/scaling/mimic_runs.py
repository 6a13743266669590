"""What is run on the device ``mimic``, in a process of its own."""

import contextlib
import io
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import mimic
import processes
import torch
import yaml
from pytorch_lightning import Callback
from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry
from pytorch_lightning.strategies import SingleDeviceStrategy, StrategyRegistry

from lightning_modules import generation
from training.callbacks import signs
from training.command import main

STEPS, EVERY = 6, 3
"""How long trainings are, and at which steps they log, draw and save: the second and the fifth step do neither."""

COMMON = {
    "name": "run",
    "trainer": {
        "accelerator": mimic.NAME,
        "strategy": "single_mimic",
        "max_steps": STEPS,
        "log_every_n_steps": EVERY,
        "val_check_interval": EVERY,
        "limit_val_batches": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "mimic_runs.Watch"}],
    },
    "checkpoint": {"every_n_train_steps": EVERY, "keep_all": True},
    **{name: {"every_n_steps": EVERY} for name in ("guard", "mixing", "samples", "spectral")},
}


class MimicAccelerator(Accelerator):
    """Lets Lightning use the device."""

    def setup_device(self, device):
        assert device.type == mimic.NAME

    def teardown(self):
        pass

    @staticmethod
    def parse_devices(devices):
        return 1

    @staticmethod
    def get_parallel_devices(devices):
        return [torch.device(mimic.NAME, 0)]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    def get_device_stats(self, device):
        return {}

    @staticmethod
    def name():
        return mimic.NAME


def begin():
    """Prepare a process for what follows."""
    torch.set_num_threads(1)
    mimic.install()
    # Less work, of the same kind.
    generation.SAMPLING_BATCH, generation.STATISTICS_BATCHES, signs.SAMPLES = 8, 1, 16
    AcceleratorRegistry.register(mimic.NAME, MimicAccelerator)
    StrategyRegistry.register("single_mimic", SingleDeviceStrategy, device=f"{mimic.NAME}:0")


def pool():
    """Return a process that has the device, to which functions of this module are submitted."""
    path = os.pathsep.join(map(str, (processes.ROOT, processes.ROOT / "tests")))
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        made = ProcessPoolExecutor(1, processes.CONTEXT, begin)
        made.submit(int).result()
    return made


class Watch(Callback):
    """Notes what each step makes the host wait for, from its beginning to that of the next."""

    steps: dict[int, list[mimic.Event]] = {}  # noqa: RUF012, one for all trainings

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert all(p.device.type == mimic.NAME for p in [*pl_module.parameters(), *pl_module.buffers()])
        self.steps[trainer.global_step] = mimic.events = []

    def on_train_end(self, trainer, pl_module):
        mimic.events = []


def call(command, *args):
    """Run a command line; returns what it prints."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = command([str(arg) for arg in args])
    assert code == 0, told.getvalue()
    return told.getvalue()


def merged(base, changes):
    both = {key: base[key] | value if isinstance(base.get(key), dict) else value for key, value in changes.items()}
    return base | both


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")["state_dict"]


def train(folder, **settings):
    """Train, resume in the middle and compare; returns what the quiet steps and the resumed ones made wait."""
    os.chdir(folder)
    os.environ["WANDB_MODE"] = "disabled"
    Path("config.yaml").write_text(yaml.safe_dump(merged(COMMON, settings)))
    Watch.steps = {}
    call(main, "fit", "--config", "config.yaml")
    run = Path("runs/run/version_0")
    first, steps = weights(run), Watch.steps
    Watch.steps = {}
    call(main, "fit", "--config", "config.yaml", "--ckpt_path", run / f"checkpoints/step_{EVERY:07d}.ckpt")
    assert min(Watch.steps) == EVERY
    second = weights(run)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert any(not torch.equal(first[n], v) for n, v in weights_of_start(run).items())
    quiet = [step for step in steps if step % EVERY == 1]
    assert len(quiet) == STEPS // EVERY
    return [event for each in (steps, Watch.steps) for step in quiet for event in each.get(step, [])]


def weights_of_start(run):
    file = run / f"checkpoints/step_{EVERY:07d}.ckpt"
    return torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
