"""Penalties on how steep a discriminator is and on filters that resemble each other, as pure functions.

Each is a scalar of at least 0, computed in float32 (float64 for float64) without autocast, and can be differentiated
with regard to the weights, also through spectral and learned norms. Weights of the penalties are the caller's.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Real

import torch
from torch import Tensor, nn

from norms.errors import SettingError, check_range, unknown
from norms.parametrized import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from norms.precision import wide_dtype, without_autocast

PENALTIES = ("r1", "r2", "wgan_gp", "orthogonal")


def check_penalties(settings: Mapping[str, float] | None) -> dict[str, float]:
    """Return the weight of every penalty in ``PENALTIES``, 0 for those that the settings leave out.

    Args:
        settings: Weights by name, such as ``{"r1": 10}``.

    Raises:
        SettingError: If a name is unknown, or a weight is not a finite number of at least 0.
    """
    settings = settings or {}
    for name, weight in settings.items():
        if name not in PENALTIES:
            raise unknown("penalty", name, PENALTIES)
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise SettingError(f"the weight of penalty {name} must be a number, got {weight!r}")
        check_range(f"the weight of penalty {name}", weight, at_least=0, below=math.inf)
    return {name: float(settings.get(name, 0)) for name in PENALTIES}


def zero_centered(scores: Tensor, images: Tensor) -> Tensor:
    r"""Return how steep the discriminator is at the images: R1 of real ones, R2 of generated ones.

    .. math:: \frac{1}{N} \sum_n \lVert \nabla_{x_n} D(x_n) \rVert^2

    The source weights it by :math:`\gamma / 2`. Compute the scores outside autocast too, since their backward pass has
    the precision of their forward pass. A sample's score must depend on its own image alone, so not on the statistics
    of a batch.

    Args:
        scores: The discriminator's, one per image.
        images: What they were computed from, with ``requires_grad``.

    Shape:
        (N,), (N, C, H, W) -> ()

    Source:
        Mescheder et al. 2018 (arXiv 1801.04406), section 4.1, equation 9.
    """
    return _gradient(scores, images).square().sum(1).mean()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    r"""Return how far from 1 the discriminator's steepness is between real and generated images.

    .. math:: \frac{1}{N} \sum_n (\lVert \nabla_{m_n} D(m_n) \rVert - 1)^2, \qquad m_n = a_n x_n + (1 - a_n) G(z_n)

    The source weights it by 10.

    Args:
        discriminator: Maps images to scores; it has its labels already.
        real: Real images x.
        fake: As many generated ones G(z). No gradient flows back into them.
        share: Uniform draws a from [0, 1).

    Shape:
        (N, C, H, W) twice, (N,) -> ()

    Source:
        Gulrajani et al. 2017 (arXiv 1704.00028), equation 3 and algorithm 1.
    """
    wide = wide_dtype(real)
    share = share.to(wide).view(-1, *[1] * (real.ndim - 1))
    mixed = (share * real.detach().to(wide) + (1 - share) * fake.detach().to(wide)).requires_grad_()
    with without_autocast(mixed.device):
        scores = discriminator(mixed)
    return (torch.linalg.vector_norm(_gradient(scores, mixed), dim=1) - 1).square().mean()


def _gradient(scores: Tensor, images: Tensor) -> Tensor:
    with without_autocast(images.device):
        (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.flatten(1).to(wide_dtype(gradient))


def orthogonal(module: nn.Module) -> Tensor:
    r"""Return how much the filters of convolutions and linear layers resemble each other.

    .. math:: \sum_W \lVert W W^\top \odot (1 - I) \rVert_F^2

    where the rows of W are the filters, one per output. Their lengths do not count. Filters of different groups of a
    convolution have different inputs and are not compared, and a layer of one output adds nothing. Embeddings are left
    out. The source weights it by 1e-4.

    A normalized weight is taken as it acts, after the division. The published code takes it before, and adds half of
    this gradient.

    Args:
        module: A network, usually a generator.

    Raises:
        SettingError: If it has no such layer.

    Source:
        Brock et al. 2019 (arXiv 1809.11096), equation 3.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Linear, *CONVOLUTIONS))]
    if not layers:
        raise SettingError(
            f"{type(module).__name__} has no convolution or linear layer whose filters could be compared"
        )
    return torch.stack([_resemblance(layer) for layer in layers]).sum()


def _resemblance(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    groups = weight.to(wide_dtype(weight)).unflatten(0, (getattr(layer, "groups", 1), -1))
    if isinstance(layer, TRANSPOSED_CONVOLUTIONS):
        groups = groups.transpose(1, 2)
    filters = groups.flatten(2)
    with without_autocast(weight.device):
        if filters.shape[1] > filters.shape[2]:
            # The same sum without a matrix of outputs by outputs, of which a generator's first layer has thousands.
            return (filters.mT @ filters).square().sum() - filters.square().sum(2).square().sum()
        products = filters @ filters.mT
    return (products - torch.diag_embed(products.diagonal(dim1=1, dim2=2))).square().sum()
