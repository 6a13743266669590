"""An endless stream of training images that is a pure function of (seed, position).

Position k of a stream is one image: which one, and what its random transform does to it, depends on the seed and on k,
never on hidden generator state, the number of workers or how often a training was stopped. So a training that starts
again at any step sees exactly the images that it would have seen without the stop, at once and without replaying any.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from norms.errors import SettingError, check_range

_ORDER, _TRANSFORM = 0, 1


class Items(Protocol):
    """Describe what a stream can be made of: a sequence of known length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Chosen:
    """Hold some of a dataset's items, in an order of their own.

    Args:
        items: The dataset.
        indices: Which of its items, (N,).
    """

    def __init__(self, items: Items, indices: NDArray[np.int64]) -> None:
        self.items = items
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.items[self.indices[index]]


def spread(count: int, total: int) -> NDArray[np.int64]:
    """Return ``count`` indices from 0 to ``total - 1``, evenly spread and each once, or all if there are fewer."""
    return np.unique(np.linspace(0, total - 1, count).round().astype(np.int64))


def seed_for(*key: int) -> int:
    """Hash integers to a seed, by numpy's ``SeedSequence``.

    Seeds of different keys are unrelated, also those of neighboring keys such as (seed, step) and (seed, step + 1),
    which plain addition would mix up.

    Args:
        key: Any number of integers; each counts modulo 2**64, so negative ones are allowed.

    Returns:
        A seed in [0, 2**64).
    """
    # SeedSequence pads with zeros and splits large integers: without length and fixed width, (1,) would equal (1, 0).
    words = [len(key)]
    for value in key:
        words += [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a random generator that is a pure function of its key.

    Args:
        key: The integers that ``seed_for`` hashes.
        device: Where the generator draws.

    Returns:
        A fresh generator, seeded with ``seed_for(*key)``.
    """
    return torch.Generator(device).manual_seed(seed_for(*key))


@contextmanager
def _default_generator_seeded(seed: int) -> Iterator[None]:
    """Seed the default CPU generator, which torchvision's transforms draw from, and restore it afterwards.

    Neither ``torch.manual_seed`` nor ``torch.random.fork_rng``: they also look at accelerators, which a forked worker
    must not touch.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class StreamSampler(Sampler[list[int]]):
    """Yield endless batches of stream positions; each rank takes its own slice of every step.

    In step s, rank r of w takes the ``batch_size`` positions from ``offset + (s * w + r) * batch_size`` on.

    Args:
        batch_size: Positions per rank and step.
        start: The step of the first batch. A function is asked anew each time the sampler is iterated, so that a
            training that starts a new epoch goes on where it is.
        rank: This process among ``world_size``.
        world_size: Number of processes.
        offset: Added to all positions, which are to be 0 or more; a function, likewise. So a training goes on at the
            next position though its earlier steps took more or fewer of them.

    Raises:
        SettingError: If there is no such slice.
    """

    def __init__(
        self,
        batch_size: int,
        start: int | Callable[[], int] = 0,
        rank: int = 0,
        world_size: int = 1,
        offset: int | Callable[[], int] = 0,
    ) -> None:
        check_range("batch_size", batch_size, at_least=1)
        check_range("world_size", world_size, at_least=1)
        check_range("rank", rank, at_least=0, below=world_size)
        self.batch_size = batch_size
        self.start = start
        self.rank = rank
        self.world_size = world_size
        self.offset = offset

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start() if callable(self.start) else self.start
        offset = self.offset() if callable(self.offset) else self.offset
        while True:
            first = offset + (step * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            step += 1


class StreamDataset(Dataset[Any]):
    """Repeat a finite dataset without end, indexed by position.

    Every ``len(dataset)`` positions are one pass, in which each item comes exactly once, in an order of its own.

    Args:
        dataset: What to stream.
        transform: Applied to each item. It may draw from torch's default CPU generator, as all of torchvision's
            transforms do: the generator is seeded by (seed, position) before and restored afterwards.
        seed: Another seed is another order and other random transforms.

    Raises:
        SettingError: If the dataset is empty.
    """

    def __init__(self, dataset: Items, transform: Callable[[Any], Any] | None = None, seed: int = 0) -> None:
        if not len(dataset):
            raise SettingError("a stream needs at least one item")
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self._pass = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def index(self, position: int) -> int:
        """Find which item of the dataset comes at a position.

        Args:
            position: Any position from 0 on.

        Returns:
            An index into the dataset.
        """
        number, place = divmod(position, len(self.dataset))
        if number != self._pass:
            self._order = torch.empty(0)  # of many images, two orders at once would take much memory
            self._order = torch.randperm(len(self.dataset), generator=generator(self.seed, _ORDER, number))
            self._pass = number
        return int(self._order[place])

    def __getitem__(self, position: int) -> Any:
        item = self.dataset[self.index(position)]
        if self.transform is None:
            return item
        with _default_generator_seeded(seed_for(self.seed, _TRANSFORM, position)):
            return self.transform(item)
