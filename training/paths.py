"""What the path of a run may be: one rule, for those who read it in different ways."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit


def from_home(path: str) -> Path:
    """Return a path with the home folder for a ``~`` at its beginning, as a shell reads it.

    Raises:
        RuntimeError: If there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RuntimeError(f"there is no home folder {path.partition('/')[0]}") from error


def local_path(option: str, path: str) -> str:
    """Return a path as all of Python, Lightning and W&B read it.

    ``~`` at its beginning is the home folder, as in a shell, which leaves it alone in ``--runs_dir=~/runs`` and YAML;
    ``file://`` addresses are the paths that they name.

    Args:
        option: The option that gives it, for messages.
        path: What the user gave.

    Raises:
        SettingError: If the path is an address elsewhere, there is no such home, or it has ``::`` in it, by which
            Lightning's file system would split it.
    """
    # Not above, since it brings torch along, which a command needs seconds to import.
    from norms.errors import SettingError

    if re.match("file:", path):
        parts = urlsplit(path)
        if parts.netloc not in ("", "localhost"):
            raise SettingError(f"{option}: {path} is on another machine; give a local path, such as file:///runs")
        path = unquote(parts.path)
    elif scheme := re.match(r"([A-Za-z][\w+.-]*)://", path):
        raise SettingError(f"{option}: {path} is an address by {scheme[1]}; give the path of a local folder")
    if "::" in path:
        raise SettingError(f"{option}: {path!r} has '::' in it, which separates addresses; use another name")
    try:
        return str(from_home(path)) if path.startswith("~") else path
    except RuntimeError as error:
        raise SettingError(f"{option}: {error}") from error
