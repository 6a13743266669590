"""Fashion-MNIST in batches of few classes, whose statistics are not those of all images."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data import FashionMNIST
from data.stream import Items, StreamDataset, generator
from norms.errors import check_range

_CLASSES = 2
"""Key of the draws, beside those that :mod:`data.stream` has."""


class FewClassesStream(StreamDataset):
    """Stream a labeled dataset so that all of a batch is of a few classes, drawn anew for each batch.

    A batch is drawn with its number as the key, so that a training that goes on at any step sees what it would have
    seen. Its images are drawn one by one, so that a pass over all images has some of them twice and others never.

    Args:
        dataset: Items with a ``label``.
        classes: At most how many classes a batch has.
        batch_size: Images per batch.
        seed: Another seed is another order.
    """

    def __init__(self, dataset: Items, classes: int, batch_size: int, seed: int = 0) -> None:
        super().__init__(dataset, seed=seed)
        self.labels = torch.tensor([dataset[index]["label"] for index in range(len(dataset))])
        self.known = self.labels.unique()
        check_range("data.classes", classes, at_least=1, at_most=len(self.known))
        self.classes, self.batch_size = classes, batch_size
        self._batch, self._drawn = -1, self.known

    def index(self, position: int) -> int:
        """Find which item of the dataset comes at a position."""
        batch, place = divmod(position, self.batch_size)
        if batch != self._batch:
            self._batch, self._drawn = batch, self._draw(batch)
        return int(self._drawn[place])

    def _draw(self, batch: int) -> Tensor:
        draws = generator(self.seed, _CLASSES, batch)
        chosen = self.known[torch.randperm(len(self.known), generator=draws)[: self.classes]]
        among = torch.isin(self.labels, chosen).nonzero().flatten()
        return among[torch.randint(len(among), (self.batch_size,), generator=draws)]


class FewClasses(FashionMNIST):
    """Serve Fashion-MNIST so that each training batch is of a few classes; validation is as ever.

    Args:
        classes: At most how many classes a batch has.
        options: Those of :class:`data.FashionMNIST`, but ``flip``.

    Source:
        Ioffe, Batch Renormalization, NeurIPS 2017, section 5.3, where batches of 32 images have 16 classes of 1,000.
    """

    def __init__(self, classes: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.classes = classes

    def train_stream(self) -> Dataset[Any]:
        """Return the endless stream of training items, indexed by position."""
        return FewClassesStream(self._ready()[0], self.classes, self.batch_size * self.batches_per_step, self.seed)
