"""Style networks as graphs that other programs run."""

import copy

import torch
from torch import Tensor, nn

import training.graphs
from lightning_modules.style_transfer import StyleTransfer
from training.graphs import Graph, Sizes

TILE = 256
"""Side of the square of noise that an exported network repeats over a photo, in pixels."""

_TILE_STREAM = 4
"""Tells the noise of the tile from what the training draws."""


class PhotoPainter(nn.Module):
    """Paint as a network does, by nothing but tensor operations.

    A network with noise draws it for the size of each photo, which a graph cannot do. Here a square of
    :data:`TILE` pixels is drawn once, and repeated over the photo. All else is as in ``StyleTransfer.forward``.

    Args:
        model: A trained network, which is left as it is.

    Shape:
        Image (B, 3, H, W), RGB in [0, 1], any H and W; and, for a network of K styles, their shares (K,), which sum
        to 1 -> (B, 3, H, W), RGB in [0, 1]
    """

    noise: Tensor | None

    def __init__(self, model: StyleTransfer) -> None:
        super().__init__()
        self.transformer = copy.deepcopy(model.transformer).cpu().eval().requires_grad_(False)
        self.transformer.to(memory_format=torch.contiguous_format)
        strength = model.hparams["noise"]
        tile = strength * model.noise(_TILE_STREAM, 1, 3, TILE, TILE).cpu() if strength else None
        self.register_buffer("noise", tile)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        """Paint images; see the class."""
        height, width = image.shape[-2:]
        # By indices, since what F.pad and slices do would depend on whether there is anything to pad.
        rows, columns = torch.arange(self.transformer.padded(height)), torch.arange(self.transformer.padded(width))
        x = image[..., rows.clamp(max=height - 1)[:, None], columns.clamp(max=width - 1)]
        if self.noise is not None:
            x = x + self.noise[..., (rows % TILE)[:, None], columns % TILE]
        painted: Tensor = self.transformer.stylize_padded(x, style)
        return painted[..., torch.arange(height)[:, None], torch.arange(width)]


def trace(model: StyleTransfer) -> Graph:
    """Trace a network for any batch and image size, in float32.

    Its inputs are ``image`` and, for a network of several styles, ``style``; see :class:`PhotoPainter`.
    """
    count = model.transformer.num_styles
    image, shares = torch.rand(2, 3, 37, 43), [] if count is None else [torch.full((count,), 1 / count)]
    sizes: Sizes = ({0: "batch", 2: "height", 3: "width"}, *([None] * len(shares)))
    return training.graphs.trace(PhotoPainter(model), (image, *shares), sizes, "painting")
