"""Repaint photos and videos with a trained style-transfer model.

Examples:
    python stylize.py runs/style_transfer photo.jpg folder/ -o out/
    python stylize.py runs/video clip.mp4 -o painted.mp4
    python stylize.py bundled --serve
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt, restricted_number_type

from training.doors import command_parser, path_of, run_command

Colors = Literal["painted", "luma", "histogram", "covariance"]
Steps = restricted_number_type("Steps", int, [(">=", 2), ("<=", 1000)])
Port = restricted_number_type("Port", int, [(">=", 0), ("<=", 65535)])
Steadiness = restricted_number_type("Steadiness", float, [(">=", 0), ("<", 1)])
StrokeSize = restricted_number_type("StrokeSize", float, [(">=", 0.05), ("<=", 20)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    needs_files = not any(argument.partition("=")[0] in ("--serve", "--webcam") for argument in arguments)
    return run_command(_parser(needs_files), _run, arguments)


def _run(options: Namespace) -> None:
    _check_place(options)
    if options.serve:
        _serve(options)
    elif options.webcam is not None:
        from stylizing.webcam import show

        show(options)
    else:
        from stylizing.repaint import write

        write(options)


def _check_place(options: Namespace) -> None:
    """Refuse options that say nothing where there is a page or a camera in the place of files."""
    from norms.errors import SettingError

    page, camera = options.serve, options.webcam is not None
    if not page and not camera:
        return
    name, reason = ("--serve", "photos are chosen in the page") if page else ("--webcam", "the camera gives the frames")
    if options.inputs or options.output:
        raise SettingError(f"{name}: {reason}, so leave out FILE and -o")
    idle = {
        "--webcam": page and camera,
        "--mask": page and options.mask,
        "--sweep": options.sweep is not None,
        "--frames": options.frames,
    }
    if given := [option for option, set_ in idle.items() if set_]:
        raise SettingError(f"{name} cannot be combined with {' and '.join(given)}")


def _serve(options: Namespace) -> None:
    from norms.errors import SettingError

    if find_spec("gradio") is None:
        raise SettingError("--serve needs Gradio: pip install 'normlab[web]'")
    from stylizing.page import serve

    serve(options)


def _parser(needs_files: bool = True) -> ArgumentParser:
    parser = command_parser("Repaint photos and videos with a trained style-transfer model.")
    add = parser.add_argument
    run = (
        "a run folder such as runs/style_transfer, a checkpoint, an exported network, or bundled, which has five styles"
    )
    add("run", metavar="RUN", type=path_of, help=run)
    inputs = "photos, videos, animations, and folders that are searched at any depth"
    add("inputs", metavar="FILE", type=path_of, nargs="+" if needs_files else "*", help=inputs)
    where = "the folder where results go, under the files' names; or the name of a single file's result"
    add("-o", "--output", metavar="PATH", type=path_of, required=needs_files, help=where)
    style = (
        "one of several styles of the network, or a picture for a network of any style; repeated as NAME=SHARE, a "
        "mixture (default: the first)"
    )
    add("--style", metavar="NAME", type=str, action="append", default=[], help=style)
    mask = "paint in another style where this picture is white; may be repeated, and the last one covers the others"
    add("--mask", metavar="PICTURE=NAME", type=str, action="append", default=[], help=mask)
    sweep = "write N results for each photo, from the first to the second of two --style"
    add("--sweep", metavar="N", type=Steps | None, help=sweep)
    strokes = "how broad strokes are, relative to the picture and to those of the training (default: 1)"
    add("--stroke-size", metavar="F", type=StrokeSize, default=1.0, help=strokes)
    size = "scale larger photos down to N pixels on their longer side (default: results are as large as the photos)"
    add("--size", metavar="N", type=PositiveInt | None, help=size)
    pixels = "skip photos of which more than N pixels would be decoded (default: Pillow's limit, about 89 million)"
    add("--max-pixels", metavar="N", type=PositiveInt | None, help=pixels)
    strength = "how much of the style, from 0 (the photo, as far as the network can paint it) to 1 (default)"
    add("--strength", metavar="S", type=ClosedUnitInterval, default=1.0, help=strength)
    colors = "painted (default); luma: only the brightness is painted, in the photo's colors; histogram or covariance: "
    colors += "painted colors with the photo's histogram, or with its mean color and covariance"
    add("--colors", metavar="WHICH", type=Colors, default="painted", help=colors)
    steady = "how much each frame takes over from the one before where both show the same, from 0 to below 1"
    add("--steady", metavar="S", type=Steadiness, default=0.6, help=f"{steady} (default: 0.6)")
    frames = "take the photos of a folder, in the order of the numbers in their names, for frames of one video"
    add("--frames", action="store_true", help=frames)
    webcam = "show what camera N sees, painted, in a window, in the place of files; needs opencv-python"
    add("--webcam", metavar="N", type=NonNegativeInt | None, help=webcam)
    device = "such as cpu or cuda:1 (default: the accelerator, if there is one)"
    add("--device", metavar="DEVICE", type=str | None, help=device)
    add("--overwrite", action="store_true", help="replace existing results")
    add("--serve", action="store_true", help="show a page to try the network on a photo, without FILE and -o")
    host = "where the page can be opened from; 0.0.0.0 is every computer that reaches this one (default: 127.0.0.1)"
    add("--host", metavar="ADDRESS", type=str, default="127.0.0.1", help=host)
    add("--port", metavar="N", type=Port, default=7860, help="port of the page, 0 for any that is free (default: 7860)")
    return parser
