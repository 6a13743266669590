import io
import itertools
import json
import os
import pickle
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import ImageFolder, LabeledFolder, Shards, StyledPhotos
from norms.errors import SettingError

COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def picture(number: int, extension="png", size=(24, 20)) -> bytes:
    """An image whose color tells its class, number mod 3, and whose strength tells its number."""
    content, color = io.BytesIO(), tuple(value and value - 5 * number for value in COLORS[number % 3])
    Image.new("RGB", size, color).save(content, {"jpg": "JPEG"}.get(extension, extension.upper()))
    return content.getvalue()


def write(path: Path, files: dict[str, bytes], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def sample(number: int, extension="png") -> dict[str, bytes]:
    key = f"{number:04}"
    return {f"{key}.{extension}": picture(number, extension), f"{key}.cls": f"{number % 3}".encode()}


def shards(root: Path, extension="png") -> Path:
    """Twelve images in three shards."""
    for shard in range(3):
        numbers = range(4 * shard, 4 * shard + 4)
        write(
            root / f"train-{shard:02}.tar", {name: data for k in numbers for name, data in sample(k, extension).items()}
        )
    return root


def folders(root: Path) -> Path:
    """Four images in each of three class folders."""
    for number in range(12):
        (root / "abc"[number % 3]).mkdir(parents=True, exist_ok=True)
        (root / "abc"[number % 3] / f"{number}.png").write_bytes(picture(number))
    return root


def module(path, **options):
    return Shards(str(path), **{"image_size": 16, "batch_size": 4, **options})


def stream(data, batches=6):
    taken = list(itertools.islice(data.train_dataloader(), batches))
    return torch.cat([batch["image"] for batch in taken]), torch.cat([batch["label"] for batch in taken])


def classes(images):
    return images.mean(dim=(2, 3)).argmax(dim=1)


def failure(path, **options) -> str:
    with pytest.raises(SettingError) as error:
        module(path, **options).setup()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_samples_have_an_image_and_a_class(tmp_path, extension):
    data = module(shards(tmp_path, extension))
    assert (data.num_classes, data.class_names, data.channels) == (3, [], 3)
    images, labels = stream(data)
    assert images.shape == (24, 3, 16, 16)
    assert labels.dtype == torch.int64
    assert torch.equal(classes(images), labels)
    (batch,) = data.val_dataloader()
    assert torch.equal(classes(batch["image"]), batch["label"])
    assert len(data.load()[0]) + len(batch["label"]) == 12


def test_folder_pattern_and_index_mean_the_same(tmp_path):
    shards(tmp_path / "here")
    urls = [{"url": f"here/train-{shard:02}.tar", "nsamples": 4} for shard in range(3)]
    (tmp_path / "index.json").write_text(json.dumps({"__kind__": "wids-shard-index-v1", "shardlist": urls}))
    (tmp_path / "other.json").write_text(
        json.dumps({"base_path": "here", "shardlist": [{"url": f"train-0{shard}.tar"} for shard in range(3)]})
    )
    places = ["here", "here/train-*.tar", "here/train-0[012].tar", "index.json", "other.json"]
    expected = stream(module(tmp_path / places[0]))
    for place in places[1:]:
        for ours, theirs in zip(stream(module(tmp_path / place)), expected, strict=True):
            assert torch.equal(ours, theirs)
    assert len(module(tmp_path / "here/train-01.tar", val_path=str(tmp_path / "here")).load()[0]) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same(tmp_path, workers):
    options = {"crop": "random", "flip": True}
    data = [module(shards(tmp_path), **options, num_workers=number) for number in (0, workers)]
    for ours, theirs in zip(*map(stream, data), strict=True):
        assert torch.equal(ours, theirs)
    images = data[0].train_stream()
    assert torch.equal(pickle.loads(pickle.dumps(images))[7]["image"], images[7]["image"])


def test_nothing_is_written(tmp_path, monkeypatch):
    shards(tmp_path / "shards")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    before = sorted(tmp_path.rglob("*"))
    stream(module(tmp_path / "shards"))
    assert sorted(tmp_path.rglob("*")) == before


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a/", "a/b.c/", "./"]), st.sampled_from(["json", "txt", "pkl", ""]), st.integers(0, 9)
        ),
        min_size=2,
        max_size=9,
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.booleans(),
)
def test_samples_are_what_a_plain_reading_finds(tmp_path_factory, parts, form, long_names):
    """Whatever lies beside the images, in whatever order, and in any dialect of tar."""
    files, expected = {}, []
    for number, (folder, other, label) in enumerate(parts):
        key = f"{folder}{number}{'x' * 120 if long_names and form != tarfile.USTAR_FORMAT else ''}"
        members = {f"{key}.{other}": b"\x80\x04N." * number} if other else {}
        members |= {f"{key}.PNG": picture(number % 30), f"{key}.cls": b"%d\n" % label}
        if number % 2:
            members = dict(reversed(members.items()))
        files |= members
        expected.append((files[f"{key}.PNG"], label))
    path = write(tmp_path_factory.mktemp("shard") / "all.tar", files, format=form)
    stored = module(path).find(str(path))
    assert [(file.read(), label) for file, label in zip(list(stored.files), stored.labels, strict=True)] == expected
    assert stored.num_classes == max(label for _, label in expected) + 1


