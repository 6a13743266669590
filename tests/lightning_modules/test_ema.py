import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import norms
from lightning_modules import ema
from lightning_modules.networks.gan_networks import Discriminator
from lightning_modules.networks.sngan import ResNet

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
    architecture = ResNet(4, (4, 4), (4, 4), 1)
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
    assert norms.sigmas(average) != norms.sigmas(live)
