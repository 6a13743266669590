"""Small images that are kept in memory: bundled handwritten digits, and the usual benchmarks through torchvision."""

import socket
import tarfile
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from data.module import ImageDataModule
from data.stream import Items, generator
from norms.errors import SettingError

DIGITS = tuple("0123456789")

GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
"""The classes of Fashion-MNIST, as its authors call them."""

_CHUNK = 4096
_PATIENCE = 30.0


class ArrayImages:
    """Serve images in memory as items ``{"image": (C, size, size) in [0, 1]}``, with ``"label"`` where there are any.

    Args:
        images: uint8 (N, C, H, W).
        size: Height and width to resize to, bicubic.
        labels: N integers.
    """

    def __init__(self, images: Tensor, size: int, labels: Tensor | None = None) -> None:
        if images.shape[-2:] != (size, size):
            images = torch.cat([_resized(chunk, size) for chunk in images.split(_CHUNK)])
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {"image": self.images[index].float() / 255}
        if self.labels is not None:
            item["label"] = int(self.labels[index])
        return item


def padded(images: Tensor, size: int) -> Tensor:
    """Pad images of 28 pixels to 32 with black, as is usual for those of the MNIST family.

    Args:
        images: (N, 1, 28, 28).
        size: Height and width that are wanted. Of any other than 32 the images are returned as they are.
    """
    return F.pad(images, (2, 2, 2, 2)) if size == 32 else images


def mirrored(item: dict[str, Any]) -> dict[str, Any]:
    """Flip the image of an item left to right every other time; draws from torch's default generator."""
    return {**item, "image": item["image"].flip(-1)} if float(torch.rand(())) < 0.5 else item


def _resized(images: Tensor, size: int) -> Tensor:
    resized: Tensor = tvf.resize(images, [size, size], InterpolationMode.BICUBIC, antialias=True)
    return resized


class BundledGray(ImageDataModule):
    """Serve small gray images that are there without a download.

    Args:
        batch_size: Images per batch.
        image_size: Height and width in pixels; by default those of the model's images, or else ``native_size``.
        num_workers: Processes that load images beside the training.
        seed: Key of the order.
        batches_per_step: How many batches of images one training step consumes.
        limit: Train on so many images only.
    """

    def __init__(
        self,
        batch_size: int = 64,
        image_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        batches_per_step: int = 1,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, image_size, num_workers, seed, batches_per_step, limit)

    @property
    def channels(self) -> int:
        """Return 1: the images are gray."""
        return 1


class BundledDigits(BundledGray):
    """Serve the 1,797 handwritten digits that scikit-learn brings along, 8 x 8 pixels enlarged to 16 or ``image_size``.

    1,500 are for training and 297, always the same ones, for validation.
    """

    native_size = 16

    @property
    def class_names(self) -> list[str]:
        """Return the digits, 0 to 9."""
        return list(DIGITS)

    def load(self) -> tuple[Items, Items]:
        """Read and enlarge the digits."""
        # Imported here because it takes a second, which a training on other images should not pay.
        from sklearn.datasets import load_digits

        digits = load_digits()
        # Their values go from 0 to 16. They come in runs of 0 to 9, so the split must not follow their order.
        images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target).long()
        order = torch.randperm(len(images), generator=generator(0))
        train, val = order[:1500], order[1500:]
        return (
            ArrayImages(images[train], self.image_size, labels[train]),
            ArrayImages(images[val], self.image_size, labels[val]),
        )


