"""LeNet on Fashion-MNIST with seven norms, and what gamma and beta become."""

from typing import Literal

from pandas import DataFrame, concat

from experiments import plots
from experiments.page import Claim, Figure, Page, Table
from experiments.reading import Runs
from experiments.speed import steps_to
from experiments.summaries import mean_text, summary
from experiments.verdicts import paired

SWEEPS = ("lenet_norms", "lenet_everywhere")

ACCURACY, TRAIN, STEPS, CELL = "val/accuracy", "train/accuracy", "steps to that", "cell"
EVERYWHERE = "batch everywhere"
"""The cell with batch normalization after the dense layers too."""

LAYERS = ("conv1", "conv2", "dense1", "dense2")
LONG = {"mean": "mean", "var": "variance"}
BOOK = "Zhang et al., Dive into Deep Learning, sections on LeNet and on batch normalization"
GROUP = "Wu & He 2018, table 1"

ORDERS: tuple[tuple[str, str, str, str, Literal[1, -1]], ...] = (
    ("layer", "Layer normalization ends below batch normalization.", GROUP, "ResNet-50, ImageNet: error 25.3 % against "
     "23.6 %", -1),
    ("group", "Group normalization ends below batch normalization, if the batch is large enough.", GROUP, "ResNet-50, "
     "ImageNet: error 24.1 % against 23.6 %", -1),
    ("instance", "Instance normalization ends below batch normalization.", GROUP, "ResNet-50, ImageNet: error 28.4 % "
     "against 23.6 %", -1),
    ("batch_instance", "Batch-instance normalization ends above batch normalization.", "Nam & Kim 2018",
     "ResNet-110, CIFAR-10: accuracy 94.29 % against 93.72 %", 1),
    ("switchable", "Switchable normalization ends above batch normalization.", "Luo et al. 2019, the "
     "authors' repository", "ResNet-50, ImageNet, batches of 32 a GPU: accuracy 76.9 % against 76.4 %", 1),
)  # fmt: skip
"""Claims on a norm against batch normalization: norm, text, source, published figure and side."""


def page(runs: Runs) -> Page:
    """Make the page."""
    frame = runs.last(ACCURACY, TRAIN, share=0.25)  # three validations
    frame[CELL] = frame["norm"].where(frame["sweep"] == "lenet_norms", EVERYWHERE)
    frame = frame[frame["state"] == "finished"].copy()
    without = frame[frame[CELL] == "none"].set_index("seed")[ACCURACY]
    frame[STEPS] = steps_to(runs, frame, ACCURACY, frame["seed"].map(without))
    affine = affine_values(runs, frame)
    return Page(
        "Seven norms in LeNet",
        "A textbook example of batch normalization is LeNet with sigmoids on Fashion-MNIST, by gradient descent at the "
        "rate 1. How fast and how far does it learn with each of seven norms after its convolutions? And what do the "
        "scales and offsets, gamma and beta, become, which the textbook prints for one layer?",
        _claims(frame),
        [_figure_learning(runs), _figure_ends(frame), *_figures_affine(affine)],
        [
            Table(
                summary(
                    frame.rename(columns={ACCURACY: "held-out accuracy", TRAIN: "training accuracy"}),
                    [CELL],
                    {"held-out accuracy": ".4f", "training accuracy": ".4f", STEPS: ".0f"},
                ),
                "Mean ± standard deviation over seeds; accuracies are means over the last quarter of the training. "
                "*Steps to that* are those to the first validation that is as good as the end of the network of the "
                f"same seed without a norm. *{EVERYWHERE}* has batch normalization after the dense layers too.",
            ),
            Table(
                affine_table(affine),
                "What gamma and beta have become after the training, from 1 and 0: mean over channels and seeds ± "
                "standard deviation over them, of all layers that have them.",
            ),
            Table(
                mixing_table(runs),
                "What the layers that choose between statistics have chosen in the end: the mean of rho, whose 1 is "
                "the batch and whose 0 the instance, and the share of each statistic. Mean ± standard deviation over "
                "seeds.",
            ),
        ],
        [
            "A textbook trains ten epochs with batches of 256, which is 2,350 steps; "
            "`configs/experiments/lenet_norms_published.yaml` does so. This training sees less than one epoch.",
            "Initial weights are twice as large as PyTorch's own, which lets sigmoids without a norm begin to learn "
            "within these few steps.",
            "All norms have one learning rate, that at which the textbook trains with batch normalization; it takes "
            "0.9 without. The best rate of another norm may be another.",
            "Except for the cell that says otherwise, dense layers have no norm, so that norms with instance "
            "statistics and others are compared alike; the textbook has batch normalization there too.",
        ],
    )


