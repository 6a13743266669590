"""Measure how steadily style networks paint videos, with and without the filter over time.

The videos are made of photographs of scikit-image and scikit-learn, so that the motion from each frame to the next is
known exactly. Each frame has noise of its own, as a camera's, and 8 bits a color.

- Pan: the camera moves by fractions of a pixel and zooms in slowly. Still: it rests, and only the noise changes.
- Flicker: how far a frame is from the frame before, moved along the known motion, in the mean over pixels that both
  show. In [0, 1]; beside it, as a multiple of the flicker of the video itself.
- Ghost: where a disc that crosses a still picture has just left, how far the filter leaves what the network paints
  there, as a share of how far the painting with the disc is from it. 0 is none, and S of --steady if the filter blended
  blindly.

    python benchmarks/flicker.py runs/style_transfer runs/video --steady 0.6 --out flicker/
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from data.images import to_tensor
from data.photos import bundled_photo
from lightning_modules.painter import Painter
from stylizing.steady import Steady
from training.images import to_picture, write_image
from training.run import Run
from training.shipped import with_shipped_networks

PHOTOS = "coffee", "china.jpg"
"""A still life with an even ground, and a landscape with fine detail; the default configurations train on neither."""

SIZE = 288, 384
NOISE = 0.01
PAN = 1.3, 0.7, 1.002
"""Pixels right and down, and the zoom, from a frame to the next."""

MARGIN = 16
"""Pixels at the border that are not compared."""

DISC = 30, 8
"""Radius of the disc, and how far it moves from a frame to the next, in pixels."""

COLUMNS = ("network", "steady", "pan", "x input", "still", "x input", "ghost")


def warp(image: Tensor, right: float, down: float, zoom: float, size: tuple[int, int] | None = None) -> Tensor:
    """Show an image as a camera sees it that has moved right and down, in pixels, and zoomed in, around its middle.

    Shape:
        (3, H, W) -> (3, *size)
    """
    height, width = image.shape[-2:]
    rows, columns = size or (height, width)
    y, x = torch.meshgrid(torch.arange(rows) - (rows - 1) / 2, torch.arange(columns) - (columns - 1) / 2, indexing="ij")
    grid = torch.stack([(x / zoom + right) * 2 / width, (y / zoom + down) * 2 / height], dim=-1)
    return F.grid_sample(image[None], grid[None], "bicubic", "reflection", align_corners=False)[0].clamp(0, 1)


def pan(photo: Tensor, frames: int) -> list[Tensor]:
    """Make the frames of a camera that moves; see :func:`moved_on` for the motion."""
    return [warp(photo, *_place(number), SIZE) for number in range(frames)]


def moved_on(frame: Tensor, number: int) -> Tensor:
    """Show frame ``number`` of a pan as the next one shows it."""
    (x0, y0, z0), (x1, y1, z1) = _place(number), _place(number + 1)
    return warp(frame, (x1 - x0) * z0, (y1 - y0) * z0, z1 / z0)


def flicker(frames: Sequence[Tensor], move: Callable[[Tensor, int], Tensor]) -> float:
    """Return how far frames are from the ones before, moved."""
    inside = slice(MARGIN, -MARGIN)
    pairs = zip(frames[1:], (move(frame, number) for number, frame in enumerate(frames[:-1])), strict=True)
    return float(torch.stack([(one - other)[:, inside, inside].abs().mean() for one, other in pairs]).mean())


def ghost(filtered: Sequence[Tensor], painted: Sequence[Tensor], discs: Sequence[Tensor]) -> float:
    """Return how much of a disc stays where it has just left."""
    left = [before & ~now for before, now in itertools.pairwise(discs)]
    kept = [(r - y)[:, place].abs().mean() for r, y, place in zip(filtered[1:], painted[1:], left, strict=True)]
    whole = [(b - y)[:, place].abs().mean() for b, y, place in zip(painted[:-1], painted[1:], left, strict=True)]
    return float(torch.stack(kept).mean() / torch.stack(whole).mean())


def crossing(photo: Tensor, frames: int) -> tuple[list[Tensor], list[Tensor]]:
    """Make the frames of a dark disc that crosses a still picture, and where it is, each (H, W)."""
    ground, (radius, step) = warp(photo, 0, 0, 1, SIZE), DISC
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    centers = [2 * radius + step * number for number in range(frames)]
    discs = [(rows - SIZE[0] / 2) ** 2 + (columns - center) ** 2 < radius**2 for center in centers]
    return [torch.where(disc, torch.tensor([0.1, 0.1, 0.3])[:, None, None], ground) for disc in discs], discs


def noisy(frames: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Add a camera's noise, and round to 8 bits."""
    draw = torch.Generator().manual_seed(seed)
    return [
        ((frame + NOISE * torch.randn(frame.shape, generator=draw)).clamp(0, 1) * 255).round() / 255 for frame in frames
    ]


