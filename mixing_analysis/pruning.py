"""A trained network with plain norms in the place of nearly binary gates: what that costs, and what it gains."""

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import nn

from lightning_modules.base import TrainingModule
from lightning_modules.gan import GAN
from lightning_modules.painter import Painter
from mixing_analysis.binarized import Scores, compare
from mixing_analysis.evaluations import HeldOut, Latents
from mixing_analysis.networks import evaluating, load_data, load_module
from mixing_analysis.values import Run
from norms.errors import SettingError, check_range
from norms.mixing import mixing_layers
from norms.pruning import Plain, prune
from sampling.trained import TrainedGenerator
from training.exporting import told_of
from training.files import replacing
from training.network_files import SUFFIX, write_network
from training.run import Run as RunOnDisk
from training.run_data import class_names_of

NETWORK, RECORD = f"pruned{SUFFIX}", "pruned.json"

ROUNDS, SECONDS = 25, 10.0
"""How often a pass is timed at most, and after how long it is enough."""


class Pruned(NamedTuple):
    """Hold what pruning a network has come to.

    Attributes:
        run: Name of the run.
        within: How far from an end a gate may have been.
        layers: What became of the layers that are plain norms now, by their dotted names, see :data:`norms.Plain`.
        mixing: The layers that still mix.
        gates: How many values per channel were moved to an end of their range, and how many there are; switch weights
            are not counted.
        next_layer: Within how far from pure the next layer would become plain; None if all are.
        scores: What the network scores before and after.
        parameters: How many there were, and are.
        bytes: How large the network's file would have been, and is.
        milliseconds: The median time that a pass took and takes, for each image.
        images: How many images a pass was timed with, and their height and width.
        threads: The number of threads.
        module: The class of the module in the file.
    """

    run: str
    within: float
    layers: dict[str, Plain]
    mixing: list[str]
    gates: tuple[int, int]
    next_layer: float | None
    scores: list[Scores]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    milliseconds: tuple[float, float]
    images: tuple[int, int, int]
    threads: int
    module: str

    @property
    def speed(self) -> float:
        """How many times as fast the pruned network is."""
        return self.milliseconds[0] / self.milliseconds[1]


def check_within(within: float) -> None:
    """Refuse a distance from the ends that is not in [0, 0.5), before anything is read.

    Raises:
        SettingError: If it is not.
    """
    check_range("--export-pruned", within, at_least=0, below=0.5)


def check_runs(count: int) -> None:
    """Refuse to prune several runs.

    Raises:
        SettingError: If there are several.
    """
    if count > 1:
        raise SettingError(f"--export-pruned takes one run, got {count}: name the one to prune")


def export(run: Run, within: float, folder: Path, batches: int = 32, trusted: Sequence[str] = ()) -> Pruned:
    """Write a run's network with plain norms in the place of nearly binary gates, see :func:`norms.prune`.

    ``pruned.safetensors`` is what ``stylize.py`` or ``sample.py`` takes, or, of other modules, what
    ``Run.find(path).load(...)`` reads. Its header says which layers are plain. Of a GAN it holds the averaged
    generator. Its running statistics are those that the network had; scores are told with recalibrated ones, too.
    ``pruned.json`` holds what was measured.

    Args:
        run: A run with a checkpoint and the configuration that it was trained with.
        within: How far from an end a gate may be that is pruned, in [0, 0.5), and how much the largest switch weight
            of a layer may lack.
        folder: Where to write; it is there.
        batches: At most how many batches of images to score, and to recalibrate with.
        trusted: Packages that the run may name classes of.

    Returns:
        What it came to.

    Raises:
        SettingError: If the run cannot be evaluated or handed on, or there is nothing to prune.
    """
    check_within(within)
    with evaluating(trusted):
        module = load_module(run)
        held_out = None if isinstance(module, GAN) else HeldOut(load_data(run), batches)
        found = RunOnDisk.find(run.checkpoint or "")
        original: Any = shared(module, found)
        changed = copy.deepcopy(original)
        changed.pruned = prune(changed, within)
        told = told_of(found)
        size = write(original, None, told), write(changed, folder / NETWORK, told)
        if isinstance(module, GAN):
            module.generator = original.network
        scores = list(compare(module, held_out, lambda network: prune(getattr(network, "generator", network), within)))
        milliseconds, images = timed(original, changed, module, held_out)
        pruned = Pruned(
            run.name,
            within,
            dict(changed.pruned),
            [name for name, _ in mixing_layers(changed)],
            *_left(original, within),
            scores,
            (count_parameters(original), count_parameters(changed)),
            size,
            milliseconds,
            images,
            torch.get_num_threads(),
            type(changed).__name__,
        )
    with replacing(folder / RECORD) as partial:
        partial.write_text(json.dumps(record(pruned), indent=1) + "\n")
    return pruned


def record(pruned: Pruned) -> dict[str, Any]:
    """Return what pruning has come to in types that JSON has."""
    return {
        "run": pruned.run,
        "within": pruned.within,
        "network": NETWORK,
        "module": pruned.module,
        "layers": pruned.layers,
        "mixing": pruned.mixing,
        "gates": dict(zip(("moved", "all"), pruned.gates, strict=True)),
        "next_layer": pruned.next_layer,
        "scores": [score._asdict() for score in pruned.scores],
        **{key: _before_after(getattr(pruned, key)) for key in ("parameters", "bytes", "milliseconds")},
        "speed": pruned.speed,
        "timed": dict(zip(("images", "height", "width"), pruned.images, strict=True)) | {"threads": pruned.threads},
    }


def _before_after(pair: tuple[Any, Any]) -> dict[str, Any]:
    return dict(zip(("before", "after"), pair, strict=True))


