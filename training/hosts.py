"""Trainings that several processes are started for from outside: what they have to be told, and what they follow."""

import os
from collections.abc import Mapping
from typing import Any

from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning import Trainer

from norms.errors import SettingError

NEEDED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""Variables of the environment without which the processes of several hosts do not find each other."""

_SHARED = "TORCHELASTIC_USE_AGENT_STORE"
"""Whether torchrun keeps the addresses of processes over a restart, https://github.com/pytorch/pytorch/issues/135712."""

_BY_TORCHRUN = (
    ("num_nodes", (1,), "GROUP_WORLD_SIZE", "number of hosts is {}", "--nnodes"),
    ("devices", ("auto", -1, "-1"), "LOCAL_WORLD_SIZE", "number of processes on this host is {}", "--nproc-per-node"),
)
"""Options of the trainer, with the values that leave them open, and what torchrun calls the same."""


def as_torchrun_says(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trainer's options with the numbers of hosts and processes that ``torchrun`` has started, if it has.

    Raises:
        SettingError: If they are set to others.
    """
    options = dict(trainer)
    if TorchElasticEnvironment.detect():
        if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and os.environ.get(_SHARED) == "True":
            raise SettingError(
                "torchrun --max-restarts would let the processes that it restarts find the addresses of those that are "
                "gone: set the environment variable TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, on all hosts"
            )
        for name, unset, variable, told, option in _BY_TORCHRUN:
            started, value = int(os.environ[variable]), options[name]
            count = len(value) if isinstance(value, list) else value
            if count not in unset and str(count) != str(started):
                raise SettingError(
                    f"trainer.{name} is {value}, but torchrun's {told.format(started)}: leave it out, then it is "
                    f"torchrun's, or set {option} to the same"
                )
            if count in unset:
                options[name] = started
    return options


def check_hosts(trainer: Trainer) -> None:
    """Refuse several hosts of which this one is told nothing, and which it would wait for in vain.

    Raises:
        SettingError: If nothing says where the first host is, and which one this is.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    missing = [name for name in NEEDED if name not in os.environ]
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and missing:
        raise SettingError(
            f"trainer.num_nodes is {trainer.num_nodes}, but nothing says where the others are: start the command on "
            f"each host by torchrun --nnodes {trainer.num_nodes} --rdzv-backend c10d --rdzv-endpoint FIRST_HOST:29400, "
            f"or set {', '.join(missing)}"
        )


def for_all_hosts(trainer: Any) -> str:
    """Return what to add to an error that tells of a checkpoint which is not on this host."""
    several = trainer.num_nodes > 1 or os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    return "; each host needs it: set runs_dir to a folder that all share, or copy the run there" if several else ""
