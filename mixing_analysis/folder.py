"""The folder of a report: renewed as a whole, and never at the cost of somebody else's file."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from data.files import check_file
from norms.errors import SettingError

MANIFEST = ".analysis"
"""Lists the files of the folder that were written here, a path a line. All others are left alone."""


@contextmanager
def renewed(folder: Path, outputs: Sequence[str]) -> Iterator[Path]:
    """Yield a folder to write a report to, of which the files take their places when the block ends without error.

    Files of the report that was there before, that are among its outputs and that the new one does not have, are
    removed.

    Args:
        folder: Where the report shall be. It is made if it is not there.
        outputs: What will be written: files, and folders that are the report's alone.

    Raises:
        SettingError: If the folder cannot be written to, or a file that is none of the report's, or a link, is in
            the way.
    """
    listed = _listed(folder)
    own = {name for name in listed if name.split("/")[0] in outputs and ".." not in name.split("/")}
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for file in (file for output in outputs for file in _within(folder / output)):
            # A link is never of a report: what is behind it lies elsewhere, and would be renewed or removed there.
            if file.is_symlink() or file.relative_to(folder).as_posix() not in own:
                raise SettingError(f"{file} is not of a report of analyze.py: choose another folder with -o")
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
        try:
            yield staging
            _install(staging, folder, own, listed - own)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise SettingError(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        for path in missing:  # which stay where something was written
            with suppress(OSError):
                path.rmdir()


def _within(path: Path) -> Iterator[Path]:
    """Yield all in a folder but folders, without following links; or ``path`` itself if it is something else."""
    if path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):
            yield from _within(inner)
    elif os.path.lexists(path):
        yield path


def _listed(folder: Path) -> set[str]:
    check_file(folder / MANIFEST)
    try:
        return set((folder / MANIFEST).read_text().splitlines())
    except (OSError, UnicodeDecodeError):
        return set()


def _install(staging: Path, folder: Path, old: set[str], others: set[str]) -> None:
    new = {path.relative_to(staging).as_posix() for path in staging.rglob("*") if not path.is_dir()}
    # Before the files themselves, so that one which a kill leaves behind is known to be the report's.
    _write_manifest(staging, folder, old | new | others)
    for name in sorted(new):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, folder / name)
    for name in old - new:
        (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            (folder / name).parent.rmdir()
    _write_manifest(staging, folder, new | {name for name in others if (folder / name).is_file()})


def _write_manifest(staging: Path, folder: Path, files: set[str]) -> None:
    # From a folder that nobody else could prepare, so that no link is written through.
    (staging / MANIFEST).write_text("".join(f"{name}\n" for name in sorted(files)))
    os.replace(staging / MANIFEST, folder / MANIFEST)
