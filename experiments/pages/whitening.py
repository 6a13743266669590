"""Standardization against decorrelation, and the gradient that is lost if normalization is not differentiated."""

import pandas as pd
from pandas import DataFrame, Series

from experiments import plots, summaries
from experiments.page import Claim, Figure, Page, Table
from experiments.reading import Runs
from experiments.verdicts import Effect, against, decide_alike, paired
from mixing_analysis.plots import INK

SWEEPS = ("whitening", "lost_gradient", "lost_gradient_alone")

NONE, BATCH, WHITE = "none", "batch", "decorrelated_batch"

SIZE, WEIGHTS = "size/shift", "size/linear.weight"

LOSS, HELD_OUT, ACCURACY = "train/loss", "val/loss", "val/accuracy"

KEPT = {True: "differentiated", False: "ignored"}
"""What the gradient through mean and variance is, by the setting ``differentiate``."""

LINE = 0.01
"""A size that is so near to that on a line, as a share of it, is on the line."""

STILL = 1e-3
"""A loss that moves by less has stood still."""

IOFFE = "Ioffe & Szegedy 2015"


def page(runs: Runs) -> Page:
    """Make the page."""
    ends = runs.last(LOSS, ACCURACY, SIZE, WEIGHTS, HELD_OUT)
    ends["whole"] = runs.last(LOSS, share=1.0)[LOSS]
    steps = runs.curves(LOSS).groupby("folder")["step"].max()
    ends["milliseconds"] = 1000 * ends["seconds"] / ends["folder"].map(steps)
    norms, trained, alone = (ends[ends["sweep"] == sweep].copy() for sweep in SWEEPS)
    sizes, losses = (_of(runs.curves(metric), SWEEPS[2]) for metric in (SIZE, LOSS))
    for name, made in (
        ("line", _on_a_line(sizes[sizes["value"] > 0])),
        ("end", _ends(sizes)),
        ("moved", _moved(losses)),
    ):
        alone[name] = alone["folder"].map(made)
    return Page(
        title="Whitening, and the gradient through the statistics",
        question=(
            "Batch normalization gives each unit mean 0 and variance 1, and leaves their correlations. Does removing "
            "these too, by whitening groups of units, train faster? And why must the gradient flow through mean and "
            "variance: what happens to a bias before the normalization if the step takes them for constants?"
        ),
        claims=[*_of_whitening(norms), *_of_the_gradient(trained, alone)],
        figures=[_faster(runs, norms), _lost(runs)],
        tables=[
            Table(_whitening_table(norms), "Whitening. Mean ± standard deviation over seeds."),
            Table(
                _gradient_table(trained, alone),
                "The lost gradient. *Size of the bias* and *of the weights* are root mean squares over all hidden "
                "layers, and all are means over the last tenth of the training.",
            ),
        ],
        notes=[
            "The closed form. Let u be what a layer computes, b its bias, x = u + b, and y = (x - E[x]) / s with the "
            "deviation s, and L a loss that sees y alone. Since E[x] moves with b, y does not, and ∂L/∂b = 0. A step "
            "that takes E[x] and s for constants has ∂L/∂b = Σ ∂L/∂y / s instead, which b cannot change either: after "
            "t steps at the rate η, b = -η t Σ ∂L/∂y / s, if nothing else is trained. It grows along a line for ever, "
            "and the loss is what it was. `experiments.layers_detached.BiasedBatchNorm` is that layer; it has no gamma "
            "and beta here.",
            "In evaluation the bias does not cancel: the running mean is an average of earlier steps, and lags behind "
            f"a mean that moves. With the biases alone trained the held-out loss is {_held_out(alone)}.",
        ],
        setting=[
            "`lost_gradient_alone` trains the biases alone, by the same images in every step, so that the closed form "
            "is exact but for rounding; `lost_gradient` trains all parameters."
        ],
        limits=[
            "One small network of dense layers, few steps and one learning rate, which may favor one of the norms.",
            "Groups of 16 units are whitened, by 5 of Newton's iterations, which leave directions of little variance "
            "weaker than others. It is neither all of a layer nor exact. A batch of 60 says little about the 136 "
            "moments of a group.",
            "With beta after it, as layers have in practice, what the bias is pushed to do beta can do, and the push "
            "ends where the loss is at a minimum in beta. The derivation is for normalization alone.",
        ],
        times=[Table(_times(norms), "The time of whitening. A training's time with its start, divided by its steps.")],
    )


