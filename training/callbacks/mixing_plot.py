"""The picture of what all layers have learned over a training."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from norms.kinds import MixingKind

MOST_COLUMNS = 200
"""Of more steps than this, only so many are drawn."""

MOST_NAMES = 40
"""Of more layers than this, only so many are named."""

Arrays = Mapping[str, np.ndarray]
"""What a network holds at one step: from ``<layer>/<kind>`` to the values, in the network's order."""


def chosen(steps: Sequence[int]) -> list[int]:
    """Return at most :data:`MOST_COLUMNS` of the steps, evenly, the first and the last among them."""
    places = np.linspace(0, len(steps) - 1, min(len(steps), MOST_COLUMNS))
    return [steps[place] for place in places.round().astype(int)]


def layer_means(steps: Mapping[int, Arrays], kind: MixingKind) -> tuple[list[str], np.ndarray]:
    """Return the layers with values of a kind, and their mean, or their value of each label, at each step.

    Args:
        steps: From each step to the values.
        kind: Which values.

    Returns:
        L layers, and an array of shape (labels or 1, L, steps), NaN where a step has no value.
    """
    keys = dict.fromkeys(key for found in steps.values() for key in found if key.rpartition("/")[2] == kind.name)
    means = np.full((max(1, len(kind.labels)), len(keys), len(steps)), np.nan)
    for column, found in enumerate(steps.values()):
        for row, key in enumerate(keys):
            if key in found:
                means[:, row, column] = found[key].mean() if kind.per_channel else found[key]
    return [key.rpartition("/")[0] for key in keys], means


def heat_map(steps: Mapping[int, Arrays], kinds: Sequence[MixingKind]) -> Image.Image:
    """Draw layers by steps, from the input of the network at the top to its output at the bottom.

    Args:
        steps: From each step to the values.
        kinds: What to draw, one row of maps for each: of values per channel the mean, of others one map for each label.
    """
    found = [layer_means(steps, kind) for kind in kinds]
    columns = max(len(means) for _, means in found)
    heights = [1 + 0.16 * min(len(layers), MOST_NAMES) for layers, _ in found]
    figure = Figure(figsize=(2 + 3.5 * columns, sum(heights)), dpi=100, layout="constrained")
    panels = figure.subplots(len(kinds), columns, squeeze=False, sharey="row", height_ratios=heights)
    for kind, (layers, means), row in zip(kinds, found, panels, strict=True):
        for panel in row[len(means) :]:
            panel.set_axis_off()
        for panel, numbers, label in zip(row, means, kind.labels or ("mean",), strict=False):
            look = {"vmin": kind.low, "vmax": kind.high, "aspect": "auto", "interpolation": "nearest"}
            image = panel.imshow(numbers, cmap="viridis", **look)
            panel.set_title(f"{kind.title}: {label}", fontsize=9)
            _name(panel, layers, list(steps))
        figure.colorbar(image, ax=row[len(means) - 1], fraction=0.05)
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream)


def _name(panel: Axes, layers: Sequence[str], steps: Sequence[int]) -> None:
    rows = range(0, len(layers), -(-len(layers) // MOST_NAMES))
    panel.set_yticks(rows, [layers[row] for row in rows], fontsize=7)
    places = sorted({0, (len(steps) - 1) // 2, len(steps) - 1})
    panel.set_xticks(places, [str(steps[place]) for place in places], fontsize=7)
    panel.set_xlabel("step", fontsize=8)
