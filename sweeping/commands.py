"""The command line of a run, as Weights & Biases' agent makes it of a sweep's file."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import normlab
from norms.errors import SettingError, unknown
from sweeping.sweep_file import Sweep

PLACES = ("runs_dir", "name", "ckpt_path")
"""Options that say where a run is, which it gets from its sweep."""


def command_of(sweep: Sweep, settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> list[str]:
    """Return the words of the command that trains with these settings.

    They are those of W&B's agent, but for ``${env}``, which is left out, since it changes nothing.

    Args:
        sweep: The sweep.
        settings: The value of each parameter, a mapping where parameters are nested.
        overrides: Further words.

    Raises:
        SettingError: If the command has an unknown macro, or none that stands for the settings, or if overrides
            replace what is swept, or if settings or overrides say where a run is.
    """
    given = [word[2:].partition("=")[0] for word in overrides if word.startswith("--")]
    for name in PLACES:
        if name in given or name in settings:
            told = "give --runs_dir before -- instead" if name == "runs_dir" else "remove it"
            raise SettingError(f"--{name} is what sweep.py gives to each run: {told}")
    flags = [f"{name}={value}" for name, value in settings.items()]
    arguments = {
        "args": [f"--{flag}" for flag in flags],
        "args_no_equals": [word for name, value in settings.items() for word in (f"--{name}", str(value))],
        "args_no_hyphens": flags,
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in settings.items()
            if value is not False
        ],
        "args_json": [json.dumps(settings)],
    }
    macros = {**arguments, "env": [], "interpreter": ["python"], "program": [sweep.program]}
    if not {f"${{{name}}}" for name in arguments} & set(sweep.command):
        raise SettingError("command has no ${args}, so its runs would all be the same")
    words = []
    for word in sweep.command:
        word = re.sub(r"\$\{envvar:(\w+)\}", _variable, word)
        macro = re.fullmatch(r"\$\{(.*)\}", word)
        if macro and macro[1] not in macros:
            raise unknown("macro in command", macro[1], macros)
        words += macros[macro[1]] if macro else [word]
    for name in given:
        if name in settings:
            raise SettingError(f"--{name} is what the sweep varies: change its file instead")
    return [*words, *overrides]


def _variable(match: re.Match[str]) -> str:
    if match[1] not in os.environ:
        raise SettingError(f"command: there is no environment variable {match[1]}")
    return os.environ[match[1]]


def shown(words: Sequence[str]) -> str:
    """Return a command as a user would type it."""
    return normlab.as_installed(shlex.join(words))


def started(words: Sequence[str]) -> list[str]:
    """Return the words by which a process is started: this Python, and the ``train.py`` of a clone from any folder.

    Raises:
        SettingError: If there is no such program.
    """
    program, *rest = shlex.split(shown(words))
    if program == "python":
        program = sys.executable
        if rest and not rest[0].startswith("-"):
            places = [Path(rest[0]), normlab.ROOT / rest[0]]
            script = next((place for place in places if place.is_file()), None)
            if script is None:
                raise SettingError(f"program: there is no {rest[0]} here; change into the folder that has it")
            rest = [str(script), *rest[1:]]
    elif found := shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"):
        program = found
    else:
        raise SettingError(f"command: there is no program {program}")
    return [program, *rest]
