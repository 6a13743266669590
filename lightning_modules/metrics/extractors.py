"""Networks whose features real and generated images are compared in."""

import hashlib
import socket
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from data.arrays import padded
from lightning_modules.classifier import Classifier
from norms.errors import SettingError

INCEPTION = "inception"

_PATIENCE = 30.0

_INSTEAD = "garments or digits (gray images), a run folder of a Classifier, or null for no numbers"


class Extractor(nn.Module, ABC):
    """Map images to features and to logits of classes; frozen, in evaluation mode.

    Args:
        name: What its numbers are called by.
        dimension: Length D of its features.
    """

    def __init__(self, name: str, dimension: int) -> None:
        super().__init__()
        self.name, self.dimension = name, dimension

    @abstractmethod
    def resize(self, shape: Sequence[int]) -> str:
        """Say in words how it resizes images of a shape (C, H, W)."""

    @abstractmethod
    def check_images(self, shape: Sequence[int]) -> None:
        """Refuse images of a shape (C, H, W) that it makes nothing of.

        Raises:
            SettingError: If it does not take them.
        """

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features (N, D) and logits (N, K) of images, uint8 (N, C, H, W)."""

    def score_name(self, score: str) -> str:
        """Return what a score is called in these features, such as ``fd_garments``; in Inception's, as published."""
        if self.name == INCEPTION:
            return "fid" if score == "fd" else score
        return f"{score}_{self.name}"

    def digest(self) -> str:
        """Hash the names, shapes and values of the weights."""
        sha = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            sha.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            sha.update(value.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]


class ClassifierFeatures(Extractor):
    """Take what the last layer of a trained :class:`Classifier` sees, and its logits.

    Images of another size than those that the classifier was trained on are resized to that, bicubic with
    antialiasing; but gray ones of 28 pixels are padded to 32 with black, as the data modules of such images do.

    Args:
        classifier: It knows what images it was trained on, unless it was trained by an earlier version.
        name: What its numbers are called by, such as ``garments``.
    """

    def __init__(self, classifier: Classifier, name: str) -> None:
        super().__init__(name, classifier.head.in_features)
        self.classifier = classifier
        self.eval().requires_grad_(False)

    def resize(self, shape: Sequence[int]) -> str:
        """Say in words how it resizes images of a shape (C, H, W)."""
        size = tuple(self.classifier.image_shape or shape)[1:]
        if tuple(shape)[1:] == size:
            return "none"
        to = "x".join(map(str, size))
        return f"padded with black to {to}" if _is_padded(shape, size) else f"to {to}, bicubic with antialiasing"

    def check_images(self, shape: Sequence[int]) -> None:
        """Refuse color images for a classifier of gray ones, and the other way round.

        Raises:
            SettingError: If it is so.
        """
        known = self.classifier.image_shape or shape
        if known[0] != shape[0]:
            raise SettingError(
                f"metrics.features: {self.name} is a classifier of images with {_channels(known[0])}, and the model "
                f"makes images with {_channels(shape[0])}: take inception, or the run folder of a Classifier of such"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features (N, D) and logits (N, K) of images, uint8 (N, C, H, W)."""
        size = tuple(self.classifier.image_shape or images.shape[1:])[1:]
        if _is_padded(images.shape[1:], size):
            images = padded(images, size[0])
        scaled = images.float() / 255
        if scaled.shape[-2:] != size:
            scaled = tvf.resize(scaled, list(size), InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        features = self.classifier.features(scaled)
        return features, self.classifier.head(features)


class InceptionFeatures(Extractor):
    """Take the 2,048 features of the Inception network of 2015 that the published FID, KID and IS are of.

    It is torch-fidelity's, which resizes as TensorFlow did, and downloads the weights (91 MB) on first use. Gray images
    become three equal channels.

    Raises:
        SettingError: If torch-fidelity is missing, or the weights are and cannot be downloaded.
    """

    def __init__(self) -> None:
        super().__init__(INCEPTION, 2048)
        self.network = _inception()
        self.eval().requires_grad_(False)

    def resize(self, shape: Sequence[int]) -> str:
        """Say in words how it resizes images of a shape (C, H, W)."""
        return "to 299x299, bilinear as in TensorFlow 1"

    def check_images(self, shape: Sequence[int]) -> None:
        """Refuse what is neither gray nor RGB.

        Raises:
            SettingError: If it is so.
        """
        if shape[0] not in (1, 3):
            raise SettingError(f"metrics.features: {self.name} takes gray or RGB images, not {_channels(shape[0])}")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features (N, D) and logits (N, K) of images, uint8 (N, C, H, W)."""
        features, logits = self.network(images.expand(-1, 3, -1, -1))
        return features, logits


def _inception() -> nn.Module:
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as inception
    except ImportError as error:
        raise SettingError(
            f"metrics.features: inception needs torch-fidelity: pip install 'normlab[metrics]', or take {_INSTEAD}"
        ) from error
    file = Path(torch.hub.get_dir(), "checkpoints", Path(inception.URL_INCEPTION_V3).name)
    try:
        with _quiet_and_in_time():
            network: nn.Module = inception.FeatureExtractorInceptionV3(INCEPTION, ["2048", "logits_unbiased"])
    # Whatever a network, a disk or a damaged file brings about.
    except Exception as error:
        raise SettingError(
            f"metrics.features: inception has no weights ({' '.join(str(error).split())}): put "
            f"{inception.URL_INCEPTION_V3} to {file}, or take {_INSTEAD}"
        ) from error
    return network


@contextmanager
def _quiet_and_in_time() -> Iterator[None]:
    """Drop what torch-fidelity prints, and give up on a network that answers nothing."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _is_padded(shape: Sequence[int], size: tuple[int, ...]) -> bool:
    return tuple(shape) == (1, 28, 28) and size == (32, 32)


def _channels(count: int) -> str:
    return {1: "one channel (gray)", 3: "three channels (RGB)"}.get(count, f"{count} channels")
