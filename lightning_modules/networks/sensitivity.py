"""How much of a difference between two images is found to come through a network: numbers below its Lipschitz constant.

:mod:`lightning_modules.networks.lipschitz` has a number above it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
"""From images (N, C, H, W) to outputs (N,) or (N, K), each of its own image alone."""

START, STRIDE = 0.1, 0.1
"""How far apart a pair starts, as the root of the mean square over pixels and a share of the range of images; and how
far the ascent moves an image in a step, as a multiple of that distance."""


def steepest(function: Function, images: Tensor) -> tuple[Tensor, Tensor]:
    """Find the direction in which a small change of each image changes its outputs most, and how much.

    Args:
        function: Differentiable once.
        images: Where, shape (N, C, H, W).

    Returns:
        The largest singular value of the Jacobian at each image, (N,), which for one output is the length of its
        gradient; and the direction, of length 1, of the images' shape.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        outputs = function(images).reshape(len(images), -1)
        rows = [
            torch.autograd.grad(outputs[:, place].sum(), images, retain_graph=place + 1 < outputs.shape[1])[0]
            for place in range(outputs.shape[1])
        ]
    jacobian = torch.stack(rows, 1).flatten(2).double()
    # Of J J^T, which is as small as there are outputs.
    squares, left = torch.linalg.eigh(jacobian @ jacobian.mT)
    values = squares[:, -1].clamp(min=0).sqrt()
    directions = torch.einsum("nk,nkd->nd", left[:, :, -1], jacobian)
    lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    directions = directions / lengths.clamp(min=torch.finfo(torch.float64).tiny)
    return values.to(images.dtype), directions.to(images.dtype).reshape(images.shape)


def steepest_pairs(function: Function, images: Tensor, low: float, high: float, steps: int = 20) -> Tensor:
    r"""Look for pairs of images that are told apart most for their distance, by gradient ascent over both.

    A pair starts as an image and one beside it (see :data:`START`) in the direction of :func:`steepest`. Each step
    moves both along the gradient of :math:`\log (\lVert f(x) - f(y) \rVert / \lVert x - y \rVert)`, and back into the
    range of images. In the end the slopes at both count as well.

    Args:
        function: Differentiable once.
        images: Where to begin, shape (N, C, H, W).
        low: The lowest value of an image.
        high: The highest.
        steps: How many to make.

    Returns:
        The largest quotient of each pair on its way, (N,): at most the Lipschitz constant.
    """
    best, directions = steepest(function, images)
    distance = START * (high - low) * math.sqrt(images[0].numel())
    x, y = images.detach(), (images + distance * directions).clamp(low, high)
    for _ in range(steps):
        with torch.enable_grad():
            x, y = x.requires_grad_(), y.requires_grad_()
            changes = (function(x) - function(y)).reshape(len(x), -1).norm(dim=1)
            apart = (x - y).flatten(1).norm(dim=1)
            # Nearer pairs would measure rounding.
            usable = (apart > 0.01 * distance) & (changes > 0)
            quotients = torch.where(usable, changes / apart.clamp(min=1e-12), 0)
            gradients = torch.autograd.grad(quotients.clamp(min=1e-30).log().sum(), (x, y))
        best = torch.maximum(best, quotients.detach())
        x, y = (
            (image.detach() + STRIDE * distance * _unit(gradient)).clamp(low, high)
            for image, gradient in zip((x, y), gradients, strict=True)
        )
    for image in (x, y):
        best = torch.maximum(best, steepest(function, image)[0])
    return best


def _unit(gradient: Tensor) -> Tensor:
    lengths = gradient.flatten(1).norm(dim=1).reshape(-1, *[1] * (gradient.ndim - 1))
    return gradient / lengths.clamp(min=1e-30)
