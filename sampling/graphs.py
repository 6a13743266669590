"""Generators as graphs that other programs run."""

import copy

import torch
from torch import Tensor, nn

import training.graphs
from sampling.trained import TrainedGenerator
from training.graphs import Graph, Sizes


class Drawing(nn.Module):
    """Draw images in [0, 1] by nothing but tensor operations.

    Args:
        trained: A trained generator, which is left as it is.

    Shape:
        Latents (N, latent_dim) and, if there are classes, integer labels (N,) -> (N, C, H, W), in [0, 1]
    """

    def __init__(self, trained: TrainedGenerator) -> None:
        super().__init__()
        self.network = copy.deepcopy(trained.settled().network).cpu().float().eval().requires_grad_(False)
        self.network.to(memory_format=torch.contiguous_format)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw images; see the class."""
        images: Tensor = self.network(latents) if labels is None else self.network(latents, labels)
        return ((images + 1) / 2).clamp(0, 1)


def trace(trained: TrainedGenerator) -> Graph:
    """Trace a generator for any number of images, in float32.

    Its inputs are ``latents`` and, for a generator of several classes, ``labels``; see :class:`Drawing`. Its output is
    ``images``.
    """
    latents = torch.randn(3, trained.latent_dim)
    labels = [torch.zeros(3, dtype=torch.int64)] if trained.num_classes else []
    sizes: Sizes = tuple({0: "batch"} for _ in (latents, *labels))
    return training.graphs.trace(Drawing(trained), (latents, *labels), sizes, "images")
