"""Draw images from a trained GAN.

Example:
    python sample.py runs/gan/version_0 -o samples.png
"""

from argparse import Namespace
from collections.abc import Sequence

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from training.doors import command_parser, path_of, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _run(options: Namespace) -> None:
    from sampling.draw import write

    write(options)


def _parser() -> ArgumentParser:
    parser = command_parser("Draw images from a trained GAN.")
    add = parser.add_argument
    add("run", metavar="RUN", type=path_of, help="a run folder such as runs/gan/version_0, or a checkpoint")
    add("-o", "--output", metavar="FILE", type=path_of, help="the grid (default: samples.png)")
    add("--each", metavar="FOLDER", type=path_of, help="also write each image to a file, at its own size")
    add("--count", metavar="N", type=PositiveInt, default=64, help="how many images (default: 64)")
    add("--columns", metavar="N", type=PositiveInt | None, help="columns of the grid (default: a square)")
    add("--scale", metavar="N", type=PositiveInt | None, help="enlarge in the grid (default: to 64 pixels)")
    add("--seed", metavar="N", type=int, default=0, help="another seed, other images (default: 0)")
    add("--no-ema", action="store_true", help="draw from the live generator, not from its average")
    add("--overwrite", action="store_true", help="replace existing files")
    return parser
