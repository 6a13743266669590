"""Images for training: data modules, decoding, the bundled style pictures, and the stream that orders them."""

from data.arrays import CIFAR10, MNIST, STL10, BundledDigits, FashionMNIST
from data.photos import BundledPhotos, ImageFolder
from data.styled import StyledPhotos

__all__ = ["CIFAR10", "MNIST", "STL10", "BundledDigits", "BundledPhotos", "FashionMNIST", "ImageFolder", "StyledPhotos"]
