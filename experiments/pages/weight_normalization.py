"""Weight normalization, with and without mean-only batch normalization and data-dependent initialization."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from pandas import DataFrame

from experiments import plots
from experiments.batch_noise import MEAN_ALONE, Noise, loadable, training_noise
from experiments.page import Claim, Figure, Page, Table
from experiments.plots import Look
from experiments.reading import Runs
from experiments.step_times import step_times
from experiments.summaries import summary
from experiments.verdicts import against, decide_alike, paired
from mixing_analysis.networks import evaluating, load_module

SWEEPS = (
    "weight_normalization",
    "weight_normalization_plain",
    "weight_normalization_rate",
    "weight_normalization_plain_rate",
)

NONE, BATCH = "none", "batch"
WEIGHT, WEIGHT_DATA = "weight norm", "weight norm, data init"
BOTH, BOTH_DATA = "weight norm + mean-only", "weight norm + mean-only, data init"
CELLS = (NONE, BATCH, WEIGHT, WEIGHT_DATA, BOTH, BOTH_DATA)

PAPER = "Salimans & Kingma 2016"
ERROR, LOSS, SPEED = "held-out error", "training loss at the end", "training loss over the run"
MARGIN = 0.01
BATCHES, TRAINED_WITH = (2, 4, 8, 16, 32), 32
NOISES = {
    "batch": plots.NORMS["batch"],
    MEAN_ALONE: Look("its mean alone", "#8fb4d9", "s"),
    "mean_only_batch": Look("mean-only (with weight norm)", plots.NORMS["weight"].color, "<"),
}


def page(runs: Runs) -> Page:
    """Make the page."""
    everything = _cells(runs)
    frame = everything[everything["rate"] == everything["rate"].min()]
    higher = everything[everything["rate"] > everything["rate"].min()]
    noise, shown = _noise(runs, frame)
    error = _difference(frame, ERROR, "+.1%")
    return Page(
        title="Weight normalization",
        question=(
            "Does weight normalization train faster than plain weights, and how much of that is its initialization by "
            "the first batch? What does mean-only batch normalization add, and is the noise that it brings in gentler "
            "than that of batch normalization?"
        ),
        claims=[*_claims_of_training(frame), *_claims_of_noise(noise)],
        figures=[_training(runs, frame), _noise_figure(noise, shown)],
        tables=[
            Table(
                summary(everything, ["rate", "cell"], {ERROR: ".1%", LOSS: ".3f", SPEED: ".3f"}),
                "Of each learning rate and cell, over seeds. The claims are about the lowest rate, that of the paper's "
                "code.",
            ),
            Table(
                summary(
                    noise[noise["batch"] == TRAINED_WITH].assign(state="finished", noise=noise["norm"].map(_label)),
                    ["noise", "layer"],
                    {"deviation": ".3f", "kurtosis": ".2f"},
                ),
                f"The noise in each layer, in batches of {TRAINED_WITH}: its standard deviation, in units of that of "
                "the channel, and its excess kurtosis.",
            ),
        ],
        notes=[
            *_at_a_higher_rate(higher),
            "Without data-dependent initialization a weight-normalized network starts as the plain one with the same "
            f"seed, and here its error at the end is {error(WEIGHT, NONE)} from that. All of the paper's "
            "weight-normalized networks start from the first batch.",
            f"*{SPEED.capitalize()}* is the mean over all steps: the smaller, the faster. *{LOSS.capitalize()}* is the "
            "mean over the last fifth.",
            "The noise is that of one layer alone: the network works as in evaluation up to it, and the same images "
            "are normalized in a thousand batches that they share with others drawn at random.",
        ],
        limits=[
            "The second learning rate was added after a single early try with it that had come out otherwise.",
            "The network has six convolutions, the images are gray, and the training is only a part of an "
            "epoch: errors here are those of a network that is still learning, where the paper's are those after 200 "
            "epochs of CIFAR-10. What regularizes more may look worse here and better there.",
            "All cells of a comparison have the same learning rate; each could have a better one of its own.",
            "Batches of 32 have less noise than smaller ones, and more than those of 100 in the paper.",
            "The errors of table 1 are the paper's as others quote them, and were not checked against its text.",
        ],
        timed=[_times(runs, frame)],
    )


def _cells(runs: Runs) -> DataFrame:
    """Name the cell of each run."""
    frame = runs.last("val/accuracy")
    frame["rate"] = [runs.config(folder)["model"]["init_args"]["lr"] for folder in frame["folder"]]
    frame[ERROR] = 1 - frame["val/accuracy"]
    frame[LOSS] = runs.last("train/loss", share=0.2)["train/loss"]
    frame[SPEED] = runs.last("train/loss", share=1.0)["train/loss"]
    frame["cell"] = [_cell(row) for row in frame.itertuples()]
    order = {cell: place for place, cell in enumerate(CELLS)}
    frame["place"] = frame["cell"].map(order)
    return frame.sort_values(["rate", "place"], kind="stable")


def _cell(row: Any) -> str:
    if row.parametrization != "weight_norm":
        return str(row.norm)
    mixed, data = row.norm == "mean_only_batch", bool(row.data_init)
    return (BOTH_DATA if data else BOTH) if mixed else (WEIGHT_DATA if data else WEIGHT)


def _at_a_higher_rate(frame: DataFrame) -> list[str]:
    if not {NONE, BATCH, WEIGHT_DATA, BOTH_DATA} <= set(frame["cell"]):
        return []
    error = _difference(frame, ERROR, "+.1%")
    return [
        f"At a learning rate of {frame['rate'].iloc[0]:g} the error of *{WEIGHT_DATA}* minus that of *{NONE}* is "
        f"{error(WEIGHT_DATA, NONE)}, and that of *{BOTH_DATA}* minus that of *{BATCH}* {error(BOTH_DATA, BATCH)}."
    ]


def _label(norm: str) -> str:
    return NOISES[norm].label


def _difference(frame: DataFrame, metric: str, form: str) -> Any:
    return lambda cell, reference: paired(frame, "cell", reference, cell, metric).text(form)


def _claims_of_training(frame: DataFrame) -> list[Claim]:
    def claim(
        text: str, source: str, published: str, cell: str, reference: str, metric: str, alike: bool = False
    ) -> Claim:
        effect = paired(frame, "cell", reference, cell, metric)
        form = ".1%" if metric == ERROR else ".3f"
        here = f"{effect.second:{form}} against {effect.first:{form}}: {effect.text('+' + form)}"
        rule = f"{metric}, *{cell}* minus *{reference}*, paired by seed"
        verdict = decide_alike(effect.low, effect.high, MARGIN) if alike else effect.verdict(-1)
        rule += f"; none if within {MARGIN:.0%} of 0" if alike else ", below 0"
        return Claim(text, f"{PAPER}, {source}", published, here, verdict, rule)

    return [
        claim(
            "Weight normalization trains faster than plain weights.",
            "abstract",
            "curves of the training error, no figure",
            WEIGHT_DATA,
            NONE,
            SPEED,
        ),
        claim(
            "Its initialization by the first batch is part of that.",
            "section 3",
            "no figure",
            WEIGHT_DATA,
            WEIGHT,
            SPEED,
        ),
        claim(
            "In the end its error is that of plain weights.",
            "table 1",
            "8.46 % against 8.43 % on CIFAR-10",
            WEIGHT_DATA,
            NONE,
            ERROR,
            alike=True,
        ),
        claim(
            "Mean-only batch normalization beside it makes a lower error.",
            "table 1",
            "7.31 % against 8.46 % on CIFAR-10",
            BOTH_DATA,
            WEIGHT_DATA,
            ERROR,
        ),
        claim(
            "Both together make a lower error than batch normalization.",
            "table 1",
            "7.31 % against 8.05 % on CIFAR-10",
            BOTH_DATA,
            BATCH,
            ERROR,
        ),
    ]


def _noise(runs: Runs, frame: DataFrame) -> tuple[DataFrame, list[Noise]]:
    """Measure the noise in all layers of the trained networks; and that of the middle layer of the first seed's."""
    rows, shown = [], list[Noise]()
    chosen = frame[frame["cell"].isin([BATCH, BOTH_DATA]) & (frame["state"] == "finished")]
    first = chosen["seed"].min()
    for row in chosen.itertuples():
        for noise in training_noise(str(row.folder), BATCHES):
            number = {"deviation": noise.deviation, "kurtosis": noise.kurtosis}
            rows.append({"norm": noise.norm, "seed": row.seed, "layer": noise.layer, "batch": noise.batch, **number})
            if (row.seed, noise.layer, noise.batch) == (first, "relu2_1", TRAINED_WITH):
                shown.append(noise)
    order = list(NOISES)
    return DataFrame(rows).sort_values("norm", key=lambda norms: norms.map(order.index), kind="stable"), shown