def lines(pruned: Pruned, output: Path) -> Iterator[str]:
    """Tell what pruning has come to, a line each.

    Args:
        pruned: What :func:`export` has returned.
        output: The folder that the network was written to.
    """
    kinds = Counter(plain if isinstance(plain, str) else "split by channel" for plain in pruned.layers.values())
    became = f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})" if kinds else ""
    total = len(pruned.layers) + len(pruned.mixing)
    yield f"pruned within {pruned.within:g}: {len(pruned.layers)} of {total} layers are plain norms now{became}"
    if pruned.gates[1]:
        yield f"  {pruned.gates[0]:,} of {pruned.gates[1]:,} gates are binarized"
    if pruned.next_layer is not None:
        yield f"  a layer becomes plain if all of it is near enough: the next one within {pruned.next_layer:.2g}"
    for score in pruned.scores:
        change = score.after - score.before
        numbers = f"{score.before:.4g} before, {score.after:.4g} ({change:+.2g})"
        yield f"  {score.metric}, statistics {score.statistics}: {numbers}"
    (before, after), (slow, fast) = pruned.bytes, pruned.milliseconds
    yield f"  {before:,} bytes before, {after:,}; {pruned.parameters[0]:,} parameters before, {pruned.parameters[1]:,}"
    count, height, width = pruned.images
    yield (
        f"  {slow:.3g} ms an image before, {fast:.3g}, {pruned.speed:.2f} times as fast: medians in one process, "
        f"{count} {'image' if count == 1 else 'images'} of {height}x{width} at once, {pruned.threads} "
        f"{'thread' if pruned.threads == 1 else 'threads'}"
    )
    yield f"wrote {output / NETWORK} and {RECORD}"


def next_command(pruned: Pruned, output: Path) -> str:
    """Return what comes after a pruned network is written.

    Args:
        pruned: What :func:`export` has returned.
        output: The folder that the network was written to.
    """
    path = output / NETWORK
    if pruned.module == TrainedGenerator.__name__:
        return f"python sample.py {path} -o samples.png"
    if pruned.module in {each.__name__ for each in Painter.__subclasses__()}:
        return f"python stylize.py {path} photo.jpg -o out/"
    return f"in Python, Run.find('{path}').load({pruned.module}), with Run of training.run"


def shared(module: TrainingModule, found: RunOnDisk) -> nn.Module:
    """Return what of a trained module is handed on: of a GAN the averaged generator, else the module itself.

    Args:
        module: The module.
        found: The run that it is of.

    Raises:
        SettingError: If it cannot be handed on.
    """
    if isinstance(module, GAN):
        names = class_names_of(found, module) if module.num_classes else []
        return TrainedGenerator.of(module, class_names=names).settled()
    if not hasattr(module, "shared_settings"):
        raise SettingError(f"a {type(module).__name__} cannot be written to a file: it has no shared_settings")
    return module


def _left(network: nn.Module, within: float) -> tuple[tuple[int, int], float | None]:
    """Return how many gates are near an end, of how many, and how far from pure the nearest layer is that is not."""
    moved, gates, farthest = 0, 0, []
    for _, layer in mixing_layers(network):
        impurities = {kind: kind.impurity(layer.mixing_values()[kind.name]) for kind in layer.kinds}
        for kind, impurity in impurities.items():
            if kind.per_channel:
                gates += len(impurity)
                moved += int((impurity <= within).sum())
        farthest.append(max(float(impurity.max()) for impurity in impurities.values()))
    return (moved, gates), min((each for each in farthest if each > within), default=None)


def write(network: Any, path: Path | None, told: dict[str, str]) -> int:
    """Write a network, or only find out how large its file would be; return its size in bytes.

    Args:
        network: What :func:`shared` has returned, or a copy of it.
        path: Where to; None for nowhere.
        told: What the header of the file says beside, see :func:`training.exporting.told_of`.
    """
    convolutions = torch.float16 if isinstance(network, Painter) else torch.float32  # as the export commands do
    with tempfile.TemporaryDirectory() as folder:
        target = path or Path(folder) / NETWORK
        write_network(network, target, told, convolutions)
        return target.stat().st_size


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def timed(
    original: Any, changed: Any, module: TrainingModule, held_out: HeldOut | None
) -> tuple[tuple[float, float], tuple[int, int, int]]:
    """Time a pass of both networks in turns.

    Args:
        original: What :func:`shared` has returned.
        changed: A changed copy of it.
        module: The module that it is of.
        held_out: Its held-out images, which a GAN does not need.

    Returns:
        The medians, in milliseconds per image, and how many images there were, and their height and width.
    """
    networks = original, changed
    if isinstance(module, GAN):
        inputs = tuple(next(Latents(module).batches()).values())
        count, (_, height, width) = len(inputs[0]), module.image_shape
        passes = [partial(network.draw, *inputs) for network in networks]
    else:
        assert held_out is not None
        batch = move_data_to_device(next(held_out.batches()), module.device)
        count, _, height, width = batch["image"].shape
        passes = [partial(network.predict_step, batch, 0) for network in networks]
    first, second = (1000 * seconds / count for seconds in _medians(passes))
    return (first, second), (count, height, width)


def _medians(passes: Sequence[Callable[[], object]]) -> list[float]:
    for each in passes:
        each()
    taken: list[list[float]] = [[] for _ in passes]
    begin = perf_counter()
    while len(taken[0]) < ROUNDS and perf_counter() - begin < SECONDS:
        for times, each in zip(taken, passes, strict=True):
            start = perf_counter()
            each()
            times.append(perf_counter() - start)
    return [median(times) for times in taken]
