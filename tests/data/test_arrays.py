import hashlib
import os
import pickle
import shutil
import socket
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from data import CIFAR10, CIFAR100, MNIST, STL10, BundledDigits, FashionMNIST, LabeledSTL10
from data.arrays import ArrayImages, mirrored, padded
from norms.errors import SettingError

REAL = os.environ.get("NORMLAB_DATA")


def write_idx(path: Path, values: np.ndarray) -> None:
    """The format of MNIST's files: two zeros, type, number of dimensions, sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    contents = {}
    for half, count in (("train", 12), ("t10k", 7)):
        contents[half] = rng.integers(0, 256, (count, 28, 28))
        write_idx(root / name / "raw" / f"{half}-images-idx3-ubyte", contents[half])
        write_idx(root / name / "raw" / f"{half}-labels-idx1-ubyte", np.arange(count) % 10)
    return contents


def write_cifar10(root: Path, monkeypatch) -> np.ndarray:
    """Five training files, a test file and the names, with torchvision's list of checksums made to fit."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 3072), dtype=np.uint8)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    lists = [write(name, {"data": part, "labels": [3, 1, 4, 9]}) for name, part in zip(names, images, strict=True)]
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", lists[:5])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", lists[5:])
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )
    return images.reshape(6, 4, 3, 32, 32)


def write_cifar100(root: Path, monkeypatch) -> np.ndarray:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 3072), dtype=np.uint8)
    contents = {
        name: {"data": part, "fine_labels": [99, 0, 50, 7]}
        for name, part in zip(("train", "test"), images, strict=True)
    }
    contents["meta"] = {"fine_label_names": [str(number) for number in range(100)]}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in contents}
    for half in ("train", "test"):
        monkeypatch.setattr(torchvision.datasets.CIFAR100, f"{half}_list", [[half, sums[half]]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]}
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "meta", meta)
    return images.reshape(2, 4, 3, 32, 32)


