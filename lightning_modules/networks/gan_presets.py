"""The generators and discriminators that have a name, and how they are chosen and adapted."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_modules.networks.gan_networks import Architecture
from lightning_modules.networks.r3gan import R3GAN
from lightning_modules.networks.sngan import CNN, ResNet
from norms.errors import SettingError, check_range, check_types, unknown
from norms.imports import resolve_callable

LARGEST_IMAGE, WIDEST_STAGE = 128, 1024

ARCHITECTURES: dict[str, Architecture] = {
    "resnet16": ResNet(4, (32, 32, 32), (32, 32, 32), 2),
    "resnet28": ResNet(7, (64, 48, 32), (32, 64, 64), 2),
    "resnet32": ResNet(4, (256, 256, 256, 256), (128, 128, 128, 128), 2),
    "resnet48": ResNet(6, (512, 256, 128, 64), (64, 128, 256, 512, 1024), 4),
    "cnn28": CNN(7, (128, 64, 32), (32, 64, 128), 2),
    "cnn32": CNN(4, (512, 256, 128, 64), (64, 128, 256, 512), 3),
    "cnn48": CNN(6, (512, 256, 128, 64), (64, 128, 256, 512), 3),
    "sagan": ResNet(
        4,
        (1024, 1024, 512, 256, 128, 64),
        (64, 128, 256, 512, 1024, 1024),
        5,
        spectral="both",
        attention=32,
        wide_discriminator=True,
    ),
    "biggan": ResNet(
        4,
        (1536, 1536, 768, 384, 192, 96),
        (96, 192, 384, 768, 1536, 1536),
        5,
        spectral="both",
        embedding=128,
        skip_latents=True,
        attention=64,
        wide_discriminator=True,
        initialization="orthogonal",
    ),
    "biggan32": ResNet(
        4,
        (256, 256, 256, 256),
        (256, 256, 256, 256),
        2,
        spectral="both",
        embedding=128,
        skip_latents=True,
        wide_discriminator=True,
        initialization="orthogonal",
    ),
    "r3gan28": R3GAN(7, (64, 48, 32), (32, 48, 64), 2, spectral="none", embedding=64, blocks=1),
    "r3gan": R3GAN(4, (768, 768, 768, 768), (768, 768, 768, 768), 3, spectral="none", embedding=64),
}
"""The networks by name. The number is the side of their images.

- ``resnet32`` and ``cnn32``, ``resnet48`` and ``cnn48`` are those of Miyato et al. 2018 for CIFAR-10 and STL-10. With
  classes, ``resnet32`` is that of Miyato & Koyama 2018, but that its last layer has a bias.
- ``sagan`` is that of Zhang et al. 2019 for 128 pixels.
- ``biggan`` is that of Brock et al. 2019 for 128 pixels with 96 channels, which takes ``latent_dim: 120``.
  ``biggan32`` has the widths of its first author's code for CIFAR-10, with skip latents and a shared embedding of the
  classes, which that code leaves out there. The orthogonal regularization and the truncation of the paper are no part
  of the networks, and the statistics of norms are those that the norm takes.
- ``r3gan`` is that of Huang et al. 2024 for CIFAR-10, with the differences that :class:`R3GAN` names. Its latent
  vectors have ``latent_dim: 64``.
