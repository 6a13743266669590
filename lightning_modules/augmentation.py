"""Augmentation of real and of generated images before the discriminator, through which the generator learns.

An augmentation is a module that is called with images in [-1, 1], shape (N, C, H, W), gray or RGB, and with a random
generator on their device. It returns images of the same shape, which may leave [-1, 1]. Each image has draws of its
own, and as many are drawn whatever comes of them. The discriminator must see real and generated images augmented alike.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from norms.errors import SettingError, check_range, check_types, unknown
from norms.imports import resolve_callable
from norms.precision import without_autocast

# Each kind of change takes images, shape (N, C, H, W), and uniform draws from [0, 1), shape (k, N, 1, 1, 1).


def _color(images: Tensor, draws: Tensor) -> Tensor:
    images = images + draws[0] - 0.5
    gray = images.mean(1, keepdim=True)
    images = gray + 2 * draws[1] * (images - gray)
    middle = images.mean((1, 2, 3), keepdim=True)
    return middle + (0.5 + draws[2]) * (images - middle)


def _translation(images: Tensor, draws: Tensor) -> Tensor:
    def moved(size: int, draw: Tensor) -> Tensor:
        farthest = int(size / 8 + 0.5)
        return _pixels(size, draw) - _whole(draw, 2 * farthest + 1) + farthest

    return _resampled(images, moved, draws)


def _cutout(images: Tensor, draws: Tensor) -> Tensor:
    def hit(size: int, draw: Tensor) -> Tensor:
        side = int(size / 2 + 0.5)
        # The square's middle lies anywhere in the image, and what sticks out is lost.
        place = _pixels(size, draw) - _whole(draw, size + 1 - side % 2) + side // 2
        return (place >= 0) & (place < side)

    height, width = images.shape[-2:]
    return images * ~(hit(height, draws[0]).mT & hit(width, draws[1]))


def _flip(images: Tensor, draws: Tensor) -> Tensor:
    return torch.where(draws[0] < 0.5, images.flip(-1), images)


def _rotate(images: Tensor, draws: Tensor) -> Tensor:
    turns = _whole(draws[0], 4)
    rotated = images
    for count in (1, 2, 3):
        rotated = torch.where(turns == count, images.rot90(count, (2, 3)), rotated)
    return rotated


def _scale(images: Tensor, draws: Tensor) -> Tensor:
    def scaled(size: int, draw: Tensor) -> Tensor:
        middle = (size - 1) / 2
        return _reflected(middle + (_pixels(size, draw) - middle) * 2 ** (-0.2 * _normal(draw)), size)

    return _resampled(images, scaled, draws.expand(2, -1, -1, -1, -1))


def _shift(images: Tensor, draws: Tensor) -> Tensor:
    def shifted(size: int, draw: Tensor) -> Tensor:
        return _reflected(_pixels(size, draw) - size / 8 * _normal(draw), size)

    return _resampled(images, shifted, draws)


def _whole(draw: Tensor, count: int) -> Tensor:
    """Return one of 0, ..., count - 1, each as likely."""
    return (count * draw).floor()


def _normal(draw: Tensor) -> Tensor:
    # A draw may be 0.
    return torch.special.ndtri(draw.clamp(min=1e-7))


def _pixels(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, dtype=like.dtype, device=like.device)


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Reflect positions at the outer edges of the first and the last pixel."""
    positions = (positions + 0.5).remainder(2 * size)
    return (torch.minimum(positions, 2 * size - positions) - 0.5).clamp(0, size - 1)


def _resampled(images: Tensor, positions: Callable[[int, Tensor], Tensor], draws: Tensor) -> Tensor:
    """Take each pixel from a row and a column of its image, by linear interpolation; beyond the edges all is 0.

    ``positions`` gives them for a size of the image and a draw for each image, shape (N, 1, 1, size). Products of
    matrices, unlike ``grid_sample``, have second derivatives, and gradients that are the same each time on a GPU.
    """
    rows, columns = (
        F.relu(1 - (positions(size, draw).mT - _pixels(size, images)).abs())
        for size, draw in zip(images.shape[-2:], draws, strict=True)
    )
    with without_autocast(images.device):
        return rows @ images @ columns.mT


KINDS: Mapping[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "color": (3, _color),
    "translation": (2, _translation),
    "cutout": (2, _cutout),
    "flip": (1, _flip),
    "rotate": (1, _rotate),
    "scale": (1, _scale),
    "shift": (2, _shift),
}
"""Every kind of change, and how many draws it takes for each image."""


