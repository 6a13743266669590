"""Trained networks to hand on: one safetensors file with the weights, the settings and small style pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from lightning_modules.base import HYPER_PARAMETERS
from norms.errors import SettingError
from training.files import replacing

SUFFIX = ".safetensors"

FORMAT = "normlab network"

THUMBNAIL = 96
"""Longer side of the style pictures in the file, in pixels."""

_READ = {"format", "normlab", "settings"}
"""What of a header the network is built from; all else is for people."""


class Shared(Protocol):
    """Describe a trained network that can be handed on."""

    def shared_settings(self) -> dict[str, Any]:
        """Return the settings that build it, plain types that name no folder."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which module it is, under ``normlab``."""


def header_of(model: Shared, told: Mapping[str, str]) -> dict[str, str]:
    """Say what a network is: its settings, which name no folders, and the versions that wrote it.

    Args:
        model: The trained network.
        told: What else there is to say, such as ``data`` and ``licence``.

    Returns:
        Texts by name; ``normlab`` and ``settings`` are JSON.
    """
    record: dict[str, Any] = {}
    model.on_save_checkpoint(record)
    writer = {**record["normlab"], "torch": torch.__version__}
    return {**told, "format": FORMAT, "normlab": json.dumps(writer), "settings": json.dumps(model.shared_settings())}


def write_network(
    model: Shared, path: Path, told: Mapping[str, str], convolutions: torch.dtype = torch.float16
) -> None:
    """Write a network to a file that needs neither the training's folder nor unpickling.

    All but the weights of convolutions is kept in float32. The header is that of :func:`header_of`.

    Args:
        model: The trained network.
        path: The file; its name ends in ``.safetensors``.
        told: What else its header says, such as ``data`` and ``licence``.
        convolutions: What the weights of convolutions are rounded to.

    Raises:
        SettingError: If it cannot be written.
    """
    weights = {name: _handy(name, value, convolutions) for name, value in model.state_dict().items()}
    try:
        with replacing(path) as partial:
            partial.write_bytes(
                save(weights, header_of(model, told))
            )  # which others may read, unlike what save_file makes
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error


def read_network(path: Path) -> dict[str, Any]:
    """Read such a file into what a checkpoint holds of the same network, and what else its header says as ``told``.

    Raises:
        SettingError: If it is no such file.
        safetensors.SafetensorError: If it is damaged.
    """
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise SettingError(f"{path} holds weights, but no network of normlab with its settings")
        weights = {name: _whole(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    return {
        "normlab": json.loads(header["normlab"]),
        HYPER_PARAMETERS: json.loads(header["settings"]),
        "told": {key: text for key, text in header.items() if key not in _READ},
        "state_dict": weights,
    }


def _handy(name: str, value: Tensor, convolutions: torch.dtype) -> Tensor:
    value = value.detach().cpu()
    if name.startswith("style_image") and value.numel():
        scale = THUMBNAIL / max(value.shape[-2:])
        value = tvf.resize(value, [max(1, round(side * scale)) for side in value.shape[-2:]])
    elif value.is_floating_point():
        value = value.to(convolutions if value.ndim == 4 else torch.float32)
    return value.contiguous()


def _whole(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
