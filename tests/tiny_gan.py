"""A GAN of a few weights and its data, for tests of what accompanies it."""

import torch
from torch import nn

from data.arrays import ArrayImages
from data.module import ImageDataModule
from data.stream import generator
from lightning_modules.gan import GAN


class Generator(nn.Sequential):
    image_size = 8

    def __init__(self, channels, latent_dim):
        super().__init__(
            nn.Linear(latent_dim, 64 * channels),
            nn.BatchNorm1d(64 * channels),
            nn.Unflatten(1, (channels, 8, 8)),
            nn.Tanh(),
        )


def networks(channels, latent_dim, norm, norm_options=None):
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, 1), nn.Flatten(0))
    return Generator(channels, latent_dim), discriminator


class Blots(ImageDataModule):
    """50 + 40 gray images of 8 x 8 pixels with a blot, somewhere."""

    native_size = 8

    def __init__(self, batch_size: int = 4, seed: int = 0, batches_per_step: int = 1, channels: int = 1):
        super().__init__(batch_size, None, 0, seed, batches_per_step)
        self.made_channels = channels

    @property
    def channels(self):
        return self.made_channels

    def load(self):
        images = 30 * torch.rand(90, self.channels, 8, 8, generator=generator(0))
        for index, image in enumerate(images):
            image[:, index % 5 : index % 5 + 3, index % 4 : index % 4 + 3] += 200
        images = images.byte()
        return ArrayImages(images[:50], 8), ArrayImages(images[50:], 8)


def gan(**options):
    settings = {"architecture": networks, "channels": 1, "latent_dim": 4, "n_dis": 1, "lr": 1e-2, "ema_half_life": 20}
    torch.manual_seed(0)
    return GAN(**{**settings, **options})
