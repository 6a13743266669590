"""Environment variables that stand for options of a model or data module, which jsonargparse does not look for."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from norms.errors import SettingError, did_you_mean

NESTED = ("model", "data")
"""Sections whose options depend on a class."""


def from_environment(subcommand: str, given: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    """Return the environment's options of model and data, as a command line.

    ``PL_FIT__MODEL__INIT_ARGS__LR=0.1``, or ``PL_FIT__MODEL__LR=0.1``, stands for ``--model.init_args.lr`` where that
    is not given.

    Args:
        subcommand: Such as ``fit``.
        given: The options that the command line and its files give, by dotted name.
        known: All options but those that depend on a class.

    Raises:
        SettingError: If a variable of this subcommand stands for no option.
    """
    prefix, known = f"PL_{subcommand.upper()}__", set(known)
    options = []
    for variable, value in sorted(os.environ.items()):
        name = variable.removeprefix(prefix).lower().replace("__", ".")
        if not variable.startswith(prefix) or name in known:
            continue
        section, _, option = name.partition(".")
        option = option.removeprefix("init_args.")
        if section not in NESTED or not option:
            raise SettingError(f"environment variable {variable}: unknown option {name!r}{did_you_mean(name, known)}")
        if f"{section}.init_args.{option}" not in given:
            options.append(f"--{section}.{option}={value}")
    return options
