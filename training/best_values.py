"""Which metrics are better the higher they are."""

from typing import Literal

THE_MORE_THE_BETTER = ("accuracy", "is", "precision", "recall", "density", "coverage")
"""How the names of metrics begin, after ``val/``, of which the highest is best."""


def best_of(metric: str) -> Literal["min", "max"]:
    """Return whether the lowest or the highest value of a metric, such as ``val/kid_garments``, is best."""
    return "max" if metric.rpartition("/")[2].partition("_")[0] in THE_MORE_THE_BETTER else "min"
