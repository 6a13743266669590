"""Checkpoint files: written so that a full disk spoils none, and read so that a damaged one is noticed."""

import io
import math
import zipfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from norms.errors import SettingError
from training.errors import disk_fault
from training.files import free_bytes, replacing
from training.finite import is_finite
from training.network_files import SUFFIX, read_network


class CheckpointFiles(TorchCheckpointIO):
    """Write checkpoints beside the file that they replace, and onto the disk before they do.

    Lightning's own stages them in the folder for temporary files, and takes ``::`` and ``file:`` in a path for
    something else. A disk that fails does not raise, since one process alone writes and the others wait for it; what
    went wrong is in ``fault``.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        """Why the last checkpoint could not be written, in one line; None if it could."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; the old file is there until the new one is whole."""
        # In memory first: torch turns what the disk says into something that names no reason.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        self.fault = None
        try:
            with replacing(path) as partial:
                partial.write_bytes(buffer.getbuffer())
        except OSError as error:
            size, free = buffer.getbuffer().nbytes, free_bytes(Path(path).parent)
            self.fault = f"{disk_fault(error, path)} ({size:,} bytes are needed, {free:,} are free)"

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint into memory, without unpickling."""
        return dict(read_checkpoint(Path(path), mmap=False))


MOST_VALUES = 10**7
"""In all tables and lists of a checkpoint, those that stand in several places counted in each."""


class NoWeightsError(SettingError):
    """Tell of a checkpoint without weights."""


def read_checkpoint(path: Path, mmap: bool = True) -> Mapping[str, Any]:
    """Read a checkpoint without running code that it holds, after every byte of it has been checked.

    Args:
        path: The file.
        mmap: Whether its tensors shall be mapped from the file, rather than read.

    Returns:
        What it holds, tensors on the CPU.

    Raises:
        SettingError: If it cannot be read or is damaged.
    """
    try:
        if path.suffix == SUFFIX:
            return read_network(path)
        zipped = zipfile.is_zipfile(path)
        if zipped and (part := _damaged_part(path)):
            raise SettingError(f"{path} is damaged: its part {part} does not have the checksum that is noted for it")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipped)
        if _count(state, {}) > MOST_VALUES:
            raise SettingError(f"{path} is damaged: it holds itself, or one of its parts, without end")
    except SettingError:
        raise
    # Whatever a program comes upon that believes what is written in a damaged file.
    except Exception as error:
        raise SettingError(f"{path} is not a readable checkpoint: {_why_unreadable(path)}") from error
    if not isinstance(state, Mapping):
        raise SettingError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state


def _why_unreadable(path: Path) -> str:
    """Return in plain words why a checkpoint cannot be read, of which torch tells what its reader has come upon."""
    parts: list[str] = []
    try:
        with path.open("rb") as file:
            begin = file.read(4)
        with zipfile.ZipFile(path) as archive:
            parts = archive.namelist()
    except OSError as error:
        return error.strerror or str(error)
    except Exception:  # whatever the reader comes upon, as above
        if begin and b"PK\3\4".startswith(begin):
            return "it is cut off or damaged"
    if not begin:
        return "it is empty"
    if path.suffix == SUFFIX:
        return "it is cut off or damaged"
    # The first byte of a pickle, as torch wrote them before it zipped them, tells its protocol.
    if any(part.endswith("/data.pkl") for part in parts) or begin.startswith(b"\x80"):
        return "it holds more than tensors and plain values, or is cut off or damaged; save the state_dict alone"
    return "it is no checkpoint at all"


def _count(value: Any, counted: dict[int, float]) -> float:
    """Return how many values a table or list comes to, without going into any of its parts twice."""
    if not isinstance(value, Mapping | list | tuple):
        return 1
    if id(value) not in counted:
        counted[id(value)] = math.inf  # if it is met again within itself
        parts = value.values() if isinstance(value, Mapping) else value
        counted[id(value)] = 1 + sum(_count(part, counted) for part in parts)
    return counted[id(value)]


def _damaged_part(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        # torch can be told to leave the checksums out.
        return archive.testzip() if any(part.CRC for part in archive.infolist()) else None


def checksum(path: Path) -> str:
    """Hash what a checkpoint holds, by the checksums that torch has noted for its parts; empty if it has noted none."""
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        parts = [part.CRC for part in archive.infolist()]
    return blake2b(repr(parts).encode(), digest_size=4).hexdigest()


def weights_of(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the weights in what a checkpoint holds.

    Raises:
        NoWeightsError: If there are none.
    """
    weights = state.get("state_dict")
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise NoWeightsError("holds no weights: its state_dict is missing or no table of tensors")
    return weights


def missing_parts(state: Mapping[str, Any], resuming: bool) -> list[str]:
    """List the parts of a checkpoint that Lightning reads and that are missing, or of another type.

    Args:
        state: What the checkpoint holds.
        resuming: Whether a training shall go on from it.
    """
    wanted: dict[str, type] = {"state_dict": Mapping, "loops": Mapping, "pytorch-lightning_version": str}
    if resuming:
        wanted |= {"optimizer_states": list, "lr_schedulers": list, "global_step": int, "epoch": int}
    wrong = [key for key, kind in wanted.items() if not isinstance(state.get(key), kind)]
    for key in {"optimizer_states", "lr_schedulers"} & wanted.keys() - set(wrong):
        wrong += [f"{key}.{i}" for i, each in enumerate(state[key]) if not isinstance(each, Mapping)]
    loops = state.get("loops")
    if isinstance(loops, Mapping):
        names = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
        wrong += [f"loops.{name}" for name in names if not isinstance(loops.get(name), Mapping)]
    return wrong


def whole_neighbors(path: Path) -> list[Path]:
    """Return the checkpoints beside ``path`` that can be read and whose weights are finite, the newest first."""
    others = (other for other in path.parent.glob("*.ckpt") if other != path)
    return [other for other in sorted(others, key=lambda file: -file.stat().st_mtime) if _is_whole(other)]


def _is_whole(path: Path) -> bool:
    try:
        return all(is_finite(value, or_infinite=True) for value in weights_of(read_checkpoint(path)).values())
    except SettingError:
        return False


def check_size(module_class: type[nn.Module], settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Refuse settings that would make a much larger module than the one that was saved, before it takes the memory."""
    sizes = {"tensors": 0, "numbers": 0}
    limits = {
        "tensors": 1000 + 10 * len(weights),
        "numbers": 10**8 + 10 * sum(value.numel() for value in weights.values()),
    }

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        sizes["tensors"] += 1
        sizes["numbers"] += parameter.numel()
        if any(sizes[kind] > limits[kind] for kind in sizes):
            raise SettingError(
                f"its settings make a module of more than {sizes['numbers']:,} weights, "
                f"but it holds {sum(value.numel() for value in weights.values()):,}"
            )

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            module_class(**settings)
    except SettingError:
        raise
    except Exception:
        return  # a module that cannot be made without values, or not at all, which shows when it is made in earnest
    finally:
        counting.remove()
