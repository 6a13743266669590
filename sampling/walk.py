"""A walk through the latent space, from image to image and back to the first, as an animation or a video."""

import math
from argparse import Namespace
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.generation import TILE
from lightning_modules.metrics.generated import to_bytes
from norms.errors import SettingError, check_range
from sampling.draw import BATCH, COLUMNS, MOST_PIXELS, find_generator, finish, name_of_class, plan_of
from sampling.files import check_new, told
from sampling.plan import Plan, slerp
from sampling.trained import TrainedGenerator
from training.files import replacing
from training.images import to_picture
from training.moving import ANIMATIONS, CONTAINERS, Frame, Pace, check_packages, encode, write_animation
from training.terminal import printable

FRAMES_PER_SECOND = 24.0
MOST_FRAMES = 100_000


def walk(trained: TrainedGenerator, plan: Plan, steps: int) -> Iterator[Tensor]:
    """Yield the images of a closed walk, in [0, 1], shape (C, H, W): ``steps`` from each image of a plan to the next.

    Latent vectors go by :func:`sampling.plan.slerp`. Classes are mixed by shares that go straight from one to the next.
    """
    places = plan.latents(range(plan.count))
    labels = plan.classes(range(plan.count))
    shares = torch.arange(steps) / steps
    for place in range(plan.count):
        following = (place + 1) % plan.count
        latents = slerp(places[place], places[following], shares)
        mixtures = None
        if labels is not None:
            first, second = torch.eye(trained.num_classes)[labels[[place, following]]]
            mixtures = first + shares[:, None] * (second - first)
        for begin in range(0, steps, BATCH):
            part = slice(begin, begin + BATCH)
            mixed = None if mixtures is None else mixtures[part].to(trained.device)
            yield from trained.draw(latents[part].to(trained.device), mixed).cpu()


def write(options: Namespace) -> None:
    """Write the walk that the command line asks for, and say where it is.

    Raises:
        SettingError: If there is no GAN in the run, or the walk cannot be written.
    """
    output, count, steps = options.output or Path("walk.gif"), options.count or COLUMNS, options.interpolate
    kind = output.suffix.lower()
    if kind not in {**ANIMATIONS, **CONTAINERS}:
        raise SettingError(f"{output}: a walk is written as {', '.join([*ANIMATIONS, *CONTAINERS])}")
    check_new(output, options.overwrite)
    check_packages(output)
    check_range("--count with --interpolate", count, at_least=2)
    check_range("--count times --interpolate", count * steps, at_most=MOST_FRAMES)
    rate = Fraction(options.fps or FRAMES_PER_SECOND).limit_denominator(1000)
    check_range("--fps", float(rate), at_least=0.01, at_most=1000)
    trained = find_generator(options)
    plan = plan_of(options, trained, count)
    _, height, width = trained.image_shape
    scale = options.scale or math.ceil(TILE / width)
    if (pixels := count * steps * height * width * scale**2) > MOST_PIXELS and kind in ANIMATIONS:
        raise SettingError(
            f"the walk would have {pixels:,} pixels, and an animation has at most {MOST_PIXELS:,}: "
            "choose a smaller --scale, --count or --interpolate, or write a video (-o walk.mp4)"
        )
    frames = _frames(walk(trained, plan, steps), scale, rate)
    if kind in ANIMATIONS:
        write_animation(frames, output, plays=0)
    else:
        with told(output), replacing(output) as partial:
            encode(frames, partial, kind, Pace(rate), CONTAINERS[kind])
    seconds = float(count * steps / rate)
    print(f"wrote {printable(str(output))}: {count * steps} frames of {width * scale}x{height * scale}, {seconds:g} s")
    if plan.labels and plan.labels != tuple(range(trained.num_classes)):
        print(f"classes: {printable(', '.join(name_of_class(trained, plan.label(i)) for i in range(count)))}")
    finish(options, plan, "--neighbors", "5")


def _frames(images: Iterator[Tensor], scale: int, rate: Fraction) -> Iterator[Frame]:
    for number, image in enumerate(images):
        shown = to_bytes(image).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        yield Frame(to_picture(shown).convert("RGB"), None, number / rate, 1 / rate)
