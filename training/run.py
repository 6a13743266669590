"""A run on disk: how it is found, begun and read."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import yaml
from torch import Tensor

from data.files import check_file
from lightning_modules.base import TrainingModule, plain_settings
from norms.errors import SettingError
from training.checkpoint_files import (
    NoWeightsError,
    check_size,
    checksum,
    missing_parts,
    read_checkpoint,
    weights_of,
    whole_neighbors,
)
from training.finite import may_be_infinite, not_finite
from training.lock import LOCK, locked
from training.run_paths import VERSION, RunPaths
from training.yaml_text import check_yaml

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

Module = TypeVar("Module", bound=TrainingModule)

NEIGHBORS = 3
"""How many whole checkpoints are named beside a damaged one."""


class Run(RunPaths):
    """Describe a run's folder, or a checkpoint that somebody has taken out of one.

    Nothing is read or made before it is asked for. Whatever cannot be found or read is a
    :class:`~norms.errors.SettingError` that names the file.

    Args:
        folder: The run's folder, such as ``runs/gan/version_0``.
        checkpoint: The checkpoint that is meant, if it is not the newest of the folder.
    """

    @classmethod
    def new(cls, parent: str | Path) -> Run:
        """Make the folder of a new run, ``version_N`` in ``parent``, with a number above those that are there.

        Folders that hold nothing but the lock of a process that was killed during its start are removed before.

        Raises:
            SettingError: If the folder cannot be made.
        """
        parent = Path(parent)
        for old in cls.versions(parent):
            with suppress(SettingError, OSError):  # of one that runs
                if [path.name for path in old.folder.iterdir()] == [LOCK]:
                    with locked(old.folder):
                        pass
                    old.folder.rmdir()
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
    def newest(cls, parent: str | Path) -> Run | None:
        """Return the newest run in a folder such as ``runs/gan`` that has a checkpoint; None if there is none."""
        return next((run for run in cls.versions(parent) if run.newest_checkpoint()), None)

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
        if run := cls._first(path, with_checkpoint):
            return run
        folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not cls.versions(path))
        if runs := [str(folder) for folder in folders if cls._first(folder, with_checkpoint)]:
            raise SettingError(f"{path} is a folder of runs: name one of them, {', '.join(runs)}")
        if with_checkpoint:
            raise SettingError(f"{path} holds no checkpoint: expected {cls(path).last}")
        raise SettingError(f"{path} holds no run: expected {cls(path).mixing} or {cls(path).checkpoints}")

    @classmethod
    def _first(cls, path: Path, with_checkpoint: bool) -> Run | None:
        for run in (cls(path), *cls.versions(path)):
            if run.newest_checkpoint() or (not with_checkpoint and run.mixing.is_dir()):
                return run
        return None

    @classmethod
    def of(cls, trainer: Trainer) -> Run:
        """Return the run that ``trainer`` writes; with several processes, each of them has to ask."""
        return cls(trainer.log_dir or "")

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
            check_file(self.config)
            text = self.config.read_text()
            check_yaml(text)
            config = yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError):
            return None
        return config if isinstance(config, dict) else None

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """The content of the checkpoint, read once, after all of the file has been checked.

        Its tensors are on the CPU and mapped from the file.

        Raises:
            SettingError: If there is no checkpoint, or it cannot be read without running code that it holds. It names
                the checkpoints beside it that are whole.
        """
        check_file(self.checkpoint)
        try:
            return read_checkpoint(self.checkpoint)
        except SettingError as error:
            raise self.damaged(error) from error

    def damaged(self, error: SettingError) -> SettingError:
        """Add to an error that tells of a damaged checkpoint the whole ones beside it."""
        whole = whole_neighbors(self.checkpoint)[:NEIGHBORS]
        return SettingError(f"{error}; whole checkpoints beside it: {', '.join(map(str, whole))}") if whole else error

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

    @property
    def told(self) -> str:
        """What tells the checkpoint apart from others, wherever it lies."""
        return f"step {self.state['global_step']} (checksum {checksum(self.checkpoint)})"

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The weights that the checkpoint holds.

        Raises:
            SettingError: If there is no checkpoint, or it holds none.
        """
        try:
            return weights_of(self.state)
        except NoWeightsError as error:
            raise self.damaged(SettingError(f"{self.checkpoint} {error}")) from error

    def check_parts(self, resuming: bool) -> None:
        """Refuse a checkpoint that lacks what Lightning reads of it, or what it reads of one that a training resumes.

        Raises:
            SettingError: If something is missing or of another type.
        """
        wrong = missing_parts(self.state, resuming)
        if wrong:
            use = "a training cannot go on from it" if resuming else "Lightning cannot use it"
            raise self.damaged(SettingError(f"{self.checkpoint} is not complete, {use}: it lacks {', '.join(wrong)}"))

    def check_finite(self, module: torch.nn.Module) -> None:
        """Refuse a checkpoint with weights that are not finite.

        Args:
            module: An untrained module, which knows what may be infinite.

        Raises:
            SettingError: If there are such weights.
        """
        broken = not_finite(self.weights.items(), may_be_infinite(module))
        if broken:
            error = f"{self.checkpoint} holds weights that are not finite: {broken[0]}"
            others = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
            raise self.damaged(SettingError(error + others))

    def load(self, module_class: type[Module]) -> Module:
        """Load the trained module.

        Args:
            module_class: What the checkpoint must be of; of an abstract class, any of those that are derived from it.

        Returns:
            The module on the CPU, in evaluation mode.

        Raises:
            SettingError: If there is no checkpoint, it is damaged, it is of another module, it does not fit, or its
                weights are not finite.
        """
        path, name = self.checkpoint, self.module_name
        known = {each.__name__: each for each in reversed(_concrete(module_class))}
        if name not in known:
            raise SettingError(f"{path} is a checkpoint of {name}, not of {' or '.join(reversed(known))}")
        module_class, weights = known[name], self.weights
        try:
            settings = plain_settings(self.state)
            check_size(module_class, settings, weights)
            module = module_class(**settings)
        # What is written in the file may be anything, and so may be what a constructor makes of it.
        except Exception as error:
            raise self._unfit(name, error) from error
        self.check_finite(module)
        try:
            module.on_load_checkpoint(dict(self.state))
            module.load_state_dict(weights)
        except SettingError as error:
            cause = error.__cause__  # what torch says of weights that do not fit
            raise self._unfit(name, cause if isinstance(cause, RuntimeError) else error) from error
        return module.eval()

    def _unfit(self, name: str, error: Exception) -> SettingError:
        reason = str(error) if isinstance(error, (ValueError, RuntimeError, TypeError)) else repr(error)
        reason = textwrap.shorten(reason, 200, placeholder=" ...")
        return SettingError(f"{self.checkpoint} does not fit {name} as it is now: {reason}")

    def resume_command(self, *options: str) -> str:
        """Return the command that goes on with the run, or begins it anew if it has no checkpoint yet.

        Args:
            options: Further words of the command line.
        """
        return self.fit_command(self.last if self.last.is_file() else None, *options)

    def fit_command(self, checkpoint: Path | None, *options: str) -> str:
        """Return the command that trains as this run does, from one of its checkpoints on or anew.

        Args:
            checkpoint: Where to go on from; None to begin anew.
            options: Further words of the command line.
        """
        words = ["python", "train.py", "fit", "--config", str(self.newest_config)]
        # The configuration of a resumed run names a checkpoint itself.
        is_named = checkpoint is not None or self.last.is_file()
        where = ["--ckpt_path", "null" if checkpoint is None else str(checkpoint)] if is_named else []
        return shlex.join([*words, *where, *options])


def _concrete(module_class: type[Module]) -> list[type[Module]]:
    """Return a class, or those derived from an abstract one that are imported."""
    if not isabstract(module_class):
        return [module_class]
    return [each for child in module_class.__subclasses__() for each in _concrete(child)]
