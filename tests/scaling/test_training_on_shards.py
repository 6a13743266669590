"""Trainings on tar shards that webdataset has written: each image is the folder's, and a kill changes nothing."""

import contextlib
import json
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from processes import ended, start, start_all
from tiny_gan import gan

from data import ImageFolder, LabeledFolder, Shards, StyledPhotos
from lightning_modules.style_transfer import StyleTransfer

GUIDE = Path(__file__).parents[2] / "docs/guides/scaling.md"

LAST = 6
KEPT = 3
DIES = 5


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Shards of five images each, made as the guide says, beside a folder of the same images."""
    pytest.importorskip("webdataset", reason="makes the shards")
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(14):
        path = root / f"photos/{number % 3}/{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
    (code,) = re.findall(r"```py\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    with contextlib.chdir(root):
        exec(code.replace("5000", "5"), {})
    return root / "shards"


def train(kind, shards, root, ckpt=None, dies=False, **options):
    """Train for six steps, or till killed in the sixth; the checkpoint is of the third."""
    pattern, workers = f"{shards}/train-*.tar", {"num_workers": 0 if options else 1}
    torch.manual_seed(0)
    if kind == "gan":
        model = gan(channels=3, n_dis=2)
        data = Shards(pattern, labels=False, crop="random", flip=True, image_size=8, batches_per_step=2, **workers)
    else:
        small = {"widths": [4, 8], "num_blocks": 1, "content_layers": ["relu1_2"], "style_layers": ["relu1_1"]}
        model = StyleTransfer(style="night", style_size=64, **small)
        data = ImageFolder(pattern, image_size=16, batch_size=2, **workers)
    torch.seed()  # nothing may depend on the default generator
    trainer = pl.Trainer(
        max_steps=LAST,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[KeepAndDie(root, dies)],
        default_root_dir=root,
        **options,
    )
    trainer.fit(model, data, ckpt_path=ckpt, weights_only=True)
    return model.state_dict()


class KeepAndDie(pl.Callback):
    def __init__(self, root, dies):
        self.root, self.dies = root, dies

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == KEPT:
            trainer.save_checkpoint(self.root / "kept.ckpt")
        if self.dies and trainer.global_step == DIES:
            signal.raise_signal(signal.SIGKILL)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def main(kind, shards, root, number, *ckpt):
    options = {"devices": 2, "strategy": "ddp_find_unused_parameters_true"} if number == "2" else {}
    state = train(kind, shards, Path(root), *ckpt, dies=number == "1", **options)
    torch.save(state, f"{root}/{'again' if ckpt else 'first'}{torch.distributed.get_rank()}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gan", "style"])
def test_a_killed_training_goes_on_exactly(shards, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    assert ended(start(__file__, kind, shards, tmp_path, 1), 200) == -signal.SIGKILL, Path("log.txt").read_text()
    whole = train(kind, shards, tmp_path / "whole", devices=1)  # without a worker
    assert_equal(train(kind, shards, tmp_path, tmp_path / "kept.ckpt"), whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gan", "style"])
def test_two_processes_go_on_exactly(shards, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    for ckpt in ((), (tmp_path / "kept.ckpt",)):
        trainings = start_all(2, __file__, kind, shards, tmp_path, 2, *ckpt)
        assert [ended(each, 200) for each in trainings] == [0, 0], Path("log0.txt").read_text()
    for rank in range(2):
        first, again = (torch.load(f"{name}{rank}.pt", weights_only=True) for name in ("first", "again"))
        # Of the statistics that networks do not train with, a checkpoint has those of the first process.
        mine = {name for name in first if rank == 0 or "running" not in name}
        assert_equal({name: first[name] for name in mine}, {name: again[name] for name in mine})


def at(step, data, rank=0, world_size=1):
    """The images of a step, in one of several processes."""
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        global_step=step,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return next(iter(data.train_dataloader()))["image"]


@pytest.mark.parametrize("kind", [ImageFolder, Shards, StyledPhotos])
def test_processes_take_parts_of_what_one_takes(shards, kind):
    """Whatever the number of workers, also in the second pass over the images."""

    def data(batch_size, workers):
        return kind(f"{shards}/train-*.tar", image_size=16, batch_size=batch_size, num_workers=workers)

    for step in (0, 2):
        parts = [at(step, data(4, workers=2 * rank), rank, 2) for rank in range(2)]
        assert torch.equal(torch.cat(parts), at(step, data(8, workers=1)))


def centers(data):
    return torch.cat([batch["image"] for batch in data.val_dataloader()])


def test_images_of_shards_are_those_of_a_folder(shards):
    folder, pattern, index = str(shards.parent / "photos"), f"{shards}/train-*.tar", shards / "index.json"
    index.write_text(json.dumps({"shardlist": [{"url": path.name} for path in sorted(shards.glob("*.tar"))]}))
    places = folder, pattern, f"{shards}/train-00000[012].tar", str(index)
    assert len(list(shards.glob("*.tar"))) == 3
    expected, *found = (centers(ImageFolder(place, place, image_size=16, batch_size=14)) for place in places)
    for images in found:
        assert torch.equal(images, expected)
    for labeled in (LabeledFolder(pattern, pattern, image_size=16), Shards(pattern, pattern, image_size=16)):
        (ours,), (theirs,) = labeled.val_dataloader(), LabeledFolder(folder, folder, image_size=16).val_dataloader()
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["label"], theirs["label"])


if __name__ == "__main__":
    main(*sys.argv[1:])
