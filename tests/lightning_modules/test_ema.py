import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import norms
from lightning_modules import ema
from lightning_modules.networks.sngan import Architecture, Discriminator, spectral_norms

unit = st.floats(0, 1, width=32)


def test_closed_form():
    live = nn.Linear(1, 1, bias=False).double().requires_grad_(False)
    average = copy.deepcopy(live)
    values = torch.tensor([3.0, -1.0, 2.5, 7.0], dtype=torch.float64)
    live.weight.fill_(0.5)
    average.weight.fill_(0.5)
    for value in values:
        live.weight.fill_(value.item())
        ema.update_(average, live, 0.9)
    shares = 0.1 * 0.9 ** torch.arange(3, -1, -1, dtype=torch.float64)
    assert average.weight.item() == pytest.approx(0.9**4 * 0.5 + (shares * values).sum().item(), abs=1e-12)


def test_half_life():
    assert ema.decay(64, 10**9, 640) ** 10 == pytest.approx(0.5)
    assert ema.decay(128, 10**9, 640) ** 5 == pytest.approx(0.5)


def test_rampup_forgets_the_start():
    assert ema.decay(64, 64, 10_000) == pytest.approx(0.5**20)
    assert ema.decay(64, 64_000, 10_000) == pytest.approx(0.5 ** (64 / 3200))
    assert ema.decay(64, 200_000, 10_000) == ema.decay(64, 10**9, 10_000)


def test_no_half_life_is_no_memory():
    assert ema.decay(64, 640, 0) == 0
    live, average = nn.Linear(2, 2), nn.Linear(2, 2)
    ema.update_(average, live, 0.0)
    assert torch.equal(average.weight, live.weight)


@given(rho=unit, live_rho=unit, decay=st.floats(0, 1))
def test_rho_stays_in_the_unit_interval(rho, live_rho, decay):
    average, live = norms.build("batch_instance", 1), norms.build("batch_instance", 1)
    average.rho.data.fill_(rho)
    live.rho.data.fill_(live_rho)
    ema.update_(average, live, decay)
    assert min(rho, live_rho) <= average.rho.item() <= max(rho, live_rho)


def test_buffers_are_copied():
    torch.manual_seed(0)
    architecture = Architecture("resnet", 4, (4, 4), (4, 4), 1)
    live = Discriminator(architecture, 1)
    average = copy.deepcopy(live)
    for _ in range(3):
        for parameter in live.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        live(torch.randn(2, 1, 8, 8))
        ema.update_(average, live, 0.7)
    for (name, buffer), expected in zip(average.named_buffers(), live.buffers(), strict=True):
        assert torch.equal(buffer, expected)
        assert buffer.norm().item() == pytest.approx(1), name
    assert spectral_norms(average) != spectral_norms(live)


@pytest.mark.parametrize("norm", ["batch", "batch_instance", "switchable"])
def test_own_statistics_are_the_mean_over_the_batches(norm):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 1), norms.build(norm, 3))
    module(torch.randn(4, 1, 5, 5))
    before = copy.deepcopy(module.state_dict())
    batches = [torch.randn(4, 1, 5, 5) * scale for scale in (1, 2, 5)]
    estimated = ema.with_own_statistics(module, iter(batches))
    with torch.no_grad():
        features = [module[0](batch) for batch in batches]
    var, mean = (torch.stack(m).mean(0) for m in zip(*(torch.var_mean(f, (0, 2, 3)) for f in features), strict=True))
    torch.testing.assert_close(estimated[1].running_mean, mean)
    torch.testing.assert_close(estimated[1].running_var, var)
    assert not any(m.training for m in estimated.modules())
    assert estimated[1].momentum == module[1].momentum == 0.1
    assert all(m.training for m in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_statistics_of_one_process_need_no_other():
    torch.manual_seed(0)
    module = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(norms.build("batch", 3)))
    batch = torch.randn(4, 3, 5, 5)
    # Synchronized layers refuse the CPU, so that this runs at all shows that they are none.
    estimated = ema.with_own_statistics(module, [batch])
    torch.testing.assert_close(estimated[0].running_mean, batch.mean((0, 2, 3)))
    assert isinstance(module[0], nn.SyncBatchNorm)


def test_without_statistics_nothing_is_run():
    def batches():
        raise AssertionError("not needed")
        yield

    module = nn.Sequential(nn.Conv2d(1, 4, 1), norms.build("group", 4))
    assert not ema.with_own_statistics(module, batches()).training
