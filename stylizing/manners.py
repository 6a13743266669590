"""How the options of a command line ask for photos to be painted."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.networks.transformer import Style
from lightning_modules.painter import Painter, split_share
from norms.errors import SettingError
from stylizing.masks import Region, read_region
from stylizing.painting import Manner


def find_manners(options: Namespace, model: Painter) -> list[Manner]:
    """Return how each of a photo's results is painted: one, or as many as a sweep has.

    Args:
        options: What :mod:`stylizing.command` has parsed.
        model: The network, which knows its styles.

    Raises:
        SettingError: If there is no such style, a mask cannot be read, or a sweep has no two ends.
    """
    regions = [_region(mask, model, options.max_pixels) for mask in options.mask]
    styles = [model.find_style(options.style)] if options.sweep is None else _sweep(model, options.style, options.sweep)
    return [Manner(style, options.stroke_size, options.strength, options.colors, regions) for style in styles]


def _region(text: str, model: Painter, max_pixels: int | None) -> Region:
    parts = text.split("=")
    splits = [("=".join(parts[:end]), "=".join(parts[end:])) for end in range(len(parts) - 1, 0, -1)] or [("", "")]
    # Paths may contain the sign themselves.
    path, style = next((split for split in splits if os.path.lexists(os.path.expanduser(split[0]))), splits[0])
    if not path or not style:
        raise SettingError(f"--mask {text}: expected a picture and a style, as in --mask sky.png=NAME")
    try:
        return read_region(Path(os.path.expanduser(path)), model.find_style([style]), max_pixels)
    except SettingError as error:
        raise SettingError(f"--mask: {error}") from error


def _sweep(model: Painter, styles: Sequence[str], steps: int) -> list[Style]:
    """Return mixtures that lead evenly from the first style to the second."""
    if len(styles) != 2 or any(share for _, share in map(split_share, styles)):
        raise SettingError("--sweep leads from one style to another: give two, as in --style NAME --style NAME")
    first, second = styles
    one, other = (model.find_style([style]) for style in styles)
    shares = [step / (steps - 1) for step in range(steps)]
    if isinstance(one, Tensor) and isinstance(other, Tensor):  # statistics of pictures, which take long to measure
        return [torch.lerp(one, other, share) for share in shares]
    return [model.find_style([f"{first}={1 - share:.6f}", f"{second}={share:.6f}"]) for share in shares]
