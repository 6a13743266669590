"""Figure 1 of the paper on batch normalization: sigmoids on MNIST, and what goes into the last of them."""

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame

from experiments import plots
from experiments.page import Claim, Figure, Page, Table
from experiments.reading import Runs
from experiments.speed import steps_to
from experiments.summaries import summary
from experiments.verdicts import paired

LAST = "activations/02_dense3_activation"
"""What the run calls the last sigmoid."""

Inputs = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""From the folder of a run to what :func:`unit_percentiles` returns of it."""

PERCENTILES = ("p15", "p50", "p85")
PARTS = 10
LABELS = {"none": "without", "batch": "with"}
SOURCE = "Ioffe & Szegedy 2015, section 4.1, figure 1"
DRIFT, RELATIVE, CHANGE, ACCURACY, STEPS = (
    "drift of the median",
    "drift / width",
    "change of the width",
    "val/accuracy",
    "steps to that",
)

UNITS_RULE = (
    f"mean over {{units}} units of the standard deviation, over the {PARTS} parts of the training, of the unit's "
    "{what}, with minus without, paired by seed"
)


def page(runs: Runs) -> Page:
    """Make the page."""
    frame = runs.last(ACCURACY, f"{LAST}/saturated")
    frame = frame[frame["state"] == "finished"].copy()
    frame[STEPS] = steps_to(runs, frame, ACCURACY, frame.groupby("seed")[ACCURACY].transform("min"))
    inputs = {folder: unit_percentiles(runs.metrics(folder)) for folder in frame["folder"]}
    movements = [movement(*inputs[folder]) for folder in frame["folder"]]
    frame[DRIFT] = [medians.mean() for medians, _ in movements]
    frame[RELATIVE] = [
        (medians / (inputs[folder][1][..., 2] - inputs[folder][1][..., 0]).mean(0)).mean()
        for (medians, _), folder in zip(movements, frame["folder"], strict=True)
    ]
    frame[CHANGE] = [widths.mean() for _, widths in movements]
    units = max(len(medians) for medians, _ in movements)
    return Page(
        "Sigmoids on MNIST, and what goes into them",
        "Figure 1 of the paper that introduced batch normalization trains three hidden layers of 100 sigmoids on MNIST "
        "with it and without, and shows what one sigmoid of the last layer is given while it learns. Does the network "
        "learn faster with batch normalization, does it end better, and are the inputs of its sigmoids more stable?",
        _claims(frame, units),
        [_figure_1(runs, frame, inputs), _figure_units(frame, inputs)],
        [
            Table(
                summary(
                    frame.rename(columns={ACCURACY: "held-out accuracy", f"{LAST}/saturated": "saturated"}),
                    ["norm"],
                    {
                        "held-out accuracy": ".4f",
                        STEPS: ".0f",
                        DRIFT: ".3f",
                        RELATIVE: ".3f",
                        CHANGE: ".3f",
                        "saturated": ".4f",
                    },
                ),
                "Mean ± standard deviation over seeds. Accuracy is the mean over the last tenth of the training. "
                "*Steps to that* are those to the first validation that reaches the lower of the accuracies with which "
                "both networks of a seed end. Drift and change are of the inputs of the last sigmoids, in their own "
                "unit; *drift / width* compares the former with how far apart the 15th and 85th percentile are. "
                "*Saturated* is the share of inputs in the last tenth at which the slope is below 1 % of its maximum.",
            )
        ],
        [
            "The paper trains for 50,000 steps; `configs/experiments/sigmoid_mlp_published.yaml` does so.",
            "The paper does not give its learning rate, nor the size of its initial weights, which decide how long the "
            "network without batch normalization stands still. Here weights are uniform, with a standard deviation of "
            "2 / sqrt(3 n) for n inputs, which is twice what PyTorch takes. With PyTorch's own it would stand still "
            "for most of this training, and the comparison would say more of that choice than of the norm.",
            "The paper's images are binary, and these are gray.",
            "One learning rate is compared, not the best one of each network.",
        ],
    )


def _claims(frame: DataFrame, units: int) -> list[Claim]:
    accuracy, steps = paired(frame, "norm", "none", "batch", ACCURACY), paired(frame, "norm", "none", "batch", STEPS)
    drift, change = paired(frame, "norm", "none", "batch", DRIFT), paired(frame, "norm", "none", "batch", CHANGE)
    return [
        Claim(
            "Batch normalization ends with a higher accuracy on held-out images.",
            SOURCE,
            "figure 1a: the curve with it is above the one without over all 50,000 steps",
            f"{accuracy.second:.1%} with, {accuracy.first:.1%} without: {accuracy.text('+.3f')}",
            accuracy.verdict(1),
            "held-out accuracy over the last tenth of the training, with minus without, paired by seed",
        ),
        Claim(
            "Batch normalization learns faster.",
            SOURCE,
            "figure 1a: its curve rises far earlier",
            f"{steps.second:.0f} steps with, {steps.first:.0f} without: {steps.text('+.0f')}",
            steps.verdict(-1),
            "steps to the first validation that reaches the lower of both networks' final accuracies, with minus "
            "without, paired by seed",
        ),
        Claim(
            "The mean of a sigmoid's input moves less over the training with batch normalization.",
            SOURCE,
            "figures 1b and 1c: much more stable, shown of one unit",
            f"drift {drift.second:.2f} with, {drift.first:.2f} without: {drift.text('+.2f')}",
            drift.verdict(-1),
            UNITS_RULE.format(units=units, what="median"),
        ),
        Claim(
            "The spread of a sigmoid's input changes less over the training with batch normalization.",
            SOURCE,
            "figures 1b and 1c: much more stable, shown of one unit",
            f"change {change.second:.2f} with, {change.first:.2f} without: {change.text('+.2f')}",
            change.verdict(-1),
            UNITS_RULE.format(units=units, what="85th minus 15th percentile"),
        ),
    ]


def unit_percentiles(metrics: DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the looks at the units of the last sigmoid.

    Args:
        metrics: The metrics of a run.

    Returns:
        Their steps (L,) and the three percentiles of each unit (L, units, 3).
    """
    names = sorted(name for name in metrics if name.startswith(f"{LAST}/unit_"))
    looks = metrics[names].dropna()
    units = len(names) // len(PERCENTILES)
    return looks.index.to_numpy(float), looks.to_numpy(float).reshape(len(looks), units, len(PERCENTILES))


