"""What a network makes of the same input with gates as learned, binarized, or all of one kind: pictures and scores."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from lightning_modules.base import TrainingModule
from lightning_modules.gan import GAN
from lightning_modules.generation import enlarged_grid
from lightning_modules.style_transfer import StyleTransfer
from mixing_analysis.activations import Activations, activations
from mixing_analysis.evaluations import HeldOut, Latents, rms
from mixing_analysis.networks import evaluating, load_data, load_module
from mixing_analysis.sheets import GAP, LARGEST, Sheet, colored, fitted, inset
from mixing_analysis.values import Run
from norms.mixing import binarize_, mixing_layers
from training.images import write_image

RUNS = 6
"""Of how many runs there are pictures at most."""

STYLES = 3
"""How many of a network's styles are shown at most."""

DRAWN, COLUMNS = 20, 5
"""How many images of a generator are shown, and how many of them in a row."""

MAP = 256
"""How many pixels the longer side of a map of activations has at most."""

ORDER = ("batch", "instance", "layer")
"""The order in which a network is made all of one statistic; those of other norms follow."""


@dataclass(frozen=True)
class Version:
    """Hold what is known of a network whose layers normalize in some way.

    Attributes:
        name: ``learned``, ``binarized``, or the statistic that all layers that know it normalize by.
        scores: What the module's validation says on held-out images; of a GAN, ``d_fake``.
        changes: By how much its pictures differ from those of the learned version, as the root mean square over the
            values of their pixels, which lie in [0, 1]: one number for each style, or for all images of a generator.
            Empty if it makes no pictures.
    """

    name: str
    scores: Mapping[str, float]
    changes: tuple[float, ...]


@dataclass(frozen=True)
class Channel:
    """Hold what a channel does, and a sheet of it.

    Attributes:
        activations: What it does.
        sheet: In each row an image and its activations in each of the ways.
        limit: The activation whose color is the darkest, of either sign.
    """

    activations: Activations
    sheet: Sheet
    limit: float


@dataclass(frozen=True)
class Pictures:
    """Hold the pictures of a run.

    Attributes:
        run: Its name.
        versions: Of the network, first the learned one.
        count: On how many images, or latent vectors, they are scored.
        generated: Whether a generator has drawn the pictures.
        rows: What each row of the sheet shows: a style, or nothing that would need words.
        given: Whether the first column of the sheet is what all versions were given.
        sheet: A column for what was given and for each version; None if the network makes no pictures.
        channels: Of a few channels, what they do.
    """

    run: str
    versions: tuple[Version, ...]
    count: int
    generated: bool
    rows: tuple[str, ...]
    given: bool
    sheet: Sheet | None
    channels: tuple[Channel, ...]


def make(run: Run, batches: int = 32, trusted: Sequence[str] = ()) -> Pictures:
    """Make the pictures of a run: from the first held-out image, or from the same latent vectors.

    Each version is a copy of the network with running statistics that are recalibrated for it.

    Args:
        run: As :func:`mixing_analysis.binarized.evaluate` takes it.
        batches: Likewise.
        trusted: Likewise.

    Raises:
        SettingError: If none can be made.
    """
    with evaluating(trusted):
        module = load_module(run)
        scene = _Latents(module) if isinstance(module, GAN) else _Photo(module, HeldOut(load_data(run), batches))
        return _make(run, module, scene)


def write(pictures: Sequence[Pictures], folder: Path) -> list[Path]:
    """Write pictures as PNG files: those of a version below each other, and a sheet for each channel.

    Args:
        pictures: Of each run.
        folder: Where the files go; it is made.

    Returns:
        The files.
    """
    written = []
    for number, own in enumerate(pictures):
        start = own.run + (f"_{number}" if number else "")
        sheets = {}
        if own.sheet is not None:
            names = [*(["given"] if own.given else []), *(version.name for version in own.versions)]
            sheets = {name: own.sheet.column(column) for column, name in enumerate(names)}
        for channel in own.channels:
            sheets[f"{channel.activations.layer}_channel_{channel.activations.channel}"] = channel.sheet.image
        for name, image in sheets.items():
            written.append(folder / (re.sub(r"[^\w.-]+", "_", f"{start}_{name}") + ".png"))
            write_image(image, written[-1])
    return written


def contents(pictures: Pictures) -> dict[str, Any]:
    """Return the pictures of a run as a page shows them, in types that JSON has."""
    own = pictures
    return {
        "run": own.run,
        "count": own.count,
        "generated": own.generated,
        "rows": list(own.rows),
        "given": own.given,
        "sheet": own.sheet and _described(own.sheet),
        "versions": [
            {"name": each.name, "scores": dict(each.scores), "changes": list(each.changes)} for each in own.versions
        ],
        "channels": [
            {
                "layer": each.activations.layer,
                "channel": each.activations.channel,
                "learned": each.activations.learned,
                "ways": list(each.activations.ways),
                "images": list(each.activations.images),
                "compared": each.activations.compared,
                "means": each.activations.means,
                "limit": each.limit,
                "sheet": _described(each.sheet),
            }
            for each in own.channels
        ],
    }


