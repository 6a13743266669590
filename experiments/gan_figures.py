"""The figures of the page on norms in a GAN's generator, and what that page calls things."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from pandas import DataFrame
from PIL import Image

from experiments.layer_values import over_depth, over_time
from experiments.mixing import at_end
from experiments.page import Figure
from experiments.plots import NORMS, SMALL, Look, curves, panels
from experiments.reading import Runs
from mixing_analysis.plots import SOFT
from training.run import Run

SPECTRAL = {"discriminator": "with", "none": "without"}
"""How the page calls a discriminator whose weights are divided by their spectral norms, and another."""

FD, KID = "val/fd_garments", "val/kid_garments"
SIGMA, BOUND, ERROR = (f"spectral/discriminator/{name}" for name in ("sigma", "bound", "estimate_error"))
DIVERSITY = "guard/diversity"

STATISTICS = ("batch", "instance", "layer")

KINDS = {"rho": "rho", "mean_weight": "weights of means", "var_weight": "weights of variances"}
"""What norms learn, as :func:`experiments.layer_values.layer_values` calls it, and as the page does."""

ENLARGED, STRIDE, MARGIN, COLUMNS, LINES = 3, 30, 2, 8, 6
"""How often pictures of samples are enlarged; before that, pixels from an image to the next, and at edges; what is
shown."""


def named(frame: DataFrame) -> DataFrame:
    """Call the norm with a gamma and beta for each class ``conditional``, and say of each run how D is normalized."""
    norm = frame["norm"].where(frame["sweep"] != "gan_norms_classes", "conditional")
    return frame.assign(norm=norm, spectral=frame["spectral"].map(SPECTRAL))


def training_figures(runs: Runs) -> Iterator[Figure]:
    """Draw how good images get, and the singular values of the discriminator."""
    titles = [f"{word} spectral normalization" for word in SPECTRAL.values()]
    rows = {FD: "fd_garments", DIVERSITY: "diversity, share of real"}
    yield Figure(
        "training",
        _grid(runs, rows, titles),
        "Distance from the real images in the features of a classifier of garments, lower is better, and mean distance "
        "of generated images from each other as a share of that of real ones, where a generator that has collapsed "
        "would be near 0. Thin lines are seeds, thick ones their means; the titles are of the discriminator. "
        "Images of the conditional generator are compared with those of the same class, real ones with all.",
        "Curves of distance and diversity over the training for four norms, with and without spectral normalization",
    )
    rows = {SIGMA: "largest singular value", BOUND: "Lipschitz bound"}
    yield Figure(
        "sigma",
        _grid(runs, rows, titles, logarithmic=(BOUND,)),
        "The discriminator while it learns: the largest singular value of any of its weights as it is used, and a "
        "bound on the Lipschitz constant of the whole network, the latter on a logarithmic scale.",
        "Curves of singular values and Lipschitz bounds of the discriminator over the training",
    )


def _grid(runs: Runs, metrics: dict[str, str], titles: list[str], logarithmic: tuple[str, ...] = ()) -> Drawing:
    """Draw a line of plots for each metric: trainings with spectral normalization and without, in the same range."""
    drawing, axes = panels(2 * len(metrics), 2, 2.2)
    cells = iter(axes)
    for metric, label in metrics.items():
        found = named(runs.curves(metric))
        low, high = found["value"].min(), found["value"].max()
        margin = 0.05 * (high - low) or 1.0
        pair = [next(cells), next(cells)]
        for each, word in zip(pair, SPECTRAL.values(), strict=True):
            if metric in logarithmic:
                each.set_yscale("log")
                each.yaxis.set_major_formatter("{x:g}")
                each.set_ylim(low / 1.4, high * 1.4)
            else:
                each.set_ylim(low - margin, high + margin)
            curves(each, found[found["spectral"] == word], "norm")
        pair[0].set_ylabel(label)
    for each, title in zip(axes, titles, strict=False):
        each.set_title(title)
    for each in axes[:-2]:
        each.set_xlabel("")
    return drawing


def samples_figure(ends: DataFrame) -> Figure:
    """Draw the last samples of the first seed of each cell."""
    norms = [norm for norm in NORMS if norm in set(ends["norm"])]
    drawing, axes = panels(2 * len(norms), len(norms), 1.65)
    seed = ends["seed"].min()
    for place, word in enumerate(SPECTRAL.values()):
        for index, norm in enumerate(norms):
            cell = axes[place * len(norms) + index]
            own = ends[(ends["norm"] == norm) & (ends["spectral"] == word) & (ends["seed"] == seed)]
            cell.set_axis_off()
            cell.set_title(f"{NORMS[norm].label}, {word}", fontsize=SMALL + 1)
            if len(own):
                cell.imshow(_last_sample(str(own["folder"].iloc[0])), cmap="gray", vmin=0, vmax=255)
    return Figure(
        "samples",
        drawing,
        f"Images of the same latent vectors by the averaged generators at the end, seed {seed}, above with and below "
        "without spectral normalization in the discriminator. Of the conditional one each column is a class.",
        "Grids of generated garments for four norms with and without spectral normalization",
        "jpg",
    )


def _last_sample(folder: str) -> np.ndarray:
    """Return the first images of a run's last picture of samples, (H, W) in 0 to 255, not enlarged."""
    *_, last = sorted(Run(folder).samples.glob("step_*.png"))
    with Image.open(last) as picture:
        pixels = np.asarray(picture.convert("L"))[ENLARGED // 2 :: ENLARGED, ENLARGED // 2 :: ENLARGED]
    return pixels[: LINES * STRIDE + MARGIN, : COLUMNS * STRIDE + MARGIN]


def value_figures(values: DataFrame) -> list[Figure]:
    """Draw what rho and the switch weights have become over depth, and how they got there over time.

    Args:
        values: As :func:`experiments.layer_values.layer_values` returns them, named.
    """
    return [_over_depth(values), _over_time(values)] if len(values) else []


def _over_depth(values: DataFrame) -> Figure:
    layers, last = layers_of(values), at_end(values)
    drawing, axes = panels(len(KINDS), len(KINDS), 2.8, sharey=True)
    for cell, (kind, title) in zip(axes, KINDS.items(), strict=True):
        cell.set_title(title)
        for name, look, shift in lines(kind):
            for word, lift in (("with", -0.06), ("without", 0.06)):
                own = last[(last["name"] == name) & (last["spectral"] == word)]
                over_depth(cell, own, layers, look, shift + lift, filled=word == "with")
        cell.axvline(start(kind), color=SOFT, linewidth=0.8, linestyle=":")
        cell.set_xlabel("0 instance, 1 batch" if kind == "rho" else "weight")
    axes[0].set_xlim(right=1.03)
    _legend(drawing)
    return Figure(
        "depth",
        drawing,
        "What the generators' norms have become, from the first layer (top) to the last: the mean of rho over the "
        "channels, and the switch weights of means and of variances. Marks are means over seeds, lines their 95 % "
        "intervals; full marks with, hollow ones without spectral normalization in the discriminator. The dotted line "
        "is where they began.",
        "Rho and switch weights of the layers of the generator, with intervals over seeds",
    )


def _over_time(values: DataFrame) -> Figure:
    layers = layers_of(values)
    drawing, axes = panels(len(KINDS) * len(layers), len(layers), 1.35, sharex=True, sharey="row")
    places = [(kind, layer) for kind in KINDS for layer in layers]
    for cell, (kind, layer) in zip(axes, places, strict=True):
        for name, look, _ in lines(kind):
            for word in SPECTRAL.values():
                own = values[(values["name"] == name) & (values["spectral"] == word) & (values["layer"] == layer)]
                over_time(cell, own, look, dashed=word == "without")
    for cell, layer in zip(axes, layers, strict=False):
        cell.set_title(layer, fontsize=SMALL + 0.5)
    for cell, title in zip(axes[:: len(layers)], KINDS.values(), strict=True):
        cell.set_ylabel(title.removeprefix("weights of "))
    for cell in axes[-len(layers) :]:
        cell.set_xlabel("steps")
    _legend(drawing)
    return Figure(
        "time",
        drawing,
        "The same over the training, a column for each layer: lines are means over seeds, areas reach from the "
        "smallest to the largest; solid with, dashed without spectral normalization in the discriminator.",
        "Rho and switch weights of each layer of the generator over the training",
    )


def lines(kind: str) -> Iterator[tuple[str, Look, float]]:
    """Yield the name of each value of a kind, how it looks, and how far from the middle of its line it is drawn."""
    if kind == "rho":
        yield kind, NORMS["batch_instance"], 0.0
        return
    for place, statistic in enumerate(STATISTICS):
        yield f"{kind}/{statistic}", NORMS[statistic], 0.25 * (place - 1)


def _legend(drawing: Drawing) -> None:
    marks = [Line2D([], [], color=NORMS["batch_instance"].color, label="rho")]
    marks += [Line2D([], [], color=NORMS[name].color, label=f"weight of {name}") for name in STATISTICS]
    drawing.legend(handles=marks, loc="outside lower center", ncols=len(marks))


def start(kind: str) -> float:
    """Return where the values of a kind begin."""
    return 1.0 if kind == "rho" else 1 / len(STATISTICS)


def layers_of(values: DataFrame) -> list[str]:
    """List the layers in the order of the network."""
    return list(dict.fromkeys(values["layer"]))
