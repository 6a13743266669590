"""Drawing images from a trained generator."""

import copy
import math
import shlex
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid

from data.stream import generator
from lightning_modules.base import TrainingModule
from lightning_modules.networks.gan_presets import ARCHITECTURES
from norms.errors import SettingError, check_range
from norms.recalibration import recalibrate

# Keys of noise outside the training. They stand where training noise has the rank, and no rank is as high.
SAMPLES, STATISTICS = 2**32 - 1, 2**32 - 2

SAMPLING_BATCH, STATISTICS_BATCHES = 64, 8

TILE = 64
"""Images in a grid are enlarged to at least this width in pixels."""


class ImageGenerator(TrainingModule):
    """Draw images from a generator and its averaged copy; a subclass trains them.

    Attributes:
        generator: The generator, called with latent vectors, and with classes if there are any.
        generator_ema: Its average over the training.
        latent_dim: Length of a latent vector.
        num_classes: Number of classes, 0 if the generator has none.
        image_shape: Channels, height and width of its images.
    """

    generator: nn.Module
    generator_ema: nn.Module
    latent_dim: int
    num_classes: int
    image_shape: tuple[int, int, int]

    sample_caption = "the same latent vectors at any step, by the averaged generator"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._samplers: dict[bool, tuple[nn.Module, dict[str, Tensor]]] = {}

    def check_data(self, data: Any) -> None:
        """Give the data the size and channels that it leaves open, and refuse others and missing classes.

        Raises:
            SettingError: If the data module has such.
        """
        channels, size, _ = self.image_shape
        if hasattr(data, "take_shape"):
            data.take_shape(channels, size)
        given_channels, given_size = getattr(data, "channels", channels), getattr(data, "image_size", size)
        advice = []
        if given_channels != channels:
            advice.append(f"model.init_args.channels: {given_channels}")
        if given_size != size:
            fitting = [name for name, each in ARCHITECTURES.items() if getattr(each, "image_size", None) == given_size]
            instead = f" (or model.init_args.architecture: {fitting[0]})" if fitting else ""
            advice.append(f"data.init_args.image_size: {size}{instead}")
        if advice:
            raise SettingError(
                f"the model makes images of {channels}x{size}x{size} (channels x height x width), but "
                f"{type(data).__name__} gives {given_channels}x{given_size}x{given_size}: set {' and '.join(advice)}"
            )
        self._check_classes(data, getattr(data, "num_classes", self.num_classes))

    def _check_classes(self, data: Any, given: int) -> None:
        name = type(data).__name__
        if self.num_classes and not given:
            instead = "data.init_args.labels: true, or " if hasattr(data, "labels") else ""
            raise SettingError(
                f"the model has {self.num_classes} classes, and {name} has no labels: set {instead}"
                "model.init_args.num_classes: 0"
            )
        if self.num_classes and given != self.num_classes:
            raise SettingError(f"{name} has {given} classes: set model.init_args.num_classes: {given}")

    def check_shape(self, images: Tensor) -> None:
        """Refuse images of another shape than the generator's.

        Raises:
            SettingError: If they have such.
        """
        if tuple(images.shape[1:]) != self.image_shape:
            made, given = ("x".join(map(str, shape)) for shape in (self.image_shape, images.shape[1:]))
            raise SettingError(
                f"the model makes images of {made} (channels x height x width) but the data has {given}: choose "
                "data.init_args.image_size, model.init_args.architecture and model.init_args.channels to agree"
            )

    def sampler(self, averaged: bool = True) -> nn.Module:
        """Return a copy of the generator that is ready to draw images in [-1, 1], in evaluation mode.

        Its running statistics are estimated anew from fixed noise: those of the averaged weights are not known, those
        of the live weights lag behind. So images depend on the weights and the latent vectors alone. BigGAN's
        "standing statistics" do the same (Brock et al. 2019, arXiv 1809.11096, section 3.2). The copy is kept until the
        generator has changed.

        Args:
            averaged: Whether to take the averaged generator or the live one.
        """
        network = self.generator_ema if averaged else self.generator
        state = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
        known = self._samplers.get(averaged)
        if known is None or not all(_same(value, known[1][name]) for name, value in state.items()):
            batches = [
                self._inputs(self.fixed_latents(STATISTICS, SAMPLING_BATCH, i)) for i in range(STATISTICS_BATCHES)
            ]
            # One process may draw samples alone, and would wait for the others for ever.
            ready = recalibrate(copy.deepcopy(network), batches, forward=lambda net, inputs: net(*inputs), sync=False)
            known = ready.eval(), {name: value.clone() for name, value in state.items()}
            self._samplers[averaged] = known
        return known[0]

    def sample(self, latents: Tensor, labels: Tensor | None = None, averaged: bool = True) -> Tensor:
        """Generate images in evaluation mode by :meth:`sampler`; neither module nor random state is changed.

        Args:
            latents: Standard normal noise, shape (N, latent_dim).
            labels: Classes of a conditional generator: integers, shape (N,), or shares in each, shape (N, num_classes).
                By default each class in turn.
            averaged: Whether to use the averaged generator or the live one.

        Returns:
            Images in [0, 1], shape (N, channels, image_size, image_size).

        Raises:
            SettingError: If the labels do not fit.
        """
        sampler, inputs = self.sampler(averaged), self._inputs(latents, labels)
        with torch.no_grad():
            parts = zip(*(each.split(SAMPLING_BATCH) for each in inputs), strict=True)
            return (torch.cat(list(starmap(sampler, parts))) + 1) / 2

    def sample_grid(self) -> Tensor:
        """Draw the same 64 latent vectors at any time of a run, by the averaged generator; a column shows a class."""
        latents, columns = self.fixed_latents(SAMPLES, 64), 8
        if self.num_classes:
            columns = min(self.num_classes, 10)
            latents = latents[: 64 // columns * columns]
            labels = torch.arange(columns, device=self.device).repeat(len(latents) // columns)
            images = self.sample(latents, labels)
        else:
            images = self.sample(latents)
        return enlarged_grid(images[:, :3] if images.shape[1] >= 3 else images[:, :1], columns=columns)

    def fixed_latents(self, key: int, count: int, index: int = 0) -> Tensor:
        """Return latent vectors that are the same at any time of a run, (count, latent_dim).

        Args:
            key: What they are for, such as ``SAMPLES``.
            count: How many.
            index: Tells apart several draws.
        """
        # Of the CPU, since generators of other devices draw other numbers.
        return torch.randn((count, self.latent_dim), generator=generator(self.seed, key, index)).to(self.device)

    def fixed_labels(self, count: int) -> Tensor | None:
        """Return each class in turn, (count,), or None if there are no classes."""
        return torch.arange(count, device=self.device) % self.num_classes if self.num_classes else None

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Draw as many samples as the batch has images, in [0, 1]."""
        return self.sample(self.fixed_latents(SAMPLES, len(batch["image"]), batch_idx))

    def next_command(self, run_dir: Path) -> str:
        """Return the command that draws samples."""
        return shlex.join(["python", "sample.py", str(run_dir), "-o", str(run_dir / "samples.png")])

    def _inputs(self, latents: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return what the generator is called with."""
        if not self.num_classes:
            if labels is not None:
                raise SettingError("the generator has no classes, so that it takes no labels")
            return (latents,)
        if labels is None:
            labels = self.fixed_labels(len(latents))
        assert labels is not None
        if not labels.is_floating_point() and len(labels):
            check_range("label", int(labels.min()), at_least=0)
            check_range("label", int(labels.max()), at_most=self.num_classes - 1)
        return latents, labels


def _same(value: Tensor, other: Tensor) -> bool:
    return value.device == other.device and value.dtype == other.dtype and torch.equal(value, other)


def enlarged_grid(images: Tensor, columns: int, scale: int | None = None) -> Tensor:
    """Lay out images in rows, each pixel as a square of ``scale`` pixels.

    Args:
        images: Gray or RGB, shape (N, C, H, W).
        columns: How many images stand in a row.
        scale: Pixels for a pixel; by default the fewest with which images are at least ``TILE`` pixels wide.

    Returns:
        The grid, shape (3, height, width).
    """
    scale = scale or math.ceil(TILE / images.shape[-1])
    return make_grid(images.repeat_interleave(scale, 2).repeat_interleave(scale, 3), columns, padding=2 * scale)
