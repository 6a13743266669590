"""Photos, videos and animations repainted by a trained style-transfer network, and their files."""

import os
import re
import sys
import warnings
from argparse import Namespace
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.files import find_images, image_extensions, listed
from data.images import ImageError
from lightning_modules.painter import Painter
from norms.errors import SettingError
from stylizing.animation import ANIMATIONS
from stylizing.clips import Painted, is_clip
from stylizing.painting import Manner, paint
from stylizing.photo import read
from stylizing.steady import Steady
from stylizing.video import CONTAINERS, VIDEOS
from training.run import Run
from training.shipped import with_shipped_networks
from training.terminal import printable

KEPT_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
"""Results keep these extensions; photos of other kinds become PNG files."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
"""What torch says then, on accelerators and on the CPU."""


WARM_UP = 8
"""How many frames that are there already the filter sees again, so that the next one fits them."""


class Job(NamedTuple):
    """Name one photo or clip and the file its result goes to."""

    source: Path
    target: Path
    is_clip: bool


class Outcome:
    """Note what became of the photos."""

    def __init__(self) -> None:
        self.images = 0
        self.clips = 0
        self.scaled = 0
        self.skipped: list[str] = []
        self.notes: list[str] = []
        self.lacking: defaultdict[str, list[Path]] = defaultdict(list)


def write(options: Namespace) -> None:
    """Stylize and write the photos that the command line names, and say where the results are.

    Raises:
        SettingError: If there is no such network, style or device, no photo, or a result cannot be written.
    """
    jobs = _jobs(options.inputs, options.output, options.frames)
    model, manner = load(options)
    _make_folder(options.output.parent if jobs[0].target == options.output else options.output)
    waiting = {job for job in jobs if options.overwrite or not os.path.exists(job.target)}
    outcome = Outcome()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with warnings.catch_warnings(), Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata that are damaged, without saying where
        filters: dict[Path, Steady] = {}
        for job in progress.track(_with_warm_up(jobs, waiting, options), description="stylizing"):
            if job.is_clip:
                _repaint_clip(model, job, manner, options, outcome, progress, _made_of(job, options))
                continue
            steady = filters.setdefault(job.source.parent, Steady(options.steady)) if options.frames else None
            _repaint(model, job, manner, options, outcome, steady, keep=job in waiting)
    for reason in outcome.skipped:
        print(f"skipped {reason}", file=sys.stderr)
    if outcome.skipped and len(outcome.skipped) == len(jobs):
        raise SettingError(f"none of the photos could be stylized ({len(jobs)})")
    _report(options, outcome, len(jobs) - len(waiting))


def load(options: Namespace) -> tuple[Painter, Manner]:
    """Load the network that the command line names, and find out how it shall paint.

    Raises:
        SettingError: If there is no such network, style or device.
    """
    device = _device(options.device)
    model = Run.find(with_shipped_networks(options.run)).load(Painter).to(device)
    style = model.find_style(options.style)
    return model, Manner(style, options.stroke_size, options.strength, options.keep_colors)


def _repaint(
    model: Painter,
    job: Job,
    manner: Manner,
    options: Namespace,
    outcome: Outcome,
    steady: Steady | None,
    keep: bool,
) -> None:
    try:
        photo = read(job.source, job.target, options.size, options.max_pixels)
        result = paint(model, photo.image, manner, steady)
    except ImageError as error:
        outcome.skipped.append(str(error))
        return
    except RuntimeError as error:
        size = f"{photo.image.width}x{photo.image.height}"
        outcome.skipped.append(_too_large(job, f" at {size}", error))
        return
    if not keep:
        return
    for part in photo.write(result, job.target):
        outcome.lacking[part].append(job.source)
    outcome.images += 1
    outcome.scaled += photo.scaled


def _repaint_clip(
    model: Painter,
    job: Job,
    manner: Manner,
    options: Namespace,
    outcome: Outcome,
    progress: Progress,
    made_of: str,
) -> None:
    task = progress.add_task(printable(job.source.name), total=None)
    try:
        clip = Painted(
            job.source,
            lambda image, steady: paint(model, image, manner, steady),
            options.size,
            options.max_pixels,
            options.steady,
            lambda frames: progress.advance(task, frames),
        )
        progress.update(task, total=clip.clip.count)
        clip.write(job.target, made_of)
    except ImageError as error:
        outcome.skipped.append(str(error))
        return
    except RuntimeError as error:
        outcome.skipped.append(_too_large(job, "", error))
        return
    finally:
        progress.remove_task(task)
    outcome.notes += [f"{job.source}: {note}" for note in clip.notes]
    for part in clip.lacks:
        outcome.lacking[part].append(job.source)
    outcome.clips += 1
    outcome.scaled += clip.scaled


def _too_large(job: Job, size: str, error: RuntimeError) -> str:
    if not any(words in str(error) for words in OUT_OF_MEMORY):
        raise error
    return f"{job.source}: too large for the memory{size}, try --size or a larger --stroke-size"


def _with_warm_up(jobs: Sequence[Job], waiting: Collection[Job], options: Namespace) -> list[Job]:
    """Return the jobs that wait, and before them those whose results the filter has to know, if there is one."""
    reach = WARM_UP if options.frames and options.steady else 0
    return [
        job for number, job in enumerate(jobs) if any(later in waiting for later in jobs[number : number + reach + 1])
    ]


def _made_of(job: Job, options: Namespace) -> str:
    """Return all that a result depends on, as far as it can be told without reading it."""
    checkpoint = Run.find(with_shipped_networks(options.run)).checkpoint
    files = [os.path.realpath(job.source), os.path.realpath(checkpoint)]
    stamps = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in files]
    settings = {name: value for name, value in vars(options).items() if name not in ("inputs", "output", "overwrite")}
    return "\n".join(map(repr, [*stamps, *sorted(settings.items())]))


def _report(options: Namespace, outcome: Outcome, existing: int) -> None:
    written = [_images(outcome.images)] if outcome.images or not outcome.clips else []
    written += [_counted(outcome.clips, "clip")] if outcome.clips else []
    print(f"wrote {' and '.join(written)} to {options.output}")
    for note in outcome.notes:
        print(note)
    if outcome.scaled:
        print(f"scaled {_counted(outcome.scaled, 'larger image')} down to {options.size} pixels (--size)")
    for part, photos in outcome.lacking.items():
        print(f"left out {part} of {_images(len(photos))}: {listed(photos)}")
    if existing:
        print(f"left {_counted(existing, 'existing image')} as they are (--overwrite to replace them)")


def _images(count: int) -> str:
    return _counted(count, "image")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _jobs(inputs: Sequence[Path], output: Path, in_order: bool) -> list[Job]:
    """Pair every photo and clip with its result, and refuse what would replace one or another's result."""
    if _is_one_clip(inputs, output):
        if os.path.realpath(inputs[0]) == os.path.realpath(output):
            raise SettingError(f"the result would replace {output}: choose another name with -o")
        return [Job(inputs[0], output, True)]
    photos = [(source, name, _ending(source, name)) for source, name in _photos(inputs, output)]
    if not photos:
        raise SettingError(f"no images found in {', '.join(map(str, inputs))}")
    originals = {os.path.realpath(source) for source, _, _ in photos}
    sources: dict[Path, Path] = {}
    names: dict[Path, Path] = {}
    # Those that keep their names come first, so that a photo that becomes a PNG file takes none of theirs.
    for source, name, ending in sorted(photos, key=lambda photo: photo[1].suffix.lower() != photo[2]):
        target = _target(name, ending, output, names)
        if os.path.realpath(target) in originals:
            raise SettingError(f"a result would replace the photo {target}: name another folder with -o")
        other = sources.setdefault(target, source)
        if os.path.realpath(other) != os.path.realpath(source):
            raise SettingError(f"{other} and {source} would both become {target}: stylize them separately")
        names[target] = name
    jobs = [Job(source, target, is_clip(source)) for target, source in sources.items()]
    return sorted(jobs, key=lambda job: _natural(job.source)) if in_order else jobs


def _is_one_clip(inputs: Sequence[Path], output: Path) -> bool:
    """Return whether the output is the name of one video or animation, and not of a folder."""
    ending = output.suffix.lower()
    if ending not in VIDEOS | ANIMATIONS.keys() or output.is_dir():
        return False
    if len(inputs) == 1 and os.path.isfile(inputs[0]) and is_clip(inputs[0]):
        if ending in VIDEOS - CONTAINERS.keys():
            raise SettingError(f"-o {output}: videos are written as {', '.join(CONTAINERS)}")
        return True
    if ending in VIDEOS and all(map(os.path.lexists, inputs)):
        raise SettingError(f"-o {output}: only a single video or animation becomes a video; for others name a folder")
    return False


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


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        found = torch.zeros(1, device=name)
        found.cpu()  # a device such as meta, which holds nothing, cannot
        return found.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]  # what follows is for torch's developers
        raise SettingError(f"--device: cannot use device {name!r}: {reason}") from error