def _of_whitening(norms: DataFrame) -> list[Claim]:
    standard, faster = (paired(norms, "norm", *pair, "whole") for pair in ((NONE, BATCH), (BATCH, WHITE)))
    better = paired(norms, "norm", BATCH, WHITE, ACCURACY)
    return [
        Claim(
            text="To standardize each unit makes training faster, even if units stay correlated.",
            source=f"{IOFFE}, section 3, after LeCun et al. 1998",
            published="said without a figure",
            here=f"mean loss of all steps {_change(standard)}",
            verdict=standard.verdict(-1),
            rule="mean training loss of all steps, batch minus none, claimed below 0",
        ),
        Claim(
            text="To decorrelate units as well makes training faster still.",
            source="Huang et al. 2018 (Decorrelated Batch Normalization), section 4",
            published="lower training loss after as many epochs (figures)",
            here=f"mean loss of all steps {_change(faster)}",
            verdict=faster.verdict(-1),
            rule="mean training loss of all steps, decorrelated minus batch, claimed below 0",
        ),
        Claim(
            text="To decorrelate units generalizes better than only to standardize them.",
            source="Pan et al. 2019 (Switchable Whitening), table of the authors' repository",
            published="ResNet-50 on ImageNet: error 23.58 % by batch normalization, 23.31 % by batch whitening",
            here=f"held-out accuracy {better.first:.4f} and {better.second:.4f}, difference {better.text('+.4f')}",
            verdict=better.verdict(1),
            rule="held-out accuracy in the end, decorrelated minus batch, claimed above 0",
        ),
    ]


def _of_the_gradient(trained: DataFrame, alone: DataFrame) -> list[Claim]:
    lost, kept = (alone[alone["differentiate"] == value] for value in (False, True))
    line, still = against(lost["line"], 1.0), against(lost["moved"])
    size, loss = (paired(trained, "differentiate", True, False, metric) for metric in (SIZE, "whole"))
    weights = paired(trained, "differentiate", True, False, WEIGHTS)
    return [
        Claim(
            text="If a step ignores that the mean depends on a bias, the bias grows by as much in every step.",
            source=f"{IOFFE}, section 2",
            published="“b will grow indefinitely” (derivation)",
            here=f"size at the end {summaries.mean_text(lost['end'], '.3g')}; as a share of the straight line through "
            f"the first value {summaries.mean_text(lost['line'], '.4f')}",
            verdict=decide_alike(line.low, line.high, LINE),
            rule=f"size at the end over that on the line, minus 1, claimed within {LINE:g} of 0; biases trained alone",
        ),
        Claim(
            text="While such a bias grows, the loss remains fixed.",
            source=f"{IOFFE}, section 2",
            published="“while the loss remains fixed” (derivation)",
            here=f"change of the training loss {still.text('+.1e')}",
            verdict=decide_alike(still.low, still.high, STILL),
            rule=f"training loss at the end minus at the begin, claimed within {STILL:g} of 0; biases trained alone",
        ),
        Claim(
            text="If the mean is differentiated, a bias before it stays where it is.",
            source=f"{IOFFE}, section 3, and the closed form below",
            published="gradient 0 (derivation)",
            here=f"size at the end {summaries.mean_text(kept['end'], '.1e')}",
            verdict=decide_alike(0.0, float(kept["end"].max()), LINE * float(lost["end"].min())),
            rule=f"the largest size at the end, claimed below {LINE:g} times the smallest of the ignored gradient; "
            "biases trained alone",
        ),
        Claim(
            text="In a training of all parameters a bias whose gradient ignores the mean grows as well.",
            source=f"{IOFFE}, section 2",
            published="seen “in initial experiments”, no figure",
            here=f"size at the end {size.first:.2g} differentiated, {size.second:.3g} ignored, "
            f"difference {size.text('+.3g')}",
            verdict=size.verdict(1),
            rule="size of the bias in the end, ignored minus differentiated, claimed above 0; all trained",
        ),
        Claim(
            text="Weights whose gradient ignores the deviation grow likewise, since their scale cancels too.",
            source=f"{IOFFE}, section 2",
            published="“this problem can get worse”, no figure",
            here=f"size at the end {weights.first:.3f} differentiated, {weights.second:.3f} ignored, "
            f"difference {weights.text('+.3f')}",
            verdict=weights.verdict(1),
            rule="size of the weights in the end, ignored minus differentiated, claimed above 0; all trained",
        ),
        Claim(
            text="A training that ignores the gradient through mean and variance is the worse one.",
            source=f"{IOFFE}, section 2",
            published="“the model blows up”, no figure",
            here=f"mean loss of all steps {_change(loss)}{_diverged(trained[trained['differentiate'] == False])}",  # noqa: E712
            verdict=loss.verdict(1),
            rule="mean training loss of all steps, ignored minus differentiated, claimed above 0; all trained",
        ),
    ]


def _held_out(alone: DataFrame) -> str:
    cells = ((name, alone.loc[alone["differentiate"] == value, HELD_OUT]) for value, name in KEPT.items())
    return " and ".join(f"{summaries.mean_text(values, '.3f')} if the gradient is {name}" for name, values in cells)


