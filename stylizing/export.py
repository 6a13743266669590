"""Write a trained style network to one file, or to a folder for the Hugging Face Hub, without the run's folder.

Example:
    python -m stylizing.export runs/style_transfer network.safetensors
    python -m stylizing.export runs/style_transfer network.onnx
    python -m stylizing.export runs/style_transfer hub/
"""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from norms.errors import SettingError
from training.doors import command_parser, path_of, run_command
from training.terminal import printable

if TYPE_CHECKING:
    from training.run import Run

NOT_STATED = "not stated"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _parser() -> ArgumentParser:
    parser = command_parser("Write a trained style network to one file, which needs no run folder.")
    add = parser.add_argument
    run = "a run folder such as runs/style_transfer, a checkpoint, an exported network, or bundled"
    add("run", metavar="RUN", type=path_of, help=run)
    file = (
        "what to write: a file that ends in .safetensors, .onnx or .pt2 (torch.export), or a folder, which gets the "
        "first of these and a model card with pictures, for the Hugging Face Hub"
    )
    add("file", metavar="FILE", type=path_of, help=file)
    add("--data", metavar="TEXT", type=str | None, help="what it was trained on, for the file's header")
    add("--licence", metavar="TEXT", type=str | None, help="licence of the weights, for the file's header")
    return parser


def _run(options: Namespace) -> None:
    from rich.console import Console

    from lightning_modules.painter import Painter
    from lightning_modules.style_transfer import StyleTransfer
    from stylizing import graphs
    from stylizing.model_card import write_folder
    from training.network_files import SUFFIX, header_of, write_network
    from training.run import Run
    from training.shipped import with_shipped_networks

    target, kind = options.file, options.file.suffix
    known = (SUFFIX, graphs.ONNX, graphs.EXPORTED)
    if kind and kind not in known:
        raise SettingError(f"{target}: the name of a network's file ends in {', '.join(known[:-1])} or {known[-1]}")
    if os.path.lexists(target) and (kind or not target.is_dir() or any(target.iterdir())):
        raise SettingError(f"{target} exists: choose another name for the network")
    graphs.check_packages(kind)
    run = Run.find(with_shipped_networks(options.run))
    model = run.load(Painter)
    if kind != SUFFIX and not isinstance(model, StyleTransfer):
        raise SettingError(f"{target}: a network of {type(model).__name__} is written to a {SUFFIX} file alone")
    given = {"data": options.data, "licence": options.licence}
    told = told_of(run) | {name: text for name, text in given.items() if text is not None}
    with Console(stderr=True).status(f"writing {target}"):
        if kind == SUFFIX or not isinstance(model, StyleTransfer):
            write_network(model, target, told)
        elif kind:
            graphs.write_graph(model, target, header_of(model, told))
        else:
            write_folder(model, target, told)
    names = printable(", ".join(model.style_names))
    print(f"wrote {printable(str(target))} ({_size(target) / 1e6:.1f} MB, styles: {names})")
    print(f"next: {_next(target, kind == SUFFIX)}")


def told_of(run: "Run") -> dict[str, str]:
    """Return what a run tells of itself for a network's header: data, licence, the size of the images and the steps.

    A network's file has them in its own header.
    """
    told: Mapping[str, str] = run.state.get("told", {})
    if told:
        return dict(told)
    data = (run.read_config() or {}).get("data")
    arguments = data.get("init_args") if isinstance(data, Mapping) else None
    size = arguments.get("image_size") if isinstance(arguments, Mapping) else None
    training = {"image_size": size, "steps": run.state.get("global_step")}
    return {"data": NOT_STATED, "licence": NOT_STATED, "training": json.dumps(training)}


def _size(written: Path) -> int:
    return sum(file.stat().st_size for file in ([written] if written.is_file() else written.rglob("*.*")))


def _next(written: Path, paints: bool) -> str:
    if written.is_dir():
        return f"look at {written / 'README.md'}, then: hf upload YOU/NAME {written}"
    if paints:
        return f"python stylize.py {written} photo.jpg -o out/"
    return "docs/guides/export.md says how other programs paint with it"


if __name__ == "__main__":
    sys.exit(main())
