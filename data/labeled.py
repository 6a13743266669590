"""Data modules of images on disk for GANs and classifiers: class folders, zip files and tar shards."""

from abc import abstractmethod
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from data.arrays import mirrored
from data.files import listed
from data.images import to_tensor
from data.module import ImageDataModule
from data.photos import Files, look_at_some
from data.shards import find_images_in, find_shards
from data.stored import Stored, held_out
from data.stream import Items
from norms.errors import SettingError, check_range, unknown

CROPS = ("center", "random", "none")


class LabeledFiles:
    """Serve image files with their labels, as pairs of this and an index that :func:`square` decodes.

    Args:
        files: The images.
        labels: Their classes, (N,), or None.
    """

    def __init__(self, files: Files, labels: NDArray[np.int64] | None) -> None:
        self.files = files
        self.labels = labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple["LabeledFiles", int]:
        return self, index

    def name(self, index: int) -> str:
        """Return the name of a file, without where it lies, and its class."""
        return self.files.name(index) + ("" if self.labels is None else f" {self.labels[index]}")


def square(
    item: tuple[LabeledFiles, int], size: int, crop: str = "center", flip: bool = False, channels: int = 3
) -> dict[str, Any]:
    """Decode an image and make it a square.

    Draws from torch's default generator for what is random.

    Args:
        item: Which image.
        size: Height and width of the result.
        crop: ``center`` takes the largest square in the middle, ``random`` the largest one at a random place, ``none``
            all of the image, which is squeezed if it is no square.
        flip: Flip it left to right every other time.
        channels: 3 for RGB, 1 for gray.

    Returns:
        ``image``, (channels, size, size) in [0, 1], and ``label`` where there are labels. Of a damaged file, both are
        those of the one that replaces it.
    """
    items, index = item
    image, _, place = items.files.decode(index, lambda shorter: shorter / size)
    if crop != "none":
        image = _largest_square(image, torch.rand(()).item() if crop == "random" else 0.5)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    result: dict[str, Any] = {"image": to_tensor(image if channels == 3 else image.convert("L"))}
    if items.labels is not None:
        result["label"] = int(items.labels[place])
    return mirrored(result) if flip else result


def _largest_square(image: Image.Image, place: float) -> Image.Image:
    """Cut out the largest square, at whole pixels; ``place`` in [0, 1) is where along the longer side."""
    width, height = image.size
    side = min(width, height)
    left, top = int(place * (width - side + 1)), int(place * (height - side + 1))
    return image if width == height else image.crop((left, top, left + side, top + side))


