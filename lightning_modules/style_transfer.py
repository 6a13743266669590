"""Feed-forward style transfer."""

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from PIL import ImageOps
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf
from torchvision.utils import make_grid

from data.stream import generator
from data.styles import find_styles, open_style
from lightning_modules.base import TrainingModule, class_path
from lightning_modules.classifier import warm_up_then_cosine
from lightning_modules.losses.perceptual import (
    LossScaling,
    PerceptualLoss,
    View,
    build_term,
    split_layer,
    usual_terms,
)
from lightning_modules.networks.loss_network import build_loss_network, default_layers
from lightning_modules.networks.transformer import Style, TransformerNet, Upsampling
from norms.errors import SettingError, check_range, unknown

Schedule = Literal["constant", "cosine"]

SAMPLES = 6
"""How many photos the sample grid shows, if a validation batch has as many."""

GAP = 4
"""Width of the white lines in the sample grid, in pixels."""

SMALLEST_STYLE = 32
"""Pixels below which a picture has no texture left to learn from."""

LARGEST_STYLE = 2**13
"""Pixels above which a picture fills the memory, by its activations."""


SHIFT = 8
"""Below how many pixels the views of the loss network are shifted: its coarsest common stride."""

_VIEW, _NOISE, _FIXED_NOISE = 1, 2, 3
"""Tell the module's random numbers apart."""