def affine_values(runs: Runs, frame: DataFrame) -> DataFrame:
    """Read gamma and beta of each layer from the last checkpoint of each run.

    Args:
        runs: The runs.
        frame: A row per run, with the column ``cell``.

    Returns:
        A row per channel: ``cell``, ``seed``, ``layer``, ``gamma`` and ``beta``.
    """
    parts = []
    cells = dict(zip(frame["folder"], frame[CELL], strict=True))
    for row, run in runs.each():
        if row.folder not in cells:
            continue
        for layer in LAYERS:
            gamma, beta = (run.weights.get(f"feature_net.layers.{layer}.norm.{name}") for name in ("weight", "bias"))
            if gamma is not None and beta is not None:
                values = {"gamma": gamma.numpy(), "beta": beta.numpy()}
                parts.append(DataFrame({CELL: cells[row.folder], "seed": row.seed, "layer": layer, **values}))
    return concat(parts, ignore_index=True)


def affine_table(affine: DataFrame) -> DataFrame:
    """Sum up gamma and beta by cell and layer."""
    rows = []
    for (cell, layer), channels in affine.groupby([CELL, "layer"], sort=False):
        count = channels.groupby("seed").size().iloc[0]
        texts = {name: mean_text(channels[name], ".2f").partition(" (")[0] for name in ("gamma", "beta")}
        rows.append({CELL: cell, "layer": layer, "channels": count, "seeds": channels["seed"].nunique(), **texts})
    return DataFrame(rows)


