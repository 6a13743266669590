"""Photos, videos and animations repainted by a trained style-transfer network."""

import os
import sys
import warnings
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from data.files import listed
from data.images import ImageError
from lightning_modules.painter import Painter
from norms.errors import SettingError
from stylizing.clips import Painted
from stylizing.jobs import Job, find_jobs
from stylizing.manners import find_manners
from stylizing.masks import MaskError
from stylizing.painting import Manner, paint
from stylizing.photo import Photo, read
from stylizing.steady import Steady
from training.devices import find_device
from training.run import Run
from training.shipped import with_shipped_networks
from training.terminal import printable

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
"""What torch says then, on accelerators and on the CPU."""

WARM_UP = 8
"""How many frames that are there already the filter sees again, so that the next one fits them."""


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
    """Stylize and write the photos and clips that the command line names, and say where the results are.

    Raises:
        SettingError: If there is no such network, style or device, no photo, or a result cannot be written.
    """
    model, manners = load(options)
    jobs = find_jobs(options.inputs, options.output, options.sweep, options.frames)
    waiting = {job for job in jobs if options.overwrite or not os.path.exists(job.target)}
    shown = _with_warm_up(jobs, waiting, options)
    outcome = Outcome()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with warnings.catch_warnings(), Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata that are damaged, without saying where
        filters: dict[tuple[Path, int], Steady] = {}
        task = progress.add_task("stylizing", total=len(shown))
        for done, job in enumerate(shown):
            manner = manners[job.manner]
            if job.is_clip:
                _repaint_clip(model, job, manner, options, outcome, progress)
            else:
                key = job.source.parent, job.manner
                steady = filters.setdefault(key, Steady(options.steady)) if options.frames else None
                advance = partial(_advance, progress, task, done)
                _repaint(model, job, manner, options, outcome, advance, steady, keep=job in waiting)
            _advance(progress, task, done, 1.0)
    for reason in dict.fromkeys(outcome.skipped):  # which all of a sweep's results have
        print("skipped", printable(reason), file=sys.stderr)
    if outcome.skipped and len(outcome.skipped) == len(jobs):
        raise SettingError(f"none of the photos could be stylized ({len({job.source for job in jobs})})")
    one = len(jobs) == 1 or options.output.is_dir()
    _report(options, outcome, len(jobs) - len(waiting), str(options.output) if one else f"{jobs[0].target} and so on")


def load(options: Namespace) -> tuple[Painter, list[Manner]]:
    """Load the network that the command line names, and find out how it shall paint: a manner for each result.

    Raises:
        SettingError: If there is no such network, style or device.
    """
    device = find_device(options.device)
    model = Run.find(with_shipped_networks(options.run)).load(Painter).to(device)
    return model, find_manners(options, model)


def _advance(progress: Progress, task: TaskID, done: int, share: float) -> None:
    progress.update(task, completed=done + share)


def _repaint(
    model: Painter,
    job: Job,
    manner: Manner,
    options: Namespace,
    outcome: Outcome,
    advance: Callable[[float], None],
    steady: Steady | None,
    keep: bool,
) -> None:
    photo = None
    try:
        photo = read(job.source, job.target, options.size, options.max_pixels)
        result = paint(model, photo.image, manner, advance, in_place=True, steady=steady)
    except (ImageError, MaskError, RuntimeError) as error:
        outcome.skipped.append(_why_skipped(job, error, photo))
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
) -> None:
    task = progress.add_task(printable(job.source.name), total=None)
    try:
        clip = Painted(
            job.source,
            lambda image, steady: paint(model, image, manner, steady=steady),
            options.size,
            options.max_pixels,
            options.steady,
            lambda frames: progress.advance(task, frames),
        )
        progress.update(task, total=clip.clip.count)
        clip.write(job.target, _made_of(job, options))
    except (ImageError, MaskError, RuntimeError) as error:
        outcome.skipped.append(_why_skipped(job, error))
        return
    finally:
        progress.remove_task(task)
    outcome.notes += [f"{job.source}: {note}" for note in clip.notes]
    for part in clip.lacks:
        outcome.lacking[part].append(job.source)
    outcome.clips += 1
    outcome.scaled += clip.scaled


def _why_skipped(job: Job, error: Exception, photo: Photo | None = None) -> str:
    """Return why a photo or clip is skipped; what is no fault of its file, nor a lack of memory, is raised again."""
    if isinstance(error, ImageError):  # which names the file
        return str(error)
    if isinstance(error, MaskError):
        return f"{job.source}: {error}"
    if not any(words in str(error) for words in OUT_OF_MEMORY):
        raise error
    size = "" if photo is None else f" at {photo.image.width}x{photo.image.height}"
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
    # Styles and masks may be pictures, and may end in a share or a style.
    named = [each for text in options.style + options.mask for each in (text, text.rpartition("=")[0])]
    pictures = filter(os.path.isfile, map(os.path.expanduser, named))
    files = map(os.path.realpath, [job.source, checkpoint, *pictures])
    stamps = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in files]
    settings = {name: value for name, value in vars(options).items() if name not in ("inputs", "output", "overwrite")}
    return "\n".join(map(repr, [*stamps, *sorted(settings.items())]))


def _report(options: Namespace, outcome: Outcome, existing: int, where: str) -> None:
    written = [_images(outcome.images)] if outcome.images or not outcome.clips else []
    written += [_counted(outcome.clips, "clip")] if outcome.clips else []
    print(f"wrote {' and '.join(written)} to {printable(where)}")
    for note in outcome.notes:
        print(printable(note))
    if outcome.scaled:
        print(f"scaled {_counted(outcome.scaled, 'larger image')} down to {options.size} pixels (--size)")
    for part, photos in outcome.lacking.items():
        named = printable(listed(list(dict.fromkeys(photos))))
        print(f"left out {part} of {_images(len(photos))}: {named}")
    if existing:
        print(f"left {_counted(existing, 'existing image')} as they are (--overwrite to replace them)")


def _images(count: int) -> str:
    return _counted(count, "image")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
