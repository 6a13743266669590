"""The noise that the rest of a batch brings into an image's normalized activations, in trained classifiers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pandas import DataFrame
from torch import Tensor, nn

from mixing_analysis.networks import evaluating, load_data, load_module
from mixing_analysis.values import Run
from norms import MeanOnlyBatchNorm2d
from training.run import Run as RunOnDisk

POOL, PROBES, POSITIONS, DRAWS = 1024, 16, 4, 1000
"""Images that batches are drawn from, images that are looked at, positions of each of these, and batches."""

KINDS = (nn.BatchNorm2d, MeanOnlyBatchNorm2d)

MEAN_ALONE = "mean_alone"
"""What batch normalization would bring if it did not divide by the standard deviation of the batch."""


@dataclass(frozen=True)
class Noise:
    """Hold the noise of a layer in units of the standard deviation of its channels.

    Attributes:
        norm: ``batch``, ``mean_only_batch`` or :data:`MEAN_ALONE`.
        layer: The layer's name.
        batch: Images in a batch, of which one is the image that is looked at.
        values: What is added to each activation, minus its mean over batches: (batches, images, channels, positions).
    """

    norm: str
    layer: str
    batch: int
    values: Tensor

    @property
    def deviation(self) -> float:
        """The root of its mean square."""
        return float(self.values.square().mean().sqrt())

    @property
    def kurtosis(self) -> float:
        """Its excess kurtosis over batches, the mean of all activations: 0 of a normal distribution."""
        squares = self.values.square().mean(0)
        return float((self.values.pow(4).mean(0) / squares.square().clamp(min=1e-30)).mean()) - 3


def training_noise(folder: str, batches: Sequence[int]) -> Iterator[Noise]:
    """Measure the noise in each layer of a run's classifier that normalizes by the batch.

    The layer alone sees batches, and all before it works as in evaluation, so that the noise is its own. Other images
    of a batch are drawn anew from :data:`POOL` training images, always in the same way.

    Args:
        folder: Of the training.
        batches: The sizes of batches.

    Raises:
        SettingError: If the run cannot be evaluated.
    """
    run = loadable(folder)
    with evaluating(()):
        module, data = load_module(run), load_data(run)
        data.prepare_data()
        data.setup("fit")
        found = _activations(module, _images(data))
    for name, (norm, seen) in found.items():
        for batch in batches:
            yield from _noises(norm, name, seen, batch)


def loadable(folder: str) -> Run:
    """Return a run of which module and data are to be loaded, by :mod:`mixing_analysis.networks`."""
    run = RunOnDisk(folder)
    return Run(folder, folder, DataFrame(), config=run.read_config(), checkpoint=run.checkpoint)


def _images(data: Any) -> Tensor:
    loaded, found = iter(data.train_dataloader()), list[Tensor]()
    while sum(map(len, found)) < POOL:
        found.append(next(loaded)["image"])
    return torch.cat(found)[:POOL]


@torch.no_grad()
def _activations(module: Any, images: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return what each norm is given of images, with that norm, by the name of its layer."""
    seen: dict[str, list[Tensor]] = {}
    norms = {
        name: each for name, each in module.named_modules() if isinstance(each, nn.BatchNorm2d | MeanOnlyBatchNorm2d)
    }

    def note(name: str, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.setdefault(name, []).append(args[0].flatten(2).double())

    hooks = [norm.register_forward_pre_hook(partial(note, name)) for name, norm in norms.items()]
    try:
        for part in images.split(128):
            module.forward(part)
    finally:
        for hook in hooks:
            hook.remove()
    return {name.split(".")[-2]: (norms[name], torch.cat(parts)) for name, parts in seen.items()}


def _noises(norm: nn.Module, layer: str, seen: Tensor, batch: int) -> Iterator[Noise]:
    """Draw batches of an activation (N, C, positions), and normalize the first images with each of them."""
    generator = torch.Generator().manual_seed(0)
    means, squares = seen.mean(2), seen.square().mean(2)
    center, spread = means.mean(0), (squares.mean(0) - means.mean(0).square()).clamp(min=1e-12).sqrt()
    others = torch.stack(
        [PROBES + torch.randperm(POOL - PROBES, generator=generator)[: batch - 1] for _ in range(DRAWS)]
    )
    # Of the batch that has each of the images in it: (draws, images, channels).
    mean, square = ((each[others].sum(1)[:, None] + each[:PROBES]) / batch for each in (means, squares))
    places = torch.randint(seen.shape[2], (POSITIONS,), generator=generator)
    values = (seen[:PROBES, :, places] - center[:, None]) / spread[:, None]
    shift = (mean - center) / spread
    scale = spread / (square - mean.square()).clamp(min=0).add(getattr(norm, "eps", 0.0)).sqrt()
    alone = values - shift[..., None]
    full = alone * scale[..., None]
    mean_only = isinstance(norm, MeanOnlyBatchNorm2d)
    named = {"mean_only_batch": alone} if mean_only else {"batch": full, MEAN_ALONE: alone}
    for name, normalized in named.items():
        yield Noise(name, layer, batch, normalized - normalized.mean(0))
