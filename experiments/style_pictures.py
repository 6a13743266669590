"""Pictures of a page on style transfer: what trained networks paint, and what photos they were given."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image, ImageOps

from data.photos import bundled_photo
from experiments.plots import NORMS
from experiments.reading import Runs
from experiments.style_inputs import equalized, painter
from lightning_modules.style_transfer import StyleTransfer
from mixing_analysis.plots import INK, WIDTH
from norms.errors import SettingError
from stylizing.painting import paint
from training.run import Run

PHOTO = "chelsea"
"""A cat, CC0, from scikit-image, which no training here has seen."""

SIZE = (384, 256)
"""Width and height at which it is painted: strokes are as broad as in the squares of 64 pixels of the trainings."""

SMALL = (216, 144)
"""Likewise of a photo that is only shown."""

INPUTS = {"original": "photos as they are", "contrast": "equal contrast", "style": "one style"}
"""What the photos of a training can have been made into, and what that is called."""


def photo() -> Image.Image:
    """Return the photo that is shown."""
    return ImageOps.fit(bundled_photo(PHOTO), SIZE, Image.Resampling.LANCZOS)


def inputs() -> dict[str, Image.Image]:
    """Return the photo as each of :data:`INPUTS` has it, made in the size of the trainings' photos."""
    whole = bundled_photo(PHOTO)
    model, manner = painter()
    made = {"original": whole, "contrast": equalized(whole), "style": paint(model, whole, manner)}
    return {name: ImageOps.fit(image, SMALL, Image.Resampling.LANCZOS) for name, image in made.items()}


def painted(runs: Runs, styles: Sequence[str], norms: Sequence[str], seed: int = 0) -> Figure:
    """Paint the photo by the networks of one seed: a row per style, a column per norm.

    Args:
        runs: Runs of :class:`lightning_modules.StyleTransfer` that vary ``style`` and ``norm``.
        styles: The rows.
        norms: The columns.
        seed: Which seed's networks.
    """
    frame = runs.frame
    rows = [
        [
            _painted(frame[(frame["style"] == s) & (frame["norm"] == n) & (frame["seed"] == seed)]["folder"])
            for n in norms
        ]
        for s in styles
    ]
    labels = ["photo", *(NORMS[norm].label for norm in norms)]
    return grid([[photo(), *row] for row in rows], dict(enumerate(styles)), labels)


def grid(rows: Sequence[Sequence[Image.Image | None]], names: Mapping[int, str], labels: Sequence[str]) -> Figure:
    """Draw pictures of :data:`SIZE` in rows and columns with names; None leaves a gap.

    Args:
        rows: The pictures.
        names: Names of the rows.
        labels: Names of the columns.
    """
    columns = len(labels)
    cell = WIDTH / columns
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    figure = Figure(figsize=(WIDTH, (cell * SIZE[1] / SIZE[0] + 0.03) * len(rows) + 0.25), layout=layout)
    for number, row in enumerate(rows):
        for place, picture in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, number * columns + place + 1)
            show(axes, picture)
            if number == 0:
                axes.set_title(labels[place], fontsize=7.5, loc="center", fontweight="normal", color=INK)
            if place == 0:
                axes.set_ylabel(names[number], fontsize=7.5, color=INK)
    return figure


def show(axes: Axes, picture: Image.Image | None) -> None:
    """Draw a picture without axes; nothing for None."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    if picture is not None:
        axes.imshow(picture, interpolation="none")


def _painted(folders: Sequence[str]) -> Image.Image | None:
    """Paint the photo by the network of the one run in ``folders``; None without it or its checkpoint."""
    for folder in folders:
        try:
            model = Run.find(folder).load(StyleTransfer)
        except SettingError:
            return None
        model.hparams["photo_size"] = max(SIZE)
        return paint(model, photo())
    return None