def test_without_labels_only_images_are_read(tmp_path):
    path = write(tmp_path / "all.tar", {f"{number}.jpg": picture(number, "jpg") for number in range(6)})
    data = module(path, labels=False)
    assert data.num_classes == 0
    assert set(next(iter(data.train_dataloader()))) == {"image"}
    assert "all.tar: sample 0 has no .cls file: add it or set data.labels: false" in failure(path)


def test_validation_shards_have_no_further_classes(tmp_path):
    path = write(tmp_path / "train.tar", sample(0) | sample(3) | sample(1))
    for number, known in ((1, True), (2, False)):
        val = write(tmp_path / f"val-{number}.tar", sample(number))
        if known:
            assert next(iter(module(path, val_path=str(val)).val_dataloader()))["label"].tolist() == [1]
        else:
            assert failure(path, val_path=str(val)) == f"{val}: classes that {path} has not: class 2"


def test_a_damaged_image_is_replaced_with_its_label_and_told_once(tmp_path):
    files = sample(0) | sample(1) | sample(2)
    files["0000.png"] = files["0000.png"][:-40]
    path = write(tmp_path / "all.tar", files)
    match = r"replaced by another image: .*all\.tar: image at byte 512: "
    with pytest.warns(UserWarning, match=match) as caught:
        images, labels = stream(module(path, val_path=str(path)))
    assert len(caught) == 1
    assert torch.equal(classes(images), labels)
    assert torch.bincount(labels).tolist() == [0, 16, 8]


def test_a_shard_that_is_cut_off_is_told_and_used_as_far_as_it_goes(tmp_path):
    whole = write(tmp_path / "all.tar", {name: data for number in range(6) for name, data in sample(number).items()})
    content = whole.read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: 512 * 13 + 60])
    with pytest.warns(UserWarning, match=r"cut\.tar: damaged or cut off, what is behind byte \d+ is left out"):
        stored = module(whole).find(str(tmp_path / "cut.tar"))
    assert len(stored.files) == 3
    assert stored.labels.tolist() == [0, 1, 2]
    header = bytearray(content)
    header[512 * 8 + 5] ^= 0xFF  # in the name of the third image
    (tmp_path / "torn.tar").write_bytes(header)
    with pytest.warns(UserWarning, match=r"torn\.tar: damaged or cut off, what is behind byte 4096 is left out"):
        assert len(module(whole).find(str(tmp_path / "torn.tar")).files) == 2


@pytest.mark.filterwarnings("ignore:.*damaged or cut off")
@pytest.mark.filterwarnings("ignore:replaced by another image")
def test_damage_anywhere_raises_nothing_else(tmp_path):
    content = write(tmp_path / "all.tar", sample(0) | sample(1) | sample(2)).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[place : place + 9] = rng.bytes(9)
        (tmp_path / "x.tar").write_bytes(damaged[: rng.integers(place, len(content))])
        with suppress(SettingError):
            images, labels = stream(module(tmp_path / "x.tar", val_path=str(tmp_path / "x.tar")), 1)
            assert len(images) == len(labels) == 4


