"""Videos and animations that are repainted, frame by frame, so that a killed conversion can go on."""

import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from norms.errors import SettingError
from stylizing.animation import Animation, is_animation
from stylizing.photo import TRANSPARENCY
from stylizing.steady import Steady
from stylizing.video import VIDEOS, Clip, Video, join
from training.errors import DISK_FAULTS
from training.files import replacing
from training.moving import CONTAINERS, Frame, encode, write_animation
from training.terminal import printable

PART = 50
"""How many frames are encoded together: as many as are painted again at most after a kill."""

_KEY = "made_of.txt"


def is_clip(path: Path) -> bool:
    """Return whether a file is a video, by its name, or an animation."""
    return path.suffix.lower() in VIDEOS or is_animation(path)


class Painted:
    """Repaint a video or an animation.

    Args:
        source: The file.
        paint: Paints a frame of RGB, through the filter.
        size: How long the longer side of a frame may be; None for any length.
        max_pixels: How many pixels a frame may have.
        steady: See :class:`Steady`.
        advance: Called with a number of frames that are done.

    Raises:
        ImageError: If it cannot be read.
    """

    def __init__(
        self,
        source: Path,
        paint: Callable[[Image.Image, Steady], Image.Image],
        size: int | None,
        max_pixels: int | None,
        steady: float,
        advance: Callable[[int], None],
    ) -> None:
        kind = Video if source.suffix.lower() in VIDEOS else Animation
        self.clip: Clip = kind(source, max_pixels)
        self._paint, self._size, self._advance = paint, size, advance
        self._steady = Steady(steady)
        self.lacks: list[str] = list(self.clip.lacks)
        self.notes: list[str] = []
        self.scaled = False

    def write(self, target: Path, made_of: str) -> None:
        """Write the result; ``lacks`` and ``notes`` then say what is not as it was.

        Args:
            target: The file to write; its ending names the format.
            made_of: Everything that the result depends on. What an earlier, killed call has left is taken up if it was
                made of the same, and begun anew otherwise.

        Raises:
            ImageError: If no frame can be decoded.
            SettingError: If it cannot be written.
        """
        kind = target.suffix.lower()
        if kind in CONTAINERS:
            self._write_video(target, made_of)
        else:
            self.lacks += write_animation(self._painted(self.clip.frames(), True), target, self.clip.plays)
        self.notes += self.clip.damage

    def _write_video(self, target: Path, made_of: str) -> None:
        with _kept(target, made_of) as folder:
            parts = list(itertools.takewhile(Path.exists, _numbered(folder, ".nut")))
            if parts and parts[-1].with_suffix(".state").exists():
                self._steady.load(parts[-1].with_suffix(".state"))
            self._advance(PART * len(parts))
            kind = target.suffix.lower()
            frames = itertools.islice(self.clip.frames(), PART * len(parts), None)
            for first in frames:
                part = folder / f"{len(parts):06}.nut"
                group = self._painted(itertools.chain([first], itertools.islice(frames, PART - 1)), False)
                with replacing(part) as partial:
                    encode(group, partial, kind, self.clip)
                    self._steady.save(part.with_suffix(".state"))
                for older in parts[-1:]:
                    older.with_suffix(".state").unlink(missing_ok=True)
                parts.append(part)
            self.notes += join(parts, target, self.clip.rate, self.clip.path if isinstance(self.clip, Video) else None)

    def _painted(self, frames: Iterable[Frame], transparent: bool) -> Iterator[Frame]:
        for frame in frames:
            image, alpha = self._fitted(frame.image), frame.alpha
            if alpha is not None:
                alpha = self._fitted(alpha)
                seen = alpha.point(lambda value: 255 if value else 0) if transparent else alpha
                image = Image.composite(image, Image.new("RGB", image.size, "white"), seen)
                if not transparent and TRANSPARENCY not in self.lacks:
                    self.lacks.append(TRANSPARENCY)
            yield frame._replace(image=self._paint(image, self._steady), alpha=alpha)
            self._advance(1)

    def _fitted(self, image: Image.Image) -> Image.Image:
        """Scale larger frames down, to even numbers of pixels, which encoders want."""
        if self._size is None or max(image.size) <= self._size:
            return image
        self.scaled = True
        scale = self._size / max(image.size)
        width, height = (max(2, 2 * round(side * scale / 2)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)


@contextmanager
def _kept(target: Path, made_of: str) -> Iterator[Path]:
    """Yield a folder beside a target, with what an earlier call made of the same; it is gone once all is done."""
    folder = target.with_name(f"{target.name}.parts")
    key = folder / _KEY
    try:
        if folder.exists() and not key.exists() and any(folder.iterdir()):
            raise SettingError(f"cannot write {target}: its parts would go to {folder}, which is in use")
        if key.exists() and key.read_text(errors="replace") != made_of:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not key.exists():
            with replacing(key) as partial:
                partial.write_text(made_of, errors="replace")
    except OSError as error:
        if error.errno in DISK_FAULTS:
            raise
        raise SettingError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield folder
    except BaseException as error:
        if next(_numbered(folder, ".nut")).exists():
            if isinstance(error, KeyboardInterrupt):
                place = printable(str(folder))
                print(f"what is painted is kept in {place}; the same command goes on from there", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)


def _numbered(folder: Path, suffix: str) -> Iterator[Path]:
    return (folder / f"{number:06}{suffix}" for number in itertools.count())
