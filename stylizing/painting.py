"""One photo of any size painted by a network, with strokes that are as broad as the picture is large."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.images import to_tensor
from lightning_modules.networks.transformer import Style
from lightning_modules.painter import Painter
from training.images import to_picture

LUMA = (0.299, 0.587, 0.114)
"""Share of each color in the brightness, ITU-R BT.601."""

STRIP = 256
"""How many rows of a large picture are worked on at once."""

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
    keep_colors: bool = False
    """Whether to take only the brightness from the painting, and the colors from the photo."""


AS_TRAINED = Manner()


def paint(model: Painter, photo: Image.Image, manner: Manner = AS_TRAINED, steady: Filter | None = None) -> Image.Image:
    """Paint a photo.

    The network sees it at ``model.photo_size / stroke_size`` pixels on its longer side. What it paints is scaled to the
    photo's size. Then the detail that the scaled photo had lost comes back where the painting follows the photo, by the
    slope of the local line between both (He et al., Guided Image Filtering, TPAMI 2013, section 3.1).

    Args:
        model: A trained model in evaluation mode.
        photo: RGB, of any size.
        manner: How.
        steady: What becomes of a painting, given what the network saw, before it is scaled up.

    Returns:
        RGB, of the same size.
    """
    seen = _scaled(photo, model.hparams["photo_size"] / manner.stroke_size)
    with torch.inference_mode():
        small = to_tensor(seen)
        style = manner.style.to(model.device) if isinstance(manner.style, Tensor) else manner.style
        painted = model(small[None].to(model.device), style)[0].cpu()
        if steady is not None:
            painted = steady(small, painted)
        slope = Image.fromarray(_slope(small, painted).numpy())
        # Sideways first: strips are then scaled as the whole would be.
        wide = [_resized(image, (photo.width, seen.height)) for image in (seen, to_picture(painted), slope)]
        result = Image.new("RGB", photo.size)
        for top in range(0, photo.height, STRIP):
            box = (0, top, photo.width, min(top + STRIP, photo.height))
            parts = [_rows(image, box, photo.height) for image in wide]
            result.paste(_finish(photo.crop(box), parts, max(seen.size) < max(photo.size), manner), box)
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


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, ...] | None = None) -> Image.Image:
    # What is interpolated by cubes overshoots.
    smooth = Image.Resampling.BILINEAR if image.mode == "F" else Image.Resampling.BICUBIC
    return image.resize(size, smooth, box=cast(Any, box))


def _rows(image: Image.Image, box: tuple[int, int, int, int], height: int) -> Image.Image:
    """Return the rows of a picture as high as ``height`` that lie in a box, of which ``image`` is a lower copy."""
    left, top, right, bottom = box
    scale = image.height / height
    return _resized(image, (right - left, bottom - top), (left, top * scale, right, bottom * scale))


def _finish(photo: Image.Image, parts: Sequence[Image.Image], detailed: bool, manner: Manner) -> Image.Image:
    """Make a strip of the result from the photo there, and from what was seen, painted and measured, enlarged."""
    seen, painted, slope = parts
    original, result = to_tensor(photo), to_tensor(painted)
    if detailed:
        result = (result + _as_floats(slope) * _luma(original - to_tensor(seen))).clamp(0, 1)
    if manner.keep_colors:
        result = with_colors_of(original, result)
    return to_picture(torch.lerp(original, result, manner.strength))


def _luma(image: Tensor) -> Tensor:
    return (image.new_tensor(LUMA)[:, None, None] * image).sum(dim=-3, keepdim=True)


def _as_floats(image: Image.Image) -> Tensor:
    """Return the values of an image of mode F."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.float32).view(image.height, image.width)
