"""Photos without differences in contrast, and without differences in style, for the experiment of Huang and Belongie.

Example:
    python -m experiments.style_inputs datasets/BSR/BSDS500/data/images datasets/style_inputs
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from PIL import Image, ImageOps

from data.files import find_images
from data.images import load_image
from lightning_modules.painter import Painter
from norms.errors import SettingError
from stylizing.painting import Manner, paint
from training.doors import command_parser, path_of, run_command
from training.images import write_image
from training.run import Run
from training.shipped import NETWORKS

STYLE = "mosaic"
"""In which all photos are painted. The trainings are in other styles."""

PARTS = ("train", "val")


def equalized(photo: Image.Image) -> Image.Image:
    """Equalize the histogram of an RGB photo's brightness, the Y of YCbCr, and leave its colors.

    Source: Huang and Belongie, ICCV 2017, section 3.1: "histogram equalization on the luminance channel".
    """
    brightness, *colors = photo.convert("YCbCr").split()
    return Image.merge("YCbCr", (ImageOps.equalize(brightness), *colors)).convert("RGB")


def painter(style: str = STYLE) -> tuple[Painter, Manner]:
    """Return the bundled network of five styles, in evaluation mode, and how it paints in one of them."""
    model = Run.find(NETWORKS["bundled"]).load(Painter)
    return model, Manner(model.find_style([style]))


def write(photos: Path, output: Path) -> int:
    """Write ``contrast/`` and ``style/`` with the photos of ``train/`` and ``val/``; what is there is left as it is.

    Returns:
        How many files were written.

    Raises:
        SettingError: If there are no photos, one cannot be read, or a file cannot be written.
    """
    files = [path for part in PARTS for path in find_images(photos / part)]
    if not files:
        raise SettingError(f"{photos}: no image files in its folders {' and '.join(PARTS)}")
    model, manner = painter()
    written = 0
    for file in files:
        name = file.relative_to(photos).with_suffix(".jpg")
        for kind in ("contrast", "style"):
            target = output / kind / name
            if not target.exists():
                photo = load_image(file)
                write_image(equalized(photo) if kind == "contrast" else paint(model, photo, manner), target, False)
                written += 1
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status, see :func:`training.doors.run_command`.
    """
    return run_command(
        _parser(),
        lambda options: print(f"{write(options.photos, options.output)} photos written to {options.output}"),
        sys.argv[1:] if arguments is None else arguments,
    )


def _parser() -> ArgumentParser:
    parser = command_parser("Write photos of equal contrast, and photos that are all painted in one style.")
    parser.add_argument("photos", metavar="PHOTOS", type=path_of, help="a folder that has train/ and val/")
    parser.add_argument("output", metavar="FOLDER", type=path_of, help="where contrast/ and style/ are made")
    return parser


if __name__ == "__main__":
    sys.exit(main())
