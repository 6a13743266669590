"""Draw images from a trained GAN.

Examples:
    python sample.py runs/gan -o samples.png
    python sample.py runs/gan --each images.npz --count 50000
    python sample.py runs/gan --classes --count 8 --truncation 0.7
    python sample.py runs/gan --interpolate 24 -o walk.gif
    python sample.py runs/gan --neighbors 5
"""

from argparse import Namespace
from collections.abc import Sequence

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt

from training.doors import command_parser, path_of, run_command

EPILOG = """examples: RUN -o samples.png | RUN --each images.npz --count 50000 | RUN --classes --truncation 0.7 |
RUN --label 3 --label 5 --interpolate 24 -o walk.mp4 | RUN --neighbors 5"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _run(options: Namespace) -> None:
    _check_together(options)
    if options.interpolate is not None:
        from sampling.walk import write
    elif options.neighbors is not None:
        from sampling.neighbors import write
    else:
        from sampling.draw import write
    write(options)


def _check_together(options: Namespace) -> None:
    """Refuse options that say nothing beside others."""
    from norms.errors import SettingError

    given = {
        "--each": options.each is not None,
        "--classes": options.classes,
        "--columns": options.columns is not None,
        "--interpolate": options.interpolate is not None,
        "--neighbors": options.neighbors is not None,
    }
    alone = {
        "--interpolate": ("--each", "--classes", "--columns", "--neighbors"),
        "--neighbors": ("--each", "--classes", "--columns"),
        "--classes": ("--columns",),
    }
    for option, others in alone.items():
        if given[option] and (idle := [other for other in others if given[other]]):
            raise SettingError(f"{option} cannot be combined with {' and '.join(idle)}")
    if options.fps is not None and options.interpolate is None:
        raise SettingError("--fps says how fast --interpolate goes, which is missing")


def _parser() -> ArgumentParser:
    parser = command_parser("Draw images from a trained GAN.", EPILOG)
    add = parser.add_argument
    run = "a run folder such as runs/gan/version_0, a checkpoint, or an exported generator"
    add("run", metavar="RUN", type=path_of, help=run)
    add("-o", "--output", metavar="FILE", type=path_of, help="the picture (default: samples.png)")
    each = (
        "also write each image, at its own size: to PNG files in a folder, to a .zip of them, or to an .npz with the "
        "images, arr_0, uint8 (N, H, W, C), the labels, arr_1, seeds and latents"
    )
    add("--each", metavar="PATH", type=path_of, help=each)
    count = "how many images (default: 64; 8 columns, places or rows with --classes, --interpolate or --neighbors)"
    add("--count", metavar="N", type=PositiveInt | None, help=count)
    add("--columns", metavar="N", type=PositiveInt | None, help="columns of the grid (default: a square)")
    add("--scale", metavar="N", type=PositiveInt | None, help="enlarge in the picture (default: to 64 pixels)")
    seed = "another seed, other images; image i depends on the seed and i alone (default: 0)"
    add("--seed", metavar="N", type=int, default=0, help=seed)
    label = "draw this class, by number or name; several are drawn in turn (default: all that there are)"
    add("--label", metavar="CLASS", type=str, action="append", default=[], help=label)
    add("--classes", action="store_true", help="a row for each class, and in a column the same latent vector")
    truncation = "draw latent values from within -T to T alone: fewer kinds of images, but better ones, as in BigGAN"
    add("--truncation", metavar="T", type=float | None, help=truncation)
    walk = (
        "go from image to image and back to the first in N steps each: an animation or video (-o walk.gif or walk.mp4)"
    )
    add("--interpolate", metavar="N", type=PositiveInt | None, help=walk)
    add("--fps", metavar="F", type=PositiveFloat | None, help="frames a second of --interpolate (default: 24)")
    neighbors = "show each image beside the K training images that are most like it: does the GAN memorize?"
    add("--neighbors", metavar="K", type=PositiveInt | None, help=neighbors)
    add("--save-latents", metavar="FILE", type=path_of, help="write latent vectors and seeds to a .safetensors file")
    add("--no-ema", action="store_true", help="draw from the live generator, not from its average")
    device = "cpu, cuda, cuda:1 and so on, which draw from the same noise; auto takes an accelerator if there is one"
    add("--device", metavar="DEVICE", type=str, default="auto", help=f"{device} (default)")
    add("--overwrite", action="store_true", help="replace existing files")
    return parser
