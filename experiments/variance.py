"""Which of several causes makes numbers differ: the variance components of a crossed design."""

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np

Factors = tuple[str, ...]


def components(values: np.ndarray, factors: Sequence[str]) -> dict[Factors, float]:
    r"""Split the variance of numbers of which there is one for each combination of the levels of some factors.

    All effects are taken for random. With :math:`n_f` levels of factor f, the mean square of the effect of a set S of
    factors is expected to be

    .. math::
        E[MS_S] = \sum_{T \supseteq S} \sigma_T^2 \prod_{f \notin T} n_f

    which is solved from the interaction of all factors, with which the error is one, down to the single factors. What
    comes out below 0 is 0.

    Args:
        values: Finite numbers, an axis for each factor, of two levels or more each.
        factors: The names of the factors.

    Returns:
        The variance :math:`\sigma_S^2` of each set of factors, by their names in the given order.

    Raises:
        ValueError: If a number is not finite, or a factor has a single level.

    Source:
        Searle, Casella and McCulloch, Variance Components, 1992, section 4.3, for balanced data.
    """
    if not np.isfinite(values).all() or min(values.shape) < 2 or values.ndim != len(factors):
        raise ValueError(f"expected finite numbers of two levels or more of {', '.join(factors)}, got {values.shape}")
    places = range(values.ndim)
    subsets = list(chain.from_iterable(combinations(places, size) for size in range(values.ndim, 0, -1)))
    found: dict[tuple[int, ...], float] = {}
    for own in subsets:
        freedom = np.prod([values.shape[place] - 1 for place in own])
        repeats = np.prod([values.shape[place] for place in places if place not in own])
        square = repeats * float((_effect(values, own) ** 2).sum()) / freedom
        larger = sum(
            found[other] * np.prod([values.shape[place] for place in places if place not in other])
            for other in found
            if set(own) < set(other)
        )
        found[own] = max(0.0, float((square - larger) / repeats))
    return {
        tuple(factors[place] for place in own): found[own] for own in sorted(found, key=lambda own: (len(own), own))
    }


def shares(found: dict[Factors, float], order: Sequence[str]) -> dict[str, float]:
    """Add up variance components, each to the last factor of ``order`` that it contains, as shares of their sum.

    Args:
        found: What :func:`components` returns.
        order: The factors.

    Returns:
        The share of each factor with its interactions with those before it; NaN if nothing varies.
    """
    total = sum(found.values())
    parts = dict.fromkeys(order, 0.0)
    for names, variance in found.items():
        parts[max(names, key=list(order).index)] += variance
    return {name: part / total if total else float("nan") for name, part in parts.items()}


def _effect(values: np.ndarray, own: Sequence[int]) -> np.ndarray:
    """Return the effect of the factors ``own`` beyond that of fewer of them, without the other axes."""
    others = tuple(place for place in range(values.ndim) if place not in own)
    effect: np.ndarray = values.mean(axis=others) if others else values
    for axis in range(effect.ndim):
        effect = effect - effect.mean(axis=axis, keepdims=True)
    return effect
