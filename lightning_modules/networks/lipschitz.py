"""How much a discriminator can make of a difference between two images."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lightning_modules.networks.gan_blocks import DownBlock
from lightning_modules.networks.gan_networks import Discriminator
from lightning_modules.networks.r3gan import ExpandingBlock

Norms = Mapping[nn.Module, float]
"""The norm of each convolution and linear layer, as a linear map."""

ONE = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Identity, nn.Flatten)
"""What makes no difference larger; the slope of a leaky ReLU is at most 1 here."""


@torch.no_grad()
def lipschitz_bound(discriminator: nn.Module, norms: Norms, images: Tensor) -> float | None:
    r"""Return a number K such that :math:`|D(x) - D(y)| \le K \lVert x - y \rVert_2` for all images of a size.

    It is the product of the bounds of layers that follow each other, and the sum of those that stand beside each other:
    a residual block :math:`p(c_2(a(c_1(a(x)))) + s(x))` has :math:`p \, (c_1 c_2 + s)`, with :math:`s = 1` where its
    shortcut is the input, and p of 1/2 for an average pooling of 2x2. The sum over P positions has :math:`\sqrt P`. A
    projection discriminator's is for whichever class has the longest vector. The bound is far above what is reached,
    as no image is stretched most by every layer.

    Args:
        discriminator: The network, in evaluation mode.
        norms: See :data:`Norms`; an embedding's is not needed.
        images: Any of that size, shape (N, C, H, W).

    Returns:
        The bound; None if the network has a part of which none is known, such as attention, which has none at all, or
        is made of other parts than this project's residual blocks, convolutions and activations.

    Source:
        Miyato et al. 2018, arXiv 1802.05957, equation 7; for attention, Kim et al. 2021, arXiv 2006.04710, theorem 3.1.
    """
    if not isinstance(discriminator, Discriminator):
        return None
    blocks, head = _bound(discriminator.blocks, norms), norms.get(discriminator.linear)
    if blocks is None or head is None:
        return None
    # Of sums and means of each channel, ones are what is stretched most; a whole map is passed on as it is.
    ones = torch.ones_like(discriminator.blocks(images[:1]).float())
    pooling = float(torch.linalg.vector_norm(discriminator.pooled(ones)) / torch.linalg.vector_norm(ones))
    if (embedding := discriminator.projection) is not None:
        head += float(torch.linalg.vector_norm(embedding.weight, dim=1).max())
    return blocks * pooling * head


def _bound(module: nn.Module, norms: Norms) -> float | None:
    if module in norms:
        return norms[module]
    if isinstance(module, ONE):
        return 1.0
    for kind, rule in RULES.items():
        if type(module) is kind:
            return rule(module, norms)
    return None


def _sequence(module: nn.Sequential, norms: Norms) -> float | None:
    bounds = [_bound(part, norms) for part in module]
    return None if None in bounds else math.prod(bound for bound in bounds if bound is not None)


def _pooling(module: nn.AvgPool2d, norms: Norms) -> float | None:
    return 1 / module.kernel_size if module.stride == module.kernel_size and not module.padding else None  # type: ignore[operator]


def _residual(block: DownBlock, norms: Norms) -> float | None:
    shortcut = nn.Identity() if block.shortcut is None else block.shortcut
    first, second, beside, pool = (_bound(part, norms) for part in (block.conv1, block.conv2, shortcut, block.pool))
    if first is None or second is None or beside is None or pool is None:
        return None
    return pool * (first * second + beside)


def _expanding(block: ExpandingBlock, norms: Norms) -> float | None:
    parts = [_bound(part, norms) for part in (block.expand, block.group, block.reduce)]
    return None if None in parts else 1 + math.prod(part for part in parts if part is not None)


RULES: dict[type[nn.Module], Callable[..., float | None]] = {
    nn.Sequential: _sequence,
    nn.AvgPool2d: _pooling,
    DownBlock: _residual,
    ExpandingBlock: _expanding,
}