def _claims_of_noise(noise: DataFrame) -> list[Claim]:
    means = noise[noise["batch"] == TRAINED_WITH].groupby(["norm", "seed"], as_index=False)[["deviation", "kurtosis"]]
    means = means.mean()
    deviation = paired(means, "norm", "batch", "mean_only_batch", "deviation")
    kurtosis = paired(means, "norm", "batch", "mean_only_batch", "kurtosis")
    normal = against(means.loc[means["norm"] == "mean_only_batch", "kurtosis"].to_numpy())
    source = f"{PAPER}, section 4"
    return [
        Claim(
            "The noise that mean-only batch normalization brings in is smaller.",
            source,
            "“gentler”, no figure",
            f"standard deviation {deviation.second:.3f} against {deviation.first:.3f} of the channel's: "
            f"{deviation.text('+.3f')}",
            deviation.verdict(-1),
            f"standard deviation in batches of {TRAINED_WITH}, the mean over layers, mean-only with weight "
            "normalization minus batch, paired by seed, below 0",
        ),
        Claim(
            "Its tails are lighter than those of what dividing by the batch's deviation brings in.",
            source,
            "normal by the central limit theorem, against high kurtosis; no figure",
            f"excess kurtosis {kurtosis.second:.2f} against {kurtosis.first:.2f}: {kurtosis.text('+.2f')}; that of a "
            f"normal distribution is 0, from which it is {normal.text('+.2f')}",
            kurtosis.verdict(-1),
            "likewise for the excess kurtosis over batches, the mean over activations and layers",
        ),
    ]


