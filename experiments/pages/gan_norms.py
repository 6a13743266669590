"""Norms in a GAN's generator, with and without spectral normalization in the discriminator."""

import numpy as np
import pandas as pd
from pandas import DataFrame

from experiments.gan_figures import (
    BOUND,
    DIVERSITY,
    ERROR,
    FD,
    KID,
    KINDS,
    SIGMA,
    SPECTRAL,
    STATISTICS,
    layers_of,
    lines,
    named,
    samples_figure,
    start,
    training_figures,
    value_figures,
)
from experiments.layer_values import depth_trend, layer_values
from experiments.mixing import at_end
from experiments.page import Claim, Page, Table
from experiments.plots import NORMS
from experiments.reading import Runs
from experiments.summaries import mean_text, summary
from experiments.verdicts import Effect, against, paired
from mixing_analysis.effects import holm
from sweeping.runs import read_runs

SWEEPS = ("gan_norms", "gan_norms_classes")

PUBLISHED = "gan_norms_published"
"""The sweep of the published size."""

FELL_BACK = 1.25
"""A training has fallen back that ends at so many times the lowest distance that it had."""

EXACT = 0.1
"""How far from 1 the spectral norm of a normalized weight may be that one power iteration suffices for."""


def page(runs: Runs) -> Page:
    """Make the page."""
    ends = named(runs.last(FD, KID, SIGMA, BOUND, DIVERSITY))
    values = named(layer_values(runs))
    return Page(
        title="Norms in a GAN's generator",
        question=(
            "Which norm in the generator makes the better images, does the answer depend on spectral normalization "
            "in the discriminator, and when does the training collapse? And what do rho and the switch weights become "
            "in a generator, over depth and time? For the last question there are no published numbers that we know of."
        ),
        claims=[*_claims(ends, runs), *_claims_on_rho(runs, values)],
        figures=[*training_figures(runs), samples_figure(ends), *value_figures(values)],
        tables=[_scores(ends, runs), *([*_shares(values), _trends(values)] if len(values) else ())],
        notes=_findings(values) if len(values) else (),
        setting=_begun(runs),
        limits=(
            "The networks are a small SNGAN ResNet, 28 gray pixels and some hundred steps: all images are far from "
            "good ones, and what differs here is how fast they get better as much as how good they get.",
            "The distances are in the features of a small classifier of garments: they are no FID, and compare with "
            "nothing but each other.",
            "The conditional generator has another discriminator than the others, which is told the classes. What "
            "classes give cannot be told apart from what the norm gives.",
            "Gates begin at 1, so that those near 1 may have chosen batch normalization or not moved yet, and a "
            "training that moved none of them would have all of them near an end.",
            "Layers of a higher resolution are later ones too, with more pixels to take an instance's statistics from, "
            "and there are few of them: a trend over depth cannot tell which of these it is of.",
            "The learning rate falls to 0 in a straight line, so that values that have come to rest need not be where "
            "a longer training would take them.",
            "The discriminator without spectral normalization has no norm in its place, where the papers compare "
            "with batch normalization and others in the discriminator.",
        ),
    )


def _claims(ends: DataFrame, runs: Runs) -> list[Claim]:
    normalized = ends[ends["spectral"] == "with"]
    spectral, errors = of_spectral(ends), _largest(runs, ERROR)
    within = against(errors, EXACT)
    claims = [
        Claim(
            "Spectral normalization in the discriminator makes better images.",
            "Miyato et al. 2018, table 2",
            "CIFAR-10, standard CNN: FID 29.3 with it; 34.7 with weight normalization, 56.3 with batch normalization",
            f"fd_garments, mean of all norms: {_compared(spectral, 'without', 'with')}",
            spectral.verdict(-1),
            "fd_garments with minus without, the mean over the norms of each seed",
        ),
        Claim(
            "One power iteration an update keeps the spectral norms of the weights at 1.",
            "Miyato et al. 2018, section 2.1 and appendix A",
            "one round is sufficient",
            f"largest distance from 1 at any look of a training, the largest of all norms: {mean_text(errors, '.2g')}",
            within.verdict(-1),
            f"that distance is below {EXACT:g}",
        ),
    ]
    comparisons = (
        (
            "conditional",
            "A generator with a gamma and beta for each class, against a projection discriminator, makes better "
            "images than one without classes.",
            "Miyato & Koyama 2018, as quoted by mimicry; Miyato et al. 2018, table 2",
            "CIFAR-10, ResNet: FID 17.5 with classes, 21.7 without",
        ),
        (
            "switchable",
            "Switchable normalization is better than batch normalization, whatever the task.",
            "Luo et al. 2019, abstract",
            "not tried in GANs; ImageNet, ResNet-50: 76.9 against 76.4 % right",
        ),
        (
            "batch_instance",
            "Batch-instance normalization is better than batch normalization in its place.",
            "Nam & Kim 2018, abstract",
            "not tried in GANs; CIFAR-10, ResNet-110: 94.29 against 93.72 % right",
        ),
    )
    for norm, text, source, published in comparisons:
        if norm not in set(normalized["norm"]):
            continue
        effect = paired(normalized, "norm", "batch", norm, FD)
        here = f"fd_garments: {_compared(effect, 'batch', NORMS[norm].label)}"
        rule = f"fd_garments of {NORMS[norm].label} minus batch, with spectral normalization in the discriminator"
        claims.append(Claim(text, source, published, here, effect.verdict(-1), rule))
    return claims


