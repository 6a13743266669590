"""What rho and the switch weights become in style transfer."""

from datetime import UTC, datetime

import pandas as pd
from pandas import DataFrame, Series

import normlab
from experiments import style_gate_figures as draw
from experiments.page import Claim, Figure, Page, Table
from experiments.reading import Runs
from experiments.style_gate_figures import LONG, LOSS, MAIN, MANY, WIDTH
from experiments.style_gates import (
    CELLS,
    STYLE,
    between_channels,
    causes,
    ends,
    rho_of_layers,
    rho_of_networks,
    switch_of_layers,
    values,
)
from experiments.summaries import mean_text
from experiments.verdicts import Effect, against
from mixing_analysis.binarized import evaluate
from mixing_analysis.published import PUBLISHED
from mixing_analysis.sources import read_run
from mixing_analysis.values import BIMODAL, bimodality
from norms.errors import SettingError
from norms.kinds import RHO

SWEEPS = tuple(CELLS)

TITLE = "What rho and the switch weights become in style transfer"

NAM = "Nam & Kim 2018, arXiv 1805.07925, figure 2, of a ResNet-110 on CIFAR"
LUO = "Luo et al. 2019, arXiv 1806.10779, and its authors' blog, of a ResNet-50 on ImageNet"

BATCHES = 8
"""On how many batches of held-out photos rounded networks are evaluated: those of the trainings' validations."""


def page(runs: Runs) -> Page:
    """Make the page."""
    table = values(runs)
    last = ends(table)
    networks, layers = rho_of_networks(table), rho_of_layers(table)
    switch = switch_of_layers(table)
    rounded = _rounded(runs)
    return Page(
        title=TITLE,
        question="Batch-instance normalization learns for each channel how much of it is normalized over the batch "
        "(rho is 1) and how much in each image alone (rho is 0); switchable normalization learns for each layer how it "
        "weighs the statistics of instance, layer and batch. What these become is published for classifiers. Here is "
        "what they become in networks that repaint photos in a style: by layer, style, seed, width, loss network, and "
        "for each style of one network.",
        claims=_claims(networks, layers, ends(switch)),
        figures=[
            Figure(
                "histogram",
                draw.histograms(last),
                "The channels' rho after the training, bars with 95 % intervals over seeds; the outlined bars are the "
                "two shares that are published of a classifier. Left and in the middle, three styles.",
                "Histograms of rho for three kinds of trainings",
            ),
            Figure(
                "movement",
                draw.movement(networks, layers),
                f"Where rho goes in 800 steps, style {STYLE}: left, the mean of each third of the layers; right, "
                "the shares of all channels near batch normalization, near instance "
                "normalization and between. All begin at 1, batch normalization. Thin lines are seeds.",
                "Mean of rho by part of the network, and its shares near the ends, over steps",
            ),
            Figure(
                "layers",
                draw.layers(ends(layers)),
                "The mean rho of each layer, from the input to the output, with 95 % intervals over seeds. The two "
                "norms of a residual block are a and b. Right, what width, losses and length change.",
                "Mean rho of each layer by style, and for other widths, losses and lengths",
            ),
            Figure(
                "switch",
                draw.switches(switch),
                "The weights of switchable normalization, of means and of variances, mean of the styles. Above, each "
                "layer's after the training, with 95 % intervals over seeds; below, the mean of all layers while they "
                "are learned. All begin at a third, the dotted line.",
                "Weights of instance, layer and batch statistics by layer and over steps",
            ),
        ],
        tables=[
            Table(
                _cells(networks, last),
                "Rho over all channels of a network after the training, mean ± standard "
                "deviation over seeds (of all styles where there are several):",
            ),
            Table(_styles(networks), "The same for each style, in networks of their own and in one of all three:"),
            Table(
                causes(_of(ends(layers), MAIN)),
                f"What makes the mean rho of a layer differ ({MAIN}): shares of the "
                "variance, by random effects of layer, style (with what a style changes in single layers) and seed "
                "(with all that a seed changes); then the same without each seed:",
            ),
            Table(_weights(ends(switch)), "Weights of switchable normalization, the mean of all layers:"),
            *_rounded_table(rounded),
        ],
        notes=_notes(runs, last, networks, layers, rounded),
        limits=[
            "The trainings are short. Adam moves rho by at most about a fiftieth at each of these steps (ten times the "
            "learning rate of 0.002), so 300 steps could take it from one end to the other and back several times; "
            "logits of switch weights have the learning rate of the weights, move by a tenth of that, and have gone "
            "only part of their way.",
            "The networks are small (8 to 32 channels, three residual blocks, squares of 64 pixels); the published "
            "histogram is of a classifier of 110 layers after 160 epochs or so. Where both differ, the task is one "
            "reason among several.",
            "Intervals are over three seeds, which are the same initial weights and photos in every cell, and hold for "
            "these styles and photos.",
            "The mean of rho over a layer says nothing of how important its channels are: none is weighted by its "
            "gamma.",
            "The network of three styles sees two photos for each style in a step, where the others see four of one "
            "style, and all its styles share the statistics of the batch. That its rho differs from theirs may come of "
            "either.",
            "Rounding is tried at once and without training on, on these small networks and held-out photos.",
        ],
        setting=[
            f"The trainings that vary neither style nor length are in the style {STYLE}. Rho begins at 1 and has ten "
            "times the learning rate of the weights, as published; it is projected onto [0, 1] after each step.",
        ],
    )