def _training(runs: Runs, frame: DataFrame) -> Figure:
    figure, (left, right) = plots.panels(2, height=3.0)
    curves = runs.curves("train/loss").merge(frame[["folder", "cell"]], on="folder")
    curves["value"] = curves.groupby("folder")["value"].transform(lambda loss: loss.rolling(5, min_periods=1).mean())
    order = {cell: place for place, cell in enumerate(CELLS)}
    curves = curves.sort_values(["cell"], key=lambda cells: cells.map(order), kind="stable")
    plots.curves(left, curves, "cell", dict.fromkeys(CELLS, ""))
    left.set_ylabel("training loss")
    plots.points(right, frame.assign(percent=100 * frame[ERROR]), "cell", "percent")
    right.set_xlabel("held-out error at the end (%)")
    caption = (
        "Left: the training loss, each value the mean of the last five that were noted; thin lines are seeds, thick "
        "ones their means, in the colors of the right. Right: the error on held-out images, a mark for each seed and "
        "a bar at their mean."
    )
    return Figure("training", figure, caption, "Training loss over steps and held-out errors of six kinds of networks")


def _noise_figure(noise: DataFrame, shown: Sequence[Noise]) -> Figure:
    figure, (left, middle, right) = plots.panels(3, columns=3, height=2.7)
    for each in shown:
        _density(left, each)
    left.set_xlabel("noise (deviations of the channel)")
    left.set_ylabel("density")
    left.legend(frameon=False, fontsize=plots.SMALL, loc="upper left")
    layers = noise[noise["batch"] == TRAINED_WITH]
    for axes, frame, x, metric, label in (
        (middle, layers, "layer", "deviation", "standard deviation"),
        (right, noise, "batch", "kurtosis", "excess kurtosis"),
    ):
        for norm, look in NOISES.items():
            means = frame[frame["norm"] == norm].groupby([x, "seed"])[metric].mean().unstack()
            places = np.arange(len(means))
            axes.plot(places, means, look.marker, color=look.color, markersize=3, alpha=0.6, markeredgewidth=0)
            axes.plot(places, means.mean(axis=1), color=look.color, linewidth=1.8)
        axes.set_xticks(places, [str(each).removeprefix("relu").replace("_", ".") for each in means.index])
        axes.set_ylabel(label)
    middle.set_xlabel("convolution")
    middle.set_ylim(bottom=0)
    right.set_xlabel("images in a batch")
    right.axhline(0, color=plots.SOFT, linewidth=0.8)
    caption = (
        "The noise that the other images of a batch bring into an activation, in trained networks. Left: its "
        f"distribution in convolution 2.1, in batches of {TRAINED_WITH}, over all activations that were looked at; "
        "dotted are normal distributions of the same deviation. Middle: its standard deviation by convolution; marks "
        "are seeds. Right: its excess kurtosis over batches, the mean over convolutions; 0 is that of a normal "
        "distribution. “Its mean alone” is what batch normalization would bring into the same networks if it did not "
        "divide by the deviation of the batch."
    )
    return Figure("noise", figure, caption, "Distribution, deviation and kurtosis of the noise of batches")


def _density(axes: Axes, noise: Noise) -> None:
    look, values = NOISES[noise.norm], noise.values.flatten().numpy()
    edges = np.linspace(-0.5, 0.5, 101)
    density, _ = np.histogram(values, edges, density=True)
    middles = (edges[1:] + edges[:-1]) / 2
    axes.plot(middles, np.where(density > 0, density, np.nan), color=look.color, linewidth=1.5, label=look.label)
    deviation = values.std()
    normal = np.exp(-((middles / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
    axes.plot(middles, normal, ":", color=look.color, linewidth=1)
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 300)
    axes.yaxis.set_major_formatter("{x:g}")


def _times(runs: Runs, frame: DataFrame) -> str:
    """Time a step of networks of the first seed against each other."""
    from torch import rand

    networks: dict[str, Any] = {}
    for cell in (NONE, BATCH, WEIGHT, BOTH):
        found = frame[(frame["cell"] == cell) & (frame["state"] == "finished")]
        if len(found):
            with evaluating(()):
                networks[cell] = load_module(loadable(str(found["folder"].iloc[0])))
    times = step_times(networks, rand(TRAINED_WITH, 1, 28, 28))
    told = "; ".join(f"*{name}* {1000 * seconds:.1f} ms" for name, seconds in times.items())
    return (
        f"While this page was made, forward and backward pass of a batch took, on one thread: {told}, the median of "
        f"several rounds in turns. {PAPER} (section 5.1) found batch normalization 16 % slower than weight "
        f"normalization; here it is {times[BATCH] / times[WEIGHT] - 1:+.0%}."
        if {BATCH, WEIGHT} <= times.keys()
        else "Too few runs are there to compare the times of steps."
    )
