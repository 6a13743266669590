import itertools
import os
import shutil
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import BundledPhotos, ImageFolder, photos
from data.images import load_image
from data.photos import center_crop, random_crop
from norms.errors import SettingError


def coordinates(width, height):
    """An image whose red is the column and whose green is the row."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8))


def fill(folder: Path, names, size=(40, 30)) -> list[Path]:
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number * 10, 0, 0)).save(path)
    return paths


def numbers(loader, batches=None):
    taken = itertools.islice(loader, batches)
    return torch.cat([(batch["image"][:, 0, 5, 5] * 25.5).round().long() for batch in taken]).tolist()


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(8, 200),
    height=st.integers(8, 200),
    size=st.integers(4, 8),
    resize=st.none() | st.integers(8, 40),
    seed=st.integers(0, 2**32),
)
def test_random_crops_are_squares_of_the_image(width, height, size, resize, seed):
    """Columns and rows grow evenly, equally fast, and stay inside; mirrored half of the time."""
    torch.manual_seed(seed)
    crop = random_crop(coordinates(width, height), size, resize)["image"] * 255
    assert crop.shape == (3, size, size)
    columns, rows = crop[0, 0].tolist(), crop[1, :, 0].tolist()
    if columns[0] > columns[-1]:
        columns.reverse()
    across, down = ((line[-1] - line[0]) / (size - 1) for line in (columns, rows))
    shorter = min(width, height)
    smallest = size * shorter / resize if resize else size
    # The pixels of both ends are rounded, in columns and in rows.
    assert across == pytest.approx(down, abs=1.5)
    assert 0.75 * smallest / size - 1 <= across <= 1.1 * shorter / size + 1
    assert 0 <= columns[0] <= columns[-1] < width
    assert 0 <= rows[0] <= rows[-1] < height


def test_random_crops_differ_in_place_scale_and_side():
    torch.manual_seed(0)
    crops = torch.stack([random_crop(coordinates(200, 100), 10)["image"] for _ in range(400)]) * 255
    spans = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    mirrored = (spans < 0).float().mean()
    assert 0.42 < mirrored < 0.58
    sides = spans.abs() / 9
    # Log-uniform between 10 and 100 pixels: the median square has sqrt(10 * 100) pixels.
    assert sides.median() == pytest.approx(10**0.5, rel=0.2)
    assert sides.min() < 1.15
    assert sides.max() > 9
    assert crops[:, 0].mean(dim=(1, 2)).std() > 30
    assert crops[:, 1].mean(dim=(1, 2)).std() > 10


def test_resize_to_the_crop_takes_the_largest_square():
    torch.manual_seed(0)
    for _ in range(20):
        rows = random_crop(coordinates(200, 100), 10, resize=10)["image"][1, :, 0] * 255
        assert rows.tolist() == pytest.approx(np.arange(10) * 10 + 4.5, abs=1.5)


def test_center_crop():
    crop = center_crop(coordinates(200, 100), 10)["image"] * 255
    assert crop[0, 0].tolist() == pytest.approx(50 + np.arange(10) * 10 + 4.5, abs=1.5)
    assert crop[1, :, 0].tolist() == pytest.approx(np.arange(10) * 10 + 4.5, abs=1.5)


def test_folder_with_validation_folder(tmp_path):
    fill(tmp_path / "train", ["a.png", "deep/b.png", "deep/er/c.bmp"])
    fill(tmp_path / "val", ["x.png", "y.png"])
    data = ImageFolder(str(tmp_path / "train"), str(tmp_path / "val"), batch_size=3, image_size=16)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (3, 3, 16, 16)
    assert sorted(numbers(data.train_dataloader(), 1)) == [0, 1, 2]
    assert numbers(data.val_dataloader()) == [0, 1]
    assert data.channels == 3


def test_held_out_images_are_always_the_same(tmp_path):
    fill(tmp_path, [f"{number:02}.png" for number in range(25)])

    def split(**options):
        data = ImageFolder(str(tmp_path), batch_size=1, image_size=16, **options)
        return sorted(numbers(data.train_dataloader(), 25 - len(data.val_dataloader()))), numbers(data.val_dataloader())

    train, val = split()
    assert len(val) == 2
    assert sorted(train + val) == list(range(25))
    assert split(seed=9) == (train, val)
    assert len(split(val_count=1)[1]) == 1


def test_held_out_images_are_those_of_the_smallest_hashes(tmp_path):
    names = [f"deep/{number:02}.png" for number in range(25)]
    fill(tmp_path, names)
    hashes = [blake2b(name.encode()).digest() for name in names]
    smallest = sorted(range(25), key=lambda number: hashes[number])[:2]
    assert numbers(ImageFolder(str(tmp_path), image_size=16).val_dataloader()) == sorted(smallest)


def test_smallest_split(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    data = ImageFolder(str(tmp_path), image_size=16)
    assert len(numbers(data.val_dataloader())) == 1


def test_truncated_files_are_left_out_and_named(tmp_path):
    fill(tmp_path, [f"{number}.png" for number in range(10)])
    for number in range(5):
        damage(tmp_path / f"{number}.png")
    (tmp_path / "text.jpg").write_text("no image")
    data = ImageFolder(str(tmp_path), image_size=16, batch_size=4)
    with pytest.warns(UserWarning, match="6 of 11 files left out") as caught:
        data.setup()
    (message,) = [str(warning.message) for warning in caught]
    assert "0.png" in message
    assert "and 3 more" in message
    assert "\n" not in message
    assert set(numbers(data.train_dataloader(), 5)) | set(numbers(data.val_dataloader())) == {5, 6, 7, 8, 9}


def test_bombs_are_left_out_and_named_once(tmp_path, monkeypatch):
    fill(tmp_path, ["a.png", "b.png"])
    fill(tmp_path, ["bomb.png"], size=(60, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.warns(UserWarning, match=r"1 of 3 files left out: .*bomb\.png: 60x60 pixels") as caught:
        ImageFolder(str(tmp_path), image_size=16).setup()
    assert len(caught) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_file_damaged_during_training_is_replaced_and_reported_once(tmp_path, workers, monkeypatch):
    paths = fill(tmp_path / "train", [f"{number}.png" for number in range(4)])
    options = {"val_folder": str(tmp_path / "train"), "image_size": 16, "num_workers": workers}
    intact = numbers(ImageFolder(str(tmp_path / "train"), **options).train_dataloader(), 6)

    # A file, because the warnings of a worker process end up nowhere that pytest could look.
    def report(message, **_):
        with open(tmp_path / "reports", "a") as reports:
            reports.write(message + "\n")

    data = ImageFolder(str(tmp_path / "train"), **options)
    data.setup()
    damage(paths[2])
    monkeypatch.setattr("warnings.warn", report)
    replaced = [3 if number == 2 else number for number in intact]
    assert numbers(data.train_dataloader(), 6) == replaced
    assert numbers(data.train_dataloader(), 6) == replaced
    (line,) = (tmp_path / "reports").read_text().splitlines()
    assert line.startswith(f"replaced by another image: {paths[2]}: ")


def test_all_files_damaged_during_training(tmp_path):
    paths = fill(tmp_path, ["0.png", "1.png"])
    data = ImageFolder(str(tmp_path), str(tmp_path), image_size=16)
    data.setup()
    for path in paths:
        damage(path)
    with pytest.warns(UserWarning, match="replaced"), pytest.raises(SettingError, match="2 images can be read, for"):
        numbers(data.train_dataloader(), 1)


def failure(*args, **options) -> str:
    with pytest.raises(SettingError) as error:
        ImageFolder(*map(str, args), **options).setup()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_and_empty_folders(tmp_path):
    fill(tmp_path / "full", ["a.png", "b.png"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    assert failure(tmp_path / "none") == f"{tmp_path / 'none'}: no such folder or zip file"
    assert "empty: no image files" in failure(tmp_path / "empty")
    assert "none: no such folder" in failure(tmp_path / "full", tmp_path / "none", image_size=16)


def test_nothing_readable(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    assert "none of the 2 images looked at can be read" in failure(tmp_path)


def test_single_image_cannot_be_split(tmp_path):
    fill(tmp_path, ["a.png"])
    assert "val_folder" in failure(tmp_path, image_size=16)


def test_small_images_are_an_error_that_names_the_option(tmp_path):
    fill(tmp_path, [f"{number}.png" for number in range(6)])
    message = failure(tmp_path, image_size=32)
    assert "6 of 6 images looked at are smaller than image_size, 32" in message
    assert "0.png (40x30)" in message
    assert "and 3 more" in message
    assert "data.resize: 32" in message
    data = ImageFolder(str(tmp_path), image_size=32, resize=32)
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 3, 32, 32)
    assert next(iter(data.val_dataloader()))["image"].shape == (1, 3, 32, 32)


def test_images_as_large_as_the_crop(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    data = ImageFolder(str(tmp_path), image_size=30)
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 3, 30, 30)


@pytest.mark.timeout(60)
def test_everything_that_is_left_out_is_named(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.warns(UserWarning, match="3 of 5 files left out") as caught:
        ImageFolder(str(tmp_path), image_size=16).setup()
    (message,) = [str(warning.message) for warning in caught]
    assert all(name in message for name in ("pipe.png: a named pipe", "loop.png: Too many", "phone.heic: a "))


def test_names_need_not_be_text(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    fill(Path(folder), [f"{number}.png" for number in range(3)])
    data = ImageFolder(folder, image_size=16)
    assert sorted(numbers(data.train_dataloader(), 2) + numbers(data.val_dataloader())) != []
    assert len(data.val_dataloader()) == 1
    fill(tmp_path, [os.fsdecode(b"\xff.png"), os.fsdecode(b"\xfe.png")])
    assert len(ImageFolder(str(tmp_path), image_size=16).load()[0]) == 4


def test_views_and_files_without_extension_are_images(tmp_path):
    view = Image.new("RGB", (40, 30), "white")
    view.save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    view.save(tmp_path / "b", "PNG")
    batch = next(iter(ImageFolder(str(tmp_path), str(tmp_path), image_size=16).val_dataloader()))
    assert batch["image"].shape == (2, 3, 16, 16)
    assert batch["image"].min() > 0.99


def test_home_of_nobody(tmp_path):
    assert failure("~nobody-of-this-name/photos") == "~nobody-of-this-name/photos: no such folder or zip file"


def test_max_pixels(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    fill(tmp_path, ["large.png"], size=(60, 60))
    with pytest.warns(UserWarning, match=r"1 of 3 files left out: .*large\.png: 60x60 pixels are more than max_pixels"):
        ImageFolder(str(tmp_path), image_size=16, max_pixels=3599).setup()
    assert len(ImageFolder(str(tmp_path), str(tmp_path), image_size=16, max_pixels=3600).load()[0]) == 3


class TestLargePhotos:
    """Photos of 320 x 240 pixels, whether those are many or not."""

    @pytest.fixture
    def paths(self, tmp_path):
        y, x = np.mgrid[0:240, 0:320]
        picture = Image.fromarray(np.stack([x * 0.79, y, 255 - y], axis=-1).astype(np.uint8))
        turned, exif = picture.transpose(Image.Transpose.ROTATE_90), Image.Exif()
        exif[0x0112] = 6
        picture.save(tmp_path / "a.jpg", quality=95)
        turned.save(tmp_path / "b.jpg", quality=95, exif=exif)
        picture.save(tmp_path / "c.png")
        return [tmp_path / name for name in ("a.jpg", "b.jpg", "c.png")]

    def crops(self, items, crop, **options):
        torch.manual_seed(3)
        return [crop(items[index % 3], 16, **options)["image"] for index in range(12)]

    @pytest.mark.parametrize(("crop", "options"), [(random_crop, {}), (random_crop, {"resize": 20}), (center_crop, {})])
    def test_crops_are_those_of_the_whole_photo(self, paths, monkeypatch, crop, options):
        """To the last bit below four million pixels, and nearly so beyond, where not all pixels are decoded."""
        whole = self.crops([load_image(path) for path in paths], crop, **options)
        files = photos.Files(paths)
        assert all(map(torch.equal, self.crops(files, crop, **options), whole))
        decoded = []
        monkeypatch.setattr(photos, "_LARGE", 320 * 240)
        monkeypatch.setattr(photos, "load_image", lambda *args: decoded.append(load_image(*args)) or decoded[-1])
        reduced = self.crops(files, crop, **options)
        assert max((few - all_of_them).abs().mean() for few, all_of_them in zip(reduced, whole, strict=True)) < 0.02
        sides = {min(image.size) for image in decoded}
        assert 240 in sides  # of PNG files, and where a square is small
        assert min(sides) <= 120
        assert min(sides) >= 16

    def test_a_damaged_one_is_replaced(self, paths, monkeypatch):
        monkeypatch.setattr(photos, "_LARGE", 1)
        files = photos.Files(paths)
        damage(paths[0])
        with pytest.warns(UserWarning, match="replaced by another image"):
            image, shorter = files[0].decode(lambda side: side / 30)
        assert image.size == (80, 60)
        assert shorter == 240


def test_impossible_options(tmp_path):
    assert "data.resize must be at least data.image_size, 128, got 100" in failure(tmp_path, image_size=128, resize=100)
    assert "data.val_count must be at least 1, got 0" in failure(tmp_path, val_count=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_depend_on_seed_and_position_alone(tmp_path, workers):
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 255, (50, 60, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")

    def images(workers, seed=3):
        data = ImageFolder(str(tmp_path), image_size=16, num_workers=workers, seed=seed)
        return torch.stack([batch["image"] for batch in itertools.islice(data.train_dataloader(), 4)])

    torch.manual_seed(workers)
    assert torch.equal(images(workers), images(0))
    assert not torch.equal(images(workers), images(0, seed=4))


def test_bundled_photos():
    data = BundledPhotos(batch_size=12, image_size=64)
    train = next(iter(data.train_dataloader()))["image"]
    val = torch.cat([batch["image"] for batch in data.val_dataloader()])
    assert train.shape == (12, 3, 64, 64)
    assert val.shape == (3, 3, 64, 64)
    assert min(train.min(), val.min()) >= 0
    assert max(train.max(), val.max()) <= 1
    assert (train.std(dim=(1, 2, 3)) > 0.02).all()
    assert (val.std(dim=(2, 3)) > 0.1).all()
    everything = [np.asarray(photo).tobytes() for photos in data.load() for photo in photos]
    assert len(set(everything)) == 15


def test_bundled_photos_are_large_enough():
    train, val = BundledPhotos(image_size=300).load()
    assert min(min(photo.size) for photo in [*train, *val]) == 300
    with pytest.raises(SettingError, match="at most 300"):
        BundledPhotos(image_size=301)


def test_bundled_photo_missing(monkeypatch):
    import skimage.data

    def missing():
        raise ModuleNotFoundError("pooch is needed\nto download")

    monkeypatch.setattr(skimage.data, "astronaut", missing)
    with pytest.raises(SettingError, match=r"astronaut is missing.*reinstall scikit-image") as error:
        BundledPhotos().setup()
    assert "\n" not in str(error.value)


@pytest.mark.skipif("NORMLAB_DATA" not in os.environ, reason="NORMLAB_DATA names no folder with photographs")
def test_real_photos():
    folder = Path(os.environ["NORMLAB_DATA"]) / "photos"
    data = ImageFolder(str(folder / "train"), str(folder / "val"), image_size=128, batch_size=10)
    assert next(iter(data.train_dataloader()))["image"].shape == (10, 3, 128, 128)
    assert sum(len(batch["image"]) for batch in data.val_dataloader()) == 100


def test_of_many_files_some_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("data.photos._LOOKED_AT", 3)
    fill(tmp_path, [f"{number}.png" for number in range(5)])
    looked = []
    monkeypatch.setattr("data.photos.check_image", lambda path, **_: looked.append(path.name) or (40, 30))
    data = ImageFolder(str(tmp_path), str(tmp_path), image_size=16, batch_size=5)
    Image.new("RGB", (15, 30)).save(tmp_path / "1.png")
    (tmp_path / "3.png").write_text("damaged")
    with pytest.warns(UserWarning, match="replaced by another image") as caught:
        batch = next(iter(data.val_dataloader()))["image"]
    assert sorted(looked) == sorted(2 * ["0.png", "2.png", "4.png"])
    assert len(caught) == 2
    assert "15x30 pixels are fewer than the 16" in str(caught[0].message)
    assert torch.equal(batch[1], batch[2])
    assert torch.equal(batch[3], batch[4])


def test_photos_of_a_zip_file(tmp_path):
    fill(tmp_path / "photos", [f"{number}.png" for number in range(5)])
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "photos")
    streams = [ImageFolder(place, image_size=16).train_dataloader() for place in (str(tmp_path / "photos"), archive)]
    for one, other in zip(*(itertools.islice(stream, 3) for stream in streams), strict=True):
        assert torch.equal(one["image"], other["image"])


def test_a_folder_of_shards_is_told(tmp_path):
    (tmp_path / "a.tar").touch()
    assert failure(tmp_path).endswith(": no image files in it; give tar shards as a pattern that ends in .tar")
    assert "a.tar: not a plain tar file" in failure(tmp_path / "*.tar")
