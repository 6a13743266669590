"""Which network features are of, and those of real images, which are kept for the next time."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from data.kept import cache_folder
from data.stream import generator
from lightning_modules.classifier import Classifier
from lightning_modules.metrics.extractors import INCEPTION, ClassifierFeatures, Extractor, InceptionFeatures
from lightning_modules.metrics.generated import BATCH, to_bytes
from norms.errors import unknown
from training.files import or_warn, replacing
from training.paths import local_path
from training.run import Run

_WEIGHTS = Path(__file__).resolve().parents[1] / "lightning_modules" / "weights"

BUNDLED = {name: _WEIGHTS / f"{name}.safetensors" for name in ("garments", "digits")}
"""The classifiers that come with normlab; ``configs/garments_classifier.yaml`` has made them."""


def build_extractor(choice: str) -> Extractor:
    """Load the network whose features are compared.

    Args:
        choice: ``garments``, ``digits``, ``inception``, or a run folder, checkpoint or file of a :class:`Classifier`,
            of which the numbers are called ``fd_classifier`` and so on.

    Raises:
        SettingError: If there is no such network, or it cannot be loaded.
    """
    if choice == INCEPTION:
        return InceptionFeatures()
    if choice in BUNDLED:
        return ClassifierFeatures(Run(".", BUNDLED[choice]).load(Classifier), choice)
    path = local_path("metrics.features", choice)
    if not Path(path).exists():
        raise unknown("metrics.features", choice, [*BUNDLED, INCEPTION, "the path of a Classifier's run"])
    return ClassifierFeatures(Run.find(path).load(Classifier), "classifier")


def real_features(images: Dataset[dict[str, Tensor]], count: int, extractor: Extractor) -> tuple[Tensor, str]:
    """Return features of real images, the same ones at any time.

    They are kept in the user's folder for caches, ``normlab/features``, under the hash of what they follow from: every
    pixel of the images, and the weights of the network. To read and hash images costs little beside the network.

    Args:
        images: Items with an ``image`` in [0, 1].
        count: How many of them, drawn without repetition.
        extractor: Computes them where its weights are.

    Returns:
        Features (count, D) on the extractor's device, and the hash of the images.
    """
    number = len(images)  # type: ignore[arg-type]
    picked = torch.randperm(number, generator=generator(0))[:count].sort().values
    sha = hashlib.sha256()
    for part in _batches(images, picked):
        sha.update(f"{tuple(part.shape[1:])}".encode())
        sha.update(part.numpy().tobytes())
    content = sha.hexdigest()[:16]
    device = next(extractor.parameters()).device
    file = cache_folder("features") / f"{extractor.name}-{extractor.digest()}-{content}.safetensors"
    features = _read(file, (len(picked), extractor.dimension))
    if features is None:
        with torch.no_grad():
            features = torch.cat([extractor(part.to(device))[0] for part in _batches(images, picked)]).cpu()
        _write(file, features)
    return features.to(device), content


def _batches(images: Dataset[dict[str, Tensor]], picked: Tensor) -> Iterator[Tensor]:
    for part in picked.split(BATCH):
        yield to_bytes(torch.stack([images[index]["image"] for index in part.tolist()]))


def _read(file: Path, shape: tuple[int, int]) -> Tensor | None:
    """Read features, or nothing where there are none, or none that can be trusted."""
    try:
        with safe_open(file, framework="pt") as opened:
            features: Tensor = opened.get_tensor("features")
            whole = (opened.metadata() or {}).get("sha256") == _hash(features)
    # A damaged file may make its reader come upon anything.
    except Exception:
        return None
    return features if whole and features.shape == shape else None


def _write(file: Path, features: Tensor) -> None:
    with or_warn(), replacing(file) as partial:
        partial.write_bytes(save({"features": features.contiguous()}, {"sha256": _hash(features)}))


def _hash(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()
