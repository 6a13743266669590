"""A run on disk: the one place that knows where a run keeps what."""

from __future__ import annotations

import pickle
import re
import textwrap
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import yaml

from lightning_modules.base import TrainingModule
from norms.errors import SettingError

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

Module = TypeVar("Module", bound=TrainingModule)

VERSION = re.compile(r"version_(\d+)")


class Run:
    """A run's folder, or a checkpoint that somebody has taken out of one.

    Nothing is read or made before it is asked for. Whatever cannot be found or read is a
    :class:`~norms.errors.SettingError` that names the file.

    Args:
        folder: The run's folder, such as ``runs/gan/version_0``.
        checkpoint: The checkpoint that is meant, if it is not the newest of the folder.
    """

    def __init__(self, folder: str | Path, checkpoint: Path | None = None) -> None:
        self.folder = Path(folder)
        self._checkpoint = checkpoint

    @classmethod
    def new(cls, parent: str | Path) -> Run:
        """Make the folder of a new run, ``version_N`` in ``parent``, with a number above those that are there.

        Raises:
            SettingError: If the folder cannot be made.
        """
        parent = Path(parent)
        number = 1 + max((run.version for run in cls.versions(parent)), default=-1)
        while True:
            run = cls(parent / f"version_{number}")
            try:
                run.folder.mkdir(parents=True)
            except FileExistsError:  # of a run that started at the same moment
                number += 1
            except OSError as error:
                raise SettingError(f"cannot make the run folder {run.folder}: {error.strerror}") from error
            else:
                return run

    @classmethod
    def versions(cls, parent: str | Path) -> list[Run]:
        """List the runs in a folder such as ``runs/gan``, the newest first."""
        runs = (cls(path) for path in Path(parent).glob("version_*") if VERSION.fullmatch(path.name))
        return sorted(runs, key=lambda run: run.version, reverse=True)

    @classmethod
    def find(cls, path: str | Path, with_checkpoint: bool = True) -> Run:
        """Find the run that a user means.

        Args:
            path: A checkpoint file; a run's folder, such as ``runs/gan/version_0``; or a folder of versions, such as
                ``runs/gan``, which stands for the newest of them that has what is needed.
            with_checkpoint: Whether the run must have a checkpoint; otherwise mixing values will do.

        Raises:
            SettingError: If there is no such path, or no run in it that has what is needed.
        """
        path = Path(path)
        if path.is_file():
            in_run = path.parent.name == cls(path).checkpoints.name
            return cls(path.parents[1] if in_run else path.parent, path)
        if not path.is_dir():
            raise SettingError(f"no such run folder or checkpoint: {path}")
        for run in (cls(path), *cls.versions(path)):
            if run.newest_checkpoint() or (not with_checkpoint and run.mixing.is_dir()):
                return run
        if with_checkpoint:
            raise SettingError(f"{path} holds no checkpoint: expected {cls(path).last}")
        raise SettingError(f"{path} holds no run: expected {cls(path).mixing} or {cls(path).checkpoints}")

    @classmethod
    def of(cls, trainer: Trainer) -> Run:
        """Return the run that ``trainer`` writes; with several processes, each of them has to ask."""
        return cls(trainer.log_dir or "")

    @property
    def version(self) -> int:
        """The number in the folder's name, -1 if there is none."""
        match = VERSION.fullmatch(self.folder.name)
        return int(match[1]) if match else -1

    @property
    def name(self) -> str:
        """The end of the folder's path, such as ``gan/version_0``."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def has_folder(self) -> bool:
        """Whether this is more than a checkpoint that lies somewhere else than in a run's folder."""
        return self._checkpoint is None or self._checkpoint.parent.name == self.checkpoints.name

    @property
    def config(self) -> Path:
        """The configuration that the run began with."""
        return self.folder / "config.yaml"

    def resumed_config(self, step: int) -> Path:
        """Return where the configuration is kept with which the run went on at ``step``."""
        return self.folder / f"config_resumed_{step:07d}.yaml"

    @property
    def newest_config(self) -> Path:
        """The configuration that the run began with or, if it was resumed, went on with last."""
        return max(self.folder.glob("config_resumed_*.yaml"), default=self.config)

    @property
    def metrics(self) -> Path:
        """The table of metrics."""
        return self.folder / "metrics.csv"

    @property
    def samples(self) -> Path:
        """The folder of sample pictures."""
        return self.folder / "samples"

    def sample(self, step: int) -> Path:
        """Return where the picture after ``step`` steps is kept."""
        return self.samples / f"step_{step:07d}.png"

    @property
    def mixing(self) -> Path:
        """The folder of mixing values."""
        return self.folder / "mixing"

    @property
    def mixing_kinds(self) -> Path:
        """The description of the kinds of mixing values."""
        return self.mixing / "kinds.json"

    def mixing_values(self, step: int) -> Path:
        """Return where the mixing values after ``step`` steps are kept."""
        return self.mixing / f"step_{step:07d}.npz"

    def mixing_steps(self) -> dict[int, Path]:
        """Return the files of mixing values that are there, by step, the first step first."""
        files = ((re.fullmatch(r"step_(\d+)", path.stem), path) for path in self.mixing.glob("step_*.npz"))
        return dict(sorted((int(match[1]), path) for match, path in files if match))

    def records_from(self, step: int) -> list[Path]:
        """List the files of mixing values and the sample pictures of ``step`` and later ones."""
        files = [*self.mixing.glob("step_*.npz"), *self.samples.glob("step_*.png")]
        return [path for path in files if (match := re.fullmatch(r"step_(\d+)", path.stem)) and int(match[1]) >= step]

    def partials(self) -> list[Path]:
        """List the files that a process which was killed has half written."""
        return sorted(self.folder.rglob("*.partial"))

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint that a run goes on from."""
        return self.checkpoints / "last.ckpt"

    def step_checkpoint(self, step: int) -> Path:
        """Return where the checkpoint of ``step`` is kept, if the run keeps all of them."""
        return self.checkpoints / f"step_{step:07d}.ckpt"

    @property
    def wandb(self) -> Path:
        """The folder of Weights & Biases."""
        return self.folder / "wandb"

    @property
    def wandb_id(self) -> Path:
        """The file that keeps the id of the W&B run, so that a resumed run is the same one."""
        return self.wandb / "run_id"

    @property
    def predictions(self) -> Path:
        """What ``predict`` writes."""
        return self.folder / "predictions.safetensors"

    def newest_checkpoint(self) -> Path | None:
        """Return the checkpoint that was named, or else the last one, or else the newest file; None without any."""
        if self._checkpoint is not None or self.last.is_file():
            return self._checkpoint or self.last
        return max(self.checkpoints.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, default=None)

    @property
    def checkpoint(self) -> Path:
        """As :meth:`newest_checkpoint`.

        Raises:
            SettingError: If there is none.
        """
        path = self.newest_checkpoint()
        if path is None:
            raise SettingError(f"{self.folder} holds no checkpoint: expected {self.last}")
        return path

    def read_config(self) -> dict[str, Any] | None:
        """Read the configuration that the run began with; None if there is none that can be read."""
        if not self.has_folder:
            return None
        try:
            config = yaml.safe_load(self.config.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        return config if isinstance(config, dict) else None

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """What the checkpoint holds, read once.

        Its tensors are on the CPU and mapped from the file, so that what nobody looks at, such as the optimizer's
        state, is not read.

        Raises:
            SettingError: If there is no checkpoint, or it cannot be read without running code that it holds.
        """
        path = self.checkpoint
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            if "Weights only load failed" in reason:
                reason = "it holds more than tensors and plain values, or is damaged; save the state_dict alone"
            raise SettingError(f"{path} is not a readable checkpoint: {reason}") from error
        if not isinstance(state, Mapping):
            raise SettingError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
        return state

    @property
    def module_name(self) -> str:
        """The class of the module that wrote the checkpoint.

        Raises:
            SettingError: If there is no checkpoint, or another program wrote it.
        """
        writer = self.state.get("normlab")
        if not isinstance(writer, Mapping) or "module" not in writer:
            raise SettingError(f"{self.checkpoint} is not a checkpoint written by normlab")
        return str(writer["module"])

    def load(self, module_class: type[Module]) -> Module:
        """Load the trained module.

        Args:
            module_class: What the checkpoint must be of.

        Returns:
            The module on the CPU, in evaluation mode.

        Raises:
            SettingError: If there is no checkpoint, it is damaged, it is of another module, or it does not fit.
        """
        path, name = self.checkpoint, module_class.__name__
        if self.module_name != name:
            raise SettingError(f"{path} is a checkpoint of {self.module_name}, not of {name}")
        settings = {
            key: value for key, value in self.state.get("hyper_parameters", {}).items() if not key.startswith("_")
        }
        try:
            module = module_class(**settings)
            module.on_load_checkpoint(dict(self.state))
            module.load_state_dict(self.state["state_dict"])
        except (RuntimeError, TypeError, ValueError) as error:
            reason = textwrap.shorten(str(error), 200, placeholder=" ...")
            raise SettingError(f"{path} does not fit {name} as it is now: {reason}") from error
        return module.eval()