def mixing_table(runs: Runs) -> DataFrame:
    """Sum up rho and the switch weights of each layer at the end of the trainings."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in runs.frame[runs.frame["norm"].isin(["batch_instance", "switchable"])].itertuples():
        metrics = runs.metrics(str(row.folder))
        for name in metrics:
            kind, layer, *what = str(name).split("/")
            if layer != "all" and (kind == "switch" or (kind == "rho" and what == ["mean"])):
                value = "rho" if kind == "rho" else f"share of {what[1]} in the {LONG[what[0]]}"
                place = layer.partition("_")[2].removesuffix("_norm")
                found.setdefault((place, value), []).append(float(metrics[name].dropna().iloc[-1]))
    return DataFrame(
        [
            {"layer": layer, "value": value, "in the end": mean_text(values, ".2f")}
            for (layer, value), values in found.items()
        ]
    )


def _claims(frame: DataFrame) -> list[Claim]:
    end, soon = paired(frame, CELL, "none", EVERYWHERE, ACCURACY), paired(frame, CELL, "none", EVERYWHERE, STEPS)
    ends = frame.pivot_table(index="seed", columns=CELL, values=ACCURACY)
    least = (ends[EVERYWHERE] - ends["none"]).min() if {EVERYWHERE, "none"} <= {*ends} else float("nan")
    claims = [
        Claim(
            "LeNet ends with a higher accuracy with batch normalization after every layer.",
            BOOK,
            "after ten epochs about 0.84 with it and 0.78 to 0.82 without (outputs of single runs)",
            f"{end.second:.1%} with, {end.first:.1%} without: {end.text('+.3f')}; "
            f"the smallest difference of a seed is {least:+.3f}",
            end.verdict(1),
            "held-out accuracy over the last quarter of the training, with minus without, paired by seed",
        ),
        Claim(
            "It learns faster with batch normalization.",
            BOOK,
            '"consistently accelerates the convergence of deep networks"',
            f"{soon.second:.0f} steps with, {soon.first:.0f} without: {soon.text('+.0f')}",
            soon.verdict(-1),
            "steps to the first validation as good as the end without a norm, with minus without, paired by seed",
        ),
    ]
    for norm, text, source, published, side in ORDERS:
        effect = paired(frame, CELL, "batch", norm, ACCURACY)
        here = f"{effect.second:.1%} against {effect.first:.1%}: {effect.text('+.3f')}"
        rule = f"held-out accuracy over the last quarter of the training, {norm} minus batch, paired by seed"
        claims.append(Claim(text, source, published, here, effect.verdict(side), rule))
    return claims


def _figure_learning(runs: Runs) -> Figure:
    drawing, (left, right) = plots.panels(2)
    for axes, metric, label in ((left, "train/loss", "training loss"), (right, ACCURACY, "held-out accuracy")):
        curves = runs.curves(metric)
        plots.curves(axes, curves[curves["sweep"] == "lenet_norms"], "norm")
        axes.set_ylabel(label)
    return Figure(
        "learning",
        drawing,
        "The loss of the batches that are trained on, and the accuracy on held-out images, with seven norms after the "
        "convolutions: a thin line for each seed, a thick one for their mean.",
        "Two plots over steps, training loss and held-out accuracy, with a curve for each norm.",
    )


def _figure_ends(frame: DataFrame) -> Figure:
    drawing, (left, right) = plots.panels(2)
    shown = frame[frame[CELL] != EVERYWHERE]
    plots.points(left, shown, CELL, ACCURACY)
    left.set_xlabel("held-out accuracy at the end")
    plots.points(right, shown, CELL, STEPS)
    right.set_xlabel("steps until as good as none at its end")
    return Figure(
        "ends",
        drawing,
        "How well the network with each norm classifies at the end, and after how many steps it first was as good as "
        "the network without a norm at its end: a mark for each seed, a bar at their mean.",
        "Two plots with a row for each norm.",
    )


def _figures_affine(affine: DataFrame) -> list[Figure]:
    """Draw what gamma and beta have become: of each norm in both convolutions, and in each layer of the textbook's."""
    norms, everywhere = affine[affine[CELL] != EVERYWHERE], affine[affine[CELL] == EVERYWHERE]
    drawing, axes = plots.panels(4, 2)
    for place, layer in enumerate(("conv1", "conv2")):
        for panel, name, start in zip(axes[2 * place :], ("gamma", "beta"), (1, 0), strict=False):
            panel.axvline(start, color=plots.SOFT, linewidth=0.8, linestyle=":")
            plots.points(panel, norms[norms["layer"] == layer], CELL, name)
            panel.set_xlabel(f"{name} of {layer}")
    book, panels = plots.panels(2)
    for panel, name, start in zip(panels, ("gamma", "beta"), (1, 0), strict=True):
        panel.axvline(start, color=plots.SOFT, linewidth=0.8, linestyle=":")
        plots.points(panel, everywhere, "layer", name)
        panel.set_xlabel(name)
    return [
        Figure(
            "affine",
            drawing,
            "What gamma and beta of the first (top) and second convolution have become with each norm: a mark for each "
            "channel of each seed, a bar at their mean. They began at the dotted lines.",
            "Four plots of gamma and beta with a row for each norm.",
        ),
        Figure(
            "everywhere",
            book,
            "The same of the network that has batch normalization after all of its layers.",
            "Two plots of gamma and beta with a row for each layer.",
        ),
    ]
