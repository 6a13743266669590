"""Files that a user hands in: what may be opened, and which of those in a folder are images."""

import os
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
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


class Paths:
    """Hold the paths of many files as one text, which takes a fifth of the memory of as many ``Path`` objects.

    Args:
        folder: Where the files lie.
        names: Their paths below it.
    """

    def __init__(self, folder: str | os.PathLike[str], names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.folder = folder
        self.text = b"".join(encoded)
        self.ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Path:
        begin = self.ends[index - 1] if index else 0
        return Path(self.folder, os.fsdecode(self.text[begin : self.ends[index]]))


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
    return [Path(folder, name) for name in image_names(folder, further)]


def image_names(folder: str | os.PathLike[str], further: Collection[str] = ()) -> list[str]:
    """List the same files as :func:`find_images` by their paths below the folder, with slashes."""
    if not os.path.isdir(folder):
        raise SettingError(
            f"{os.fspath(folder) or repr('')}: {'not a folder' if os.path.exists(folder) else 'no such folder'}"
        )
    extensions = image_extensions() | RAW_EXTENSIONS | set(further)
    found: list[str] = []
    visited: set[str] = set()

    def below(path: str) -> str:
        return Path(path).relative_to(folder).as_posix()

    tree = os.walk(folder, onerror=lambda error: found.append(below(os.fsdecode(error.filename))), followlinks=True)
    for parent, folders, files in tree:
        real = os.path.realpath(parent)
        # Emptied, the list ends the walk here: without this a link to a parent folder would be followed for ever.
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        if real not in visited:
            place = "" if (inner := below(parent)) == "." else f"{inner}/"
            found += [f"{place}{name}" for name in files if _is_image(parent, name, extensions)]
        visited.add(real)
    return sorted(found, key=lambda name: name.replace("/", "\0"))  # folder by folder, as paths are sorted


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


def _is_image(parent: str, name: str, extensions: Collection[str]) -> bool:
    if name.startswith("."):
        return False
    extension = os.path.splitext(name)[1].lower()
    return extension in extensions or (
        not extension and _BEGINNING.match(_head(os.path.join(parent, name))) is not None
    )


def _head(path: str | os.PathLike[str]) -> bytes:
    """Read the beginning of a file, nothing of what is none or cannot be read."""
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(16)
    except OSError:
        return b""
