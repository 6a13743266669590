"""Time and memory of normalization layers, as multiples of what nn.BatchNorm2d and nn.InstanceNorm2d take.

A layer and the two references take turns in one process, on input of the same layout and dtype, so that whatever else
slows the machine slows all three. A figure is the ratio of two medians: to nn.BatchNorm2d, followed by the
interquartile range of the ratios of single rounds, and after a stroke to nn.InstanceNorm2d, the cheapest layer of torch
that has to read as much. The rows of the references show how far chance reaches. Textbook layers are their papers'
formulas in operations of autograd. nn.GroupNorm has 32 groups, or fewer to have two channels in each.

    python benchmarks/norms.py --dtypes float32 bfloat16 --threads 2 --markdown benchmarks/norms.md
"""

import argparse
import itertools
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

# Python looks first in the folder of a script, where this script itself is called norms.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

import norms
from benchmarks import pages

Step = Callable[[], object]

TRAINING, FORWARD, EVALUATION = MEASURES = ("forward + backward", "forward", "evaluation")
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAUNCH_BOUND = (8, 16, 32, 32)
SHAPES = {
    "cpu": [(64, 64, 32, 32), (4, 32, 256, 256), (4, 128, 64, 64), (128, 256, 8, 8), (8, 64, 128, 128), LAUNCH_BOUND],
    "cuda": [LAUNCH_BOUND, (16, 64, 32, 32), (64, 64, 56, 56), (64, 256, 56, 56), (64, 64, 224, 224)],
}
TARGETED = ("norms.BatchInstanceNorm2d", "norms.SwitchableNorm2d", "norms.BatchRenorm2d")
TO_BATCH = {TRAINING: 1.2}
TO_INSTANCE = {TRAINING: 1.0, EVALUATION: 1.1}
LAUNCH_BOUND_TARGET, COMPILED_TARGET, CUDA_TARGET = 2.5, 1.0, 1.1
TRAFFIC = {TRAINING: 8, FORWARD: 3}
"""How often a layer that reduces x in one pass and maps it in another reads or writes a tensor of the size of x."""
LARGE, SHARE_TARGET = 100e6, 0.8
"""From how many bytes on a tensor is bound by bandwidth, and the share of a copy's bandwidth to be reached there."""


class Textbook(nn.Module):
    """Write a layer as its paper does, in operations of autograd."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        shape = (1, channels, 1, 1)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    def batch_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and variance of the batch, or in evaluation the running ones."""
        if not self.training:
            return self.running_mean, self.running_var
        dims, count = (0, 2, 3), x.numel() // x.shape[1]
        mean, var = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
        self.running_mean.lerp_(mean.detach(), 0.1)
        self.running_var.lerp_(var.detach() * (count / (count - 1)), 0.1)
        return mean, var


class TextbookBatchInstanceNorm(Textbook):
    """Add two separate norms."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.rho = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``."""
        batch = F.batch_norm(x, self.running_mean.flatten(), self.running_var.flatten(), training=self.training)
        return (self.rho * batch + (1 - self.rho) * F.instance_norm(x)) * self.weight + self.bias


class TextbookSwitchableNorm(Textbook):
    """Compute the formula of three statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mean_weight, self.var_weight = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``."""
        pooled = [(x.mean(d, keepdim=True), x.var(d, correction=0, keepdim=True)) for d in ((2, 3), (1, 2, 3))]
        means, variances = zip(*pooled, self.batch_moments(x), strict=True)
        mean = sum(w * m for w, m in zip(self.mean_weight.softmax(0), means, strict=True))
        var = sum(w * v for w, v in zip(self.var_weight.softmax(0), variances, strict=True))
        return (x - mean) / torch.sqrt(var + 1e-5) * self.weight + self.bias


class TextbookBatchRenorm(Textbook):
    """Compute Algorithm 1, with the bounds that the paper ends with.

    ``running_var`` holds the running standard deviation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``."""
        if not self.training:
            return (x - self.running_mean) / self.running_var * self.weight + self.bias
        dims = (0, 2, 3)
        mean, std = x.mean(dims, keepdim=True), torch.sqrt(1e-5 + x.var(dims, correction=0, keepdim=True))
        r = (std.detach() / self.running_var).clamp(1 / 3, 3)
        d = ((mean.detach() - self.running_mean) / self.running_var).clamp(-5, 5)
        y = ((x - mean) / std * r + d) * self.weight + self.bias
        self.running_mean.lerp_(mean.detach(), 0.01)
        self.running_var.lerp_(std.detach(), 0.01)
        return y


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "nn.BatchNorm2d": nn.BatchNorm2d,
    **{f"norms.{name}": getattr(norms, name) for name in norms.__all__ if name.endswith("2d")},
    "nn.GroupNorm": partial(norms.build, "group"),
    "nn.InstanceNorm2d": partial(norms.build, "instance"),
    "textbook batch-instance": TextbookBatchInstanceNorm,
    "textbook switchable": TextbookSwitchableNorm,
    "textbook batch renorm": TextbookBatchRenorm,
}


