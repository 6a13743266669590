"""All processes of a training have the same versions, settings and images, or it does not begin."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import version
from pathlib import PurePath
from socket import gethostname
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

import normlab
from data.files import listed
from data.module import ImageDataModule
from norms.errors import SettingError
from norms.pooling import is_distributed
from training.repetitions import flat

OF_A_HOST = re.compile(r"runs_dir|ckpt_path|data\..*(folder|path|root|styles|num_workers|download)")
"""Settings that may differ between hosts: where files are, and how many processes load them."""


class Agreement(Callback):
    """Refuse to begin a training whose processes differ in versions, settings, checkpoint or images.

    Such a training would go wrong in silence, or its processes would wait for each other for ever. Each process tells
    the others once what it has. Places of files may differ between hosts, their names may not.

    Args:
        config: The resolved configuration, as YAML.
        checkpoint: Which checkpoint the training goes on from; None if it begins.
    """

    def __init__(self, config: str, checkpoint: str | None = None) -> None:
        self.config = config
        self.checkpoint = checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare, when the processes have found each other and their data, and nothing else has begun.

        Raises:
            SettingError: If something differs, in one process of each host.
            SystemExit: In the others, which have nothing to add.
        """
        if not is_distributed():
            return
        processes: list[Any] = [None] * trainer.world_size
        own = gethostname(), self._facts(trainer.datamodule)  # type: ignore[attr-defined]
        torch.distributed.all_gather_object(processes, own)
        told = difference(processes)
        if told and trainer.local_rank == 0:
            raise SettingError(told)
        if told:
            raise SystemExit(2)

    def _facts(self, data: Any) -> dict[str, object]:
        settings = flat(yaml.safe_load(self.config)).items()
        return {
            "normlab": f"{normlab.__version__} (source {_source()})",
            "torch": str(torch.__version__),
            "Lightning": version("pytorch-lightning"),
            **{name: without_folders(value) for name, value in settings if not OF_A_HOST.fullmatch(name)},
            "the checkpoint to go on from": self.checkpoint,
            **(data.fingerprint() if isinstance(data, ImageDataModule) else {}),
        }


def without_folders(value: Any) -> Any:
    """Return a setting that names a file, or several, by their names alone; any other one as it is."""
    if isinstance(value, Mapping):
        return {key: without_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_folders(part) for part in value]
    return PurePath(value).name if isinstance(value, str) and "/" in value else value


def difference(processes: list[tuple[str, Mapping[str, object]]]) -> str:
    """Tell in one line how the first process that differs from process 0 does so; empty if none does.

    Args:
        processes: Of each process its host, and what it has by name.
    """
    first_host, first = processes[0]
    for rank, (host, facts) in enumerate(processes):
        names = [name for name in {**first, **facts} if first.get(name) != facts.get(name)]
        if names:
            here, there = f"in process {rank} on {host}", f"in process 0 on {first_host}"
            told = [f"{name}: {facts.get(name)} {here}, {first.get(name)} {there}" for name in names]
            return f"{listed(told)}; start the same command with the same versions and the same files on every host"
    return ""


def _source() -> str:
    """Hash normlab's own code, of which two clones of one version may have different commits."""
    code = blake2b(digest_size=4)
    for package in normlab.PACKAGES:
        for path in sorted((normlab.ROOT / package).rglob("*.py")):
            code.update(path.read_bytes())
    return code.hexdigest()
