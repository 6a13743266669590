"""Numbers from features of real and of generated images, in float64.

Features are (N, D), one row for each image. Nothing here moves a random state of anybody else's.
"""

from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import Tensor

SCORES = ("fd", "kid", "is", "precision", "recall", "density", "coverage")
"""All of them; of the first two, less is better, of all others, more."""

SPLITS = 10
"""Parts of the images over which an Inception Score is averaged."""

SUBSETS, SUBSET_SIZE = 100, 1000
"""Of a kernel distance on many images."""

ALL_PAIRS = 5000
"""Images up to which a kernel distance is estimated from all pairs."""

NEIGHBORS, DENSITY_NEIGHBORS = 3, 5
"""Up to which nearest neighbor the ball around an image reaches: for precision and recall, density and coverage."""

_SEED = 2020  # of the order and the subsets, torch-fidelity's
_AT_ONCE = 2**24  # pairs, 128 MiB


def compute_scores(names: Collection[str], real: Tensor, fake: Tensor, logits: Tensor) -> dict[str, float]:
    """Compute numbers of one set of features.

    Args:
        names: Some of :data:`SCORES`.
        real: Features of real images, shape (M, D).
        fake: Features of generated images, shape (N, D).
        logits: Of the classes of generated images, shape (N, K).

    Returns:
        The numbers by name.
    """
    found = {}
    if "fd" in names:
        found["fd"] = frechet_distance(real, fake)
    if "kid" in names:
        found["kid"] = kernel_distance(real, fake)
    if "is" in names:
        found["is"] = inception_score(logits)
    if not {"precision", "recall", "density", "coverage"}.isdisjoint(names):
        found |= neighborhoods(real, fake)
    return {name: found[name] for name in names}


def fewest_images(name: str, dimension: int) -> int:
    """Return from how many images on a number means something, for features of a dimension."""
    return {"fd": dimension + 1, "kid": 2, "is": SPLITS}.get(name, DENSITY_NEIGHBORS + 1)


def estimators(names: Collection[str], real: int, fake: int) -> dict[str, str]:
    """Return in words how numbers of so many images are estimated."""
    kid = "all pairs" if _takes_all_pairs(real, fake) else f"{SUBSETS} subsets of {SUBSET_SIZE}"
    words = {"fd": "unbiased covariances", "kid": f"unbiased, {kid}", "is": f"{SPLITS} splits"}
    words |= dict.fromkeys(("precision", "recall"), f"k = {NEIGHBORS}")
    words |= dict.fromkeys(("density", "coverage"), f"k = {DENSITY_NEIGHBORS}")
    return {name: words[name] for name in names}


