"""What the pages of the sigmoid network and LeNet compute of runs: closed forms."""

import numpy as np
import pytest
from pandas import DataFrame, Series

from experiments.pages.sigmoid_mlp import LAST, PARTS, movement, unit_percentiles
from experiments.speed import steps_to


def looks(count=100):
    """One unit whose median rises by 1 and whose width stays 2, and one whose width alone grows, from 0 to 1."""
    steps = np.arange(count) * 40.0
    time = (np.arange(count) + 0.5) / count
    still = np.zeros(count)
    rising = np.stack([time - 1, time, time + 1], -1)
    widening = np.stack([still, still, time], -1)
    return steps, np.stack([rising, widening], 1)


def test_a_unit_moves_as_far_as_the_means_of_the_parts_spread():
    medians, widths = movement(*looks())
    # Ten parts of a line from 0 to 1: their means are 0.05, 0.15, ..., whose variance is 0.01 (10^2 - 1) / 12 * 10 / 9.
    expected = np.sqrt(0.01 * (PARTS**2 - 1) / 12 * PARTS / (PARTS - 1))
    assert medians == pytest.approx([expected, 0])
    assert widths == pytest.approx([0, expected], abs=1e-12)


def test_percentiles_of_units_are_read_as_they_were_logged():
    steps, values = looks(3)
    metrics = DataFrame(index=[*steps, 100.0])
    for unit in range(2):
        for place, name in enumerate(("p15", "p50", "p85")):
            metrics[f"{LAST}/unit_{unit:02d}/{name}"] = [*values[:, unit, place], np.nan]
    metrics[f"{LAST}/p50"] = 7.0
    read_steps, read = unit_percentiles(metrics)
    assert np.array_equal(read_steps, steps)
    assert np.array_equal(read, values)


class TwoRuns:
    def metrics(self, folder):
        values = {"fast": [0.2, np.nan, 0.6, 0.5], "slow": [0.1, np.nan, 0.2, 0.3]}[folder]
        return DataFrame({"val/accuracy": values}, index=[10, 15, 20, 30])


def test_the_first_value_that_reaches_a_level_counts():
    frame = DataFrame({"folder": ["fast", "slow", "slow"]}, index=[4, 5, 6])
    found = steps_to(TwoRuns(), frame, "val/accuracy", Series([0.5, 0.5, 0.2], frame.index))
    assert found[4] == 20
    assert np.isnan(found[5])
    assert found[6] == 20