@pytest.mark.parametrize("kind", [Shards, LabeledFolder, ImageFolder, StyledPhotos])
@pytest.mark.parametrize("url", ["https://example.org/train-000000.tar", "pipe:curl -s https://example.org/0.tar"])
def test_shards_elsewhere_are_to_be_downloaded(kind, url):
    with pytest.raises(SettingError, match=r"only shards on disk can be read, not .*: download them$"):
        kind(url, image_size=16).setup()


def test_mistakes_are_told_in_one_line(tmp_path):
    assert failure(tmp_path / "{0..9}.tar").endswith("{0..9}.tar: no tar files there; write * for what is in braces")
    assert failure(tmp_path / "none.tar") == f"{tmp_path / 'none.tar'}: no tar files there"
    assert failure(tmp_path) == f"{tmp_path}: no tar files there"
    assert "no tar files there" in failure(tmp_path / "train-*.tar")
    (tmp_path / "text.tar").write_text("no archive, whatever it is called" * 50)
    assert "text.tar: not a plain tar file (a compressed one has to be unpacked" in failure(tmp_path / "text.tar")
    (tmp_path / "empty.tar").touch()
    assert "empty.tar: not a plain tar file" in failure(tmp_path / "empty.tar")
    with tarfile.open(tmp_path / "packed.tar", "w:gz"):
        pass
    assert "packed.tar: not a plain tar file" in failure(tmp_path / "packed.tar")
    assert "no images in 1 shards" in failure(write(tmp_path / "other.tar", {"0.txt": b"x"}))
    os.mkfifo(tmp_path / "pipe.tar")
    assert "a named pipe (FIFO), not a file" in failure(tmp_path / "pipe.tar")


@pytest.mark.parametrize("label", [b"", b"cat", b"-1", b"1.5", b"9" * 40, b"99999999", "²".encode()])
def test_labels_must_be_numbers(tmp_path, label):
    path = write(tmp_path / "all.tar", {"0.png": picture(0), "0.cls": label})
    assert "all.tar: 0.cls: must be the number of a class, got " in failure(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "not an index of wids"),
        ("[]", "not an index of wids"),
        ('{"shardlist": 3}', "not an index of wids"),
        ('{"shardlist": [{}]}', "not an index of wids"),
        ('{"shardlist": []}', "lists no shards"),
        ('{"shardlist": [{"url": "https://example.org/0.tar"}]}', "only shards on disk can be read, not https://"),
        ('{"shardlist": [{"url": "pipe:cat 0.tar"}]}', "only shards on disk can be read, not pipe:"),
        ('{"shardlist": [{"url": "gone.tar"}]}', "gone.tar: No such file or directory"),
    ],
)
def test_an_index_lists_shards_on_disk(tmp_path, content, message):
    (tmp_path / "index.json").write_text(content)
    assert message in failure(tmp_path / "index.json")
    assert "No such file" in failure(tmp_path / "none.json")


def test_a_shard_without_an_end_is_told(tmp_path):
    whole = write(tmp_path / "all.tar", sample(0) | sample(1) | sample(2))
    with tarfile.open(whole) as archive:
        third = archive.getmembers()[4].offset
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:third])
    with pytest.warns(UserWarning, match=rf"cut\.tar: damaged or cut off, what is behind byte {third} is left out"):
        assert len(module(whole).find(str(tmp_path / "cut.tar")).files) == 2


def test_classes_without_images_are_told(tmp_path):
    files = {**sample(0), "0001.png": picture(1), "0001.cls": b"5"}
    told = "there are images of class 5, but none of 4 classes below: 1; 2; 3; and 1 more; number the classes from 0"
    assert told in failure(write(tmp_path / "all.tar", files))
    # Validation images need not be of every class.
    train = write(tmp_path / "train.tar", sample(0) | sample(1))
    val = write(tmp_path / "val.tar", {"0.png": picture(1), "0.cls": b"1"})
    assert next(iter(module(train, val_path=str(val)).val_dataloader()))["label"].tolist() == [1]


def test_a_class_is_not_held_out_as_a_whole(tmp_path):
    files = {**{f"{number}.png": picture(0) for number in range(12)}, **{f"{number}.cls": b"0" for number in range(12)}}
    path = write(tmp_path / "all.tar", dict(sorted(files.items())))
    ranks = module(path).find(str(path)).ranks
    files[f"{sorted(range(12), key=str)[int(ranks.argmin())]}.cls"] = b"1"
    told = "all images of 1 of 2 classes would be held out: class 1; add images or set data.val_path"
    assert told in failure(write(path, dict(sorted(files.items()))))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("data.shards._WORTH_KEEPING", 1)
    return tmp_path / "cache/normlab/shards"


