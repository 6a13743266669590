"""Generative adversarial networks with a spectrally normalized discriminator."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules import ema
from lightning_modules.augmentation import AdaptiveAugment, build_augmentation
from lightning_modules.base import SCHEDULES, class_path
from lightning_modules.generation import ImageGenerator
from lightning_modules.losses.adversarial import AdversarialLoss, adversarial_loss
from lightning_modules.losses.penalties import check_penalties, gradient_penalty, orthogonal, zero_centered
from lightning_modules.networks.gan_presets import build_networks
from norms.errors import SettingError, check_range, unknown
from norms.precision import without_autocast

# Streams of noise within one step; the discriminator's k-th batch takes FIRST_DISCRIMINATOR_LATENTS + k.
GENERATOR_LATENTS, DEQUANTIZATION, FIRST_DISCRIMINATOR_LATENTS = range(3)

# Added to the stream of a batch's latent vectors, for what else is drawn for the batch.
LABELS, REAL_AUGMENTATION, FAKE_AUGMENTATION, INTERPOLATION = (2**32 * n for n in range(1, 5))

Part = tuple[Tensor, Tensor | None]
"""Images in [-1, 1], and their classes if the networks know any."""


class GAN(ImageGenerator):
    """Train SNGAN and its relatives: a generator with any norm against a spectrally normalized discriminator.

    Each step updates the discriminator ``n_dis`` times, then the generator once, and then moves the averaged generator
    that samples are drawn from. One step is one batch, which holds the real images of all updates, and ``global_step``
    counts steps. The defaults are the published setting for CIFAR-10, but that the authors take
    ``generator_batch_size: 128``, ``dequantize: true`` and no average.

    With ``num_classes`` both networks are conditional. Generated images are of classes drawn evenly, but if the loss
    pairs them with real ones, of the same class as those. A discriminator that is an auxiliary classifier adds its
    cross entropy, of real images to its own loss and of generated ones to the generator's (Odena et al. 2017, arXiv
    1610.09585).

    On several processes, norms take their statistics per process, or over all of them with ``trainer.sync_batchnorm``.

    Args:
        architecture: A row of ``ARCHITECTURES``, or a class path or callable that builds a generator, which has an
            ``image_size``, and a discriminator, as :class:`Architecture` does.
        architecture_options: What of that row is different, such as ``{"image_size": 64, "spectral": "both"}``.
        channels: Channels of the images.
        num_classes: Number of classes; 0 trains without.
        norm: The generator's normalization, as :func:`norms.build` takes it.
        norm_options: Further arguments of that layer.
        latent_dim: Length of a latent vector, at most 65536.
        loss: ``hinge``, ``non_saturating``, ``least_squares``, ``wasserstein``, ``relativistic``, or an
            :class:`AdversarialLoss` or its class path.
        penalties: Weights of gradient penalties of the discriminator: ``r1`` on real and ``r2`` on generated images,
            each times half the mean squared gradient norm, and ``wgan_gp``; and of ``orthogonal``, BigGAN's, of the
            generator. They are computed in float32.
        penalty_every: Penalties of the discriminator count every so many of its updates, and so many times as much.
        augment: ``none``, ``diff`` or ``adaptive``: what both real and generated images go through before the
            discriminator, or a class path.
        augment_options: Its arguments.
        lr: Adam's at the start, for both networks.
        discriminator_lr_multiplier: The discriminator's learning rate, as a multiple of ``lr`` (two time scales).
        betas: Adam's decay rates, each in [0, 1).
        discriminator_betas: Those of the discriminator, if they are others.
        rho_lr_multiplier: The learning rate of Batch-Instance Normalization's rho, as a multiple of ``lr``.
        schedule: How the learning rate falls over ``trainer.max_steps``, if that is set: ``linear`` or ``cosine`` to 0,
            or ``constant``.
        n_dis: Updates of the discriminator in each step, from 1 to 1000.
        accumulate: Batches whose gradients are averaged for an update of either network.
        gradient_clip: Largest norm of all gradients of a network.
        generator_batch_size: Images generated for a batch of the generator; by default as many as real ones for one
            of the discriminator.
        ema_half_life: Images after which a weight's share in the averaged generator has halved; 0 for no average.
        dequantize: Whether to spread the 256 levels of real images evenly over [-1, 1] by uniform noise.
        shared_power_iteration: Whether the discriminator scores real and generated images in one pass, so that they
            share a power iteration of spectral normalization: n_dis + 1 in a step in the place of 2 n_dis + 1. The
            relativistic loss has a further one in the generator's update.
        channels_last: See :class:`StyleTransfer`.
        compile: Likewise.
        seed: Key of all noise.

    Raises:
        SettingError: If an argument is unknown or outside its range, or two contradict each other.

    Source:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018, arXiv 1802.05957. Classes:
        Miyato and Koyama, cGANs with Projection Discriminator, ICLR 2018. Two time scales: Heusel et al., NeurIPS 2017.
        Lazy penalties: Karras et al. 2020, arXiv 1912.04958, appendix B.
    """

    def __init__(
        self,
        architecture: str | Callable[..., tuple[nn.Module, nn.Module]] = "resnet32",
        architecture_options: dict[str, Any] | None = None,
        channels: int = 3,
        num_classes: int = 0,
        norm: str | Callable[..., nn.Module] = "batch",
        norm_options: dict[str, Any] | None = None,
        latent_dim: int = 128,
        loss: str | type[AdversarialLoss] = "hinge",
        penalties: dict[str, float] | None = None,
        penalty_every: int = 1,
        augment: str | Callable[..., nn.Module] = "none",
        augment_options: dict[str, Any] | None = None,
        lr: float = 2e-4,
        discriminator_lr_multiplier: float = 1.0,
        betas: tuple[float, float] = (0.0, 0.9),
        discriminator_betas: tuple[float, float] | None = None,
        rho_lr_multiplier: float = 10.0,
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        n_dis: int = 5,
        accumulate: int = 1,
        gradient_clip: float | None = None,
        generator_batch_size: int | None = None,
        ema_half_life: float = 90_000,
        dequantize: bool = False,
        shared_power_iteration: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        # Checkpoints hold plain types alone.
        architecture, norm, loss, augment = map(class_path, (architecture, norm, loss, augment))
        self.save_hyperparameters()
        self.automatic_optimization = False
        check_range("channels", channels, at_least=1)
        check_range("num_classes", num_classes, at_least=0, at_most=2**20)
        check_range("latent_dim", latent_dim, at_least=1, at_most=2**16)
        check_range("penalty_every", penalty_every, at_least=1)
        check_range("n_dis", n_dis, at_least=1, at_most=1000)
        check_range("accumulate", accumulate, at_least=1, at_most=1000)
        check_range("gradient_clip", gradient_clip, above=0, below=math.inf)
        check_range("generator_batch_size", generator_batch_size, at_least=1, at_most=2**20)
        rates = {"lr": lr, "discriminator_lr_multiplier": discriminator_lr_multiplier}
        rates |= {"rho_lr_multiplier": rho_lr_multiplier, "ema_half_life": ema_half_life}
        for name, value in rates.items():
            check_range(name, value, at_least=0, below=math.inf)
        for name, pair in (("betas", betas), ("discriminator_betas", discriminator_betas or betas)):
            for beta in pair:
                check_range(name, beta, at_least=0, below=1)
        if schedule not in SCHEDULES:
            raise unknown("schedule", schedule, SCHEDULES)
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self.penalties, self.penalty_every = check_penalties(penalties), penalty_every
        self.is_penalized = any(self.penalties[name] for name in ("r1", "r2", "wgan_gp"))
        # That of the last update that had one; most steps have none if it is lazy.
        self.last_penalty = torch.zeros(())
        self.lr, self.discriminator_lr = lr, lr * discriminator_lr_multiplier
        self.betas, self.discriminator_betas = betas, discriminator_betas or betas
        self.rho_lr_multiplier, self.schedule = rho_lr_multiplier, SCHEDULES[schedule]
        self.n_dis, self.accumulate, self.gradient_clip = n_dis, accumulate, gradient_clip
        self.generator_batch_size, self.ema_half_life = generator_batch_size, ema_half_life
        self.dequantize, self.shared_power_iteration = dequantize, shared_power_iteration
        self.loss: Any = adversarial_loss(loss)
        self.paired = bool(getattr(self.loss, "paired", False))
        self.boundary = getattr(self.loss, "boundary", 0.0)
        self.augment = build_augmentation(augment, augment_options)
        self.generator, self.discriminator = build_networks(
            architecture,
            channels=channels,
            latent_dim=latent_dim,
            norm=norm,
            norm_options=norm_options,
            num_classes=num_classes,
            options=architecture_options,
        )
        self.auxiliary = bool(getattr(self.discriminator, "auxiliary", False))
        size: Any = self.generator.image_size
        self.image_shape = (channels, size, size)
        self.generator_ema = copy.deepcopy(self.generator).requires_grad_(False)
        self._check_together(compile)

    def _check_together(self, compile: bool) -> None:
        if compile and self.is_penalized:
            raise SettingError(
                "compile has no second derivatives, which penalties need: leave out model.init_args.compile or "
                "model.init_args.penalties"
            )
        if isinstance(self.augment, AdaptiveAugment) and self.boundary is None:
            raise SettingError(f"no score of the {self.hparams['loss']} loss means real: take augment: diff or none")
        if self.paired and self.generator_batch_size is not None:
            raise SettingError("a relativistic loss pairs real and generated images: leave out generator_batch_size")

    @property
    def networks(self) -> list[nn.Module]:
        """The generator, the discriminator and the averaged generator."""
        return [self.generator, self.discriminator, self.generator_ema]

    @property
    def batches_per_step(self) -> int:
        """Return the number of batches of real images in one step: those of the discriminator's updates."""
        return self.n_dis * self.accumulate

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Build Adam for either network, both with the same schedule."""
        rho = {"rho": self.rho_lr_multiplier}
        optimizers = [
            self.adam(self.generator, self.lr, self.betas, lr_multipliers=rho),
            self.adam(self.discriminator, self.discriminator_lr, self.discriminator_betas, lr_multipliers=rho),
        ]
        steps = self.trainer.max_steps
        schedules = [LambdaLR(o, lambda step: self.schedule(step / steps) if steps > 0 else 1.0) for o in optimizers]
        return list(optimizers), schedules

    def on_fit_start(self) -> None:
        """Refuse float16, which needs a scaled loss and cannot hold the squared statistics of large activations.

        Raises:
            SettingError: If ``trainer.precision`` is neither ``32-true`` nor ``bf16-mixed``.
        """
        precision = self.trainer.precision
        if precision not in ("32-true", "bf16-mixed"):
            raise SettingError(f"a GAN trains in precision 32-true or bf16-mixed, not {precision}")
        self.last_penalty = self.last_penalty.to(self.device)  # where the next ones are, as Lightning averages them
        # Lightning offers to save the weights from before a step. Those after it are what a resumed run needs.
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update the discriminator ``n_dis`` times, the generator once, and the average."""
        real = self._to_model_range(batch["image"])
        self.check_shape(real)
        self._check_batch(real)
        labels = batch["label"].chunk(self.batches_per_step) if self.num_classes else [None] * self.batches_per_step
        parts = list(zip(real.chunk(self.batches_per_step), labels, strict=True))
        # Lightning counts the steps of optimizers that it has wrapped: global_step shall be the generator's alone.
        optimizer_g, _ = cast(list[LightningOptimizer], self.optimizers())
        _, optimizer_d = self.trainer.optimizers
        updates = [parts[i : i + self.accumulate] for i in range(0, len(parts), self.accumulate)]
        due = [(self.global_step * self.n_dis + k) % self.penalty_every == 0 for k in range(self.n_dis)]
        logs = [self._update_discriminator(optimizer_d, update, k, due[k]) for k, update in enumerate(updates)]
        loss_g = self._update_generator(optimizer_g, updates[-1])
        rates = [schedule.get_last_lr()[0] for schedule in cast(list[LambdaLR], self.lr_schedulers())]
        for schedule in cast(list[LambdaLR], self.lr_schedulers()):
            schedule.step()
        loss_d, d_real, d_fake, penalty = torch.stack(logs).mean(0)
        self.log_dict({"train/loss_d": loss_d, "train/loss_g": loss_g, "train/d_real": d_real, "train/d_fake": d_fake})
        # Tensors of the CPU, since Lightning would move numbers to the device, and wait.
        self.log_dict({"train/lr_g": torch.tensor(rates[0]), "train/lr_d": torch.tensor(rates[1])})
        if any(due):
            self.last_penalty = penalty * self.n_dis / sum(due)
        if self.is_penalized:
            self.log("train/penalty", self.last_penalty)
        if isinstance(self.augment, AdaptiveAugment):
            self.log("train/augment_probability", self.augment.probability)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score held-out images: how far they fall behind ``train/d_real`` is how much was memorized."""
        scores, _ = self._scores(2 * batch["image"] - 1, batch["label"] if self.num_classes else None)
        self.log("val/d_real", scores.mean(), batch_size=len(scores))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the last penalty, which is logged until there is another."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["last_penalty"] = float(self.last_penalty)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the last penalty over, if a checkpoint that fits has kept one."""
        super().on_load_checkpoint(checkpoint)
        if isinstance(kept := checkpoint.get("last_penalty"), float):
            self.last_penalty = torch.tensor(kept)

    def _update_discriminator(self, optimizer: Optimizer, parts: Sequence[Part], k: int, penalized: bool) -> Tensor:
        """Make the k-th update of a step; return its loss, the mean scores and the penalty."""
        logs = []
        with self.toggled_optimizer(optimizer):
            optimizer.zero_grad()
            for number, part in enumerate(parts):
                stream = FIRST_DISCRIMINATOR_LATENTS + k * self.accumulate + number
                with torch.no_grad():
                    fake = self._generated(stream, len(part[0]), part[1])
                loss, scores, penalty = self._discriminator_loss(part, fake, stream, penalized)
                self.manual_backward((loss + penalty * self.penalty_every) / len(parts))
                logs.append(torch.stack([loss, *(each.mean() for each in scores), penalty]).detach())
                self._adapt(scores[0].detach())
            self._clip(self.discriminator)
            optimizer.step()
        return torch.stack(logs).mean(0)

    def _discriminator_loss(
        self, real: Part, fake: Part, stream: int, penalized: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Return the loss, the scores of real and generated images, and the weighted penalties."""
        weights = self.penalties if penalized else dict.fromkeys(self.penalties, 0.0)
        images, fakes = (part[0].detach().requires_grad_(bool(weights[n])) for part, n in ((real, "r1"), (fake, "r2")))
        # The backward pass of what is differentiated twice has the precision of its forward pass.
        exact = without_autocast(images.device) if weights["r1"] or weights["r2"] else nullcontext()
        with exact:
            seen = (
                self._augmented(images, REAL_AUGMENTATION + stream),
                self._augmented(fakes, FAKE_AUGMENTATION + stream),
            )
            d_real, d_fake, logits = self._scores_of_both((seen[0], real[1]), (seen[1], fake[1]))
        loss = self.loss.discriminator(d_real, d_fake)
        if logits is not None and real[1] is not None:
            loss = loss + F.cross_entropy(logits, real[1])
        penalty = loss.new_zeros(())
        if weights["r1"]:
            penalty = penalty + weights["r1"] / 2 * zero_centered(d_real, images)
        if weights["r2"]:
            penalty = penalty + weights["r2"] / 2 * zero_centered(d_fake, fakes)
        if weights["wgan_gp"]:
            share = torch.rand(len(images), generator=self.keyed(INTERPOLATION + stream), device=self.device)
            along = gradient_penalty(lambda x: self._scores(x, real[1])[0], seen[0], seen[1], share)
            penalty = penalty + weights["wgan_gp"] * along
        return loss, (d_real, d_fake), penalty

    def _update_generator(self, optimizer: LightningOptimizer, parts: Sequence[Part]) -> Tensor:
        """Make the generator's update and move the average; ``parts`` are the last real images."""
        losses = []
        with self.toggled_optimizer(optimizer):
            optimizer.zero_grad()
            for number, real in enumerate(parts):
                batch_size = self.generator_batch_size or len(real[0])
                # The first batch has the key that it always had; the others follow those of the discriminator.
                stream = FIRST_DISCRIMINATOR_LATENTS + self.batches_per_step + number if number else GENERATOR_LATENTS
                loss = self._generator_loss(real, self._generated(stream, batch_size, real[1]), stream)
                if self.penalties["orthogonal"]:
                    loss = loss + self.penalties["orthogonal"] * orthogonal(self.generator)
                self.manual_backward(loss / len(parts))
                losses.append(loss.detach())
            self._clip(self.generator)
            optimizer.step()
        images = batch_size * len(parts) * self.trainer.world_size
        decay = ema.decay(images, images_seen=images * self.global_step, half_life=self.ema_half_life)
        ema.update_(self.generator_ema, self.generator, decay)
        return torch.stack(losses).mean()

    def _generator_loss(self, real: Part, fake: Part, stream: int) -> Tensor:
        scores, logits = self._scores(self._augmented(fake[0], FAKE_AUGMENTATION + stream), fake[1])
        if self.paired:
            with torch.no_grad():
                real_scores, _ = self._scores(self._augmented(real[0], REAL_AUGMENTATION + stream), real[1])
            loss = self.loss.generator(scores, real_scores)
        else:
            loss = self.loss.generator(scores)
        return loss if logits is None or fake[1] is None else loss + F.cross_entropy(logits, fake[1])

    def _generated(self, stream: int, count: int, labels: Tensor | None) -> Part:
        latents = self.noise(stream, count, self.latent_dim)
        if not self.num_classes:
            return self.generator(latents), None
        if labels is None or not self.paired:
            keyed = self.keyed(LABELS + stream)
            labels = torch.randint(self.num_classes, (count,), generator=keyed, device=self.device)
        return self.generator(latents, labels), labels

    def _scores(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the discriminator's scores and, if it is an auxiliary classifier, its logits."""
        if self.auxiliary:
            return self.discriminator(images)
        return self.discriminator(images) if labels is None else self.discriminator(images, labels), None

    def _scores_of_both(self, real: Part, fake: Part) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the scores of real and of generated images, and an auxiliary classifier's logits of the former."""
        if not self.shared_power_iteration:
            (d_real, logits), (d_fake, _) = self._scores(*real), self._scores(*fake)
            return d_real, d_fake, logits
        count = len(real[0])
        labels = None if real[1] is None or fake[1] is None else torch.cat([real[1], fake[1]])
        scores, logits = self._scores(torch.cat([real[0], fake[0]]), labels)
        return scores[:count], scores[count:], None if logits is None else logits[:count]

    def _augmented(self, images: Tensor, stream: int) -> Tensor:
        return images if self.augment is None else self.augment(images, self.keyed(stream))

    def _adapt(self, real_scores: Tensor) -> None:
        if isinstance(self.augment, AdaptiveAugment):
            signs = self.over_processes((real_scores - self.boundary).sign().mean())
            self.augment.update_(signs, len(real_scores) * self.trainer.world_size)

    def _clip(self, network: nn.Module) -> None:
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip)

    def _to_model_range(self, images: Tensor) -> Tensor:
        if not self.dequantize:
            return 2 * images - 1
        # The distribution function of normal noise is uniform noise on [0, 1].
        uniform = torch.special.ndtr(self.noise(DEQUANTIZATION, *images.shape))
        return (255 * images + uniform) / 128 - 1

    def _check_batch(self, images: Tensor) -> None:
        if len(images) % self.batches_per_step:
            product = "n_dis" if self.accumulate == 1 else "n_dis times accumulate"
            raise SettingError(
                f"a batch of {len(images)} images does not divide into {product}={self.batches_per_step} equal parts: "
                f"the data module's batches_per_step must be {self.batches_per_step}"
            )
