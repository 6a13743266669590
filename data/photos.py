"""Photographs: a folder of the user's, or those that installed packages bring along."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from data.files import listed
from data.images import ImageError, check_image, load_image, to_tensor
from data.module import ImageDataModule
from data.shards import find_images_in
from data.stored import Stored, held_out
from data.stream import Items, spread
from norms.errors import SettingError, check_range

_LARGE = 4_000_000
"""Pixels from which on a JPEG file is decoded no finer than a square of it needs."""

_LOOKED_AT = 1000
"""How many images are looked at before the training; all would take minutes where there are millions."""

_GAP = 2
"""How much finer than the square, so that its scaling is left to a better filter than the decoder's."""


class Photo:
    """Hold a photo of a folder, which is decoded when it is known how fine it must be.

    Args:
        files: The folder's photos.
        index: Which of them.
    """

    def __init__(self, files: "Files", index: int) -> None:
        self.files = files
        self.index = index

    def decode(self, shrink: Callable[[int], float] | None = None) -> tuple[Image.Image, int]:
        """Decode the photo, or the next one that is not damaged.

        Args:
            shrink: By how much it will be scaled down, given its shorter side.

        Returns:
            An RGB image, which a large JPEG file may give smaller than it is, and the shorter side of the whole image.

        Raises:
            SettingError: If all photos of the folder are damaged.
        """
        return self.files.decode(self.index, shrink)[:2]


def random_crop(image: Image.Image | Photo, size: int, resize: int | None = None) -> dict[str, Tensor]:
    """Cut out a random square, anywhere and of any scale, and flip it left to right every other time.

    The side of the square is log-uniform between ``size`` pixels and the image's shorter side; so details and whole
    views are equally likely, and nothing is enlarged. Draws from torch's default generator.

    Args:
        image: An RGB image, or a photo that is still to be decoded.
        size: Height and width of the result.
        resize: Take squares as if the shorter side had been resized to this many pixels.

    Returns:
        ``{"image": (3, size, size)}`` in [0, 1].
    """
    scale, right, down, flip = torch.rand(4).tolist()

    def side_in(shorter: int) -> float:
        smallest = min(shorter, size * shorter / (resize or shorter))
        return min(smallest * (shorter / smallest) ** scale, shorter)

    image, shorter = _decoded(image, lambda shorter: side_in(shorter) / size)
    side = side_in(shorter) * (min(image.size) / shorter)
    left, top = right * (image.width - side), down * (image.height - side)
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return {"image": to_tensor(ImageOps.mirror(square) if flip < 0.5 else square)}


def center_crop(image: Image.Image | Photo, size: int) -> dict[str, Tensor]:
    """Cut out the largest square in the middle and scale it.

    Args:
        image: An RGB image, or a photo that is still to be decoded.
        size: Height and width of the result.

    Returns:
        ``{"image": (3, size, size)}`` in [0, 1].
    """
    image, _ = _decoded(image, lambda shorter: shorter / size)
    return {"image": to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))}


def _decoded(image: Image.Image | Photo, shrink: Callable[[int], float]) -> tuple[Image.Image, int]:
    return (image, min(image.size)) if isinstance(image, Image.Image) else image.decode(shrink)


