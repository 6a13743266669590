"""Norms at small batches, and at batches of few classes."""

from functools import partial

from pandas import DataFrame

from experiments import plots
from experiments.cells import cell, minus
from experiments.page import Claim, Figure, Page, Table
from experiments.reading import Runs
from experiments.summaries import mean_text, summary
from experiments.verdicts import Effect, against, decide_alike

BATCHES = {"small_batches_2": 2, "small_batches_8": 8, "small_batches_32": 32}
"""The images of a batch in each sweep."""

FEW = "few_classes"
"""The sweep whose batches are of two classes, of five and of all ten."""

SWEEPS = (*BATCHES, FEW)

SMALL, LARGE = min(BATCHES.values()), max(BATCHES.values())

FEWEST, ALL = 2, 10
"""Classes in a batch that are compared."""

ERROR, SIZE = "error, %", "images"
STATISTICS = ("instance", "layer", "batch")
SHARE = "switch/all/{}/{}"

MARGIN = 2.0
"""Differences in error below so many points are taken for none."""

GN, BRN, SN = "Wu & He 2018, table 2", "Ioffe 2017, results on", "Luo et al. 2019, a figure of the authors' blog"

error = partial(mean_text, form=".1f")


def page(runs: Runs) -> Page:
    """Make the page."""
    shares = {SHARE.format(part, name): (part, name) for part in ("mean", "var") for name in STATISTICS}
    last = runs.last("val/accuracy", *shares)
    last["norm"] = last["norm"].str.rpartition(".")[2]
    last[SIZE] = last["sweep"].map(BATCHES)
    last[ERROR] = 100 * (1 - last["val/accuracy"])
    for name in STATISTICS:
        last[name] = 100 * (last[SHARE.format("mean", name)] + last[SHARE.format("var", name)]) / 2
    sizes, few = last[last["sweep"] != FEW], last[last["sweep"] == FEW]
    return Page(
        title="Small and dependent batches",
        question=(
            "Batch normalization takes its statistics from the batch, so batches that are small, or all of a few "
            "classes, should hurt it. Which norms do without, and what does switchable normalization choose?"
        ),
        claims=[*_of_sizes(sizes), *_of_classes(few), _of_shares(sizes)],
        figures=[_sizes_figure(sizes), _classes_figure(few), _shares_figure(sizes)],
        tables=[
            Table(summary(sizes, ["norm", SIZE], {ERROR: ".1f"}), "Held-out error by images per batch."),
            Table(
                summary(few, ["norm", "classes"], {ERROR: ".1f"}),
                "Held-out error by the number of classes that a batch of 32 images has.",
            ),
            Table(
                summary(sizes[sizes["norm"] == "switchable"], [SIZE], dict.fromkeys(STATISTICS, ".1f")),
                "What switchable normalization ends with: the share of each statistic in percent, the mean over "
                "layers, and over the shares for means and for variances. It begins with equal shares.",
            ),
        ],
        setting=[
            "Every training of the first three sweeps sees 3,200 images once, in batches of 2, 8 or 32, with a "
            "learning rate in proportion to the batch, as in Wu & He 2018. Smaller batches so make more and smaller "
            "steps. Those of the fourth see 12,800. Held-out error is that of the first 2,000 test images.",
            "Batch, batch renormalization and switchable normalization average their running statistics alike, over "
            "about 33 batches (`experiments/slow_norms.py`), so that their averages make no difference. Batch "
            "renormalization corrects within its final limits after 50 batches, instead of 40,000.",
        ],
        limits=[
            "The learning rate and the length of the trainings with few classes were chosen after a first try, in "
            "which group normalization had learned nothing; with them, batches of five classes were added.",
            "Five convolutions and 3,200 images are no ResNet-50 on ImageNet. Published errors are of 1,000 classes.",
            "A convolution sees many pixels of each image, so that two images are many values but in the last layers.",
            "With as many images, the batch decides on the number of steps too, and 100 steps, as at 32, are few for "
            "any norm. What one norm loses from one batch to another is of both; only the comparison of norms is of "
            "the batch's statistics alone.",
            "Batch renormalization was made for trainings of many thousand steps, with averages over a hundred "
            "batches: 100 steps and averages over 33 may not do it justice.",
            "Three seeds decide on large effects alone.",
        ],
    )


