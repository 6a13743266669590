"""Which images are drawn: a latent vector and a class for each, as functions of a seed and its number alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.stream import generator, seed_for
from norms.errors import SettingError, check_range, unknown

WIDEST = 10.0
"""The largest threshold of a truncation; beyond it no latent value ever lies."""


@dataclass(frozen=True)
class Plan:
    """Say which images are drawn.

    Attributes:
        count: How many.
        latent_dim: Length of a latent vector.
        seed: Image i has the latent vector of (seed, i).
        truncation: See :func:`truncated`; None for none.
        labels: The classes, which images take in turn; empty for a generator without.
        sweeps: Whether to draw every latent vector in every class: image i is then in row i // columns and column
            i % columns of a grid with a row for each class and a column for each latent vector.
    """

    count: int
    latent_dim: int
    seed: int = 0
    truncation: float | None = None
    labels: tuple[int, ...] = ()
    sweeps: bool = False

    @property
    def columns(self) -> int:
        """The number of latent vectors in a sweep."""
        return self.count // len(self.labels)

    def vector(self, number: int) -> int:
        """Return the number of the latent vector of an image."""
        return number % self.columns if self.sweeps else number

    def label(self, number: int) -> int:
        """Return the class of an image."""
        return self.labels[number // self.columns if self.sweeps else number % len(self.labels)]

    def latents(self, numbers: Sequence[int]) -> Tensor:
        """Return the latent vectors of images, (N, latent_dim), on the CPU."""
        return latents([self.vector(number) for number in numbers], self.latent_dim, self.seed, self.truncation)

    def seeds(self, numbers: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
        """Return what to seed ``torch.Generator`` with for the latent vectors without truncation, (N,)."""
        return np.array([seed_for(self.seed, self.vector(number)) for number in numbers], np.uint64)

    def classes(self, numbers: Sequence[int]) -> Tensor | None:
        """Return the classes of images, (N,), or None if there are none."""
        return torch.tensor([self.label(number) for number in numbers]) if self.labels else None


def latents(numbers: Sequence[int], latent_dim: int, seed: int = 0, truncation: float | None = None) -> Tensor:
    """Draw latent vectors, each a function of ``seed`` and its number alone, (N, latent_dim), on the CPU.

    Vector i is what ``torch.randn`` draws with ``torch.Generator().manual_seed(data.stream.seed_for(seed, i))``.
    """
    drawn = torch.stack([torch.randn(latent_dim, generator=generator(seed, number)) for number in numbers])
    return drawn if truncation is None else truncated(drawn, truncation)


def truncated(latents: Tensor, threshold: float) -> Tensor:
    r"""Map standard normal values to a normal distribution cut off at ``-threshold`` and ``threshold``.

    .. math::
        z' = \sqrt 2 \operatorname{erf}^{-1}\left(\operatorname{erf}(z / \sqrt 2) \operatorname{erf}(t / \sqrt 2)\right)

    has the distribution of values that are drawn again until they lie within the threshold t, as in BigGAN's truncation
    trick, and grows with z. So an image with truncation is akin to the one without. Running statistics of a generator
    stay those of all noise, where the authors' models have some for each threshold.

    Args:
        latents: Standard normal values of any shape.
        threshold: Above 0, at most :data:`WIDEST`.

    Raises:
        SettingError: If the threshold is outside its range.

    Source:
        Brock et al., Large Scale GAN Training for High Fidelity Natural Image Synthesis, ICLR 2019, arXiv 1809.11096,
        section 3.1.
    """
    check_range("--truncation", threshold, above=0, at_most=WIDEST)
    inside = math.erf(threshold / math.sqrt(2))
    shares = torch.special.erf(latents.double() / math.sqrt(2)) * inside
    return (math.sqrt(2) * torch.special.erfinv(shares)).to(latents.dtype).clamp(-threshold, threshold)


def slerp(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    r"""Go from one vector to another by spherical interpolation, which keeps to lengths that normal noise has.

    .. math::
        \frac{\sin((1 - s) \omega)}{\sin \omega} a + \frac{\sin(s \omega)}{\sin \omega} b

    with the angle :math:`\omega` between a and b. Where they are parallel, it is the straight line.

    Args:
        start: The vector a, shape (D,).
        end: The vector b, shape (D,).
        shares: How far to go, s in [0, 1], shape (N,).

    Returns:
        The vectors, shape (N, D).

    Source:
        Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985; White, Sampling Generative Networks, 2016,
        arXiv 1609.04468.
    """
    a, b, s = start.double(), end.double(), shares.double()[:, None]
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0).clamp(-1, 1)
    angle = torch.acos(cosine)
    if torch.sin(angle) < 1e-6:
        return (a + s * (b - a)).to(start.dtype)
    return ((torch.sin((1 - s) * angle) * a + torch.sin(s * angle) * b) / torch.sin(angle)).to(start.dtype)


def find_labels(given: Sequence[str], num_classes: int, names: Sequence[str]) -> tuple[int, ...]:
    """Find the classes that a user names; without any, all of them.

    Args:
        given: Names, or numbers from 0 on. A name counts before a number, as in data whose classes are called 1 to 10.
        num_classes: How many classes there are.
        names: What they are called; empty if nobody knows.

    Raises:
        SettingError: If there are no classes, or not such.
    """
    if given and not num_classes:
        raise SettingError("--label: this generator knows no classes: it was trained with num_classes: 0")
    return tuple(_find_label(each, num_classes, names) for each in given) or tuple(range(num_classes))


def _find_label(given: str, num_classes: int, names: Sequence[str]) -> int:
    for known, wanted in ((list(names), given), ([name.lower() for name in names], given.lower())):
        if wanted in known:
            return known.index(wanted)
    if given.removeprefix("-").isdecimal():
        check_range("--label", int(given), at_least=0, at_most=num_classes - 1)
        return int(given)
    if not names:
        raise SettingError(
            f"--label {given}: nobody knows what the classes are called: give one of 0 to {num_classes - 1}"
        )
    raise unknown("class", given, names)