class TorchvisionImages(ImageDataModule):
    """Serve the benchmarks that torchvision downloads, checks and reads; validation is on the official test set.

    Args:
        root: Folder of the files.
        download: Fetch what is missing, and unpack what is there. Without it, the unpacked files must be there.
        batch_size: Images per batch.
        image_size: Height and width to resize to; by default those of the model's images, or else as the images are.
        num_workers: Processes that load images beside the training.
        seed: Key of the order and the flips.
        batches_per_step: How many batches of images one training step consumes.
        limit: Train on so many images only.
        flip: Flip training images left to right every other time.
    """

    files: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()
    subfolder: ClassVar[str] = ""

    def __init__(
        self,
        root: str = "datasets",
        download: bool = True,
        batch_size: int = 64,
        image_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        batches_per_step: int = 1,
        limit: int | None = None,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, image_size, num_workers, seed, batches_per_step, limit)
        self.root = root
        self.download = download
        if flip:
            self.train_transform = mirrored

    @property
    def class_names(self) -> list[str]:
        """Return what the labels stand for, in order; empty for images without labels."""
        return list(self.names)

    @abstractmethod
    def read(self, train: bool, download: bool) -> ArrayImages:
        """Let torchvision read one half of the set, and fetch and unpack it first if asked to."""

    def prepare_data(self) -> None:
        """Download and unpack; Lightning calls this in one process per machine."""
        if self.download:
            with _patience(), self._explained():
                self.read(train=True, download=True)
                self.read(train=False, download=True)

    def load(self) -> tuple[Items, Items]:
        """Read both halves."""
        with self._explained():
            return self.read(train=True, download=False), self.read(train=False, download=False)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what goes wrong with files or network into one line that says what to do."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, AssertionError, EOFError, tarfile.TarError, zlib.error) as error:
            raise SettingError(
                f"{type(self).__name__} cannot be read from {self.root} ({' '.join(str(error).split())}): "
                f"put {self.files} into {Path(self.root, self.subfolder)}; data.download: true then needs no network"
            ) from error


@contextmanager
def _patience() -> Iterator[None]:
    """Give up on a network that answers nothing; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class CIFAR10(TorchvisionImages):
    """CIFAR-10: 50,000 + 10,000 color images of 32 x 32 pixels in ten classes (Krizhevsky, 2009)."""

    native_size = 32
    files = "cifar-10-python.tar.gz"
    names: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    dataset: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10

    def read(self, train: bool, download: bool) -> ArrayImages:
        """Read one half of the set."""
        dataset = self.dataset(self.root, train=train, download=download)
        images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
        return ArrayImages(images, self.image_size, torch.tensor(dataset.targets))


class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 + 10,000 color images of 32 x 32 pixels in a hundred classes (Krizhevsky, 2009)."""

    files = "cifar-100-python.tar.gz"
    names = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
        "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
        "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
        "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
        "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
        "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
        "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
        "willow_tree", "wolf", "woman", "worm",
    )  # fmt: skip
    dataset = datasets.CIFAR100


class STL10(TorchvisionImages):
    """STL-10's 100,000 unlabeled color images of 96 x 96 pixels, validated on its 8,000 test images (Coates, 2011).

    No labels are given. GANs are usually trained on them at 48 pixels. Reading them takes about 3 GB of memory for a
    moment.
    """

    native_size = 96
    files = "stl10_binary.tar.gz"
    train_split: ClassVar[str] = "unlabeled"

    def read(self, train: bool, download: bool) -> ArrayImages:
        """Read the images for training or the test images."""
        dataset = datasets.STL10(self.root, split=self.train_split if train else "test", download=download)
        labels = torch.from_numpy(dataset.labels).long() if self.names else None
        return ArrayImages(torch.from_numpy(dataset.data), self.image_size, labels)


class LabeledSTL10(STL10):
    """STL-10's 5,000 labeled color images of 96 x 96 pixels in ten classes, validated on its 8,000 test images."""

    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    train_split = "train"


class MNIST(TorchvisionImages):
    """MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels (LeCun et al., 1998).

    They are padded to 32 pixels with black, and resized to other sizes.
    """

    native_size = 28
    files = (
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz"
    )
    subfolder = "MNIST/raw"
    names = DIGITS
    dataset: ClassVar[type[datasets.MNIST]] = datasets.MNIST

    @property
    def channels(self) -> int:
        """Return 1: the images are gray."""
        return 1

    def read(self, train: bool, download: bool) -> ArrayImages:
        """Read one half of the set."""
        dataset = self.dataset(self.root, train=train, download=download)
        return ArrayImages(padded(dataset.data[:, None], self.image_size), self.image_size, dataset.targets)


class FashionMNIST(MNIST):
    """Fashion-MNIST: 60,000 + 10,000 gray pictures of garments, 28 x 28 pixels (Xiao et al., 2017).

    They are padded to 32 pixels with black, and resized to other sizes.
    """

    subfolder = "FashionMNIST/raw"
    names = GARMENTS
    dataset = datasets.FashionMNIST
