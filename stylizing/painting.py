"""One photo of any size painted by a network, with strokes that are as broad as the picture is large."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.colors import match_covariance, match_histograms
from data.images import to_tensor
from lightning_modules.networks.transformer import Style
from lightning_modules.painter import Painter
from stylizing.masks import Region, blend
from stylizing.tiles import paint_seen
from training.images import to_picture

Colors = Literal["painted", "luma", "histogram", "covariance"]

LUMA = (0.299, 0.587, 0.114)
"""Share of each color in the brightness, ITU-R BT.601."""

STRIP = 2**18
"""How many pixels of a large picture are worked on at once, in whole rows."""

RADIUS = 3
"""Half the side, in pixels that the network sees, of the squares in which photo and painting are compared."""

FLATNESS = 1e-3
"""Variance of a square's brightness below which it counts as flat, without detail."""


Filter = Callable[[Tensor, Tensor], Tensor]
"""Takes what the network saw and what it has painted, both (3, H, W), and returns what it shall have painted."""


class Manner(NamedTuple):
    """Say how photos are painted."""

    style: Style = 0
    """Which of several styles: an index, or shares."""
    stroke_size: float = 1.0
    """How broad strokes are, relative to those at which photos look as in training."""
    strength: float = 1.0
    """Share of the painting in the result, the rest being the photo; in [0, 1]."""
    colors: Colors = "painted"
    """Whose colors the result has: those that the network paints; those of the photo, with the painting's brightness;
    or painted ones with the photo's histogram, or mean and covariance."""
    regions: Sequence[Region] = ()
    """Where other styles are painted in; of regions that overlap the last one is seen."""


AS_TRAINED = Manner()


def paint(
    model: Painter,
    photo: Image.Image,
    manner: Manner = AS_TRAINED,
    advance: Callable[[float], None] = lambda share: None,
    in_place: bool = False,
    steady: Filter | None = None,
) -> Image.Image:
    """Paint a photo.

    The network sees it at ``model.photo_size / stroke_size`` pixels on its longer side. What it paints is scaled to the
    photo's size. Then the detail that the scaled photo had lost comes back where the painting follows the photo, by the
    slope of the local line between both (He et al., Guided Image Filtering, TPAMI 2013, section 3.1).

    Args:
        model: A trained model in evaluation mode.
        photo: RGB, of any size.
        manner: How.
        advance: Called with the share of the network's work that is done, in (0, 1].
        in_place: Whether the result takes the place of the photo, so that a large one is in memory once.
        steady: What becomes of a painting, given what the network saw, before it is scaled up.

    Returns:
        RGB, of the same size.

    Raises:
        MaskError: If a region has another shape than the photo.
        SettingError: If the network cannot paint large pictures, see :func:`stylizing.tiles.paint_seen`.
    """
    for region in manner.regions:
        region.check(photo.size)
    seen = _scaled(photo, model.hparams["photo_size"] / manner.stroke_size)
    painted = _paint_seen(model, seen, manner, advance)
    manner = manner._replace(strength=model.weakened(manner.style, manner.strength)[1])
    if steady is not None:
        painted = to_picture(steady(to_tensor(seen), to_tensor(painted)))
    result = photo if in_place else Image.new("RGB", photo.size)
    detailed, rows = max(seen.size) < max(photo.size), max(1, STRIP // photo.width)
    for top in range(0, photo.height, rows):
        box = (0, top, photo.width, min(top + rows, photo.height))
        parts = _enlarged(seen, painted, photo.size, box)
        result.paste(_finish(photo.crop(box), parts, detailed, manner), box)
    return result


def with_colors_of(photo: Tensor, stylized: Tensor) -> Tensor:
    """Give the brightness of one image to the colors of another.

    The same amount is added to red, green and blue of each pixel, which changes the luma and keeps both chroma
    components of YCbCr.

    Source:
        Gatys et al., Preserving Color in Neural Artistic Style Transfer, 2016, section 2.2, arXiv 1606.05897.

    Shape:
        (3, H, W), (3, H, W), values in [0, 1] -> (3, H, W), values in [0, 1]
    """
    return (photo + _luma(stylized - photo)).clamp(0, 1)


def _scaled(photo: Image.Image, longer: float) -> Image.Image:
    scale = longer / max(photo.size)
    size = [max(1, round(side * scale)) for side in photo.size]
    return photo.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=4.0)


