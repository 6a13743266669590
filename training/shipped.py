"""The configurations, sweeps and the style network that come with normlab, called by their bare names."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from norms.errors import SettingError, unknown

HERE = Path(__file__).resolve().parent

FOLDERS = (HERE / "configs", HERE.parent / "configs")
"""Where they are when normlab is installed, and in a clone."""

SWEEP = "sweep_"
"""What the names of the files of sweeps begin with."""

NETWORKS = {"bundled": HERE.parent / "lightning_modules" / "weights" / "styles.safetensors"}
"""The trained networks."""


def with_shipped_networks(run: Path) -> Path:
    """Put the file of a network in the place of its bare name; a run of the user's with that name comes first."""
    return run if run.exists() else NETWORKS.get(str(run), run)


def shipped_configs() -> dict[str, Path]:
    """Find the configurations that come with normlab, by name."""
    return {name: path for name, path in _files().items() if not name.startswith(SWEEP)}


def shipped_sweeps() -> dict[str, Path]:
    """Find the sweeps that come with normlab, by name."""
    return {name: path for name, path in _files().items() if name.startswith(SWEEP)}


def _files() -> dict[str, Path]:
    return {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))}


def sweep_of(name: Path) -> Path:
    """Return the file of a sweep that comes with normlab for its bare name; a file of the user's comes first.

    Raises:
        SettingError: If there is neither.
    """
    if name.exists():
        return name
    known = shipped_sweeps()
    if str(name) not in known:
        raise SettingError(f"there is no file {name}") if name.suffix else unknown("sweep", name, known)
    return known[str(name)]


def with_shipped_configs(arguments: Sequence[str]) -> list[str]:
    """Put the file of a configuration in the place of its bare name, as in ``--config gan``.

    A file of the user's with that name comes first.

    Args:
        arguments: A command line.

    Raises:
        SettingError: If there is no such file, and no such name.
    """
    return list(_replaced(arguments))


def _replaced(arguments: Sequence[str]) -> Iterator[str]:
    is_config = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if is_config:
            yield _file(argument)
        elif option in ("--config", "-c") and equals:
            yield f"{option}={_file(value)}"
        else:
            yield argument
        is_config = not is_config and argument in ("--config", "-c")


def _file(name: str) -> str:
    # A pipe would be waited for for ever, and is empty when it is read again.
    if os.path.exists(name) and not os.path.isfile(name):
        raise SettingError(f"--config {name}: not a regular file")
    if not name.replace("_", "").isalnum() or Path(name).exists():
        return name
    known = shipped_configs()
    if name not in known:
        raise unknown("configuration", name, known)
    return str(known[name])