def _compared(effect: Effect, first: str, second: str) -> str:
    return f"{first} {effect.first:.3g}, {second} {effect.second:.3g}, difference {effect.text()}"


def _claims_on_rho(runs: Runs, values: DataFrame) -> list[Claim]:
    """Compare rho with what was published of classifiers, with spectral normalization in the discriminator."""
    if "rho" not in set(values["name"]):
        return []
    low, high = "rho/all/share_below_0_1", "rho/all/share_above_0_9"
    ends = named(runs.last(low, high))
    ends = ends[(ends["norm"] == "batch_instance") & (ends["spectral"] == "with")]
    chosen = against(ends[low] + ends[high], 0.5)
    own = at_end(values)
    own = own[(own["name"] == "rho") & (own["spectral"] == "with")]
    trend = against(depth_trend(own, layers_of(values)))
    return [
        Claim(
            "Most gates rho are near an end of their range.",
            "Nam & Kim 2018, figure 2",
            "ResNet-110, CIFAR-10: some 72 % from 0.9 to 1, some 10 % from 0 to 0.1",
            f"{mean_text(ends[high], '.0%')} above 0.9, {mean_text(ends[low], '.0%')} below 0.1",
            chosen.verdict(1),
            "the share of gates within 0.1 of an end minus a half; it is 1 at the start, where all gates are 1",
        ),
        Claim(
            "Layers of a high resolution, in a classifier the lower ones, take more instance normalization.",
            "Nam & Kim 2018, figure 2",
            "gates near 0: some 21 % in lower layers, 7 % in upper ones of a ResNet-110",
            f"a generator's resolution grows with depth: rank correlation of mean rho with depth {trend.text('+.2f')}",
            trend.verdict(-1),
            "that correlation, below 0 if later layers have a lower rho",
        ),
    ]


def of_spectral(ends: DataFrame) -> Effect:
    """Compare with and without spectral normalization, by the mean over the norms of each seed."""
    pairs = ends.pivot_table(index=["seed", "norm"], columns="spectral", values=FD).dropna()
    long = pairs.groupby("seed").mean().melt(ignore_index=False, value_name=FD).reset_index()
    return paired(long, "spectral", "without", "with", FD)


def _largest(runs: Runs, metric: str) -> np.ndarray:
    """Return, for each seed, the largest value of a metric in any training that has it, after its first step."""
    found = runs.curves(metric)
    return found[found["step"] > 0].groupby("seed")["value"].max().to_numpy(float)


def _scores(ends: DataFrame, runs: Runs) -> Table:
    """Sum up how good the images of each cell are, and how many of its trainings went wrong."""
    best = runs.curves(FD).groupby("folder")["value"].min()
    fell = ends[FD] > FELL_BACK * ends["folder"].map(best)
    frame = ends.assign(**{"fell back": fell.astype(int)})
    events = runs.events()
    for sign in ("collapse", "saturation", "jump"):
        told = set(events.loc[events["sign"] == sign, "folder"])
        frame[sign] = frame["folder"].isin(told).astype(int)
    forms = {FD: ".3g", KID: ".2g", DIVERSITY: ".2f", SIGMA: ".3g", BOUND: ".3g"}
    rows = summary(frame, ["norm", "spectral"], forms)
    counts = frame.groupby(["norm", "spectral"], sort=False)[["fell back", "collapse", "saturation", "jump"]].sum()
    rows = rows.merge(counts.reset_index(), on=["norm", "spectral"])
    order = {norm: place for place, norm in enumerate(NORMS)}
    rows = rows.sort_values(["norm", "spectral"], key=lambda column: column.map(lambda name: order.get(name, name)))
    rows["norm"] = [NORMS[norm].label for norm in rows["norm"]]
    names = {"spectral": "spectral norm in D", FD: "fd_garments", KID: "kid_garments", DIVERSITY: "diversity"}
    return Table(
        rows.rename(columns=names | {SIGMA: "largest singular value of D", BOUND: "Lipschitz bound of D"}),
        "At the end of the training, mean ± standard deviation over seeds. A training *fell back* if it ended at more "
        f"than {FELL_BACK:g} times the lowest fd_garments that it had; collapse, saturation and jump are the guard's "
        "signs, in the number of trainings: images nearly alike, a discriminator with nothing left to learn, and a "
        "sudden growth of the generator's singular values.",
    )


