"""Files that a user hands in: what may be opened, and which of those in a folder are images."""

import os
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from PIL import Image

from norms.errors import SettingError

_SPECIAL = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

# Pillow recognizes these without decoding them itself: stubs for other software, and formats that it hands over to
# Ghostscript or Windows.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

_DECODED_AS_JPEG = {"MPO"}

RAW_EXTENSIONS = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"}
)
"""Photographs as a camera's sensor saw them. Pillow takes some of them for TIFF files, and finds a thumbnail."""

HEIF_EXTENSIONS = frozenset({".heic", ".heif", ".hif"})
"""Photographs of telephones, which Pillow decodes where ``pillow-heif`` is installed."""

_OTHER_EXTENSIONS = frozenset({".avif", ".jxl"})

_BEGINNING = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II\*\0|MM\0\*|BM.{4}\0{4}|.{4}ftyp(?:he|mif1|msf1|avi)",
    re.DOTALL,
)
"""How JPEG, PNG, GIF, WebP, TIFF, BMP, HEIF and AVIF files begin."""

_NAMED = 3


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is neither a file nor a folder: to open a named pipe may wait for ever, and a device may never end.

    A pipe that is open already, which the shell's ``<(command)`` hands over, is taken. What is not there at all, or
    cannot be looked at, is left to those who open it.

    Args:
        path: What is to be opened.

    Raises:
        SettingError: If it is a named pipe, a socket or a device.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):  # ValueError for a NUL in the name
        return
    if kind in _SPECIAL and os.path.dirname(path) != "/dev/fd":
        raise SettingError(f"{os.fspath(path)}: {_SPECIAL[kind]}, not a file")


def find_images(folder: str | os.PathLike[str], further: Collection[str] = ()) -> list[Path]:
    """List the image files below a folder, by their extensions, and those without extension by how they begin.

    Hidden files and folders are left out; links to folders are followed. Photographs in formats that cannot be decoded
    here, such as HEIC and those of cameras' sensors, are in the list, so that whoever reads it can say so; and so are
    folders that cannot be looked into.

    Args:
        folder: Where to search, at any depth.
        further: Extensions of other files to find, in small letters.

    Returns:
        Paths in sorted order, which depends on the names alone.

    Raises:
        SettingError: If there is no such folder.
    """
    if not os.path.isdir(folder):
        raise SettingError(
            f"{os.fspath(folder) or repr('')}: {'not a folder' if os.path.exists(folder) else 'no such folder'}"
        )
    extensions = image_extensions() | RAW_EXTENSIONS | set(further)
    found: list[Path] = []
    visited: set[str] = set()
    tree = os.walk(folder, onerror=lambda error: found.append(_place(error)), followlinks=True)
    for parent, folders, files in tree:
        real = os.path.realpath(parent)
        # Emptied, the list ends the walk here: without this a link to a parent folder would be followed for ever.
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        if real not in visited:
            shown = (Path(parent, name) for name in files if not name.startswith("."))
            found += [path for path in shown if path.suffix.lower() in extensions or _begins_like_an_image(path)]
        visited.add(real)
    return sorted(found)


def image_extensions() -> set[str]:
    """Return the extensions of image files that are or could be decoded, in small letters."""
    decoded = Image.registered_extensions().items()  # which makes Pillow load its plugins, before OPEN is asked
    known = (Image.OPEN.keys() | _DECODED_AS_JPEG) - _NOT_DECODED
    return {extension for extension, name in decoded if name in known} | HEIF_EXTENSIONS | _OTHER_EXTENSIONS


def is_heif(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is HEIF, whatever its name: telephones and messengers often call it .jpg."""
    return re.match(rb".{4}ftyp(?:he|mif1|msf1)", _head(path), re.DOTALL) is not None


def listed(things: Sequence[object]) -> str:
    """Return the first three things, and how many more there are."""
    more = [f"and {len(things) - _NAMED} more"] if len(things) > _NAMED else []
    return "; ".join([*map(str, things[:_NAMED]), *more])


def _place(error: OSError) -> Path:
    return Path(os.fsdecode(error.filename))


def _begins_like_an_image(path: Path) -> bool:
    return not path.suffix and _BEGINNING.match(_head(path)) is not None


def _head(path: str | os.PathLike[str]) -> bytes:
    """Read the beginning of a file, nothing of what is none or cannot be read."""
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(16)
    except OSError:
        return b""