def _check_kinds(kinds: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    if isinstance(kinds, str) or not kinds:
        raise SettingError(f"kinds must be a list of one or more of {', '.join(known)}, got {kinds!r}")
    for kind in kinds:
        if kind not in known:
            raise unknown("kind of augmentation", kind, known)
    return tuple(kinds)


def _draw(count: int, images: Tensor, generator: torch.Generator) -> Tensor:
    shape = (count, len(images), 1, 1, 1)
    return torch.rand(shape, generator=generator, device=images.device, dtype=torch.float32).to(images.dtype)


class DiffAugment(nn.Module):
    """Change every image at random.

    - ``color``: add b to all values, b in [-1/2, 1/2]; multiply the distance from each pixel's gray by s in [0, 2], and
      then that from the image's mean by c in [1/2, 3/2].
    - ``translation``: move by whole pixels, up to 1/8 of the size in either direction; what comes into view is 0.
    - ``cutout``: set a square of half the size to 0, with its middle anywhere in the image.

    All draws are uniform.

    Args:
        kinds: Which of them, in this order.

    Raises:
        SettingError: If there is no such kind.

    Source:
        Zhao et al. 2020 (arXiv 2006.10738), section 3.
    """

    def __init__(self, kinds: Sequence[str] = ("color", "translation", "cutout")) -> None:
        super().__init__()
        self.kinds = _check_kinds(kinds, ("color", "translation", "cutout"))

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the changed images."""
        for count, change in (KINDS[kind] for kind in self.kinds):
            images = change(images, _draw(count, images, generator))
        return images


class AdaptiveAugment(nn.Module):
    """Change images the more often the more the discriminator overfits.

    Each image undergoes each kind of change with ``probability`` (buffer, shape (), starts at 0), which
    :meth:`update_` moves. There are those of :class:`DiffAugment` and

    - ``flip``: mirror left and right, or not, as likely.
    - ``rotate``: turn by 0, 90, 180 or 270 degrees; for square images.
    - ``scale``: enlarge by 2^(n / 5) about the middle, n standard normal.
    - ``shift``: move by n / 8 of the size, horizontally and vertically.

    The last two interpolate linearly and reflect the image at its edges. Leave out ``flip`` and ``rotate`` for what has
    a right way round, such as text and digits.

    The source's changes of hue, other aspect ratios and angles, its smoother interpolation, and its normal draws for
    colors are left out.

    Args:
        target: Where the mean sign of the scores of real images shall be, in [0, 1).
        images: How many real images it takes for the probability to go from 0 to 1.
        highest: The greatest probability, in (0, 1]. Samples may look augmented beyond 0.8, says the source.
        kinds: Which kinds, in this order.

    Raises:
        SettingError: If there is no such kind, or an argument is outside its range.

    Source:
        Karras et al. 2020 (arXiv 2006.06676), sections 2.2, 2.3 and 3, and appendix B.
    """

    probability: Tensor

    def __init__(
        self,
        target: float = 0.6,
        images: float = 500_000,
        highest: float = 0.8,
        kinds: Sequence[str] = ("flip", "rotate", "translation", "scale", "shift", "color"),
    ) -> None:
        super().__init__()
        check_range("target", target, at_least=0, below=1)
        check_range("images", images, above=0, below=math.inf)
        check_range("highest", highest, above=0, at_most=1)
        self.target = target
        self.images = images
        self.highest = highest
        self.kinds = _check_kinds(kinds, tuple(KINDS))
        self.register_buffer("probability", torch.tensor(0.0))

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the images, some of them changed; with probability 0 they are the same bit for bit."""
        for count, change in (KINDS[kind] for kind in self.kinds):
            chosen, *draws = _draw(1 + count, images, generator)
            images = torch.where(chosen < self.probability, change(images, torch.stack(draws)), images)
        return images

    @torch.no_grad()
    def update_(self, sign_mean: Tensor, batch: int) -> None:
        """Move the probability by sign(sign_mean - target) * batch / images, within [0, highest].

        The mean says how much the discriminator overfits only if scores above 0 stand for real, as those of the hinge
        and the non-saturating loss do.

        Args:
            sign_mean: Mean sign of the discriminator's scores of augmented real images, in [-1, 1], shape (); over all
                processes, so that their probabilities stay equal.
            batch: How many real images have been scored since the last update, on all processes.
        """
        step = batch / self.images * torch.sign(sign_mean - self.target)
        self.probability.add_(step).clamp_(0, self.highest)


AUGMENTATIONS: Mapping[str, Callable[..., nn.Module] | None] = {
    "none": None,
    "diff": DiffAugment,
    "adaptive": AdaptiveAugment,
}


def build_augmentation(
    choice: str | Callable[..., nn.Module] | None, options: Mapping[str, Any] | None = None
) -> nn.Module | None:
    """Make an augmentation.

    Args:
        choice: A name in ``AUGMENTATIONS``, or the class path or class of another module; None is ``none``.
        options: Its arguments.

    Returns:
        The module, or None for ``none``.

    Raises:
        SettingError: If there is no such thing, or it does not take the options.
    """
    options = options or {}
    if choice is None or choice == "none":
        if options:
            raise SettingError(f"without augmentation there are no options for it, got {', '.join(options)}")
        return None
    found = resolve_callable("augmentation", choice, AUGMENTATIONS)
    try:
        signature = inspect.signature(found)
        signature.bind(**options)
    except (TypeError, ValueError) as error:
        raise SettingError(f"augmentation {choice!r} cannot be made: {error}") from error
    check_types(options, signature)
    augmentation = found(**options)
    if not isinstance(augmentation, nn.Module):
        raise SettingError(f"augmentation {choice!r} is no torch.nn.Module")
    try:
        inspect.signature(augmentation.forward).bind("images", "generator")
    except TypeError as error:
        raise SettingError(f"augmentation {choice!r} is not called with images and a generator: {error}") from error
    return augmentation