def _between(frame: DataFrame, second: str, first: str, **settings: object) -> Effect:
    """Compare the errors of two norms at the same settings: second minus first."""
    return minus(*(cell(frame, ERROR, norm=norm, **settings) for norm in (second, first)))


def _of_sizes(sizes: DataFrame) -> list[Claim]:
    def at(norm: str, size: int) -> str:
        return error(cell(sizes, ERROR, norm=norm, images=size))

    def grown(norm: str) -> Effect:
        return minus(*(cell(sizes, ERROR, norm=norm, images=size) for size in (SMALL, LARGE)))

    batch, group = grown("batch"), grown("group")
    lost = minus(
        *(
            cell(sizes, ERROR, norm=norm, images=SMALL) - cell(sizes, ERROR, norm=norm, images=LARGE)
            for norm in ("batch", "group")
        )
    )
    small = {norm: _between(sizes, norm, "batch", images=SMALL) for norm in ("group", "batch_renorm", "switchable")}
    large = _between(sizes, "group", "batch", images=LARGE)
    others = {norm: _between(sizes, norm, "group", images=LARGE) for norm in ("layer", "instance")}
    each = f"error at {SMALL} images a batch minus that at {LARGE}"
    return [
        Claim(
            "Batch normalization errs more at small batches.",
            GN,
            "23.6 % at 32 images, 34.7 % at 2",
            f"{at('batch', LARGE)} at {LARGE}, {at('batch', SMALL)} at {SMALL}; {batch.text('+.1f')}",
            batch.verdict(1),
            f"{each}, of batch normalization",
        ),
        Claim(
            "Group normalization errs alike at all batches.",
            GN,
            "24.1 % at 32 and at 2",
            f"{at('group', LARGE)} at {LARGE}, {at('group', SMALL)} at {SMALL}; {group.text('+.1f')}",
            decide_alike(group.low, group.high, MARGIN),
            f"{each}, of group normalization, within {MARGIN:g} points",
        ),
        Claim(
            "Small batches cost batch normalization more than group normalization.",
            GN,
            "11.1 points against 0.0",
            lost.text("+.1f"),
            lost.verdict(1),
            f"{each}, batch minus group",
        ),
        Claim(
            "At the smallest batch, group normalization is better than batch normalization.",
            f"{GN} and abstract",
            "10.6 points",
            small["group"].text("+.1f"),
            small["group"].verdict(-1),
            f"error at {SMALL} images a batch, group minus batch",
        ),
        Claim(
            "At large batches, batch normalization is as good or better.",
            GN,
            "23.6 % against 24.1 % at 32 images",
            large.text("+.1f"),
            large.verdict(1),
            f"error at {LARGE} images a batch, group minus batch",
        ),
        Claim(
            "Batch renormalization is better than batch normalization at small batches.",
            f"{BRN} small minibatches",
            "76.5 % accuracy against 74.2 %, at statistics of 4 images",
            small["batch_renorm"].text("+.1f"),
            small["batch_renorm"].verdict(-1),
            f"error at {SMALL} images a batch, batch renormalization minus batch",
        ),
        Claim(
            "Switchable normalization is better than batch normalization at small batches.",
            "Luo et al. 2019, the authors' repository",
            "75.6 % accuracy against 65.3 %, at 2 images",
            small["switchable"].text("+.1f"),
            small["switchable"].verdict(-1),
            f"error at {SMALL} images a batch, switchable minus batch",
        ),
        *(
            Claim(
                f"{norm.capitalize()} normalization is worse than group normalization.",
                "Wu & He 2018, table 1",
                f"{published} % against 24.1 %, at 32 images",
                others[norm].text("+.1f"),
                others[norm].verdict(1),
                f"error at {LARGE} images a batch, {norm} minus group",
            )
            for norm, published in (("layer", 25.3), ("instance", 28.4))
        ),
    ]


