"""The numbers that sum up the gates of a run."""

import pytest
from pandas import DataFrame

from experiments.mixing import at_end, gates

THIRDS = ("first", "middle", "last")


def test_gates_are_summed_up_over_channels_and_not_over_layers():
    channels = {0: [0.0, 0.05, 1.0, 0.95], 1: [0.5], 2: [0.2, 0.92]}
    rows = [
        {"folder": "a", "step": step, "depth": depth, "third": THIRDS[depth], "kind": "rho", "value": value * scale}
        for step, scale in ((0, 0.5), (10, 1.0))
        for depth, values in channels.items()
        for value in values
    ]
    rows.append({"folder": "b", "step": 4, "depth": 0, "third": "first", "kind": "mean_weight", "value": 0.3})
    (found,) = gates(at_end(DataFrame(rows))).to_dict("records")
    assert found == {
        "folder": "a",
        "rho": pytest.approx((2.0 + 0.5 + 1.12) / 7),
        "below": pytest.approx(2 / 7),
        "above": pytest.approx(3 / 7),
        "entry": pytest.approx(0.5),
        "first": pytest.approx(0.5),
        "first_below": pytest.approx(0.5),
        "last": pytest.approx(0.56),
        "last_below": 0.0,
    }
