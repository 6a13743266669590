"""Norms in style transfer: which of them learns a style best, and why instance normalization does."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Drawing
from pandas import DataFrame

from experiments.page import Claim, Figure, Page, Table
from experiments.plots import NORMS, Look, curves, name_ends, panels
from experiments.reading import Runs
from experiments.style_inputs import STYLE
from experiments.style_pictures import INPUTS, inputs, painted, show
from experiments.summaries import summary
from experiments.verdicts import Effect, against, paired, together

SWEEPS = ("style_norms", "style_inputs")

METRICS = {"val/content": "content loss", "val/style": "style loss", "val/loss": "total loss"}
"""On held-out photos. All are shares of what they are compared with; the total is content + 5 style + total "
"variation."""

END = 1 / 3
"""The mean over this part of a training counts: networks with batch statistics are of another quality at each step."""

LEFT = 0.5
"""What counts as left of a gain: half of it."""

ULYANOV = "Ulyanov, Vedaldi & Lempitsky 2016, arXiv 1607.08022, and 2017, arXiv 1701.02096"
NAM = "Nam & Kim 2018, arXiv 1805.07925, figure 3"
LUO = "Luo et al. 2019, arXiv 1806.10779"
HUANG = "Huang & Belongie 2017, arXiv 1703.06868, figure 1"


def page(runs: Runs) -> Page:
    """Make the page."""
    ends = runs.last(*METRICS, "train/style", share=END)
    ends["input"] = ends["init_args"].map(_input)
    main = ends[ends["sweep"] == "style_norms"]
    styles, norms = list(main["style"].unique()), [norm for norm in NORMS if norm in set(main["norm"])]
    whole = over_styles(main, styles)
    like_main = (ends["input"] == "original") & (ends["style"] == styles[0])
    given = ends[(like_main | (ends["input"] != "original")) & ends["norm"].isin(["batch", "instance"])]
    return Page(
        title="Norms in style transfer",
        question="Networks that repaint photos in a style are where instance normalization comes from. How much better "
        "than batch normalization does it learn a style, do mixtures of both learn it better still, and is it the "
        "photos' contrast or their style that it takes away?",
        claims=[*_claims(whole), *_input_claims(given)],
        figures=[
            Figure(
                "curves",
                _curves(runs, styles),
                f"Content and style loss of held-out photos over the training, the mean of {len(styles)} styles "
                f"({', '.join(styles)}). Thin lines are seeds, thick ones their mean; less is better in both.",
                "Curves of content loss and style loss over steps, a color for each norm",
            ),
            Figure(
                "trade",
                _trade(main, styles, norms),
                "Style against content at the end of the training, a panel for each style: small marks are seeds, "
                "large ones their mean. The lower left corner is better in both; along a line from the upper left to "
                "the lower right one is paid for with the other.",
                "Scatter plots of content loss over style loss, one for each style, a color for each norm",
            ),
            Figure(
                "pictures",
                painted(runs, styles, norms),
                "The same photo, which none of the networks has seen, painted by those of seed 0. A row is a style, a "
                "column a norm. It is painted six times as wide as the squares that the trainings saw. Networks of "
                "this size, trained for seconds, paint no better than this.",
                "A photo of a cat painted in three styles by networks with six norms",
                "jpg",
            ),
            Figure(
                "inputs",
                _inputs(runs),
                "The style loss while it is learned, with batch and with instance normalization, on three sets of the "
                f"same photos: as they are; with equalized brightness; and painted before in the style {STYLE} by the "
                "bundled network. Above, one photo of each kind. After figure 1 of Huang & Belongie.",
                "Three plots of style loss over steps for batch and instance normalization, below a photo of each kind",
            ),
        ],
        tables=[
            Table(
                summary(_labeled(whole), ["norm"], dict.fromkeys(METRICS.values(), ".3f")),
                f"Held-out losses in the last third of the training, the mean of the styles {', '.join(styles)}; mean "
                "± standard deviation over seeds:",
            ),
            Table(
                summary(_labeled(main), ["style", "norm"], dict.fromkeys(METRICS.values(), ".3f")),
                "The same for each style:",
            ),
            Table(
                summary(
                    given.assign(photos=given["input"].map(INPUTS)).rename(columns={"train/style": "style loss"}),
                    ["photos", "norm"],
                    {"style loss": ".3f"},
                ),
                f"Style loss of the training batches in the last third of the training, style {styles[0]}, by what the "
                "photos are:",
            ),
        ],
        notes=[_order(whole), _gap(main)],
        limits=[
            "The networks are small (8 to 32 channels, three residual blocks) and learn from squares of 64 pixels for "
            "300 steps; the published ones have 32 to 128 channels and five blocks, and learn from 256 pixels for "
            "40,000 steps or more. An order of norms that needs long trainings does not show here.",
            "The losses are those of SqueezeNet 1.1, relative to the style's and the photo's own, and not those of VGG "
            "as published: numbers compare within this page, and only orders compare with the papers.",
            "A batch has four photos. Batch statistics of larger batches are less noisy.",
            "All norms have the same learning rate and weights of the losses. A norm that paints more of the style at "
            "the same weights has more content loss, so look at both.",
            f"The photos of one style were painted by the bundled network, whose results keep some of a photo's "
            f"contrast, and in one style ({STYLE}) alone.",
        ],
        setting=[
            "The photos are those of BSDS500: 200 to train on and, of its validation set, the first 32 to validate on. "
            "Photos of equal contrast and of one style were made of them before by `python -m experiments.style_inputs "
            "datasets/BSR/BSDS500/data/images datasets/style_inputs`. A validation is in evaluation mode, so batch "
            "normalization uses its running statistics in it.",
        ],
    )


