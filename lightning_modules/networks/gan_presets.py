"""The generators and discriminators that have a name, and how they are chosen and adapted."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from lightning_modules.networks.sngan import CNN, Architecture, ResNet
from norms.errors import SettingError
from norms.imports import resolve_callable

ARCHITECTURES: dict[str, Architecture] = {
    "resnet16": ResNet(4, (32, 32, 32), (32, 32, 32), 2),
    "resnet28": ResNet(7, (64, 48, 32), (32, 64, 64), 2),
    "resnet32": ResNet(4, (256, 256, 256, 256), (128, 128, 128, 128), 2),
    "resnet48": ResNet(6, (512, 256, 128, 64), (64, 128, 256, 512, 1024), 4),
    "cnn28": CNN(7, (128, 64, 32), (32, 64, 128), 2),
    "cnn32": CNN(4, (512, 256, 128, 64), (64, 128, 256, 512), 3),
    "cnn48": CNN(6, (512, 256, 128, 64), (64, 128, 256, 512), 3),
}
"""``resnet32`` and ``cnn32`` are the networks of Miyato et al. for CIFAR-10, ``resnet48`` and ``cnn48`` those for
STL-10. ``resnet16``, ``resnet28`` and ``cnn28`` are this project's own, small enough for two CPU cores."""


def find_architecture(choice: str | Callable[..., Any]) -> Callable[..., Any]:
    """Look up a row of ``ARCHITECTURES``, or import what builds a generator and a discriminator.

    Args:
        choice: Name of a row, class path or callable. What it stands for is called as an :class:`Architecture` is.

    Raises:
        SettingError: If there is no such thing, or it cannot be called.
    """
    return resolve_callable("architecture", choice, ARCHITECTURES)


def build_networks(
    choice: str | Callable[..., Any], num_classes: int = 0, options: dict[str, Any] | None = None, **settings: Any
) -> tuple[Any, Any]:
    """Build a generator and a discriminator.

    Args:
        choice: As :func:`find_architecture` takes it.
        num_classes: How many classes the images have; 0 for images without. An architecture of the user's own is only
            told if it is not 0.
        options: Handed on to an architecture of the user's own, if there are any.
        settings: What it is called with.

    Raises:
        SettingError: If it cannot be called so, or builds something else.
    """
    build = find_architecture(choice)
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