- ``resnet16``, ``resnet28``, ``cnn28`` and ``r3gan28`` are this project's own, small enough for two CPU cores.
"""


def find_architecture(choice: str | Callable[..., Any]) -> Callable[..., Any]:
    """Look up a row of ``ARCHITECTURES``, or import what builds a generator and a discriminator.

    Args:
        choice: Name of a row, class path or callable. What it stands for is called as an :class:`Architecture` is.

    Raises:
        SettingError: If there is no such thing, or it cannot be called.
    """
    return resolve_callable("architecture", choice, ARCHITECTURES)


@dataclass(frozen=True)
class Sizes:
    """Hold the options that change several fields of an architecture at once.

    For larger images both networks get further stages at their coarse end: as wide as the coarsest one, or twice as
    wide where that is twice as wide as its neighbor, up to 1024 channels. For smaller ones they lose coarse stages.
    Attention moves along, so that it stays at the same share of the image's side.

    Attributes:
        image_size: Side of the images, up to 128: the architecture's base, doubled at least once; None leaves it.
        width: Factor of all widths, which become multiples of 8.
    """

    image_size: int | None = None
    width: float = 1.0


def adapt(architecture: Architecture, options: Mapping[str, Any]) -> Architecture:
    """Return an architecture with some of its fields replaced, and then with other sizes.

    Args:
        architecture: A row of ``ARCHITECTURES``.
        options: New values of its fields, and those of :class:`Sizes`.

    Raises:
        SettingError: If there is no such field, or its value is none that it takes.
    """
    own, sizes = (inspect.signature(kind) for kind in (type(architecture), Sizes))
    known = [*own.parameters, *sizes.parameters]
    for name in options:
        if name not in known:
            raise unknown("option", str(name), known)
    check_types(options, own)
    check_types(options, sizes)
    row = {name: options.get(name, getattr(architecture, name)) for name in own.parameters}
    for name in ("generator", "discriminator"):
        if not isinstance(row[name], list | tuple) or not all(type(width) is int for width in row[name]):
            raise SettingError(f"{name} must be a list of whole numbers, got {row[name]!r}")
        row[name] = tuple(row[name])
    asked = Sizes(**{name: value for name, value in options.items() if name in sizes.parameters})
    check_range("width", asked.width, above=0, below=math.inf)
    further = 0
    if asked.image_size is not None:
        further = _doublings(row["base"], asked.image_size) - len(row["generator"]) + 1
    row["generator"] = _widths(row["generator"][::-1], further, asked.width)[::-1]
    row["discriminator"] = _widths(row["discriminator"], further, asked.width)
    row["halvings"] += further
    if row.get("attention") is not None and "attention" not in options:
        image_size = row["base"] * 2 ** (len(row["generator"]) - 1)
        row["attention"] = round(row["attention"] * image_size / architecture.image_size)
    return type(architecture)(**row)


def _doublings(base: int, image_size: int) -> int:
    check_range("base", base, at_least=1, at_most=LARGEST_IMAGE // 2)
    sizes = {base * 2**k: k for k in range(1, 8) if base * 2**k <= LARGEST_IMAGE}
    if image_size not in sizes:
        nearest = sorted(sorted(sizes, key=lambda size: abs(size - image_size))[:2])
        raise SettingError(
            f"image_size must be base {base} doubled at least once, up to {LARGEST_IMAGE}, such as "
            f"{' or '.join(map(str, nearest))}, got {image_size}"
        )
    return sizes[image_size]


def _widths(widths: tuple[int, ...], further: int, factor: float) -> tuple[int, ...]:
    """Return widths from fine to coarse with ``further`` ones, or fewer if that is negative, times a factor."""
    stages = list(widths[: len(widths) + min(further, 0)])
    for _ in range(further):
        doubled = len(stages) > 1 and stages[-1] == 2 * stages[-2]
        stages.append(min(2 * stages[-1], max(WIDEST_STAGE, stages[-1])) if doubled else stages[-1])
    return tuple(stages if factor == 1 else (8 * max(1, round(stage * factor / 8)) for stage in stages))


def build_networks(
    choice: str | Callable[..., Any], num_classes: int = 0, options: dict[str, Any] | None = None, **settings: Any
) -> tuple[Any, Any]:
    """Build a generator and a discriminator.

    Args:
        choice: As :func:`find_architecture` takes it.
        num_classes: How many classes the images have; 0 for images without. An architecture of the user's own is only
            told if it is not 0.
        options: What :func:`adapt` changes about a row of ``ARCHITECTURES``. An architecture of the user's own is given
            them as they are, if there are any.
        settings: What it is called with.

    Raises:
        SettingError: If it cannot be called so, or builds something else.
    """
    build = find_architecture(choice)
    check_range("num_classes", num_classes, at_least=0)
    if isinstance(build, Architecture):
        try:
            adapted = adapt(build, options or {})
        except SettingError as error:
            raise SettingError(f"architecture {choice!r}: {error}") from error
        return adapted(**settings, num_classes=num_classes)
    if num_classes:
        settings["num_classes"] = num_classes
    if options:
        settings["options"] = options
    try:
        inspect.signature(build).bind(**settings)
    except TypeError as error:
        raise SettingError(f"architecture {choice!r} does not take {', '.join(settings)}: {error}") from error
    except ValueError:
        pass  # some that are written in C have no signature
    networks = build(**settings)
    if not isinstance(networks, tuple | list) or [isinstance(part, nn.Module) for part in networks] != [True, True]:
        raise SettingError(f"architecture {choice!r} must build a generator and a discriminator")
    generator, discriminator = networks
    if not isinstance(getattr(generator, "image_size", None), int):
        raise SettingError(f"architecture {choice!r} must build a generator that has an image_size")
    return generator, discriminator
