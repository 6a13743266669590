"""The figures of the page on mixing norms in classifiers of CIFAR."""

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from data import BundledPhotos
from experiments import plots
from experiments.page import Figure
from experiments.styled_labels import DENSEST, HUES, THINNEST, haze
from mixing_analysis.plots import INK, SOFT
from mixing_analysis.published import PUBLISHED
from norms.kinds import RHO, STATISTICS

STYLES = {
    "plain": plots.Look("no haze", INK, "o"),
    "noise": plots.Look("haze disturbs", plots.NORMS["instance"].color, "s"),
    "matters": plots.Look("haze is the label", plots.NORMS["batch"].color, "^"),
}
"""How each kind of data looks, in the order in which they are shown."""

GATES = "mean of rho"
RATES = (1.0, 10.0, 100.0)

_PHOTO = 64
"""Height and width in pixels."""


def hazes() -> Figure:
    """Show a photo without a haze and in each of the ten that are told apart."""
    photo = BundledPhotos(image_size=_PHOTO).val_images()[0]["image"]
    shares = {"thin": (3 * THINNEST + DENSEST) / 4, "dense": (THINNEST + 3 * DENSEST) / 4}
    columns = 1 + len(HUES)
    figure, every = plots.panels(len(shares) * columns, columns, height=1.35)
    for row, (name, density) in enumerate(shares.items()):
        bare, *hazy = every[row * columns : (row + 1) * columns]
        bare.axis("off")
        for number, (axes, hue) in enumerate(zip(hazy, HUES, strict=True)):
            axes.imshow(haze(photo, (number + 0.5) / len(HUES), density).permute(1, 2, 0), interpolation="none")
            axes.set_title(f"{name} {hue}", loc="center", fontsize=plots.SMALL, fontweight="normal", pad=2)
            axes.axis("off")
    every[0].imshow(photo.permute(1, 2, 0), interpolation="none")
    every[0].set_title("no haze", loc="center", fontsize=plots.SMALL, fontweight="normal", pad=2)
    return Figure(
        "haze",
        figure,
        "A photo without a haze, and in the middle one of each of the ten kinds of haze that are told apart where the "
        "haze is the label. Where it disturbs, images look the same, and the label is what they show.",
        "A photo in ten hazes",
    )


def depths(values: DataFrame) -> Figure:
    """Draw the mean rho of each layer at the end, for each kind of data."""
    rho = _rho(values, rate=10.0)
    ends = rho[rho["step"] == rho["step"].max()]
    figure, (axes,) = plots.panels(1, 1, height=3.0)
    layers = ends.groupby(["style", "folder", "depth"])["value"].mean().reset_index()
    _seeds(axes, layers.assign(step=layers["depth"] + 1))
    axes.set_xlabel("layer, from the input to the output")
    axes.set_ylabel(f"{GATES} in the layer")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    for name, place, side in zip(RHO.end_names, (0.02, 0.98), ("bottom", "top"), strict=True):
        toward = f"{'below' if place < 0.5 else 'above'}: more {name}"
        axes.annotate(toward, (0.01, place), xycoords="axes fraction", va=side, fontsize=plots.SMALL, color=SOFT)
    return Figure(
        "depth",
        figure,
        "Where rho goes, layer by layer, after the same number of steps on the same images: without a haze, in a haze "
        "that disturbs, and in one that is the label. The thick line is the mean over seeds, each of which is a thin "
        "one.",
        "Mean rho of each layer for three kinds of data",
    )


def motion(values: DataFrame) -> Figure:
    """Draw the mean rho over steps, of the first layer and of all gates."""
    rho = _rho(values, rate=10.0)
    figure, (left, right) = plots.panels(2, sharey=True)
    for axes, rows, title in ((left, rho[rho["depth"] == 0], "first layer"), (right, rho, "all layers")):
        _seeds(axes, rows.groupby(["style", "folder", "step"])["value"].mean().reset_index())
        axes.set_title(title)
        axes.set_xlabel("steps")
    left.set_ylabel(GATES)
    return Figure(
        "motion",
        figure,
        "The mean of rho over the training, of the channels of the first layer and of all channels. All gates begin at "
        "1, which is batch normalization.",
        "Mean rho over steps for three kinds of data",
    )


