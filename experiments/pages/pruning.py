"""Whether it pays to round the mixtures of trained norms, and to put plain norms in their place."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pandas import DataFrame

from experiments.page import Claim, Figure, Page, Table
from experiments.plots import NORMS, Look, panels, points
from experiments.pruned import BATCHES, BINARIZED, IMAGES, LEARNED, NEAR, PLAIN, measured
from experiments.reading import Runs
from experiments.summaries import mean_text
from experiments.verdicts import Effect, against, paired, together
from mixing_analysis.binarized import STATISTICS

SWEEPS = ("style_norms", "gan_norms")

TASKS = {"style_norms": "style", "gan_norms": "GAN"}
"""From the sweep to what its networks are for."""

METRICS = {"style_norms": "val/loss", "gan_norms": "val/fd_garments"}
"""From the sweep to what its networks are scored by; less is better."""

USUAL = {"style_norms": "instance", "gan_norms": "batch"}
"""From the sweep to the plain norm that its networks usually have."""

MIXTURES = ("batch_instance", "switchable")

HARMLESS = 0.05
"""A change that makes the score worse by less than this share of it counts as harmless."""

NEAR_END = "within 0.1"
"""The version that rounds the gates that count as near an end, so that the share at an end is theirs."""

ORDER = (LEARNED, *NEAR, BINARIZED, PLAIN)

CELLS = {
    ("style_norms", "batch_instance"): Look("style, batch-instance", "#8a55b5", "o"),
    ("style_norms", "switchable"): Look("style, switchable", "#0f8f7e", "s"),
    ("gan_norms", "batch_instance"): Look("GAN, batch-instance", "#dd96c8", "^"),
    ("gan_norms", "switchable"): Look("GAN, switchable", "#93b02c", "D"),
}


def page(runs: Runs) -> Page:
    """Make the page; what has not been measured of a run yet is measured first."""
    rows = _measured(runs)
    seeds = _of_seeds(rows)
    trained = _trained(runs)
    return Page(
        title="Does pruning pay?",
        question=(
            "A norm that mixes several statistics costs more than a plain one. Can the mixtures be rounded when the "
            "training is over, what does that cost, and how much faster is a network with plain norms in their place? "
            "Is it then better than one that was trained with a plain norm?"
        ),
        claims=_claims(seeds, trained),
        figures=[_over_versions(seeds), _beside_plain(seeds, trained)],
        tables=[_table(seeds)],
        notes=_findings(seeds),
        setting=[
            f"Networks of style transfer are scored by the total loss of {BATCHES} batches of held-out photos, "
            "generators by fd_garments of "
            f"{IMAGES:,} images of the averaged generator. A row is the mean of the styles, or of the discriminators "
            "with and without spectral normalization, of each seed. Speed is the ratio of the median times of a pass "
            "of the network as learned and of the changed one, in turns in one process with one thread, on a machine "
            "that other work shared. Trainings with other norms than these and the usual ones are not used."
        ],
        limits=[
            "Shao et al. let the training choose a statistic. Here the choice is made when it is over, so that what it "
            "costs speaks against rounding, not against their method.",
            "The trainings are short. Mixtures that had more time may be nearer to pure, and cost less to round.",
            "Nothing is trained after rounding, where a few steps more might mend what it breaks.",
            "Passes are timed with small images on a CPU. On a GPU, or where compiled, the ratios are others.",
            "What a layer with plain norms computes is torch's own, what mixes is this project's. The ratios compare "
            "these two implementations.",
        ],
    )


def _measured(runs: Runs) -> DataFrame:
    """Return what :func:`experiments.pruned.measured` says of the runs with mixtures, in the metric of their sweep."""
    frame = runs.frame[(runs.frame["state"] == "finished") & runs.frame["norm"].isin(MIXTURES)]
    parts = [measured(folder).assign(run=index) for index, folder in frame["folder"].items()]
    rows = frame.merge(pd.concat(parts), left_index=True, right_on="run")
    rows = rows[rows["metric"] == rows["sweep"].map(METRICS)]
    learned = rows[rows["version"] == LEARNED].set_index(["folder", "statistics"])["value"]
    before = learned.loc[pd.MultiIndex.from_frame(rows[["folder", "statistics"]])].to_numpy()
    return rows.assign(change=rows["value"].to_numpy() / before - 1)


def _of_seeds(rows: DataFrame) -> DataFrame:
    """Average over what else was varied, such as styles: a row per sweep, norm, seed, version and statistics."""
    keys = ["sweep", "norm", "seed", "version", "statistics"]
    numbers = ["value", "change", "plain", "gates", "parameters", "bytes", "speed"]
    return rows.groupby(keys, sort=False)[numbers].mean().reset_index()


def _trained(runs: Runs) -> DataFrame:
    """Return how networks with a plain norm from the start end: a row per sweep, norm and seed."""
    parts = []
    for sweep, metric in METRICS.items():
        if (runs.frame["sweep"] == sweep).any():
            ends = runs.last(metric).rename(columns={metric: "value"})
            parts.append(ends[(ends["sweep"] == sweep) & ends["norm"].isin(["batch", "instance"])])
    return pd.concat(parts).groupby(["sweep", "norm", "seed"], sort=False)["value"].mean().reset_index()


def _cell(seeds: DataFrame, sweep: str, norm: str, version: str, statistics: str = STATISTICS[1]) -> DataFrame:
    found = seeds[(seeds["sweep"] == sweep) & (seeds["norm"] == norm)]
    return found[(found["version"] == version) & (found["statistics"] == statistics)]


def _claims(seeds: DataFrame, trained: DataFrame) -> list[Claim]:
    claims = []
    for norm, text, source, published in (
        (
            "switchable",
            "A single statistic for each layer is as good as a mixture of them.",
            "Shao et al. 2019 (SSN), table of the authors' code",
            "ImageNet, ResNet-50, where the choice is learned: 77.2 % right, with mixtures 76.9 %",
        ),
        (
            "batch_instance",
            "A single statistic for each channel is as good as a learned gate.",
            "expected after Nam & Kim 2018, figure 2",
            "not tried; some 82 % of the gates of a ResNet-110 are within 0.1 of an end",
        ),
    ):
        found = {
            TASKS[sweep]: against(cell["change"], HARMLESS)
            for sweep in TASKS
            if len(cell := _cell(seeds, sweep, norm, BINARIZED))
        }
        here = "; ".join(f"{task}: score {_percent(effect)}" for task, effect in found.items())
        verdict = together([effect.verdict(-1) for effect in found.values()])
        rule = f"the score gets worse by less than {HARMLESS:.0%} when all of them are rounded, in both tasks"
        claims.append(Claim(text, source, published, here, verdict, rule))
    claims.append(_claim_on_ends(seeds))
    speeds = seeds[seeds["statistics"] == STATISTICS[1]].groupby(["version", "seed"])["speed"].mean().reset_index()
    faster = paired(speeds, "version", BINARIZED, PLAIN, "speed")
    each = "; ".join(
        f"{look.label} {mean_text(cell['speed'], '.2f')}"
        for (sweep, norm), look in CELLS.items()
        if len(cell := _cell(seeds, sweep, norm, PLAIN))
    )
    claims.append(
        Claim(
            "A single normalizer avoids the mixture's redundant computations.",
            "Shao et al. 2019 (SSN), abstract",
            "no time is told",
            f"times as fast as learned: {each}; the mean of all minus that of networks that are binarized alone "
            f"{faster.text('+.2f')}",
            faster.verdict(1),
            "the speed of networks that are binarized and pruned minus that of networks that are binarized alone and "
            "compute as before, mean of all of a seed, above 0",
        )
    )
    return [*claims, *_claims_on_plain(seeds, trained)]


def _claim_on_ends(seeds: DataFrame) -> Claim:
    """Say whether gates are near the ends, which a small cost of rounding them does not show."""
    cells = {task: _cell(seeds, sweep, "batch_instance", NEAR_END)["gates"] for sweep, task in TASKS.items()}
    found = {task: against(gates, 0.5) for task, gates in cells.items() if len(gates)}
    return Claim(
        "Most gates are near an end of their range.",
        "Nam & Kim 2018, figure 2",
        "some 82 % of the gates of a ResNet-110 within 0.1 of an end",
        "; ".join(f"{task}: {mean_text(cells[task], '.0%')}" for task in found),
        together([effect.verdict(1) for effect in found.values()]),
        "the share of gates within 0.1 of an end minus a half, above 0 in both tasks; all begin at 1",
    )


def _claims_on_plain(seeds: DataFrame, trained: DataFrame) -> list[Claim]:
    """Compare pruned networks with those that had a plain norm from the start."""
    effects: dict[str, Effect] = {}
    for (sweep, norm), look in CELLS.items():
        pruned = _cell(seeds, sweep, norm, PLAIN)
        usual = trained[(trained["sweep"] == sweep) & (trained["norm"] == USUAL[sweep])]
        if len(pruned) and len(usual):
            both = pd.concat([pruned.assign(what="pruned"), usual.assign(what="trained")])
            effects[f"{look.label} against {USUAL[sweep]}"] = paired(both, "what", "trained", "pruned", "value")
    here = "; ".join(f"{name} {effect.text()}" for name, effect in effects.items())
    return [
        Claim(
            "Norms that were chosen layer by layer are better than the usual one everywhere.",
            "Shao et al. 2019 (SSN), table of the authors' code",
            "ImageNet, ResNet-50: 77.2 % right, 76.4 % with batch normalization",
            here,
            together([effect.verdict(-1) for effect in effects.values()]),
            "the score of binarized and pruned networks minus that of networks with the usual norm, below 0 in each",
        )
    ]


def _percent(effect: Effect) -> str:
    """Write a change against :data:`HARMLESS` as the change itself."""
    sure = (
        "" if pd.isna(effect.low) else f" (95 % interval {effect.low + HARMLESS:+.1%} to {effect.high + HARMLESS:+.1%})"
    )
    return f"{effect.second:+.1%}{sure}, {effect.seeds} seed{'s' * (effect.seeds != 1)}"


def _over_versions(seeds: DataFrame) -> Figure:
    drawing, axes = panels(3, 3, 2.7)
    titles = {"change": "change of the score", "plain": "layers that are plain", "speed": "times as fast"}
    for cell, (column, title) in zip(axes, titles.items(), strict=True):
        cell.set_title(title)
        _draw(cell, seeds, column)
        cell.yaxis.set_major_formatter("{x:.2f}" if column == "speed" else "{x:.0%}")
    axes[0].axhline(HARMLESS, color="#5d6068", linewidth=0.8, linestyle=":")
    marks = [
        Line2D([], [], color=look.color, marker=look.marker, markersize=4, label=look.label) for look in CELLS.values()
    ]
    drawing.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return Figure(
        "versions",
        drawing,
        "What becomes of trained networks if mixtures are rounded that are within some distance of pure, if all are "
        "(binarized), and if all that can then are plain norms (pruned): the score with recalibrated statistics, as a "
        f"share of what it was, more is worse (dotted: {HARMLESS:.0%}); the share of layers that are plain norms; and "
        "the speed. What is binarized alone computes as before: how far its speed is from 1 is how far times can be "
        "trusted here. Marks are means over seeds, bars reach from the smallest to the largest.",
        "Change of the score, share of plain layers and speed over the distance within which mixtures are rounded",
    )


def _draw(axes: Axes, seeds: DataFrame, column: str) -> None:
    versions = [version for version in ORDER if version != LEARNED]
    names = [version.removeprefix("within ").replace("binarized and ", "") for version in versions]
    for number, ((sweep, norm), look) in enumerate(CELLS.items()):
        found = [_cell(seeds, sweep, norm, version)[column] for version in versions]
        if not any(map(len, found)):
            continue
        places = [place + 0.12 * (number - 1.5) for place in range(len(versions))]
        axes.plot(places, [each.mean() for each in found], look.marker, color=look.color, markersize=4)
        axes.plot(places, [each.mean() for each in found], color=look.color, linewidth=0.9, alpha=0.6)
        axes.vlines(
            places, [each.min() for each in found], [each.max() for each in found], color=look.color, linewidth=1
        )
    axes.set_xticks(range(len(versions)), names, rotation=45, ha="right")
    axes.set_xlabel("rounded within")


def _beside_plain(seeds: DataFrame, trained: DataFrame) -> Figure:
    """Draw the scores of learned and pruned mixtures beside those of plain norms."""
    sweeps = [sweep for sweep in TASKS if (seeds["sweep"] == sweep).any()]
    drawing, axes = panels(len(sweeps), 2, 2.3)
    for cell, sweep in zip(axes, sweeps, strict=True):
        parts = []
        for norm in MIXTURES:
            for version, word in ((LEARNED, "as learned"), (PLAIN, "pruned")):
                parts.append(_cell(seeds, sweep, norm, version).assign(what=f"{NORMS[norm].label}, {word}"))
        own = trained[trained["sweep"] == sweep]
        parts.append(own.assign(what=own["norm"] + " from the start"))
        points(cell, pd.concat(parts), "what", "value")
        cell.set_title(f"{TASKS[sweep]}: {METRICS[sweep].removeprefix('val/')}")
        cell.set_xlabel("less is better")
    return Figure(
        "plain",
        drawing,
        "Scores of networks that mix, of the same networks with all mixtures rounded and plain norms in their place, "
        "and of networks that were trained with one plain norm everywhere. Marks are seeds, bars their means.",
        "Scores of learned, pruned and plain networks for style transfer and GANs",
    )


def _table(seeds: DataFrame) -> Table:
    rows = []
    for (sweep, norm), look in CELLS.items():
        for version in ORDER:
            cell, as_trained = (_cell(seeds, sweep, norm, version, each) for each in STATISTICS[::-1])
            if not len(cell):
                continue
            rows.append(
                {
                    "network": look.label,
                    "version": version,
                    "score, recalibrated": mean_text(cell["value"]),
                    "score, statistics as trained": mean_text(as_trained["value"]),
                    "change": mean_text(cell["change"], ".1%"),
                    "gates at an end": mean_text(cell["gates"], ".0%"),
                    "plain layers": mean_text(cell["plain"], ".0%"),
                    "parameters": round(cell["parameters"].mean()),
                    "bytes": round(cell["bytes"].mean()),
                    "times as fast": mean_text(cell["speed"], ".2f"),
                }
            )
    return Table(
        DataFrame(rows),
        "Means ± standard deviations over seeds. The score is the total loss of style networks and fd_garments of "
        "generators. A layer of switchable normalization whose means and variances have chosen different statistics "
        "has no plain norm, and stays.",
    )


def _findings(seeds: DataFrame) -> Sequence[str]:
    """Say what pruning by a threshold does, and where all of it costs most."""
    found = {
        cell: _cell(seeds, *cell, BINARIZED)["change"].mean() for cell in CELLS if len(_cell(seeds, *cell, BINARIZED))
    }
    worst, best = max(found, key=lambda cell: found[cell]), min(found, key=lambda cell: found[cell])
    means = seeds[seeds["statistics"] == STATISTICS[1]].groupby("version")[["plain", "speed"]].mean()
    plain, speed = means["plain"], means["speed"]
    near = next(iter(NEAR))
    return [
        f"Rounding all mixtures costs most in {CELLS[worst].label} ({found[worst]:+.1%}) and least in "
        f"{CELLS[best].label} ({found[best]:+.1%}), where less than 0 is better than before.",
        f"{near[0].upper()}{near[1:]} of pure, as `norms.prune` does it by default, {plain[near]:.0%} of the layers "
        f"become plain. With all mixtures rounded first it is {plain[PLAIN]:.0%}, and networks are {speed[PLAIN]:.2f} "
        f"times as fast; rounded alone, where nothing is saved, {speed[BINARIZED]:.2f} times.",
    ]