def stored(data):
    found = data.find(data.path)
    return [file.read() for file in found.files], found.labels.tolist(), found.ranks.tolist(), found.num_classes


def test_an_index_is_kept_and_made_anew_when_a_shard_changes(tmp_path, cache, monkeypatch):
    folder = shards(tmp_path / "shards")
    first = stored(module(folder))
    (file,) = cache.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr("tarfile.open", None)
        assert stored(module(folder)) == first
    # Of the same size and, as rsync leaves it, with the same time; the images have changed their places.
    path = folder / "train-01.tar"
    files = dict(reversed({name: data for k in range(4, 8) for name, data in sample(k).items()}.items()))
    before = path.stat()
    write(path, files)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert stored(module(folder))[0] == [*first[0][:4], *first[0][7:3:-1], *first[0][8:]]
    assert module(folder, labels=False).find(str(folder)).labels is None
    path.unlink()
    assert len(stored(module(folder))[0]) == 8
    assert file.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", None])
def test_a_damaged_index_is_made_anew(tmp_path, cache, content):
    folder = shards(tmp_path / "shards")
    first = stored(module(folder))
    (file,) = cache.iterdir()
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 3] ^= 0xFF
    file.write_bytes(bytes(whole) if content is None else content)
    assert stored(module(folder)) == first
    assert [each.name for each in cache.iterdir()] == [file.name]


def test_a_kept_index_tells_of_damage_too(tmp_path, cache):
    content = write(tmp_path / "all.tar", sample(0) | sample(1) | sample(2)).read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: 512 * 9])
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"cut\.tar: damaged or cut off, what is behind byte \d+ is left out"):
            assert len(module(tmp_path).find(str(tmp_path / "cut.tar")).files) == 2
    assert len(list(cache.iterdir())) == 1


def test_an_index_that_cannot_be_kept_is_no_error(tmp_path, cache):
    cache.parent.parent.write_text("a file where the folder would be")
    assert len(stored(module(shards(tmp_path / "shards")))[0]) == 12


@pytest.mark.parametrize("name", ["photos.tar", "photos.json"])
def test_a_folder_is_a_folder_whatever_its_name(tmp_path, name):
    images = LabeledFolder(str(folders(tmp_path / name)), image_size=16)
    images.setup()
    assert images.class_names == ["a", "b", "c"]


def test_a_folder_is_validated_on_shards_whose_classes_have_numbers(tmp_path):
    images = LabeledFolder(str(folders(tmp_path / "f")), f"{shards(tmp_path / 's')}/*.tar", image_size=16)
    assert sorted(images.val_images()[place]["label"] for place in range(12)) == sorted([0, 1, 2] * 4)
    write(tmp_path / "more.tar", {"a.png": picture(0), "a.cls": b"3"})
    with pytest.raises(SettingError, match=r"classes that .* has not: class 3"):
        LabeledFolder(images.path, str(tmp_path / "more.tar"), image_size=16).setup()


def test_a_shard_that_ends_before_a_label_is_used_as_far_as_it_goes(tmp_path):
    path = shards(tmp_path) / "train-02.tar"
    with tarfile.open(path) as archive:
        end = archive.getmember("0010.cls").offset_data
    path.write_bytes(path.read_bytes()[:end])
    images = module(f"{tmp_path}/*.tar")
    with pytest.warns(UserWarning, match="train-02.tar: damaged or cut off"):
        images.setup()
    assert len(images.train_images()) + len(images.val_images()) == 10


@pytest.mark.parametrize(
    "index", ['{"base_path": 5, "shardlist": [{"url": "a.tar"}]}', '{"shardlist": [{"url": "\\u0000"}]}']
)
def test_odd_places_in_an_index_are_told_in_one_line(tmp_path, index):
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(SettingError, match=r"No such file|null byte"):
        module(tmp_path / "index.json").setup()


def test_a_user_without_a_home_gets_no_folder_called_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr("data.shards._WORTH_KEEPING", 1)
    module(shards(tmp_path / "shards")).setup()
    assert os.listdir() == ["shards"]