@dataclass(frozen=True)
class Setting:
    """Say under what conditions layers are compared."""

    device: str
    dtype: str
    compiled: bool
    threads: int
    layout: str
    shape: tuple[int, ...]

    @property
    def label(self) -> str:
        """All but the shape, for a heading."""
        where = self.device if self.device == "cuda" else f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{'compiled' if self.compiled else 'eager'}, {self.dtype}, {self.layout}, {where}"

    @property
    def bytes(self) -> int:
        """The size of the layer's input."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Cell(NamedTuple):
    """Compare one layer in one setting, compared with nn.BatchNorm2d and nn.InstanceNorm2d."""

    setting: Setting
    layer: str
    measure: str
    ratio: float
    low: float
    high: float
    reference_ms: float
    to_instance: float
    instance_ms: float
    bandwidth_share: float | None

    @property
    def target(self) -> float | None:
        """The ratio to nn.BatchNorm2d not to be exceeded, if there is one."""
        if self.layer not in TARGETED:
            return None
        if self.setting.device == "cuda":
            return CUDA_TARGET if self.measure == TRAINING and not self.setting.compiled else None
        if self.setting.compiled:
            return COMPILED_TARGET
        return LAUNCH_BOUND_TARGET if self._is_launch_bound and self.measure == TRAINING else self._of(TO_BATCH)

    @property
    def instance_target(self) -> float | None:
        """The ratio to nn.InstanceNorm2d not to be exceeded, if there is one."""
        targeted = self.layer in TARGETED and self.setting.device == "cpu" and not self.setting.compiled
        return self._of(TO_INSTANCE) if targeted else None

    @property
    def _is_launch_bound(self) -> bool:
        return math.prod(self.setting.shape) <= math.prod(LAUNCH_BOUND)

    def _of(self, targets: dict[str, float]) -> float | None:
        return None if self._is_launch_bound and self.measure == TRAINING else targets.get(self.measure)

    @property
    def share_target(self) -> float | None:
        """The share of a copy's bandwidth to be reached, if there is one."""
        targeted = self.layer in TARGETED and self.bandwidth_share is not None and not self.setting.compiled
        return SHARE_TARGET if targeted and self.setting.bytes >= LARGE else None

    @property
    def hits(self) -> list[bool]:
        """Whether each target that applies is reached."""
        pairs = ((self.ratio, self.target), (self.to_instance, self.instance_target))
        ratios = [ratio <= target for ratio, target in pairs if target is not None]
        return ratios if self.share_target is None else [*ratios, (self.bandwidth_share or 0) >= self.share_target]

    def __str__(self) -> str:
        text = f"{self.ratio:.2f} ({self.low:.2f}-{self.high:.2f})"
        if self.target is not None and self.ratio > self.target:
            text += f" > {self.target}"
        text += f" / {self.to_instance:.2f}"
        if self.instance_target is not None and self.to_instance > self.instance_target:
            text += f" > {self.instance_target}"
        if self.bandwidth_share is not None:
            text += f", {self.bandwidth_share:.0%}"
            if self.share_target is not None and self.bandwidth_share < self.share_target:
                text += f" < {self.share_target:.0%}"
        return text


