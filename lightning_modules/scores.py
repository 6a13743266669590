"""Scores of a style network that no training minimizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import get_model_weights

from lightning_modules.losses.perceptual import relative_error
from lightning_modules.metrics.scores import frechet
from lightning_modules.networks.loss_network import build_loss_network

LAYER = "relu3_2"
"""The layer of the bundled loss network whose activations are compared."""

_LPIPS = {"alex": "alexnet", "squeeze": "squeezenet1_1", "vgg": "vgg16"}


class FrechetDistance(Metric):
    r"""Compare the distribution of activations at all positions of images with that of a picture.

    .. math::
        d = \frac{\lVert \mu - \mu_s \rVert^2 + \mathrm{tr}(\Sigma + \Sigma_s - 2 (\Sigma \Sigma_s)^{1/2})}
                 {\lVert \mu_s \rVert^2 + \mathrm{tr}\, \Sigma_s}

    0 for the picture itself. The denominator makes it independent of the scale of the activations. It is the formula of
    the Fréchet Inception Distance, but neither its network nor its scale, and no number of this is one of that.

    Args:
        picture: Activations of the picture, (1, C, H, W).

    Source:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017, section 4, equation 6.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        channels = picture.shape[1]
        self.mean, self.covariance = _moments(*_sums(picture))
        for name, shape in (("count", ()), ("total", (channels,)), ("products", (channels, channels))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, activations: Tensor) -> None:
        """Count in activations of images, (B, C, H, W)."""
        count, total, products = _sums(activations)
        self.count, self.total, self.products = self.count + count, self.total + total, self.products + products

    def compute(self) -> Tensor:
        """Compute the distance of all images so far."""
        mean, covariance = _moments(self.count, self.total, self.products)
        distance = frechet(mean, covariance, self.mean, self.covariance)
        return distance / (self.mean.square().sum() + self.covariance.trace())


class StyleScores(nn.Module):
    """Score stylized images by the bundled loss network, whatever network they were trained with.

    - ``content_bundled``: :func:`relative_error` of the activations, the photo's being the target.
    - ``style_fd_bundled``: :class:`FrechetDistance` to the style picture, averaged over styles.
    - ``art_bundled``: ``(1 + content_bundled) * (1 + style_fd_bundled)``, at least 1; the less, the better. It is built
      like ArtFID (Wright and Ommer, GCPR 2022, section 3), but no number of this is one of that.
    - ``lpips_alex``, or ``squeeze`` or ``vgg``: the distance to the photo of Zhang et al., CVPR 2018, where torchvision
      has downloaded the weights of one of these networks before.

    Args:
        pictures: The style pictures, each (1, 3, H, W), values in [0, 1].
    """

    def __init__(self, pictures: Sequence[Tensor]) -> None:
        super().__init__()
        device = pictures[0].device
        self.network = build_loss_network("bundled", [LAYER]).to(device)
        self.content = MeanMetric().to(device)
        self.distances = nn.ModuleList([FrechetDistance(self._activations(picture)).to(device) for picture in pictures])
        self.lpips = nn.ModuleDict()
        if kind := next((kind for kind in _LPIPS if _is_at_hand(_LPIPS[kind])), None):
            lpips = LearnedPerceptualImagePatchSimilarity(cast(Any, kind), normalize=True)
            self.lpips[f"lpips_{kind}"] = lpips.to(device)

    @torch.no_grad()
    def update(self, images: Tensor, photos: Tensor, styles: Sequence[int]) -> None:
        """Count in images, (B, 3, H, W), with the photos that they were made of and the index of each one's style."""
        photos = photos.expand_as(images)
        found, wanted = self._activations(images), self._activations(photos)
        for activations, target, style in zip(found, wanted, styles, strict=True):
            self.content.update(relative_error(activations, target))
            cast(FrechetDistance, self.distances[style]).update(activations[None])
        for lpips in self.lpips.values():
            cast(Metric, lpips).update(images.clamp(0, 1), photos)

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores of all images so far."""
        content = self.content.compute()
        distance = torch.stack(
            [each.compute() for each in cast(list[FrechetDistance], self.distances) if each.update_count]
        ).mean()
        scores = {
            "content_bundled": content,
            "style_fd_bundled": distance,
            "art_bundled": (1 + content) * (1 + distance),
        }
        return scores | {name: cast(Metric, lpips).compute() for name, lpips in self.lpips.items()}

    @torch.no_grad()
    def _activations(self, images: Tensor) -> Tensor:
        activations: Tensor = self.network(images, [LAYER])[LAYER]
        return activations


def _is_at_hand(network: str) -> bool:
    url = get_model_weights(network).DEFAULT.url
    return Path(torch.hub.get_dir(), "checkpoints", Path(url).name).is_file()


def _sums(activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    flat = activations.double().transpose(0, 1).flatten(1)
    return flat.new_tensor(flat.shape[1]), flat.sum(1), flat @ flat.T


def _moments(count: Tensor, total: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    mean = total / count
    return mean, products / count - mean[:, None] * mean
