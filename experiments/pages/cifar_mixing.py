"""Batch-instance and switchable normalization on CIFAR-10, where style disturbs, and where it is all that matters."""

from typing import Literal

from pandas import DataFrame

from experiments.cifar_figures import accuracies, depths, hazes, histograms, motion, switches
from experiments.mixing import at_end, gates, learned
from experiments.page import Claim, Page, Table
from experiments.reading import Runs
from experiments.summaries import mean_text, summary
from experiments.verdicts import Effect, against, decide_alike, paired
from mixing_analysis.published import PUBLISHED

SWEEPS = ("cifar_mixing", "cifar_styles", "cifar_rho_rate", "cifar_style_ends")

ACCURACY = "val/accuracy"
RATE = 10.0
"""Of rho relative to the weights, unless something else is swept."""

NEAR = 0.05
"""Shares of gates that differ by less count as alike."""

PAPER = "Nam & Kim 2018"
RESULTS = "figure of results in the authors' repository"


COMPARED: tuple[tuple[str, str, str, str, str, Literal[1, -1]], ...] = (
    (
        "Batch-instance normalization classifies better than batch normalization.",
        f"{PAPER}, {RESULTS}",
        "93.72 to 94.29 % (ResNet-110)",
        "plain",
        "batch_instance",
        1,
    ),
    (
        "Where styles differ from image to image, batch-instance normalization is better than batch normalization.",
        f"{PAPER}, {RESULTS}",
        "78.95 to 80.08 % (Office-Home, four domains)",
        "noise",
        "batch_instance",
        1,
    ),
    (
        "Instance normalization alone makes classification worse.",
        f"{PAPER}, section 1",
        "no figure",
        "plain",
        "instance",
        -1,
    ),
    (
        "Where styles differ from image to image, instance normalization is better than batch normalization.",
        f"{PAPER}, section 1",
        "called a reasonable assumption; no figure",
        "noise",
        "instance",
        1,
    ),
    (
        "Switchable normalization classifies better than batch normalization.",
        "Luo et al. 2019, table of the authors' repository",
        "76.4 to 76.9 % (ResNet-50, ImageNet)",
        "plain",
        "switchable",
        1,
    ),
)
"""Claims on accuracy: the claim, its source, the published figure, the data, the norm that is compared with batch
normalization, and the side on which the difference was claimed to be."""


def page(runs: Runs) -> Page:
    """Make the page."""
    cells, values = _cells(runs), learned(runs)
    ends = at_end(values)
    cells = cells.merge(gates(ends), on="folder", how="left").merge(_switch(ends), on="folder", how="left")
    places = cells[["folder", "style", "rate"]]
    values = values.drop(columns=["style", "rho_lr_multiplier"], errors="ignore").merge(places, on="folder")
    return Page(
        title="Batch-instance and switchable normalization on CIFAR-10",
        question=(
            "Batch-instance normalization learns a gate rho for each channel: 1 keeps the style of an image, as batch "
            "normalization does, and 0 removes it, as instance normalization does. Its authors say that it comes to "
            "remove what disturbs and to keep what is useful. Here the same images, each in a haze of random color, "
            "are once to be told by what they show, and once by their haze."
        ),
        claims=[*_styles(cells), *_distribution(cells), *_scores(cells), *_switchable(cells)],
        figures=[
            hazes(),
            depths(values),
            motion(values),
            histograms(values),
            accuracies(cells),
            switches(values),
        ],
        tables=_tables(cells),
        notes=_notes(cells, at_end(values)),
        setting=[
            "A haze of hue h and density d makes (1 - d) x + d a of an image x, with the light a of that hue; h is "
            "drawn from the whole circle and d from 0.2 to 0.8. That changes mean and contrast of each color channel "
            "and nothing else, so an instance normalization of the image would undo it. If the haze is the label, it "
            "is one of ten: five hues, thin or dense. Both kinds of training see the same pixels in the same order.",
            "ResNet-56 and ResNet-110 are `configs/classify_resnet56.yaml` and `configs/classify_resnet110.yaml`.",
        ],
        limits=[
            f"The network is a ResNet-20 of half the width, and a training sees {_images(runs)} images, of which "
            "CIFAR-10 has 50,000; the published ones see more than a hundred passes over all of them, with a "
            "ResNet-110. So accuracies are those of networks that have only begun to learn, and the gates have had "
            "little time to leave 1, where they begin.",
            "Where the images are a JPEG copy of CIFAR-10, as the command above tells, and the held-out ones are a "
            "part of its training images, accuracies are not comparable with published ones of CIFAR-10.",
            "The haze is the plainest style there is, the same at all places of an image. Textures are style too, and "
            "no instance normalization of the first layer removes them.",
            "Since no gate can exceed 1, noise in its gradient alone moves the mean of gates that begin at 1 down. A "
            "single mean below 1 therefore says little, but a difference between two kinds of data does.",
        ],
    )


