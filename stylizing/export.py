"""Write a trained style network to one safetensors file, which paints without the run's folder.

Example:
    python -m stylizing.export runs/style_transfer network.safetensors
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from norms.errors import SettingError
from training.doors import command_parser, path_of, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _parser() -> ArgumentParser:
    parser = command_parser("Write a trained style network to one safetensors file, which needs no run folder.")
    add = parser.add_argument
    add("run", metavar="RUN", type=path_of, help="a run folder such as runs/style_transfer, or a checkpoint")
    add("file", metavar="FILE", type=path_of, help="the file to write, such as network.safetensors")
    add("--data", metavar="TEXT", default="not stated", help="what it was trained on, for the file's header")
    add("--licence", metavar="TEXT", default="not stated", help="licence of the weights, for the file's header")
    return parser


def _run(options: Namespace) -> None:
    from lightning_modules.painter import Painter
    from training.network_files import SUFFIX, write_network
    from training.run import Run

    if options.file.suffix != SUFFIX:
        raise SettingError(f"{options.file}: the name of a network's file ends in {SUFFIX}")
    if options.file.exists():
        raise SettingError(f"{options.file} exists: choose another name for the network")
    model = Run.find(options.run).load(Painter)
    write_network(model, options.file, {"data": options.data, "licence": options.licence})
    size = options.file.stat().st_size
    print(f"wrote {options.file} ({size / 1e6:.1f} MB, styles: {', '.join(model.style_names)})")
    print(f"next: python stylize.py {options.file} photo.jpg -o out/")


if __name__ == "__main__":
    sys.exit(main())
