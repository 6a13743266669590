"""Batches of few classes: what a batch holds, and that the order is a function of seed and step alone."""

from itertools import islice

import numpy as np
import pytest

from data.stream import StreamSampler
from experiments.few_classes import FewClasses, FewClassesStream
from norms.errors import SettingError

ITEMS = [{"label": index % 5, "index": index} for index in range(40)]


def batches(classes, size, count, start=0, seed=0):
    """Read batches as a training that begins at a step does: a new stream, of a new sampler."""
    stream = FewClassesStream(ITEMS, classes, size, seed)
    return [[stream[position] for position in batch] for batch in islice(StreamSampler(size, start), count)]


def labels(found):
    return [{item["label"] for item in batch} for batch in found]


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_batch_has_at_most_so_many_classes(classes):
    found = labels(batches(classes, 8, 60))
    assert max(map(len, found)) == classes


def test_all_classes_come_equally_often():
    counts = np.bincount([label for batch in labels(batches(2, 16, 500)) for label in batch], minlength=5)
    # A batch of 16 misses one of its two classes with a probability of 2 ** -15. 200 of each are expected, with a
    # standard deviation of about 11.
    np.testing.assert_allclose(counts, 200, atol=50)


def test_images_within_a_class_come_equally_often():
    counts = np.bincount([item["index"] for batch in batches(1, 10, 400) for item in batch], minlength=40)
    np.testing.assert_allclose(counts, 100, atol=60)


def test_a_training_that_goes_on_sees_what_it_would_have_seen():
    whole = batches(2, 8, 12)
    assert batches(2, 8, 5, start=7) == whole[7:]
    assert batches(2, 8, 1, start=3) == whole[3:4]


def test_positions_can_be_asked_for_in_any_order():
    stream, other = (FewClassesStream(ITEMS, 2, 8) for _ in range(2))
    order = np.random.default_rng(0).permutation(64)
    asked = {place: stream.index(place) for place in order.tolist()}
    assert asked == {place: other.index(place) for place in range(64)}


def test_another_seed_is_another_order():
    assert batches(2, 8, 4) != batches(2, 8, 4, seed=1)


def test_no_more_classes_than_there_are():
    with pytest.raises(SettingError, match=r"data\.classes must be at least 1 and at most 5, got 6"):
        FewClassesStream(ITEMS, 6, 8)


def test_the_data_module_trains_on_such_batches_and_validates_on_all():
    class Made(FewClasses):
        def load(self):
            return ITEMS, ITEMS

    data = Made(classes=2, batch_size=8, seed=3)
    found = [set(batch["label"].tolist()) for batch in islice(data.train_dataloader(), 20)]
    assert found == labels(batches(2, 8, 20, seed=3))
    assert [index for batch in data.val_dataloader() for index in batch["index"].tolist()] == list(range(40))
