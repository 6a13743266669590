"""Write a trained style network to one file, or to a folder for the Hugging Face Hub, without the run's folder.

Example:
    python -m stylizing.export runs/style_transfer network.safetensors
    python -m stylizing.export runs/style_transfer network.onnx
    python -m stylizing.export runs/style_transfer hub/
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from norms.errors import SettingError
from training.doors import run_command
from training.exporting import check_target, export_parser, next_upload, size_of, told_of
from training.terminal import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _parser() -> ArgumentParser:
    run = "a run folder such as runs/style_transfer, a checkpoint, an exported network, or bundled"
    return export_parser("Write a trained style network to one file, which needs no run folder.", run, "pictures")


def _run(options: Namespace) -> None:
    from rich.console import Console

    from lightning_modules.painter import Painter
    from lightning_modules.style_transfer import StyleTransfer
    from stylizing.graphs import trace
    from stylizing.model_card import write_folder
    from training.graphs import write_graph
    from training.network_files import SUFFIX, header_of, write_network
    from training.run import Run
    from training.shipped import with_shipped_networks

    target, kind = options.file, options.file.suffix
    check_target(target)
    run = Run.find(with_shipped_networks(options.run))
    model = run.load(Painter)
    if kind != SUFFIX and not isinstance(model, StyleTransfer):
        raise SettingError(f"{target}: a network of {type(model).__name__} is written to a {SUFFIX} file alone")
    told = told_of(run, options)
    with Console(stderr=True).status(f"writing {target}"):
        if kind == SUFFIX or not isinstance(model, StyleTransfer):
            write_network(model, target, told)
        elif kind:
            write_graph(trace(model), target, header_of(model, told))
        else:
            write_folder(model, target, told)
    names = printable(", ".join(model.style_names))
    print(f"wrote {printable(str(target))} ({size_of(target)}, styles: {names})")
    print(f"next: {_next(target, kind == SUFFIX)}")


def _next(written: Path, paints: bool) -> str:
    if written.is_dir():
        return next_upload(written)
    if paints:
        return f"python stylize.py {written} photo.jpg -o out/"
    return "docs/guides/export.md says how other programs paint with it"


if __name__ == "__main__":
    sys.exit(main())
