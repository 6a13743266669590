"""Style networks as graphs that other programs run: ONNX files, and what ``torch.export`` saves."""

import copy
import io
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from training.files import replacing

ONNX, EXPORTED = ".onnx", ".pt2"

TILE = 256
"""Side of the square of noise that an exported network repeats over a photo, in pixels."""

HEADER = "network.json"
"""Where a ``.pt2`` file says what network it holds."""

_TILE_STREAM = 4
"""Tells the noise of the tile from what the training draws."""


class PhotoPainter(nn.Module):
    """Paint as a network does, by nothing but tensor operations.

    A network with noise draws it for the size of each photo, which a graph cannot do. Here a square of
    :data:`TILE` pixels is drawn once, and repeated over the photo. All else is as in ``StyleTransfer.forward``.

    Args:
        model: A trained network, which is left as it is.

    Shape:
        Image (B, 3, H, W), RGB in [0, 1], any H and W; and, for a network of K styles, their shares (K,), which sum
        to 1 -> (B, 3, H, W), RGB in [0, 1]
    """

    noise: Tensor | None

    def __init__(self, model: StyleTransfer) -> None:
        super().__init__()
        self.transformer = copy.deepcopy(model.transformer).cpu().eval().requires_grad_(False)
        self.transformer.to(memory_format=torch.contiguous_format)
        strength = model.hparams["noise"]
        tile = strength * model.noise(_TILE_STREAM, 1, 3, TILE, TILE).cpu() if strength else None
        self.register_buffer("noise", tile)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        """Paint images; see the class."""
        height, width = image.shape[-2:]
        # By indices, since what F.pad and slices do would depend on whether there is anything to pad.
        rows, columns = torch.arange(self.transformer.padded(height)), torch.arange(self.transformer.padded(width))
        x = image[..., rows.clamp(max=height - 1)[:, None], columns.clamp(max=width - 1)]
        if self.noise is not None:
            x = x + self.noise[..., (rows % TILE)[:, None], columns % TILE]
        painted: Tensor = self.transformer.stylize_padded(x, style)
        return painted[..., torch.arange(height)[:, None], torch.arange(width)]


def check_packages(suffix: str) -> None:
    """Refuse to write ONNX where the packages for it are missing, before a network is loaded.

    Raises:
        SettingError: If one is missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if suffix == ONNX and find_spec(name) is None]
    if missing:
        raise SettingError(f"an ONNX file is written with {' and '.join(missing)}: pip install 'normlab[onnx]'")


def trace(model: StyleTransfer) -> ExportedProgram:
    """Trace a network for any batch and image size, in float32.

    Its inputs are ``image`` and, for a network of several styles, ``style``; see :class:`PhotoPainter`.
    """
    count = model.transformer.num_styles
    image, shares = torch.rand(2, 3, 37, 43), [] if count is None else [torch.full((count,), 1 / count)]
    # How far an image is padded depends on its size, to which a guard would limit the graph.
    program = torch.export.export(
        PhotoPainter(model),
        (image, *shares),
        dynamic_shapes=_shapes(1 + len(shares)),
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which names the folders of whoever exports
    return program


def write_graph(model: StyleTransfer, path: Path, header: Mapping[str, str]) -> None:
    """Write a network in the format that the ending of ``path`` names, with weights in float32.

    Args:
        model: The trained network.
        path: The file; its name ends in ``.onnx`` or ``.pt2``.
        header: What the file says of the network: the metadata of an ONNX model, or the file ``network.json`` within.

    Raises:
        SettingError: If it cannot be written, or a package for it is missing.
    """
    check_packages(path.suffix)
    program = trace(model)
    content = to_onnx(program, header) if path.suffix == ONNX else to_archive(program, header)
    try:
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error


def to_onnx(program: ExportedProgram, header: Mapping[str, str]) -> bytes:
    """Convert what :func:`trace` returns to the content of an ONNX file, with the header as its metadata."""
    # Named anew, since a program forgets what its sizes were called.
    shapes = _shapes(len(program.graph_signature.user_inputs))
    converted = torch.onnx.export(program, dynamo=True, output_names=["painting"], dynamic_shapes=shapes, verbose=False)
    assert converted is not None  # as it is without a file to write
    converted.model.metadata_props.update(header)
    return converted.model_proto.SerializeToString()


def to_archive(program: ExportedProgram, header: Mapping[str, str]) -> bytes:
    """Convert what :func:`trace` returns to the content of a ``.pt2`` file, with the header as :data:`HEADER`."""
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={HEADER: json.dumps(header, indent=1)})
    return file.getvalue()


def _shapes(inputs: int) -> tuple[dict[int, Dim] | None, ...]:
    """Return which sizes of the inputs are free: all of the image but its channels, and none of the style."""
    return ({0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}, None)[:inputs]
