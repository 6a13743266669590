"""Perceptual losses: how far an image is from a photo's content and from a picture's style."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.loss_network import LossNetwork
from norms.errors import SettingError

LossScaling = Literal["relative", "published"]


def gram_matrix(features: Tensor) -> Tensor:
    r"""Correlate the channels of a feature map, which forgets where things are and keeps their texture.

    .. math:: G_{ij} = \frac{1}{CHW} \sum_{hw} F_{ihw} F_{jhw}

    At least float32 is used even under autocast: sums of thousands of squares leave the range of float16 and the
    precision of bfloat16.

    Source: Gatys et al. 2016; divided by CHW as in Johnson et al. 2016, section 3.1.

    Shape:
        (B, C, H, W) -> (B, C, C)
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = _precise(features).flatten(2)
        return flat @ flat.mT / flat[0].numel()


def squared_error(value: Tensor, target: Tensor) -> Tensor:
    """Mean over all entries of ``(value - target) ** 2``; ``target`` broadcasts over the batch."""
    value, target = _precise(value), _precise(target)
    return F.mse_loss(value, target.expand_as(value))


def relative_error(value: Tensor, target: Tensor) -> Tensor:
    """``||value - target||^2 / ||target||^2``: 0 for equality, 1 for a value of 0, whatever the scale of both.

    ``target`` broadcasts over the batch. A target of zeros (a dead layer) gives 0 for a value of zeros.
    """
    target = _precise(target)
    power = target.square().mean()
    return squared_error(value, target) / power.clamp_min(torch.finfo(power.dtype).tiny)


def total_variation(image: Tensor) -> Tensor:
    """Mean squared difference of horizontal neighbors plus that of vertical ones; 0 for a constant image.

    Source: Mahendran and Vedaldi, "Understanding Deep Image Representations by Inverting Them", 2015, section 3 (with
    exponent 2).

    Shape:
        (B, C, H, W) with H and W of at least 2 -> ()
    """
    image = _precise(image)
    return image.diff(dim=-1).square().mean() + image.diff(dim=-2).square().mean()


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Scaling(NamedTuple):
    """How the error of a layer is measured, how layers are combined, and the weights that suit this."""

    error: Callable[[Tensor, Tensor], Tensor]
    reduce: Callable[[Tensor], Tensor]
    content_weight: float
    style_weight: float
    tv_weight: float


SCALINGS: Mapping[str, Scaling] = {
    "relative": Scaling(relative_error, torch.mean, content_weight=1.0, style_weight=5.0, tv_weight=1.0),
    # The weights of the fast_neural_style example of github.com/pytorch/examples, which are made for vgg16.
    "published": Scaling(squared_error, torch.sum, content_weight=1e5, style_weight=1e10, tv_weight=0.0),
}


class PerceptualTerms(NamedTuple):
    """The weighted sum that is trained on, and its terms before weighting."""

    loss: Tensor
    content: Tensor
    style: Tensor
    tv: Tensor


class PerceptualLoss(nn.Module):
    r"""Weighted sum of content, style and total variation.

    With ``phi`` the activations of the loss network and ``G`` their Gram matrix, for an image ``y``, the photo ``x`` it
    was made from and the style picture ``s``:

    .. math::
        w_c\, R_l\, e(\phi_l(y), \phi_l(x)) + w_s\, R_l\, e(G_l(y), G_l(s)) + w_t\, TV(y)

    ``relative`` scaling takes :func:`relative_error` for ``e`` and the mean over layers for ``R``. Every term is then a
    share of its target, so the same weights serve any style, loss network and choice of layers, and its values can be
    compared between them. ``published`` takes :func:`squared_error` and the sum, as Johnson et al. 2016 and most code
    since; its terms scale with the fourth power of the activations, and its weights have to be found anew for each loss
    network and often for each style.

    The style's Gram matrices are computed once, by :meth:`set_style`, and are not part of the ``state_dict``.

    Args:
        network: The loss network.
        content_layers: Layers of it that must keep the photo's activations.
        style_layers: Layers of it that must have the style picture's Gram matrices.
        scaling: ``relative`` or ``published``.
        content_weight: At least 0; None for what suits the scaling: 1, published 1e5.
        style_weight: At least 0; None for what suits the scaling: 5, published 1e10.
        tv_weight: At least 0; None for what suits the scaling: 1, published 0.

    Raises:
        SettingError: If the scaling does not exist or a weight is negative.
    """

    def __init__(
        self,
        network: LossNetwork,
        content_layers: Collection[str],
        style_layers: Collection[str],
        scaling: LossScaling = "relative",
        content_weight: float | None = None,
        style_weight: float | None = None,
        tv_weight: float | None = None,
    ) -> None:
        super().__init__()
        if scaling not in SCALINGS:
            raise SettingError(f"no loss_scaling '{scaling}', there are {', '.join(SCALINGS)}")
        self.network = network
        self.content_layers, self.style_layers = tuple(content_layers), tuple(style_layers)
        self.scaling = SCALINGS[scaling]
        self.content_weight = _weight("content_weight", content_weight, self.scaling.content_weight)
        self.style_weight = _weight("style_weight", style_weight, self.scaling.style_weight)
        self.tv_weight = _weight("tv_weight", tv_weight, self.scaling.tv_weight)

    @torch.no_grad()
    def set_style(self, style: Tensor) -> None:
        """Compute what the style layers are compared with.

        Args:
            style: The style picture, (1, 3, H, W), values in [0, 1].
        """
        for layer, features in self.network(style, self.style_layers).items():
            self.register_buffer(f"gram_{layer}", gram_matrix(features), persistent=False)

    def forward(self, image: Tensor, photo: Tensor) -> PerceptualTerms:
        """Compare images with the photos they were made from and with the style of :meth:`set_style`.

        Args:
            image: (B, 3, H, W), values in [0, 1].
            photo: (B, 3, H, W), values in [0, 1].

        Returns:
            Scalars, averaged over the batch.
        """
        found = self.network(image, {*self.content_layers, *self.style_layers})
        with torch.no_grad():
            wanted = self.network(photo, self.content_layers)
        error, reduce = self.scaling.error, self.scaling.reduce
        content = reduce(torch.stack([error(found[layer], wanted[layer]) for layer in self.content_layers]))
        grams = [(gram_matrix(found[layer]), self.get_buffer(f"gram_{layer}")) for layer in self.style_layers]
        style = reduce(torch.stack([error(gram, target) for gram, target in grams]))
        tv = total_variation(image)
        loss = self.content_weight * content + self.style_weight * style + self.tv_weight * tv
        return PerceptualTerms(loss, content, style, tv)


def _weight(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not value >= 0:
        raise SettingError(f"{name} must be at least 0, got {value}")
    return value
