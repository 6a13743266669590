"""What the commands have in common that write a trained network to a file of its own."""

import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from training.doors import command_parser, path_of

if TYPE_CHECKING:
    from training.run import Run

NOT_STATED = "not stated"


def export_parser(description: str, run: str, pictures: str) -> ArgumentParser:
    """Make the parser of such a command.

    Args:
        description: What the command does.
        run: What may stand in the place of the run.
        pictures: What the model card shows.
    """
    parser = command_parser(description)
    add = parser.add_argument
    add("run", metavar="RUN", type=path_of, help=run)
    file = (
        "what to write: a file that ends in .safetensors, .onnx or .pt2 (torch.export), or a folder, which gets the "
        f"first of these and a model card with {pictures}, for the Hugging Face Hub"
    )
    add("file", metavar="FILE", type=path_of, help=file)
    add("--data", metavar="TEXT", type=str | None, help="what it was trained on, for the file's header")
    add("--licence", metavar="TEXT", type=str | None, help="licence of the weights, for the file's header")
    return parser


def check_target(target: Path) -> None:
    """Refuse a target of an unknown kind, one that exists, and one that lacks a package.

    Raises:
        SettingError: If it is such.
    """
    from norms.errors import SettingError
    from training import graphs
    from training.network_files import SUFFIX

    known = (SUFFIX, graphs.ONNX, graphs.EXPORTED)
    if target.suffix and target.suffix not in known:
        raise SettingError(f"{target}: the name of a network's file ends in {', '.join(known[:-1])} or {known[-1]}")
    if os.path.lexists(target) and (target.suffix or not target.is_dir() or any(target.iterdir())):
        raise SettingError(f"{target} exists: choose another name for the network")
    graphs.check_packages(target.suffix)


def told_of(run: "Run", options: Namespace | None = None) -> dict[str, str]:
    """Return what a run tells of itself for a network's header: data, licence, the size of the images and the steps.

    A network's file has them in its own header.

    Args:
        run: The run.
        options: The command line, whose data and licence come first.
    """
    told: Mapping[str, str] = run.state.get("told", {})
    if not told:
        data = (run.read_config() or {}).get("data")
        arguments = data.get("init_args") if isinstance(data, Mapping) else None
        size = arguments.get("image_size") if isinstance(arguments, Mapping) else None
        training = {"image_size": size, "steps": run.state.get("global_step")}
        told = {"data": NOT_STATED, "licence": NOT_STATED, "training": json.dumps(training)}
    given = {} if options is None else {"data": options.data, "licence": options.licence}
    return dict(told) | {name: text for name, text in given.items() if text is not None}


def size_of(written: Path) -> str:
    """Return how large a file is, or all of a folder, in words."""
    files = [written] if written.is_file() else written.rglob("*.*")
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def next_upload(folder: Path) -> str:
    """Return what comes after a folder for the Hub is written."""
    return f"look at {folder / 'README.md'}, then: hf upload YOU/NAME {folder}"
