"""How versions of a run's network are scored: by its own validation, or by the images that a generator draws."""

import copy
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning import Callback, LightningDataModule, Trainer
from torch import Tensor

from data.stream import generator
from lightning_modules.base import TrainingModule
from lightning_modules.gan import GAN
from mixing_analysis.networks import recalibrated
from norms.errors import SettingError

LATENTS, LATENT_BATCH = 256, 64


class HeldOut:
    """Score modules on the held-out images of a run's data, as their own validation does.

    Args:
        data: The data module of the run.
        batches: At most how many batches of held-out images to score on, and of training images to recalibrate with.
    """

    def __init__(self, data: LightningDataModule, batches: int) -> None:
        self.data, self._most = data, batches
        self._training: list[Any] | None = None
        self._trainer: Any = Trainer(
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=batches,
        )
        # The stream of training images goes on at the trainer's step, which is 0.
        data.trainer = self._trainer

    @property
    def device(self) -> torch.device:
        """Where the modules are scored."""
        return self._trainer.strategy.root_device

    def scores(self, module: TrainingModule, *callbacks: Callback) -> Mapping[str, float]:
        """Return what the module's validation logs.

        Args:
            module: The module.
            callbacks: What is called meanwhile.
        """
        trainer: Any = self._trainer  # whose callbacks are not declared
        usual = trainer.callbacks
        trainer.callbacks = [*usual, *callbacks]
        try:
            (metrics,) = trainer.validate(module, datamodule=self.data, verbose=False)
        finally:
            trainer.callbacks = usual
        known: Mapping[str, float] = metrics
        return known

    def training_batches(self) -> list[Any]:
        """Return the batches of training images that statistics are recalibrated on."""
        if self._training is None:
            self.data.setup("fit")
            self._training = list(islice(self.data.train_dataloader(), self._most))
        return self._training

    def recalibrated(self, module: TrainingModule) -> TrainingModule:
        """Return a copy of a module with running statistics that fit it, on training images."""
        return recalibrated(module, self.training_batches(), self.device)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of held-out images that are scored, in order, as tables of tensors.

        Raises:
            SettingError: If they are something else, or hold no images.
        """
        for batch in islice(self._loader(), self._most):
            if not isinstance(batch, Mapping) or not isinstance(batch.get("image"), Tensor):
                raise SettingError("the batches of its data module have no 'image'")
            tensors = {key: each for key, each in batch.items() if isinstance(each, Tensor)}
            yield move_data_to_device(tensors, self.device)

    @property
    def count(self) -> int:
        """How many images are scored."""
        loader = self._loader()
        return min(len(loader.dataset), self._most * (loader.batch_size or 1))

    def _loader(self) -> Any:
        self.data.setup("validate")
        return self.data.val_dataloader()

    def forward(self, module: TrainingModule, batch: Mapping[str, Tensor]) -> Any:
        """Pass one of the batches through a module."""
        return module.predict_step(batch, 0)

    def images(self, _: TrainingModule, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the images of a batch, in [0, 1], (N, C, H, W)."""
        return batch["image"]


class Latents:
    """Score the live generator of a GAN by what it makes of the same latent vectors, with each class in turn.

    Args:
        gan: Any version of it.
        key: Tells several draws apart.
    """

    count = LATENTS
    """How many images are scored."""

    def __init__(self, gan: GAN, key: int = 0) -> None:
        drawn = torch.randn(LATENTS, gan.latent_dim, generator=generator(gan.seed, key)).to(gan.device)
        labels = gan.fixed_labels(LATENTS)
        self._inputs = {"latents": drawn} if labels is None else {"latents": drawn, "labels": labels}

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Yield what the generator is given, in parts."""
        for start in range(0, LATENTS, LATENT_BATCH):
            yield {key: inputs[start : start + LATENT_BATCH] for key, inputs in self._inputs.items()}

    @torch.no_grad()
    def draw(self, gan: GAN) -> Tensor:
        """Draw the images, in [-1, 1], (N, C, H, W)."""
        return torch.cat([self.forward(gan, batch) for batch in self.batches()])

    def forward(self, gan: GAN, batch: Mapping[str, Tensor]) -> Tensor:
        """Draw images of one of the batches, in [-1, 1]."""
        images: Tensor = gan.generator(*batch.values())
        return images

    @torch.no_grad()
    def images(self, gan: GAN, batch: Mapping[str, Tensor]) -> Tensor:
        """Draw images of one of the batches, in [0, 1]."""
        return (self.forward(gan, batch) + 1) / 2

    def d_fake(self, gan: GAN, images: Tensor) -> float:
        """Return the mean score that the discriminator gives to the images."""
        return self.scores(gan, images).mean().item()

    @torch.no_grad()
    def scores(self, gan: GAN, images: Tensor) -> Tensor:
        """Return the score that the discriminator gives to each of the images, (N,)."""
        scores = []
        for part, (_, *labels) in zip(images.split(LATENT_BATCH), map(dict.values, self.batches()), strict=True):
            found = gan.discriminator(part) if gan.auxiliary else gan.discriminator(part, *labels)
            scores.append(found[0] if gan.auxiliary else found)
        return torch.cat(scores).flatten()

    def recalibrated(self, gan: GAN) -> GAN:
        """Return a copy of a GAN whose live generator has running statistics that fit it, on other latent vectors."""
        copied = copy.deepcopy(gan)
        copied.generator = copied.sampler(averaged=False)
        return copied


def rms(difference: Tensor) -> float:
    """Return the root mean square of a difference."""
    return difference.double().square().mean().sqrt().item()