def _claims(networks: DataFrame, layers: DataFrame, switch: DataFrame) -> list[Claim]:
    known = PUBLISHED["rho"].shares
    main, long = (ends(_of(networks, cell)) for cell in (MAIN, LONG))
    above, ended = against(_by_seed(main, "above"), 0.5), against(_by_seed(long, "above"), 0.5)
    both = against(_by_seed(long.assign(both=long["above"] + long["below"]), "both"), 0.5)
    rise, risen = (_rise(ends(_of(layers, cell))) for cell in (MAIN, LONG))
    shares = _of(switch, MAIN).pivot_table(index="seed", columns="statistic", values="value")
    shares = shares.reindex(columns=["instance", "layer", "batch"])
    less = against(shares["instance"] - shares["batch"])
    return [
        Claim(
            "As in a classifier, most channels stay near batch normalization, with a rho of at least 0.9",
            NAM,
            f"{known['network']['above']:.0%} of the channels",
            f"{_share(above, 0.5)} after 300 steps, {_share(ended, 0.5)} after 800",
            ended.verdict(1),
            f"the share of the channels with a rho of at least 0.9 after 800 steps, style {STYLE}: above a half.",
        ),
        Claim(
            "As in a classifier, rho is of two kinds: most channels end within a tenth of 0 or of 1",
            NAM,
            f"{known['network']['above'] + known['network']['below']:.0%} of the channels",
            f"{_share(both, 0.5)} after 800 steps",
            both.verdict(1),
            f"the share of the channels within a tenth of either end after 800 steps, style {STYLE}: above a half.",
        ),
        Claim(
            "As in a classifier, layers near the input use more instance normalization than layers near the output",
            NAM,
            f"{known['first']['below']:.0%} of the channels near 0 in lower layers, {known['last']['below']:.0%} in "
            "upper",
            f"mean rho of the last third of the layers minus that of the first: {rise.text('+.3f')} after 300 steps; "
            f"{risen.text('+.3f')} after 800",
            rise.verdict(1),
            f"that difference ({MAIN}), the mean of all styles: above 0. That of {LONG} is of the style {STYLE} alone, "
            "and does not decide.",
        ),
        Claim(
            "With few images in a batch, switchable normalization gives batch statistics less weight than those of "
            "instances",
            LUO,
            "0.15 against 0.30 with 2 images for each GPU",
            f"with 4 photos instance {shares['instance'].mean():.3f}, layer "
            f"{shares['layer'].mean():.3f}, batch {shares['batch'].mean():.3f}; instance minus batch "
            f"{less.text('+.3f')}",
            less.verdict(1),
            f"the mean weight of all layers and styles, of means and variances, instance minus batch ({MAIN}): above "
            "0.",
        ),
    ]