def clock(step: Step, repeats: int, device: str) -> float:
    """Return the seconds for one of ``repeats`` calls."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - began) / repeats


def warm_up(step: Step, device: str, seconds: float) -> int:
    """Call until compilers, caches and allocators have settled; return how many calls take ``seconds``."""
    clock(step, 3, device)
    return max(1, math.ceil(seconds / clock(step, 3, device)))


def time_in_turns(steps: list[Step], device: str, options: argparse.Namespace) -> list[list[float]]:
    """Return the seconds of each step in each round; the steps take turns."""
    repeats = [warm_up(step, device, options.sample_seconds) for step in steps]
    rounds = [
        [clock(step, count, device) for step, count in zip(steps, repeats, strict=True)] for _ in range(options.rounds)
    ]
    return [list(times) for times in zip(*rounds, strict=True)]


def prepare(layer: str, setting: Setting) -> nn.Module:
    """Build a layer for a setting."""
    module = LAYERS[layer](setting.shape[1]).to(setting.device)
    if not isinstance(module, nn.BatchNorm2d | norms.MomentNorm):
        # The others do not take parameters of float32 beside an input of bfloat16, as mixed precision has them.
        module.to(DTYPES[setting.dtype])
    if setting.compiled:
        module.compile(fullgraph=True, dynamic=False)
    return module


def make_step(module: nn.Module, measure: str, x: Tensor, grad: Tensor) -> Step:
    """Return what is to be timed, as a function without arguments."""
    module.train(measure != EVALUATION)
    if measure == EVALUATION:
        return torch.inference_mode()(partial(module, x))
    if measure == FORWARD:
        return partial(module, x)
    leaves = [x, *module.parameters()]

    def train() -> None:
        for leaf in leaves:
            leaf.grad = None
        module(x).backward(grad)

    return train


def candidates(setting: Setting, options: argparse.Namespace) -> list[str]:
    """Return the layers to compare in a setting; only those of this package are compiled, which takes long."""
    return [layer for layer in options.norms if not setting.compiled or layer.startswith("norms.")]


def compare(setting: Setting, copy_bandwidth: float | None, options: argparse.Namespace) -> Iterator[Cell]:
    """Compare all layers in one setting."""
    torch.set_num_threads(setting.threads)
    torch.compiler.reset()
    torch.manual_seed(0)
    x, grad = (
        torch.randn(setting.shape, device=setting.device, dtype=DTYPES[setting.dtype]).to(
            memory_format=LAYOUTS[setting.layout]
        )
        for _ in range(2)
    )
    x.requires_grad_()
    references = [prepare(name, setting) for name in ("nn.BatchNorm2d", "nn.InstanceNorm2d")]
    for layer in candidates(setting, options):
        candidate = prepare(layer, setting)
        for measure in MEASURES:
            steps = [make_step(module, measure, x, grad) for module in (candidate, *references)]
            own, batch, instance = time_in_turns(steps, setting.device, options)
            low, _, high = statistics.quantiles((a / b for a, b in zip(own, batch, strict=True)), n=4)
            own_ms, batch_ms, instance_ms = (statistics.median(times) * 1e3 for times in (own, batch, instance))
            share = None
            if copy_bandwidth is not None and measure in TRAFFIC:
                share = TRAFFIC[measure] * setting.bytes / (own_ms / 1e3) / copy_bandwidth
            ratios = own_ms / batch_ms, low, high, batch_ms, own_ms / instance_ms, instance_ms
            yield Cell(setting, layer, measure, *ratios, share)


def measure_copy(options: argparse.Namespace) -> float:
    """Return the bytes per second, read and written, of a copy that is too large for any cache."""
    source = torch.zeros(2**28, device=options.device)
    target = torch.empty_like(source)
    [times] = time_in_turns([lambda: target.copy_(source)], options.device, options)
    return 2 * source.nbytes / statistics.median(times)


def saved_bytes(layer: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of all tensors that one forward pass keeps for the backward pass, the input among them."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = LAYERS[layer](shape[1])(torch.randn(shape, requires_grad=True))
    computation = getattr(y.grad_fn, "computation", None)
    for tensor in tensors(vars(computation) if computation else {}):
        pack(tensor)
    return sum(storages.values())


def tensors(thing: object) -> Iterator[Tensor]:
    """Find the tensors in nested collections."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict | tuple):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from tensors(part)


def settings(options: argparse.Namespace) -> list[Setting]:
    """Yield all settings, those of one table side by side."""
    return list(
        itertools.starmap(
            Setting,
            itertools.product(
                [options.device],
                options.dtypes,
                [False, True] if options.compile else [False],
                options.threads,
                options.layouts,
                options.shapes,
            ),
        )
    )


