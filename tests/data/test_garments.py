import os
import sys
from hashlib import blake2b
from pathlib import Path

import pytest
import torch

from data import BundledGarments, FashionMNIST
from data import garments as garments_file
from tools import pack_garments

REAL = os.environ.get("NORMLAB_DATA")


def test_sizes_classes_and_names():
    data = BundledGarments()
    train, val = data.load()
    assert (data.channels, data.image_size, data.num_classes) == (1, 28, 10)
    assert data.class_names[5] == "Sandal"
    assert torch.bincount(train.labels).tolist() == [450] * 10
    assert torch.bincount(val.labels).tolist() == [50] * 10
    everything = torch.cat([train.images, val.images])
    assert everything.shape == (5000, 1, 28, 28)
    assert len({blake2b(image.numpy().tobytes()).digest() for image in everything}) == 5000


def test_labels_are_those_of_the_images():
    """A linear rule learned from the training images names most of the others, and looks like its class."""
    train, val = BundledGarments().load()
    pixels, targets = train.images.flatten(1).double() / 255, torch.nn.functional.one_hot(train.labels).double()
    weights = torch.linalg.solve(pixels.T @ pixels + 30 * torch.eye(784, dtype=torch.float64), pixels.T @ targets)
    named = (val.images.flatten(1).double() / 255 @ weights).argmax(dim=1)
    assert (named == val.labels).double().mean() > 0.75
    trousers, boots = (train.images[train.labels == label, 0].double() for label in (1, 9))
    assert trousers[:, :, :7].mean() < 0.1 * trousers[:, :, 10:18].mean()  # which are tall and narrow
    assert boots[:, 20:].mean() > 2 * boots[:, :8].mean()  # whose weight is below


def test_32_pixels_are_padded_and_others_resized():
    own, padded = BundledGarments().load()[0].images, BundledGarments(image_size=32).load()[0].images
    assert torch.equal(padded[:, :, 2:-2, 2:-2], own)
    assert padded.long().sum() == own.long().sum()
    assert BundledGarments(image_size=16).load()[1].images.shape == (500, 1, 16, 16)


def test_the_sheet_is_small_and_its_licence_beside_it():
    assert garments_file._SHEET.stat().st_size < 2_000_000
    assert "Zalando SE" in garments_file._SHEET.with_name("LICENSE").read_text(encoding="utf-8")


@pytest.mark.skipif(REAL is None, reason="NORMLAB_DATA names no folder with the original files")
def test_the_tool_makes_the_sheet_from_the_original_files(tmp_path, monkeypatch):
    raw = Path(str(REAL)) / "fashion_mnist" / FashionMNIST.subfolder
    monkeypatch.setattr(sys, "argv", ["pack_garments", str(raw), str(tmp_path / "images.png")])
    pack_garments.main()
    before = BundledGarments().load()
    monkeypatch.setattr(garments_file, "_SHEET", tmp_path / "images.png")
    for old, new in zip(before, BundledGarments().load(), strict=True):
        assert torch.equal(old.images, new.images)
    # The first image of either file is an ankle boot, the last of the classes.
    images = pack_garments.read_idx(raw / "train-images-idx3-ubyte.gz")
    labels = pack_garments.read_idx(raw / "train-labels-idx1-ubyte.gz")
    assert torch.equal(before[0].images[9, 0], torch.from_numpy(images[0].copy()))
    place = [index for index, label in enumerate(labels) if label == 9][449]
    assert torch.equal(before[0].images[4499, 0], torch.from_numpy(images[place].copy()))
    images = pack_garments.read_idx(raw / "t10k-images-idx3-ubyte.gz")
    assert torch.equal(before[1].images[9, 0], torch.from_numpy(images[0].copy()))


def test_a_limit_that_leaves_classes_without_images_is_told():
    with pytest.warns(UserWarning, match=r"data.limit: 7 classes have no images among the 3 to train on"):
        BundledGarments(limit=3).setup()