def movement(
    steps: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return by how much the input of each unit moves over a training.

    A look sees a batch, and so is itself uncertain: looks are averaged over each part of the training first.

    Args:
        steps: Of the looks, (L,).
        values: See :func:`unit_percentiles`.

    Returns:
        The standard deviations over the parts, of the median and of the width, each (units,).
    """
    part = np.minimum(steps / (steps[-1] + 1) * PARTS, PARTS - 1).astype(int)
    means = np.stack([values[part == number].mean(0) for number in np.unique(part)])
    return means[..., 1].std(0, ddof=1), (means[..., 2] - means[..., 0]).std(0, ddof=1)


def _figure_1(runs: Runs, frame: DataFrame, inputs: Inputs) -> Figure:
    """Draw the paper's figure: accuracy, and the percentiles of one unit without and with."""
    drawing, (left, *others) = plots.panels(3, 3)
    plots.curves(left, runs.curves(ACCURACY), "norm", LABELS)
    left.set_ylabel("held-out accuracy")
    left.set_ylim(0.5, 1)
    left.set_title("a  accuracy")
    shown = []
    for axes, letter, norm in zip(others, "bc", LABELS, strict=True):
        seed, folder = frame.loc[frame["norm"] == norm, ["seed", "folder"]].iloc[0]
        steps, values = inputs[folder]
        medians, _ = movement(steps, values)
        unit = int(np.argsort(medians)[len(medians) // 2])
        shown.append(f"unit {unit} of seed {seed} {LABELS[norm]}")
        rows = DataFrame(values[:, unit], columns=PERCENTILES).assign(step=steps, norm=norm)
        plots.bands(axes, rows, "norm", PERCENTILES, {norm: ""})
        axes.set_title(f"{letter}  {LABELS[norm]} batch norm")
        axes.set_ylabel("input of a sigmoid")
    low, high = min(axes.get_ylim()[0] for axes in others), max(axes.get_ylim()[1] for axes in others)
    for axes in others:
        axes.set_ylim(low, high)
    return Figure(
        "figure1",
        drawing,
        "Figure 1 of the paper, drawn anew. **a**: accuracy on held-out images, a thin line for each seed. **b**, "
        "**c**: the 15th, 50th and 85th percentile of what one sigmoid of the last hidden layer is given by the batch "
        f"that is trained on. Shown are {' and '.join(shown)}, whose medians drift neither more nor less than those "
        "of the other units.",
        "Three plots over steps: accuracy with and without batch normalization, and the range of a sigmoid's input.",
    )


def _figure_units(frame: DataFrame, inputs: Inputs) -> Figure:
    """Draw the medians of all units that are watched, and by how much they drift in each run."""
    drawing, (*lines, points) = plots.panels(3, 3)
    for axes, norm in zip(lines, LABELS, strict=True):
        steps, values = inputs[frame.loc[frame["norm"] == norm, "folder"].iloc[0]]
        axes.plot(steps, values[..., 1], color=plots.NORMS[norm].color, linewidth=0.7, alpha=0.6)
        axes.set_title(f"{LABELS[norm]} batch norm")
        axes.set_xlabel("steps")
        axes.set_ylabel("median input of a sigmoid")
    low, high = min(axes.get_ylim()[0] for axes in lines), max(axes.get_ylim()[1] for axes in lines)
    for axes in lines:
        axes.set_ylim(low, high)
    plots.points(points, frame, "norm", DRIFT, LABELS)
    points.set_title("drift of the median")
    points.set_xlabel("standard deviation over time")
    points.set_xlim(left=0)
    return Figure(
        "units",
        drawing,
        f"Not one sigmoid but {values.shape[1]} of the last layer: the median of what each is given, in the run of the "
        f"first seed. On the right the mean over them of how much it moves between the {PARTS} parts of the training, "
        "a mark for each seed.",
        "Two plots of many medians over steps, and one of the drift of each run.",
    )
