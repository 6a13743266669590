"""The style term of means and deviations against its formula in NumPy."""

import numpy as np
import pytest
import torch

from lightning_modules.losses.statistics import MeanStd
from norms.errors import SettingError


def features(seed, n=2):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(n, channels, *size, generator=generator, dtype=torch.float64)
        for name, channels, size in (("relu1_1", 3, (6, 5)), ("relu2_1", 4, (3, 2)))
    }


def statistics(values):
    values = values.numpy()
    return values.mean((2, 3)), np.sqrt(values.var((2, 3)) + 1e-5)


@pytest.mark.parametrize("scaling", ["published", "relative"])
@pytest.mark.parametrize("styles", [1, 2])
def test_the_formula(scaling, styles):
    found, style = features(0), features(1, styles)
    term = MeanStd(2.0, list(found), scaling)
    term.set_style(style)
    errors = []
    for layer in found:
        for value, target in zip(statistics(found[layer]), statistics(style[layer]), strict=True):
            error = np.mean((value - target) ** 2)
            errors.append(error / np.mean(target**2) if scaling == "relative" else error)
    expected = sum(errors) / (2 if scaling == "relative" else 1)
    assert float(term(torch.empty(0), found, {})) == pytest.approx(expected)
    assert term.state_dict() == {}


def test_it_is_0_for_what_has_the_same_statistics_elsewhere():
    found = features(0)
    term = MeanStd(1.0, list(found))
    term.set_style({layer: x.flip(2, 3) for layer, x in found.items()})
    assert float(term(torch.empty(0), found, {})) == pytest.approx(0, abs=1e-12)
    term.set_style(features(1))
    assert float(term(torch.empty(0), found, {})) > 0.01


def test_it_needs_layers():
    with pytest.raises(SettingError, match="style_layers must name a layer"):
        MeanStd(1.0, [])