def histograms(values: DataFrame) -> Figure:
    """Draw the distribution of all gates at the end, for each learning rate of rho, beside the published shares."""
    shares = PUBLISHED[RHO.name].shares["network"]
    figure, every = plots.panels(len(RATES), 3, height=2.4, sharey=True)
    for axes, rate in zip(every, RATES, strict=True):
        rho = _rho(values, rate=rate, style="plain")
        ends = rho[rho["step"] == rho["step"].max()]
        plots.histogram(axes, ends["value"], plots.NORMS["batch_instance"])
        for share, low in ((shares["below"], 0.0), (shares["above"], 0.9)):
            axes.plot([low, low + 0.1], [share, share], color=INK, linewidth=2)
        axes.set_title(f"rho's rate x {rate:g}")
        axes.set_xlabel("rho")
        if axes is not every[0]:
            axes.set_ylabel("")
    every[0].set_ylim(0, 1.02)
    every[0].annotate(
        "published:\nResNet-110", (0.88, shares["above"]), ha="right", va="center", fontsize=plots.SMALL, color=INK
    )
    return Figure(
        "histogram",
        figure,
        "All gates at the end, of all seeds, on images without a haze, by the learning rate of rho relative to that of "
        f"the weights. The black bars are what {PUBLISHED[RHO.name].source}, has below 0.1 and above 0.9 after a "
        "training that is hundreds of times as long.",
        "Histograms of rho for three learning rates",
    )


def accuracies(cells: DataFrame) -> Figure:
    """Draw the accuracy of each norm on each kind of data."""
    shown = cells[cells["rate"] == 10.0]
    figure, every = plots.panels(2, height=1.9, sharex=True)
    for axes, style in zip(every, ("plain", "noise"), strict=True):
        rows = shown[shown["style"] == style].assign(accuracy=lambda frame: 100 * frame["val/accuracy"])
        plots.points(axes, rows, "norm", "accuracy")
        axes.set_title(STYLES[style].label)
        axes.set_xlabel("held-out accuracy in %")
    return Figure(
        "accuracy",
        figure,
        "Accuracy on held-out images of the ten classes of CIFAR-10, as they are and in a haze of random color. A mark "
        "is a seed, a bar the mean.",
        "Accuracy of norms with and without a haze",
    )


def switches(values: DataFrame) -> Figure:
    """Draw the switch weights of each layer at the end."""
    weights = values[values["kind"].isin(["mean_weight", "var_weight"])]
    ends = weights[weights["step"] == weights["step"].max()]
    figure, every = plots.panels(2, sharey=True)
    for axes, (kind, title) in zip(every, (("mean_weight", "means"), ("var_weight", "variances")), strict=True):
        rows = ends[ends["kind"] == kind]
        axes.axhline(1 / 3, color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
        named = rows.assign(norm=rows["statistic"], step=rows["depth"] + 1).sort_values("step")
        named = named[named["norm"].isin(STATISTICS)]
        plots.curves(axes, named, "norm")
        axes.set_title(title)
        axes.set_xlabel("layer, from the input to the output")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    every[0].set_ylabel("switch weight")
    return Figure(
        "switch",
        figure,
        "What switchable normalization takes its means and variances from, layer by layer, at the end of the training "
        "on images without a haze. All weights begin at a third, the dotted line. A thin line is a seed.",
        "Switch weights of each layer",
    )


def _rho(values: DataFrame, rate: float, style: str | None = None) -> DataFrame:
    rho = values[(values["kind"] == RHO.name) & (values["rate"] == rate)]
    return rho if style is None else rho[rho["style"] == style]


def _seeds(axes: Axes, rows: DataFrame) -> None:
    """Draw ``value`` over ``step`` for each kind of data: a thin line for each run, a thick one for their mean."""
    ends = []
    for style, look in STYLES.items():
        own = rows[rows["style"] == style]
        if own.empty:
            continue
        for _, run in own.groupby("folder"):
            axes.plot(run["step"], run["value"], color=look.color, linewidth=0.6, alpha=0.45)
        mean = own.groupby("step")["value"].mean()
        axes.plot(mean.index, mean, color=look.color, linewidth=1.8)
        ends.append((float(mean.iloc[-1]), look))
    axes.margins(x=0.01)
    plots.name_ends(axes, ends)
