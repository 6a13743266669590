"""Garments that come with the project: a labeled set of small images that needs no download."""

from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as tvf

from data.arrays import GARMENTS, ArrayImages, BundledGray, padded
from data.images import load_image
from data.stream import Items

_SHEET = Path(__file__).parent / "garments" / "images.png"
"""Made by ``tools/pack_garments.py``."""

_SIZE = 28
_TRAIN = 4500


class BundledGarments(BundledGray):
    """Serve 5,000 labeled pictures of Fashion-MNIST that come with the project, gray, 28 x 28 pixels, without loss.

    4,500 of its training images, 450 of each class, are for training, and 500 of its test images, 50 of each class, for
    validation (Xiao et al. 2017, arXiv 1708.07747; MIT licence, Zalando SE). To 32 pixels they are padded with black,
    to other sizes resized.
    """

    native_size = _SIZE

    @property
    def class_names(self) -> list[str]:
        """Return the kinds of garments."""
        return list(GARMENTS)

    def load(self) -> tuple[Items, Items]:
        """Cut the pictures out of their sheet."""
        sheet = tvf.pil_to_tensor(load_image(_SHEET).convert("L"))[0]
        tiles = sheet.unfold(0, _SIZE, _SIZE).unfold(1, _SIZE, _SIZE)
        # Column by column, so that the classes take turns.
        images = padded(tiles.transpose(0, 1).reshape(-1, 1, _SIZE, _SIZE), self.image_size)
        labels = torch.arange(len(images)) % len(GARMENTS)
        return (
            ArrayImages(images[:_TRAIN], self.image_size, labels[:_TRAIN]),
            ArrayImages(images[_TRAIN:], self.image_size, labels[_TRAIN:]),
        )
