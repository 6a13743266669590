"""Processes of other versions, settings, checkpoints or images do not begin a training together."""

import re
import shutil
import socket
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from processes import ended, start
from pytorch_lightning import Trainer
from stand_ins import TinyData, TinyModel

from data import BundledDigits, ImageFolder, LabeledFolder, Shards, StyledPhotos
from norms.errors import SettingError
from training.callbacks import agreement
from training.callbacks.agreement import Agreement, difference
from training.run import Run

TINY = {
    "name": "tiny",
    "trainer": {"max_steps": 2, "accelerator": "cpu", "devices": 2, "strategy": "ddp"},
    "model": {"class_path": "stand_ins.TinyModel"},
    "data": {"class_path": "data.LabeledFolder", "init_args": {"path": "a", "image_size": 8, "batch_size": 2}},
    "wandb": {"mode": "disabled"},
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def classes(root, names=("bird", "cat", "dog"), each=4):
    for name in names:
        Path(root, name).mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (8, 8), (40 * number, 90, 90)).save(Path(root, name, f"{number}.png"))
    return str(root)


def labeled(path, **options):
    return LabeledFolder(str(path), image_size=8, **options).fingerprint()


def test_images_are_the_same_wherever_they_lie():
    here, there = classes("a"), shutil.copytree(classes("other"), "deep/er")
    assert labeled(here) == labeled(there) == labeled(shutil.make_archive("packed", "zip", "a"))
    told = labeled(here)
    assert told["images to train on"].startswith("11 (names ")
    assert told["images held out"].startswith("1 (names ")
    assert told["classes"] == 3


def test_other_images_or_classes_are_told_apart():
    before = labeled(classes("a"))
    Path("a/cat/3.png").rename("a/dog/4.png")  # as many images, of as many classes
    moved = labeled("a")
    assert {name for name in before if before[name] != moved[name]} == {"images to train on"}
    assert labeled("a", limit=5) != labeled("a", limit=6)
    shutil.copytree("a/cat", "a/eel")
    assert labeled("a")["classes"] == 4
    assert labeled("a", labels=False) != labeled("a")


def test_photos_shards_and_styles_are_told_apart():
    classes("a")
    photos = [ImageFolder("a", image_size=8).fingerprint()]
    styled = [StyledPhotos("a", styles="a", image_size=8).fingerprint()]
    Path("a/cat/0.png").rename("a/cat/9.png")
    photos.append(ImageFolder("a", image_size=8).fingerprint())
    styled.append(StyledPhotos("a", styles="a", image_size=8).fingerprint())
    assert photos[0] != photos[1]
    assert styled[0]["style pictures"] != styled[1]["style pictures"]
    packed = []
    for place, name in (("one", "0.tar"), ("two", "0.tar"), ("three", "1.tar")):
        Path(place).mkdir()
        with tarfile.open(Path(place, name), "w") as archive:
            archive.add("a/cat", "cat")
        packed.append(Shards(place, labels=False, image_size=8).fingerprint())
    assert packed[0] == packed[1] != packed[2]
    assert BundledDigits().fingerprint() == BundledDigits(seed=3).fingerprint()


def test_places_of_files_may_differ_and_their_names_may_not():
    def facts(place, name="night.jpg"):
        config = {
            "runs_dir": f"{place}/runs",
            "model": {"init_args": {"styles": [f"{place}/{name}", "waves"], "weights": f"{place}/vgg.pth"}},
            "data": {"init_args": {"folder": f"{place}/photos", "styles": f"{place}/of_{place[1:]}"}},
            "trainer": {"callbacks": [{"init_args": {"file": f"{place}/file.txt"}}]},
        }
        return Agreement(yaml.safe_dump(config))._facts(None)

    assert facts("/scratch/a") == facts("b") == facts("/b/")
    assert difference([("a", facts("/a")), ("b", facts("/b", "day.jpg"))]).startswith(
        "model.init_args.styles: ['day.jpg', 'waves'] in process 1 on b, ['night.jpg', 'waves'] in process 0 on a; "
    )