class StyleTransfer(TrainingModule):
    """Train a network that repaints any photo in the style of one picture, or of one of several.

    The checkpoint holds the network and the style pictures, and nothing of the loss network. So it can be used where
    neither the picture's file nor the loss network's weights are, and a resumed training keeps its picture.

    Logged are the weighted loss and its terms before weighting, for the training batches and, in evaluation mode, for
    the validation photos. See :func:`usual_terms` for what they mean.

    Args:
        style: Name of a bundled style picture, or the path of any image file.
        style_size: Longer side of the style picture in pixels, to which it is scaled; the larger, the broader the
            strokes in the result.
        styles: In the place of ``style`` several such names and paths, or folders of pictures, for one network that
            paints in each of them: every norm has a gamma and beta for each style. They are served in turn, image by
            image.
        noise: Standard deviation of the noise that is added to a photo, whose values are in [0, 1], before the network
            sees it: what strokes in a clear sky can grow from. The same in every evaluation.
        norm: The network's normalization, as :func:`norms.build` takes it.
        norm_options: Further arguments of that layer.
        widths: See :class:`TransformerNet`.
        num_blocks: See :class:`TransformerNet`.
        upsampling: See :class:`TransformerNet`.
        loss_network: ``bundled``, ``vgg16``, ``vgg19`` or ``squeezenet1_1``, or a class path or callable, see
            :func:`build_loss_network`.
        weights: File with the loss network's weights; by default the bundled ones, or those that torchvision downloads.
        content_layers: Layers of the loss network; by default those customary for it. See :class:`PerceptualLoss` for
            layers that see larger shapes, such as ``relu3_2@2``.
        style_layers: Likewise.
        loss_scaling: ``relative`` or ``published``, see :func:`usual_terms`.
        content_weight: Weight of the content loss; by default what suits the scaling.
        style_weight: Likewise of the style loss; raise it for more style.
        tv_weight: Likewise of the total variation; raise it for smoother results.
        jitter: How the loss network is shown an image in training: scaled by a random factor between ``exp(-jitter)``
            and ``exp(jitter)`` and shifted by up to 7 pixels, both other in every step. 0 shows it as it is, as
            published. See :class:`View`.
        terms: Further terms of the loss, each a ``class_path`` of a :class:`Term` with ``init_args``.
        lr: Adam's learning rate, the highest if it has a schedule.
        schedule: ``constant``, as published, or ``cosine``: a rise over a twentieth of ``trainer.max_steps``, then a
            half cosine down to 0.
        photo_size: How many pixels a photo has on its longer side where ``stylize.py`` shows it to the network, so that
            strokes are as broad beside its objects as in training. Squares of random scales, as the project's data
            serve them, show photos between ``image_size`` and their full size.
        channels_last: Whether the networks keep the channels of a pixel together in memory, which most CPUs and GPUs
            convolve faster. Results differ by rounding.
        compile: Whether to compile the networks by ``torch.compile`` when a training or an evaluation begins, which
            takes a minute or two and needs a C++ compiler. Results differ by rounding.
        rho_lr_multiplier: The learning rate of Batch-Instance Normalization's rho, as a multiple of ``lr``.
        seed: Key of everything random in the module.

    Raises:
        SettingError: If the network cannot have this shape; what is wrong with the style picture or the
            loss network shows in :meth:`prepare_data`, since a trained module needs neither file.
        ValueError: If the norm does not exist or does not take the options.

    Source:
        Johnson, Alahi and Fei-Fei, Perceptual Losses for Real-Time Style Transfer and Super-Resolution, ECCV 2016,
        arXiv 1603.08155.
    """

    loss: PerceptualLoss
    """Only there in training and validation."""

    style_image: Tensor
    """The style picture as it was trained on, or the first one, uint8, shape (3, H, W).

    It has no pixels until the training is set up. Further ones are ``style_image1``, ``style_image2``, ...
    """

    def __init__(
        self,
        style: str = "night",
        style_size: int = 256,
        styles: list[str] | None = None,
        noise: float = 0.0,
        norm: str | Callable[..., nn.Module] = "batch_instance",
        norm_options: dict[str, Any] | None = None,
        widths: Sequence[int] = (32, 64, 128),
        num_blocks: int = 5,
        upsampling: Upsampling = "nearest",
        loss_network: str | Callable[..., nn.Module] = "bundled",
        weights: str | None = None,
        content_layers: list[str] | None = None,
        style_layers: list[str] | None = None,
        loss_scaling: LossScaling = "relative",
        content_weight: float | None = None,
        style_weight: float | None = None,
        tv_weight: float | None = None,
        jitter: float = 0.0,
        terms: list[dict[str, Any]] | None = None,
        lr: float = 1e-3,
        schedule: Schedule = "constant",
        photo_size: int = 512,
        channels_last: bool = False,
        compile: bool = False,
        rho_lr_multiplier: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        # Checkpoints hold plain types alone, and need no folder of styles.
        norm, loss_network = class_path(norm), class_path(loss_network)
        styles = None if styles is None else find_styles(styles)
        self.save_hyperparameters()
        check_range("style_size", style_size, at_least=1, at_most=LARGEST_STYLE)
        check_range("lr", lr, at_least=0, below=math.inf)
        check_range("noise", noise, at_least=0, below=math.inf)
        check_range("photo_size", photo_size, at_least=16, at_most=LARGEST_STYLE)
        check_range("jitter", jitter, at_least=0, at_most=2)
        check_range("rho_lr_multiplier", rho_lr_multiplier, at_least=0, below=math.inf)
        if schedule not in get_args(Schedule):
            raise unknown("schedule", schedule, get_args(Schedule))
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.styles = styles or [style]
        num_styles = None if styles is None else len(styles)
        self.transformer = TransformerNet(widths, num_blocks, norm, norm_options, upsampling, num_styles)
        self.transformer.to(memory_format=self.memory_format)
        for name in self._picture_names():
            self.register_buffer(name, torch.empty(3, 0, 0, dtype=torch.uint8))
        self._photos: Tensor | None = None

    @property
    def networks(self) -> list[nn.Module]:
        """The style network and, where there is one, the loss network."""
        return [self.transformer, *([self.loss.network] if hasattr(self, "loss") else [])]

    @property
    def style_names(self) -> list[str]:
        """The names of the styles: those of the bundled pictures or files, without folder and extension."""
        return [Path(style).stem for style in self.styles]

    @property
    def style_images(self) -> list[Tensor]:
        """The style pictures as they are trained on, see ``style_image``."""
        return [self.get_buffer(name) for name in self._picture_names()]

    def forward(self, image: Tensor, style: Style = 0) -> Tensor:
        """Stylize images.

        Args:
            image: (B, 3 or 1, H, W), values in [0, 1].
            style: Which of several styles: an index, one for each image, or shares, see
                :class:`norms.ConditionalNorm`.

        Returns:
            (B, 3, H, W), values in [0, 1].
        """
        image = image.expand(-1, 3, -1, -1).contiguous(memory_format=self.memory_format)
        if self.hparams["noise"]:
            image = image + self.hparams["noise"] * self._noise(image)
        return self.transformer(image) if self.transformer.num_styles is None else self.transformer(image, style)

    def prepare_data(self) -> None:
        """Try the style pictures and the loss network, before anything of the run is written.

        Raises:
            SettingError: If one of them cannot be had.
        """
        for style in self.styles:
            self._open_style(style)
        self._build_loss()

    def setup(self, stage: str) -> None:
        """Build what only training and validation need."""
        if stage == "predict":
            return
        for name, style in zip(self._picture_names(), self.styles, strict=True):
            if not self.get_buffer(name).numel():
                setattr(self, name, self._open_style(style).to(self.device))
        self.loss = self._build_loss().to(self.device).to(memory_format=self.memory_format)

    def on_fit_start(self) -> None:
        """Measure the style, now that a checkpoint, if there is one, has brought back its picture.

        Raises:
            SettingError: If ``trainer.precision`` is half, which the loss network's statistics need more than.
        """
        precision = self.trainer.precision
        if precision in ("16-true", "bf16-true"):
            raise SettingError(f"style transfer trains in precision 32-true, 64-true or a mixed one, not {precision}")
        self._measure_style()

    def on_validation_start(self) -> None:
        """Measure the style where validation is all there is."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._measure_style()

    def on_test_start(self) -> None:
        """Measure the style for a test."""
        self._measure_style()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Stylize a batch and compare it with its photos and the style."""
        photo = batch["image"]
        first = (self.global_step * self.trainer.world_size + self.global_rank) * len(photo)
        terms = self._compare(photo, first, self._view())
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, prog_bar=True)
        return terms["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Compare photos that are not trained on, likewise."""
        photo = batch["image"]
        terms = self._compare(photo, batch_idx * len(photo))
        self.log_dict({f"val/{name}": value for name, value in terms.items()}, batch_size=len(photo), sync_dist=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Stylize a batch."""
        return self(batch["image"])

    def configure_optimizers(self) -> Optimizer | OptimizerLRSchedulerConfig:
        """Build Adam and its schedule."""
        multipliers = {"rho": self.hparams["rho_lr_multiplier"]}
        optimizer = self.adam(self.transformer, self.hparams["lr"], lr_multipliers=multipliers)
        if self.hparams["schedule"] == "constant":
            return optimizer
        schedule = LambdaLR(optimizer, lambda step: warm_up_then_cosine(step, self.trainer.max_steps, warm_up=0.05))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def sample_grid(self) -> Tensor:
        """Draw the first validation photos, and below them what the network makes of them, a row for each style.

        The style pictures are on the left of their rows; a single one is as high as all.
        """
        photos = self._sample_photos().to(next(self.transformer.parameters()))
        with self.evaluation():
            rows = torch.cat([photos, *(self(photos, style) for style in range(len(self.styles)))]).float().cpu()
        grid = make_grid(rows, nrow=len(photos), padding=GAP, pad_value=1.0)
        several = len(self.styles) > 1
        height = photos.shape[2] if several else grid.shape[1] - 2 * GAP
        pictures = [_as_high(picture.cpu(), height) for picture in self.style_images]
        widest = max(picture.shape[2] for picture in pictures)
        left = torch.ones(3, grid.shape[1], GAP + widest)
        for row, picture in enumerate(pictures):
            top = GAP + (row + 1) * (height + GAP) if several else GAP
            left[:, top : top + height, GAP : GAP + picture.shape[2]] = picture
        return torch.cat([left, grid], dim=2)

    def next_command(self, run_dir: Path) -> str:
        """Return the command that stylizes a photo."""
        return f"python stylize.py {shlex.quote(str(run_dir))} photo.jpg -o out/"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's style pictures, which need not have the size of this module's."""
        super().on_load_checkpoint(checkpoint)
        for name in self._picture_names():
            if name in checkpoint["state_dict"]:
                setattr(self, name, torch.empty_like(checkpoint["state_dict"][name], device=self.device))

    def _picture_names(self) -> list[str]:
        return [f"style_image{index or ''}" for index in range(len(self.styles))]

    def _open_style(self, style: str) -> Tensor:
        size = self.hparams["style_size"]
        picture = open_style(style)
        if min(picture.size) * size < SMALLEST_STYLE * max(picture.size):
            raise SettingError(
                f"style picture {style} ({picture.width}x{picture.height} pixels) is too narrow for style_size {size}: "
                f"its shorter side must keep at least {SMALLEST_STYLE} pixels"
            )
        return tvf.pil_to_tensor(ImageOps.contain(picture, (size, size)))

    def _build_loss(self) -> PerceptualLoss:
        options = self.hparams
        customary = default_layers(options["loss_network"])
        content_layers = options["content_layers"] or customary.content
        style_layers = options["style_layers"] or customary.style
        weights = {name: options[name] for name in ("content_weight", "style_weight", "tv_weight")}
        terms = usual_terms(content_layers, style_layers, options["loss_scaling"], **weights)
        terms += [build_term(description) for description in options["terms"] or ()]
        layers = {split_layer(layer)[0] for term in terms for layer in term.layers}
        return PerceptualLoss(build_loss_network(options["loss_network"], layers, options["weights"]), terms)

    def _measure_style(self) -> None:
        self.loss.set_style(*(tvf.to_dtype(picture[None], torch.float32, scale=True) for picture in self.style_images))

    def _compare(self, photo: Tensor, first: int, view: View | None = None) -> dict[str, Tensor]:
        """Stylize photos, in turn in each style, and compare them; ``first`` is the number of the first photo."""
        if self.transformer.num_styles is None:
            return self.loss(self(photo), photo, view=view)
        styles = [(first + i) % len(self.styles) for i in range(len(photo))]
        return self.loss(self(photo, torch.tensor(styles, device=photo.device)), photo, styles, view)

    def _noise(self, image: Tensor) -> Tensor:
        if self.training:
            return self.noise(_NOISE, *image.shape).to(image)
        keyed = generator(self.seed, _FIXED_NOISE)
        return torch.randn(1, *image.shape[1:], generator=keyed).to(image)

    def _view(self) -> View | None:
        if not self.hparams["jitter"]:
            return None
        keyed = generator(self.seed, self.global_rank, self.global_step, _VIEW)
        scale, right, down = torch.rand(3, generator=keyed).tolist()
        return View(math.exp(self.hparams["jitter"] * (2 * scale - 1)), int(SHIFT * right), int(SHIFT * down))

    def _sample_photos(self) -> Tensor:
        """Return the first validation photos, read once."""
        if self._photos is None:
            trainer = cast(Any, self.trainer)  # whose datamodule is not declared
            loader = trainer.val_dataloaders or trainer.datamodule.val_dataloader()
            # To iterate over a DataLoader may draw from torch's generator, which no picture may move.
            with torch.random.fork_rng(devices=[]):
                self._photos = next(iter(loader))["image"][:SAMPLES]
        return self._photos


def _as_high(picture: Tensor, height: int) -> Tensor:
    """Scale a picture, uint8, (3, H, W), to a height; values in [0, 1]."""
    size = [height, max(1, round(picture.shape[2] * height / picture.shape[1]))]
    return tvf.to_dtype(tvf.resize(picture, size, InterpolationMode.BICUBIC), torch.float32, scale=True)
