"""The norms a second time: the formulas of the papers in plain operations, and what else tests need of every norm."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import norms


def moments(x: Tensor, *dims: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of planes (N, C, P)."""
    return x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)


def standardized(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    return (x - mean) / torch.sqrt(var + eps)


def evaluates_population(layer: nn.Module) -> bool:
    return not layer.training and layer.running_mean is not None


def batch_moments(x: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    if evaluates_population(layer):
        return layer.running_mean[:, None], layer.running_var[:, None]
    return moments(x, 0, 2)


def batch(x: Tensor, layer: nn.Module) -> Tensor:
    return standardized(x, *batch_moments(x, layer), layer.eps)


def batch_renorm(x: Tensor, layer: nn.Module) -> Tensor:
    mu, sigma = layer.running_mean[:, None], layer.running_std[:, None]
    if not layer.training:
        return (x - mu) / sigma
    mean, var = moments(x, 0, 2)
    std = torch.sqrt(var + layer.eps)
    r_max, d_max = renorm_limits(layer)
    r = (std / sigma).clamp(1 / r_max, r_max).detach()
    d = ((mean - mu) / sigma).clamp(-d_max, d_max).detach()
    return (x - mean) / std * r + d


def renorm_limits(layer: nn.Module) -> tuple[float, float]:
    """5k steps at (1, 0), then linear to r_max at 40k and d_max at 25k, scaled to the schedule's length."""
    step = layer.num_batches_tracked.item() * 40_000 / layer.schedule_steps if layer.schedule_steps else 40_000
    r_share = min(max((step - 5_000) / (40_000 - 5_000), 0), 1)
    d_share = min(max((step - 5_000) / (25_000 - 5_000), 0), 1)
    return 1 + r_share * (layer.r_max - 1), d_share * layer.d_max


def mean_only_batch(x: Tensor, layer: nn.Module) -> Tensor:
    return x - (layer.running_mean[:, None] if evaluates_population(layer) else x.mean((0, 2), keepdim=True))


def decorrelated_batch(x: Tensor, layer: nn.Module) -> Tensor:
    """Newton's iteration as published: P <- (3 P - P^3 Sigma / tr Sigma) / 2."""
    size = layer.group_size
    values = x.transpose(0, 1).flatten(1)
    mean = layer.running_mean if evaluates_population(layer) else values.mean(1)
    whitened = []
    for index, group in enumerate((values - mean[:, None]).split(size)):
        biased = layer.running_covariance[index] if evaluates_population(layer) else group @ group.T / group.shape[1]
        covariance = biased + layer.eps * torch.eye(size, dtype=x.dtype)
        root = torch.eye(size, dtype=x.dtype)
        for _ in range(layer.iterations):
            root = (3 * root - root @ root @ root @ covariance / covariance.trace()) / 2
        whitened.append(root / covariance.trace().sqrt() @ group)
    return torch.cat(whitened).unflatten(1, (len(x), -1)).transpose(0, 1)


def instance(x: Tensor, layer: nn.Module) -> Tensor:
    return standardized(x, *moments(x, 2), layer.eps)


def group(x: Tensor, layer: nn.Module) -> Tensor:
    groups = x.reshape(len(x), layer.num_groups, -1)
    return standardized(groups, *moments(groups, 2), layer.eps).reshape(x.shape)


def layer_pixel(x: Tensor, layer: nn.Module) -> Tensor:
    return standardized(x, *moments(x, 1), layer.eps)


def batch_instance(x: Tensor, layer: nn.Module) -> Tensor:
    rho = layer.rho[:, None]
    return rho * batch(x, layer) + (1 - rho) * instance(x, layer)


def switchable(x: Tensor, layer: nn.Module) -> Tensor:
    of = {
        "instance": lambda: moments(x, 2),
        "layer": lambda: moments(x, 1, 2),
        "batch": lambda: batch_moments(x, layer),
    }
    means, variances = zip(*(of[name]() for name in layer.statistics), strict=True)
    mean_shares, var_shares = (
        logits.exp() / logits.exp().sum() if layer.radius is None else sparsestmax(logits, layer.radius.item())
        for logits in (layer.mean_weight, layer.var_weight)
    )
    mean = sum(share * mean for share, mean in zip(mean_shares, means, strict=True))
    var = sum(share * var for share, var in zip(var_shares, variances, strict=True))
    return standardized(x, mean, var, layer.eps)


def sparsemax(logits: Tensor) -> Tensor:
    ordered = logits.sort(descending=True).values
    support = max(k for k in range(1, len(logits) + 1) if 1 + k * ordered[k - 1] > ordered[:k].sum())
    return (logits - (ordered[:support].sum() - 1) / support).clamp_min(0)


def sparsestmax(logits: Tensor, radius: float) -> Tensor:
    """From sparsemax straight away from the center of the face to the circle; where that leaves the face, onto it."""
    shares = sparsemax(logits)
    while True:
        face = (shares > 0).double()
        center = face / face.sum()
        reach = radius**2 - (center - 1 / len(logits)).square().sum().item()
        distance = (shares - center).norm()
        if distance == 0 or reach <= distance.item() ** 2:
            return shares
        moved = center + (shares - center) * math.sqrt(reach) / distance
        shares = sparsemax(moved)
        if (moved >= 0).all():
            return shares


def none(x: Tensor, layer: nn.Module) -> Tensor:
    return x


def tracked_moments(x: Tensor, layer: nn.Module) -> dict[str, Tensor]:
    return {"running_mean": x.mean((0, 2)), "running_var": x.var((0, 2))}


def tracked_std(x: Tensor, layer: nn.Module) -> dict[str, Tensor]:
    return {"running_mean": x.mean((0, 2)), "running_std": torch.sqrt(x.var((0, 2), correction=0) + layer.eps)}


def tracked_mean(x: Tensor, layer: nn.Module) -> dict[str, Tensor]:
    return {"running_mean": x.mean((0, 2))}


def tracked_covariance(x: Tensor, layer: nn.Module) -> dict[str, Tensor]:
    groups = x.transpose(0, 1).flatten(1).split(layer.group_size)
    covariances = [torch.cov(group).reshape(len(group), len(group)) for group in groups]
    return {"running_mean": x.mean((0, 2)), "running_covariance": torch.stack(covariances)}


class Published(NamedTuple):
    """A norm as published.

    Attributes:
        formula: From planes (N, C, P) and the layer, of which the parameters and buffers are read, to normalized planes
            without gamma and beta.
        variants: Options that make a difference.
        tracked: From planes and the layer to what the running statistics are averages of; None if there are none.
        needs: Axes of (N, C, P) over which there has to be more than one value in training.
    """

    formula: Callable[[Tensor, nn.Module], Tensor]
    variants: tuple[dict[str, Any], ...] = ({}, {"affine": False})
    tracked: Callable[[Tensor, nn.Module], dict[str, Tensor]] | None = None
    needs: str = ""


_TRACKING = ({}, {"affine": False}, {"track_running_stats": False})
_CLIPPED = {"schedule_steps": 0, "r_max": 1.25, "d_max": 0.25}

FAMILY = {
    "batch": Published(
        batch, (*_TRACKING, *({**options, "sync": True} for options in _TRACKING)), tracked_moments, "NP"
    ),
    "batch_renorm": Published(batch_renorm, (_CLIPPED, {"affine": False}, {}), tracked_std, "NP"),
    "mean_only_batch": Published(mean_only_batch, _TRACKING, tracked_mean, "NP"),
    "decorrelated_batch": Published(
        decorrelated_batch, (*_TRACKING, {"group_size": 2, "iterations": 3}), tracked_covariance, "NP"
    ),
    "instance": Published(instance, needs="P"),
    "layer": Published(group),
    "layer_pixel": Published(layer_pixel),
    "group": Published(group, ({}, {"affine": False}, {"num_groups": 4})),
    "batch_instance": Published(batch_instance, _TRACKING, tracked_moments, "P"),
    "switchable": Published(
        switchable,
        (*_TRACKING, {"statistics": ("instance", "layer")}, {"statistics": ("batch", "layer")}, {"sparse_steps": 4}),
        tracked_moments,
        "P",
    ),
    "none": Published(none, ({},)),
}


class Case(NamedTuple):
    """A norm of the registry, with options."""

    name: str
    dims: int
    options: dict[str, Any]

    def __str__(self) -> str:
        return "-".join([self.name, f"{self.dims}d", *(f"{key}={value}" for key, value in self.options.items())])

    def build(self, channels: int = 4, **options: Any) -> nn.Module:
        return norms.build(self.name, channels, self.dims, **{**self.options, **options})

    def experienced(self, channels: int = 4, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
        """A layer with parameters and running statistics unlike the initial ones, in training."""
        layer = self.build(channels, **options).double()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 0.6 + 0.2)
            # Not shared with other processes, which would make it other experience.
            sync, layer.sync = getattr(layer, "sync", False), False
            for seed in (11, 12):
                layer(self.data(channels, seed=seed))
            layer.sync = sync
        return layer.to(dtype)

    def shape(self, channels: int = 4, n: int = 3) -> tuple[int, ...]:
        return (n, channels, *(5, 4, 3)[: self.dims])

    def data(self, channels: int = 4, n: int = 3, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
        return draw(self.shape(channels, n), seed).to(dtype)

    def published(self, x: Tensor, layer: nn.Module) -> Tensor:
        """The output by the published formula; to be called before ``layer``, which may change its buffers."""
        y = FAMILY[self.name].formula(x.flatten(2) if x.ndim > 2 else x[:, :, None], layer)
        for name, operation in (("weight", torch.mul), ("bias", torch.add)):
            if getattr(layer, name, None) is not None:
                y = operation(y, getattr(layer, name)[:, None])
        return y.reshape(x.shape)

    def tracked(self, x: Tensor, layer: nn.Module) -> dict[str, Tensor]:
        statistics = FAMILY[self.name].tracked
        return {} if statistics is None else statistics(x.flatten(2), layer)


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    """Activations whose channels and samples differ in mean and scale."""
    generator = torch.Generator().manual_seed(seed)
    x, level, spread = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in (shape, (*shape[:2], *(1,) * len(shape[2:])), (1, shape[1], *(1,) * len(shape[2:])))
    )
    return x * (1 + spread.abs()) + 0.5 * level + 2 * spread


def derivatives(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of a function of ``y`` that has second derivatives, and those of a penalty on the gradients."""
    first = torch.autograd.grad((draw(y.shape, seed=3) * y + y.square() / 3).sum(), inputs, create_graph=True)
    penalty = sum(gradient.square().sum() for gradient in first)
    return [*first, *torch.autograd.grad(penalty, inputs, allow_unused=True, materialize_grads=True)]


def run(layer, x, grad):
    """Output, gradient of the input and of the parameters."""
    layer.zero_grad()
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(grad)
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]