@torch.inference_mode()
def main() -> None:
    """Measure all networks, print the table, and write it with the last frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", type=Path, help="runs, checkpoints, exported networks, or bundled")
    parser.add_argument("--steady", type=float, nargs="+", default=[0.6], help="strengths of the filter, beside 0")
    parser.add_argument("--frames", type=int, default=12, help="frames of each video")
    parser.add_argument("--style", type=int, default=0, help="number of the style, of a network with several")
    parser.add_argument("--out", type=Path, help="folder for flicker.md and the painted frames")
    options = parser.parse_args()
    rows = [row for network in options.networks for row in _measure(network, options)]
    table = Table(*COLUMNS, title="Flicker")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if options.out:
        lines = [
            f"| {' | '.join(COLUMNS)} |",
            f"|{' --- |' * len(COLUMNS)}",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
        command = f"    {shlex.join(['python', *sys.argv])}"
        (options.out / "flicker.md").write_text("\n".join([command, "", *lines]) + "\n")
        print(f"wrote {options.out / 'flicker.md'} and the frames beside it")


def _measure(network: Path, options: argparse.Namespace) -> list[list[str]]:
    model = Run.find(with_shipped_networks(network)).load(Painter)
    figures: dict[float, list[list[float]]] = {share: [] for share in (0, *options.steady)}
    for name in track(PHOTOS, str(network), console=Console(stderr=True)):
        photo = to_tensor(bundled_photo(name))
        panned, rest = pan(photo, options.frames), [warp(photo, 0, 0, 1, SIZE)] * options.frames
        crossed, discs = crossing(photo, options.frames)
        videos = [noisy(frames, seed) for seed, frames in enumerate((panned, rest, crossed))]
        painted = [[model(frame[None], options.style)[0] for frame in frames] for frames in videos]
        for share, found in figures.items():
            filtered = [_filtered(share, *pair) for pair in zip(videos, painted, strict=True)]
            row: list[float] = []
            for index, move in enumerate((moved_on, lambda frame, number: frame)):
                value = flicker(filtered[index], move)
                row += [value, value / flicker(videos[index], move)]
            found.append([*row, ghost(filtered[2], painted[2], discs)])
            if options.out:
                _write(options.out / f"{network.name}-{Path(name).stem}-{share:g}", filtered[0])
    means = {share: torch.tensor(found).mean(0).tolist() for share, found in figures.items()}
    return [
        [str(network), f"{share:g}", *(f"{v:.4f}" if n in (0, 2) else f"{v:.2f}" for n, v in enumerate(mean))]
        for share, mean in means.items()
    ]


def _filtered(share: float, frames: Sequence[Tensor], painted: Sequence[Tensor]) -> list[Tensor]:
    steady = Steady(share)
    return [steady(frame, painting) for frame, painting in zip(frames, painted, strict=True)]


def _write(folder: Path, frames: Sequence[Tensor]) -> None:
    for number, frame in enumerate(frames):
        write_image(to_picture(frame), folder / f"{number}.png")


def _place(number: int) -> tuple[float, float, float]:
    right, down, zoom = PAN
    return right * number, down * number, zoom**number


if __name__ == "__main__":
    main()
