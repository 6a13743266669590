"""What the weights of a network do to the length of vectors, read without moving anything."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .errors import SettingError
from .parametrized import CONVOLUTIONS
from .precision import wide_dtype, without_autocast
from .spectral import convolution, matrix, sigmas

ITERATIONS = 30
"""Lanczos steps for the norm of a convolution, which end below it by less than 0.1 % for Glorot weights."""

Convolution = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)  # CONVOLUTIONS as a type
Layer = nn.Linear | nn.Embedding | Convolution


@dataclass(frozen=True)
class Spectrum:
    """Describe the weight of one layer as its forward pass uses it, so divided by the estimate if there is one."""

    estimate: float | None
    """u^T W v of a spectrally normalized layer, which its weight W is divided by; None for others."""
    sigma: float
    """The largest singular value of the weight as a matrix; 1 if it is spectrally normalized by an exact estimate."""
    operator: float | None
    """The norm of the convolution as a linear map of its inputs; None if the size of those is not known."""
    rank: float
    """The effective rank of the weight as a matrix."""
    full_rank: int
    """How many singular values it has: the effective rank lies between 1 and this."""


def linear_layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Yield the convolutions, linear layers and embeddings of a model by their dotted names, in its order."""
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Embedding, *CONVOLUTIONS)):
            yield name, layer


@torch.no_grad()
def singular_values(layer: Layer) -> Tensor:
    r"""Return all singular values of a layer's weight as a matrix with a row per output, the largest first.

    They are the square roots of the eigenvalues of :math:`W W^\top` or :math:`W^\top W`, whichever is smaller, in
    float64 on the CPU: several times faster than a decomposition of W, and off by at most about 1e-8 of the largest.

    Args:
        layer: One of :func:`linear_layers`, in evaluation mode, so that reading its weight moves nothing.

    Returns:
        Of shape (min(outputs, numel / outputs),), float64.
    """
    weight = layer.weight.detach().cpu().double()
    rows = weight.movedim(matrix(layer).dim, 0).flatten(1)
    wide = rows if len(rows) <= rows.shape[1] else rows.T
    return torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0).sqrt().flip(0)


def effective_rank(values: Tensor) -> float:
    r"""Return how many singular values count, :math:`\exp(-\sum_i p_i \log p_i)` with :math:`p_i = s_i / \sum_j s_j`.

    It is 1 if all but one are 0, their number if all are alike, and 0 if all are 0.

    Args:
        values: Singular values, shape (n,).

    Source:
        Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007, equation 3.
    """
    total = values.sum()
    if not total > 0:
        return 0.0
    shares = values / total
    return math.exp(torch.special.entr(shares).sum())


@torch.no_grad()
def operator_norm(layer: Layer, input_size: tuple[int, ...] | None = None, iterations: int = ITERATIONS) -> float:
    r"""Return the norm of the linear map from the inputs of a layer to its outputs.

    Lanczos steps find a tridiagonal T, which is :math:`A^\top A` within the space that the first powers of it make of a
    vector. The root of T's largest eigenvalue is never above the norm, but for rounding, and nearer to it than power
    iteration comes by as many products. The vector is random, the same at every call, and of no generator but its own.

    Args:
        layer: One of :func:`linear_layers`, in evaluation mode, so that reading its weight moves nothing.
        input_size: Spatial size of a convolution's inputs; without, its weight counts as a matrix.
        iterations: See :data:`ITERATIONS`.

    Returns:
        The norm; NaN if the weight is not finite.

    Raises:
        SettingError: If the layer does not take inputs of this size.

    Source:
        Golub and Van Loan, Matrix Computations, 4th edition, section 10.1.
    """
    weight = layer.weight.detach()
    weight = weight.to(wide_dtype(weight))
    operator = matrix(layer) if input_size is None else convolution(layer, weight, input_size)
    start = torch.randn(operator.input_shape(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    v, before, beta = start / torch.linalg.vector_norm(start), torch.zeros_like(start), weight.new_zeros(())
    alphas, betas = [], []
    with without_autocast(weight.device):
        for _ in range(iterations):
            mapped, adjoint, *_ = torch.func.vjp(partial(operator.apply, weight), v)
            (following,) = adjoint(mapped)
            alphas.append(mapped.square().sum())
            following = following - alphas[-1] * v - beta * before
            beta = torch.linalg.vector_norm(following)
            betas.append(beta)
            v, before = following / beta.clamp(min=torch.finfo(v.dtype).tiny), v
    diagonal, beside = (torch.stack(each).cpu().double() for each in (alphas, betas))
    if not diagonal.isfinite().all():
        return math.nan
    tridiagonal = diagonal.diag() + beside[:-1].diag(1) + beside[:-1].diag(-1)
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(tridiagonal)[-1])))


@torch.no_grad()
def spectra(model: nn.Module, input_sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Spectrum]:
    """Read the spectrum of every layer of :func:`linear_layers`, by name.

    Args:
        model: Any module in evaluation mode.
        input_sizes: Spatial sizes of what the convolutions are given, by name, as :func:`input_sizes` finds them.

    Raises:
        SettingError: If the model is in training mode, in which reading a weight may move it.
    """
    if model.training:
        raise SettingError("spectra takes a model in evaluation mode: call model.eval() first")
    estimates, found = sigmas(model), dict[str, Spectrum]()
    for name, layer in linear_layers(model):
        values = singular_values(layer)
        operator: float | None = float(values[0])
        if isinstance(layer, CONVOLUTIONS):
            operator = operator_norm(layer, input_sizes[name]) if name in input_sizes else None
        found[name] = Spectrum(estimates.get(name), float(values[0]), operator, effective_rank(values), len(values))
    return found


def input_sizes(model: nn.Module, run: Callable[[], object]) -> dict[str, tuple[int, ...]]:
    """Return the spatial sizes of what the convolutions of a model are given while ``run`` runs, by name."""
    sizes: dict[str, tuple[int, ...]] = {}

    def note(name: str, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        sizes[name] = tuple(args[0].shape[2:])

    hooks = [
        layer.register_forward_pre_hook(partial(note, name))
        for name, layer in linear_layers(model)
        if isinstance(layer, CONVOLUTIONS)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return sizes