def write_stl10(root: Path, monkeypatch) -> dict[str, np.ndarray]:
    """Files of the official layout, whose images are stored column by column."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        for name, count in (("unlabeled", 6), ("test", 3))
    }
    contents = {f"{name}_X.bin": values.transpose(0, 1, 3, 2).tobytes() for name, values in images.items()}
    contents |= {"train_X.bin": bytes(2 * 27648), "train_y.bin": bytes([10, 4]), "test_y.bin": bytes([1, 2, 3])}
    contents |= {"class_names.txt": b"bird\n", "fold_indices.txt": b"0\n"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    train, test = ["train_X.bin", "train_y.bin", "unlabeled_X.bin"], ["test_X.bin", "test_y.bin"]
    monkeypatch.setattr(torchvision.datasets.STL10, "train_list", [[name, sums[name]] for name in train])
    monkeypatch.setattr(torchvision.datasets.STL10, "test_list", [[name, sums[name]] for name in test])
    return images


def everything(loader) -> torch.Tensor:
    return torch.cat([batch["image"] for batch in loader])


def prepare(data) -> None:
    data.prepare_data()
    data.setup()


def failure(data) -> str:
    with pytest.raises(SettingError) as error:
        prepare(data)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_options):
        raise URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_array_images():
    images = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).reshape(2, 3, 2, 2)
    item = ArrayImages(images, 2, torch.tensor([7, 8]))[1]
    assert torch.equal(item["image"], images[1] / 255)
    assert item["label"] == 8
    assert set(ArrayImages(images, 2)[0]) == {"image"}


def test_resizing_keeps_the_mean_and_smooths():
    images = torch.randint(0, 256, (5000, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resized = ArrayImages(images, 4)
    assert resized.images.shape == (5000, 1, 4, 4)
    assert resized.images.float().mean() == pytest.approx(images.float().mean(), abs=1)
    assert resized.images.float().std() < 0.7 * images.float().std()


def test_digits():
    data = BundledDigits(batch_size=100, image_size=16)
    train, val = data.load()
    assert (len(train), len(val)) == (1500, 297)
    assert (data.channels, data.num_classes) == (1, 10)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (100, 1, 16, 16)
    assert 0 <= batch["image"].min() < 0.01
    assert 0.95 < batch["image"].max() <= 1
    counts = torch.bincount(val.labels, minlength=10)
    assert counts.min() >= 15
    assert everything(data.val_dataloader()).shape == (297, 1, 16, 16)


def test_digits_at_their_own_size_are_scikit_learns():
    from sklearn.datasets import load_digits

    train, val = BundledDigits(image_size=8).load()
    digits = load_digits()
    theirs = {
        (tuple(image.ravel().astype(int)), int(label))
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    ours = [
        (tuple((items[index]["image"] * 16).round().int().flatten().tolist()), items[index]["label"])
        for items in (train, val)
        for index in range(len(items))
    ]
    assert len(ours) == 1797
    assert set(ours) == theirs


@pytest.mark.parametrize("module", [MNIST, FashionMNIST])
@pytest.mark.parametrize("download", [True, False])
def test_mnist_layout(tmp_path, module, download, no_network):
    contents = write_mnist(tmp_path, module.__name__)
    data = module(str(tmp_path), download=download, batch_size=4)
    prepare(data)
    assert (data.channels, data.num_classes, data.image_size) == (1, 10, 28)
    expected = torch.from_numpy(contents["t10k"])[:, None].float() / 255
    assert torch.equal(everything(data.val_dataloader()), expected)
    assert [batch["label"].tolist() for batch in data.test_dataloader()] == [[0, 1, 2, 3], [4, 5, 6]]
    assert len(data.load()[0]) == 12
    assert module(str(tmp_path), image_size=32).load()[0][0]["image"].shape == (1, 32, 32)


def test_cifar10_layout(tmp_path, monkeypatch):
    images = write_cifar10(tmp_path, monkeypatch)
    data = CIFAR10(str(tmp_path), download=False, batch_size=3)
    train, _ = data.load()
    assert (data.channels, data.num_classes, data.image_size) == (3, 10, 32)
    assert torch.equal(train.images, torch.from_numpy(images[:5].reshape(20, 3, 32, 32)))
    assert train[2]["label"] == 4
    assert torch.equal(everything(data.val_dataloader()), torch.from_numpy(images[5]) / 255)


def test_cifar100_layout(tmp_path, monkeypatch):
    images = write_cifar100(tmp_path, monkeypatch)
    data = CIFAR100(str(tmp_path), download=False, batch_size=3)
    train, val = data.load()
    assert (data.channels, data.num_classes, data.image_size) == (3, 100, 32)
    assert len(set(data.class_names)) == 100
    assert data.class_names == sorted(data.class_names)
    assert torch.equal(train.images, torch.from_numpy(images[0]))
    assert [val[index]["label"] for index in range(4)] == [99, 0, 50, 7]


def test_labeled_stl10(tmp_path, monkeypatch):
    images = write_stl10(tmp_path, monkeypatch)
    data = LabeledSTL10(str(tmp_path), download=False)
    train, val = data.load()
    assert [train[index]["label"] for index in range(2)] == [9, 3]
    assert [data.class_names[val[index]["label"]] for index in range(3)] == ["airplane", "bird", "car"]
    assert torch.equal(val.images, torch.from_numpy(images["test"]))


def test_names_of_classes():
    assert MNIST().class_names == [str(digit) for digit in range(10)] == BundledDigits().class_names
    assert FashionMNIST().class_names[9] == "Ankle boot"
    assert CIFAR10().class_names[3] == "cat"
    assert STL10().class_names == []


def test_the_mnist_family_is_padded_to_32_pixels(tmp_path):
    contents = write_mnist(tmp_path, "MNIST")
    train, _ = MNIST(str(tmp_path), download=False, image_size=32).load()
    images = torch.from_numpy(contents["train"]).byte()
    assert torch.equal(train.images[:, 0, 2:30, 2:30], images)
    assert train.images.long().sum() == images.long().sum()
    assert torch.equal(padded(train.images, 28), train.images)
    assert MNIST(str(tmp_path), download=False, image_size=20).load()[0].images.shape == (12, 1, 20, 20)


def test_flips_are_by_choice_and_half_of_them(tmp_path):
    write_mnist(tmp_path, "MNIST")

    def images(**options):
        data = MNIST(str(tmp_path), download=False, batch_size=200, **options)
        return next(iter(data.train_dataloader()))["image"], next(iter(data.val_dataloader()))["image"]

    (straight, validated), (flipped, validated_too) = images(), images(flip=True)
    turned = (flipped != straight).flatten(1).any(dim=1)
    assert 0.35 < turned.float().mean() < 0.65
    assert torch.equal(flipped[turned], straight[turned].flip(-1))
    assert torch.equal(validated, validated_too)
    assert set(mirrored({"image": torch.zeros(1, 2, 2), "label": 3})) == {"image", "label"}


def test_stl10_layout(tmp_path, monkeypatch):
    images = write_stl10(tmp_path, monkeypatch)
    data = STL10(str(tmp_path), download=False, batch_size=2)
    train, _ = data.load()
    assert data.image_size == 96
    assert torch.equal(train[5]["image"], torch.from_numpy(images["unlabeled"][5]) / 255)
    assert set(train[0]) == {"image"}
    assert torch.equal(everything(data.val_dataloader()), torch.from_numpy(images["test"]) / 255)
    assert STL10(str(tmp_path), download=False, image_size=48).load()[0].images.shape == (6, 3, 48, 48)


@pytest.mark.parametrize(
    ("module", "file", "folder"),
    [
        (CIFAR10, "cifar-10-python.tar.gz", ""),
        (STL10, "stl10_binary.tar.gz", ""),
        (MNIST, "train-images-idx3-ubyte.gz", "MNIST/raw"),
        (FashionMNIST, "t10k-labels-idx1-ubyte.gz", "FashionMNIST/raw"),
    ],
)
@pytest.mark.parametrize("download", [True, False])
def test_missing_files_say_what_to_do(tmp_path, module, file, folder, download, no_network):
    message = failure(module(str(tmp_path), download=download))
    assert module.__name__ in message
    assert file in message
    assert f"into {tmp_path / folder};" in message
    assert "download: true" in message
    assert socket.getdefaulttimeout() is None


def test_damaged_files_say_what_to_do(tmp_path, no_network):
    write_mnist(tmp_path, "MNIST")
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")
    assert "MNIST cannot be read" in failure(MNIST(str(tmp_path)))
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz"):
        pass
    assert "CIFAR10 cannot be read" in failure(CIFAR10(str(tmp_path)))


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="NORMLAB_DATA names no folder with the original files")
@pytest.mark.parametrize(
    ("module", "folder", "mean"), [(MNIST, "mnist", 0.1307), (FashionMNIST, "fashion_mnist", 0.2860)]
)
def test_original_files(tmp_path, module, folder, mean, no_network):
    """Packed files are checked and unpacked without a network."""
    target = tmp_path / module.__name__ / "raw"
    target.mkdir(parents=True)
    for path in (Path(str(REAL)) / folder / module.__name__ / "raw").glob("*.gz"):
        shutil.copy(path, target)
    assert "download: true" in failure(module(str(tmp_path), download=False))
    data = module(str(tmp_path))
    data.prepare_data()
    train, val = data.load()
    assert (len(train), len(val)) == (60000, 10000)
    assert train.images.float().mean() / 255 == pytest.approx(mean, abs=1e-4)
    assert torch.bincount(val.labels).min() > 800
