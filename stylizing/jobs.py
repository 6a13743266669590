"""Which files are repainted, and where their results go."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.files import find_images, image_extensions
from norms.errors import SettingError
from stylizing.clips import is_clip
from stylizing.video import VIDEOS
from training.moving import ANIMATIONS, CONTAINERS

KEPT_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
"""Results keep these extensions; photos of other kinds become PNG files."""


class Job(NamedTuple):
    """Name one photo or clip, the file its result goes to, and how it is painted."""

    source: Path
    target: Path
    is_clip: bool
    manner: int = 0
    """Which of several results that is."""


def find_jobs(inputs: Sequence[Path], output: Path, sweep: int | None, in_order: bool) -> list[Job]:
    """Pair every photo and clip with its results, make their folder, and refuse what would replace another file.

    Args:
        inputs: Files, and folders that are searched at any depth.
        output: The folder of the results, or the file of a single photo's or clip's.
        sweep: How many results each has; None for one without a number in its name.
        in_order: Whether photos are frames, in the order of the numbers in their names.

    Raises:
        SettingError: If there is no photo or clip, a result would replace one or another's result, or the folder
            cannot be written to.
    """
    if _is_one_file(inputs, output):
        results = _results(output, sweep)
        if os.path.realpath(inputs[0]) in map(os.path.realpath, results):
            raise SettingError(f"the result would replace {inputs[0]}: choose another name with -o")
        _make_folder(output.parent)
        return [Job(inputs[0], result, is_clip(inputs[0]), step) for step, result in enumerate(results)]
    photos = [(source, name, _ending(source, name)) for source, name in _photos(inputs, output)]
    if not photos:
        raise SettingError(f"no images found in {', '.join(map(str, inputs))}")
    originals = {os.path.realpath(source) for source, _, _ in photos}
    sources: dict[Path, Path] = {}
    names: dict[Path, Path] = {}
    # Those that keep their names come first, so that a photo that becomes a PNG file takes none of theirs.
    for source, name, ending in sorted(photos, key=lambda photo: photo[1].suffix.lower() != photo[2]):
        target = _target(name, ending, output, names)
        for result in _results(target, sweep):
            if os.path.realpath(result) in originals:
                raise SettingError(f"a result would replace the photo {result}: name another folder with -o")
        other = sources.setdefault(target, source)
        if os.path.realpath(other) != os.path.realpath(source):
            raise SettingError(f"{other} and {source} would both become {target}: stylize them separately")
        names[target] = name
    _make_folder(output)
    jobs = [
        Job(source, result, is_clip(source), step)
        for target, source in sources.items()
        for step, result in enumerate(_results(target, sweep))
    ]
    return sorted(jobs, key=lambda job: (job.manner, _natural(job.source))) if in_order else jobs


def _results(target: Path, sweep: int | None) -> list[Path]:
    """Return the files of a photo's results: ``a.png``, or ``a-1.png`` and so on."""
    if sweep is None:
        return [target]
    digits = len(str(sweep))
    return [target.with_stem(f"{target.stem}-{number:0{digits}}") for number in range(1, sweep + 1)]


def _is_one_file(inputs: Sequence[Path], output: Path) -> bool:
    """Return whether the output is the name of one file's result, and not of a folder."""
    ending = output.suffix.lower()
    if ending not in VIDEOS | ANIMATIONS.keys() | image_extensions() or output.is_dir():
        return False
    if not all(map(os.path.lexists, inputs)):
        return False
    is_one = len(inputs) == 1 and not os.path.isdir(inputs[0])
    if is_one and is_clip(inputs[0]) and ending in VIDEOS | ANIMATIONS.keys():
        if ending in VIDEOS - CONTAINERS.keys():
            raise SettingError(f"-o {output}: videos are written as {', '.join(CONTAINERS)}")
        return True
    if ending in VIDEOS:
        raise SettingError(f"-o {output}: only a single video or animation becomes a video; for others name a folder")
    if is_one and not is_clip(inputs[0]):
        if ending not in KEPT_EXTENSIONS:
            raise SettingError(f"-o {output}: photos are written as {', '.join(sorted(KEPT_EXTENSIONS))}")
        return True
    raise SettingError(f"-o {output}: only a single photo becomes a picture; for others name a folder")


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Return what sorts paths as people do: frame 2 before frame 10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(0, int(part)) if number % 2 else (1, part) for number, part in enumerate(parts)]


def _ending(source: Path, name: Path) -> str:
    """Return the extension of a result."""
    ending = name.suffix.lower()
    if ending in VIDEOS:
        return ending if ending in CONTAINERS else ".mp4"
    return ending if ending in KEPT_EXTENSIONS or is_clip(source) else ".png"


def _target(name: Path, ending: str, output: Path, taken: Mapping[Path, Path]) -> Path:
    """Return where a result goes: ``a.ppm`` becomes ``a.png``, but beside another ``a.png`` ``a.ppm.png``."""
    if name.suffix.lower() == ending:
        return output / name
    longer = name.name
    stem = name.stem if name.suffix.lower() in image_extensions() | VIDEOS else longer
    target = output / name.with_name(f"{stem}{ending}")
    while taken.get(target, name) != name:
        longer += ending
        target = target.with_name(longer)
    return target


def _photos(inputs: Sequence[Path], output: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files that the arguments stand for, each with its path within the output folder."""
    results = Path(os.path.realpath(output))
    for path in inputs:
        if os.path.isdir(path):
            # Earlier results that lie in a folder among the photos are not photos.
            nested = Path(os.path.realpath(path)) in results.parents
            found = (
                photo
                for photo in find_images(path, VIDEOS)
                if not (nested and results in Path(os.path.realpath(photo)).parents)
            )
            own_name = Path(os.path.realpath(path)).name  # a folder that cannot be looked into
            yield from ((photo, Path(own_name) if photo == path else photo.relative_to(path)) for photo in found)
        elif os.path.lexists(path):
            yield path, Path(path.name)
        else:
            raise SettingError(f"no such photo or folder: {path}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"cannot write to {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise SettingError(f"cannot write to {folder}: no permission")
