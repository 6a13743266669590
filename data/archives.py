"""Image files within a zip file, read one by one and never unpacked to disk; and what any file within an archive is."""

import os
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import check_file
from norms.errors import SettingError

LARGEST_MEMBER = 2**28
"""Bytes, unpacked; far more than any image that is trained on has, and far less than one made to fill memory."""


class Member(ABC):
    """Hold one file of an archive; as a text, it is the archive's path and what tells the file in it."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Return how many bytes it has, unpacked."""

    @abstractmethod
    def content(self) -> bytes:
        """Return its bytes; what is wrong with the archive is raised as it comes."""

    def read(self) -> bytes:
        """Return its bytes, unless they are too many.

        Raises:
            ValueError: If it has more than ``LARGEST_MEMBER`` bytes.
            Exception: Whatever a damaged or missing archive makes of it; :func:`data.images.opened` says it in a line.
        """
        if self.size > LARGEST_MEMBER:
            raise ValueError(f"larger than {LARGEST_MEMBER >> 20} MiB")
        return self.content()


ImageFile = str | os.PathLike[str] | Member
"""A file on disk, or one within an archive."""


class Zip:
    """Open a zip file anew in each process: a forked one would share its place in the file with the others.

    Args:
        path: The zip file.

    Raises:
        SettingError: If it is missing or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_file(path)
        self.path = Path(path)
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        try:
            self.opened()
        except Exception as error:  # a damaged one makes zipfile raise almost anything
            cause = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise SettingError(f"{path}: cannot be read as a zip file: {' '.join(cause.split())}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def opened(self) -> zipfile.ZipFile:
        """Return the zip file as this process has opened it."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), zipfile.ZipFile(self.path)
        return self._opened[1]

    def names(self) -> list[str]:
        """Return the names of all members that are not hidden, sorted folder by folder; a folder's ends in a slash."""
        shown = {name for name in self.opened().namelist() if not _is_hidden(name)}
        return sorted(shown, key=lambda name: name.split("/"))


@dataclass(frozen=True, slots=True)
class ZipMember(Member):
    """Hold one file of a zip file.

    Args:
        archive: The zip file.
        name: The file's name in it, which is never used as a path.
    """

    archive: Zip
    name: str

    def __str__(self) -> str:
        return f"{self.archive.path}/{self.name}"

    @property
    def size(self) -> int:
        """Return how many bytes it has, as the zip file says."""
        return self.archive.opened().getinfo(self.name).file_size

    def content(self) -> bytes:
        """Return its bytes, held against their checksum."""
        return self.archive.opened().read(self.name)


def _is_hidden(name: str) -> bool:
    """Return whether it is what Unix hides, or what macOS adds to archives."""
    return any(part == "__MACOSX" or (part[:1] == "." and part.strip(".")) for part in name.split("/"))
