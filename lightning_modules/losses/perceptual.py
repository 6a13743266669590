"""Perceptual losses: how far an image is from a photo's content and from a picture's style."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.losses.view import View
from norms.errors import SettingError, check_range, unknown

LossScaling = Literal["relative", "published"]
Features = Mapping[str, Tensor]
Layers = Collection[str] | Mapping[str, float]
"""Names of layers, or the factor of each layer's error."""


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
    """Average ``(value - target) ** 2`` over all entries; ``target`` broadcasts over the batch."""
    value, target = _precise(value), _precise(target)
    return F.mse_loss(value, target.expand_as(value))


def relative_error(value: Tensor, target: Tensor) -> Tensor:
    """Return ``||value - target||^2 / ||target||^2``: 0 for equality, 1 for a value of 0, whatever the scale of both.

    ``target`` broadcasts over the batch. A target of zeros (a dead layer) gives 0 for a value of zeros.
    """
    target = _precise(target)
    power = target.square().mean()
    return squared_error(value, target) / power.clamp_min(torch.finfo(power.dtype).tiny)


def total_variation(image: Tensor) -> Tensor:
    """Add the mean squared differences of horizontal and of vertical neighbors; 0 for a constant image.

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
    """Say how the error of a layer is measured, how layers are combined, and the weights that suit this."""

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


class Term(nn.Module, ABC):
    """Define a term of a perceptual loss: a subclass sets ``name`` and writes :meth:`forward`.

    Args:
        weight: Factor of the term in the loss, at least 0.
        layers: Layers of the loss network that the term looks at.

    Raises:
        SettingError: If the weight is out of range.
    """

    name: ClassVar[str] = ""
    """What logs call the term."""

    compares_photo: bool = False
    """Whether the term wants the photo's activations as well, for which the loss network runs once more."""

    def __init__(self, weight: float = 1.0, layers: Collection[str] = ()) -> None:
        super().__init__()
        check_range(f"{self.name}_weight", weight, at_least=0, below=math.inf)
        self.weight, self.layers = weight, tuple(layers)

    def set_style(self, style: Features | None) -> None:
        """Keep what the term needs of the style picture's activations, as buffers outside the ``state_dict``.

        None stands for each photo's own style.
        """

    @abstractmethod
    def forward(self, image: Tensor, found: Features, wanted: Features) -> Tensor:
        """Compute the term before weighting.

        Args:
            image: (B, 3, H, W), values in [0, 1].
            found: The image's activations, in the term's layers at least.
            wanted: The photo's activations, likewise, if ``compares_photo`` is set.

        Returns:
            A scalar, averaged over the batch.
        """