def _rise(own: DataFrame) -> Effect:
    """Compare the mean rho of the last third of the layers with that of the first."""
    third = 3 * own["depth"] // (own["depth"].max() + 1)
    return against(_by_seed(own[third == 2], "value") - _by_seed(own[third == 0], "value"))


def _notes(runs: Runs, last: DataFrame, networks: DataFrame, layers: DataFrame, rounded: DataFrame | None) -> list[str]:
    own = ends(_of(layers, MAIN))
    trends = [
        seed.groupby("depth")["value"]
        .mean()
        .corr(Series(range(own["depth"].max() + 1), dtype=float), method="spearman")
        for _, seed in own.groupby("seed")
    ]
    channels = between_channels(last[last["cell"] == MAIN])
    notes = [
        f"Depth: the rank correlation of a layer's mean rho with its depth is {against(trends).text('+.2f')} ({MAIN}, "
        f"mean of all styles). Of the whole variance of rho, {channels:.0%} is between the channels of a layer of one "
        "network; the table of causes splits that of the layers' means.",
        _settled(networks),
        _alike(ends(layers)),
    ]
    if rounded is not None:
        notes.append(_price(rounded))
    newest = max(run.ended for _, run in runs.records())
    when = datetime.fromtimestamp(newest, UTC)
    notes.append(
        f"To cite this page: *{TITLE}.* The normlab authors, documentation of normlab {normlab.__version__}, "
        f"experiments, trained up to {when.day} {when:%B %Y}."
    )
    return notes


def _settled(networks: DataFrame) -> str:
    """Say how fast rho still moves in the last quarter of the longer training, beside the first."""
    own = _of(networks, LONG).pivot_table(index="step", columns="seed", values="rho")
    if len(own) < 5:
        return ""
    quarter = (len(own) - 1) // 4
    first = against((own.iloc[quarter] - own.iloc[0]).to_numpy())
    end = against((own.iloc[-1] - own.iloc[-1 - quarter]).to_numpy())
    decided = (
        "it still moves" if end.low > 0 or end.high < 0 else "no movement is left that three seeds can tell from none"
    )
    return (
        f"Whether it has settled: in the first quarter of 800 steps the mean of rho changes by {first.text('+.3f')}, "
        f"in the last by {end.text('+.3f')}: {decided}."
    )


def _alike(rows: DataFrame) -> str:
    """Say how alike the profiles over layers are in cells that differ in one thing from the shorter trainings."""
    night = rows[rows["style"] == STYLE].pivot_table(index="depth", columns="cell", values="value")
    parts = [
        f"{cell} {night[MAIN].corr(night[cell], method='spearman'):+.2f}"
        for cell in (LONG, WIDTH, LOSS, MANY)
        if {MAIN, cell} <= set(night)
    ]
    styles = _of(rows, MAIN).pivot_table(index="depth", columns="style", values="value").corr(method="spearman")
    pairs = [
        f"{a} and {b} {styles.loc[a, b]:+.2f}" for place, a in enumerate(styles) for b in list(styles)[place + 1 :]
    ]
    return (
        f"How alike the layers' mean rho is, as rank correlations over the layers: with {MAIN}, style {STYLE}: "
        f"{', '.join(parts) or 'nothing to compare'}. Between styles: {', '.join(pairs) or 'nothing to compare'}."
    )


def _cells(networks: DataFrame, last: DataFrame) -> DataFrame:
    rows = []
    low, high = RHO.ends
    for cell in CELLS.values():
        own = ends(_of(networks, cell))
        rho = last[(last["cell"] == cell) & (last["kind"] == RHO.name)]
        if own.empty:
            continue
        peaks = [bimodality(seed["value"].to_numpy()) for _, seed in rho.groupby("seed")]
        rows.append(
            {
                "trainings": cell,
                "styles": own["style"].nunique(),
                "mean of rho": mean_text(_by_seed(own, "rho"), ".3f"),
                f"share up to {low:g}": mean_text(_by_seed(own, "below"), ".1%"),
                f"share from {high:g}": mean_text(_by_seed(own, "above"), ".1%"),
                f"Sarle's coefficient (two peaks above {BIMODAL:.2f})": mean_text(peaks, ".2f"),
            }
        )
    return DataFrame(rows)


