"""What textbooks say of batch normalization: rates, scales, dead and saturated units, dropout."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from pandas import DataFrame

from experiments import plots
from experiments.cells import cell, minus
from experiments.page import Claim, Figure, Page, Table
from experiments.reading import Runs
from experiments.summaries import mean_text, summary
from experiments.verdicts import against, decide, decide_alike, together

SWEEPS = ("higher_rates", "initial_scale", "saturated_units", "less_dropout")

CHANCE = 0.1
"""The accuracy that a run that has diverged counts with: that of guessing one of ten classes."""

MARGIN = 0.01
"""Differences in accuracy below it are taken for none."""

ACCURACY, LOSS = "val/accuracy", "train/loss"
DEAD, SATURATED = "activations/all/dead", "activations/all/saturated"

PAPER = "Ioffe & Szegedy 2015, section"

points = partial(mean_text, form=".1%")


def page(runs: Runs) -> Page:
    """Make the page."""
    last = runs.last(ACCURACY, "train/accuracy", LOSS, DEAD, SATURATED)
    last["generalization gap"] = last["train/accuracy"] - last[ACCURACY]
    counted = last.assign(**{ACCURACY: last[ACCURACY].mask(last["state"] == "diverged", CHANCE)})
    rates = counted[counted["sweep"] == "higher_rates"]
    scales = _scales(counted)
    sigmoids = last[last["sweep"] == "saturated_units"]
    dropout = last[last["sweep"] == "less_dropout"]
    return Page(
        title="What textbooks say of batch normalization",
        question=(
            "Batch normalization is said to allow higher learning rates and any initial weights, to keep units from "
            "dying and from saturating, and to make dropout needless. Each is tried here with one small network, "
            "with and without it, on Fashion-MNIST."
        ),
        claims=[*_of_rates(runs, rates), *_of_units(rates, sigmoids), *_of_scales(scales), *_of_dropout(dropout)],
        figures=[
            _rates_figure(rates),
            _steps_figure(runs, rates),
            _weights_figure(runs, scales),
            _dropout_figure(dropout),
        ],
        tables=[
            Table(
                summary(rates, ["norm", "lr"], {ACCURACY: ".3f", LOSS: ".3f", DEAD: ".1%"}),
                f"Learning rates. Runs that have diverged count as {CHANCE:.0%} accuracy, and have no loss. *Dead* is "
                "the share of units that a whole batch does not activate.",
            ),
            Table(
                summary(scales, ["norm", "weight_scale"], {ACCURACY: ".3f", LOSS: ".3f"}),
                "Factors of the initial weights, at the rate 0.1; the rows with factor 1 are runs of the first table.",
            ),
            Table(
                summary(sigmoids, ["norm"], {ACCURACY: ".3f", LOSS: ".3f", SATURATED: ".1%"}),
                "Sigmoids whose initial weights are ten times as large as PyTorch's.",
            ),
            Table(
                summary(
                    dropout,
                    ["norm", "dropout"],
                    {ACCURACY: ".3f", "train/accuracy": ".3f", "generalization gap": ".3f"},
                ),
                "Dropout, with 1,000 training images. Training accuracy is that of the batches, with dropout.",
            ),
        ],
        notes=[
            "Multiplying the weights before a batch normalization by a factor divides their gradient by it (section "
            "3.3), so that a large factor is a small learning rate. The last layer has no normalization after it, and "
            "is multiplied too.",
            "Overfitting is compared after as many steps, not at the same training accuracy. A network that fits its "
            "images sooner has more of it then, and may be better on held-out ones all the same: the table has both.",
        ],
        limits=[
            "Over which rates dead units are averaged was decided after the accuracies at these rates were seen.",
            "Four dense layers of 100 units and a few hundred steps say little about Inception on ImageNet. Rates and "
            "factors are few and far apart.",
            "Three seeds decide on large effects alone.",
            "PyTorch's initial weights are smaller than those of He et al. 2015, and a network without normalization "
            "does better with theirs.",
            "Overfitting is compared after as many steps. Without batch normalization the network has not yet fitted "
            "its images then, and has less to overfit with: that alone could make its gap the smaller one.",
            "That sigmoids are saturated did not keep the network without batch normalization from learning here.",
            "Dropout is before the last layer alone, with one rate, and every network has the same number of steps.",
        ],
    )


def _scales(counted: DataFrame) -> DataFrame:
    """Put the runs with factors beside those of the same training that have none."""
    plain = counted[(counted["sweep"] == "higher_rates") & (counted["lr"] == 0.1)].assign(weight_scale=1.0)
    scaled = counted[counted["sweep"] == "initial_scale"]
    return pd.concat([plain, scaled], ignore_index=True).sort_values(["norm", "weight_scale", "seed"])


def _best(rates: DataFrame, norm: str) -> float:
    """Return the rate with the highest mean accuracy."""
    return float(rates[rates["norm"] == norm].groupby("lr")[ACCURACY].mean().idxmax())


def _best_of_seeds(rates: DataFrame, norm: str) -> "pd.Series[float]":
    """Return the rate at which each seed has its highest accuracy."""
    own = rates[rates["norm"] == norm].sort_values([ACCURACY, "lr"])
    return own.groupby("seed")["lr"].last()


def _listed(values: "pd.Series[float]") -> str:
    return ", ".join(f"{value:g}" for value in values)


def _of_rates(runs: Runs, rates: DataFrame) -> list[Claim]:
    highest = rates["lr"].max()
    with_it, without = (cell(rates, ACCURACY, norm=norm, lr=highest) for norm in ("batch", "none"))
    lost = (rates[(rates["lr"] == highest) & (rates["norm"] == "none")]["state"] == "diverged").sum()
    at_highest = minus(with_it, without)
    best = {norm: _best(rates, norm) for norm in ("batch", "none")}
    each = {norm: _best_of_seeds(rates, norm) for norm in best}
    higher = minus(np.log10(each["batch"]), np.log10(each["none"]))
    speedup = _speedup(runs, best)
    log = against(np.log10(speedup))
    accuracy = minus(*(cell(rates, ACCURACY, norm=norm, lr=rate) for norm, rate in best.items()))
    return [
        Claim(
            "It allows learning rates at which the same network without it does not train.",
            f"{PAPER}s 3.3 and 4.2",
            "Inception with it trains at 5 and 30 times the rate",
            f"at the rate {highest:g}: accuracy {points(with_it)} with it, {points(without)} without, of whose "
            f"runs {lost} diverged; {at_highest.text('+.1%')}",
            at_highest.verdict(1),
            f"accuracy at the highest rate of the grid, with minus without, where a run that has diverged counts as "
            f"{CHANCE:.0%}",
        ),
        Claim(
            "It does best at a higher learning rate.",
            f"{PAPER} 4.2.2",
            "30 times the rate is best of 1, 5 and 30",
            f"best rates of the seeds: {_listed(each['batch'])} with it, {_listed(each['none'])} without",
            higher.verdict(1),
            "logarithm of the rate at which each seed has its highest accuracy, with minus without",
        ),
        Claim(
            "It needs fewer steps to the same training loss.",
            f"{PAPER} 4.2 and abstract",
            "14 times fewer",
            f"{mean_text(speedup, '.1f')} times fewer, at the best rates: {best['batch']:g} with it, {best['none']:g} "
            f"without",
            log.verdict(1),
            "logarithm of the steps of the network without it over those in which the network with it reaches the "
            "same training loss, each at the rate at which it does best, above 0",
        ),
        Claim(
            "It ends with a higher accuracy after as many steps.",
            f"{PAPER} 4.2",
            "74.8 % with 30 times the rate, 72.2 % without it",
            accuracy.text("+.1%"),
            accuracy.verdict(1),
            "accuracy, with minus without, each at the rate at which it does best",
        ),
    ]


def _speedup(runs: Runs, best: dict[str, float]) -> np.ndarray:
    """Say by how many times each seed reaches with batch normalization earlier the loss that it ends with without it.

    Losses are means of five logged batches, and NaN is that of a seed that does not reach it.
    """
    curves = runs.curves(LOSS)
    curves = curves[curves["sweep"] == "higher_rates"]
    found = []
    for _, seed in curves.groupby("seed"):
        smooth = {
            norm: seed[(seed["norm"] == norm) & (seed["lr"] == rate)].set_index("step")["value"].rolling(5).mean()
            for norm, rate in best.items()
        }
        reached = smooth["batch"][smooth["batch"] <= smooth["none"].iloc[-1]]
        found.append(smooth["none"].index[-1] / reached.index[0] if len(reached) else np.nan)
    return np.array(found, float)


def _of_units(rates: DataFrame, sigmoids: DataFrame) -> list[Claim]:
    ended = rates.groupby("lr")["state"].agg(lambda states: (states == "finished").all())
    common = [float(rate) for rate in ended.index[ended]]
    means = {
        norm: rates[(rates["norm"] == norm) & rates["lr"].isin(common)].groupby("seed")[DEAD].mean()
        for norm in ("batch", "none")
    }
    dead = minus(means["batch"], means["none"])
    shares = {norm: cell(sigmoids, SATURATED, norm=norm) for norm in ("batch", "none")}
    saturated = minus(shares["batch"], shares["none"])
    return [
        Claim(
            "Fewer ReLU units die.",
            f"{PAPER} 3.3, of units that are stuck",
            "no figure",
            f"{points(means['batch'])} of the units dead with it, {points(means['none'])} without; {dead.text('+.1%')}",
            dead.verdict(-1),
            f"share of units that a whole batch does not activate, at the end, with minus without, mean over the "
            f"rates at which every run ended ({_listed(pd.Series(common))})",
        ),
        Claim(
            "Fewer inputs of sigmoids stay where they are saturated.",
            f"{PAPER}s 1 and 3.3",
            "Inception with sigmoids: 69.8 % with it; without it, never better than chance",
            f"{points(shares['batch'])} of the inputs saturated with it, {points(shares['none'])} without; "
            f"{saturated.text('+.1%')}",
            saturated.verdict(-1),
            "share of the sigmoids' inputs at which the slope is below 1 % of the steepest, over the last tenth of "
            "the training, with minus without, from initial weights ten times as large as usual",
        ),
    ]


def _of_scales(scales: DataFrame) -> list[Claim]:
    factors = sorted(scales["weight_scale"].unique())
    ranges = {norm: _range(scales[scales["norm"] == norm]) for norm in ("batch", "none")}
    spread = minus(ranges["batch"], ranges["none"])
    usual = cell(scales, ACCURACY, norm="batch", weight_scale=1.0)
    moved = {
        factor: minus(cell(scales, ACCURACY, norm="batch", weight_scale=factor), usual)
        for factor in factors
        if factor != 1
    }
    return [
        Claim(
            "It makes training resilient to the scale of the initial weights.",
            f"{PAPER} 3.3",
            "no figure",
            f"from factor {factors[0]:g} to {factors[-1]:g} accuracy differs by {points(ranges['batch'])} with it, by "
            f"{points(ranges['none'])} without; {spread.text('+.1%')}",
            spread.verdict(-1),
            "highest minus lowest accuracy over the factors, with minus without",
        ),
        Claim(
            "With it, the scale of the initial weights does not matter.",
            f"{PAPER} 3.3, of one layer: BN((aW)u) = BN(Wu)",
            "no figure",
            "; ".join(f"factor {factor:g} against 1: {effect.text('+.1%')}" for factor, effect in moved.items()),
            together([decide_alike(effect.low, effect.high, MARGIN) for effect in moved.values()]),
            f"accuracy with each factor minus that with factor 1, all within {MARGIN:.0%}",
        ),
    ]


def _range(rows: DataFrame) -> "pd.Series[float]":
    accuracy = rows.groupby("seed")[ACCURACY]
    return accuracy.max() - accuracy.min()


def _of_dropout(dropout: DataFrame) -> list[Claim]:
    gain = {
        norm: minus(*(cell(dropout, ACCURACY, norm=norm, dropout=rate) for rate in (0.5, 0.0)))
        for norm in ("batch", "none")
    }
    each = {
        norm: cell(dropout, ACCURACY, norm=norm, dropout=0.5) - cell(dropout, ACCURACY, norm=norm, dropout=0.0)
        for norm in ("batch", "none")
    }
    less = minus(each["batch"], each["none"])
    gaps = {norm: cell(dropout, "generalization gap", norm=norm, dropout=0.0) for norm in ("batch", "none")}
    gap = minus(gaps["batch"], gaps["none"])
    return [
        Claim(
            "With it, dropout can be left out.",
            f"{PAPER}s 3.4 and 4.2.1",
            "leaving it out does not increase overfitting",
            f"dropout changes accuracy by {gain['batch'].text('+.1%')}",
            decide(gain["batch"].low, gain["batch"].high, -1, -MARGIN),
            f"accuracy with dropout minus without, both with batch normalization, below {MARGIN:.0%}",
        ),
        Claim(
            "With it, dropout gains less than without it.",
            f"{PAPER} 3.4",
            "no figure",
            f"dropout gains {points(each['batch'])} with it, {points(each['none'])} without; {less.text('+.1%')}",
            less.verdict(-1),
            "what dropout adds to accuracy, with minus without batch normalization",
        ),
        Claim(
            "It regularizes: the network overfits less.",
            f"{PAPER} 3.4",
            "no figure",
            f"training minus held-out accuracy is {points(gaps['batch'])} with it, {points(gaps['none'])} without; "
            f"{gap.text('+.1%')}",
            gap.verdict(-1),
            "training minus held-out accuracy at the end, without dropout, with minus without",
        ),
    ]


def _rates_figure(rates: DataFrame) -> Figure:
    drawing, (left, right) = plots.panels(2)
    plots.swept(left, rates, "lr", "norm", ACCURACY)
    _guessing(left)
    left.set_ylabel("held-out accuracy")
    plots.swept(right, rates.assign(**{DEAD: 100 * rates[DEAD]}), "lr", "norm", DEAD)
    right.set_ylabel("dead units, %")
    for axes in (left, right):
        axes.set_xlabel("learning rate")
    return Figure(
        "rates",
        drawing,
        "Accuracy after 600 steps at each learning rate, and the share of units that a whole batch of 60 images does "
        "not activate. Each mark is a seed, lines join means. Runs that have diverged are at the dotted line, that of "
        "guessing, and have no mark on the right.",
        "Accuracy and dead units over the learning rate, with and without batch normalization",
    )


def _steps_figure(runs: Runs, rates: DataFrame) -> Figure:
    drawing, (axes,) = plots.panels(1, columns=1)
    loss = runs.curves(LOSS)
    best = {norm: _best(rates, norm) for norm in ("batch", "none")}
    plots.curves(axes, loss[(loss["sweep"] == "higher_rates") & (loss["lr"] == loss["norm"].map(best))], "norm")
    axes.set_ylabel("training loss")
    return Figure(
        "steps",
        drawing,
        f"The training loss of ReLUs, each network at the rate at which it does best ({best['batch']:g} with batch "
        f"normalization, {best['none']:g} without). Thin lines are seeds, thick ones their means.",
        "Training loss over the steps, with and without batch normalization",
    )


def _weights_figure(runs: Runs, scales: DataFrame) -> Figure:
    drawing, (left, right) = plots.panels(2)
    plots.swept(left, scales, "weight_scale", "norm", ACCURACY)
    _guessing(left)
    left.set_xlabel("factor of all initial weights")
    left.set_ylabel("held-out accuracy")
    saturated = runs.curves(SATURATED)
    saturated = saturated[saturated["sweep"] == "saturated_units"]
    plots.curves(right, saturated.assign(value=100 * saturated["value"]), "norm")
    right.set_ylabel("saturated inputs, %")
    right.set_ylim(bottom=0)
    return Figure(
        "weights",
        drawing,
        "Left: accuracy of ReLUs after 600 steps from initial weights that are multiplied by a factor. Runs that have "
        "diverged are at the dotted line. Right: of sigmoids with ten times the usual weights, the share of inputs "
        "that are where the slope is below 1 % of the steepest.",
        "Accuracy over the factor of the initial weights, and saturated sigmoids over the steps",
    )


def _guessing(axes: Axes) -> None:
    axes.axhline(CHANCE, color=plots.SOFT, linewidth=0.8, linestyle=":")
    axes.annotate(
        "guessing",
        (0.3, CHANCE),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=plots.SMALL,
        color=plots.SOFT,
    )


def _dropout_figure(dropout: DataFrame) -> Figure:
    drawing, (left, right) = plots.panels(2)
    cells = dropout.assign(cell=[f"{row.norm}, {'dropout' if row.dropout else 'all'}" for row in dropout.itertuples()])
    for axes, metric in ((left, ACCURACY), (right, "generalization gap")):
        plots.points(axes, cells, "cell", metric)
    left.set_xlabel("held-out accuracy")
    right.set_xlabel("training minus held-out accuracy")
    return Figure(
        "dropout",
        drawing,
        "Networks that see 1,000 images 72 times, with half of what the last layer sees left out (*dropout*) or not "
        "(*all*). Training accuracy is that of the batches, with dropout.",
        "Accuracy and overfitting with and without dropout and batch normalization",
    )