def _images(runs: Runs) -> str:
    """Say how many images a training sees."""
    seen = set()
    for folder in runs.frame["folder"]:
        if config := runs.config(folder):
            seen.add(config["trainer"]["max_steps"] * config["data"]["init_args"]["batch_size"])
    return " or ".join(f"{count:,}" for count in sorted(seen)) or "an unknown number of"


def _cells(runs: Runs) -> DataFrame:
    """Return the runs with their accuracy, and with what a sweep does not vary filled in."""
    cells = runs.last(ACCURACY)
    for name, known, default in (("style", "style", "plain"), ("rate", "rho_lr_multiplier", RATE)):
        cells[name] = cells[known].fillna(default) if known in cells else default
    return cells


def _switch(ends: DataFrame) -> DataFrame:
    """Return, for each run, the mean weight of each statistic over all switchable layers, of means and variances."""
    weights = ends[ends["kind"].isin(["mean_weight", "var_weight"])]
    return weights.pivot_table(index="folder", columns="statistic", values="value").reset_index()


def _pick(
    cells: DataFrame, norm: str | None = None, style: str | None = "plain", rate: float | None = RATE
) -> DataFrame:
    for name, value in (("norm", norm), ("style", style), ("rate", rate)):
        if value is not None:
            cells = cells[cells[name] == value]
    return cells


def _styles(cells: DataFrame) -> list[Claim]:
    """Compare the gates where style disturbs, matters, or is that of the images as they are."""
    gated = _pick(cells, "batch_instance", style=None)
    claims = []
    for metric, where in (("rho", "mean of all gates"), ("entry", "mean of the gates of the first layer")):
        for first, text in (
            ("matters", f"Gates remove style where it disturbs rather than where it is useful ({where})."),
            ("plain", f"Added style that disturbs moves gates towards instance normalization ({where})."),
        ):
            effect = paired(gated, "style", first, "noise", metric)
            claims.append(
                Claim(
                    text,
                    f"{PAPER}, abstract",
                    "selectively normalizes only disturbing styles; no figure",
                    f"mean rho from {'a haze that is the label' if first == 'matters' else 'no haze'} to one that "
                    f"disturbs {_change(effect, '.3f')}",
                    effect.verdict(-1),
                    f"{where}, `noise` minus `{first}`, paired by seed; claimed to be below 0",
                )
            )
    return claims


def _distribution(cells: DataFrame) -> list[Claim]:
    """Compare the distribution of the gates with the published one."""
    gated, shares = _pick(cells, "batch_instance"), PUBLISHED["rho"].shares
    near_batch = against(gated["above"].to_numpy(), 0.5)
    tenth = shares["network"]["below"]
    near_instance = against(gated["below"].to_numpy(), tenth)
    deeper = against((gated["last"] - gated["first"]).to_numpy())
    both = {name: mean_text(gated[name], ".1%") for name in ("above", "below", "first_below", "last_below")}
    source = PUBLISHED["rho"].source
    return [
        Claim(
            "Most gates end near batch normalization.",
            source,
            f"{shares['network']['above']:.0%} above 0.9",
            f"{both['above']} above 0.9",
            near_batch.verdict(1),
            "share above 0.9 minus a half, over seeds; claimed to be above 0. The share is 1 at the start",
        ),
        Claim(
            f"About {tenth:.0%} of the gates end near instance normalization.",
            source,
            f"{tenth:.0%} below 0.1",
            f"{both['below']} below 0.1",
            decide_alike(near_instance.low, near_instance.high, NEAR),
            f"share below 0.1 minus {tenth:.0%}, over seeds; alike if within {NEAR:.0%}. The share is 0 at the start",
        ),
        Claim(
            "Lower layers use more instance normalization than upper ones.",
            source,
            f"{shares['first']['below']:.0%} of the gates below 0.1 in lower layers, {shares['last']['below']:.0%} in "
            "upper ones",
            f"mean of the last third of layers minus that of the first: {deeper.text('+.3f')}; below 0.1 are "
            f"{both['first_below']} and {both['last_below']}",
            deeper.verdict(1),
            "mean rho of the last minus that of the first third of layers, over seeds; claimed to be above 0",
        ),
    ]


def _scores(cells: DataFrame) -> list[Claim]:
    """Compare accuracies."""
    gated = _pick(cells, "batch_instance", rate=None)
    rate = paired(gated, "rate", 1.0, RATE, ACCURACY)
    claims = []
    for text, source, published, style, norm, claimed in COMPARED:
        effect = paired(_pick(cells, style=style), "norm", "batch", norm, ACCURACY)
        claims.append(
            Claim(
                text,
                source,
                published,
                f"accuracy {_change(effect, '.1%')}",
                effect.verdict(claimed),
                f"accuracy, `{norm}` minus `batch` on `{style}`, paired by seed; claimed to be "
                f"{'above' if claimed > 0 else 'below'} 0",
            )
        )
    claims.append(
        Claim(
            "Rho is best learned ten times as fast as the weights.",
            f"{PAPER}, section 4",
            "the rate that they use; no figure",
            f"accuracy from the weights' rate to ten times it {_change(rate, '.1%')}",
            rate.verdict(1),
            "accuracy with ten times the rate minus that with the weights' rate, paired by seed; claimed to be above 0",
        )
    )
    return claims