def _slope(photo: Tensor, painted: Tensor) -> Tensor:
    """Return the slope of the line that leads from the photo's brightness to the painting's around each pixel.

    Shape:
        (3, H, W), (3, H, W) -> (H, W), values in [-1, 1]
    """
    x, y = _luma(photo), _luma(painted)

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, 2 * RADIUS + 1, 1, RADIUS, count_include_pad=False)

    covariance = mean(x * y) - mean(x) * mean(y)
    variance = mean(x * x) - mean(x) ** 2
    return (covariance / (variance.clamp_min(0) + FLATNESS)).clamp(-1, 1)[0]


def _paint_seen(model: Painter, seen: Image.Image, manner: Manner, advance: Callable[[float], None]) -> Image.Image:
    """Paint what the network sees, in all styles and with the colors that are wanted."""
    styles = [
        model.weakened(style, manner.strength)[0] for style in (manner.style, *(each.style for each in manner.regions))
    ]

    def paint_in(number: int, style: Style) -> Image.Image:
        return paint_seen(model, seen, style, lambda share: advance((number + share) / len(styles)))

    first, *others = (paint_in(number, style) for number, style in enumerate(styles))
    painted = blend(first, zip(manner.regions, others, strict=True))
    if manner.colors == "histogram":
        return match_histograms(painted, seen)
    return match_covariance(painted, seen) if manner.colors == "covariance" else painted


def _enlarged(
    seen: Image.Image, painted: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]
) -> list[Image.Image]:
    """Return a strip of what was seen, of what was painted and of the slope between both, enlarged to a photo's size.

    Args:
        seen: What the network saw.
        painted: What it made of that.
        size: Width and height of the photo.
        box: The strip: left, top, right and bottom in the photo.
    """
    left, top, right, bottom = box
    across, down = seen.width / size[0], seen.height / size[1]
    # Interpolation and slope look at what is around.
    around = RADIUS + 1 + math.ceil(2 * max(1, down))
    first, last = max(0, math.floor(top * down) - around), min(seen.height, math.ceil(bottom * down) + around)
    near = [image.crop((0, first, seen.width, last)) for image in (seen, painted)]
    slope = Image.fromarray(_slope(*map(to_tensor, near)).numpy())
    part = (left * across, top * down - first, right * across, bottom * down - first)
    return [_resized(image, (right - left, bottom - top), part) for image in (*near, slope)]


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, ...]) -> Image.Image:
    # What is interpolated by cubes overshoots.
    smooth = Image.Resampling.BILINEAR if image.mode == "F" else Image.Resampling.BICUBIC
    # Rounding may leave the picture.
    left, top, right, bottom = box[0], max(0.0, box[1]), min(box[2], image.width), min(box[3], image.height)
    # Sideways first, whatever Pillow would choose, so that strips are scaled as the whole would be.
    wide = image.resize((size[0], image.height), smooth, box=cast(Any, (left, 0, right, image.height)))
    return wide.resize(size, smooth, box=cast(Any, (0, top, size[0], bottom)))


def _finish(photo: Image.Image, parts: Sequence[Image.Image], detailed: bool, manner: Manner) -> Image.Image:
    """Make a strip of the result from the photo there, and from what was seen, painted and measured, enlarged."""
    seen, painted, slope = parts
    original, result = to_tensor(photo), to_tensor(painted)
    if detailed:
        result = (result + _as_floats(slope) * _luma(original - to_tensor(seen))).clamp(0, 1)
    if manner.colors == "luma":
        result = with_colors_of(original, result)
    return to_picture(torch.lerp(original, result, manner.strength))


def _luma(image: Tensor) -> Tensor:
    return (image.new_tensor(LUMA)[:, None, None] * image).sum(dim=-3, keepdim=True)


def _as_floats(image: Image.Image) -> Tensor:
    """Return the values of an image of mode F."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.float32).view(image.height, image.width)