def _styles(networks: DataFrame) -> DataFrame:
    rows = [
        {
            "style": style,
            "trainings": cell,
            "mean of rho": mean_text(own["rho"], ".3f"),
            "share up to 0.1": mean_text(own["below"], ".1%"),
            "share from 0.9": mean_text(own["above"], ".1%"),
        }
        for cell in (MAIN, MANY)
        for style, own in ends(_of(networks, cell)).groupby("style", sort=False)
    ]
    return DataFrame(rows)


def _weights(switch: DataFrame) -> DataFrame:
    rows = []
    for (cell, style), own in switch.groupby(["cell", "style"], sort=False):
        for kind, words in draw.MOMENTS.items():
            shares = own[own["kind"] == kind].pivot_table(index="seed", columns="statistic", values="value")
            texts = {name: mean_text(shares[name], ".3f") for name in ("instance", "layer", "batch")}
            rows.append({"trainings": cell, "style": style, "of": words, **texts})
    return DataFrame(rows)


def _rounded(runs: Runs) -> DataFrame | None:
    """Evaluate the networks of the longer trainings with rho as learned and rounded; None without their photos."""
    frame = runs.frame[runs.frame["sweep"].isin(["style_mixing_long"])]
    frame = frame[(frame["norm"] != "switchable") & (frame["state"] == "finished")]
    try:
        found = [
            evaluate(read_run(row.folder), BATCHES).assign(seed=row.seed, cell=CELLS[row.sweep])
            for row in frame.itertuples()
        ]
    except SettingError:
        return None
    return pd.concat(found, ignore_index=True) if found else None


def _rounded_table(rounded: DataFrame | None) -> list[Table]:
    if rounded is None:
        return []
    rows = [
        {
            "trainings": cell,
            "running statistics": statistics,
            "loss": str(metric).removeprefix("val/"),
            "rho as learned": mean_text(own["learned"], ".3f"),
            "rho rounded to 0 or 1": mean_text(own["binarized"], ".3f"),
        }
        for (cell, statistics, metric), own in rounded.groupby(["cell", "statistics", "metric"], sort=False)
        if str(metric).removeprefix("val/") in ("content", "style", "loss")
    ]
    return [Table(DataFrame(rows), "Held-out losses of the longer trainings, as they are and with every rho rounded:")]


def _price(rounded: DataFrame) -> str:
    """Say what rounding costs at once, with statistics that fit it."""
    parts = []
    for cell, own in rounded[rounded["statistics"] == "recalibrated"].groupby("cell", sort=False):
        loss = own[own["metric"].str.removeprefix("val/") == "loss"]
        price = against((loss["binarized"] / loss["learned"] - 1).to_numpy())
        parts.append(f"{cell}: {price.text('+.1%')}")
    told = "What it costs to round every rho at once, without training on, as a share of the total loss"
    return f"{told}: {'; '.join(parts)}."


def _of(rows: DataFrame, cell: str) -> DataFrame:
    return rows[rows["cell"] == cell]


def _by_seed(rows: DataFrame, column: str) -> Series:
    """Average a column over all rows of a seed; NaN of a seed that lacks a style."""
    groups = rows.groupby("seed")
    found: Series = groups[column].mean().where(groups["style"].nunique() == rows["style"].nunique())
    return found


def _share(effect: Effect, reference: float) -> str:
    """Write a share of which an effect tells how far it is above a reference."""
    if not effect.seeds:
        return "nothing yet"
    sure = f" (95 % interval {reference + effect.low:.1%} to {reference + effect.high:.1%})" if effect.seeds > 1 else ""
    return f"{effect.second:.1%}{sure}"
