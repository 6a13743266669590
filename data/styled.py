"""Photographs and style pictures in pairs, for networks that paint in the style of any picture."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data import styles
from data.module import ImageDataModule, Mapped, told
from data.photos import BundledPhotos, ImageFolder, Photo, center_crop, random_crop
from data.stream import Items, StreamDataset, seed_for
from norms.errors import SettingError

HELD_OUT = ("waves",)
"""Bundled pictures that are for validation."""

_STYLES = 1
"""Tells the stream of style pictures from that of photos."""


def recolored(image: Tensor) -> Tensor:
    """Exchange the colors of an image at random: red, green and blue, and every other time light and dark.

    Draws from torch's default generator.

    Shape:
        (3, H, W), values in [0, 1] -> (3, H, W), values in [0, 1]
    """
    image = image[torch.randperm(3)]
    return 1 - image if float(torch.rand(())) < 0.5 else image


class StyledPhotos(ImageDataModule):
    """Serve photos, each with a style picture, for :class:`lightning_modules.AnyStyle`.

    Batches have the key ``style`` beside ``image``, of the same shape. Photos and style pictures stream independently,
    each in an order of its own: training takes random squares of both at random scales and flips them. Validation pairs
    each photo with the next of the style pictures that are held out, in order, as largest centered squares.

    Without ``styles`` the style pictures are the bundled ones but ``waves``, which is held out, and the training
    photos, in which there are textures too.

    Args:
        folder: Photos to train on, see :class:`data.ImageFolder`; None for :class:`data.BundledPhotos`.
        val_folder: Photos to validate on. Without it, some of ``folder`` are held out.
        styles: Folder of style pictures to train on, at any depth.
        val_styles: Folder of style pictures to validate on. Without it, some of ``styles`` are held out.
        recolor: Whether to exchange the colors of style pictures at random, as a few pictures need for the network to
            learn more than their colors, see :func:`recolored`.
        resize: Take squares as if the shorter side of every image of a folder had been resized to this many pixels, see
            :class:`data.ImageFolder`.
        batch_size: Pairs per batch.
        image_size: Height and width of the squares in pixels, at most 300 without folders.
        num_workers: Processes that load images beside the training.
        seed: Key of the orders, the squares, the flips and the colors.
        batches_per_step: How many batches of images one training step consumes.
        max_pixels: Leave out images of more pixels; by default Pillow's limit, about 89 million.
    """

    has_styles = True

    def __init__(
        self,
        folder: str | None = None,
        val_folder: str | None = None,
        styles: str | None = None,
        val_styles: str | None = None,
        recolor: bool = False,
        resize: int | None = None,
        batch_size: int = 8,
        image_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        batches_per_step: int = 1,
        max_pixels: int | None = None,
    ) -> None:
        super().__init__(batch_size, image_size, num_workers, seed, batches_per_step)
        for name, value, needed in (("val_folder", val_folder, folder), ("val_styles", val_styles, styles)):
            if value is not None and needed is None:
                raise SettingError(f"data.{name} is set, and the pictures to train on are not: set both, or none")
        self.photos = self._source(folder, val_folder, resize, max_pixels)
        self.styles = None if styles is None else self._source(styles, val_styles, resize, max_pixels)
        if isinstance(self.styles, ImageFolder):
            self.styles.val_option = "val_styles"
        self.train_transform, self.val_transform = self.photos.train_transform, self.photos.val_transform
        self.style_transform = partial(
            _style, recolor=recolor, size=image_size, resize=None if styles is None else resize
        )
        self._style_items: tuple[Items, Items] | None = None

    def load(self) -> tuple[Items, Items]:
        """Find the photos, and the style pictures."""
        train, val = self.photos.load()
        self._style_items = self._bundled(train) if self.styles is None else self.styles.load()
        return train, val

    def fingerprint(self) -> dict[str, object]:
        """Return by name what is the same in two processes that have the same photos and style pictures."""
        return super().fingerprint() | {"style pictures": told(self._style_pictures()[0])}

    def train_stream(self) -> Dataset[Any]:
        """Return the endless stream of pairs."""
        photos, seed = super().train_stream(), seed_for(self.seed, _STYLES)
        return _Pairs(photos, StreamDataset(self._style_pictures()[0], self.style_transform, seed))

    def val_images(self) -> Dataset[Any]:
        """Return the validation photos in order, each with a style."""
        images = super().val_images()
        return _Pairs(images, Mapped(self._style_pictures()[1], partial(center_crop, size=self.image_size)))

    def _source(self, folder: str | None, val: str | None, resize: int | None, limit: int | None) -> ImageDataModule:
        if folder is None:
            return BundledPhotos(image_size=self.image_size)
        return ImageFolder(folder, val, resize=resize, image_size=self.image_size, max_pixels=limit)

    def _bundled(self, photos: Items) -> tuple[Items, Items]:
        pictures = {name: styles.open_style(name) for name in styles.names()}
        own = [picture for name, picture in pictures.items() if name not in HELD_OUT]
        return _Both(own, photos), [pictures[name] for name in HELD_OUT]

    def _style_pictures(self) -> tuple[Items, Items]:
        self.setup()
        assert self._style_items is not None
        return self._style_items


def _style(image: Image.Image | Photo, recolor: bool, size: int, resize: int | None) -> dict[str, Tensor]:
    square = random_crop(image, size, resize)["image"]
    return {"image": recolored(square) if recolor else square}


class _Both:
    """Hold some pictures and then others, which are opened when they are asked for."""

    def __init__(self, some: Sequence[Any], others: Items) -> None:
        self.some, self.others = some, others

    def __len__(self) -> int:
        return len(self.some) + len(self.others)

    def __getitem__(self, index: int) -> Any:
        return self.some[index] if index < len(self.some) else self.others[index - len(self.some)]


class _Pairs(Dataset[Any]):
    """Pair the images of one data set with those of another, which begins anew if it is shorter."""

    def __init__(self, photos: Any, pictures: Any) -> None:
        self.photos, self.pictures = photos, pictures

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Any:
        place = index if isinstance(self.pictures, StreamDataset) else index % len(self.pictures)
        return {**self.photos[index], "style": self.pictures[place]["image"]}
