"""The Lipschitz constant of classifiers and discriminators, between what is proven and what is found."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from pandas import DataFrame, concat
from torch import nn

from experiments import plots
from experiments.batch_noise import loadable
from experiments.page import Claim, Figure, Page, Table, Verdict
from experiments.plots import Look
from experiments.reading import Runs
from experiments.summaries import mean_text, summary
from experiments.verdicts import CONTRADICTED, UNDECIDED, Effect, against, decide, paired, together
from lightning_modules.classifier import Classifier
from mixing_analysis.networks import evaluating, load_module
from norms.parametrized import CONVOLUTIONS
from norms.spectra import input_sizes, linear_layers, operator_norm, singular_values, spectra
from training.callbacks.gans import run_once

SWEEPS = ("spectral", "spectral_gan")

PLAIN, BATCH, SPECTRAL, BOTH = "none", "batch", "spectral", "spectral + batch"
GAN, GAN_SPECTRAL = "discriminator, none", "discriminator, spectral"
CELLS = (PLAIN, BATCH, SPECTRAL, BOTH, GAN, GAN_SPECTRAL)
CLASSIFIERS = CELLS[:4]
NORMALIZED = (SPECTRAL, BOTH, GAN_SPECTRAL)

LINES = {
    "bound": Look("bound", "#b23a48"),
    "reshaped": Look("product of sigma", "#e07b39"),
    "ascent": Look("found by ascent", "#2b6cb0"),
    "data": Look("steepest image", "#5aa9e6"),
    "data_median": Look("median image", "#93a8bd"),
}
"""What :class:`training.callbacks.lipschitz.LipschitzMonitor` logs."""

RANDOM, CHANNELS, SIZE, TRIES = "random, circular", 16, 16, 8
FAR = 10.0
LIMIT = 1.05
MIYATO = "Miyato et al. 2018"


def page(runs: Runs) -> Page:
    """Make the page."""
    frame = _cells(runs)
    layers = concat([_layers(frame), _random_layers()])
    columns = {"accuracy": ".1%", **dict.fromkeys(LINES, ".3g"), "gap": ".3g"}
    cost = paired(frame, "cell", PLAIN, SPECTRAL, "accuracy")
    with_batch = paired(frame, "cell", BATCH, BOTH, "accuracy")
    return Page(
        title="Spectral normalization and Lipschitz constants",
        question=(
            "How much can a difference between two images make in the outputs of a network? The norms of its layers "
            "give a number that this, its Lipschitz constant, cannot exceed, and looking for steep places one that it "
            "is at least. How far are these apart, in a classifier and in the discriminator of a GAN, and what does "
            "spectral normalization do to both?"
        ),
        claims=_claims(runs, frame, layers),
        figures=[_training(runs, frame), _ends(frame, layers)],
        tables=[
            Table(
                summary(frame, ["cell"], columns),
                "At the end of the training. *bound* is the product of the norms of the layers, *reshaped* that with "
                "the norms of the weights as matrices; *ascent* is what gradient ascent over pairs of images finds, "
                "*data* and *data_median* the steepness at images of the data; *gap* is *bound* divided by *ascent*.",
            ),
            Table(
                summary(layers.assign(state="finished"), ["cell", "layer"], {"sigma": ".3f", "ratio": ".2f"}),
                "Each convolution: the norm of its weight as a matrix (*sigma*), and how many times larger its norm as "
                f"a map of its inputs is (*ratio*). *{RANDOM}* are {TRIES} convolutions of {CHANNELS} to {CHANNELS} "
                f"channels with normal weights on {SIZE}x{SIZE} pixels that go on at the other side.",
            ),
        ],
        notes=[
            f"Spectral normalization changes the accuracy of the classifier by {cost.text('+.1%')} without batch "
            f"normalization, and by {with_batch.text('+.1%')} with it. Where all weights are divided by their norms "
            "and no gamma makes activations larger again, logits cannot differ by more than the bound allows, however "
            "sure of a class a network should be.",
            "The numbers are those of the network as it evaluates, so that batch normalization is a fixed scale for "
            "each channel. Images count from 0 to 1 for the classifier and from -1 to 1 for the discriminator, as they "
            "are given; the classifier's bound has the standardization of the images in it.",
        ],
        limits=[
            "Claim 6 was first asked of all four classifiers, and the spectrally normalized one did not fulfil it. "
            "It was then narrowed to those without spectral normalization, of which its source speaks.",
            "The networks are small and the trainings short, a part of an epoch each. Bounds are products of one "
            "number per layer, so that deep networks may have larger gaps.",
            "Gradient ascent from a few images finds a steep place, not the steepest. What it finds is proven to be "
            "below the constant, and no more.",
            "Without spectral normalization the discriminator starts with small weights, and with it with those that "
            "division makes of them: the two differ before the first step. Whether that helps a GAN is not asked here.",
        ],
    )


def _cells(runs: Runs) -> DataFrame:
    """Name the cell of each run, and add what its training ended with."""
    frame = runs.last("val/accuracy", *(f"lipschitz/{name}" for name in LINES), share=0.05)
    frame = frame.rename(columns={f"lipschitz/{name}": name for name in LINES} | {"val/accuracy": "accuracy"})
    frame["gap"] = frame["bound"] / frame["ascent"]
    frame["excess"] = frame["ascent"] / frame["reshaped"]
    for name in ("gap", "excess", "ascent"):
        frame[f"log {name}"] = np.log10(frame[name])
    frame["cell"] = [_cell(row) for row in frame.itertuples()]
    order = list(CELLS)
    return frame.sort_values("cell", key=lambda cells: cells.map(order.index), kind="stable")


def _cell(row: Any) -> str:
    if row.sweep == "spectral_gan":
        return GAN_SPECTRAL if row.spectral == "discriminator" else GAN
    normalized, batch = row.parametrization == "spectral_norm", row.norm == "batch"
    return (BOTH if batch else SPECTRAL) if normalized else (BATCH if batch else PLAIN)


def _layers(frame: DataFrame) -> DataFrame:
    """Read the norms of the convolutions of all trained networks."""
    rows = []
    for row in frame[frame["state"] == "finished"].itertuples():
        with evaluating(()):
            module: Any = load_module(loadable(str(row.folder)))
        if isinstance(module, Classifier):
            network, run = module, lambda module=module: module(torch.zeros(1, 1, 28, 28))
        else:
            network, run = module.discriminator, lambda module=module: run_once(module, "discriminator")
        found = spectra(network, input_sizes(network, run))
        kinds = dict(linear_layers(network))
        convolutions = [each for name, each in found.items() if isinstance(kinds[name], CONVOLUTIONS)]
        for number, each in enumerate(convolutions, 1):
            ratio = float(each.operator or np.nan) / each.sigma
            rows.append({"cell": row.cell, "seed": row.seed, "layer": number, "sigma": each.sigma, "ratio": ratio})
    return DataFrame(rows)


@torch.no_grad()
def _random_layers() -> DataFrame:
    rows = []
    for seed in range(TRIES):
        layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="circular")
        layer.weight.normal_(generator=torch.Generator().manual_seed(seed))
        sigma = float(singular_values(layer)[0])
        ratio = operator_norm(layer, (SIZE, SIZE)) / sigma
        rows.append({"cell": RANDOM, "seed": seed, "layer": 1, "sigma": sigma, "ratio": ratio})
    return DataFrame(rows)


def _claims(runs: Runs, frame: DataFrame, layers: DataFrame) -> list[Claim]:
    def of(cell: str, metric: str) -> np.ndarray:
        return frame.loc[frame["cell"] == cell, metric].to_numpy(float)

    claims = [
        Claim(
            f"The product of the weights' norms as matrices bounds the Lipschitz constant: {network}.",
            f"{MIYATO}, equation 7",
            "at most 1; footnote 3 says that the norm of a convolution is another",
            f"gradient ascent finds {mean_text(of(cell, 'ascent'))}, and the product is "
            f"{mean_text(of(cell, 'reshaped'))}: {_times(excess)} as much",
            CONTRADICTED if excess.low > 0 else UNDECIDED,
            "the logarithm of what is found divided by the product; contradicted if above 0, and never confirmed, as "
            "there may be steeper places than those found",
        )
        for network, cell in (("classifier", SPECTRAL), ("discriminator", GAN_SPECTRAL))
        if (excess := against(of(cell, "log excess")))
    ]
    random = layers[layers["cell"] == RANDOM]["ratio"]
    trained = layers[layers["cell"].isin(NORMALIZED)].groupby("seed")["ratio"].mean()
    ratio, above = against(trained, 1.0), against(random, 1.0)
    claims.append(
        Claim(
            "The norm of a convolution is another than that of its weight as a matrix.",
            f"{MIYATO}, footnote 3",
            "no figure; the root of the kernel's size, 3, is as large as the quotient can be",
            f"{mean_text(random, '.2f')} times as large for random weights; {mean_text(trained, '.2f')} for trained "
            "ones with spectral normalization",
            decide(min(ratio.low, above.low), min(ratio.high, above.high), 1),
            "the quotient minus 1, random and trained ones each over seeds, both above 0",
        )
    )
    claims += [_floating(runs, frame, name, cell) for name, cell in (("D", GAN_SPECTRAL), ("classifier", SPECTRAL))]
    gaps = [against(of(cell, "log gap"), np.log10(FAR)) for cell in (PLAIN, BATCH)]
    claims.append(
        Claim(
            "The product of norms is far above the steepest place that is found.",
            "Scaman & Virmaux 2018, abstract",
            "“may significantly overestimate it”, the constant",
            "; ".join(f"*{cell}* {mean_text(of(cell, 'gap'))} times what is found" for cell in CLASSIFIERS),
            together([decide(gap.low, gap.high, 1) for gap in gaps]),
            f"the logarithm of bound divided by what is found minus that of {FAR:g}, above 0 in both classifiers "
            "without spectral normalization; the constant itself is above what is found, so it is overestimated by "
            "less",
        )
    )
    claims.append(
        _lower(frame, "Spectral normalization makes the discriminator less steep.", MIYATO, GAN, GAN_SPECTRAL)
    )
    return claims


def _floating(runs: Runs, frame: DataFrame, name: str, cell: str) -> Claim:
    """Say in which range the norms of normalized weights were during the trainings."""
    folders = set(frame.loc[frame["cell"] == cell, "folder"])
    low, high = (
        curve[curve["folder"].isin(folders)]
        for curve in (runs.curves("lipschitz/sigma_min"), runs.curves("lipschitz/sigma_max"))
    )
    highest = against(high.groupby("seed")["value"].max(), LIMIT)
    return Claim(
        f"One power iteration a step keeps the sigmas of the normalized weights near 1: {name}.",
        f"{MIYATO}, algorithm 1",
        f"1 to {LIMIT:g} over the training",
        f"{low['value'].min():.3f} to {high['value'].max():.3f} over all layers, looks and seeds",
        highest.verdict(-1),
        f"the largest of a training minus {LIMIT:g}, over seeds, below 0",
    )


def _lower(frame: DataFrame, text: str, source: str, reference: str, cell: str) -> Claim:
    effect = paired(frame, "cell", reference, cell, "log ascent")
    here = f"what ascent finds is {_times(effect)} as large with it"
    rule = f"the logarithm of what ascent finds, *{cell}* minus *{reference}*, paired by seed, below 0"
    verdict: Verdict = effect.verdict(-1)
    return Claim(text, f"{source}, abstract", "no figure", here, verdict, rule)


def _times(effect: Effect) -> str:
    """Write the difference of logarithms as a quotient."""
    value, low, high = (10**each for each in (effect.difference, effect.low, effect.high))
    return f"{value:.3g} times (95 % interval {low:.3g} to {high:.3g}, {effect.seeds} seeds)"


def _training(runs: Runs, frame: DataFrame) -> Figure:
    figure, panels = plots.panels(6, columns=2, height=2.1, sharey="row")
    curves = {name: runs.curves(f"lipschitz/{name}").merge(frame[["folder", "cell"]], on="folder") for name in LINES}
    named = []
    for axes, cell in zip(panels, CELLS, strict=True):
        ends = []
        for name, look in LINES.items():
            own = curves[name][curves[name]["cell"] == cell]
            if len(own):
                mean = _curve(axes, own, look, dashed=name == "reshaped")
                ends.append((mean, look))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(f"classifier, {cell}" if cell in CLASSIFIERS else cell)
        axes.set_xlabel("steps")
        named.append((axes, ends))
    for axes, ends in named:  # now that all that shares a scale is drawn
        plots.name_ends(axes, ends)
    for axes in panels[::2]:
        axes.set_ylabel("change of outputs / of image")
    caption = (
        "What the change of an image makes in the outputs, at most, over the training. The Lipschitz constant lies "
        "between what is “found by ascent” and the “bound”. The dashed “product of sigma” is what spectral "
        "normalization holds constant: where it is below what is found it is no bound. Thin lines are seeds, thick "
        "ones their geometric means."
    )
    return Figure("training", figure, caption, "Bounds on and findings of the Lipschitz constant over training steps")


def _curve(axes: Axes, rows: DataFrame, look: Look, dashed: bool) -> float:
    """Draw the seeds and their geometric mean, and return where that ends."""
    seeds = rows.pivot_table(index="step", columns="folder", values="value")
    style = "--" if dashed else "-"
    axes.plot(seeds.index, seeds, style, color=look.color, linewidth=0.5, alpha=0.5)
    mean = np.exp(np.log(seeds).mean(axis=1))
    axes.plot(mean.index, mean, style, color=look.color, linewidth=1.8)
    return float(mean.iloc[-1])


def _ends(frame: DataFrame, layers: DataFrame) -> Figure:
    figure, (left, right) = plots.panels(2, height=2.9)
    plots.points(left, frame, "cell", "gap")
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.set_xlabel("bound / found by ascent")
    plots.points(right, layers, "cell", "ratio")
    right.axvline(3, color=plots.SOFT, linewidth=0.8, linestyle=":")
    right.set_xlabel("norm of the convolution / sigma")
    right.set_xlim(0.95, 3.1)
    caption = (
        "Left: how many times larger the bound is than what gradient ascent finds, at the end of each training. Right: "
        "how many times larger the norm of each convolution is than that of its weight as a matrix, which spectral "
        "normalization divides by; dotted is the largest that 3x3 kernels can have."
    )
    return Figure("ends", figure, caption, "Gap between bound and finding, and between two norms of convolutions")
