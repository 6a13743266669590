"""Trainings that several processes are started for from outside: what they have to be told, and what they follow."""

import os
from collections.abc import Mapping
from typing import Any

from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning import Trainer

from norms.errors import SettingError

NEEDED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""Variables of the environment without which the processes of several hosts do not find each other."""

_SHARED = "TORCHELASTIC_USE_AGENT_STORE"
"""Whether torchrun keeps the addresses of processes over a restart, https://github.com/pytorch/pytorch/issues/135712."""

_ADVICE = {
    "torchrun": {
        "num_nodes": "hosts together: leave the option out, or start as many by --nnodes",
        "devices": "processes on this host: set --nproc-per-node to as many",
    },
    "SLURM": {
        "num_nodes": "hosts together: leave the option out, or ask for as many by --nodes",
        "devices": "processes on this host: set --ntasks-per-node to as many, and start the command by srun",
    },
}


def as_started(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trainer's options with the numbers of hosts and processes that ``torchrun`` or SLURM has started.

    Raises:
        SettingError: If they are set to others, a restart by ``torchrun`` would fail, or variables of the environment
            say where other processes are and cannot mean anything.
    """
    options = dict(trainer)
    starter, numbers = _started()
    if starter == "torchrun" and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        _check_store()
    if not starter and (options["num_nodes"] > 1 or options["devices"] not in ("auto", 1, "1")):
        _check_variables(options["num_nodes"])
    for name, unset in (("num_nodes", (1,)), ("devices", ("auto", -1, "-1"))) if starter else ():
        value = options[name]
        count = len(value) if isinstance(value, list) else value
        if count not in unset and str(count) != str(numbers[name]):
            raise SettingError(
                f"trainer.{name} is {value}, but {starter} has brought {numbers[name]} {_ADVICE[starter][name]}"
            )
        if count in unset:
            options[name] = numbers[name]
    return options


def _check_store() -> None:
    if os.environ.get(_SHARED) == "True":
        raise SettingError(
            "torchrun --max-restarts would let the processes that it restarts find the addresses of those that are "
            "gone: set the environment variable TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, on all hosts"
        )


def _check_variables(num_nodes: int) -> None:
    """Refuse what torch and Lightning would fail at with an error that names no variable, or wait for in vain."""
    for name, most in (("NODE_RANK", num_nodes - 1), ("MASTER_PORT", 2**16 - 1)):
        value = os.environ.get(name)
        if value and not (value.isdecimal() and int(value) <= most):
            raise SettingError(f"the environment variable {name} must be a number from 0 to {most}, got {value!r}")
    for name in NEEDED:
        if os.environ.get(name) == "":
            raise SettingError(f"the environment variable {name} is empty: set it, or unset it")


def _started() -> tuple[str, dict[str, int]]:
    """Return who has started this process beside others, if anybody has, and how many there are."""
    if TorchElasticEnvironment.detect():  # also inside SLURM
        variables = {"num_nodes": "GROUP_WORLD_SIZE", "devices": "LOCAL_WORLD_SIZE"}
        return "torchrun", {name: int(os.environ[variable]) for name, variable in variables.items()}
    if SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return "SLURM", {"num_nodes": nodes, "devices": int(os.environ["SLURM_NTASKS"]) // nodes}
    return "", {}


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
    several = trainer.num_nodes > 1 or _started()[1].get("num_nodes", 1) > 1
    return "; each host needs it: set runs_dir to a folder that all share, or copy the run there" if several else ""