def _of_classes(few: DataFrame) -> list[Claim]:
    lost = {
        norm: cell(few, ERROR, norm=norm, classes=FEWEST) - cell(few, ERROR, norm=norm, classes=ALL)
        for norm in ("batch", "group")
    }
    batch = against(lost["batch"].to_numpy(float))
    more = minus(lost["batch"], lost["group"])
    renorm = _between(few, "batch_renorm", "batch", classes=FEWEST)
    each = f"error with batches of {FEWEST} classes minus that with all {ALL}"
    return [
        Claim(
            "Batch normalization errs more if batches are of few classes.",
            f"{BRN} minibatches that are not independent",
            "67.0 % accuracy, from 78.3 %",
            batch.text("+.1f"),
            batch.verdict(1),
            f"{each}, of batch normalization",
        ),
        Claim(
            "Few classes in a batch cost batch normalization more than a norm without statistics of the batch.",
            f"{BRN} minibatches that are not independent",
            "no figure",
            f"batch loses {error(lost['batch'])}, group {error(lost['group'])}; {more.text('+.1f')}",
            more.verdict(1),
            f"{each}, batch minus group",
        ),
        Claim(
            "Batch renormalization is better than batch normalization if batches are of few classes.",
            f"{BRN} minibatches that are not independent",
            "78.5 % accuracy against 67.0 %",
            renorm.text("+.1f"),
            renorm.verdict(-1),
            f"error with batches of {FEWEST} classes, batch renormalization minus batch",
        ),
    ]


def _of_shares(sizes: DataFrame) -> Claim:
    share = {size: cell(sizes, "batch", norm="switchable", images=size) for size in (SMALL, LARGE)}
    fallen = minus(share[SMALL], share[LARGE])
    return Claim(
        "Switchable normalization takes less of the batch's statistics at small batches.",
        SN,
        "about 58 % at 32 images, 15 % at 2",
        f"{error(share[LARGE])} at {LARGE}, {error(share[SMALL])} at {SMALL}; {fallen.text('+.1f')}",
        fallen.verdict(-1),
        f"mean share of batch statistics at the end in points, at {SMALL} images a batch minus at {LARGE}",
    )


def _sizes_figure(sizes: DataFrame) -> Figure:
    drawing, (axes,) = plots.panels(1, columns=1, height=3.2)
    plots.swept(axes, sizes, SIZE, "norm", ERROR)
    axes.set_xlabel("images per batch")
    axes.set_ylabel("held-out error, %")
    return Figure(
        "sizes",
        drawing,
        "Held-out error after as many images, by images per batch. Each mark is a seed, lines join means. Layer and "
        "instance normalization were trained at the smallest and the largest batch alone.",
        "Error over the batch size for each norm",
    )


def _classes_figure(few: DataFrame) -> Figure:
    drawing, (axes,) = plots.panels(1, columns=1)
    plots.swept(axes, few, "classes", "norm", ERROR)
    axes.set_xlabel("classes in a batch of 32 images")
    axes.set_ylabel("held-out error, %")
    return Figure(
        "classes",
        drawing,
        "Held-out error by the number of classes that a batch has. Which ones they are is drawn anew for each batch. "
        "Each mark is a seed, lines join means.",
        "Error of three norms over the number of classes in a batch",
    )


def _shares_figure(sizes: DataFrame) -> Figure:
    drawing, (axes,) = plots.panels(1, columns=1)
    own = sizes[sizes["norm"] == "switchable"]
    shares = own.melt(["seed", SIZE], [*STATISTICS], "statistic", "share")
    plots.swept(axes, shares, SIZE, "statistic", "share")
    axes.axhline(100 / 3, color=plots.SOFT, linewidth=0.8, linestyle=":")
    axes.set_xlabel("images per batch")
    axes.set_ylabel("share, %")
    return Figure(
        "shares",
        drawing,
        "What switchable normalization takes of the statistics of the instance, the layer and the batch at the end, "
        "the mean over layers. The dotted line is where it begins.",
        "Shares of the three statistics over the batch size",
    )
