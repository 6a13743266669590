"""WebDataset's tar shards: where each image begins, and which class it is of.

The package ``webdataset`` itself reads shards from front to back only, so that no training could go on where it was.
``wids``, which reads by index, is no part of its releases from 1.0 on. It keeps the index of ten shards at a time: of a
hundred in random order it reads 79 images per second, where 91,000 are read by this one (benchmarks/folder_index.md).
"""

import glob
import json
import os
import posixpath
import sys
import tarfile
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from rich.console import Console
from rich.progress import track

from data.archives import Member
from data.files import check_file, image_extensions, listed
from data.kept import Arrays, kept
from data.stored import Stored, find_stored, rank
from norms.errors import SettingError

_LONGEST_LABEL = 20
"""Bytes of a class's number."""

_LARGEST_CLASS = 2**20
"""A number above is no class but a mistake."""

_UNKNOWN = -1

_WORTH_KEEPING = 10_000
"""Images whose index takes a second."""

_READER = 1
"""Which way of reading shards a kept index is of: to be raised whenever another one would find something else."""


@dataclass(frozen=True, slots=True)
class TarMember(Member):
    """Hold one image of a shard.

    Args:
        shard: The tar file.
        offset: Where the image begins in it.
        size: How many bytes it has.
    """

    shard: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}: image at byte {self.offset}"

    def content(self) -> bytes:
        """Return its bytes."""
        with open(self.shard, "rb") as file:  # anew each time, so that processes share no place in it
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise EOFError("the shard ends within the image")
        return content


class TarMembers:
    """Hold the images of many shards as numbers, 24 bytes each.

    Args:
        shards: The tar files.
        rows: For each image the shard that it is in, its offset and its size, (N, 3).
    """

    def __init__(self, shards: list[str], rows: NDArray[np.int64]) -> None:
        self.shards = shards
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TarMember:
        shard, offset, size = self.rows[index].tolist()
        return TarMember(self.shards[shard], offset, size)


@dataclass
class Sample:
    """Hold what belongs to one image of a shard."""

    key: str
    image: tarfile.TarInfo | None = None
    label: int | None = None


def find_images_in(path: str, labeled: bool) -> Stored:
    """List images as :func:`find_shards` does if a path ends in .tar or .json and is no folder, or as `find_stored`."""
    is_folder = os.path.isdir(os.path.expanduser(path))
    return (find_shards if path.endswith((".tar", ".json")) and not is_folder else find_stored)(path, labeled)


def find_shards(path: str, labeled: bool) -> Stored:
    """Find out where the images of tar shards begin.

    Args:
        path: A tar file, a folder of such, a pattern with ``*``, or an index of ``wids``.
        labeled: Whether to read the number of each sample's class.

    Returns:
        The images, in the order of the shards' names and as they lie in them; classes have numbers and no names.

    Raises:
        SettingError: If a shard is missing or is no tar file, there are no images, or a label is missing or no number.
    """
    shards = _shards(path)
    extensions = image_extensions()
    question = _READER, labeled, sorted(extensions)
    found = kept(shards, question, _WORTH_KEEPING, lambda: _indexed(shards, labeled, extensions))
    for damage in found["damage"]:
        rank_zero_warn(str(damage))
    if not len(found["ranks"]):
        raise SettingError(f"{path}: no images in {len(shards)} shards")
    labels = found["labels"] if labeled else None
    return Stored(TarMembers(shards, found["rows"]), found["ranks"], labels, int(found["labels"].max()) + 1)


