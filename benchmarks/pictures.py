"""Measure the pictures of style networks: lattices, halos, borders, style and content.

Painted are ten photographs of scikit-image and scikit-learn, at the size at which the network sees photos, so that
nothing is scaled afterwards. All figures are best at the low end.

- Lattice: the horizontal or vertical spectrum of the brightness at period 2 or 4, as a multiple of its neighbours; the
  largest of the four medians over the photographs. 1 is none.
- Halo: how far the brightness around a dark disc on a light ground, and around a light one, leaves that of the ground,
  in the worst ring of the first 12 pixels, beyond what rings further out vary. In [0, 1].
- Border: how much more the brightness of the outermost 4 pixels differs from the next 12 than in the photograph.
- Style and content: relative losses. They are those of a judge that has not trained the network, SqueezeNet 1.1, if
  --judge-weights names its weights, otherwise those of the bundled loss network.

    python benchmarks/pictures.py runs/style_transfer bundled --out pictures/
"""

import argparse
import shlex
import sys
from pathlib import Path

# Python looks first in the folder of a script, where norms is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torchvision.transforms.v2 import functional as tvf

from data.photos import TRAIN_PHOTOS, VAL_PHOTOS, bundled_photo
from lightning_modules.losses.perceptual import PerceptualLoss, usual_terms
from lightning_modules.networks.loss_network import build_loss_network, default_layers
from lightning_modules.painter import Painter
from stylizing.painting import LUMA, Manner, paint
from training.run import Run
from training.shipped import with_shipped_networks

PHOTOS = (*VAL_PHOTOS, *(name for name in TRAIN_PHOTOS if name not in ("brick", "camera", "coins", "grass", "gravel")))
COLUMNS = ("network", "style", "lattice", "halo", "border", "style loss", "content loss")


def luma(picture: Image.Image) -> np.ndarray:
    """Return the brightness of a picture, (H, W) in [0, 1]."""
    return np.asarray(picture.convert("RGB"), dtype=np.float64) @ np.array(LUMA) / 255


def spectral_peaks(picture: Image.Image) -> dict[str, float]:
    """Return the power of the brightness at periods 2 and 4, along rows and columns, by that of its neighbours."""
    peaks = {}
    for name, values in (("horizontal", luma(picture)), ("vertical", luma(picture).T)):
        length = values.shape[1] // 4 * 4
        window = np.hanning(length + 1)[:-1]
        power = (np.abs(np.fft.rfft(values[:, :length] * window)) ** 2).mean(0)
        for period in (2, 4):
            place = length // period
            beside = np.r_[place - 14 : place - 3, place + 4 : place + 15]
            at = power[place - 1 : place + 2].mean()
            peaks[f"{name} {period}"] = float(at / np.median(power[beside[beside < len(power)]]))
    return peaks


def halo(model: Painter, manner: Manner) -> float:
    """Return how bright or dark the surroundings of a disc become, the larger of two discs."""
    size, radius = 240, 60
    across = np.hypot(*(np.indices((size, size)) - (size - 1) / 2))
    worst = 0.0
    for ground, disc in ((200, 40), (40, 200)):
        image = Image.new("RGB", (size, size), (ground,) * 3)
        ImageDraw.Draw(image).circle((size / 2, size / 2), radius, (disc,) * 3)
        # So large that the network sees it pixel by pixel.
        seen = manner._replace(stroke_size=model.hparams["photo_size"] / size)
        values = luma(paint(model, image, seen))
        rings = [values[(across >= r) & (across < r + 2)].mean() for r in range(radius + 2, radius + 50, 2)]
        near, far = np.array(rings[:6]), np.array(rings[8:])
        worst = max(worst, np.abs(near - far.mean()).max() - np.abs(far - far.mean()).max())
    return worst


def border(photo: Image.Image, painted: Image.Image) -> float:
    """Return how much more the outermost pixels differ from the next ones than in the photo."""

    def step(values: np.ndarray) -> float:
        outermost, next_to_it = np.ones((2, *values.shape), dtype=bool)
        outermost[4:-4, 4:-4] = False
        next_to_it[16:-16, 16:-16] = False
        return abs(values[outermost].mean() - values[next_to_it & ~outermost].mean())

    return step(luma(painted)) - step(luma(photo))


def measure(model: Painter, index: int, judge: PerceptualLoss) -> tuple[list[float], list[Image.Image]]:
    """Measure one style of a network.

    Returns:
        The figures, in the order of the table, and the pictures.
    """
    photos = [scaled(bundled_photo(name), model.hparams["photo_size"]) for name in PHOTOS]
    manner = Manner(index)
    painted = [paint(model, photo, manner) for photo in photos]
    peaks = [spectral_peaks(picture) for picture in painted]
    terms = [judge(_tensor(picture), _tensor(photo)) for picture, photo in zip(painted, photos, strict=True)]
    return [
        max(float(np.median([peak[name] for peak in peaks])) for name in peaks[0]),
        halo(model, manner),
        float(np.mean([border(*pair) for pair in zip(photos, painted, strict=True)])),
        *(float(np.mean([float(term[name]) for term in terms])) for name in ("style", "content")),
    ], painted


@torch.no_grad()
def main() -> None:
    """Measure all networks, print the table, and write it with the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", type=Path, help="runs, checkpoints, exported networks, or bundled")
    parser.add_argument("--judge-weights", type=Path, help="weights of torchvision's squeezenet1_1")
    parser.add_argument("--out", type=Path, help="folder for pictures.md and the pictures")
    options = parser.parse_args()
    rows = []
    for network in options.networks:
        model = Run.find(with_shipped_networks(network)).load(Painter)
        for index, style in enumerate(model.style_names):
            judge = _judge(model.style_images[index], options.judge_weights)
            figures, painted = measure(model, index, judge)
            rows.append([str(network), style, *(f"{figure:.2f}" for figure in figures)])
            if options.out:
                folder = options.out / f"{network.name}-{style}"
                folder.mkdir(parents=True, exist_ok=True)
                for name, picture in zip(PHOTOS, painted, strict=True):
                    picture.save(folder / f"{Path(name).stem}.jpg", quality=95)
    table = Table(*COLUMNS, title="Pictures of style networks")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if options.out:
        lines = [
            f"    {shlex.join(['python', *sys.argv])}",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"|{' --- |' * len(COLUMNS)}",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
        (options.out / "pictures.md").write_text("\n".join(lines) + "\n")
        print(f"wrote {options.out / 'pictures.md'} and the pictures beside it")


def _judge(style: torch.Tensor, weights: Path | None) -> PerceptualLoss:
    name = "bundled" if weights is None else "squeezenet1_1"
    layers = default_layers(name)
    network = build_loss_network(name, {*layers.content, *layers.style}, weights)
    judge = PerceptualLoss(network, usual_terms(layers.content, layers.style))
    judge.set_style(tvf.to_dtype(style[None], torch.float32, scale=True))
    return judge


def scaled(photo: Image.Image, longer: int) -> Image.Image:
    """Scale a photo to a length of its longer side."""
    scale = longer / max(photo.size)
    return photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)


def _tensor(picture: Image.Image) -> torch.Tensor:
    return tvf.to_dtype(tvf.pil_to_tensor(picture), torch.float32, scale=True)[None]


if __name__ == "__main__":
    main()