def test_checkpoints_of_equal_steps_are_told_apart_by_what_they_hold():
    def checkpoint(name, value):
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        torch.save({"global_step": 8, "state_dict": {"a": torch.full((3,), value)}}, path)
        return Run(path.parent, path)

    one, other = checkpoint("a/last.ckpt", 1.0), checkpoint("b/last.ckpt", 2.0)
    assert re.fullmatch(r"step 8 \(checksum \w{8}\)", one.told)
    assert one.told == Run("c", Path(shutil.copy(one.checkpoint, "copied.ckpt"))).told != other.told
    facts = [("a", Agreement("a: 1", run.told)._facts(None)) for run in (one, other)]
    assert difference(facts).startswith(f"the checkpoint to go on from: {other.told} in process 1 on a, {one.told} in")


def test_the_first_other_process_is_told():
    same, other = {"torch": "2.14.1", "model.lr": 0.1}, {"torch": "2.13.0", "model.lr": 0.1}
    assert difference([("a", same), ("a", same), ("b", same)]) == ""
    assert difference([("a", same), ("b", other), ("c", other)]) == (
        "torch: 2.13.0 in process 1 on b, 2.14.1 in process 0 on a; "
        "start the same command with the same versions and the same files on every host"
    )
    assert difference([("a", same), ("b", {**other, "seed": 1})]).startswith(
        "torch: 2.13.0 in process 1 on b, 2.14.1 in process 0 on a; seed: 1 in process 1 on b, None in process 0"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda patch: patch.setattr("normlab.__version__", "9.9"), "normlab: "),
        (lambda patch: patch.setattr("torch.__version__", "2.0"), "torch: 2.0 in process 1"),
        (lambda patch: patch.setattr(agreement, "version", lambda _: "2.0"), "Lightning: 2.0 in process 1"),
        (lambda patch: patch.setattr(agreement, "_source", lambda: "ab"), "normlab: "),
        (lambda patch: patch.setattr(agreement, "gethostname", lambda: "b"), None),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_of_a_host_tells_of_other_versions(change, told, rank, monkeypatch):
    """The gathering is a stand-in: both processes are this one, before and after a change."""
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    monkeypatch.setattr(Trainer, "world_size", 2)
    monkeypatch.setattr(Trainer, "local_rank", rank)
    monkeypatch.setattr(Trainer, "datamodule", TinyData(), raising=False)
    monkeypatch.setattr(agreement, "is_distributed", lambda: True)
    callback = Agreement("a: 1")

    def gather(processes, own):
        with monkeypatch.context() as patch:
            change(patch)
            processes[:] = [own, (agreement.gethostname(), callback._facts(None))]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    if told is None:
        callback.setup(trainer, TinyModel(), "fit")
        return
    with pytest.raises(SystemExit if rank else SettingError) as error:
        callback.setup(trainer, TinyModel(), "fit")
    assert str(error.value) == "2" if rank else str(error.value).startswith(told)


def start_two(*others):
    """Start both processes of a training, the second one with another command line."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, {"NODE_RANK": "0", "LOCAL_RANK": "1"})
    words = ("fit", "--config", "tiny.yaml")
    return [
        start("train.py", *words, *(others if number else ()), log=f"log{number}.txt", **world, **rank)
        for number, rank in enumerate(ranks)
    ]


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (["--data.path", "b", "--data.num_workers", "1"], "images to train on: 15 (names "),
        (["--model.width", "6"], "model.init_args.width: 6 in process 1 on "),
    ],
    ids=["data", "settings"],
)
def test_two_processes_that_differ_end_with_one_line(others, told):
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    classes("a")
    classes("b", names=("bird", "cat", "dog", "eel"))
    processes = start_two(*others)
    statuses = [ended(process) for process in processes]
    logs = [Path(f"log{number}.txt").read_text() for number in range(2)]
    assert statuses == [2, 2], logs
    (error,) = [line for log in logs for line in log.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {told}")
    assert "data.init_args" not in error  # where the files are may differ
    assert not Path("runs").exists()
