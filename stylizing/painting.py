"""One photo of any size painted by a network, with strokes that are as broad as the picture is large."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.images import to_tensor
from lightning_modules.networks.transformer import Style
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError, check_range, unknown
from training.images import to_picture

LUMA = (0.299, 0.587, 0.114)
"""Share of each color in the brightness, ITU-R BT.601."""

STRIP = 256
"""How many rows of a large picture are worked on at once."""

RADIUS = 3
"""Half the side, in pixels that the network sees, of the squares in which photo and painting are compared."""

FLATNESS = 1e-3
"""Variance of a square's brightness below which it counts as flat, without detail."""


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


def paint(model: StyleTransfer, photo: Image.Image, manner: Manner = AS_TRAINED) -> Image.Image:
    """Paint a photo.

    The network sees it at ``model.photo_size / stroke_size`` pixels on its longer side. What it paints is scaled to the
    photo's size. Then the detail that the scaled photo had lost comes back where the painting follows the photo, by the
    slope of the local line between both (He et al., Guided Image Filtering, TPAMI 2013, section 3.1).

    Args:
        model: A trained model in evaluation mode.
        photo: RGB, of any size.
        manner: How.

    Returns:
        RGB, of the same size.
    """
    seen = _scaled(photo, model.hparams["photo_size"] / manner.stroke_size)
    with torch.inference_mode():
        small = to_tensor(seen)
        painted = model(small[None].to(model.device), manner.style)[0].cpu()
        slope = Image.fromarray(_slope(small, painted).numpy())
        result = Image.new("RGB", photo.size)
        for strip in _strips(photo.size):
            result.paste(_finish(photo.crop(strip), strip, photo.size, seen, to_picture(painted), slope, manner), strip)
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


def find_style(names: Sequence[str], chosen: Sequence[str]) -> Style:
    """Find the style that a command line asks for.

    Args:
        names: The network's styles.
        chosen: One name; or several as ``name=share``, whose shares sum to 1. None is the first style.

    Returns:
        An index, or shares.

    Raises:
        SettingError: If there is no such style, or the shares are none.
    """
    pairs = [choice.partition("=") for choice in chosen]
    for name, _, _ in pairs:
        if name not in names:
            raise unknown("style", name, names)
    if len(pairs) < 2 and all(not share or share == "1" for _, _, share in pairs):
        return names.index(pairs[0][0]) if pairs else 0
    shares = torch.zeros(len(names))
    for name, _, text in pairs:
        try:
            shares[names.index(name)] += float(text)
        except ValueError:
            raise SettingError(f"--style {name}: several styles have shares, as in --style {name}=0.5") from None
    check_range("the smallest share of a style", float(shares.min()), at_least=0)
    if not abs(float(shares.sum()) - 1) < 1e-3:
        raise SettingError(f"the shares of the styles must sum to 1, got {float(shares.sum()):g}")
    return shares


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


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, size[1], STRIP):
        yield 0, top, size[0], min(top + STRIP, size[1])


def _finish(
    part: Image.Image,
    place: tuple[int, int, int, int],
    size: tuple[int, int],
    seen: Image.Image,
    painted: Image.Image,
    slope: Image.Image,
    manner: Manner,
) -> Image.Image:
    """Make a strip of the result from the photo's part there and the small pictures of all."""
    across, down = (small / large for small, large in zip(seen.size, size, strict=True))
    box = (place[0] * across, place[1] * down, place[2] * across, place[3] * down)

    def enlarged(small: Image.Image, filter: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
        return small.resize(part.size, filter, box=box)

    photo, result = to_tensor(part), to_tensor(enlarged(painted))
    if max(across, down) < 1:
        detail = _luma(photo - to_tensor(enlarged(seen)))
        result = (result + _as_floats(enlarged(slope, Image.Resampling.BILINEAR)) * detail).clamp(0, 1)
    if manner.keep_colors:
        result = with_colors_of(photo, result)
    return to_picture(torch.lerp(photo, result, manner.strength))


def _luma(image: Tensor) -> Tensor:
    return (image.new_tensor(LUMA)[:, None, None] * image).sum(dim=-3, keepdim=True)


def _as_floats(image: Image.Image) -> Tensor:
    """Return the values of an image of mode F."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.float32).view(image.height, image.width)