def _shares(values: DataFrame) -> list[Table]:
    """Sum up what the norms of each layer have learned."""
    last = at_end(values)
    names = {"rho": "mean rho", "rho/below": "share below 0.1", "rho/above": "share above 0.9"}
    names |= {f"{part}_weight/{name}": f"{part} {name}" for part in ("mean", "var") for name in STATISTICS}
    tables = []
    for norm, caption in (
        ("batch_instance", "Rho at the end by layer: 0 is instance and 1 is batch normalization."),
        ("switchable", "Switch weights at the end by layer, of the means and of the variances."),
    ):
        own = last[(last["norm"] == norm) & last["name"].isin(names)]
        wide = own.groupby(["layer", "spectral", "name"], sort=False)["value"].apply(mean_text, ".2f").unstack()
        if wide.empty:
            continue
        wide = wide[[name for name in names if name in wide]].rename(columns=names)
        rows = wide.reindex(pd.MultiIndex.from_product([layers_of(own), SPECTRAL.values()])).dropna(how="all")
        rows = rows.rename_axis(["layer", "spectral norm in D"]).reset_index()
        tables.append(Table(rows, f"{caption} Mean ± standard deviation over seeds."))
    return tables


def _trends(values: DataFrame) -> Table:
    """Say how what the norms have learned goes with depth."""
    last, layers = at_end(values), layers_of(values)
    rows = []
    for kind, title in KINDS.items():
        for name, _, _ in lines(kind):
            row = {"what": title if kind == name else f"{title}: {name.rpartition('/')[2]}"}
            for word in SPECTRAL.values():
                own = last[(last["name"] == name) & (last["spectral"] == word)]
                row[f"{word} spectral norm in D"] = mean_text(depth_trend(own, layers), ".2f")
            rows.append(row)
    caption = (
        "Rank correlation of what a layer has learned with its depth, from -1 to 1: mean ± standard deviation over "
        "seeds. The first layer is the coarsest, the last has the resolution of the images."
    )
    return Table(DataFrame(rows), caption)


def _findings(values: DataFrame) -> list[str]:
    """Say what of rho and the switch weights the seeds are sure of."""
    last, told = at_end(values), []
    for kind, title in KINDS.items():
        rows = last[last["name"].isin([name for name, _, _ in lines(kind)])]
        wide = rows.pivot_table(
            index=["layer", "name", "seed"], columns="spectral", values="value", sort=False
        ).dropna()
        if wide.empty:
            continue
        cells = wide.groupby(["layer", "name"], sort=False)
        moved = {cell: against(own.mean(axis=1), start(kind)) for cell, own in cells}
        apart = [against(own["with"] - own["without"]) for _, own in cells]
        (layer, name), far = max(moved.items(), key=lambda cell: abs(cell[1].difference))
        what = "rho" if kind == name else f"the weight of {name.rpartition('/')[2]}"
        told.append(
            f"**{title[0].upper()}{title[1:]}.** Of {len(moved)} values, each the mean of the trainings with and "
            f"without spectral normalization of a seed, {_sure(list(moved.values()))} differ from where they began, "
            f"{start(kind):.2f}. The farthest is {what} of `{layer}`, at {far.second:.2f}: {far.text('+.2f')}. Between "
            f"trainings with and without spectral normalization {_sure(apart)} differ."
        )
    tests = (
        "Differences are those of t tests over seeds with p < 0.05, after Holm's correction for all values of a kind."
    )
    return [*told, tests]


def _sure(effects: list[Effect]) -> str:
    p = np.array([effect.p for effect in effects])
    return f"{int((holm(p) < 0.05).sum())} ({int((p < 0.05).sum())} without correction)"


def _begun(runs: Runs) -> list[str]:
    """Say with which batches the published size was begun, if it was."""
    told = []
    for record in read_runs(runs.runs_dir / PUBLISHED):
        for run in record.versions()[:1]:
            config = run.read_config() or {}
            data, model = config["data"]["init_args"], config["model"]["init_args"]
            told.append(
                f"Of the published size, norm {model['norm']} was begun on `{data.get('path')}`, with batches of "
                f"{data['batch_size']} images for each update of the discriminator and {model['generator_batch_size']} "
                "for the generator, where the published ones are 64 and 128: on a CPU those would take hours."
            )
    return told
