"""Files that many images are written to as they are drawn, so that no more than a batch of them is in memory."""

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from torch import Tensor

from norms.errors import SettingError
from sampling.plan import Plan
from training.files import replacing
from training.images import to_picture, write_image

Add = Callable[[Tensor], None]
"""Takes the next images, uint8 (N, C, H, W), on the CPU."""

ARCHIVE, ARRAYS, LATENTS = ".zip", ".npz", ".safetensors"

MOST_LATENT_VALUES = 40_000_000
"""In a file of latent vectors, which is in memory until it is written."""

_STEP = 1000
"""Latent vectors that are in memory at once."""

_TIME = (1980, 1, 1, 0, 0, 0)
"""The time of all members, so that equal images make equal files."""


def writer(path: Path, plan: Plan, shape: tuple[int, int, int], overwrite: bool) -> AbstractContextManager[Add]:
    """Open what images are written to: a zip or npz file by its ending, or else a folder of PNG files.

    A file is there as a whole or not at all. So is each file of a folder.

    Args:
        path: The file or folder.
        plan: What is drawn.
        shape: Channels, height and width of the images.
        overwrite: Whether existing files may be replaced.

    Raises:
        SettingError: If files exist, cannot be written, or the ending is of another kind; or if a folder holds further
            numbered images.
    """
    kind = "" if path.is_dir() else path.suffix.lower()
    if kind in (ARCHIVE, ARRAYS):
        check_new(path, overwrite)
        return _archive(path) if kind == ARCHIVE else _arrays(path, plan, shape)
    if kind:
        raise SettingError(f"--each {path}: name a folder, or a file that ends in {ARCHIVE} or {ARRAYS}")
    names = [name_of(number) for number in range(plan.count)]
    for name in names:
        check_new(path / name, overwrite)
    # Whoever reads the folder would take them for images of this generator.
    others = sorted({each.name for each in path.glob("*.png") if each.stem.isdecimal()}.difference(names))
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        raise SettingError(f"--each {path}: {others[0]}{more} would stay there beside the new images: empty the folder")
    return _folder(path)


def check_new(path: Path, overwrite: bool) -> None:
    """Refuse to write a file where there is something else.

    Raises:
        SettingError: If there is.
    """
    if path.parent.exists() and not path.parent.is_dir():
        raise SettingError(f"cannot write {path}: {path.parent} is not a folder")
    if path.is_dir():
        raise SettingError(f"{path} is a folder: name a file, or write single files with --each")
    if path.exists() and not overwrite:
        raise SettingError(f"{path} exists: choose another path or add --overwrite")


def check_latents(path: Path, plan: Plan, overwrite: bool) -> None:
    """Refuse a file that :func:`write_latents` could not write.

    Raises:
        SettingError: If it is such.
    """
    check_new(path, overwrite)
    if path.suffix.lower() != LATENTS:
        raise SettingError(f"--save-latents {path}: name a file that ends in {LATENTS}")
    if plan.count * plan.latent_dim > MOST_LATENT_VALUES:
        raise SettingError(
            f"--save-latents: {plan.count} vectors of {plan.latent_dim} numbers are too many for one file, "
            f"which holds {MOST_LATENT_VALUES // plan.latent_dim}"
        )


def write_latents(path: Path, plan: Plan) -> None:
    """Write what images are drawn from to a safetensors file, in their order.

    It has ``latents``, float32 (N, latent_dim); ``seeds``, uint64 (N,), see :meth:`Plan.seeds`; and ``labels``, int64
    (N,), where there are classes.

    Raises:
        SettingError: If it cannot be written.
    """
    numbers = range(plan.count)
    arrays = {"latents": plan.latents(numbers).numpy(), "seeds": plan.seeds(numbers)}
    if (labels := plan.classes(numbers)) is not None:
        arrays["labels"] = labels.numpy()
    with told(path), replacing(path) as partial:
        partial.write_bytes(save(arrays, {"seed": str(plan.seed), "truncation": str(plan.truncation or "none")}))


def name_of(number: int) -> str:
    """Return the name of an image's file."""
    return f"{number:05d}.png"


@contextmanager
def _folder(folder: Path) -> Iterator[Add]:
    written = 0

    def add(images: Tensor) -> None:
        nonlocal written
        for image in images:
            write_image(image, folder / name_of(written), synced=False)
            written += 1

    yield add


@contextmanager
def _archive(path: Path) -> Iterator[Add]:
    written = 0
    with told(path), replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:

        def add(images: Tensor) -> None:
            nonlocal written
            for image in images:
                content = io.BytesIO()
                to_picture(image).save(content, "PNG")
                archive.writestr(zipfile.ZipInfo(name_of(written), _TIME), content.getvalue())
                written += 1

        yield add


@contextmanager
def _arrays(path: Path, plan: Plan, shape: tuple[int, int, int]) -> Iterator[Add]:
    """Write ``arr_0`` and ``arr_1`` as evaluations of guided diffusion read them, then ``seeds`` and ``latents``."""
    channels, height, width = shape
    with told(path), replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        with _member(archive, "arr_0", np.dtype(np.uint8), (plan.count, height, width, channels)) as images:
            yield lambda batch: images(batch.permute(0, 2, 3, 1).numpy())
        parts = [range(first, min(first + _STEP, plan.count)) for first in range(0, plan.count, _STEP)]
        if plan.labels:
            with _member(archive, "arr_1", np.dtype(np.int64), (plan.count,)) as labels:
                labels(np.array([plan.label(number) for number in range(plan.count)]))
        with _member(archive, "seeds", np.dtype(np.uint64), (plan.count,)) as seeds:
            seeds(plan.seeds(range(plan.count)))
        with _member(archive, "latents", np.dtype(np.float32), (plan.count, plan.latent_dim)) as latents:
            for part in parts:
                latents(plan.latents(part).numpy())


@contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Iterator[Callable[[np.ndarray[Any, Any]], None]]:
    """Yield what appends to an array of an npz file."""

    def append(values: np.ndarray[Any, Any]) -> None:
        file.write(np.ascontiguousarray(values, dtype).tobytes())

    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _TIME), "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield append


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn a disk that refuses a file in this block into one line that names it."""
    try:
        yield
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror or error}") from error
