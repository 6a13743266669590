"""Generative adversarial networks with a spectrally normalized discriminator."""

import copy
import math
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchvision.utils import make_grid

from data.stream import generator
from lightning_modules import ema
from lightning_modules.base import TrainingModule, class_path
from lightning_modules.losses.adversarial import AdversarialLoss, adversarial_loss
from lightning_modules.networks.gan_presets import ARCHITECTURES, build_networks
from norms.errors import SettingError, check_range
from norms.recalibration import recalibrate

# Streams of noise within one step; the discriminator's k-th update takes FIRST_DISCRIMINATOR_LATENTS + k.
GENERATOR_LATENTS, DEQUANTIZATION, FIRST_DISCRIMINATOR_LATENTS = range(3)

# Keys of noise outside the training. They stand where training noise has the rank, and no rank is as high.
SAMPLES, STATISTICS = 2**32 - 1, 2**32 - 2

SAMPLING_BATCH, STATISTICS_BATCHES = 64, 8

TILE = 64
"""Images in a grid are enlarged to at least this width in pixels."""


class GAN(TrainingModule):
    """Train SNGAN: a generator with any norm against a spectrally normalized discriminator.

    Each step updates the discriminator ``n_dis`` times, then the generator once, and then moves the averaged generator
    that samples are drawn from. One step is one batch, which holds the real images of all ``n_dis`` updates, and
    ``global_step`` counts steps. The learning rate falls linearly to 0 over ``trainer.max_steps``, if that is set.
    The defaults are the published setting for CIFAR-10, but that the authors take ``generator_batch_size: 128``,
    ``dequantize: true`` and no average.

    On several processes, a trainer that is not built by ``train.py`` needs the strategy
    ``ddp_find_unused_parameters_true``: each backward pass leaves one of the two networks without gradients. Norms
    take their statistics per process, or over all of them with ``trainer.sync_batchnorm``.

    Args:
        architecture: One of ``resnet32``, ``resnet48``, ``cnn32``, ``cnn48`` (published) or ``resnet16`` (small), or a
            class path or callable that builds a generator, which has an ``image_size``, and a discriminator, as
            :class:`Architecture` does.
        channels: Channels of the images.
        norm: The generator's normalization, as :func:`norms.build` takes it.
        norm_options: Further arguments of that layer.
        latent_dim: Length of a latent vector, at most 65536.
        loss: ``hinge``, ``non_saturating``, or an :class:`AdversarialLoss` or its class path.
        lr: Adam's at the start, for both networks.
        betas: Adam's decay rates, each in [0, 1).
        rho_lr_multiplier: The learning rate of Batch-Instance Normalization's rho, as a multiple of ``lr``.
        n_dis: Updates of the discriminator in each step, from 1 to 1000.
        generator_batch_size: Images generated for an update of the generator; by default as many as real ones for an
            update of the discriminator.
        ema_half_life: Images after which a weight's share in the averaged generator has halved; 0 for no average.
        dequantize: Whether to spread the 256 levels of real images evenly over [-1, 1] by uniform noise.
        channels_last: See :class:`StyleTransfer`.
        compile: Likewise.
        seed: Key of all noise.

    Raises:
        SettingError: If an argument is unknown or outside its range.

    Source:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018, arXiv 1802.05957.
    """

    def __init__(
        self,
        architecture: str | Callable[..., tuple[nn.Module, nn.Module]] = "resnet32",
        channels: int = 3,
        norm: str | Callable[..., nn.Module] = "batch",
        norm_options: dict[str, Any] | None = None,
        latent_dim: int = 128,
        loss: str | type[AdversarialLoss] = "hinge",
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.0, 0.9),
        rho_lr_multiplier: float = 10.0,
        n_dis: int = 5,
        generator_batch_size: int | None = None,
        ema_half_life: float = 90_000,
        dequantize: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        # Checkpoints hold plain types alone.
        architecture, norm, loss = class_path(architecture), class_path(norm), class_path(loss)
        self.save_hyperparameters()
        self.automatic_optimization = False
        check_range("channels", channels, at_least=1)
        check_range("latent_dim", latent_dim, at_least=1, at_most=2**16)
        check_range("lr", lr, at_least=0, below=math.inf)
        check_range("rho_lr_multiplier", rho_lr_multiplier, at_least=0, below=math.inf)
        for beta in betas:
            check_range("betas", beta, at_least=0, below=1)
        check_range("n_dis", n_dis, at_least=1, at_most=1000)
        check_range("generator_batch_size", generator_batch_size, at_least=1, at_most=2**20)
        check_range("ema_half_life", ema_half_life, at_least=0, below=math.inf)
        self.latent_dim = latent_dim
        self.lr = lr
        self.betas = betas
        self.rho_lr_multiplier = rho_lr_multiplier
        self.n_dis = n_dis
        self.generator_batch_size = generator_batch_size
        self.ema_half_life = ema_half_life
        self.dequantize = dequantize
        self.loss = adversarial_loss(loss)
        self.generator, self.discriminator = build_networks(
            architecture, channels=channels, latent_dim=latent_dim, norm=norm, norm_options=norm_options
        )
        self.image_shape = (channels, self.generator.image_size, self.generator.image_size)
        self.generator_ema = copy.deepcopy(self.generator).requires_grad_(False)

    @property
    def networks(self) -> list[nn.Module]:
        """The generator, the discriminator and the averaged generator."""
        return [self.generator, self.discriminator, self.generator_ema]

    @property
    def batches_per_step(self) -> int:
        """Return the number of batches of real images in one step: one for each update of the discriminator."""
        return self.n_dis

    def check_data(self, data: Any) -> None:
        """Refuse images of another size or number of channels than the generator's.

        Raises:
            SettingError: If the data module has such.
        """
        channels, size, _ = self.image_shape
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

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Build Adam for either network, both with the same schedule."""
        networks = (self.generator, self.discriminator)
        optimizers = [
            self.adam(network, self.lr, self.betas, lr_multipliers={"rho": self.rho_lr_multiplier})
            for network in networks
        ]
        steps = self.trainer.max_steps
        schedules = [LambdaLR(o, lambda step: 1 - step / steps if steps > 0 else 1.0) for o in optimizers]
        return list(optimizers), schedules

    def on_fit_start(self) -> None:
        """Refuse float16, which needs a scaled loss and cannot hold the squared statistics of large activations.

        Raises:
            SettingError: If ``trainer.precision`` is neither ``32-true`` nor ``bf16-mixed``.
        """
        precision = self.trainer.precision
        if precision not in ("32-true", "bf16-mixed"):
            raise SettingError(f"a GAN trains in precision 32-true or bf16-mixed, not {precision}")
        # Lightning offers to save the weights from before a step. Those after it are what a resumed run needs.
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update the discriminator ``n_dis`` times, the generator once, and the average."""
        real = self._to_model_range(batch["image"])
        self._check_batch(real)
        # Lightning counts the steps of optimizers that it has wrapped: global_step shall be the generator's alone.
        optimizer_g, _ = cast(list[LightningOptimizer], self.optimizers())
        _, optimizer_d = self.trainer.optimizers
        logs = [self._update_discriminator(optimizer_d, part, k) for k, part in enumerate(real.chunk(self.n_dis))]
        loss_d, d_real, d_fake = torch.stack(logs).mean(0)
        loss_g = self._update_generator(optimizer_g, self.generator_batch_size or len(real) // self.n_dis)
        for schedule in cast(list[LambdaLR], self.lr_schedulers()):
            schedule.step()
        self.log_dict({"train/loss_d": loss_d, "train/loss_g": loss_g}, prog_bar=True)
        self.log_dict({"train/d_real": d_real, "train/d_fake": d_fake})

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score held-out images: how far they fall behind ``train/d_real`` is how much was memorized."""
        scores = self.discriminator(2 * batch["image"] - 1)
        self.log("val/d_real", scores.mean(), batch_size=len(scores), sync_dist=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Draw as many samples as the batch has images, in [0, 1]."""
        return self.sample(self._fixed_latents(SAMPLES, len(batch["image"]), batch_idx))

    def _update_discriminator(self, optimizer: Optimizer, real: Tensor, k: int) -> Tensor:
        latents = self.noise(FIRST_DISCRIMINATOR_LATENTS + k, len(real), self.latent_dim)
        with torch.no_grad():
            fake = self.generator(latents)
        with self.toggled_optimizer(optimizer):
            d_real, d_fake = self.discriminator(real), self.discriminator(fake)
            loss = self.loss.discriminator(d_real, d_fake)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return torch.stack([loss, d_real.mean(), d_fake.mean()]).detach()

    def _update_generator(self, optimizer: LightningOptimizer, batch_size: int) -> Tensor:
        latents = self.noise(GENERATOR_LATENTS, batch_size, self.latent_dim)
        with self.toggled_optimizer(optimizer):
            loss = self.loss.generator(self.discriminator(self.generator(latents)))
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        images = batch_size * self.trainer.world_size
        decay = ema.decay(images, images_seen=images * self.global_step, half_life=self.ema_half_life)
        ema.update_(self.generator_ema, self.generator, decay)
        return loss.detach()

    def _to_model_range(self, images: Tensor) -> Tensor:
        if not self.dequantize:
            return 2 * images - 1
        # The distribution function of normal noise is uniform noise on [0, 1].
        uniform = torch.special.ndtr(self.noise(DEQUANTIZATION, *images.shape))
        return (255 * images + uniform) / 128 - 1

    def _check_batch(self, images: Tensor) -> None:
        if tuple(images.shape[1:]) != self.image_shape:
            made, given = ("x".join(map(str, shape)) for shape in (self.image_shape, images.shape[1:]))
            raise SettingError(
                f"the model makes images of {made} (channels x height x width) but the data has {given}: choose "
                "data.init_args.image_size, model.init_args.architecture and model.init_args.channels to agree"
            )
        if len(images) % self.n_dis:
            raise SettingError(
                f"a batch of {len(images)} images does not divide into n_dis={self.n_dis} equal parts: "
                f"the data module's batches_per_step must be {self.n_dis}"
            )

    def sample(self, latents: Tensor, averaged: bool = True) -> Tensor:
        """Generate images in evaluation mode; neither the module nor any random state is changed.

        Running statistics are estimated anew from fixed noise: those of the averaged weights are not known, those of
        the live weights lag behind. So the images depend on the weights and the latent vectors alone. BigGAN's
        "standing statistics" do the same (Brock et al. 2019, arXiv 1809.11096, section 3.2).

        Args:
            latents: Standard normal noise, shape (N, latent_dim).
            averaged: Whether to use the averaged generator or the live one.

        Returns:
            Images in [0, 1], shape (N, channels, image_size, image_size).
        """
        network = self.generator_ema if averaged else self.generator
        batches = (self._fixed_latents(STATISTICS, SAMPLING_BATCH, i) for i in range(STATISTICS_BATCHES))
        # One process may draw samples alone, and would wait for the others for ever.
        network = recalibrate(copy.deepcopy(network), batches, sync=False).eval()
        with torch.no_grad():
            images = torch.cat([network(part) for part in latents.split(SAMPLING_BATCH)])
        return (images + 1) / 2

    def sample_grid(self) -> Tensor:
        """Draw the same 64 latent vectors at any time of a run, by the averaged generator."""
        images = self.sample(self._fixed_latents(SAMPLES, 64))
        return enlarged_grid(images[:, :3] if images.shape[1] >= 3 else images[:, :1], columns=8)

    def _fixed_latents(self, key: int, count: int, index: int = 0) -> Tensor:
        keyed = generator(self.seed, key, index, device=self.device)
        return torch.randn((count, self.latent_dim), generator=keyed, device=self.device)

    def next_command(self, run_dir: Path) -> str:
        """Return the command that draws samples."""
        return shlex.join(["python", "sample.py", str(run_dir), "-o", str(run_dir / "samples.png")])


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