def _change(effect: Effect) -> str:
    return f"from {effect.first:.3f} to {effect.second:.3f}, difference {effect.text('+.3f')}"


def _diverged(runs: DataFrame) -> str:
    count = int((runs["state"] == "diverged").sum())
    return f"; {count} of {len(runs)} trainings with the gradient ignored diverged" if count else ""


def _of(curves: DataFrame, sweep: str) -> DataFrame:
    return curves[curves["sweep"] == sweep]


def _on_a_line(sizes: DataFrame) -> Series:
    """Return, for each run, its last size as a share of that on the line from 0 through its first one."""

    def share(run: DataFrame) -> float:
        first, last = run.iloc[0], run.iloc[-1]
        return float(last["value"] / (first["value"] * last["step"] / first["step"]))

    return sizes.groupby("folder")[["step", "value"]].apply(share)


def _ends(curves: DataFrame) -> Series:
    return curves.groupby("folder")["value"].last()


def _moved(curves: DataFrame) -> Series:
    values = curves.groupby("folder")["value"]
    return values.last() - values.first()


def _whitening_table(norms: DataFrame) -> DataFrame:
    shown = norms.assign(norm=norms["norm"].map({name: look.label for name, look in plots.NORMS.items()}))
    found = summaries.summary(shown, ["norm"], {"whole": ".3f", LOSS: ".4f", ACCURACY: ".4f"})
    titles = {"whole": "training loss of all steps", LOSS: "at the end", ACCURACY: "accuracy"}
    return found.rename(columns=titles)


def _gradient_table(trained: DataFrame, alone: DataFrame) -> DataFrame:
    parts = []
    for cell, rows in (("biases alone", alone), ("all", trained)):
        shown = rows.assign(trained=cell, gradient=rows["differentiate"].map(KEPT))
        metrics = {SIZE: ".3g", WEIGHTS: ".3f", LOSS: ".3f", ACCURACY: ".4f"}
        parts.append(summaries.summary(shown, ["trained", "gradient"], metrics))
    titles = {SIZE: "size of the bias", WEIGHTS: "of the weights", LOSS: "training loss", ACCURACY: "accuracy"}
    return pd.concat(parts, ignore_index=True).rename(columns=titles)


def _times(norms: DataFrame) -> DataFrame:
    shown = norms.assign(norm=norms["norm"].map({name: look.label for name, look in plots.NORMS.items()}))
    return summaries.summary(shown, ["norm"], {"milliseconds": ".1f"}).rename(columns={"milliseconds": "ms per step"})


def _faster(runs: Runs, norms: DataFrame) -> Figure:
    figure, (loss, accuracy) = plots.panels(2)
    plots.logarithmic(loss)
    plots.curves(loss, _of(runs.curves(LOSS), SWEEPS[0]), "norm")
    loss.set_title("Training")
    loss.set_ylabel("training loss (log)")
    plots.points(accuracy, norms, "norm", ACCURACY)
    accuracy.set_title("At the end")
    accuracy.set_xlabel("held-out accuracy")
    return Figure(
        "faster",
        figure,
        "Training loss over steps, and held-out accuracy at the end. Thin lines and marks are seeds.",
        "Falling curves of the training loss for three norms, and their accuracies",
    )


def _lost(runs: Runs) -> Figure:
    figure, axes = plots.panels(4)
    sizes, losses = runs.curves(SIZE), runs.curves(LOSS)
    titles = (
        "Biases alone: their size",
        "Biases alone: the loss",
        "All trained: size of biases",
        "All trained: the loss",
    )
    for place, (panel, title) in enumerate(zip(axes, titles, strict=True)):
        curves = _of(losses if place % 2 else sizes, SWEEPS[2 if place < 2 else 1])
        plots.curves(panel, curves, "differentiate", KEPT)
        panel.set_title(title)
        panel.set_ylabel("training loss" if place % 2 else "root mean square of biases")
        if place == 0:
            grown = curves[curves["differentiate"] == False]  # noqa: E712
            slope = (grown.groupby("folder")["value"].first() / grown.groupby("folder")["step"].first()).mean()
            end = grown["step"].max()
            panel.plot([0, end], [0, slope * end], ":", color=INK, linewidth=1.2, zorder=5)
            panel.annotate("closed form", (end / 2, slope * end / 2), (-6, 6), textcoords="offset points", ha="right")
    return Figure(
        "lost",
        figure,
        "A bias before batch normalization whose gradient goes through mean and variance, or ignores that they depend "
        "on it. Above, nothing else is trained: the dotted line is the closed form through the first value. Below, all "
        "is trained.",
        "Four panels: the size of biases and the training loss over steps, with and without the gradient",
    )
