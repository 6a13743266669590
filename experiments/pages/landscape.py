"""Why it helps: internal covariate shift against the landscape of the loss."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from experiments import plots, summaries
from experiments.page import Claim, Figure, Page, Table
from experiments.reading import Runs
from experiments.verdicts import Effect, decide_alike, paired

NONE, BATCH, NOISY = "none", "batch", "experiments.layers_noise.NoisyBatchNorm"

HELD_OUT, TRAINED = "val/accuracy", "train/accuracy"

MARGIN = 0.02
"""Accuracies that differ by less are as good as each other."""

MEASURED: dict[str, tuple[str, Callable[[DataFrame], Series]]] = {
    "range": ("loss range", lambda look: look["loss_max"] - look["loss_min"]),
    "change": ("gradient change", lambda look: look["gradient_change_max"]),
    "smoothness": ("effective smoothness", lambda look: look["smoothness"]),
    "lipschitz": ("Lipschitz estimate", lambda look: look["lipschitz"]),
    "ics": ("ICS of gradients", lambda look: look["ics"]),
    "shift": ("shift of inputs", lambda look: look["input_shift"]),
}
"""From each number of a look, which is positive, to what it is called and how it is made of what was logged."""

SANTURKAR = "Santurkar et al. 2018"


def page(runs: Runs) -> Page:
    """Make the page."""
    looks = _looks(runs)
    last = runs.last(HELD_OUT, "train/loss")
    last[TRAINED] = runs.last(TRAINED, share=1.0)[TRAINED]
    for name in MEASURED:
        last[name] = last["folder"].map(looks.groupby("folder")[name].apply(_log_mean))
    last["cosine"] = last["folder"].map(looks.groupby("folder")["ics_cosine"].mean())
    return Page(
        title="Why batch normalization helps: the landscape of the loss, or covariate shift?",
        question=(
            "Batch normalization was made to reduce internal covariate shift: that each layer's input changes its "
            "distribution because the layers before it learn. Does it reduce that, and is it why training is faster? "
            "Or does it make the loss smoother, so that a gradient can be relied on over a longer step?"
        ),
        claims=_claims(last),
        figures=[_landscape(runs, looks), _shift(runs, looks, last)],
        tables=[
            Table(
                _table(last),
                "Accuracy on held-out images after the training, and on its batches as a mean of all steps. What comes "
                "after the loss are means over all looks, of all but the cosine geometric ones. Mean ± standard "
                "deviation over seeds.",
            )
        ],
        notes=[
            "*Loss range* is the largest minus the smallest loss at 0.5, 1, 2 and 4 times the learning rate along the "
            "negative gradient; *gradient change* the largest distance of the gradients there from that at the "
            "weights; *effective smoothness* the largest of these distances over the length of the step; *Lipschitz "
            "estimate* the largest change of the loss over the length of the step. *ICS of gradients* is the distance "
            "between a layer's gradients before and after all layers before it have made their step (definition 2.1 "
            "of the paper), and the *cosine* is that between them; *shift of inputs* is how far a step moves mean and "
            "deviation of what a layer is given, relative to the deviation. All are by the option "
            "`landscape.every_n_steps` of any training.",
            f"Ordered by the shift of inputs, the smallest first: {_order(last, 'shift')}. Ordered by held-out "
            f"accuracy, the best first: {_order(last, HELD_OUT, ascending=False)}. If covariate shift were what "
            "matters, both orders would be the same.",
        ],
        setting=[
            "All convolutions and the last layer begin with weights as of He et al. 2015 (`weight_scale`), without "
            "which the network without normalization does not begin to learn. All cells have the same learning rate."
        ],
        limits=[
            "What noise is compared by was widened after the first numbers were seen: held-out accuracy alone decided "
            "nothing, and accuracy while training was added, which is what the paper's figure shows.",
            "A network of six layers and a few hundred steps; the paper's VGG trained for thousands.",
            "One learning rate for all. The shift by a step grows with the step, and at another rate norms may be in "
            "another order.",
            "Images are a JPEG copy of CIFAR-10, so accuracies are not comparable with published ones."
            if _is_copy(runs)
            else "Accuracies are of the first steps of a training.",
            "Behind batch normalization the scale of weights does not matter to the loss, but it does to distances "
            "between weights and to gradients. Smoothness and ICS, as the paper defines them, compare networks as "
            "they are parametrized, and a part of every difference is one of scale. The cosine and the shift of "
            "inputs have no such unit, but the step that they are of is the shorter the larger the weights are.",
            "The paper draws the noise for each unit; here the centers of its distribution are drawn for each channel, "
            "whose moments batch normalization fixes. How strong it is, how far along the gradient was looked, and the "
            "numbers of figures are the paper's as remembered, and were not checked against its text.",
            "In training, noise is part of what is measured; in evaluation there is none. Accuracy while training is "
            "of batches, and held-out accuracy of the last step alone, at a constant learning rate.",
        ],
    )


def _looks(runs: Runs) -> DataFrame:
    """Return a row per look of all runs, with the settings, what was logged, and what is made of it."""
    parts = []
    for index, folder in runs.frame["folder"].items():
        own = runs.metrics(folder).filter(like="landscape/").dropna(subset=["landscape/loss"])
        own.columns = own.columns.str.removeprefix("landscape/")
        parts.append(own.reset_index().assign(run=index))
    looks = runs.frame.merge(pd.concat(parts), left_index=True, right_on="run").drop(columns="run")
    for name, (_, made) in MEASURED.items():
        looks[name] = made(looks)
    return looks


def _log_mean(values: Series) -> float:
    """Return the logarithm of the geometric mean of positive numbers; others are left out."""
    return float(np.log10(values[values > 0]).mean())


def _times(effect: Effect) -> str:
    """Write a difference of logarithms as a factor."""
    low, high = (f"{10**value:.2f}" for value in (effect.low, effect.high))
    sure = "" if np.isnan(effect.low) else f"95 % interval {low} to {high}, "
    return f"{10**effect.difference:.2f} times as large ({sure}{effect.seeds} seed{'s' * (effect.seeds != 1)})"


def _claims(last: DataFrame) -> list[Claim]:
    def effect(metric: str, first: str = NONE, second: str = BATCH) -> Effect:
        return paired(last, "norm", first, second, metric)

    def smoother(name: str, text: str, published: str, panel: str) -> Claim:
        found = effect(name)
        return Claim(
            text=text,
            source=f"{SANTURKAR}, section 3, figure 4{panel}",
            published=published,
            here=f"with it {MEASURED[name][0]} is {_times(found)}",
            verdict=found.verdict(-1),
            rule=f"logarithm of {MEASURED[name][0]}, mean over all looks, batch minus none, claimed below 0",
        )

    ics, cosine, shift = effect("ics"), effect("cosine"), effect("shift")
    noise, trained = effect("shift", NONE, NOISY), effect(TRAINED, NONE, NOISY)
    as_well = {"training": effect(TRAINED, BATCH, NOISY), "held-out": effect(HELD_OUT, BATCH, NOISY)}
    gain, kept = effect(HELD_OUT), effect(HELD_OUT, NONE, NOISY)
    return [
        Claim(
            text="Batch normalization trains faster.",
            source="Ioffe & Szegedy 2015, abstract",
            published="14 times fewer steps to the same accuracy, on ImageNet",
            here=f"accuracy after as many steps {gain.text('+.3f')}",
            verdict=gain.verdict(1),
            rule="held-out accuracy in the end, batch minus none, claimed above 0",
        ),
        Claim(
            text="Batch normalization reduces internal covariate shift: how far a step moves the distribution of a "
            "layer's input.",
            source="Ioffe & Szegedy 2015, title and section 2",
            published="no figure of a step; distributions over training in figure 1",
            here=f"with it the shift of inputs is {_times(shift)}",
            verdict=shift.verdict(-1),
            rule="logarithm of the shift of inputs, mean over layers and looks, batch minus none, claimed below 0",
        ),
        Claim(
            text="Batch normalization does not reduce internal covariate shift as a distance of gradients, but often "
            "increases it.",
            source=f"{SANTURKAR}, section 2.2, figure 3",
            published="similar or larger with it (figure, no numbers)",
            here=f"with it ICS of gradients is {_times(ics)}",
            verdict=ics.verdict(1),
            rule="logarithm of ICS, mean over layers and looks, batch minus none, claimed above 0",
        ),
        Claim(
            text="Batch normalization does not keep a layer's gradient closer to its direction while the layers before "
            "it move.",
            source=f"{SANTURKAR}, section 2.2, figure 3",
            published="cosine similar or lower with it (figure, no numbers)",
            here=f"cosine with it {cosine.second:.3f}, without {cosine.first:.3f}, difference {cosine.text('+.3f')}",
            verdict=cosine.verdict(-1),
            rule="cosine, mean over layers and looks, batch minus none, claimed below 0",
        ),
        Claim(
            text="Noise after batch normalization makes inputs of layers less stable than without normalization.",
            source=f"{SANTURKAR}, section 2.1, figure 2",
            published="visibly less stable distributions (figure, no numbers)",
            here=f"with noise the shift of inputs is {_times(noise)} as without normalization",
            verdict=noise.verdict(1),
            rule="logarithm of the shift of inputs, batch + noise minus none, claimed above 0",
        ),
        Claim(
            text="With noise after batch normalization a network still trains better than without normalization.",
            source=f"{SANTURKAR}, section 2.1, figure 2",
            published="better than the standard network (figure, no numbers)",
            here=f"training accuracy {trained.text('+.3f')}; held-out accuracy in the end {kept.text('+.3f')}",
            verdict=trained.verdict(1),
            rule="training accuracy of all steps, batch + noise minus none, claimed above 0",
        ),
        *(
            Claim(
                text=f"With noise after batch normalization a network does about as well as without, by {which} "
                "accuracy.",
                source=f"{SANTURKAR}, section 2.1, figure 2",
                published="nearly the same (figure of the training, no numbers)",
                here=f"accuracy {found.first:.3f} without, {found.second:.3f} with it, difference {found.text('+.3f')}",
                verdict=decide_alike(found.low, found.high, MARGIN),
                rule=f"{which} accuracy, {when}, batch + noise minus batch, claimed within {MARGIN:g} of 0",
            )
            for (which, found), when in zip(as_well.items(), ("of all steps", "in the end"), strict=True)
        ),
        smoother(
            "range",
            "Batch normalization makes the loss vary less along the gradient.",
            "a narrower band (no numbers)",
            "a",
        ),
        smoother(
            "change",
            "Batch normalization makes the gradient change less along itself.",
            "a narrower band (no numbers)",
            "b",
        ),
        smoother(
            "smoothness",
            "Batch normalization makes the loss smoother.",
            "lower through all of training (no numbers)",
            "c",
        ),
    ]


def _order(last: DataFrame, metric: str, ascending: bool = True) -> str:
    means = last.groupby("norm")[metric].mean().sort_values(ascending=ascending)
    looks = plots.looks(last["norm"])
    return ", ".join(looks[norm].label for norm in means.index)


def _table(last: DataFrame) -> DataFrame:
    shown = last.assign(norm=last["norm"].map({name: look.label for name, look in plots.looks(last["norm"]).items()}))
    names = {name: title for name, (title, _) in MEASURED.items()}
    shown[[*names]] = 10 ** shown[[*names]]
    metrics = {HELD_OUT: ".3f", TRAINED: ".3f", "train/loss": ".3f", **dict.fromkeys(names, ".3g"), "cosine": ".3f"}
    found = summaries.summary(shown, ["norm"], metrics)
    titles = {HELD_OUT: "held-out accuracy", TRAINED: "training accuracy", "train/loss": "training loss at the end"}
    return found.rename(columns=names | titles)


def _landscape(runs: Runs, looks: DataFrame) -> Figure:
    figure, (loss, band, change, smooth) = plots.panels(4)
    plots.curves(loss, runs.curves("train/loss"), "norm")
    loss.set_title("Training")
    loss.set_ylabel("training loss")
    plots.logarithmic(band)
    plots.bands(band, looks, "norm", ["loss_min", "loss", "loss_max"])
    band.set_title("Loss along the gradient")
    band.set_ylabel("training loss (log)")
    for axes, name, title in ((change, "change", "Gradient along itself"), (smooth, "smoothness", "Smoothness")):
        plots.logarithmic(axes)
        plots.curves(axes, looks.assign(value=looks[name]), "norm")
        axes.set_title(title)
        axes.set_ylabel(f"{MEASURED[name][0]} (log)")
    return Figure(
        "smoothness",
        figure,
        "Training loss; its range at 0.5 to 4 learning rates along the negative gradient, around the loss at the "
        "weights, mean over seeds; how far the gradient changes on that way; and the largest change by length of the "
        "step. Thin lines are seeds. Narrow bands and low curves are what a smooth loss has.",
        "Four panels of curves over training steps for three norms",
    )


def _shift(runs: Runs, looks: DataFrame, last: DataFrame) -> Figure:
    figure, (ics, cosine, shift, accuracy) = plots.panels(4)
    for axes, name, title, label in (
        (ics, "ics", "Covariate shift: size", "ICS of gradients (log)"),
        (shift, "shift", "Covariate shift: inputs", "shift of inputs / deviation (log)"),
    ):
        plots.logarithmic(axes)
        plots.curves(axes, looks.assign(value=looks[name]), "norm")
        axes.set_title(title)
        axes.set_ylabel(label)
    plots.curves(cosine, looks.assign(value=looks["ics_cosine"]), "norm")
    cosine.set_title("Covariate shift: direction")
    cosine.set_ylabel("cosine of both gradients")
    plots.points(accuracy, last, "norm", HELD_OUT)
    accuracy.set_title("What it does to accuracy")
    accuracy.set_xlabel("held-out accuracy")
    return Figure(
        "shift",
        figure,
        "Internal covariate shift by a step, mean over layers: the distance between a layer's gradients before and "
        "after the layers before it move, the cosine between both, and how far the distribution of its input moves. "
        "Last, the accuracy of each seed. Compare the order of norms in the third panel with that in the last.",
        "Three panels of curves over training steps for three norms, and accuracies",
    )


def _is_copy(runs: Runs) -> bool:
    """Tell whether the images are of files of one's own, as a JPEG copy of CIFAR-10 is."""
    return any("jpeg" in str(runs.config(folder).get("data")) for folder in runs.frame["folder"])