def _indexed(shards: list[str], labeled: bool, extensions: Collection[str]) -> Arrays:
    """Go through shards, which takes about two minutes for a million samples."""
    ranks, rows, labels = array("Q"), array("q"), array("q")
    damage: list[str] = []
    shown = sys.stderr.isatty() and getattr(rank_zero_only, "rank", 0) == 0
    told = track(shards, "Indexing shards", console=Console(stderr=True), transient=True, disable=not shown)
    for number, shard in enumerate(told):
        for sample in _samples(shard, labeled, extensions, damage):
            if sample.image is None:
                continue
            if labeled and sample.label is None:
                raise SettingError(
                    f"{shard}: sample {sample.key.lstrip('/')} has no .cls file: add it or set data.labels: false"
                )
            ranks.append(rank(f"{os.path.basename(shard)}/{sample.key}"))
            rows.extend((number, sample.image.offset_data, sample.image.size))
            labels.append(_UNKNOWN if sample.label is None else sample.label)
    arrays = {"ranks": np.array(ranks), "rows": np.array(rows).reshape(-1, 3), "labels": np.array(labels)}
    return {**arrays, "damage": np.array(damage, dtype=str)}


def _shards(path: str) -> list[str]:
    """Return the paths of the tar files that are meant, sorted unless an index lists them."""
    _check_local(path, [path])
    place = os.path.expanduser(path)
    if place.endswith(".json"):
        return _of_index(place)
    if os.path.isdir(place):
        place = os.path.join(glob.escape(place), "*.tar")
    shards = [place] if os.path.exists(place) else sorted(glob.glob(place))
    if not shards:
        braces = "; write * for what is in braces" if "{" in path else ""
        raise SettingError(f"{path}: no tar files there{braces}")
    return shards


def _of_index(path: str) -> list[str]:
    """Return the shards that an index of ``wids`` lists, relative to where it lies."""
    check_file(path)
    try:
        index = json.loads(Path(path).read_text(encoding="utf-8"))
        base, urls = str(index.get("base_path") or ""), [str(shard["url"]) for shard in index["shardlist"]]
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SettingError(
            f"{path}: not an index of wids, with shards in 'shardlist' that have a 'url' each"
        ) from error
    _check_local(path, [base, *urls])
    if not urls:
        raise SettingError(f"{path}: lists no shards")
    return [os.path.join(os.path.dirname(path), base, url) for url in urls]


def _check_local(path: str, urls: list[str]) -> None:
    remote = [url for url in urls if "://" in url or url.startswith("pipe:")]
    if remote:
        raise SettingError(f"{path}: only shards on disk can be read, not {listed(remote)}: download them")


def _samples(shard: str, labeled: bool, extensions: Collection[str], damage: list[str]) -> Iterator[Sample]:
    """Go through a shard; files that follow each other and have one name up to its first dot are one sample."""
    check_file(shard)
    sample = Sample("")
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in _members(archive):
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}"
                if key != sample.key:
                    yield sample
                    sample = Sample(key)
                if labeled and extension.lower() == "cls":
                    with suppress(tarfile.ReadError):  # cut off, which the members tell
                        sample.label = _label(archive.extractfile(member), f"{shard}: {member.name}")
                elif sample.image is None and f".{extension.lower().rpartition('.')[2]}" in extensions:
                    sample.image = member
            end = archive.offset
            whole = _ends(shard, end)
    except OSError as error:
        raise SettingError(f"{shard}: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise SettingError(f"{shard}: not a plain tar file (a compressed one has to be unpacked: {error})") from error
    if not whole:
        damage.append(f"{shard}: damaged or cut off, what is behind byte {end} is left out")
    if whole or not labeled or sample.label is not None:
        yield sample


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a shard that are not hidden, as far as it is whole."""
    with suppress(tarfile.ReadError):
        for member in archive:
            if member.isreg() and not member.issparse() and not posixpath.basename(member.name).startswith("."):
                yield member


def _ends(shard: str, offset: int) -> bool:
    """Return whether the zeros with which any tar file ends begin at a byte."""
    with open(shard, "rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _label(file: IO[bytes] | None, name: str) -> int:
    """Read the number of a class."""
    text = b"" if file is None else file.read(_LONGEST_LABEL + 1).strip()
    if not text.isdigit() or int(text) > _LARGEST_CLASS:
        raise SettingError(f"{name}: must be the number of a class, got {text[:_LONGEST_LABEL].decode('latin-1')!r}")
    return int(text)