class LayerTerm(Term):
    """Define a term that compares layers one by one, by the error and the reduction of a scaling.

    Args:
        weight: Factor of the term in the loss, at least 0.
        layers: Layers of the loss network, at least one, perhaps with a factor for each one's error.
        scaling: ``relative`` or ``published``, see :func:`usual_terms`.

    Raises:
        SettingError: If a weight is out of range, there are no layers or no such scaling.
    """

    def __init__(self, weight: float, layers: Layers, scaling: LossScaling = "relative") -> None:
        super().__init__(weight, layers)
        if not layers:
            raise SettingError(f"{self.name}_layers must name a layer of the loss network")
        self.scaling = find_scaling(scaling)
        self.factors = list(layers.values()) if isinstance(layers, Mapping) else [1.0] * len(layers)
        for layer, factor in zip(layers, self.factors, strict=True):
            check_range(f"the factor of {layer} in {self.name}_layers", factor, at_least=0, below=math.inf)
        if not any(self.factors):
            raise SettingError(
                f"{self.name}_layers: no layer has a factor above 0; model.{self.name}_weight 0 does that"
            )

    def _error(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        errors = [f * self.scaling.error(*pair) for f, pair in zip(self.factors, pairs, strict=True)]
        return self.scaling.reduce(torch.stack(errors))


class Content(LayerTerm):
    """Compare activations with the photo's."""

    name, compares_photo = "content", True

    def forward(self, image: Tensor, found: Features, wanted: Features) -> Tensor:
        """Compute the error of the activations."""
        return self._error([(found[layer], wanted[layer]) for layer in self.layers])


class Style(LayerTerm):
    """Compare Gram matrices with the style picture's."""

    name = "style"

    def set_style(self, style: Features | None) -> None:
        """Compute the style picture's Gram matrices, once for all."""
        self.compares_photo = style is None
        for index, layer in enumerate(self.layers):
            gram = None if style is None else gram_matrix(style[layer])
            self.register_buffer(f"gram{index}", gram, persistent=False)

    def forward(self, image: Tensor, found: Features, wanted: Features) -> Tensor:
        """Compute the error of the Gram matrices."""
        targets = [
            gram_matrix(wanted[layer]) if self.compares_photo else self.get_buffer(f"gram{index}")
            for index, layer in enumerate(self.layers)
        ]
        return self._error([(gram_matrix(found[layer]), t) for layer, t in zip(self.layers, targets, strict=True)])


class TotalVariation(Term):
    """Measure how rough an image is."""

    name = "tv"

    def forward(self, image: Tensor, found: Features, wanted: Features) -> Tensor:
        """Compute :func:`total_variation`."""
        return total_variation(image)


class PerceptualLoss(nn.Module):
    r"""Add terms, each with its weight: the content, the style, the total variation, and any further :class:`Term`.

    With ``phi`` the activations of the loss network and ``G`` their Gram matrix, for an image ``y``, the photo ``x`` it
    was made from and the style picture ``s``, the terms of :func:`usual_terms` make

    .. math::
        w_c\, R_l\, e(\phi_l(y), \phi_l(x)) + w_s\, R_l\, e(G_l(y), G_l(s)) + w_t\, TV(y)

    A layer named ``relu2_2@2`` has the activations of ``relu2_2`` for images of half the size, in which the network
    sees shapes twice as large; likewise for any other number.

    Nothing of the loss is part of the ``state_dict``.

    Args:
        network: The loss network, such as a :class:`LossNetwork`.
        terms: What to add, in this order.

    Raises:
        SettingError: If terms share a name or have none, or a layer's number is below 1.
    """

    def __init__(self, network: nn.Module, terms: Sequence[Term]) -> None:
        super().__init__()
        check_names(terms)
        self.network = network
        self.weights = {term.name: term.weight for term in terms}
        # A copy of the terms for each style.
        self.terms = nn.ModuleList([nn.ModuleDict({term.name: term for term in terms})])
        self.layers = {layer for term in terms for layer in term.layers}
        for layer in self.layers:
            split_layer(layer)

    @torch.no_grad()
    def set_style(self, *pictures: Tensor | None) -> None:
        """Compute what the terms compare with.

        Args:
            pictures: The style pictures, each (1, 3, H, W), values in [0, 1]; None for the photo's own style.
        """
        self.terms = nn.ModuleList([self.terms[0], *(deepcopy(self.terms[0]) for _ in pictures[1:])])
        for terms, picture in zip(self.terms, pictures, strict=True):
            features = None if picture is None else self._activations(picture, self.layers)
            for term in cast(nn.ModuleDict, terms).values():
                cast(Term, term).set_style(features)

    def forward(
        self, image: Tensor, photo: Tensor, styles: Sequence[int] | None = None, view: View | None = None
    ) -> dict[str, Tensor]:
        """Compare images with the photos they were made from and with the styles of :meth:`set_style`.

        Args:
            image: (B, 3, H, W), values in [0, 1].
            photo: (B, 3, H, W), values in [0, 1].
            styles: Index of each image's style; None for the first of all.
            view: What the loss network is shown of both; None for all.

        Returns:
            Scalars, averaged over the batch: ``loss``, the weighted sum, and each term before weighting, by name.
        """
        found = self._activations(view(image) if view else image, self.layers)
        with torch.no_grad():
            wanted = self._activations(view(photo) if view else photo, self._photo_layers())
        values = dict.fromkeys(self.weights, image.new_zeros(()))
        for style, members in _members(styles).items():
            parts = [{layer: x[members] for layer, x in features.items()} for features in (found, wanted)]
            mine = image[members]
            for name, term in cast(nn.ModuleDict, self.terms[style]).items():
                values[name] = values[name] + len(mine) / len(image) * term(mine, *parts)
        weighted = [self.weights[name] * value for name, value in values.items()]
        return {"loss": sum(weighted, image.new_zeros(())), **values}

    def _photo_layers(self) -> set[str]:
        terms = [cast(Term, term) for terms in self.terms for term in cast(nn.ModuleDict, terms).values()]
        return {layer for term in terms if term.compares_photo for layer in term.layers}

    def _activations(self, image: Tensor, layers: Collection[str]) -> Features:
        found: dict[str, Tensor] = {}
        for factor in sorted({split_layer(layer)[1] for layer in layers}):
            names = {layer: split_layer(layer)[0] for layer in layers if split_layer(layer)[1] == factor}
            seen = View(1 / factor, 0, 0)(image) if factor > 1 else image
            activations = self.network(seen, set(names.values()))
            found |= {layer: activations[name] for layer, name in names.items()}
        return found


def check_names(terms: Sequence[Term]) -> None:
    """Refuse terms that logs could not tell apart.

    Raises:
        SettingError: If terms share a name or have none.
    """
    names = [term.name for term in terms]
    if len({"", "loss", *names}) != len(names) + 2:
        raise SettingError(f"the terms of a loss need different names other than loss, got {', '.join(names)}")


def split_layer(layer: str) -> tuple[str, float]:
    """Split a layer's name such as ``relu2_2@2`` into the network's name and the factor by which images are smaller.

    Raises:
        SettingError: If the factor is no number of at least 1.
    """
    name, at, text = layer.partition("@")
    try:
        factor = float(text) if at else 1.0
    except ValueError:
        factor = math.nan
    if not 1 <= factor < math.inf:
        raise SettingError(
            f"expected a number of at least 1 after @, by which images are smaller, as in relu2_2@2, got {layer}"
        )
    return name, factor


def _members(styles: Sequence[int] | None) -> dict[int, Any]:
    """Return which images are of which style; a slice if they are evenly spaced, which no GPU has to wait for."""
    if styles is None:
        return {0: slice(None)}
    members = {style: [i for i, other in enumerate(styles) if other == style] for style in sorted(set(styles))}
    return {style: _as_slice(places) for style, places in members.items()}


def _as_slice(places: list[int]) -> slice | list[int]:
    step = places[1] - places[0] if len(places) > 1 else 1
    found = slice(places[0], places[-1] + 1, step)
    return found if places == list(range(found.start, found.stop, step)) else places


def find_scaling(name: str) -> Scaling:
    """Look up how errors are measured.

    Raises:
        SettingError: If there is no scaling of this name.
    """
    if name not in SCALINGS:
        raise unknown("loss_scaling", name, SCALINGS)
    return SCALINGS[name]


def usual_terms(
    content_layers: Layers,
    style_layers: Layers,
    scaling: LossScaling = "relative",
    content_weight: float | None = None,
    style_weight: float | None = None,
    tv_weight: float | None = None,
) -> list[Term]:
    """Make the terms of Johnson et al. 2016: content, style and total variation.

    ``relative`` scaling takes :func:`relative_error` and the mean over layers. Every term is then a share of its
    target, so the same weights serve any style, loss network and choice of layers, and its values can be compared
    between them. ``published`` takes :func:`squared_error` and the sum, as Johnson et al. 2016 and most code since; its
    terms scale with the fourth power of the activations, and its weights have to be found anew for each loss network
    and often for each style.

    Args:
        content_layers: Layers of the loss network that must keep the photo's activations, perhaps with a factor each.
        style_layers: Layers of it that must have the style picture's Gram matrices, likewise.
        scaling: ``relative`` or ``published``.
        content_weight: At least 0; None for what suits the scaling: 1, published 1e5.
        style_weight: At least 0; None for what suits the scaling: 5, published 1e10.
        tv_weight: At least 0; None for what suits the scaling: 1, published 0.

    Raises:
        SettingError: If the scaling does not exist, a weight is out of range or there are no layers.
    """
    usual = find_scaling(scaling)
    return [
        Content(usual.content_weight if content_weight is None else content_weight, content_layers, scaling),
        Style(usual.style_weight if style_weight is None else style_weight, style_layers, scaling),
        TotalVariation(usual.tv_weight if tv_weight is None else tv_weight),
    ]