def _switchable(cells: DataFrame) -> list[Claim]:
    switchable = _pick(cells, "switchable")
    if "batch" not in switchable:
        return []
    effect = against(switchable["batch"].to_numpy(), 1 / 3)
    here = ", ".join(f"{name} {mean_text(switchable[name], '.3f')}" for name in ("batch", "layer", "instance"))
    return [
        Claim(
            "A classifier with large batches gives batch statistics more than their third of the switch weights.",
            "Luo et al. 2019, figure of the authors' article on it",
            "batch 0.58, layer 0.25, instance 0.16 (ResNet-50, ImageNet, 32 images per GPU)",
            here,
            effect.verdict(1),
            "mean weight of batch statistics over layers, means and variances, minus a third, over seeds; claimed to "
            "be above 0",
        )
    ]


def _change(effect: Effect, form: str) -> str:
    """Write the means of both cells and the difference; the difference alone if no seed has both."""
    means = f"{effect.first:{form}} to {effect.second:{form}}: " if effect.seeds else ""
    return f"{means}{effect.text(f'+{form}')}"


def _tables(cells: DataFrame) -> list[Table]:
    named = {ACCURACY: "accuracy", "entry": "rho of the first layer", "below": "below 0.1", "above": "above 0.9"}
    order = cells.sort_values(["style", "norm", "rate"], key=lambda column: column.map(_place))
    order["rate"] = order["rate"].where(order["norm"] == "batch_instance")
    order = order.rename(columns={**named, "rate": "rate of rho"})
    forms = {"accuracy": ".1%", "rho": ".3f", named["entry"]: ".3f", named["below"]: ".1%", named["above"]: ".1%"}
    return [
        Table(
            summary(order, ["style", "norm", "rate of rho"], forms),
            "Mean ± standard deviation over seeds (n) at the end of the training, by what the haze is, the norm and "
            "the learning rate of rho relative to that of the weights. Accuracy is that on held-out images, of which "
            "chance gets 10 %. Rho is the mean over all channels.",
        )
    ]


def _place(value: object) -> object:
    order = ("plain", "noise", "matters", "batch", "batch_instance", "instance", "switchable")
    return order.index(value) if value in order else value


def _notes(cells: DataFrame, ends: DataFrame) -> list[str]:
    """Tell where in the network the gates of two kinds of data differ."""
    gated = _pick(cells, "batch_instance", style=None)
    rho = _pick(ends, "batch_instance", style=None)
    layers = (
        rho[rho["kind"] == "rho"].groupby(["folder", "seed", "style", "depth", "layer"])["value"].mean().reset_index()
    )
    apart = []
    for (_, layer), rows in layers.groupby(["depth", "layer"]):
        effect = paired(rows, "style", "matters", "noise", "value")
        apart.append((effect, layer))
    lower = [layer for effect, layer in apart if effect.high < 0]
    higher = [layer for effect, layer in apart if effect.low > 0]
    lowest = [
        f"{mean_text(_pick(gated, style=style)['entry'], '.3f')} for `{style}`"
        for style in ("plain", "noise", "matters")
    ]
    swept = _pick(cells, "batch_instance", rate=None).sort_values("rate")
    rates = [
        f"x {rate:g}: {mean_text(rows['below'], '.1%')} of the gates end below 0.1 and "
        f"{mean_text(rows['above'], '.1%')} above 0.9"
        for rate, rows in swept.groupby("rate")
    ]
    return [
        "Only up to the first norm, behind one convolution, does the haze change mean and contrast of each channel and "
        "nothing else (but for the borders), so that an instance normalization undoes it. Behind it a haze that was "
        "let in goes on through the shortcuts of the residual blocks, which have no norm, and a norm in a branch can "
        "no longer take it out. And where the haze is the label, an instance normalization in the first layer would "
        "take away what tells the classes apart. So the first layer has claims of its own.",
        f"Of {len(apart)} layers {len(lower)} have a lower mean of rho where the haze disturbs than where it is the "
        f"label ({_listed(lower)}), and {len(higher)} a higher one ({_listed(higher)}), by the 95 % interval of each "
        "layer over seeds, without a correction for their number.",
        f"The mean of rho in the first layer is {', '.join(lowest)}.",
        f"By the learning rate of rho relative to that of the weights, without a haze, {'; '.join(rates)}.",
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
