"""Base of all data modules: an endless training stream and finite, ordered validation."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from data.stream import Chosen, Items, StreamDataset, StreamSampler, generator, spread
from norms.errors import SettingError, check_range

MOST_IMAGES = 2**20
"""In a step; far fewer fill any memory."""

SMALLEST_SIZE, LARGEST_SIZE = 4, 2**14
"""Height and width in pixels; below, there is nothing to be seen, and above, nothing that trains at once."""

MOST_WORKERS = 256
"""For one training process; many more would fill the machine before the first step."""

_NAMED = 1000
"""How many files are told apart by their names; all would take seconds where there are millions."""

_LIMIT = 0
"""Key of the order of which ``limit`` takes the first images."""


class ImageDataModule(LightningDataModule, ABC):
    """Define what all data modules have.

    Batches are dicts: ``image``, float32 (B, C, H, W) in [0, 1], and for labeled sets ``label``, int64 (B,).

    Training streams without end, in an order that depends on ``seed`` alone, and goes on at the trainer's step: use
    ``max_steps`` to say how long, and ``use_distributed_sampler: false`` with several processes, which already take
    different images. Validation gives all images in order, to every process, so that its figures are exact.

    Args:
        batch_size: Images per batch, and in training per ``batches_per_step``.
        image_size: Height and width of the images in pixels, from 4 to 16384. None leaves it to the model, see
            :meth:`take_shape`, and without one to ``native_size``.
        num_workers: Processes that load images beside the training, at most 256; the images are the same for any
            number.
        seed: Key of the order and of random crops and flips.
        batches_per_step: How many batches of images one training step consumes, given together as one.
        limit: Train on so many images only, the first ones of a random order that does not depend on ``seed``. So fewer
            images are always some of more.
    """

    native_size: ClassVar[int | None] = None
    """Height and width in pixels if neither a setting nor the model says one."""

    has_styles: ClassVar[bool] = False
    """Whether batches have a style picture for each image, ``style``, (B, 3, H, W) in [0, 1]."""

    train_transform: Callable[[Any], Any] | None = None
    val_transform: Callable[[Any], Any] | None = None

    def __init__(
        self,
        batch_size: int,
        image_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        batches_per_step: int = 1,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        check_range("data.batch_size", batch_size, at_least=1)
        check_range("data.batches_per_step", batches_per_step, at_least=1)
        check_range("data.batch_size times batches_per_step", batch_size * batches_per_step, at_most=MOST_IMAGES)
        check_range("data.image_size", image_size, at_least=SMALLEST_SIZE, at_most=LARGEST_SIZE)
        check_range("data.num_workers", num_workers, at_least=0, at_most=MOST_WORKERS)
        check_range("data.limit", limit, at_least=1)
        self.batch_size = batch_size
        self._image_size = image_size
        self.num_workers = num_workers
        self.seed = seed
        self.batches_per_step = batches_per_step
        self.limit = limit
        self._images: tuple[Items, Items] | None = None
        self._before: dict[str, int] | None = None

    @property
    def image_size(self) -> int:
        """Return height and width in pixels.

        Raises:
            SettingError: If nothing says one.
        """
        size = self.native_size if self._image_size is None else self._image_size
        if size is None:
            raise SettingError("data.image_size is not set, and the model makes images of no certain size: set it")
        return size

    @property
    def channels(self) -> int:
        """Return 3 for RGB, 1 for gray."""
        return 3

    @property
    def class_names(self) -> list[str]:
        """Return what the labels stand for, in order; empty if there are none or their names are unknown."""
        return []

    @property
    def num_classes(self) -> int:
        """Return the number of labels, 0 for images without."""
        return len(self.class_names)

    def take_shape(self, channels: int, image_size: int) -> None:
        """Take over the shape of a model's images, as far as the settings leave it open; before :meth:`setup`.

        Args:
            channels: 3 for RGB, 1 for gray; of use to images that can be either.
            image_size: Height and width in pixels.
        """
        if self._image_size is None:
            self._image_size = image_size

    @abstractmethod
    def load(self) -> tuple[Items, Items]:
        """Read the images, or find out where they are.

        Returns:
            Those for training and those for validation, which the transforms turn into the items of batches.
        """

    def setup(self, stage: str | None = None) -> None:
        """Make the images ready; Lightning calls this in every process and before every stage."""
        if self._images is None:
            train, val = self.load()
            self._images = train if self.limit is None else _limited(train, self.limit), val

    def train_stream(self) -> Dataset[Any]:
        """Return the endless stream of training items, indexed by position."""
        return StreamDataset(self._ready()[0], self.train_transform, self.seed)

    def train_images(self) -> Dataset[Any]:
        """Return the training images in order, each once, transformed as those for validation."""
        return Mapped(self._ready()[0], self.val_transform)

    def val_images(self) -> Dataset[Any]:
        """Return the validation items in order."""
        return Mapped(self._ready()[1], self.val_transform)

    def fingerprint(self) -> dict[str, object]:
        """Return by name what is the same in two processes that have the same images, wherever these lie."""
        train, val = self._ready()
        return {"images to train on": told(train), "images held out": told(val), "classes": self.num_classes}

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the endless stream, from the trainer's current step on."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batch_size = self.batch_size * self.batches_per_step
        sampler = StreamSampler(batch_size, self._consumed_batches, rank, world_size, self._offset)
        if self._before and (before := self._before["images_per_step"]) != (now := self._images_per_step()):
            rank_zero_info(
                f"a step takes {now} images, not {before} as before: the training goes on with the next ones, but not "
                "bit for bit as it would have"
            )
        return self._loader(self.train_stream(), batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return all validation images in order."""
        return self._loader(self.val_images(), batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the validation images; there is no third set."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the validation images."""
        return self.val_dataloader()

    def _ready(self) -> tuple[Items, Items]:
        self.setup()
        assert self._images is not None
        return self._images

    def _consumed_batches(self) -> int:
        if self.trainer is None or getattr(self.trainer, "overfit_batches", False):
            return 0
        return self.trainer.global_step * self.trainer.accumulate_grad_batches

    def _images_per_step(self) -> int:
        trainer = self.trainer
        assert trainer is not None
        return self.batch_size * self.batches_per_step * trainer.world_size * trainer.accumulate_grad_batches

    def _offset(self) -> int:
        """Return what goes before position 0, as if all steps had taken as many images as they take now."""
        if self._before is None or getattr(self.trainer, "overfit_batches", False):
            return 0
        return self._before["images"] - self._before["steps"] * self._images_per_step()

    def state_dict(self) -> dict[str, int]:
        """Return how many images of the stream the training has taken, in how many steps."""
        if self.trainer is None:
            return {}
        steps, each = self.trainer.global_step, self._images_per_step()
        return {"steps": steps, "images": self._offset() + steps * each, "images_per_step": each}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the next image, also if a step takes more or fewer of them now, as with other processes.

        Raises:
            SettingError: If that is damaged.
        """
        before = {name: state_dict.get(name) for name in ("steps", "images", "images_per_step")}
        if not all(isinstance(value, int) and value >= 0 for value in before.values()):
            raise SettingError("the checkpoint is damaged: it does not say how many images it has taken")
        self._before = {name: int(value or 0) for name, value in before.items()}

    def _loader(self, dataset: Dataset[Any], **batches: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            # Its own, since a loader would otherwise draw from the default generator whenever it is iterated.
            generator=generator(self.seed),
            **batches,
        )


def told(items: Items) -> str:
    """Tell how many images there are and, of files, a hash of the names and classes of a thousand evenly spread ones.

    A file more or less at any place shifts those behind it, so that other ones are looked at.
    """
    number, places = len(items), spread(_NAMED, len(items))
    while isinstance(items, Chosen):
        places, items = items.indices[places], items.items
    name = getattr(items, "name", None)
    if name is None:
        return str(number)
    names = blake2b(digest_size=4)
    for place in places.tolist():
        names.update(os.fsencode(f"{name(place)}\0"))
    return f"{number} (names {names.hexdigest()})"


def _limited(items: Items, limit: int) -> Items:
    if limit > len(items):
        raise SettingError(f"data.limit must be at most {len(items)}, the number of images to train on, got {limit}")
    chosen = torch.randperm(len(items), generator=generator(_LIMIT))[:limit].numpy()
    labels = getattr(items, "labels", None)
    if labels is not None and (lost := len(np.unique(labels)) - len(np.unique(np.asarray(labels)[chosen]))):
        rank_zero_warn(f"data.limit: {lost} classes have no images among the {limit} to train on")
    return Chosen(items, chosen)


class Mapped(Dataset[Any]):
    """Apply a transform to a dataset.

    Args:
        items: The dataset.
        transform: Applied to each item; None changes nothing.
    """

    def __init__(self, items: Items, transform: Callable[[Any], Any] | None) -> None:
        self.items = items
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        return item if self.transform is None else self.transform(item)
