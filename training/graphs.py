"""Networks as graphs that other programs run: ONNX files, and what ``torch.export`` saves."""

import io
import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from norms.errors import SettingError
from training.files import replacing

ONNX, EXPORTED = ".onnx", ".pt2"

HEADER = "network.json"
"""Where a ``.pt2`` file says what network it holds."""

Sizes = tuple[dict[int, str] | None, ...]
"""Which sizes of each input are free, as names by dimension; None for an input of a fixed shape."""


class Graph(NamedTuple):
    """Hold a network as operations on tensors."""

    program: ExportedProgram
    sizes: Sizes
    output: str
    """What its result is called in an ONNX file."""


def check_packages(suffix: str) -> None:
    """Refuse to write ONNX where the packages for it are missing, before a network is loaded.

    Raises:
        SettingError: If one is missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if suffix == ONNX and find_spec(name) is None]
    if missing:
        raise SettingError(f"an ONNX file is written with {' and '.join(missing)}: pip install 'normlab[onnx]'")


def trace(module: nn.Module, inputs: tuple[Tensor, ...], sizes: Sizes, output: str) -> Graph:
    """Trace a module, in float32.

    Args:
        module: What is traced, in evaluation mode.
        inputs: An example of what it is called with.
        sizes: Which sizes of them are free.
        output: What its result is called.
    """
    program = torch.export.export(
        module,
        inputs,
        dynamic_shapes=_shapes(sizes),
        # What a module makes of a size, such as padding, would be a guard that limits the graph to some sizes.
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which names the folders of whoever exports
    return Graph(program, sizes, output)


def write_graph(graph: Graph, path: Path, header: Mapping[str, str]) -> None:
    """Write a graph in the format that the ending of ``path`` names, with weights in float32.

    Args:
        graph: What :func:`trace` returns.
        path: The file; its name ends in ``.onnx`` or ``.pt2``.
        header: What the file says of the network: the metadata of an ONNX model, or the file ``network.json`` within.

    Raises:
        SettingError: If it cannot be written, or a package for it is missing.
    """
    check_packages(path.suffix)
    content = to_onnx(graph, header) if path.suffix == ONNX else to_archive(graph, header)
    try:
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error


def to_onnx(graph: Graph, header: Mapping[str, str]) -> bytes:
    """Convert a graph to the content of an ONNX file, with the header as its metadata."""
    # Sizes are named anew, since a program forgets what they were called.
    shapes = _shapes(graph.sizes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*axis name", UserWarning)  # which several inputs share
        converted = torch.onnx.export(
            graph.program, dynamo=True, output_names=[graph.output], dynamic_shapes=shapes, verbose=False
        )
    assert converted is not None  # as it is without a file to write
    converted.model.metadata_props.update(header)
    return converted.model_proto.SerializeToString()


def to_archive(graph: Graph, header: Mapping[str, str]) -> bytes:
    """Convert a graph to the content of a ``.pt2`` file, with the header as :data:`HEADER`."""
    file = io.BytesIO()
    torch.export.save(graph.program, file, extra_files={HEADER: json.dumps(header, indent=1)})
    return file.getvalue()


def _shapes(sizes: Sizes) -> tuple[dict[int, Dim] | None, ...]:
    dims = {name: Dim(name) for free in sizes if free for name in free.values()}
    return tuple(None if free is None else {place: dims[name] for place, name in free.items()} for free in sizes)
