"""Feed-forward style transfer in the style of any picture."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms.v2 import functional as tvf

from data import styles
from lightning_modules.base import class_path
from lightning_modules.classifier import warm_up_then_cosine
from lightning_modules.losses.perceptual import (
    Content,
    LossScaling,
    Term,
    TotalVariation,
    check_names,
    relative_error,
)
from lightning_modules.losses.settings import build_term
from lightning_modules.losses.statistics import MeanStd
from lightning_modules.networks.adaptive import AdaptiveNet
from lightning_modules.networks.transformer import Style
from lightning_modules.painter import Painter, draw_samples, split_shares
from norms.errors import SettingError, check_range, unknown

Schedule = Literal["constant", "cosine", "inverse"]

STYLE_LAYERS = {
    # Those that it was taught: in the first stage any fine grid can have the right deviation.
    "bundled": ("relu2_2", "relu3_2", "relu4_1"),
    "vgg16": ("relu1_1", "relu2_1", "relu3_1", "relu4_1"),
    "vgg19": ("relu1_1", "relu2_1", "relu3_1", "relu4_1"),
}
"""Layers in which styles are compared, unless the settings say others."""

WEIGHTS = {"relative": (1.0, 1.0, 0.0), "published": (1.0, 10.0, 0.0)}
"""Weights of content, style and total variation that suit a scaling."""

DECAY = 5e-5
"""By which the published learning rate falls: ``lr / (1 + DECAY * step)``."""

ROWS = 4
"""How many styles the sample grid shows at most."""


class AnyStyle(Painter):
    r"""Train a decoder that paints any photo in the style of any picture, which it need not have been trained on.

    A photo's features are given the mean and standard deviation of the picture's features, channel by channel, and the
    decoder paints the result, see :class:`AdaptiveNet`. The loss compares the features of what it paints with what it
    was given (content), and their means and standard deviations in several layers with the picture's (style):

    .. math::
        w_c\, e(f(g(t)), t) + w_s\, R_l \left( e(\mu(\phi_l(g(t))), \mu(\phi_l(s))) +
        e(\sigma(\phi_l(g(t))), \sigma(\phi_l(s))) \right)

    The checkpoint holds the encoder too, so that it is used where the loss network's file is not. It wants pairs of
    photos and pictures, see :class:`data.StyledPhotos`.

    Logged are the weighted loss and its terms before weighting, for the training batches and, in evaluation mode, for
    the validation photos, which are painted in the style of held-out pictures.

    Args:
        loss_network: ``bundled``, ``vgg16`` or ``vgg19``: the encoder, and what compares.
        weights: File with its weights; by default the bundled ones, or those that torchvision downloads.
        layer: The encoder's last layer; by default ``relu3_2`` of the bundled network and ``relu4_1`` of the others.
        style_layers: Layers in which styles are compared; by default those customary for the network.
        norm: The decoder's normalization, as :func:`norms.build` takes it; the published one has none.
        norm_options: Further arguments of that layer.
        loss_scaling: ``relative`` or ``published``, see :func:`usual_terms`.
        content_weight: Weight of the content loss; by default 1.
        style_weight: Weight of the style loss; by default what suits the scaling. Raise it for more style.
        tv_weight: Weight of the total variation; by default 0, as published.
        identity_weight: Weight of a further loss, the relative error of style pictures that are painted in their own
            style, pixel by pixel. Not published with this network; it teaches the decoder colors in far fewer steps
            (Park and Lee, Arbitrary Style Transfer with Style-Attentional Networks, CVPR 2019, equation 8). 0 is none.
        terms: Further terms of the loss, each a ``class_path`` of a :class:`Term` with ``init_args``.
        lr: Adam's learning rate, the highest if it has a schedule.
        schedule: ``constant``; ``cosine``: a rise over a twentieth of ``trainer.max_steps``, then a half cosine down to
            0; or ``inverse``, as published: ``lr / (1 + 5e-5 step)``.
        photo_size: How many pixels a photo has on its longer side where ``stylize.py`` shows it to the network.
        style_size: Likewise a style picture; the larger, the broader the strokes.
        channels_last: Whether the network keeps the channels of a pixel together in memory.
        rho_lr_multiplier: The learning rate of Batch-Instance Normalization's rho, as a multiple of ``lr``.
        seed: Key of everything random in the module.

    Raises:
        SettingError: If the network cannot have this shape.
        ValueError: If the norm does not exist or does not take the options.

    Source:
        Huang and Belongie, Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization, ICCV 2017,
        arXiv 1703.06868.
    """

    def __init__(
        self,
        loss_network: str = "bundled",
        weights: str | None = None,
        layer: str | None = None,
        style_layers: list[str] | None = None,
        norm: str | Callable[..., nn.Module] = "none",
        norm_options: dict[str, Any] | None = None,
        loss_scaling: LossScaling = "relative",
        content_weight: float | None = None,
        style_weight: float | None = None,
        tv_weight: float | None = None,
        identity_weight: float = 0.0,
        terms: list[dict[str, Any]] | None = None,
        lr: float = 1e-3,
        schedule: Schedule = "constant",
        photo_size: int = 512,
        style_size: int = 512,
        channels_last: bool = False,
        rho_lr_multiplier: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        norm = class_path(norm)
        self.save_hyperparameters()
        check_range("lr", lr, at_least=0, below=math.inf)
        for name, size in (("photo_size", photo_size), ("style_size", style_size)):
            check_range(name, size, at_least=styles.SMALLEST_STYLE, at_most=styles.LARGEST_STYLE)
        check_range("identity_weight", identity_weight, at_least=0, below=math.inf)
        check_range("rho_lr_multiplier", rho_lr_multiplier, at_least=0, below=math.inf)
        if schedule not in get_args(Schedule):
            raise unknown("schedule", schedule, get_args(Schedule))
        if loss_scaling not in WEIGHTS:
            raise unknown("loss_scaling", loss_scaling, WEIGHTS)
        compared = tuple(style_layers or STYLE_LAYERS.get(loss_network, ()))
        given = (content_weight, style_weight, tv_weight)
        content, style, tv = (b if a is None else a for a, b in zip(given, WEIGHTS[loss_scaling], strict=True))
        further = [build_term(description) for description in terms or ()]
        layers = (*compared, *(each for term in further for each in term.layers))
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = AdaptiveNet(loss_network, layer, layers, norm, norm_options).to(memory_format=self.memory_format)
        own = [Content(content, [self.network.layer], loss_scaling), MeanStd(style, compared, loss_scaling)]
        all_terms = [*own, TotalVariation(tv), *further]
        check_names(all_terms)
        self.terms = nn.ModuleList(all_terms)

    distributed = ("network.decoder",)
    """What the strategy ``fsdp2`` distributes: what is trained."""

    takes_pictures = True
    sample_caption = "validation photos, and below them the same photos in held-out styles"

    @property
    def style_names(self) -> list[str]:
        """The names of the bundled pictures. Any other is found by its file."""
        return styles.names()

    @property
    def style_images(self) -> list[Tensor]:
        """The bundled pictures, as the network sees them."""
        return [styles.scaled_style(name, self.hparams["style_size"]) for name in self.style_names]

    def find_style(self, chosen: Sequence[str]) -> Style:
        """Measure style pictures, of which each is the name of a bundled one or the path of an image file.

        Returns:
            Mean and standard deviation of the picture's features, or of the mixture, shape (2, C).

        Raises:
            SettingError: If a picture cannot be had, or the shares are none.
        """
        pairs = split_shares(chosen or self.style_names[:1])
        return torch.stack([share * self._measure(name) for name, share in pairs]).sum(0)

    def weakened(self, style: Style, strength: float) -> tuple[Style, float]:
        """Keep a share of the photo's own statistics, as published: the alpha of :class:`AdaptiveNet`."""
        statistics = self._statistics(style)
        return torch.cat([statistics, torch.full_like(statistics[:1], strength)]), 1.0

    def forward(self, image: Tensor, style: Style = 0, alpha: float = 1.0) -> Tensor:
        """Paint photos.

        Args:
            image: (B, 3 or 1, H, W), values in [0, 1].
            style: Mean and standard deviation of a picture's features, (2, C), or of one for each photo, (B, 2, C), see
                :meth:`find_style`; or the index of a bundled picture. A third row is a share by which alpha is taken.
            alpha: How much of the style, from 0 to 1.

        Returns:
            (B, 3, H, W), values in [0, 1].
        """
        mean, deviation, *shares = self._statistics(style).to(image).unbind(-2)
        share: float | Tensor = alpha * shares[0][..., None, None] if shares else alpha
        return self.network(self._laid_out(image), (mean, deviation), share)

    def _statistics(self, style: Style) -> Tensor:
        return style if isinstance(style, Tensor) else self._measure(self.style_names[style])

    def next_command(self, run_dir: Path) -> str:
        """Return the command that paints a photo in the style of a picture."""
        return f"{super().next_command(run_dir)} --style my_picture.jpg"

    def check_data(self, data: Any) -> None:
        """Refuse data without style pictures.

        Raises:
            SettingError: If there are none.
        """
        if not getattr(data, "has_styles", False):
            raise SettingError(
                f"AnyStyle trains on pairs of photos and style pictures, which {type(data).__name__} does not have: "
                "take data.StyledPhotos"
            )

    def prepare_data(self) -> None:
        """Try the loss network, before anything of the run is written.

        Raises:
            SettingError: If it cannot be had.
        """
        self.network.read_encoder(self.hparams["weights"])

    def setup(self, stage: str) -> None:
        """Read the encoder, which a checkpoint replaces by its own."""
        if stage != "predict":
            self.network.read_encoder(self.hparams["weights"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Paint photos in the styles of pictures, and compare."""
        terms = self._compare(batch["image"], batch["style"])
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return terms["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Compare photos that are not trained on, in the styles of pictures that are not, likewise."""
        photo = batch["image"]
        terms = self._compare(photo, batch["style"])
        self.log_dict({f"val/{name}": value for name, value in terms.items()}, batch_size=len(photo))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Paint a batch, each photo in the style of its picture."""
        return self(batch["image"], self.network.measure(self._laid_out(batch["style"])))

    def configure_optimizers(self) -> Optimizer | OptimizerLRSchedulerConfig:
        """Build Adam and its schedule."""
        multipliers = {"rho": self.hparams["rho_lr_multiplier"]}
        optimizer = self.adam(self.network.decoder, self.hparams["lr"], lr_multipliers=multipliers)
        if self.hparams["schedule"] == "constant":
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule(optimizer), "interval": "step"}}

    def sample_grid(self) -> Tensor:
        """Draw validation photos, and below them what the network makes of them in held-out styles, a row for each."""
        photos = self._laid_out(self.sample_photos()).to(self.device)
        pictures = self._sample_styles().to(self.device)
        with self.evaluation():
            painted = [self(photos, style) for style in self.network.measure(pictures)]
        return draw_samples(photos, painted, list((255 * pictures).round().to(torch.uint8)))

    def _laid_out(self, image: Tensor) -> Tensor:
        return image.expand(-1, 3, -1, -1).contiguous(memory_format=self.memory_format)

    def _measure(self, style: str) -> Tensor:
        if style == styles.PHOTO:
            raise SettingError("a network of any style has no style 'photo': --strength keeps more of the photo")
        picture = styles.scaled_style(style, self.hparams["style_size"])
        pixels = tvf.to_dtype(picture[None], torch.float32, scale=True).to(self.device)
        with torch.no_grad():
            return self.network.measure(self._laid_out(pixels))[0]

    def _compare(self, photo: Tensor, picture: Tensor) -> dict[str, Tensor]:
        """Return the loss and its terms for photos in the styles of pictures, one for each."""
        network = self.network
        photo, picture = self._laid_out(photo), self._laid_out(picture)
        with torch.no_grad():
            style = network.encoder(picture, network.layers)
            target = network.target(photo, network.adain.statistics(style[network.layer]))
            for term in self._each_term():
                term.set_style(style)
        image = network.paint(target, photo.shape[-2:]).to(photo.dtype)
        found = network.encoder(image, network.layers)
        values = {}
        for term in self._each_term():
            wanted = {network.layer: target}
            if term.compares_photo and term is not self.terms[0]:
                with torch.no_grad():
                    wanted = network.encoder(photo, term.layers)
            values[term.name] = term(image, found, wanted)
        weighted = [term.weight * values[term.name] for term in self._each_term()]
        if weight := self.hparams["identity_weight"]:
            own = network.paint(style[network.layer], picture.shape[-2:])
            values["identity"] = relative_error(own, picture)
            weighted.append(weight * values["identity"])
        return {"loss": sum(weighted, image.new_zeros(())), **values}

    def _each_term(self) -> list[Term]:
        return [cast(Term, term) for term in self.terms]

    def _schedule(self, optimizer: Optimizer) -> LambdaLR:
        if self.hparams["schedule"] == "inverse":
            return LambdaLR(optimizer, lambda step: 1 / (1 + DECAY * step))
        return LambdaLR(optimizer, lambda step: warm_up_then_cosine(step, self.trainer.max_steps, warm_up=0.05))

    def _sample_styles(self) -> Tensor:
        """Return the different style pictures of the first validation batch, (S, 3, H, W), values in [0, 1]."""
        unique: list[Tensor] = []
        for picture in self.sample_batch()["style"]:
            if not any(torch.equal(picture, other) for other in unique):
                unique.append(picture)
        return torch.stack(unique[:ROWS])
