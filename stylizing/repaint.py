"""Photos repainted by a trained style-transfer network, and their files."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from data.images import ImageError, find_images, load_image, to_tensor
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from training.images import write_image
from training.run import Run

LUMA = (0.299, 0.587, 0.114)
"""Share of each color in the brightness, ITU-R BT.601."""

KEPT_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
"""Results keep these extensions; photos of other kinds become PNG files."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
"""What torch says then, on accelerators and on the CPU."""


class Job(NamedTuple):
    """One photo and the file its result goes to."""

    source: Path
    target: Path


@torch.inference_mode()
def stylize(model: StyleTransfer, photo: Tensor, strength: float = 1.0, keep_colors: bool = False) -> Tensor:
    """Stylize one photo.

    Args:
        model: A trained model in evaluation mode.
        photo: (3, H, W), RGB in [0, 1].
        strength: Share of the stylized image in the result, the rest being the photo; in [0, 1].
        keep_colors: Whether to take only the brightness from the stylized image, and the colors from the photo.

    Returns:
        (3, H, W), values in [0, 1], on the CPU.
    """
    stylized = model(photo[None].to(model.device))[0].cpu()
    if keep_colors:
        stylized = with_colors_of(photo, stylized)
    return torch.lerp(photo, stylized, strength)


def with_colors_of(photo: Tensor, stylized: Tensor) -> Tensor:
    """Give the brightness of one image to the colors of another.

    The same amount is added to red, green and blue of each pixel, which changes the luma and keeps both chroma
    components of YCbCr.

    Source:
        Gatys et al., Preserving Color in Neural Artistic Style Transfer, 2016, section 2.2, arXiv 1606.05897.

    Shape:
        (3, H, W), (3, H, W), values in [0, 1] -> (3, H, W), values in [0, 1]
    """
    luma = photo.new_tensor(LUMA)[:, None, None]
    return (photo + (luma * (stylized - photo)).sum(dim=0)).clamp(0, 1)


def write(options: Namespace) -> None:
    """Stylize and write the photos that the command line names, and say where the results are.

    Raises:
        SettingError: If there is no such network or device, no photo, or a result cannot be written.
    """
    device = _device(options.device)
    jobs = _jobs(options.inputs, options.output)
    model = Run.find(options.run).load(StyleTransfer).to(device)
    _make_folder(options.output)
    waiting = [job for job in jobs if options.overwrite or not job.target.exists()]
    written, scaled, skipped = 0, 0, []
    for job in track(waiting, "stylizing", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        try:
            photo = load_image(job.source)
            smaller = _scaled_down(photo, options.size)
            result = stylize(model, to_tensor(smaller), options.strength, options.keep_colors)
        except ImageError as error:
            skipped.append(str(error))
            continue
        except RuntimeError as error:
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            skipped.append(f"{job.source}: too large for the memory at {smaller.width}x{smaller.height}, try --size")
            continue
        write_image(result, job.target, quality=95)
        written += 1
        scaled += smaller.size != photo.size
    for reason in skipped:
        print(f"skipped {reason}", file=sys.stderr)
    if skipped and len(skipped) == len(jobs):
        raise SettingError(f"none of the photos could be stylized ({len(jobs)})")
    _report(options, written, scaled, len(jobs) - len(waiting))


def _report(options: Namespace, written: int, scaled: int, existing: int) -> None:
    print(f"wrote {written} {_images(written)} to {options.output}")
    if scaled:
        print(f"scaled {scaled} larger {_images(scaled)} down to {options.size} pixels (--size)")
    if existing:
        print(f"left {existing} existing {_images(existing)} as they are (--overwrite to replace them)")


def _images(count: int) -> str:
    return "image" if count == 1 else "images"


def _jobs(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Pair every photo with its result, and refuse what would replace a photo or another photo's result."""
    photos = list(_photos(inputs, output))
    if not photos:
        raise SettingError(f"no images found in {', '.join(map(str, inputs))}")
    originals = {source.resolve() for source, _ in photos}
    sources: dict[Path, Path] = {}
    for source, name in photos:
        suffix = source.suffix if source.suffix.lower() in KEPT_EXTENSIONS else ".png"
        target = (output / name).with_suffix(suffix)
        if target.resolve() in originals:
            raise SettingError(f"a result would replace the photo {target}: name another folder with -o")
        other = sources.setdefault(target, source)
        if other.resolve() != source.resolve():
            raise SettingError(f"{other} and {source} would both become {target}: stylize them separately")
    return [Job(source, target) for target, source in sources.items()]


def _photos(inputs: Sequence[Path], output: Path) -> Iterator[tuple[Path, Path]]:
    """The files that the arguments stand for, each with its path within the output folder."""
    results = output.resolve()
    for path in inputs:
        if path.is_dir():
            # Earlier results that lie in a folder among the photos are not photos.
            nested = path.resolve() in results.parents
            found = (photo for photo in find_images(path) if not (nested and results in photo.resolve().parents))
            yield from ((photo, photo.relative_to(path)) for photo in found)
        elif path.exists():
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


def _scaled_down(photo: Image.Image, size: int) -> Image.Image:
    if max(photo.size) <= size:
        return photo
    scale = size / max(photo.size)
    return photo.resize(
        (max(1, round(photo.width * scale)), max(1, round(photo.height * scale))), Image.Resampling.LANCZOS
    )


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise SettingError(f"--device: cannot use device {name!r}: {reason}") from error
