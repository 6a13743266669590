"""Photos repainted by a trained style-transfer network, and their files."""

import os
import sys
import warnings
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from data.files import find_images, image_extensions, listed
from data.images import ImageError
from lightning_modules.painter import Painter
from norms.errors import SettingError
from stylizing.manners import find_manners
from stylizing.masks import MaskError
from stylizing.painting import Manner, paint
from stylizing.photo import read
from training.run import Run
from training.shipped import with_shipped_networks

KEPT_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
"""Results keep these extensions; photos of other kinds become PNG files."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
"""What torch says then, on accelerators and on the CPU."""


class Job(NamedTuple):
    """Name one photo, the file its result goes to, and how it is painted."""

    source: Path
    target: Path
    manner: int = 0
    """Which of several results that is."""


class Outcome:
    """Note what became of the photos."""

    def __init__(self) -> None:
        self.written = 0
        self.scaled = 0
        self.skipped: list[str] = []
        self.lacking: defaultdict[str, list[Path]] = defaultdict(list)


def write(options: Namespace) -> None:
    """Stylize and write the photos that the command line names, and say where the results are.

    Raises:
        SettingError: If there is no such network, style or device, no photo, or a result cannot be written.
    """
    device = find_device(options.device)
    jobs = _jobs(options.inputs, options.output, options.sweep)
    model = Run.find(with_shipped_networks(options.run)).load(Painter).to(device)
    manners = find_manners(options, model)
    _make_folder(options.output)
    waiting = [job for job in jobs if options.overwrite or not os.path.exists(job.target)]
    outcome = Outcome()
    with warnings.catch_warnings(), _progress() as progress:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata that are damaged, without saying where
        task = progress.add_task("stylizing", total=len(waiting))
        for done, job in enumerate(waiting):
            advance = partial(_advance, progress, task, done)
            _repaint(model, job, manners[job.manner], options, outcome, advance)
            advance(1.0)
    for reason in dict.fromkeys(outcome.skipped):  # which all of a sweep's results have
        print(f"skipped {reason}", file=sys.stderr)
    if outcome.skipped and len(outcome.skipped) == len(jobs):
        raise SettingError(f"none of the photos could be stylized ({len({job.source for job in jobs})})")
    _report(options, outcome, len(jobs) - len(waiting))


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())


def _advance(progress: Progress, task: TaskID, done: int, share: float) -> None:
    progress.update(task, completed=done + share)


def _repaint(
    model: Painter,
    job: Job,
    manner: Manner,
    options: Namespace,
    outcome: Outcome,
    advance: Callable[[float], None],
) -> None:
    try:
        photo = read(job.source, job.target, options.size, options.max_pixels)
        result = paint(model, photo.image, manner, advance, in_place=True)
    except ImageError as error:
        outcome.skipped.append(str(error))
        return
    except MaskError as error:
        outcome.skipped.append(f"{job.source}: {error}")
        return
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        size = f"{photo.image.width}x{photo.image.height}"
        outcome.skipped.append(
            f"{job.source}: too large for the memory at {size}, try --size or a larger --stroke-size"
        )
        return
    for part in photo.write(result, job.target):
        outcome.lacking[part].append(job.source)
    outcome.written += 1
    outcome.scaled += photo.scaled


def _report(options: Namespace, outcome: Outcome, existing: int) -> None:
    print(f"wrote {outcome.written} {_images(outcome.written)} to {options.output}")
    if outcome.scaled:
        print(f"scaled {outcome.scaled} larger {_images(outcome.scaled)} down to {options.size} pixels (--size)")
    for part, photos in outcome.lacking.items():
        print(f"left out {part} of {len(photos)} {_images(len(photos))}: {listed(list(dict.fromkeys(photos)))}")
    if existing:
        print(f"left {existing} existing {_images(existing)} as they are (--overwrite to replace them)")


def _images(count: int) -> str:
    return "image" if count == 1 else "images"


def _jobs(inputs: Sequence[Path], output: Path, sweep: int | None) -> list[Job]:
    """Pair every photo with its results, and refuse what would replace a photo or another photo's result."""
    photos = list(_photos(inputs, output))
    if not photos:
        raise SettingError(f"no images found in {', '.join(map(str, inputs))}")
    originals = {os.path.realpath(source) for source, _ in photos}
    sources: dict[Path, Path] = {}
    names: dict[Path, Path] = {}
    # Those that keep their names come first, so that a photo that becomes a PNG file takes none of theirs.
    for source, name in sorted(photos, key=lambda photo: not _keeps_name(photo[1])):
        target = _target(name, output, names)
        for result in _results(target, sweep):
            if os.path.realpath(result) in originals:
                raise SettingError(f"a result would replace the photo {result}: name another folder with -o")
        other = sources.setdefault(target, source)
        if os.path.realpath(other) != os.path.realpath(source):
            raise SettingError(f"{other} and {source} would both become {target}: stylize them separately")
        names[target] = name
    return [
        Job(source, result, step)
        for target, source in sources.items()
        for step, result in enumerate(_results(target, sweep))
    ]


def _results(target: Path, sweep: int | None) -> list[Path]:
    """Return the files of a photo's results: ``a.png``, or ``a-1.png`` and so on."""
    if sweep is None:
        return [target]
    digits = len(str(sweep))
    return [target.with_stem(f"{target.stem}-{number:0{digits}}") for number in range(1, sweep + 1)]


def _keeps_name(name: Path) -> bool:
    return name.suffix.lower() in KEPT_EXTENSIONS


def _target(name: Path, output: Path, taken: Mapping[Path, Path]) -> Path:
    """Return where a result goes: ``a.gif`` becomes ``a.png``, but beside another ``a.png`` ``a.gif.png``."""
    if _keeps_name(name):
        return output / name
    longer = name.name
    stem = name.stem if name.suffix.lower() in image_extensions() else longer
    target = output / name.with_name(f"{stem}.png")
    while taken.get(target, name) != name:
        longer += ".png"
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
                for photo in find_images(path)
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


def find_device(name: str | None) -> torch.device:
    """Find the device of a name; by default the accelerator, if there is one.

    Raises:
        SettingError: If it cannot be used.
    """
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        found = torch.zeros(1, device=name)
        found.cpu()  # a device such as meta, which holds nothing, cannot
        return found.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]  # what follows is for torch's developers
        raise SettingError(f"--device: cannot use device {name!r}: {reason}") from error
