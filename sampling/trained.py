"""A trained generator that is ready to draw, whether it lies in a run or in a file of its own."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from lightning_modules.base import TrainingModule
from lightning_modules.gan import GAN
from lightning_modules.networks.gan_presets import build_networks
from norms.errors import SettingError
from training.run import Run
from training.run_data import class_names_of


class TrainedGenerator(TrainingModule):
    """Draw images by a generator whose running statistics are settled, which is what an export holds of a GAN.

    Args:
        architecture: See :class:`lightning_modules.gan.GAN`, as for the next ones.
        channels: Likewise.
        norm: Likewise.
        norm_options: Likewise.
        latent_dim: Likewise.
        num_classes: Likewise.
        architecture_options: Likewise.
        class_names: What the classes are called, in order; empty if nobody knows.

    Raises:
        SettingError: If the settings build no generator.
    """

    _source: tuple[GAN, bool] | None = None
    """The GAN that the network is still to be taken from, and whether it is the averaged one."""

    def __init__(
        self,
        architecture: str,
        channels: int,
        norm: str,
        norm_options: dict[str, Any] | None,
        latent_dim: int,
        num_classes: int = 0,
        architecture_options: dict[str, Any] | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.class_names = [str(name) for name in class_names]
        self.network, _ = build_networks(
            architecture,
            channels=channels,
            latent_dim=latent_dim,
            norm=norm,
            norm_options=norm_options,
            num_classes=num_classes,
            options=architecture_options,
        )
        self.image_shape = (channels, self.network.image_size, self.network.image_size)

    @classmethod
    def of(cls, gan: GAN, averaged: bool = True, class_names: Sequence[str] = ()) -> Self:
        """Take the generator out of a trained GAN.

        Args:
            gan: The GAN, which is left as it is.
            averaged: Whether to take the averaged generator or the live one.
            class_names: What the classes are called.
        """
        known = [name for name in inspect.signature(cls).parameters if name in gan.hparams]
        trained = cls(**{key: gan.hparams[key] for key in known}, class_names=list(class_names))
        trained._source = gan, averaged
        return trained.requires_grad_(False).eval().to(gan.device)

    def settled(self) -> Self:
        """Settle the statistics, if they are not yet, and return this generator.

        Drawing does that by itself. So what is wrong with a command line is told before it takes its time.
        """
        if self._source is not None:
            gan, averaged = self._source
            with exact_convolutions():
                self.network = gan.sampler(averaged).requires_grad_(False)
            self._source = None
        return self

    @classmethod
    def find(cls, path: str | Path, averaged: bool = True, device: torch.device | str = "cpu") -> Self:
        """Find the generator that a user means.

        Args:
            path: A run folder or checkpoint of a GAN, or an exported generator.
            averaged: As for :meth:`of`; an exported file holds one generator alone.
            device: Where it shall draw.

        Returns:
            The generator, in evaluation mode; it settles its statistics when it draws first.

        Raises:
            SettingError: If there is none, or it cannot be loaded.
        """
        run = Run.find(path)
        if run.module_name != cls.__name__:
            gan = run.load(GAN).to(device)
            return cls.of(gan, averaged, class_names_of(run, gan) if gan.num_classes else ())
        if not averaged:
            raise SettingError(f"--no-ema: {path} holds one generator alone; name the run that it was made of")
        return run.load(cls).requires_grad_(False).to(device)

    def shared_settings(self) -> dict[str, Any]:
        """Return the settings that the file of the generator holds."""
        return dict(self.hparams)

    @torch.no_grad()
    def draw(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw one image per latent vector.

        Args:
            latents: Standard normal noise, (N, latent_dim), on the generator's device.
            labels: Classes of a conditional generator: integers (N,), or shares in each of them (N, num_classes).

        Returns:
            Images in [0, 1], shape (N, C, H, W).
        """
        network = self.settled().network
        with exact_convolutions():
            images: Tensor = network(latents) if labels is None else network(latents, labels)
        return ((images + 1) / 2).clamp(0, 1)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Let GPUs compute convolutions in float32, which they round to 10 bits otherwise, and always in the same way."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
