import itertools
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import LabeledFolder
from data.labeled import CROPS
from norms.errors import SettingError

COLORS = {"bird": (200, 0, 0), "cat": (0, 200, 0), "dog": (0, 0, 200)}


def save(path: Path, color, size=(40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def animals(root: Path, each=4, **options) -> Path:
    """Folders of classes, one of them with a folder of its own; the color tells the class, its strength the image."""
    for name, color in COLORS.items():
        for number in range(each):
            inner = "deep/er" if name == "cat" and number else ""
            shade = tuple(value and value - 10 * number for value in color)
            save(root / name / inner / f"{number}.png", shade, **options)
    return root


def zipped(folder: Path, path: Path, top="", method=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(top, file.relative_to(folder)))
    return path


def stream(data, batches=6):
    taken = list(itertools.islice(data.train_dataloader(), batches))
    labels = [batch["label"] for batch in taken if "label" in batch]
    return torch.cat([batch["image"] for batch in taken]), torch.cat(labels) if labels else None


def module(path, **options):
    return LabeledFolder(str(path), **{"image_size": 16, "batch_size": 4, **options})


def failure(path, **options) -> str:
    with pytest.raises(SettingError) as error:
        module(path, **options).setup()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Class folders of images that are all different, wide and high ones."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(24):
        height, width = (20, 30) if number % 2 else (26, 18)
        path = root / "abc"[number % 3] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return root


def test_labels_are_those_of_the_topmost_folders(tmp_path):
    data = module(animals(tmp_path))
    assert data.class_names == ["bird", "cat", "dog"]
    assert (data.num_classes, data.channels, data.image_size) == (3, 3, 16)
    images, labels = stream(data)
    assert images.shape == (24, 3, 16, 16)
    assert labels.dtype == torch.int64
    assert torch.equal(images.mean(dim=(2, 3)).argmax(dim=1), labels)
    assert set(labels.tolist()) == {0, 1, 2}
    (batch,) = data.val_dataloader()
    assert torch.equal(batch["image"].mean(dim=(2, 3)).argmax(dim=1), batch["label"])


@pytest.mark.parametrize("top", ["", "animals", "many/animals"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_what_the_folder_gives(pictures, tmp_path, top, method):
    folder, archive = (module(path) for path in (pictures, zipped(pictures, tmp_path / "all.zip", top, method)))
    assert archive.class_names == folder.class_names == ["a", "b", "c"]
    for ours, theirs in zip(stream(archive), stream(folder), strict=True):
        assert torch.equal(ours, theirs)
    ours, theirs = (next(iter(data.val_dataloader())) for data in (archive, folder))
    assert torch.equal(ours["image"], theirs["image"])
    assert torch.equal(ours["label"], theirs["label"])


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same(pictures, tmp_path, kind, workers):
    path = pictures if kind == "folder" else zipped(pictures, tmp_path / "all.zip")
    data = [module(path, crop="random", flip=True, num_workers=number) for number in (0, workers)]
    data[1].setup()
    data[1].val_images()[0]  # opened before the workers are forked
    for ours, theirs in zip(*map(stream, data), strict=True):
        assert torch.equal(ours, theirs)


def test_zip_files_are_opened_anew_by_who_unpickles_them(pictures, tmp_path):
    data = module(zipped(pictures, tmp_path / "all.zip"), crop="random")
    images = data.train_stream()
    (tmp_path / "all.zip").rename(tmp_path / "moved.zip")
    copy = pickle.loads(pickle.dumps(images))  # no file is open in it
    (tmp_path / "moved.zip").rename(tmp_path / "all.zip")
    assert torch.equal(copy[5]["image"], images[5]["image"])


@pytest.mark.slow
def test_workers_that_share_no_memory_read_zip_files(pictures, tmp_path):
    data = module(zipped(pictures, tmp_path / "all.zip"), crop="random", num_workers=1)
    expected = stream(module(tmp_path / "all.zip", crop="random"), 2)
    loader = torch.utils.data.DataLoader(
        data.train_stream(), batch_size=8, sampler=range(8), num_workers=1, multiprocessing_context="spawn"
    )
    (batch,) = loader
    assert torch.equal(batch["image"], expected[0])
    assert torch.equal(batch["label"], expected[1])


def test_a_later_step_sees_what_it_would_have_seen(pictures, tmp_path):
    """With crops and flips, and limited; see also test_module.py, which stops and resumes a training."""

    class Resumed:
        global_rank, world_size, global_step, accumulate_grad_batches, overfit_batches = 0, 1, 3, 1, 0.0
        strategy = type("Strategy", (), {"root_device": torch.device("cpu")})

    options = {"crop": "random", "flip": True, "limit": 7}
    whole, labels = stream(module(zipped(pictures, tmp_path / "all.zip"), **options))
    rest = module(tmp_path / "all.zip", **options)
    rest.trainer = Resumed()
    assert torch.equal(stream(rest, 3)[0], whole[12:])
    assert torch.equal(stream(rest, 3)[1], labels[12:])
    assert len({image.sum().item() for image in whole}) > 7  # of seven images, at several places


def test_without_labels_any_folder_will_do(tmp_path):
    """As in LSUN, whose folders sort many files by their names."""
    for number in range(12):
        save(tmp_path / f"{number % 2}/{number % 3}/{number}.webp", (20 * number, 0, 0))
    save(tmp_path / "loose.png", (255, 0, 0))
    data = module(tmp_path, labels=False)
    assert (data.num_classes, data.class_names) == (0, [])
    images, labels = stream(data, 3)
    assert labels is None
    assert len({round(image[0].mean().item(), 3) for image in images}) == 12


def test_validation_path_keeps_the_numbers_of_the_classes(tmp_path):
    animals(tmp_path / "train")
    save(tmp_path / "val/dog/x.png", COLORS["dog"])
    data = module(tmp_path / "train", val_path=str(tmp_path / "val"))
    (batch,) = data.val_dataloader()
    assert batch["label"].tolist() == [2]
    assert sorted(stream(data, 3)[1].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    save(tmp_path / "val/emu/x.png", COLORS["dog"])
    message = failure(tmp_path / "train", val_path=str(tmp_path / "val"))
    assert message == f"{tmp_path / 'val'}: classes that {tmp_path / 'train'} has not: emu"


def test_held_out_images_are_chosen_by_name_alone(tmp_path):
    animals(tmp_path, each=10)

    def held_out(**options):
        return [image[0].sum().item() for image in stream_of_val(module(tmp_path, **options))]

    def stream_of_val(data):
        return torch.cat([batch["image"] for batch in data.val_dataloader()])

    assert len(held_out()) == 3
    assert held_out(seed=7, val_count=5) == held_out()
    assert len(held_out(val_count=2)) == 2
    assert held_out(val_count=2)[0] in held_out()


def coordinates(path: Path, width: int, height: int) -> Path:
    y, x = np.mgrid[0:height, 0:width]
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90)])
def test_crops(tmp_path, crop, width, height):
    """Of images whose red is the column and whose green is the row; 10 pixels are made of 30."""
    for name in ("0.png", "1.png"):
        coordinates(tmp_path / name, width, height)
    data = module(tmp_path, labels=False, image_size=10, crop=crop)
    images = stream(data, 25)[0] * 255
    long, short = (images[:, 0, 0], images[:, 1, :, 0]) if width > height else (images[:, 1, :, 0], images[:, 0, 0])
    middles = torch.arange(10.0) * 3 + 1
    assert (short - middles).abs().max() < 1.6  # rounded, and bicubic at the border
    if crop == "none":
        assert (long - (torch.arange(10.0) * 9 + 4)).abs().max() < 3
        return
    starts = (long - middles).mean(dim=1)
    assert ((long - middles) - starts[:, None]).abs().max() < 1.6
    if crop == "center":
        assert (starts - 30).abs().max() < 1
    else:
        assert -1 < starts.min() < 8
        assert 52 < starts.max() < 61
        assert starts.std() == pytest.approx(60 / 12**0.5, rel=0.2)
    validated = next(iter(data.val_dataloader()))["image"]
    assert (validated[0] * 255 - images[0]).abs().max() < 1 or crop == "random"


def test_squares_of_the_right_size_are_given_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    images, _ = stream(module(tmp_path, labels=False, val_path=str(tmp_path)), 1)
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    assert all(any(torch.equal(image, each) for each in expected) for image in (images * 255).round().byte())


def test_flips_are_by_choice_and_half_of_them(tmp_path):
    for name in ("0.png", "1.png"):
        coordinates(tmp_path / name, 20, 20)
    straight, flipped = (stream(module(tmp_path, labels=False, flip=flip), 50)[0] for flip in (False, True))
    turned = flipped[:, 0, 0, 0] > flipped[:, 0, 0, -1]
    assert 0.4 < turned.float().mean() < 0.6
    assert torch.equal(torch.where(turned[:, None, None, None], flipped.flip(-1), flipped), straight)
    validated = next(iter(module(tmp_path, labels=False, flip=True).val_dataloader()))["image"]
    assert validated[0, 0, 0, 0] < validated[0, 0, 0, -1]


def test_gray(tmp_path):
    save(tmp_path / "a/0.png", (200, 100, 50))
    save(tmp_path / "a/1.png", (200, 100, 50))
    data = module(tmp_path, channels=1)
    images, _ = stream(data, 1)
    assert images.shape == (4, 1, 16, 16)
    assert images.mean().item() * 255 == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=0.5)


def test_shape_follows_the_model_where_it_is_left_open(pictures):
    data = LabeledFolder(str(pictures), batch_size=2)
    assert "data.image_size is not set" in failure(pictures, image_size=None)
    data.take_shape(1, 18)
    assert (data.channels, data.image_size) == (1, 18)
    assert stream(data, 1)[0].shape == (2, 1, 18, 18)
    data = LabeledFolder(str(pictures), image_size=16, channels=3)
    data.take_shape(1, 18)
    assert (data.channels, data.image_size) == (3, 16)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_are_replaced_with_their_label_and_told_once(tmp_path, workers, monkeypatch):
    animals(tmp_path / "animals")
    broken = tmp_path / "animals/bird/3.png"  # the last of its class: what follows is a cat
    broken.write_bytes(broken.read_bytes()[:-40])

    def report(message, **_):
        with open(tmp_path / "reports", "a") as reports:
            reports.write(message + "\n")

    monkeypatch.setattr("warnings.warn", report)
    data = module(tmp_path / "animals", val_path=str(tmp_path / "animals"), num_workers=workers)
    images, labels = stream(data, 9)
    assert torch.equal(images.mean(dim=(2, 3)).argmax(dim=1), labels)
    assert torch.bincount(labels).tolist() == [9, 15, 12]
    lines = (tmp_path / "reports").read_text().splitlines()
    assert [line.startswith(f"replaced by another image: {broken}: ") for line in lines] == [True]


def test_small_images_are_told_before_the_training(tmp_path):
    animals(tmp_path, size=(20, 12))
    message = failure(tmp_path)
    assert "12 of 12 images looked at are smaller than image_size, 16" in message
    assert "0.png (20x12)" in message
    assert "data.enlarge: true" in message
    assert stream(module(tmp_path, enlarge=True), 1)[0].shape == (4, 3, 16, 16)


def test_a_small_image_that_was_not_looked_at_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("data.photos._LOOKED_AT", 2)
    animals(tmp_path)
    save(tmp_path / "cat/0.png", COLORS["dog"], size=(20, 12))
    with pytest.warns(UserWarning, match=r"cat/0\.png: 20x12 pixels are fewer than the 16") as caught:
        images, labels = stream(module(tmp_path, val_path=str(tmp_path)))
    assert len(caught) == 1
    assert torch.equal(images.mean(dim=(2, 3)).argmax(dim=1), labels)


def test_held_out_images_that_cannot_be_read_are_told_before_the_training(tmp_path):
    for number in range(10):
        save(tmp_path / "cat" / f"{number}.png", (0, 200, 0))
    (held,) = module(tmp_path).val_images().items.files.paths
    content = bytearray(held.read_bytes())
    content[-20] ^= 0xFF  # where only decoding meets it
    held.write_bytes(content)
    with pytest.warns(UserWarning, match="replaced by another image"):
        assert failure(tmp_path) == f"none of 1 images can be read, for instance {held}"


def test_mistakes_are_told_in_one_line(tmp_path):
    animals(tmp_path / "animals")
    (tmp_path / "empty").mkdir()
    assert failure(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: no such folder or zip file"
    assert failure(tmp_path / "empty") == f"{tmp_path / 'empty'}: no image files in it"
    assert "unknown data.crop 'centre', did you mean 'center'?" in failure(tmp_path / "animals", crop="centre")
    assert "data.channels must be 1 for gray or 3 for RGB, got 4" in failure(tmp_path / "animals", channels=4)
    assert "data.val_count must be at least 1" in failure(tmp_path / "animals", val_count=0)
    assert "data.limit must be at most 11, the number of images to train on, got 12" in failure(
        tmp_path / "animals", limit=12
    )
    save(tmp_path / "single/a/0.png", (0, 0, 0))
    assert "set data.val_path" in failure(tmp_path / "single")
    (tmp_path / "animals/emu/deep").mkdir(parents=True)
    (tmp_path / "animals/emu/notes.txt").touch()
    message = "1 of 4 class folders hold no images: emu; fill or remove them"
    assert failure(tmp_path / "animals") == f"{tmp_path / 'animals'}: {message}"
    save(tmp_path / "animals/loose.png", (0, 0, 0))
    assert "1 of 13 images lie in no class folder: loose.png; put each" in failure(tmp_path / "animals")
    assert "data.labels: false" in failure(tmp_path / "animals")
    for name in ("a.png", "b.png"):
        (tmp_path / "broken/x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "broken/x" / name).write_text("no image")
    assert "none of the 2 images looked at can be read: " in failure(tmp_path / "broken")


class TestZip:
    def test_damaged_archives_are_told_in_one_line(self, tmp_path):
        (tmp_path / "text.zip").write_text("no archive")
        assert "text.zip: cannot be read as a zip file: File is not a zip file" in failure(tmp_path / "text.zip")
        whole = zipped(animals(tmp_path / "animals"), tmp_path / "all.zip").read_bytes()
        for length in range(0, len(whole), 97):  # nothing else is raised wherever it is cut off
            (tmp_path / "cut.zip").write_bytes(whole[:length])
            assert "cut.zip: cannot be read as a zip file: " in failure(tmp_path / "cut.zip")
        os.mkfifo(tmp_path / "pipe.zip")
        assert "a named pipe (FIFO), not a file" in failure(tmp_path / "pipe.zip")

    def test_a_damaged_member_is_replaced_and_told_once(self, tmp_path):
        path = zipped(animals(tmp_path / "animals"), tmp_path / "all.zip", method=zipfile.ZIP_STORED)
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            start = archive.getinfo("bird/3.png").header_offset
        content[start + 80] ^= 0xFF
        path.write_bytes(content)
        data = module(path, val_path=str(path))
        match = r"replaced by another image: .*all\.zip/bird/3\.png: Bad CRC-32"
        with pytest.warns(UserWarning, match=match) as caught:
            images, labels = stream(data, 9)
        assert len(caught) == 1
        assert torch.equal(images.mean(dim=(2, 3)).argmax(dim=1), labels)
        assert torch.bincount(labels).tolist() == [9, 15, 12]

    def test_members_are_never_written_and_their_paths_never_followed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        content = save(tmp_path / "x.png", (9, 9, 9)).read_bytes()
        names = ("../../evil/a.png", "/etc/b.png", "../../evil/c.png", "/etc/d.png", "./e.png")
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            for name in names:
                archive.writestr(name, content)
        with zipfile.ZipFile(tmp_path / "all.zip") as archive:
            assert archive.namelist() == list(names)
        before = sorted(tmp_path.parent.rglob("*"))
        data = module(tmp_path / "all.zip", labels=False)
        images, _ = stream(data, 2)
        assert len(data.load()[0]) == 4
        assert images.mean().item() * 255 == pytest.approx(9)
        assert sorted(tmp_path.parent.rglob("*")) == before

    def test_hidden_files_are_left_out(self, tmp_path):
        archive = zipped(animals(tmp_path / "animals"), tmp_path / "all.zip")
        with zipfile.ZipFile(archive, "a") as added:
            for name in ("__MACOSX/bird/._0.png", ".cache/0.png", "bird/.0.png", "README.txt"):
                added.writestr(name, "no image")
        data = module(archive)
        assert data.class_names == ["bird", "cat", "dog"]
        assert len(data.load()[0]) == 11

    def test_huge_members_are_not_unpacked(self, tmp_path, monkeypatch):
        monkeypatch.setattr("data.archives.LARGEST_MEMBER", 2**20)
        archive = zipped(animals(tmp_path / "animals"), tmp_path / "all.zip")
        with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as added:
            added.writestr("bird/4.png", bytes(2**20 + 1))
        with pytest.warns(UserWarning, match=r"bird/4\.png: larger than 1 MiB"):
            stream(module(archive, val_path=str(archive)), 5)

    def test_an_empty_class_folder_is_told(self, tmp_path):
        (animals(tmp_path / "animals") / "emu").mkdir()
        message = failure(zipped(tmp_path / "animals", tmp_path / "all.zip"))
        assert "1 of 4 class folders hold no images: emu" in message

    def test_an_archive_without_images_is_told(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            archive.writestr("notes.txt", "no image")
        assert failure(tmp_path / "all.zip") == f"{tmp_path / 'all.zip'}: no image files in it"
