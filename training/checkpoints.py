"""From a run folder or a checkpoint file to a trained module."""

import pickle
from pathlib import Path
from typing import Any, TypeVar

import torch

from lightning_modules.base import TrainingModule
from norms.errors import SettingError

Module = TypeVar("Module", bound=TrainingModule)


def find_checkpoint(run: str | Path) -> Path:
    """Find the checkpoint that a user means by a run folder, a folder of runs' versions, or a file.

    Args:
        run: A checkpoint file; a run folder such as ``runs/gan/version_0``; or a folder such as ``runs/gan``, which
            stands for its newest version that has a checkpoint.

    Returns:
        The file itself, or the folder's ``checkpoints/last.ckpt``, or else its newest checkpoint.

    Raises:
        SettingError: If there is no such path, or no checkpoint in it.
    """
    path = Path(run)
    if path.is_file():
        return path
    if not path.is_dir():
        raise SettingError(f"no such run folder or checkpoint: {path}")
    for folder in (path, *sorted(path.glob("version_*"), key=_version, reverse=True)):
        last = folder / "checkpoints" / "last.ckpt"
        if last.is_file():
            return last
        found = sorted(folder.glob("checkpoints/*.ckpt"), key=lambda p: p.stat().st_mtime)
        if found:
            return found[-1]
    raise SettingError(f"{path} holds no checkpoint: expected {path / 'checkpoints' / 'last.ckpt'}")


def load(module_class: type[Module], run: str | Path) -> Module:
    """Load a trained module.

    Args:
        module_class: What the checkpoint must be of.
        run: See :func:`find_checkpoint`.

    Returns:
        The module on the CPU, in evaluation mode.

    Raises:
        SettingError: If there is no checkpoint, it is damaged, or it is of another module.
    """
    path = find_checkpoint(run)
    checkpoint = _read(path)
    writer = checkpoint.get("normlab", {}).get("module")
    if writer is None:
        raise SettingError(f"{path} is not a checkpoint written by normlab")
    if writer != module_class.__name__:
        raise SettingError(f"{path} is a checkpoint of {writer}, not of {module_class.__name__}")
    return module_class.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()


def _version(folder: Path) -> int:
    number = folder.name.removeprefix("version_")
    return int(number) if number.isdigit() else -1


def _read(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SettingError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise SettingError(f"{path} is not a checkpoint written by normlab")
    return checkpoint