def over_styles(frame: DataFrame, styles: Sequence[str]) -> DataFrame:
    """Average each norm's and seed's runs over styles; those that lack a style are left out.

    Args:
        frame: A row per run.
        styles: All styles.

    Returns:
        The columns ``norm``, ``seed``, ``state``, those of :data:`METRICS` and ``train/style``.
    """
    columns = [*METRICS, "train/style"]
    groups = frame.groupby(["norm", "seed"], sort=False)
    means = groups[columns].agg(lambda values: values.mean(skipna=False))
    return means[groups["style"].nunique() == len(styles)].reset_index().assign(state="finished")


def _claims(whole: DataFrame) -> list[Claim]:
    def more(metric: str, less: str, greater: str) -> Effect:
        return paired(whole, "norm", less, greater, metric)

    def told(metric: str, less: str, greater: str, effect: Effect) -> str:
        names = NORMS[greater].label, NORMS[less].label
        values = f"{names[0]} {effect.second:.3f}, {names[1]} {effect.first:.3f}" if effect.seeds else "nothing"
        return f"{METRICS[metric]}: {values}; difference {effect.text('+.3f')}"

    def claim(text: str, source: str, published: str, parts: Sequence[tuple[str, str, str]]) -> Claim:
        found = [more(*part) for part in parts]
        rule = " and ".join(
            f"{METRICS[metric]}, {NORMS[greater].label} minus {NORMS[less].label}" for metric, less, greater in parts
        )
        return Claim(
            text,
            source,
            published,
            "; ".join(told(*part, effect) for part, effect in zip(parts, found, strict=True)),
            together([effect.verdict(1) for effect in found]),
            f"{rule}: above 0, paired by seed, the mean of all styles.",
        )

    return [
        claim(
            "With instance in the place of batch normalization a network reaches a lower loss",
            f"{ULYANOV}; {LUO}",
            "shown by pictures and curves; total loss 2.3 against 2.6 (1e5) in Luo et al.",
            [("val/loss", "instance", "batch")],
        ),
        claim(
            "Instance normalization learns the style better than batch normalization",
            NAM,
            "style loss 1.46 against 1.84 (1e-5)",
            [("val/style", "instance", "batch")],
        ),
        claim(
            "Batch-instance normalization keeps more of the content than instance normalization",
            NAM,
            "content loss 3.68 against 3.75",
            [("val/content", "batch_instance", "instance")],
        ),
        claim(
            "Batch-instance normalization learns less of the style than instance normalization",
            NAM,
            "style loss 1.51 against 1.46 (1e-5)",
            [("val/style", "instance", "batch_instance")],
        ),
        claim(
            "Batch normalization is worse than batch-instance normalization in both, content and style",
            NAM,
            "content loss 4.50 against 3.68, style loss 1.84 against 1.51 (1e-5)",
            [("val/content", "batch_instance", "batch"), ("val/style", "batch_instance", "batch")],
        ),
        claim(
            "Switchable normalization reaches a lower loss than instance normalization",
            LUO,
            "total loss 2.1 against 2.3 (1e5)",
            [("val/loss", "switchable", "instance")],
        ),
    ]


