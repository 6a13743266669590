"""What modules log is the mean over all processes, whatever it is, and no step waits for it."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from lightning_modules import processes
from lightning_modules.processes import SharedModule


@pytest.fixture
def logged(monkeypatch):
    """Log in the first of two processes, of which the other one has thrice its values; returns how."""
    found, calls = {}, []

    def both(values):
        calls.append(values)
        return values + 3 * values

    monkeypatch.setattr(processes, "is_distributed", lambda: True)
    monkeypatch.setattr(processes, "all_reduce", both)
    monkeypatch.setattr(pl.LightningModule, "log", lambda module, name, value, **_: found.update({name: value}))
    module = SharedModule()
    module._trainer = SimpleNamespace(training=True, world_size=2)
    monkeypatch.setattr(SharedModule, "trainer", property(lambda module: module._trainer))

    def log(values):
        module.log_dict(values)
        assert len(calls) == 1
        return found

    return log


@pytest.mark.parametrize(
    "value",
    [
        3,
        3.0,
        torch.tensor(3),
        torch.tensor([3.0]),
        torch.tensor(3.0, dtype=torch.float64),
        torch.tensor(3.0, requires_grad=True),
        torch.tensor(3.0, dtype=torch.bfloat16),
    ],
    ids=str,
)
def test_numbers_of_any_kind_are_averaged_at_once(value, logged):
    found = logged({"value": value, "other": torch.ones(())})
    assert found["value"] == 6
    assert found["other"] == 2
    assert not found["value"].requires_grad


def test_other_values_are_left_to_lightning(logged):
    two, metric = torch.ones(2), object()
    found = logged({"two": two, "metric": metric, "number": 1})
    assert found["two"] is two
    assert found["metric"] is metric
    assert found["number"] == 2
