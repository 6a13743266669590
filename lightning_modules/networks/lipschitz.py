"""How much a discriminator or a classifier can make of a difference between two images."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from lightning_modules.networks.classifier_networks import MLP, LeNet, ResidualBlock, ResNet
from lightning_modules.networks.feature_net import IMAGENET_STD, FeatureNet
from lightning_modules.networks.gan_blocks import DownBlock
from lightning_modules.networks.gan_networks import Discriminator
from lightning_modules.networks.r3gan import ExpandingBlock
from norms import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d

Norms = Mapping[nn.Module, float]
"""The norm of each convolution and linear layer, as a linear map."""

ONE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Identity, nn.Flatten, MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d)
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


@torch.no_grad()
def classifier_bound(network: nn.Module, head: nn.Linear, norms: Norms, images: Tensor) -> float | None:
    r"""Return a number K such that :math:`\lVert f(x) - f(y) \rVert_2 \le K \lVert x - y \rVert_2` for the logits f.

    It is the product of the bounds of the layers, as of :func:`lipschitz_bound`, that of the standardization of the
    images, and :math:`1 / \sqrt P` for the mean over P positions. Batch normalization has
    :math:`\max_c |\gamma_c| / \sqrt{\sigma_c^2 + \epsilon}` with its running variance.

    Args:
        network: The ``feature_net`` of a :class:`~lightning_modules.Classifier`, in evaluation mode.
        head: Its last layer.
        norms: See :data:`Norms`.
        images: Any of that size, shape (N, C, H, W), values in [0, 1].

    Returns:
        The bound; None if the network has a part of which none is known, such as a norm that depends on the image.

    Source:
        Gouk et al., Regularisation of neural networks by enforcing Lipschitz continuity, Machine Learning 2021, arXiv
        1804.04368.
    """
    gray = len(images[0]) == 1
    if gray and getattr(network, "input_shape", (3,))[0] == 1:
        start, seen = 1.0, images[:1]
    else:
        # Gray images are given as three equal channels.
        slopes = [1 / deviation for deviation in IMAGENET_STD]
        start, seen = math.hypot(*slopes) if gray else max(slopes), images[:1].expand(-1, 3, -1, -1)
    pools = [part for part in network.modules() if isinstance(part, nn.AvgPool2d) and part.ceil_mode]
    if any(side % 2 ** len(pools) for side in images.shape[2:]):
        return None  # a window that is cut off at the border has fewer pixels, and a larger norm
    inside, last = _bound(network, norms), norms.get(head)
    if inside is None or last is None:
        return None
    positions = math.prod(network(seen).shape[2:])
    return start * inside / math.sqrt(positions) * last


def _bound(module: nn.Module, norms: Norms) -> float | None:
    if module in norms:
        return norms[module]
    if isinstance(module, ONE):
        return 1.0
    for kind, rule in RULES.items():
        if type(module) is kind:
            return rule(module, norms)
    return None


def _sequence(parts: Iterable[nn.Module], norms: Norms) -> float | None:
    bounds = [_bound(part, norms) for part in parts]
    return None if None in bounds else math.prod(bound for bound in bounds if bound is not None)


def _pooling(module: nn.AvgPool2d, norms: Norms) -> float | None:
    return 1 / module.kernel_size if module.stride == module.kernel_size and not module.padding else None  # type: ignore[operator]


def _residual(block: DownBlock, norms: Norms) -> float | None:
    shortcut = nn.Identity() if block.shortcut is None else block.shortcut
    first, second, beside, pool = (_bound(part, norms) for part in (block.conv1, block.conv2, shortcut, block.pool))
    if first is None or second is None or beside is None or pool is None:
        return None
    return pool * (first * second + beside)


def _stacked(network: FeatureNet | MLP | LeNet | ResNet, norms: Norms) -> float | None:
    return _sequence(network.layers.values(), norms)


def _residual_of_classifier(block: ResidualBlock, norms: Norms) -> float | None:
    branch, after = _sequence((block.first, block.second), norms), _bound(block.activation, norms)
    return None if branch is None or after is None else (branch + 1) * after


def _batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, norms: Norms) -> float | None:
    if norm.running_var is None:
        return None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    return float((scale if norm.weight is None else scale * norm.weight).abs().max())


def _expanding(block: ExpandingBlock, norms: Norms) -> float | None:
    parts = [_bound(part, norms) for part in (block.expand, block.group, block.reduce)]
    return None if None in parts else 1 + math.prod(part for part in parts if part is not None)


RULES: dict[type[nn.Module], Callable[..., float | None]] = {
    nn.Sequential: _sequence,
    nn.AvgPool2d: _pooling,
    DownBlock: _residual,
    ExpandingBlock: _expanding,
    **dict.fromkeys((FeatureNet, MLP, LeNet, ResNet), _stacked),
    ResidualBlock: _residual_of_classifier,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm),
    nn.Sigmoid: lambda module, norms: 0.25,
}