def _input_claims(given: DataFrame) -> list[Claim]:
    """Judge Huang and Belongie's claims by the style loss of the training, which is what their figure shows."""
    losses = given.pivot_table(index="seed", columns=["input", "norm"], values="train/style")
    losses = losses.reindex(columns=[(kind, norm) for kind in INPUTS for norm in ("batch", "instance")])
    gains = {kind: losses[kind, "batch"] - losses[kind, "instance"] for kind in INPUTS}
    rest = {kind: against(gains[kind] - LEFT * gains["original"]) for kind in ("contrast", "style")}
    reached = against(losses["style", "batch"] - losses["original", "instance"])

    def told(kind: str) -> str:
        return f"gain with photos as they are {gains['original'].mean():.3f}, {INPUTS[kind]} {gains[kind].mean():.3f}"

    half = f"gain (style loss of the training, batch minus instance) minus {LEFT:g} times that with photos as they are"
    return [
        Claim(
            "What instance normalization gains stays if all photos have the same contrast",
            HUANG,
            "curves: the gap stays",
            f"{told('contrast')}; minus half the former: {rest['contrast'].text('+.3f')}",
            rest["contrast"].verdict(1),
            f"{half}: above 0, so that more than half of it stays.",
        ),
        Claim(
            "It becomes much smaller if all photos have the same style",
            HUANG,
            "curves: the gap nearly vanishes",
            f"{told('style')}; minus half the former: {rest['style'].text('+.3f')}",
            rest["style"].verdict(-1),
            f"{half}: below 0, so that less than half of it stays.",
        ),
        Claim(
            "Batch normalization with photos of one style learns as fast as instance normalization with photos as they "
            "are",
            HUANG,
            "said in the text, section 3.1",
            f"batch normalization, photos of one style, minus instance normalization, photos as they are: "
            f"{reached.text('+.3f')}",
            reached.verdict(-1, margin=-LEFT * float(gains["original"].mean())),
            "style loss of the training, the former minus the latter: below half the gain of instance normalization "
            "with photos as they are.",
        ),
    ]


def _curves(runs: Runs, styles: Sequence[str]) -> Drawing:
    figure, axes = panels(2, height=3.0)
    for each, metric in zip(axes, list(METRICS)[:2], strict=True):
        frame = runs.curves(metric)
        frame = frame[frame["sweep"] == "style_norms"]
        groups = frame.groupby(["norm", "seed", "step"], sort=False)
        mean = groups["value"].mean()[groups["style"].nunique() == len(styles)].reset_index()
        curves(each, mean.assign(folder=mean["seed"]), "norm")
        each.set_title(METRICS[metric].capitalize())
        each.set_ylabel("share of the target")
    return figure


