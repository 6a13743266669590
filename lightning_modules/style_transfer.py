"""Feed-forward style transfer."""

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import ImageOps
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf
from torchvision.utils import make_grid

from data.styles import open_style
from lightning_modules.base import TrainingModule, class_path
from lightning_modules.losses.perceptual import LossScaling, PerceptualLoss, build_term, usual_terms
from lightning_modules.networks.loss_network import build_loss_network, default_layers
from lightning_modules.networks.transformer import TransformerNet
from norms.errors import SettingError, check_range

SAMPLES = 6
"""How many photos the sample grid shows, if a validation batch has as many."""

GAP = 4
"""Width of the white lines in the sample grid, in pixels."""

SMALLEST_STYLE = 32
"""Pixels below which a picture has no texture left to learn from."""

LARGEST_STYLE = 2**13
"""Pixels above which a picture fills the memory, by its activations."""


class StyleTransfer(TrainingModule):
    """Train a network that repaints any photo in the style of one picture.

    The checkpoint holds the network and the style picture, and nothing of the loss network. So it can be used where
    neither the picture's file nor the loss network's weights are, and a resumed training keeps its picture.

    Logged are the weighted loss and its terms before weighting, for the training batches and, in evaluation mode, for
    the validation photos. See :func:`usual_terms` for what they mean.

    Args:
        style: Name of a bundled style picture, or the path of any image file.
        style_size: Longer side of the style picture in pixels, to which it is scaled; the larger, the broader the
            strokes in the result.
        norm: The network's normalization, as :func:`norms.build` takes it.
        norm_options: Further arguments of that layer.
        widths: See :class:`TransformerNet`.
        num_blocks: See :class:`TransformerNet`.
        loss_network: ``bundled``, ``vgg16``, ``vgg19`` or ``squeezenet1_1``, or a class path or callable, see
            :func:`build_loss_network`.
        weights: File with the loss network's weights; by default the bundled ones, or those that torchvision downloads.
        content_layers: Layers of the loss network; by default those customary for it.
        style_layers: Likewise.
        loss_scaling: ``relative`` or ``published``, see :func:`usual_terms`.
        content_weight: Weight of the content loss; by default what suits the scaling.
        style_weight: Likewise of the style loss; raise it for more style.
        tv_weight: Likewise of the total variation; raise it for smoother results.
        terms: Further terms of the loss, each a ``class_path`` of a :class:`Term` with ``init_args``.
        lr: Adam's learning rate.
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
    """The style picture as it was trained on, uint8, shape (3, H, W); without pixels until the training is set up."""

    def __init__(
        self,
        style: str = "night",
        style_size: int = 256,
        norm: str | Callable[..., nn.Module] = "batch_instance",
        norm_options: dict[str, Any] | None = None,
        widths: Sequence[int] = (32, 64, 128),
        num_blocks: int = 5,
        loss_network: str | Callable[..., nn.Module] = "bundled",
        weights: str | None = None,
        content_layers: list[str] | None = None,
        style_layers: list[str] | None = None,
        loss_scaling: LossScaling = "relative",
        content_weight: float | None = None,
        style_weight: float | None = None,
        tv_weight: float | None = None,
        terms: list[dict[str, Any]] | None = None,
        lr: float = 1e-3,
        rho_lr_multiplier: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        # Checkpoints hold plain types alone.
        norm, loss_network = class_path(norm), class_path(loss_network)
        self.save_hyperparameters()
        check_range("style_size", style_size, at_least=1, at_most=LARGEST_STYLE)
        check_range("lr", lr, at_least=0, below=math.inf)
        check_range("rho_lr_multiplier", rho_lr_multiplier, at_least=0, below=math.inf)
        self.transformer = TransformerNet(widths, num_blocks, norm, norm_options)
        self.register_buffer("style_image", torch.empty(3, 0, 0, dtype=torch.uint8))
        self._photos: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Stylize images: (B, 3 or 1, H, W) in [0, 1] -> (B, 3, H, W) in [0, 1]."""
        return self.transformer(image.expand(-1, 3, -1, -1))

    def prepare_data(self) -> None:
        """Try the style picture and the loss network, before anything of the run is written.

        Raises:
            SettingError: If one of them cannot be had.
        """
        self._open_style()
        self._build_loss()

    def setup(self, stage: str) -> None:
        """Build what only training and validation need."""
        if stage == "predict":
            return
        if not self.style_image.numel():
            self.style_image = self._open_style().to(self.device)
        self.loss = self._build_loss().to(self.device)

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
        terms = self._compare(batch)
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, prog_bar=True)
        return terms["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Compare photos that are not trained on, likewise."""
        terms = {f"val/{name}": value for name, value in self._compare(batch).items()}
        self.log_dict(terms, batch_size=len(batch["image"]), sync_dist=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Stylize a batch."""
        return self(batch["image"])

    def configure_optimizers(self) -> Optimizer:
        """Build Adam, with a constant learning rate as published."""
        multipliers = {"rho": self.hparams["rho_lr_multiplier"]}
        return self.adam(self.transformer, self.hparams["lr"], lr_multipliers=multipliers)

    def sample_grid(self) -> Tensor:
        """Draw the style picture, and next to it the first validation photos above what the network makes of them."""
        photos = self._sample_photos().to(next(self.transformer.parameters()))
        with self.evaluation():
            rows = torch.cat([photos, self(photos)]).float().cpu()
        grid = make_grid(rows, nrow=len(photos), padding=GAP, pad_value=1.0)
        height, width = self.style_image.shape[-2:]
        shown = [grid.shape[1] - 2 * GAP, round(width * (grid.shape[1] - 2 * GAP) / height)]
        style = tvf.resize(self.style_image.cpu(), shown, InterpolationMode.BICUBIC)
        framed = tvf.pad(tvf.to_dtype(style, torch.float32, scale=True), [GAP, GAP, 0, GAP], fill=1.0)
        return torch.cat([framed, grid], dim=2)

    def next_command(self, run_dir: Path) -> str:
        """Return the command that stylizes a photo."""
        return f"python stylize.py {shlex.quote(str(run_dir))} photo.jpg -o out/"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's style picture, which need not have the size of this module's."""
        super().on_load_checkpoint(checkpoint)
        self.style_image = torch.empty_like(checkpoint["state_dict"]["style_image"], device=self.device)

    def _open_style(self) -> Tensor:
        style, size = self.hparams["style"], self.hparams["style_size"]
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
        layers = {layer for term in terms for layer in term.layers}
        return PerceptualLoss(build_loss_network(options["loss_network"], layers, options["weights"]), terms)

    def _measure_style(self) -> None:
        self.loss.set_style(tvf.to_dtype(self.style_image[None], torch.float32, scale=True))

    def _compare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        photo = batch["image"]
        return self.loss(self(photo), photo)

    def _sample_photos(self) -> Tensor:
        """Return the first validation photos, read once."""
        if self._photos is None:
            trainer = cast(Any, self.trainer)  # whose datamodule is not declared
            loader = trainer.val_dataloaders or trainer.datamodule.val_dataloader()
            # To iterate over a DataLoader may draw from torch's generator, which no picture may move.
            with torch.random.fork_rng(devices=[]):
                self._photos = next(iter(loader))["image"][:SAMPLES]
        return self._photos
