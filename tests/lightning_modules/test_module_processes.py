"""Every module on two and on four processes: what they share, and that with synchronized norms they are as one."""

from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import stand_ins
import torch
from processes import ended, start_all
from test_gan import SMALL
from test_gan_processes import Joined
from torch.utils.data import DataLoader

from data.module import ImageDataModule
from data.stream import generator
from lightning_modules import GAN, AnyStyle, Classifier, StyleTransfer
from training.callbacks.activations import ActivationMonitor
from training.callbacks.guard import Guard
from training.callbacks.landscape import Landscape
from training.callbacks.lipschitz import LipschitzMonitor
from training.callbacks.mixing import MixingValues
from training.callbacks.samples import SampleImages
from training.layer_sync import NormSync

TOTAL, STEPS = 8, 3
STYLE = {
    "style_size": 32,
    "widths": [4, 6],
    "num_blocks": 1,
    "content_layers": ["relu1_2"],
    "style_layers": ["relu1_1"],
    "loss_scaling": "published",  # relative errors divide by what a process alone sees
    "content_weight": 1.0,
    "style_weight": 10.0,
}
OPTIONS = {
    "style": STYLE,
    "many styles": {**STYLE, "styles": ["night", "waves"], "norm": "switchable"},
    "any style": {
        "layer": "relu2_1",
        "style_layers": ["relu1_1", "relu2_1"],
        "loss_scaling": "published",
        "norm": "batch_renorm",
        "norm_options": {"schedule_steps": 2},
    },
    "gan": {**SMALL, "norm": "batch_instance", "penalties": {"r1": 1.0}},
    "gan with classes": {**SMALL, "norm": "switchable", "num_classes": 3},
    "classifier": {"num_classes": 3, "widths": [4, 6], "depths": [1, 1], "norm": "batch_instance"},
}


class Things(ImageDataModule):
    """Random images with labels and style pictures, in float64."""

    has_styles = True

    def __init__(self, batch_size, channels):
        super().__init__(batch_size, image_size=16)
        self.made_channels = channels

    def load(self):
        def draw(key):
            shape = (self.made_channels, 16, 16)
            image, style = torch.rand(2, *shape, generator=generator(key), dtype=torch.float64)
            return {"image": image, "style": style**3, "label": key % 3}

        return [draw(key) for key in range(20)], [draw(key) for key in range(20, 27)]

    def val_dataloader(self):
        return DataLoader(self.val_images(), batch_size=3)


class Losses(pl.Callback):
    """Note the loss that this process alone has."""

    def __init__(self):
        self.own, self.buffers = [], {}

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.own.append(outputs["loss"].detach() if outputs else torch.zeros(()))
        self.buffers = {name: value.clone() for name, value in module.named_buffers()}


def kind(case, joined):
    if "gan" in case:
        return Joined if joined else GAN
    return {"any style": AnyStyle, "classifier": Classifier}.get(case, StyleTransfer)


def train(case, root, world=1, joined=True):
    """Train by all processes; return what this one has, and the losses that it alone had."""
    torch.manual_seed(1)
    module, losses = kind(case, joined)(**OPTIONS[case]), Losses()
    callbacks = [losses, Guard(every_n_steps=None), MixingValues(1)]
    if "gan" not in case:  # what looks at GANs takes float32 alone
        callbacks += [SampleImages(STEPS), Landscape(2, layers=2)]
    if case == "classifier":
        callbacks += [ActivationMonitor(2), LipschitzMonitor(2, images=2, ascent=2)]
    options = {"strategy": "ddp", "devices": world} if world > 1 else {}
    if joined:
        options |= {"plugins": [NormSync()], "precision": "64-true"}
    stand_ins.fit(
        root / case,
        callbacks,
        module,
        data=Things(TOTAL // world, 1 if "gan" in case else 3),
        max_steps=STEPS,
        val_check_interval=STEPS,
        **options,
    )
    buffers = {name for name, _ in module.named_buffers()}
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    return {
        "weights": {name: value for name, value in state.items() if name not in buffers},
        "buffers": {name: value for name, value in state.items() if name in buffers},
        "buffers in a step": losses.buffers,
        "losses": torch.stack(losses.own),
    }


SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_module_processes import OPTIONS, train
world, joined = int(sys.argv[2]), sys.argv[3] == "joined"
for case in OPTIONS:
    if not joined:
        torch.set_default_dtype(torch.float64)
    found = train(case, Path.cwd(), world, joined)
    torch.save(found, f"{case}{torch.distributed.get_rank()}.pt")
"""


def train_by(world, how, folder, monkeypatch):
    """Train all modules by so many processes; return what each process has of each module."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("all.py").write_text(SCRIPT)
    processes = start_all(world, folder / "all.py", Path(__file__).parent, world, how)
    assert [ended(process, timeout=250) for process in processes] == [0] * world, Path("log0.txt").read_text()
    return {case: [torch.load(f"{case}{rank}.pt", weights_only=True) for rank in range(world)] for case in OPTIONS}


def rows(folder, case, left_out=()):
    found = pd.read_csv(folder / case / "metrics.csv", index_col="step")
    return found[[name for name in found if not name.startswith(left_out)]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of all images."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, {case: train(case, folder) for case in OPTIONS}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_synchronized_processes_train_as_one_on_the_joined_batch(world, alone, tmp_path, monkeypatch):
    folder, expected = alone
    for case, found in train_by(world, "joined", tmp_path / "all", monkeypatch).items():
        for kept in ("weights", "buffers"):
            for name, value in expected[case][kept].items():
                torch.testing.assert_close(found[0][kept][name], value, rtol=1e-6, atol=1e-8, msg=f"{case} {name}")
                assert all(torch.equal(found[0][kept][name], each[kept][name]) for each in found[1:]), (case, name)
        # These look at the images of the first process alone.
        of_first = ("activations/", "landscape/")
        logged = rows(tmp_path / "all", case)
        assert not set(rows(folder, case)) ^ set(logged)
        pd.testing.assert_frame_equal(
            rows(tmp_path / "all", case, of_first), rows(folder, case, of_first), rtol=1e-6, atol=1e-8
        )


@pytest.mark.slow
def test_processes_share_weights_and_log_the_loss_of_all(tmp_path, monkeypatch):
    for case, found in train_by(4, "alone", tmp_path / "all", monkeypatch).items():
        first, others = found[0], found[1:]
        for name, value in first["weights"].items():
            assert all(torch.equal(value, each["weights"][name]) for each in others), (case, name)
        for name in first["buffers"]:
            moves = name.rpartition(".")[2].startswith("running_")
            # Each process moves statistics by its own images. But for GANs, it goes on with those of the first.
            for when, alike in (("buffers in a step", not moves), ("buffers", not moves or "gan" not in case)):
                assert alike == all(torch.equal(first[when][name], each[when][name]) for each in others), (case, name)
        if "gan" not in case:
            losses = torch.stack([each["losses"] for each in found])
            assert (losses.std(0) > 0).all()
            logged = rows(tmp_path / "all", case)["train/loss"].dropna()
            torch.testing.assert_close(torch.tensor(logged.to_numpy()), losses.mean(0))
