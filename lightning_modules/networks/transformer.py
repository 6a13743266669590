"""The feed-forward network that turns a photo into a stylized image."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.conditioning import NormFactory, norm_factory, normalized
from norms.errors import SettingError, check_range, unknown

Upsampling = Literal["nearest", "bilinear"]
Style = Tensor | int


class TransformerNet(nn.Module):
    """Build the image transformation network of Johnson et al., in which the norm can be chosen.

    A 9x9 convolution, one 3x3 convolution of stride 2 per further width, residual blocks at the lowest resolution, the
    way back up by upsampling and 3x3 convolutions, and a 9x9 convolution to RGB. Every convolution but the last is
    followed by a norm, all but the second of each residual block and the last also by a ReLU.

    With ``num_styles`` every norm is a :class:`norms.ConditionalNorm`, so that one network paints in several styles,
    and in mixtures of them, which differ by gamma and beta alone.

    Where this departs from the paper, it follows what later work found to look better: upsampling instead of transposed
    convolutions (Odena et al., "Deconvolution and Checkerboard Artifacts", 2016), reflection padding before each
    convolution instead of once at the input, and a norm that is not fixed to batch normalization (Ulyanov et al.,
    "Instance Normalization", 2016). The output is bounded as in the paper, ``sigmoid(y) = (tanh(y / 2) + 1) / 2``:
    left linear, it earns its style loss partly with values that no image file can hold.

    The parts, in the order of computation, are ``first``, ``down1``, ..., ``residual1``, ..., ``up1``, ..., ``last``.

    Args:
        widths: Channels at full resolution and after each halving.
        num_blocks: Residual blocks, each of two 3x3 convolutions.
        norm: As :func:`norms.build` takes it.
        norm_options: Further arguments of that layer, such as ``{"initial_rho": 0.5}``.
        upsampling: ``nearest`` or ``bilinear``.
        num_styles: How many styles there are; None for one, whose network is not conditional.
        separate_norms: Names of the styles if each shall have norms of its own, with a rho or switch weights of its own
            beside gamma and beta, see :class:`norms.NormPerCondition`. Underscores take the place of dots, and make
            different what no layer can be called, such as ``clear``.

    Raises:
        SettingError: If a width is not positive, the number of blocks is negative, or there is no such upsampling.
        ValueError: If the norm does not exist or does not take the options.

    Shape:
        (B, 3, H, W), RGB in [0, 1], any H and W of at least 1 -> (B, 3, H, W), RGB in [0, 1]. The style is a condition
        as :class:`norms.ConditionalNorm` takes it: an index, one for each image, or shares.

    Source:
        Johnson, Alahi and Fei-Fei, Perceptual Losses for Real-Time Style Transfer and Super-Resolution, ECCV 2016,
        arXiv 1603.08155, and its supplementary material, table 1. Several styles: Dumoulin, Shlens and Kudlur, A
        Learned Representation for Artistic Style, ICLR 2017, section 2.2.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        num_blocks: int = 5,
        norm: str = "instance",
        norm_options: Mapping[str, Any] | None = None,
        upsampling: Upsampling = "nearest",
        num_styles: int | None = None,
        separate_norms: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise SettingError(f"widths must be one or more positive numbers, got {list(widths)}")
        check_range("the number of widths", len(widths), at_most=10)
        check_range("num_blocks", num_blocks, at_least=0, at_most=1000)
        if upsampling not in get_args(Upsampling):
            raise unknown("upsampling", upsampling, get_args(Upsampling))
        make_norm = norm_factory(norm, norm_options, num_styles, separate_norms)
        self.num_styles = num_styles
        self.factor = 2 ** (len(widths) - 1)
        self.first = _ConvBlock(3, widths[0], 9, make_norm)
        for i, (wide, narrow) in enumerate(pairwise(widths), start=1):
            self.add_module(f"down{i}", _ConvBlock(wide, narrow, 3, make_norm, stride=2))
        for i in range(1, num_blocks + 1):
            self.add_module(f"residual{i}", _ResidualBlock(widths[-1], make_norm))
        for i, (narrow, wide) in enumerate(pairwise(reversed(widths)), start=1):
            self.add_module(f"up{i}", _ConvBlock(narrow, wide, 3, make_norm, upsampling=upsampling))
        self.last = _conv(widths[0], 3, 9)

    def forward(self, image: Tensor, style: Style | None = None) -> Tensor:
        """Stylize images; see the class for ranges and shapes.

        Raises:
            SettingError: If the style does not fit, or is missing where there are several.
        """
        if (style is None) != (self.num_styles is None):
            raise SettingError("a network of several styles, and no other, is told which one to paint in")
        height, width = image.shape[-2:]
        right, bottom = self.padded(width) - width, self.padded(height) - height
        # Replication, since a reflection must be smaller than the image, and tiny images need more.
        return self.stylize_padded(F.pad(image, (0, right, 0, bottom), mode="replicate"), style)[..., :height, :width]

    def stylize_padded(self, image: Tensor, style: Style | None = None) -> Tensor:
        """Stylize images whose height and width are as :meth:`padded` returns them."""
        x = (image - 0.5) / 0.25
        *blocks, last = self.children()
        for block in blocks:
            x = block(x, style)
        # Under autocast y has too few bits for the tones of an image.
        return torch.sigmoid(last(x).to(image.dtype))

    def padded(self, size: int) -> int:
        """Return the smallest size that halves evenly and is everywhere larger than the reflection padding."""
        full, low = 5, 2  # one pixel more than a 9x9 convolution pads at full resolution, and a 3x3 one at the lowest
        return self.factor * max(low, (max(size, full) + self.factor - 1) // self.factor)


class _ConvBlock(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        make_norm: NormFactory,
        stride: int = 1,
        upsampling: Upsampling | None = None,
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        kind = _DoublingConv2d if upsampling == "nearest" else nn.Conv2d
        self.conv = _conv(in_channels, out_channels, kernel_size, stride, kind)
        self.norm = make_norm(out_channels)

    def forward(self, x: Tensor, style: Style | None) -> Tensor:
        if self.upsampling not in (None, "nearest"):
            x = F.interpolate(x, scale_factor=2.0, mode=self.upsampling)
        return F.relu(normalized(self.norm, self.conv(x), style))


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, make_norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, 3)
        self.norm1 = make_norm(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.norm2 = make_norm(channels)

    def forward(self, x: Tensor, style: Style | None) -> Tensor:
        y = F.relu(normalized(self.norm1, self.conv1(x), style))
        return x + normalized(self.norm2, self.conv2(y), style)


def convolve_doubled(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return the 3x3 convolution, with reflection padding, of an image doubled by nearest neighbors.

    Each output pixel sees two by two pixels of ``x``, those under the same one through the sum of their weights. So
    four 2x2 convolutions of ``x`` make the four pixels in the place of one, which one transposed convolution does in
    less than half the multiplications and without the doubled image. Its kernel is the mirrored one of ``conv``, each
    of whose weights is spread over two by two places. Where reflection meets the doubled image, it repeats the border
    of ``x``.

    Shape:
        (B, C, H, W), any H and W of at least 1 -> (B, C', 2 * H, 2 * W)
    """
    spread = 4 * F.avg_pool2d(F.pad(conv.weight.flip(2, 3), (1, 1, 1, 1)), 2, stride=1)
    # F.pad(x, (1, 1, 1, 1), mode="replicate"), whose gradient torch.compile gets wrong for channels_last.
    rows = torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
    padded = torch.cat([rows[..., :1], rows, rows[..., -1:]], dim=3)
    return F.conv_transpose2d(padded, spread.transpose(0, 1), conv.bias, stride=2, padding=3)


class _DoublingConv2d(nn.Conv2d):
    """Convolve an image that is doubled by nearest neighbors, see :func:`convolve_doubled`."""

    def forward(self, x: Tensor) -> Tensor:
        return convolve_doubled(x, self)


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, kind: type[nn.Conv2d] = nn.Conv2d
) -> nn.Conv2d:
    padding = kernel_size // 2
    return kind(in_channels, out_channels, kernel_size, stride, padding, padding_mode="reflect")
