"""The colors of one picture given to another."""

import numpy as np
from PIL import Image

_PART = 2**20
"""How many pixels are looked at at once."""

_LEAST = 1e-2
"""Variance, in squared tones of 255, that a direction of colors counts as having at least: gray pictures have none."""


def match_histograms(picture: Image.Image, reference: Image.Image) -> Image.Image:
    """Give each color channel of a picture the histogram of the reference.

    A tone becomes the tone below which the reference has as many pixels, ``F_reference^-1(F_picture(tone))``, with
    cumulative histograms F that are interpolated linearly.

    Args:
        picture: RGB.
        reference: RGB, of any size.

    Returns:
        RGB, of the size of ``picture``.

    Source:
        Gonzalez and Woods, Digital Image Processing, section 3.3.
    """
    tones: list[float] = []
    for own, other in zip(_cumulative(picture), _cumulative(reference), strict=True):
        there = np.diff(other, prepend=0) > 0  # by the tones that the reference has
        tones += np.interp(own, other[there], np.arange(256)[there]).round().tolist()
    return picture.point(tones)


def match_covariance(picture: Image.Image, reference: Image.Image) -> Image.Image:
    r"""Give the colors of a picture the mean and covariance of those of the reference, by an affine map.

    .. math::
        p' = \Sigma_r^{1/2} \Sigma_p^{-1/2} (p - \mu_p) + \mu_r

    with symmetric square roots. What leaves [0, 255] is clipped.

    Args:
        picture: RGB.
        reference: RGB, of any size.

    Returns:
        RGB, of the size of ``picture``.

    Source:
        Gatys et al., Preserving Color in Neural Artistic Style Transfer, 2016, section 2.1, arXiv 1606.05897, the map
        of Hertzmann's Image Analogies.
    """
    (mean, covariance), (new_mean, new_covariance) = _moments(picture), _moments(reference)
    matrix = _power(new_covariance, 0.5) @ _power(covariance, -0.5)
    rows = np.column_stack([matrix, new_mean - matrix @ mean])
    return picture.convert("RGB", tuple(rows.ravel().tolist()))


def _cumulative(image: Image.Image) -> np.ndarray:
    """Return the share of pixels up to each tone, for each channel: shape (3, 256)."""
    counts = np.array(image.histogram(), float).reshape(3, 256)
    return counts.cumsum(1) / counts.sum(1, keepdims=True)


def _moments(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.asarray(image).reshape(-1, 3)
    mean = pixels.mean(0)
    parts = (pixels[first : first + _PART] - mean for first in range(0, len(pixels), _PART))
    return mean, sum((part.T @ part for part in parts), np.zeros((3, 3))) / len(pixels)


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * values.clip(_LEAST) ** exponent) @ vectors.T)