def tables(cells: list[Cell]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, head and rows of each table."""
    labels = dict.fromkeys(cell.setting.label for cell in cells)
    for label, measure in itertools.product(labels, MEASURES):
        by_layer: dict[str, dict[tuple[int, ...], Cell]] = {}
        references: dict[str, dict[tuple[int, ...], list[float]]] = {"nn.BatchNorm2d": {}, "nn.InstanceNorm2d": {}}
        for cell in cells:
            if (cell.setting.label, cell.measure) == (label, measure):
                by_layer.setdefault(cell.layer, {})[cell.setting.shape] = cell
                for times, own in zip(references.values(), (cell.reference_ms, cell.instance_ms), strict=True):
                    times.setdefault(cell.setting.shape, []).append(own)
        rows = [
            [f"{name} takes", *(f"{statistics.median(each):.3f} ms" for each in times.values())]
            for name, times in references.items()
        ]
        shapes = list(references["nn.BatchNorm2d"])
        rows += [[layer, *(str(row.get(shape, "")) for shape in shapes)] for layer, row in by_layer.items()]
        yield f"{measure}: {label}", ["layer", *("x".join(map(str, shape)) for shape in shapes)], rows
    yield _memory(list(dict.fromkeys(cell.layer for cell in cells)))


def report(cells: list[Cell], copy_bandwidth: float | None) -> list[str]:
    """Write the markdown file, as lines."""
    lines = [
        "# Normalization layers compared",
        *(__doc__ or "").partition("\n\n    python")[0].splitlines()[1:],
        "",
        f"    {shlex.join(['python', *sys.argv])}",
        "",
        f"On {_machine()}; torch {torch.__version__}, Python {platform.python_version()}.",
        "",
        f"A figure that misses its target is followed by the target. {_score(cells)}",
        "",
    ]
    if copy_bandwidth is not None:
        lines += [
            f"A copy moves {copy_bandwidth / 1e9:.0f} GB/s. Percentages are the share of it that a layer reaches if it "
            f"reads and writes {TRAFFIC[FORWARD]} tensors of the input's size forward and "
            f"{TRAFFIC[TRAINING]} forward and backward.",
            "",
        ]
    for title, head, rows in tables(cells):
        lines += [f"## {title[0].upper()}{title[1:]}", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    return lines


def main() -> None:
    """Measure, and print and write the tables."""
    options = _parse()
    if options.compile:
        # Layers share the code that is compiled, and each has its own version of it.
        torch._dynamo.config.recompile_limit = 8 * len(LAYERS)
    console = Console()
    cells: list[Cell] = []
    copy_bandwidth = measure_copy(options) if options.device == "cuda" else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        todo = settings(options)
        task = progress.add_task("", total=sum(len(candidates(setting, options)) * len(MEASURES) for setting in todo))
        for setting in todo:
            progress.update(task, description=f"{setting.label}, {'x'.join(map(str, setting.shape))}")
            for cell in compare(setting, copy_bandwidth, options):
                cells.append(cell)
                progress.advance(task)
            if options.markdown:
                # After each setting, so that what was measured outlives an interruption.
                options.markdown.write_text("\n".join(report(cells, copy_bandwidth)))
    for title, head, rows in tables(cells):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"{_machine()}; torch {torch.__version__}. {_score(cells)}", highlight=False)


def _memory(layers: list[str]) -> tuple[str, list[str], list[list[str]]]:
    shape = (4, 32, 64, 64)
    size = math.prod(shape) * torch.float32.itemsize
    rows = [[layer, f"{saved_bytes(layer, shape) / size:.3f}"] for layer in layers]
    return "bytes saved for the backward pass, as multiples of the input's", ["layer", "x".join(map(str, shape))], rows


def _score(cells: list[Cell]) -> str:
    hits = [hit for cell in cells for hit in cell.hits]
    return f"{sum(hits)} of {len(hits)} targets are reached." if hits else "No target applies."


def _machine() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{pages.processor()}, {os.cpu_count()} cores{gpu}"


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(map(int, text.split("x")))
    if len(shape) != 4 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"a shape is four sizes as in 8x16x32x32, not {text}")
    return shape


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--norms", nargs="+", choices=list(LAYERS), default=list(LAYERS), metavar="LAYER", help=", ".join(LAYERS)
    )
    parser.add_argument("--shapes", nargs="+", type=_shape, metavar="NxCxHxW")
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="on the CPU")
    parser.add_argument("--device", choices=list(SHAPES), default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), help="by default float32, on cuda also bfloat16")
    parser.add_argument("--compile", action="store_true", help="compare compiled layers of this package too")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="few and short rounds, to see whether it works")
    parser.add_argument("--markdown", type=Path, help="file to write")
    options = parser.parse_args()
    options.sample_seconds = 0.001 if options.quick else 0.02
    options.rounds = 3 if options.quick else options.rounds
    options.shapes = options.shapes or SHAPES[options.device]
    options.dtypes = options.dtypes or (list(DTYPES) if options.device == "cuda" else ["float32"])
    if options.device == "cuda":
        options.threads = [torch.get_num_threads()]
    return options


if __name__ == "__main__":
    main()