class StoredImages(ImageDataModule):
    """Serve images on disk as squares, with labels by choice.

    Files are found by name alone, and decoded when it is their turn. One that is damaged or too small is replaced by
    the next one that is not, and told of once.

    Args:
        path: Images to train on.
        val_path: Images to validate on. Without it, some of ``path`` are held out, always the same ones.
        val_count: How many are held out without ``val_path``, but never more than a tenth (and at least one).
        labels: Give labels.
        crop: ``center`` takes the largest square in the middle, ``random`` the largest one at a random place along the
            longer side, ``none`` all of the image, squeezed if it is no square. Validation takes no random ones.
        flip: Flip training images left to right every other time; not for text, digits and the like.
        channels: 3 for RGB, 1 for gray; by default those of the model's images, or else 3.
        enlarge: Take images that are smaller than ``image_size``.
        batch_size: Images per batch.
        image_size: Height and width in pixels; by default those of the model's images.
        num_workers: Processes that load images beside the training.
        seed: Key of the order, the random squares and the flips.
        batches_per_step: How many batches of images one training step consumes.
        limit: Train on so many images only.
        max_pixels: Take images of more pixels for damaged; by default Pillow's limit, about 89 million.
    """

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        val_count: int = 1000,
        labels: bool = True,
        crop: str = "center",
        flip: bool = False,
        channels: int | None = None,
        enlarge: bool = False,
        batch_size: int = 64,
        image_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        batches_per_step: int = 1,
        limit: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        super().__init__(batch_size, image_size, num_workers, seed, batches_per_step, limit)
        check_range("data.val_count", val_count, at_least=1)
        check_range("data.max_pixels", max_pixels, at_least=1)
        if crop not in CROPS:
            raise unknown("data.crop", crop, CROPS)
        if channels not in (1, 3, None):
            raise SettingError(f"data.channels must be 1 for gray or 3 for RGB, got {channels}")
        self.path = path
        self.val_path = val_path
        self.val_count = val_count
        self.labels = labels
        self.crop = crop
        self.flip = flip
        self.enlarge = enlarge
        self.max_pixels = max_pixels
        self._channels = channels
        self._stored: Stored | None = None

    @abstractmethod
    def find(self, path: str) -> Stored:
        """List the images of a path, in an order that depends on their names alone."""

    @property
    def channels(self) -> int:
        """Return 3 for RGB, 1 for gray."""
        return self._channels or 3

    @property
    def class_names(self) -> list[str]:
        """Return what the labels stand for; asked for the first time, it lists the files."""
        return list(self._listed().class_names)

    @property
    def num_classes(self) -> int:
        """Return the number of classes, 0 without labels; asked for the first time, it lists the files."""
        return self._listed().num_classes

    def take_shape(self, channels: int, image_size: int) -> None:
        """Take over size and channels of a model's images, as far as the settings leave them open."""
        super().take_shape(channels, image_size)
        if self._channels is None and channels in (1, 3):
            self._channels = channels

    def load(self) -> tuple[Items, Items]:
        """List the files, look at some, and hold some out."""
        shaped = partial(square, size=self.image_size, channels=self.channels)
        self.train_transform = partial(shaped, crop=self.crop, flip=self.flip)
        self.val_transform = partial(shaped, crop="none" if self.crop == "none" else "center")
        train = self._listed()
        self._try(self.path, train)
        if self.val_path is not None:
            val = self.find(self.val_path)
            self._try(self.val_path, val)
            return self._items(train), self._items(self._renumbered(val))
        if len(train.files) < 2:
            raise SettingError(
                f"{self.path} holds a single image, so none can be held out: add images or set data.val_path"
            )
        held = held_out(train.ranks, self.val_count)
        if train.labels is not None and len(lost := np.setdiff1d(train.labels[held], train.labels[~held])):
            names = [self.class_names[label] if self.class_names else f"class {label}" for label in lost.tolist()]
            raise SettingError(
                f"{self.path}: all images of {len(lost)} of {train.num_classes} classes would be held out: "
                f"{listed(names)}; add images or set data.val_path"
            )
        kept_back = self._items(train.part(held))
        kept_back.files.decode(0)  # of a few none may be readable, which a training would come upon in its validation
        return self._items(train.part(~held)), kept_back

    def _listed(self) -> Stored:
        if self._stored is None:
            stored = self.find(self.path)
            if stored.labels is not None:
                empty = np.flatnonzero(np.bincount(stored.labels, minlength=stored.num_classes) == 0)
                if len(empty):
                    raise SettingError(
                        f"{self.path}: there are images of class {stored.num_classes - 1}, but none of {len(empty)} "
                        f"classes below: {listed(empty.tolist())}; number the classes from 0 on without gaps"
                    )
            self._stored = stored
        return self._stored

    def _items(self, stored: Stored) -> LabeledFiles:
        return LabeledFiles(Files(stored.files, self.max_pixels, self._smallest), stored.labels)

    def _renumbered(self, val: Stored) -> Stored:
        """Give the classes of the validation images the numbers that they have in training."""
        names = self._listed().class_names
        numbered = not names or not val.class_names  # as shards are
        if numbered:
            known = val.num_classes <= self.num_classes
            strange: list[str] = [] if known else [f"class {val.num_classes - 1}"]
        else:
            strange = [name for name in val.class_names if name not in names]
        if strange:
            raise SettingError(f"{self.val_path}: classes that {self.path} has not: {listed(strange)}")
        if val.labels is None or numbered:
            return val
        return replace(val, labels=np.array([names.index(name) for name in val.class_names])[val.labels])

    @property
    def _smallest(self) -> int:
        return 1 if self.enlarge else self.image_size

    def _try(self, path: str, stored: Stored) -> None:
        look_at_some(path, stored.files, self._smallest, "data.enlarge: true", self.max_pixels)


class LabeledFolder(StoredImages):
    """Serve the images of a folder or of a zip file, at any depth and in any format that Pillow decodes.

    ``path`` holds a folder for each class, which has its name; what is below belongs to it. With ``labels: false`` the
    images may lie anywhere. A zip file is never unpacked; if a single folder holds everything in it, that is ``path``.
    A folder and a zip file of it give the same images in the same order. A path that ends in ``.tar`` or ``.json`` is
    read as :class:`Shards` reads it. Every process that reads a zip file keeps the
    table of its members, of about 700 bytes each.
    """

    def find(self, path: str) -> Stored:
        """List the images of a folder, a zip file or shards."""
        return find_images_in(path, self.labels)


class Shards(StoredImages):
    """Serve the images of WebDataset's tar shards, each read by its place in the file, so in any order.

    ``path`` is a tar file, a folder of such, a pattern as ``"shards/train-*.tar"``, or the index of ``wids`` (a JSON
    file that lists shards). A sample is the files of a name up to its first dot: an image, and with ``labels`` a text
    with the number of its class, such as ``000017.jpg`` and ``000017.cls``. Nothing is unpickled, and what else a
    sample has is left alone. Compressed shards have to be unpacked.

    Where each image begins is read at the first start, about two minutes for a million samples. From 10,000 images on
    it is kept in ``normlab/shards`` in the user's folder for caches, 40 bytes for each, and read anew when a shard
    changes.
    """

    def find(self, path: str) -> Stored:
        """List the images of the shards."""
        return find_shards(path, self.labels)