class ImageFolder(ImageDataModule):
    """Serve the images in a folder, at any depth and in any format that Pillow decodes, or in an archive.

    Training takes random squares at random scales and flips them; validation takes the largest centered squares.
    HEIC is read where ``pillow-heif`` is installed. JPEG files of four million pixels and more are decoded no finer
    than a square needs.

    A thousand files are looked at before the training, or all if there are fewer: those that cannot be read are left
    out, with one warning that names them. Another one that is damaged or too small is replaced by the next one that is
    not, and told of once.

    Args:
        folder: Images to train on: a folder, a zip file, or tar shards by a pattern that ends in ``.tar`` or an index
            of ``wids``, see :class:`data.Shards`.
        val_folder: Images to validate on. Without it, some of ``folder`` are held out, always the same ones.
        val_count: How many are held out without ``val_folder``, but never more than a tenth (and at least one).
        resize: Take squares as if the shorter side of every image had been resized to this many pixels. Needed where
            images are smaller than ``image_size``; the same value as ``image_size`` gives the largest possible squares.
        max_pixels: Leave out images of more pixels; by default Pillow's limit, about 89 million.
        batch_size: Images per batch.
        image_size: Height and width of the squares in pixels.
        num_workers: Processes that load images beside the training.
        seed: Key of the order, the squares and the flips.
        batches_per_step: How many batches of images one training step consumes.
    """

    val_option = "val_folder"
    """The option that names ``val_folder``."""

    def __init__(
        self,
        folder: str,
        val_folder: str | None = None,
        val_count: int = 100,
        resize: int | None = None,
        batch_size: int = 4,
        image_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
        batches_per_step: int = 1,
        max_pixels: int | None = None,
    ) -> None:
        super().__init__(batch_size, image_size, num_workers, seed, batches_per_step)
        if resize is not None and resize < image_size:
            raise SettingError(f"data.resize must be at least data.image_size, {image_size}, got {resize}")
        check_range("data.val_count", val_count, at_least=1)
        check_range("data.max_pixels", max_pixels, at_least=1)
        self.folder = folder
        self.val_folder = val_folder
        self.val_count = val_count
        self.resize = resize
        self.max_pixels = max_pixels
        self.train_transform = partial(random_crop, size=image_size, resize=resize)
        self.val_transform = partial(center_crop, size=image_size)

    def load(self) -> tuple[Items, Items]:
        """List the images, look at some, and hold some out."""
        train = self._find(self.folder)
        if self.val_folder is not None:
            return self._files(train), self._files(self._find(self.val_folder))
        if len(train.files) < 2:
            raise SettingError(
                f"{self.folder} holds a single image, so none can be held out: add images or set data.{self.val_option}"
            )
        held = held_out(train.ranks, self.val_count)
        return self._files(train.part(~held)), self._files(train.part(held))

    def _find(self, path: str) -> Stored:
        """List the images of a path, without those that are found out to be unreadable."""
        stored = find_images_in(path, labeled=False)
        smallest = self.image_size if self.resize is None else 1
        unreadable = look_at_some(path, stored.files, smallest, f"data.resize: {self.image_size}", self.max_pixels)
        if not unreadable:
            return stored
        rank_zero_warn(
            f"{path}: {len(unreadable)} of {len(stored.files)} files left out: {listed([*unreadable.values()])}"
        )
        readable = np.ones(len(stored.files), dtype=bool)
        readable[list(unreadable)] = False
        return stored.part(readable)

    def _files(self, stored: Stored) -> "Files":
        return Files(stored.files, self.max_pixels, self.image_size if self.resize is None else 1)


def look_at_some(
    path: str, files: Items, smallest: int, option: str, max_pixels: int | None = None
) -> dict[int, ImageError]:
    """Look at a thousand images or all, evenly spaced, so that what is wrong with them is told before the training.

    Args:
        path: Where they lie, for messages.
        files: The images, each a ``Path`` or a ``Member``.
        smallest: Pixels that the shorter side of each must have.
        option: The setting that would take smaller ones.
        max_pixels: See :func:`data.images.opened`.

    Returns:
        Which cannot be read, and why.

    Raises:
        SettingError: If none can be read, or some are too small.
    """
    places = spread(_LOOKED_AT, len(files)).tolist()

    def size_or_error(place: int) -> tuple[int, int] | ImageError:
        try:
            return check_image(files[place], max_pixels=max_pixels)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(8) as threads:
        sizes = dict(zip(places, threads.map(size_or_error, places), strict=True))
    errors = {place: size for place, size in sizes.items() if isinstance(size, ImageError)}
    if len(errors) == len(places):
        raise SettingError(
            f"{path}: none of the {len(places)} images looked at can be read: {listed([*errors.values()])}"
        )
    small = [
        f"{files[place]} ({size[0]}x{size[1]})"
        for place, size in sizes.items()
        if place not in errors and min(size) < smallest
    ]
    if small:
        raise SettingError(
            f"{path}: {len(small)} of {len(places)} images looked at are smaller than image_size, {smallest}: "
            f"{listed(small)}; set {option} to enlarge them, or a smaller data.image_size"
        )
    return errors