def _described(sheet: Sheet) -> dict[str, Any]:
    height, width = sheet.size
    whole = list(sheet.image.shape[1:])
    return {"data": sheet.data_url(), "height": height, "width": width, "gap": GAP, "whole": whole}


class _Photo:
    """See what versions of a module make of the first held-out image, in some of the styles that it has."""

    generated = False

    def __init__(self, module: TrainingModule, source: HeldOut) -> None:
        self.source = source
        self.batch = {key: tensor[:1] for key, tensor in next(source.batches()).items()}
        names = module.style_names if isinstance(module, StyleTransfer) else [""]
        self.styles = torch.linspace(0, len(names) - 1, min(STYLES, len(names))).round().int().tolist()
        self.rows = tuple(names[style] for style in self.styles) if len(names) > 1 else ("",)

    def given(self, module: TrainingModule) -> list[Tensor]:
        """Return the image for each style, with the style's picture in a corner."""
        image = self.batch["image"][0].cpu().expand(3, -1, -1)
        if isinstance(module, StyleTransfer):
            pictures = [module.style_images[style] for style in self.styles]
            return [inset(image, tvf.to_dtype(each.cpu(), torch.float32, scale=True)) for each in pictures]
        return [inset(image, self.batch["style"][0].cpu()) if "style" in self.batch else image]

    def see(self, version: TrainingModule) -> tuple[Mapping[str, float], list[Tensor], list[Tensor]]:
        """Return the scores of a version, its pictures, and what the changes of its pictures are measured on."""
        scores = self.source.scores(version)
        version.to(self.source.device)
        with version.evaluation():
            if isinstance(version, StyleTransfer):
                images = [version(self.batch["image"], style)[0] for style in self.styles]
            else:
                found = version.predict_step(self.batch, 0)
                is_image = isinstance(found, Tensor) and found.ndim == 4 and found.shape[1] in (1, 3)
                images = [found[0]] if is_image else []
        return scores, images, images


class _Latents:
    """See what versions of a generator make of the same latent vectors."""

    generated = True
    rows = ("",)

    def __init__(self, gan: GAN) -> None:
        self.source = Latents(gan)

    def given(self, gan: GAN) -> list[Tensor]:
        """Return nothing: latent vectors are no pictures."""
        return []

    def see(self, version: GAN) -> tuple[Mapping[str, float], list[Tensor], list[Tensor]]:
        """Likewise, on all images."""
        images = self.source.draw(version)
        score, images = self.source.d_fake(version, images), (images + 1) / 2
        shown = images[:DRAWN, :3] if images.shape[1] >= 3 else images[:DRAWN, :1]
        scale = max(1, LARGEST // (COLUMNS * (shown.shape[3] + 2)))
        return {"d_fake": score}, [enlarged_grid(shown.clamp(0, 1), COLUMNS, scale)], [images]


def _make(run: Run, module: TrainingModule, scene: Any) -> Pictures:
    versions, columns = [], []
    learned: list[Tensor] = []
    channels: tuple[Channel, ...] = ()
    for name, version in _versions(module):
        ready = scene.source.recalibrated(version)
        if name == "learned":
            found = activations(ready, scene.source.batches(), scene.source.forward)
            channels = tuple(_channel(each, scene.source.images(ready, each.inputs)) for each in found)
        scores, shown, compared = scene.see(ready)
        learned = learned or compared
        changes = tuple(rms(image - before) for image, before in zip(compared, learned, strict=True))
        versions.append(Version(name, scores, changes))
        columns.append(shown)
    given = scene.given(module)
    if not columns[0]:
        given, sheet = [], None
    else:
        shown = [given, *columns] if given else columns
        sheet = Sheet.of([[fitted(column[row]) for column in shown] for row in range(len(scene.rows))])
    return Pictures(
        run.name, tuple(versions), scene.source.count, scene.generated, scene.rows, bool(given), sheet, channels
    )


def _versions(module: TrainingModule) -> Iterator[tuple[str, TrainingModule]]:
    """Yield copies of a module by what is done to their gates."""
    known = {name for _, layer in mixing_layers(module) for kind in layer.kinds for name in layer.statistics_of(kind)}
    yield "learned", module
    for statistic in (None, *(name for name in ORDER if name in known), *sorted(known - {*ORDER})):
        version = copy.deepcopy(module)
        binarize_(version, statistic)
        yield statistic or "binarized", version


def _channel(found: Activations, images: Tensor) -> Channel:
    limit = float(np.quantile(found.maps.abs().numpy(), 0.995)) or 1.0
    shown = [fitted(image, MAP) for image in images]
    size = (shown[0].shape[1], shown[0].shape[2])
    maps = colored(found.maps, limit, size)
    return Channel(found, Sheet.of([[image, *maps[:, number]] for number, image in enumerate(shown)]), limit)
