"""What the gates of single channels decide: activations on held-out images, with gates as learned and forced."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_modules.base import TrainingModule
from mixing_analysis.kinds import word
from norms.base import MixingNorm
from norms.mixing import LayerReport
from norms.pooling import set_whole_, whole
from training.callbacks.mixing import read_values

CHANNELS, IMAGES = 4, 3
"""How many channels of a run are shown, and on how many images each."""

MOST_COMPARED = 128
"""Among how many images at most those are looked for that excite a channel most."""

Batch = Mapping[str, Tensor]
Forward = Callable[[Any, Batch], object]


@dataclass(frozen=True)
class Activations:
    """Hold what a channel is after its norm, on the images that excite it most, the strongest first.

    Attributes:
        layer: The layer, as logs call it.
        channel: Its channel, from 0.
        learned: What the layer has learned for the channel, by the words of its kinds: its gate, or shares by label.
        ways: How the channel is normalized, by words, in the order of ``maps``; first as learned.
        images: The places of the images among those compared, from 0.
        compared: How many were compared.
        inputs: These images, as the network is given them, one batch.
        maps: The activations with gamma and beta, before any nonlinearity, (ways, images, H, W).
    """

    layer: str
    channel: int
    learned: dict[str, float | dict[str, float]]
    ways: tuple[str, ...]
    images: tuple[int, ...]
    compared: int
    inputs: Batch
    maps: Tensor

    @property
    def means(self) -> list[list[float]]:
        """The mean activation in each way, of each image."""
        means: list[list[float]] = self.maps.double().mean((2, 3)).tolist()
        return means


def activations(
    module: TrainingModule, batches: Iterable[Batch], forward: Forward, count: int = CHANNELS
) -> list[Activations]:
    """Look into the channels that tell most: one in each of the layers whose learned values are spread the widest.

    That is the channel which moving its gate to an end, or the layer's weights to a single statistic, changes most even
    if it is the one that changes it least, in the mean square over the images; if all are there already, the one that
    the other end changes most. An image excites a channel by its mean activation as learned; of those that are the
    same to three decimals the first comes first.

    Args:
        module: The network, with running statistics that fit it.
        batches: Images, as the network is given them, each a table of tensors with one entry for each image.
        forward: Passes one of them through the network.
        count: How many layers.

    Returns:
        One for each layer that the images reach, the widest spread first.
    """
    compared = list(_first(batches, MOST_COMPARED))
    reports = read_values(module)
    layers = {label: module.get_submodule(report.layer) for label, report in reports.items()}
    with module.evaluation():
        reached: set[str] = set()
        _watch(layers, lambda label, *_: reached.add(label), module, _chosen(compared, [0]), forward)
        widest = sorted(reached, key=lambda label: -_spread(reports[label]))[:count]
        channels = _channels({label: layers[label] for label in widest}, module, compared, forward)
        return [
            _look(label, channel, means, reports[label], module, compared, forward)
            for label, (channel, means) in channels.items()
        ]


def ways(layer: MixingNorm, channel: int | None = None) -> dict[str, MixingNorm]:
    """Copy a layer with its gates at either end, and with its weights given to each of the statistics that it mixes.

    Args:
        layer: The layer, which stays as it is.
        channel: The channel whose gate is forced, all others being as learned; None for all. Weights are the layer's.

    Returns:
        From words to the copies.
    """
    forced: dict[str, MixingNorm] = {}
    for kind in layer.kinds:
        if kind.per_channel:
            for end, name in zip((kind.low, kind.high), kind.end_names or ("", ""), strict=True):
                values = whole(getattr(layer, kind.name)).detach().clone()
                values[slice(None) if channel is None else channel] = end
                way = f"{kind.name} {end:g}" + (f" ({name})" if name else "")
                forced[way] = copy.deepcopy(layer)
                set_whole_(forced[way], kind.name, values)
        else:
            for statistic in layer.statistics_of(kind):
                alone = copy.deepcopy(layer)
                alone.binarize_(statistic)
                forced[f"{statistic} alone"] = alone
    return forced


Call = Callable[[str, MixingNorm, tuple[Any, ...], dict[str, Any], Tensor], object]


def _watch(layers: Mapping[str, Any], see: Call, module: TrainingModule, batch: Batch, forward: Forward) -> None:
    """Pass a batch through the network, and show the first call of each layer with what it returned."""
    open_: set[str] = set(layers)

    def show(label: str, layer: MixingNorm, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        if label in open_:
            open_.remove(label)
            see(label, layer, args, kwargs, output)

    with ExitStack() as stack:
        for label, layer in layers.items():
            hook = layer.register_forward_hook(partial(show, label), with_kwargs=True)
            stack.callback(hook.remove)
        forward(module, batch)


def _channels(
    layers: Mapping[str, Any], module: TrainingModule, batches: Sequence[Batch], forward: Forward
) -> dict[str, tuple[int, Tensor]]:
    """Return for each layer the channel that tells most, and the mean activation of each image in it."""
    forced = {label: ways(layer) for label, layer in layers.items()}
    means: dict[str, list[Tensor]] = {label: [] for label in layers}
    changes: dict[tuple[str, str], Tensor] = defaultdict(lambda: torch.zeros(()))

    def see(label: str, _: MixingNorm, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        means[label].append(output.flatten(2).double().mean(2).cpu())
        for way, other in forced[label].items():
            change = (other(*args, **kwargs) - output).transpose(0, 1).flatten(1)
            changes[label, way] = changes[label, way] + change.double().square().sum(1).cpu()

    for batch in batches:
        _watch(layers, see, module, batch, forward)
    found = {}
    for label in layers:
        own = torch.stack([changes[label, way] for way in forced[label]])
        least, most = own.amin(0), own.amax(0)
        channel = int((least if least.any() else most).argmax())
        found[label] = channel, torch.cat(means[label])[:, channel]
    return found


def _look(
    label: str,
    channel: int,
    means: Tensor,
    report: LayerReport,
    module: TrainingModule,
    batches: Sequence[Batch],
    forward: Forward,
) -> Activations:
    layer: Any = module.get_submodule(report.layer)
    strongest = (-means).round(decimals=3).argsort(stable=True)[:IMAGES].tolist()
    inputs = _chosen(batches, strongest)
    forced, maps = ways(layer, channel), []

    def see(_: str, layer: MixingNorm, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        maps.extend([output, *(other(*args, **kwargs) for other in forced.values())])

    _watch({label: layer}, see, module, inputs, forward)
    own = torch.stack(maps)[:, :, channel].float().cpu()
    return Activations(
        label,
        channel,
        _learned(report, channel),
        ("as learned", *forced),
        tuple(strongest),
        len(means),
        inputs,
        own.reshape(*own.shape[:3], -1),
    )


def _learned(report: LayerReport, channel: int) -> dict[str, float | dict[str, float]]:
    found: dict[str, float | dict[str, float]] = {}
    for kind in report.kinds:
        values = report.values[kind.name].tolist()
        found[word(kind)] = values[channel] if kind.per_channel else dict(zip(kind.labels, values, strict=True))
    return found


def _spread(report: LayerReport) -> float:
    """Return the standard deviation of a layer's values, in parts of their range; the largest of its kinds."""
    spreads = (report.values[kind.name].std(correction=0) / (kind.high - kind.low) for kind in report.kinds)
    return max(float(spread) for spread in spreads)


def _first(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Yield batches up to so many images."""
    for batch in batches:
        if count <= 0:
            return
        yield {key: tensor[:count] for key, tensor in batch.items()}
        count -= _size(batch)


def _chosen(batches: Sequence[Batch], places: Sequence[int]) -> Batch:
    """Put together a batch of the images at these places."""
    where = [(batch, place) for batch in batches for place in range(_size(batch))]
    chosen = [where[place] for place in places]
    return {key: torch.stack([batch[key][place] for batch, place in chosen]) for key in batches[0]}


def _size(batch: Batch) -> int:
    return len(next(iter(batch.values())))