def _trade(main: DataFrame, styles: Sequence[str], norms: Sequence[str]) -> Drawing:
    figure, axes = panels(len(styles), columns=3, height=2.7)
    for each, style in zip(axes, styles, strict=True):
        for norm in norms:
            look = NORMS[norm]
            cell = main[(main["style"] == style) & (main["norm"] == norm)]
            each.plot(cell["val/style"], cell["val/content"], look.marker, color=look.color, markersize=3, alpha=0.5)
            each.plot(
                cell["val/style"].mean(),
                cell["val/content"].mean(),
                look.marker,
                color=look.color,
                markersize=7,
                markeredgecolor="white",
                label=look.label if each is axes[0] else None,
            )
        each.set_title(style)
        each.set_xlabel("style loss")
    axes[0].set_ylabel("content loss")
    figure.legend(loc="outside lower center", ncols=len(norms), fontsize=7, handletextpad=0.2, columnspacing=1.2)
    return figure


def _inputs(runs: Runs) -> Drawing:
    figure, axes = panels(2 * len(INPUTS), columns=len(INPUTS), height=1.9)
    frame = runs.curves("train/style")
    frame["input"] = frame["init_args"].map(_input)
    first = frame["style"].dropna().iloc[0]
    frame = frame[(frame["style"] == first) | (frame["input"] != "original")]
    frame = frame[frame["norm"].isin(["batch", "instance"])]
    top, bottom = axes[: len(INPUTS)], axes[len(INPUTS) :]
    high = float(frame.loc[frame["step"] > 20, "value"].max())
    low = float(frame["value"].min())
    for (kind, picture), above, below in zip(inputs().items(), top, bottom, strict=True):
        show(above, picture)
        above.set_title(INPUTS[kind])
        ends: list[tuple[float, Look]] = []
        for norm in ("batch", "instance"):
            seeds = frame[(frame["input"] == kind) & (frame["norm"] == norm)]
            wide = seeds.pivot_table(index="step", columns="seed", values="value").rolling(5, min_periods=1).mean()
            look = NORMS[norm]
            below.plot(wide.index, wide, color=look.color, linewidth=0.6, alpha=0.45)
            if len(wide):
                below.plot(wide.index, wide.mean(axis=1), color=look.color, linewidth=1.8)
                ends.append((float(wide.mean(axis=1).iloc[-1]), look))
        below.set(xlim=(0, frame["step"].max()), ylim=(0.9 * low, high))
        below.set_xlabel("steps")
        name_ends(below, ends)
    bottom[0].set_ylabel("style loss of the training")
    return figure


def _order(whole: DataFrame) -> str:
    groups = whole.groupby("norm")
    complete = groups["seed"].nunique() == whole["seed"].nunique()
    means = groups["val/loss"].mean()[complete].sort_values()
    return (
        "By the total loss the order of the norms that have all seeds is "
        + " < ".join(f"{NORMS[n].label} ({v:.3f})" for n, v in means.items())
        + "."
    )


def _gap(main: DataFrame) -> str:
    """Say how much worse held-out photos in evaluation mode are than training photos, by norm."""
    gaps = (main["val/style"] - main["train/style"]).groupby(main["norm"], sort=False).mean().sort_values()
    listed = ", ".join(f"{NORMS[norm].label} {gap:+.3f}" for norm, gap in gaps.items())
    return (
        "Instance, group and layer normalization do the same in training and in evaluation; the others use running "
        f"statistics in evaluation. The held-out style loss minus that of the training batches is {listed}."
    )


def _labeled(frame: DataFrame) -> DataFrame:
    known = frame.assign(norm=frame["norm"].map(lambda norm: NORMS[norm].label)).rename(columns=METRICS)
    order = {look.label: place for place, look in enumerate(NORMS.values())}
    keys = ["style", "norm"] if "style" in known else ["norm"]
    return known.sort_values(keys, key=lambda column: column.map(order) if column.name == "norm" else column)


def _input(settings: object) -> str:
    """Say which photos a run had, by the folder that its settings name."""
    return next((kind for kind in INPUTS if isinstance(settings, str) and f"/{kind}/" in settings), "original")
