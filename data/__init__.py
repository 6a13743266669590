"""Images for training: data modules, decoding, the bundled style pictures, and the stream that orders them."""

from data.arrays import CIFAR10, CIFAR100, MNIST, STL10, BundledDigits, FashionMNIST, LabeledSTL10
from data.garments import BundledGarments
from data.labeled import LabeledFolder, Shards
from data.photos import BundledPhotos, ImageFolder
from data.styled import StyledPhotos

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "STL10",
    "BundledDigits",
    "BundledGarments",
    "BundledPhotos",
    "FashionMNIST",
    "ImageFolder",
    "LabeledFolder",
    "LabeledSTL10",
    "Shards",
    "StyledPhotos",
]
