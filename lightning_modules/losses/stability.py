"""How steadily a network paints: whether a picture that moves and is noisy is painted as the one that does not."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FARTHEST = 4.0
"""By how many pixels a picture is moved at most: the product of the network's strides."""

NOISE = 0.02
"""Standard deviation of the noise of a camera, for values in [0, 1]."""

MARGIN = 8
"""Width of the border in which paintings are not compared, since other things have come into the picture there."""


def instability(paint: Callable[[Tensor], Tensor], photo: Tensor, painted: Tensor, draws: Tensor) -> Tensor:
    r"""Compare the painting of a moved, noisy photo with the moved painting of the photo.

    .. math:: \mathrm{mean} (f(Mx + \sigma n) - M f(x))^2

    ``M`` moves by up to :data:`FARTHEST` pixels each way, by fractions too. It is the motion of a video that is known
    without estimating it. ``n`` is noise that no two frames share.

    Source:
        The noise is a trick for feed-forward networks that pull requests and blogs hand on. That a stylized frame shall
        be the one before, moved: Gupta et al., Characterizing and Improving Stability in Neural Style Transfer, ICCV
        2017, section 4.2, arXiv 1705.02092, with the motion of real videos there.

    Args:
        paint: The network.
        photo: What it has painted.
        painted: What it has painted of it.
        draws: Standard normal noise that decides on everything random.

    Shape:
        (B, 3, H, W) all three -> ()
    """
    shift = FARTHEST * torch.erf(draws.flatten()[:2] / 2**0.5)  # uniform
    noisy = moved(photo, shift) + NOISE * draws
    difference = paint(noisy) - moved(painted, shift)
    margin = min(MARGIN, (min(photo.shape[-2:]) - 1) // 2)
    return difference[..., margin : -margin or None, margin : -margin or None].float().square().mean()


def moved(images: Tensor, shift: Tensor) -> Tensor:
    """Move images by fractions of pixels, by cubic interpolation; what comes into view is a reflection.

    Args:
        images: The images.
        shift: By how many pixels to the right and down, on their device.

    Shape:
        (B, C, H, W), (2,) -> (B, C, H, W)
    """
    height, width = images.shape[-2:]
    offset = -2 * torch.stack([shift[0] / width, shift[1] / height])[:, None]
    map = torch.cat([torch.eye(2, dtype=offset.dtype, device=offset.device), offset], dim=1).to(images.dtype)
    grid = F.affine_grid(map.expand(len(images), -1, -1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bicubic", "reflection", align_corners=False)
