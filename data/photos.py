"""Photographs: a folder of the user's, or those that installed packages bring along."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from data.images import ImageError, check_image, find_images, load_image, to_tensor
from data.module import ImageDataModule
from data.stream import Items
from norms.errors import SettingError, check_range

_NAMED = 3


def random_crop(image: Image.Image, size: int, resize: int | None = None) -> dict[str, Tensor]:
    """Cut out a random square, anywhere and of any scale, and flip it left to right every other time.

    The side of the square is log-uniform between ``size`` pixels and the image's shorter side; so details and whole
    views are equally likely, and nothing is enlarged. Draws from torch's default generator.

    Args:
        image: An RGB image.
        size: Height and width of the result.
        resize: Take squares as if the shorter side had been resized to this many pixels.

    Returns:
        ``{"image": (3, size, size)}`` in [0, 1].
    """
    shorter = min(image.size)
    smallest = min(shorter, size * shorter / (resize or shorter))
    scale, right, down, flip = torch.rand(4).tolist()
    side = min(smallest * (shorter / smallest) ** scale, shorter)
    left, top = right * (image.width - side), down * (image.height - side)
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return {"image": to_tensor(ImageOps.mirror(square) if flip < 0.5 else square)}


def center_crop(image: Image.Image, size: int) -> dict[str, Tensor]:
    """Cut out the largest square in the middle and scale it.

    Args:
        image: An RGB image.
        size: Height and width of the result.

    Returns:
        ``{"image": (3, size, size)}`` in [0, 1].
    """
    return {"image": to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))}


class ImageFolder(ImageDataModule):
    """The images in a folder, at any depth and in any format that Pillow decodes.

    Training takes random squares at random scales and flips them; validation takes the largest centered squares.
    Files that cannot be read are left out, with one warning that names them.

    Args:
        folder: Images to train on.
        val_folder: Images to validate on. Without it, some of ``folder`` are held out, always the same ones.
        val_count: How many are held out without ``val_folder``, but never more than a tenth (and at least one).
        resize: Take squares as if the shorter side of every image had been resized to this many pixels. Needed where
            images are smaller than ``image_size``; the same value as ``image_size`` gives the largest possible squares.
        batch_size: Images per batch.
        image_size: Height and width of the squares in pixels.
        num_workers: Processes that load images beside the training.
        seed: Key of the order, the squares and the flips.
        batches_per_step: How many batches of images one training step consumes.
    """

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
    ) -> None:
        super().__init__(batch_size, image_size, num_workers, seed, batches_per_step)
        if resize is not None and resize < image_size:
            raise SettingError(f"data.resize must be at least data.image_size, {image_size}, got {resize}")
        check_range("data.val_count", val_count, at_least=1)
        self.folder = folder
        self.val_folder = val_folder
        self.val_count = val_count
        self.resize = resize
        self.train_transform = partial(random_crop, size=image_size, resize=resize)
        self.val_transform = partial(center_crop, size=image_size)

    def load(self) -> tuple[Items, Items]:
        """List the files that are images, and hold some out."""
        train = self._scan(self.folder)
        if self.val_folder is not None:
            return _Files(train), _Files(self._scan(self.val_folder))
        if len(train) < 2:
            raise SettingError(
                f"{self.folder} holds a single image, so none can be held out: add images or set data.val_folder"
            )
        root = Path(self.folder).expanduser()
        # Chosen by name: the seed has no say in it, and adding images moves hardly any from one side to the other.
        ranked = sorted(train, key=lambda path: blake2b(path.relative_to(root).as_posix().encode()).digest())
        held_out = set(ranked[: min(self.val_count, max(1, len(train) // 10))])
        return (
            _Files([path for path in train if path not in held_out]),
            _Files([path for path in train if path in held_out]),
        )

    def _scan(self, folder: str) -> list[Path]:
        paths = find_images(Path(folder).expanduser())
        if not paths:
            raise SettingError(f"{folder}: no image files in this folder or the folders below")
        with warnings.catch_warnings(), ThreadPoolExecutor(8) as threads:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused, and named below
            sizes = list(threads.map(_size_or_error, paths))
        unreadable = [size for size in sizes if isinstance(size, ImageError)]
        if len(unreadable) == len(paths):
            raise SettingError(f"{folder}: none of the files can be read: {_listed(unreadable)}")
        if unreadable:
            rank_zero_warn(f"{folder}: {len(unreadable)} of {len(paths)} files left out: {_listed(unreadable)}")
        readable = {path: size for path, size in zip(paths, sizes, strict=True) if not isinstance(size, ImageError)}
        small = [f"{path} ({w}x{h})" for path, (w, h) in readable.items() if min(w, h) < self.image_size]
        if small and self.resize is None:
            raise SettingError(
                f"{folder}: {len(small)} of {len(paths)} images are smaller than image_size, {self.image_size}: "
                f"{_listed(small)}; set data.resize: {self.image_size} to enlarge them, or a smaller data.image_size"
            )
        return list(readable)


def _size_or_error(path: Path) -> tuple[int, int] | ImageError:
    try:
        return check_image(path)
    except ImageError as error:
        return error


def _listed(things: Sequence[object]) -> str:
    more = [f"and {len(things) - _NAMED} more"] if len(things) > _NAMED else []
    return "; ".join([*map(str, things[:_NAMED]), *more])


class _Files:
    """Image files, decoded when asked for; one that turns out damaged is replaced by the next one that is not."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        # Shared between processes, so that each damaged file is reported once and not by every worker.
        self.reported = torch.zeros(len(paths), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        for place in (*range(index, len(self)), *range(index)):
            try:
                return load_image(self.paths[place])
            except ImageError as error:
                if not self.reported[place]:
                    self.reported[place] = True
                    warnings.warn(f"replaced by another image: {error}", stacklevel=2)
        raise SettingError(f"none of {len(self)} images can be read any more, for instance {self.paths[0]}")


_TRAIN_PHOTOS = (
    "astronaut", "brick", "camera", "coins", "flower.jpg", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "retina", "rocket", "stereo_motorcycle",
)  # fmt: skip
_VAL_PHOTOS = ("chelsea", "china.jpg", "coffee")


class BundledPhotos(ImageDataModule):
    """Fifteen photographs that scikit-image and scikit-learn bring along, so that nothing need be downloaded.

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
        return [_bundled_photo(name) for name in _TRAIN_PHOTOS], [_bundled_photo(name) for name in _VAL_PHOTOS]


def _bundled_photo(name: str) -> Image.Image:
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
