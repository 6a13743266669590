"""Repaint photos and videos with a trained style-transfer model.

Examples:
    python stylize.py runs/style_transfer photo.jpg folder/ -o out/
    python stylize.py runs/video clip.mp4 -o painted.mp4
"""

from argparse import Namespace
from collections.abc import Sequence

from jsonargparse import ArgumentParser
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt, restricted_number_type

from training.doors import command_parser, path_of, run_command

Steadiness = restricted_number_type("Steadiness", float, [(">=", 0), ("<", 1)])
StrokeSize = restricted_number_type("StrokeSize", float, [(">=", 0.05), ("<=", 20)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _run(options: Namespace) -> None:
    from norms.errors import SettingError

    if options.webcam is not None:
        from stylizing.webcam import show

        show(options)
        return
    if not options.inputs or options.output is None:
        raise SettingError("name photos, videos or folders of them, and where results go, as in photo.jpg -o out/")
    from stylizing.repaint import write

    write(options)


def _parser() -> ArgumentParser:
    parser = command_parser("Repaint photos and videos with a trained style-transfer model.")
    add = parser.add_argument
    run = (
        "a run folder such as runs/style_transfer, a checkpoint, an exported network, or bundled, which has five styles"
    )
    add("run", metavar="RUN", type=path_of, help=run)
    inputs = "photos, videos, animations, and folders that are searched at any depth"
    add("inputs", metavar="FILE", type=path_of, nargs="*", help=inputs)
    where = "the folder where results go, under the files' names; or the name of a single video's or animation's result"
    add("-o", "--output", metavar="PATH", type=path_of, help=where)
    style = (
        "one of several styles of the network, or a picture for a network of any style; repeated as NAME=SHARE, a "
        "mixture (default: the first)"
    )
    add("--style", metavar="NAME", type=str, action="append", default=[], help=style)
    strokes = "how broad strokes are, relative to the picture and to those of the training (default: 1)"
    add("--stroke-size", metavar="F", type=StrokeSize, default=1.0, help=strokes)
    size = "scale larger photos down to N pixels on their longer side (default: results are as large as the photos)"
    add("--size", metavar="N", type=PositiveInt | None, help=size)
    pixels = "skip photos of which more than N pixels would be decoded (default: Pillow's limit, about 89 million)"
    add("--max-pixels", metavar="N", type=PositiveInt | None, help=pixels)
    strength = "blend with the photo, from 0 (photo) to 1 (default)"
    add("--strength", metavar="S", type=ClosedUnitInterval, default=1.0, help=strength)
    add("--keep-colors", action="store_true", help="take only the brightness from the stylized image")
    steady = "how much each frame takes over from the one before where both show the same, from 0 to below 1"
    add("--steady", metavar="S", type=Steadiness, default=0.6, help=f"{steady} (default: 0.6)")
    frames = "take the photos of a folder, in the order of the numbers in their names, for frames of one video"
    add("--frames", action="store_true", help=frames)
    webcam = "show what camera N sees, painted, in a window, in the place of files; needs opencv-python"
    add("--webcam", metavar="N", type=NonNegativeInt | None, help=webcam)
    device = "such as cpu or cuda:1 (default: the accelerator, if there is one)"
    add("--device", metavar="DEVICE", type=str | None, help=device)
    add("--overwrite", action="store_true", help="replace existing results")
    return parser
