"""Feed-forward style transfer."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms.v2 import functional as tvf

from data.stream import generator
from data.styles import LARGEST_STYLE, PHOTO, check_names, find_styles, name_of, scaled_style
from lightning_modules.base import class_path
from lightning_modules.classifier import warm_up_then_cosine
from lightning_modules.losses.perceptual import (
    LossScaling,
    PerceptualLoss,
)
from lightning_modules.losses.settings import build_loss
from lightning_modules.losses.stability import instability
from lightning_modules.losses.view import View
from lightning_modules.networks.transformer import Style, TransformerNet, Upsampling
from lightning_modules.painter import Painter, draw_samples, find_trained
from lightning_modules.places import noise_at
from lightning_modules.scores import StyleScores
from lightning_modules.starting import Base, train_only_styles_from_
from norms.errors import check_range, unknown

Schedule = Literal["constant", "cosine"]

_VIEW, _NOISE, _MOTION = 1, 2, 4
"""Tell the module's random numbers apart."""


class StyleTransfer(Painter):
    """Train a network that repaints any photo in the style of one picture, or of one of several.

    The checkpoint holds the network and the style pictures, and nothing of the loss network. So it can be used where
    neither the picture's file nor the loss network's weights are, and a resumed training keeps its picture.

    Logged are the weighted loss and its terms before weighting, for the training batches and, in evaluation mode, for
    the validation photos. See :func:`usual_terms` for what they mean. ``train.py validate`` and ``test`` add the scores
    of :class:`StyleScores`.

    Args:
        style: Name of a bundled style picture, or the path of any image file. Several with ``+`` between them, such as
            ``night+my_painting.jpg``, make one style. The style ``photo`` leaves photos as they are: shares of it in a
            mixture weaken another style inside the network.
        style_size: Longer side of the style picture in pixels, to which it is scaled; the larger, the broader the
            strokes in the result.
        styles: In the place of ``style`` several such names and paths, or folders of pictures, for one network that
            paints in each of them: every norm has a gamma and beta for each style. They are served in turn, image by
            image.
        start: A trained style network to begin with, in the place of random weights: a run, a checkpoint, an exported
            network or ``bundled``. It has the same ``widths`` and ``num_blocks``.
        add_to: Likewise a network of several styles, to which ``style`` or ``styles`` are added: their gamma and beta
            are trained, and all else stays as it is, its other styles too. The network's shape, norm and noise are
            those of its training.
        first_style: Index of the first style that is trained; found by itself.
        separate_norms: Whether each of several styles has norms of its own, so that it learns its own rho or switch
            weights, at the cost of one pass of every norm for each style.
        style_colors: Another picture, whose mean color and covariance of colors the style pictures are given.
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
            layers that see larger shapes, such as ``relu3_2@2``. A table gives each layer a factor, such as
            ``{relu2_2: 1, relu3_2: 3}``.
        style_layers: Likewise.
        loss_scaling: ``relative`` or ``published``, see :func:`usual_terms`.
        content_weight: Weight of the content loss; by default what suits the scaling.
        style_weight: Likewise of the style loss; raise it for more style.
        tv_weight: Likewise of the total variation; raise it for smoother results.
        jitter: How the loss network is shown an image in training: scaled by a random factor between ``exp(-jitter)``
            and ``exp(jitter)`` and shifted by up to 7 pixels, both other in every step. 0 shows it as it is, as
            published. See :class:`View`.
        terms: Further terms of the loss, each a ``class_path`` of a :class:`Term` with ``init_args``.
        stability_weight: Weight of :func:`instability`, which makes the network paint the frames of a video alike and
            costs a second pass through it. 0 is off, and costs nothing.
        lr: Adam's learning rate, the highest if it has a schedule.
        schedule: ``constant``, as published, or ``cosine``: a rise over a twentieth of ``trainer.max_steps``, then a
            half cosine down to 0.
        photo_size: How many pixels a photo has on its longer side where ``stylize.py`` shows it to the network, so that
            strokes are as broad beside its objects as in training. Squares of random scales, as the project's data
            serve them, show photos between ``image_size`` and their full size.
        channels_last: Whether the networks keep the channels of a pixel together in memory, which is mostly faster.
        compile: Whether to compile the networks, see :meth:`TrainingModule.configure_model`.
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
        separate_norms: bool = False,
        start: str | None = None,
        add_to: str | None = None,
        first_style: int = 0,
        style_colors: str | None = None,
        noise: float = 0.0,
        norm: str | Callable[..., nn.Module] = "batch_instance",
        norm_options: dict[str, Any] | None = None,
        widths: Sequence[int] = (32, 64, 128),
        num_blocks: int = 5,
        upsampling: Upsampling = "nearest",
        loss_network: str | Callable[..., nn.Module] = "bundled",
        weights: str | None = None,
        content_layers: list[str] | dict[str, float] | None = None,
        style_layers: list[str] | dict[str, float] | None = None,
        loss_scaling: LossScaling = "relative",
        content_weight: float | None = None,
        style_weight: float | None = None,
        tv_weight: float | None = None,
        jitter: float = 0.0,
        terms: list[dict[str, Any]] | None = None,
        stability_weight: float = 0.0,
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
        styles = None if styles is None else find_styles(styles)
        if add_to is not None and not first_style:
            base = Base(add_to)
            first_style = len(base.styles)
            styles = [*base.styles, *(styles or find_styles([style]))]
            check_names(styles)
            widths, num_blocks, norm, norm_options, separate_norms, upsampling, noise, photo_size = base.shape
        norm, loss_network = class_path(norm), class_path(loss_network)
        self.save_hyperparameters()
        check_range("style_size", style_size, at_least=1, at_most=LARGEST_STYLE)
        check_range("lr", lr, at_least=0, below=math.inf)
        check_range("noise", noise, at_least=0, below=math.inf)
        check_range("photo_size", photo_size, at_least=16, at_most=LARGEST_STYLE)
        check_range("jitter", jitter, at_least=0, at_most=2)
        check_range("stability_weight", stability_weight, at_least=0, below=math.inf)
        check_range("rho_lr_multiplier", rho_lr_multiplier, at_least=0, below=math.inf)
        if schedule not in get_args(Schedule):
            raise unknown("schedule", schedule, get_args(Schedule))
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.styles, self.first_style = styles or [style], first_style
        self.scores: StyleScores | None = None
        separate = self.style_names if styles and separate_norms else []
        num_styles = None if styles is None else len(styles)
        self.transformer = TransformerNet(widths, num_blocks, norm, norm_options, upsampling, num_styles, separate)
        self.transformer.to(memory_format=self.memory_format)
        for name in self._picture_names():
            self.register_buffer(name, torch.empty(3, 0, 0, dtype=torch.uint8))
        if self.first_style:
            train_only_styles_from_(self.first_style, self.transformer)

    @property
    def networks(self) -> list[nn.Module]:
        """The style network and, where there is one, the loss network."""
        return [self.transformer, *([self.loss.network] if hasattr(self, "loss") else [])]

    @property
    def style_names(self) -> list[str]:
        """The names of the styles: those of the bundled pictures or files, without folder and extension."""
        return [name_of(style) for style in self.styles]

    @property
    def style_images(self) -> list[Tensor]:
        """The style pictures as they are trained on, see ``style_image``."""
        return [self.get_buffer(name) for name in self._picture_names()]

    def find_style(self, chosen: Sequence[str]) -> Style:
        """Find one of the network's styles by its name, or shares of several; see :func:`find_trained`."""
        return find_trained(self.style_names, chosen)

    def weakened(self, style: Style, strength: float) -> tuple[Style, float]:
        """Mix a style with ``photo``, if the network was trained for it; see :meth:`Painter.weakened`."""
        if PHOTO not in self.styles or strength == 1:
            return style, strength
        shares = style if isinstance(style, Tensor) else one_hot(torch.tensor(style), len(self.styles)).float()
        photo = one_hot(torch.tensor(self.styles.index(PHOTO)), len(self.styles))
        return torch.lerp(photo.to(shares), shares, strength), 1.0

    def forward(self, image: Tensor, style: Style = 0, corner: tuple[int, int] = (0, 0)) -> Tensor:
        """Stylize images.

        Args:
            image: (B, 3 or 1, H, W), values in [0, 1].
            style: Which of several styles: an index, one for each image, or shares, see
                :class:`norms.ConditionalNorm`.
            corner: Row and column of the upper left pixel in a larger picture, to whose places noise belongs.

        Returns:
            (B, 3, H, W), values in [0, 1].
        """
        image = image.expand(-1, 3, -1, -1).contiguous(memory_format=self.memory_format)
        if self.hparams["noise"]:
            image = image + self.hparams["noise"] * self._noise(image, corner)
        return self.transformer(image) if self.transformer.num_styles is None else self.transformer(image, style)

    def prepare_data(self) -> None:
        """Try the style pictures and the networks, before anything of the run is written.

        Raises:
            SettingError: If one of them cannot be had.
        """
        self._begin_with_other_network()
        for name, style in zip(self._picture_names(), self.styles, strict=True):
            if not self.resumes and not self.get_buffer(name).numel():
                self._load_style(style)
        build_loss(self.hparams)

    def setup(self, stage: str) -> None:
        """Build what only training and validation need."""
        if stage == "predict":
            return
        if stage == "fit":
            self._begin_with_other_network()
        for name, style in zip(self._picture_names(), self.styles, strict=True):
            if not self.get_buffer(name).numel() and not self.resumes:
                setattr(self, name, self._load_style(style).to(self.device))
        self.loss = build_loss(self.hparams).to(self.device).to(memory_format=self.memory_format)

    def on_train_start(self) -> None:
        """Keep running statistics as they are where styles share them that are not trained."""
        super().on_train_start()
        if self.first_style:
            self.transformer.eval()

    def on_fit_start(self) -> None:
        """Measure the style, now that a checkpoint, if there is one, has brought back its picture.

        Raises:
            SettingError: If ``trainer.precision`` is half, which the loss network's statistics need more than.
        """
        super().on_fit_start()
        self._measure_style()

    def on_validation_start(self) -> None:
        """Measure the style, and score the network, where validation is all there is."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._measure_style()
            self.scores = StyleScores(self._trained_pictures()).to(self.device)

    on_test_start = on_validation_start

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        if self.scores is not None:
            self.log_dict({f"val/{name}": value for name, value in self.scores.compute().items()})
            self.scores = None

    on_test_epoch_end = on_validation_epoch_end

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Stylize a batch and compare it with its photos and the style."""
        photo = batch["image"]
        first = (self.global_step * self.trainer.world_size + self.global_rank) * len(photo)
        styles = self._turns(first, len(photo))
        terms = self._compare(self._paint(photo, styles), photo, styles, self._view())
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return terms["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Compare photos that are not trained on, likewise."""
        photo = batch["image"]
        styles = self._turns(batch_idx * len(photo), len(photo))
        image = self._paint(photo, styles)
        terms = self._compare(image, photo, styles)
        if self.scores is not None:
            self.scores.update(image, photo, styles or [0] * len(photo))
        self.log_dict({f"val/{name}": value for name, value in terms.items()}, batch_size=len(photo))

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
        """Draw some validation photos, and what the network makes of them in each style; see :func:`draw_samples`."""
        photos = self.sample_photos().to(next(self.transformer.parameters()))
        with self.evaluation():
            painted = [self(photos, style) for style in range(len(self.styles))]
        return draw_samples(photos, painted, self.style_images)

    def shared_settings(self) -> dict[str, Any]:
        """Return the settings for a file to hand on, in which the styles are called by the names of their files."""
        names = ["+".join(Path(part).name for part in style.split("+")) for style in self.styles]
        settings = super().shared_settings()
        folders = dict.fromkeys(("start", "add_to", "style_colors"))
        return settings | folders | {"style": names[0], "styles": settings["styles"] and names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's style pictures, which need not have the size of this module's."""
        super().on_load_checkpoint(checkpoint)
        for name in self._picture_names():
            if name in checkpoint["state_dict"]:
                setattr(self, name, torch.empty_like(checkpoint["state_dict"][name], device=self.device))

    def _begin_with_other_network(self) -> None:
        path = self.hparams["add_to"] or self.hparams["start"]
        if path is None or self.resumes or self.style_image.numel():  # or it was loaded, and is trained
            return
        base = Base(path)
        base.copy_to_(self.transformer, self.first_style)
        for name in self._picture_names()[: self.first_style]:
            setattr(self, name, base.weights[name].clone())

    def _picture_names(self) -> list[str]:
        return [f"style_image{index or ''}" for index in range(len(self.styles))]

    def _load_style(self, style: str) -> Tensor:
        return scaled_style(style, self.hparams["style_size"], self.hparams["style_colors"])

    def _measure_style(self) -> None:
        styles, pictures = self.styles[self.first_style :], self._trained_pictures()
        self.loss.set_style(*(None if s == PHOTO else picture for s, picture in zip(styles, pictures, strict=True)))

    def _trained_pictures(self) -> list[Tensor]:
        pictures = self.style_images[self.first_style :]
        return [tvf.to_dtype(picture[None], torch.float32, scale=True) for picture in pictures]

    def _turns(self, first: int, count: int) -> list[int] | None:
        """Return the places of photos' styles among those that are trained, which take turns; None for a single one.

        ``first`` is the number of the first photo.
        """
        if self.transformer.num_styles is None:
            return None
        return [number % (len(self.styles) - self.first_style) for number in range(first, first + count)]

    def _paint(self, photo: Tensor, trained: list[int] | None) -> Tensor:
        if trained is None:
            return self(photo, 0)
        turns = torch.arange(trained[0], trained[0] + len(photo), device=photo.device)  # no list: a GPU waits for one
        return self(photo, turns % (len(self.styles) - self.first_style) + self.first_style)

    def _compare(
        self, image: Tensor, photo: Tensor, trained: list[int] | None, view: View | None = None
    ) -> dict[str, Tensor]:
        terms = self.loss(image, photo, trained, view)
        if weight := self.hparams["stability_weight"]:
            draws = self.noise(_MOTION, *image.shape).to(photo)
            terms["stability"] = instability(
                partial(self._paint, trained=trained), photo.expand_as(image), image, draws
            )
            terms["loss"] = terms["loss"] + weight * terms["stability"]
        return terms

    def _noise(self, image: Tensor, corner: tuple[int, int]) -> Tensor:
        if self.training:
            return self.noise(_NOISE, *image.shape).to(image)
        return noise_at(self.seed, corner, (image.shape[2], image.shape[3]))[None].to(image)

    def _view(self) -> View | None:
        jitter = self.hparams["jitter"]
        keyed = generator(self.seed, self.global_rank, self.global_step, _VIEW)
        return View.random(jitter, keyed) if jitter else None