def frechet(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    r"""Compute the squared Fréchet distance of two Gaussians.

    .. math::
        d = \lVert \mu_1 - \mu_2 \rVert^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

    The root's trace is the sum of the roots of the eigenvalues of :math:`\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2}`, which
    is symmetric and has no negative ones.

    Args:
        mean: Of the first, shape (D,).
        covariance: Of the first, shape (D, D).
        other_mean: Of the second.
        other_covariance: Of the second.

    Returns:
        The distance, at least 0 but for rounding.

    Source:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017, section 4, equation 6.
    """
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    roots = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp_min(0).sqrt().sum()
    return (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * roots


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Compute :func:`frechet` of the means and unbiased covariances of two sets of features, at least two of each."""
    real, fake = real.double(), fake.double()
    return float(frechet(real.mean(0), real.T.cov(), fake.mean(0), fake.T.cov()))


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    r"""Compute the squared maximum mean discrepancy with the kernel :math:`k(x, y) = (x \cdot y / D + 1)^3`.

    .. math::
        \frac{1}{m (m - 1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{n (n - 1)} \sum_{i \ne j} k(y_i, y_j)
        - \frac{2}{m n} \sum_{i, j} k(x_i, y_j)

    It is unbiased, so it may be negative. Of at most 5,000 images, all pairs count. Of more, it is the mean over 100
    pairs of subsets of 1,000, the same ones as in torch-fidelity.

    Source:
        Bińkowski et al., Demystifying MMD GANs, ICLR 2018, section 4.
    """
    real, fake = real.double(), fake.double()
    if _takes_all_pairs(len(real), len(fake)):
        return _discrepancy(real, fake)
    random = np.random.RandomState(_SEED)
    # torch-fidelity draws the generated ones first.
    return float(np.mean([_discrepancy(_subset(fake, random), _subset(real, random)) for _ in range(SUBSETS)]))


def inception_score(logits: Tensor) -> float:
    r"""Compute :math:`\exp \frac{1}{n} \sum_i KL(p(y | x_i) \Vert p(y))`, averaged over ten parts of the images.

    It lies between 1 and the number of classes K.

    Args:
        logits: Of the classes of generated images, shape (N, K), N at least 10.

    Source:
        Salimans et al., Improved Techniques for Training GANs, NeurIPS 2016, section 4.
    """
    order = torch.from_numpy(np.random.RandomState(_SEED).permutation(len(logits))).to(logits.device)
    log_p = logits.double()[order].log_softmax(1)
    scores = []
    for split in range(SPLITS):
        part = log_p[len(log_p) * split // SPLITS : len(log_p) * (split + 1) // SPLITS]
        marginal = part.logsumexp(0) - np.log(len(part))
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    return float(np.mean(scores))


def neighborhoods(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Count images in the balls around others, each of which reaches up to the k-th nearest neighbor of its own kind.

    - ``precision``: the share of generated images in a ball of a real one, k = 3;
    - ``recall``: the share of real images in a ball of a generated one, k = 3;
    - ``density``: in how many balls of real images a generated one lies on average, divided by k = 5; may exceed 1;
    - ``coverage``: the share of real images with a generated one in their ball, k = 5.

    Args:
        real: Features of real images, shape (M, D), M at least 6.
        fake: Features of generated ones, shape (N, D), N at least 6.

    Source:
        Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, NeurIPS 2019,
        equation 2; Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020, equations 5
        and 6, whose balls are open.
    """
    nearest = _nearest(real)
    radii, dense_radii, fake_radii = nearest[:, NEIGHBORS], nearest[:, DENSITY_NEIGHBORS], _nearest(fake)[:, NEIGHBORS]
    precise = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    balls = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled, covered = [], []
    for rows, distances in _distances(real, fake):
        precise |= (distances <= radii[rows, None]).any(0)
        balls += (distances < dense_radii[rows, None]).sum(0)
        recalled.append((distances <= fake_radii).any(1))
        covered.append(distances.amin(1) < dense_radii[rows])
    return {
        "precision": _mean(precise),
        "recall": _mean(torch.cat(recalled)),
        "density": _mean(balls) / DENSITY_NEIGHBORS,
        "coverage": _mean(torch.cat(covered)),
    }


def _takes_all_pairs(real: int, fake: int) -> bool:
    return max(real, fake) <= ALL_PAIRS or min(real, fake) < SUBSET_SIZE


def _subset(features: Tensor, random: np.random.RandomState) -> Tensor:
    return features[torch.from_numpy(random.choice(len(features), SUBSET_SIZE, replace=False)).to(features.device)]


def _discrepancy(x: Tensor, y: Tensor) -> float:
    m, n = len(x), len(y)
    # The kernel of an image with itself does not count.
    within_x = _kernel_sum(x, x) - _kernel(x.square().sum(1), x.shape[1]).sum()
    within_y = _kernel_sum(y, y) - _kernel(y.square().sum(1), y.shape[1]).sum()
    return float(within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2 * _kernel_sum(x, y) / (m * n))


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([_kernel(part @ y.T, x.shape[1]).sum() for part in x.split(_rows(y))]).sum()


def _kernel(products: Tensor, dimension: int) -> Tensor:
    return (products / dimension + 1) ** 3


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the distances of some rows of ``x`` to all of ``y``, with the slice of these rows."""
    for begin in range(0, len(x), _rows(y)):
        rows = slice(begin, begin + _rows(y))
        yield rows, torch.cdist(x[rows].double(), y.double())


def _rows(y: Tensor) -> int:
    return max(1, _AT_ONCE // len(y))


def _nearest(x: Tensor) -> Tensor:
    """Return how far the nearest images are from each, the first of which is itself."""
    count = DENSITY_NEIGHBORS + 1
    return torch.cat([distances.topk(count, largest=False).values for _, distances in _distances(x, x)])


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
