"""Activations of channels with gates as learned and forced, against the formulas of the layers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import norms
from lightning_modules.base import TrainingModule
from lightning_modules.gan import GAN
from mixing_analysis.activations import activations, ways
from mixing_analysis.evaluations import Latents
from mixing_analysis.sheets import GAP, Sheet, colored, fitted, inset
from norms.kinds import MixingKind

EPS = 1e-5


class Layers(TrainingModule):
    """Norms one after the other, and one that no image reaches."""

    def __init__(self, *layers):
        super().__init__()
        self.first, self.second = layers
        self.never = norms.BatchInstanceNorm2d(3)
        nn.init.uniform_(self.never.rho)

    def predict_step(self, batch, batch_idx):
        return self.second(self.first(batch["image"]))


def images(count=10):
    random = torch.Generator().manual_seed(0)
    means, deviations = (torch.rand(count, 3, 1, 1, generator=random) for _ in range(2))
    return 3 * means + deviations * torch.randn(count, 3, 6, 5, generator=random)


def set_(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


def look(module, x, parts=(4, 4, 2)):
    batches = [{"image": part} for part in x.split(list(parts))]
    return activations(module.eval(), batches, lambda module, batch: module.predict_step(batch, 0))


def gated(rho, seed=0):
    torch.manual_seed(seed)
    layer = norms.BatchInstanceNorm2d(3)
    set_(layer.rho, rho)
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    return layer


def by_formula(layer, x, rho):
    """The layer in float64, from the formula of the paper."""
    x, shape = x.double().numpy(), (1, -1, 1, 1)
    weight, bias, mean, var = (
        each.detach().double().numpy().reshape(shape)
        for each in (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    )
    own_mean, own_var = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    batch, instance = (x - mean) / np.sqrt(var + EPS), (x - own_mean) / np.sqrt(own_var + EPS)
    rho = np.array(rho, np.float64).reshape(shape)
    return (rho * batch + (1 - rho) * instance) * weight + bias


def test_a_gate_as_learned_and_at_either_end():
    rho = [0.9, 0.4, 0.1]
    module = Layers(gated(rho), gated([0.5, 0.5, 0.5]))
    x = images()
    first, second = look(module, x)
    assert [first.layer, second.layer] == ["first", "second"], "the wider spread comes first"
    learned, low, high = (by_formula(module.first, x, gate) for gate in (rho, 0, 1))
    moved = np.minimum(*(np.square(end - learned).sum((0, 2, 3)) for end in (low, high)))
    channel = first.channel
    assert channel == moved.argmax()
    assert first.learned == {"rho": pytest.approx(rho[channel])}
    assert first.ways == ("as learned", "rho 0 (instance)", "rho 1 (batch)")
    order = np.argsort(-learned[:, channel].mean((1, 2)))[:3]
    assert first.images == tuple(order)
    assert first.compared == 10
    assert torch.equal(first.inputs["image"], x[order.tolist()])
    for found, expected in zip(first.maps, (learned, low, high), strict=True):
        np.testing.assert_allclose(found, expected[order, channel], atol=1e-4)
    means = [each[order, channel].mean((1, 2)).tolist() for each in (learned, low, high)]
    np.testing.assert_allclose(first.means, means, atol=1e-5)
    np.testing.assert_allclose(first.means[1], module.first.bias[channel].item(), atol=1e-5)


def test_where_all_gates_are_at_an_end_the_other_end_decides():
    module = Layers(gated([1.0, 1.0, 0.0]), gated([0.5, 0.5, 0.5]))
    x = images()
    first, _ = look(module, x)
    ends = [by_formula(module.first, x, gate) for gate in (0, 1)]
    assert first.channel == np.square(ends[0] - ends[1]).sum((0, 2, 3)).argmax()


def test_images_that_excite_alike_stay_in_order():
    module = Layers(gated([0.0, 0.0, 0.0]), gated([0.5, 0.5, 0.5]))
    found = {each.layer: each for each in look(module, images())}
    assert found["first"].images == (0, 1, 2), "instance normalization leaves every image the same mean"


def test_a_switch_is_given_to_each_of_its_statistics():
    torch.manual_seed(0)
    switch = norms.SwitchableNorm2d(3)
    set_(switch.mean_weight, [0.0, 1.0, 2.0])
    nn.init.normal_(switch.weight)
    module = Layers(switch, gated([0.5, 0.5, 0.5]))
    x = images()
    found = {each.layer: each for each in look(module, x)}["first"]
    assert found.ways == ("as learned", "instance alone", "layer alone", "batch alone")
    shares = torch.tensor([0.0, 1.0, 2.0]).softmax(0).tolist()
    means = dict(zip(("instance", "layer", "batch"), shares, strict=True))
    assert found.learned == {"means": pytest.approx(means), "variances": pytest.approx(dict.fromkeys(means, 1 / 3))}
    chosen, weight, bias = x[list(found.images)], switch.weight, switch.bias
    expected = [
        F.instance_norm(chosen, weight=weight, bias=bias),
        F.group_norm(chosen, 1, weight, bias),
        F.batch_norm(chosen, torch.zeros(3), torch.ones(3), weight, bias),
    ]
    for maps, reference in zip(found.maps[1:], expected, strict=True):
        torch.testing.assert_close(maps, reference[:, found.channel].detach(), atol=1e-4, rtol=1e-4)


def test_no_more_images_than_are_compared(monkeypatch):
    monkeypatch.setattr("mixing_analysis.activations.MOST_COMPARED", 5)
    module = Layers(gated([0.9, 0.4, 0.1]), gated([0.5, 0.5, 0.5]))
    found = look(module, images())
    assert [each.compared for each in found] == [5, 5]
    assert all(place < 5 for each in found for place in each.images)


def test_gates_of_one_channel_alone_are_forced():
    layer = gated([0.9, 0.4, 0.1])
    low, high = ways(layer, 1).values()
    torch.testing.assert_close(low.rho, torch.tensor([0.9, 0.0, 0.1]))
    torch.testing.assert_close(high.rho, torch.tensor([0.9, 1.0, 0.1]))
    torch.testing.assert_close(layer.rho, torch.tensor([0.9, 0.4, 0.1]))
    assert [other.rho.tolist() for other in ways(layer).values()] == [[0, 0, 0], [1, 1, 1]]


def test_ends_without_names_are_called_by_their_values():
    class Gated(norms.BatchInstanceNorm2d):
        kinds = (MixingKind("rho", high=2),)

    assert list(ways(Gated(2))) == ["rho 0", "rho 2"]


def test_generators_are_looked_into_where_they_are_reached():
    torch.manual_seed(0)
    gan = GAN("resnet16", {"width": 0.25}, channels=1, norm="batch_instance", latent_dim=4).eval()
    latents = Latents(gan)
    for found in activations(gan, latents.batches(), latents.forward, count=2):
        assert found.compared == 128
        assert found.maps.shape[:2] == (3, 3)
        assert set(found.inputs) == {"latents"}


def test_a_sheet_holds_its_pictures():
    rows = [[torch.full((3, 4, 6), (3 * row + column) / 10) for column in range(3)] for row in range(2)]
    sheet = Sheet.of(rows)
    assert sheet.image.shape == (3, 2 * 4 + GAP, 3 * 6 + 2 * GAP)
    assert (sheet.rows, sheet.columns, sheet.size) == (2, 3, (4, 6))
    column = sheet.column(2)
    assert column.shape == (3, 2 * 4 + GAP, 6)
    assert column[0, :, 0].tolist() == pytest.approx([0.2] * 4 + [1.0] * GAP + [0.5] * 4)
    assert torch.equal(sheet.column(0)[:, :4], rows[0][0])


@pytest.mark.parametrize(
    ("shape", "most", "expected"),
    [
        ((1, 28, 28), 384, (140, 140)),
        ((3, 192, 100), 384, (192, 100)),
        ((3, 512, 256), 384, (384, 192)),
        ((4, 8, 8), 64, (128, 128)),
    ],
)
def test_pictures_are_as_large_as_they_are_shown(shape, most, expected):
    image = fitted(torch.rand(shape), most)
    assert image.shape == (3, *expected)
    assert 0 <= image.min() <= image.max() <= 1


def test_small_pictures_keep_their_pixels():
    image = torch.rand(3, 64, 64)
    assert torch.equal(fitted(image)[:, ::2, 1::2], image)


def test_colors_are_white_at_zero_and_darkest_at_the_limit():
    colors = colored(torch.tensor([[[[0.0, 2.0], [-2.0, 9.0]]]]), 2.0, (2, 2))
    assert colors.shape == (1, 1, 3, 2, 2)
    zero, high, low, beyond = colors[0, 0].flatten(1).T
    assert zero.min() > 0.95
    assert torch.equal(high, beyond)
    assert high[0] > high[2], "orange"
    assert low[2] > low[1], "purple"


def test_a_small_picture_lies_in_the_corner():
    image, picture = torch.zeros(3, 30, 40), torch.full((3, 8, 16), 0.5)
    laid = inset(image, picture)
    assert laid.shape == image.shape
    assert torch.equal(laid[:, 18:28, 2:22], torch.full((3, 10, 20), 0.5))
    assert (laid[:, :16] == 0).all()
    assert (laid[:, :, 24:] == 0).all()
    assert (image == 0).all()
