"""Labeled images that lie on disk, in class folders or in a zip file of such, listed and not yet decoded."""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.archives import Zip, ZipMember
from data.files import RAW_EXTENSIONS, Paths, image_extensions, image_names, listed
from data.stream import Chosen, Items
from norms.errors import SettingError


@dataclass(frozen=True)
class Stored:
    """Hold where N images are, and what is known of them before they are decoded."""

    files: Items
    """The images, each a ``Path`` or a ``Member``."""
    ranks: NDArray[np.uint64]
    """A hash of each image's name, see :func:`rank`; (N,)."""
    labels: NDArray[np.int64] | None = None
    """The class of each image, (N,), or None if they were not asked for."""
    num_classes: int = 0
    """How many classes there are, 0 without labels."""
    class_names: tuple[str, ...] = ()
    """The names of the classes, where they have any."""

    def part(self, chosen: NDArray[np.bool_]) -> "Stored":
        """Return those of the images that are chosen; the classes stay the same."""
        labels = None if self.labels is None else self.labels[chosen]
        files = Chosen(self.files, chosen.nonzero()[0])
        return replace(self, files=files, ranks=self.ranks[chosen], labels=labels)


def rank(name: str) -> int:
    """Hash a file's name to a place in an order that looks random, and that adding files does not change."""
    return int.from_bytes(blake2b(os.fsencode(name)).digest()[:8], "big")


def held_out(ranks: Sequence[int] | NDArray[np.uint64], count: int) -> NDArray[np.bool_]:
    """Choose images to hold out for validation.

    Chosen by name: a seed has no say in it, and adding images moves hardly any from one side to the other.

    Args:
        ranks: The hash of each image's name.
        count: How many to hold out, but never more than a tenth (and at least one).

    Returns:
        Which are held out.
    """
    chosen = np.zeros(len(ranks), dtype=bool)
    count = min(count, max(1, len(ranks) // 10))
    chosen[np.argsort(np.asarray(ranks, dtype=np.uint64), kind="stable")[:count]] = True
    return chosen


def find_stored(path: str, labeled: bool) -> Stored:
    """List the images of a folder or a zip file, at any depth, by their names.

    Args:
        path: The folder or zip file. A single folder that holds everything in a zip file is looked through.
        labeled: Whether each image is of the class that the topmost folder around it names.

    Returns:
        The images, folder by folder; the classes are sorted by name.

    Raises:
        SettingError: If there are no images, or if labels are asked for and images lie in no folder or folders are
            empty.
    """
    place = Path(os.path.expanduser(path))
    if not place.exists():
        raise SettingError(f"{path}: no such folder or zip file")
    names, files, folders = _in_folder(place) if place.is_dir() else _in_zip(place)
    if not names:
        shards = "; give tar shards as a pattern that ends in .tar" if any(place.glob("*.tar")) else ""
        raise SettingError(f"{path}: no image files in it{shards}")
    ranks = np.fromiter(map(rank, names), np.uint64, len(names))
    if not labeled:
        return Stored(files, ranks)
    return Stored(files, ranks, _labels(path, names, folders), len(folders), tuple(folders))


def _in_folder(place: Path) -> tuple[list[str], Items, list[str]]:
    """List the images of a folder: their names, the images, and the names of the topmost folders, sorted."""
    names = image_names(place)
    folders = sorted(name for _, inside, _ in islice(os.walk(place), 1) for name in inside if not name.startswith("."))
    return names, Paths(place, names), folders


def _in_zip(place: Path) -> tuple[list[str], Items, list[str]]:
    archive, extensions = Zip(place), image_extensions() | RAW_EXTENSIONS
    known = [name for name in archive.names() if name[-1] == "/" or posixpath.splitext(name)[1].lower() in extensions]
    members = _without_top(known)
    names = [name for name in members if name[-1] != "/"]
    folders = sorted({name.partition("/")[0] for name in members if "/" in name})
    return names, [ZipMember(archive, members[name]) for name in names], folders


def _labels(path: str, names: list[str], folders: list[str]) -> NDArray[np.int64]:
    loose = [name for name in names if "/" not in name]
    if loose:
        raise SettingError(
            f"{path}: {len(loose)} of {len(names)} images lie in no class folder: {listed(loose)}; "
            "put each into a folder that names its class, or set data.labels: false"
        )
    classes = [name.partition("/")[0] for name in names]
    empty = sorted(set(folders) - set(classes))
    if empty:
        raise SettingError(
            f"{path}: {len(empty)} of {len(folders)} class folders hold no images: {listed(empty)}; fill or remove them"
        )
    number = {folder: number for number, folder in enumerate(folders)}
    return np.array([number[name] for name in classes], dtype=np.int64)


def _without_top(names: list[str]) -> dict[str, str]:
    """Return the members of a zip file by their names below the folder around everything, if there is one."""
    members = {name: name for name in names}
    while True:
        below = {name.partition("/")[::2] for name in members}
        # A folder with images directly in it is a class, even if it is the only one.
        if len({top for top, _ in below}) != 1 or any("/" not in rest for _, rest in below if rest):
            return members
        members = {name.partition("/")[2]: member for name, member in members.items() if name.partition("/")[2]}
