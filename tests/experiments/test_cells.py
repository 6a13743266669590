"""Numbers of cells by seed, and how two of them differ."""

import numpy as np
import pandas as pd
import pytest

from experiments.cells import cell, minus

FRAME = pd.DataFrame(
    {
        "seed": [0, 1, 2, 2, 1, 0, 0],
        "norm": ["batch"] * 3 + ["none"] * 4,
        "lr": [0.1] * 6 + [1.0],
        "value": [3.0, 5.0, 10.0, 6.0, 3.0, 2.0, 9.0],
    }
)


def test_a_cell_has_the_number_of_each_seed():
    assert cell(FRAME, "value", norm="none", lr=0.1).to_dict() == {2: 6.0, 1: 3.0, 0: 2.0}
    assert cell(FRAME, "value", norm="none", lr=3.0).empty


def test_settings_that_leave_several_runs_of_a_seed_are_refused():
    with pytest.raises(ValueError, match=r"one run of each seed, got those of the seeds \[2, 1, 0, 0\]"):
        cell(FRAME, "value", norm="none")


def test_differences_are_of_the_same_seed():
    # Of the seeds 0, 1 and 2: 1, 2 and 4, whose mean is 7/3 and whose variance is 7/3.
    effect = minus(*(cell(FRAME, "value", norm=norm, lr=0.1) for norm in ("batch", "none")))
    half = 4.302653 * np.sqrt(7 / 3 / 3)  # by the table of the t distribution with two degrees of freedom
    assert (effect.difference, effect.seeds, effect.lost) == (pytest.approx(7 / 3), 3, 0)
    assert (effect.low, effect.high) == (pytest.approx(7 / 3 - half, abs=1e-5), pytest.approx(7 / 3 + half, abs=1e-5))


def test_a_seed_that_one_cell_lacks_is_told_of():
    effect = minus(cell(FRAME, "value", norm="batch", lr=0.1), cell(FRAME, "value", norm="none", lr=1.0))
    assert (effect.difference, effect.seeds, effect.lost) == (-6.0, 1, 2)