class Files:
    """Hold image files, decoded when asked for; one that turns out damaged is replaced by the next one that is not.

    Args:
        paths: The files, on disk or in an archive: each a ``Path`` or a ``Member``.
        max_pixels: How many pixels may be decoded, see :func:`data.images.opened`.
        smallest: Take images for damaged whose shorter side has fewer pixels.
    """

    def __init__(self, paths: Items, max_pixels: int | None = None, smallest: int = 1) -> None:
        self.paths = paths
        self.max_pixels = max_pixels
        self.smallest = smallest
        # Shared between processes, so that each damaged file is reported once and not by every worker.
        self.reported = torch.zeros(len(paths), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Photo:
        return Photo(self, index)

    def name(self, index: int) -> str:
        """Return the name of a file, without where it lies."""
        return os.path.basename(str(self.paths[index]))

    def decode(self, index: int, shrink: Callable[[int], float] | None = None) -> tuple[Image.Image, int, int]:
        """Decode a photo, see :meth:`Photo.decode`, and return its place beside it."""
        shorter = 0

        def shrink_file(width: int, height: int) -> float:
            nonlocal shorter
            shorter = min(width, height)
            if shorter < self.smallest:
                raise ValueError(f"{width}x{height} pixels are fewer than the {self.smallest} that are asked for")
            return 1 if shrink is None or width * height < _LARGE else shrink(shorter) / _GAP

        for place in chain(range(index, len(self)), range(index)):
            try:
                return load_image(self.paths[place], shrink_file, self.max_pixels), shorter, place
            except ImageError as error:
                if not self.reported[place]:
                    self.reported[place] = True
                    warnings.warn(f"replaced by another image: {error}", stacklevel=2)
        raise SettingError(f"none of {len(self)} images can be read, for instance {self.paths[0]}")


TRAIN_PHOTOS = (
    "astronaut", "brick", "camera", "coins", "flower.jpg", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "retina", "rocket", "stereo_motorcycle",
)  # fmt: skip
VAL_PHOTOS = ("chelsea", "china.jpg", "coffee")


class BundledPhotos(ImageDataModule):
    """Serve fifteen photographs that scikit-image and scikit-learn bring along, so that nothing need be downloaded.

    These are all of theirs in which a picture is to be seen: people, things, a flower, a night sky, textures, and
    views through microscope and telescope, none smaller than 300 pixels. Left out are drawings, pages of text, nearly
    uniform images and the second half of a stereo pair. Three varied ones are held out for validation: chelsea (a
    cat's face), china (a pagoda before a landscape) and coffee (a still life). Training takes random squares at random
    scales and flips them.

    The photographs of scikit-image are free of known restrictions (see ``skimage.data``); china.jpg and flower.jpg are
    CC BY 2.0, by the Flickr users danielbuechele and vultilion.

    Args:
        batch_size: Images per batch.
        image_size: Height and width of the squares in pixels, at most 300.
        num_workers: Processes that load images beside the training.
        seed: Key of the order, the squares and the flips.
        batches_per_step: How many batches of images one training step consumes.
    """

    def __init__(
        self,
        batch_size: int = 4,
        image_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        batches_per_step: int = 1,
    ) -> None:
        super().__init__(batch_size, image_size, num_workers, seed, batches_per_step)
        check_range("data.image_size of BundledPhotos", image_size, at_most=300)
        self.train_transform = partial(random_crop, size=image_size)
        self.val_transform = partial(center_crop, size=image_size)

    def load(self) -> tuple[Items, Items]:
        """Decode the photographs."""
        return [bundled_photo(name) for name in TRAIN_PHOTOS], [bundled_photo(name) for name in VAL_PHOTOS]


def bundled_photo(name: str) -> Image.Image:
    """Decode one of :class:`BundledPhotos`, RGB.

    Args:
        name: As in ``TRAIN_PHOTOS`` or ``VAL_PHOTOS``.

    Raises:
        SettingError: If the package that brings it along is damaged.
    """
    # Imported here because they take a second, which a training on other images should not pay.
    import skimage.data
    from sklearn.datasets import load_sample_image

    try:
        photo: Any = load_sample_image(name) if name.endswith(".jpg") else getattr(skimage.data, name)()
    except (ImportError, OSError) as error:
        raise SettingError(
            f"photograph {name} is missing ({' '.join(str(error).split())}): reinstall scikit-image and scikit-learn"
        ) from error
    return Image.fromarray(photo[0] if name == "stereo_motorcycle" else photo).convert("RGB")
