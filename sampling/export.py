"""Write the generator of a trained GAN to one file, or to a folder for the Hugging Face Hub, without the run's folder.

Example:
    python -m sampling.export runs/gan generator.safetensors
    python -m sampling.export runs/gan generator.onnx
    python -m sampling.export runs/gan hub/
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

import normlab
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
    run = "a run folder such as runs/gan, a checkpoint, or an exported generator"
    parser = export_parser("Write the generator of a GAN to one file, which needs no run folder.", run, "a picture")
    parser.add_argument("--no-ema", action="store_true", help="write the live generator, not its average")
    return parser


def _run(options: Namespace) -> None:
    import torch
    from rich.console import Console

    from sampling.graphs import trace
    from sampling.model_card import write_folder
    from sampling.trained import TrainedGenerator
    from training.graphs import write_graph
    from training.network_files import SUFFIX, header_of, write_network
    from training.run import Run

    target, kind = options.file, options.file.suffix
    check_target(target)
    told = told_of(Run.find(options.run), options)
    trained = TrainedGenerator.find(options.run, not options.no_ema)
    with Console(stderr=True).status(f"writing {target}"):
        trained.settled()
        if kind == SUFFIX:
            # Whoever draws from the file gets the images of the run, to the last level of gray.
            write_network(trained, target, told, convolutions=torch.float32)
        elif kind:
            write_graph(trace(trained), target, header_of(trained, told))
        else:
            write_folder(trained, target, told)
    shape = "x".join(map(str, trained.image_shape))
    classes = f", {trained.num_classes} classes" if trained.num_classes else ""
    print(f"wrote {printable(str(target))} ({size_of(target)}, images of {shape}{classes})")
    print(f"next: {printable(_next(target, kind == SUFFIX))}")


def _next(written: Path, draws: bool) -> str:
    if written.is_dir():
        return next_upload(written)
    if draws:
        return normlab.as_installed(f"python sample.py {written} -o samples.png")
    return "docs/guides/export.md says how other programs draw with it"


if __name__ == "__main__":
    sys.exit(main())
