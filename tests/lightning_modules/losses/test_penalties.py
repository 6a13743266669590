import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import norms
from lightning_modules.losses.penalties import check_penalties, gradient_penalty, orthogonal, zero_centered
from norms.errors import SettingError


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def penalty_of(name, discriminator, real, fake, share):
    if name == "wgan_gp":
        return gradient_penalty(discriminator, real, fake, share)
    images = real.clone().requires_grad_()
    return zero_centered(discriminator(images), images)


def test_zero_centered_of_a_linear_discriminator_is_its_squared_length():
    slope = draw(3, 4, 4)
    images = draw(5, 3, 4, 4, seed=1).requires_grad_()
    torch.testing.assert_close(zero_centered((images * slope).sum((1, 2, 3)), images), slope.square().sum())


def test_zero_centered_of_a_quadratic_discriminator():
    matrix = draw(6, 6)
    images = draw(4, 6, seed=1).requires_grad_()
    value = zero_centered(((images @ matrix) * images).sum(1), images)
    gradients = images @ (matrix + matrix.T)
    torch.testing.assert_close(value, gradients.square().sum(1).mean())
    torch.testing.assert_close(
        torch.autograd.grad(value, images)[0], gradients @ (matrix + matrix.T) * 2 / len(images), check_stride=False
    )


def test_gradient_penalty_of_a_linear_discriminator_is_its_distance_from_one():
    slope = draw(3, 4, 4)
    real, fake, share = draw(5, 3, 4, 4, seed=1), draw(5, 3, 4, 4, seed=2), torch.rand(5)
    value = gradient_penalty(lambda images: (images * slope).sum((1, 2, 3)), real, fake, share)
    torch.testing.assert_close(value, (slope.norm() - 1).square())


def test_gradient_penalty_looks_between_the_images():
    real, fake = draw(4, 1, 2, 2, seed=1), draw(4, 1, 2, 2, seed=2).requires_grad_()
    share = torch.tensor([0, 0.25, 0.5, 1])
    value = gradient_penalty(lambda images: images.square().sum((1, 2, 3)) / 2, real, fake, share)
    # The gradient of half a square is the place itself.
    places = [a * x + (1 - a) * g for a, x, g in zip(share.tolist(), real, fake, strict=True)]
    expected = sum((place.norm() - 1).square() for place in places) / 4
    torch.testing.assert_close(value, expected.detach(), check_dtype=False)
    value.backward()
    assert fake.grad is None


def test_gradient_penalty_of_a_flat_discriminator_keeps_its_gradients_finite():
    flat = nn.Linear(4, 1).double()
    nn.init.zeros_(flat.weight)
    value = gradient_penalty(flat, draw(3, 4), draw(3, 4, seed=1), torch.rand(3))
    value.backward()
    assert value.item() == 1
    assert flat.weight.grad.isfinite().all()


def small_discriminator(norm):
    """Build a discriminator with curvature, all of it in the norm's hands."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 4, 3, padding=1)
    between = nn.Identity() if norm == "spectral" else norms.build(norm, 4)
    network = nn.Sequential(convolution, between, nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 1))
    if norm == "spectral":
        norms.spectral_norm(convolution)
        norms.spectral_norm(network[-1])
    return network.double().eval()


@pytest.mark.parametrize("penalty", ["zero_centered", "wgan_gp"])
@pytest.mark.parametrize("norm", ["spectral", "batch", "instance", "batch_instance", "switchable", "layer", "group"])
def test_gradients_of_the_weights_are_differences(penalty, norm):
    network = small_discriminator(norm)
    real, fake, share = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1), torch.rand(3, dtype=torch.float64)

    def value():
        return penalty_of(penalty, lambda images: network(images)[:, 0], real, fake, share)

    parameters = [p for p in network.parameters() if p.requires_grad]
    directions = [draw(*p.shape, seed=7 + i) for i, p in enumerate(parameters)]
    gradients = torch.autograd.grad(value(), parameters, allow_unused=True, materialize_grads=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))

    def moved(step):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(step * direction)
        found = value().item()
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(step * direction)
        return found

    step = 1e-5
    assert slope.item() == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-5, abs=1e-8)
    assert abs(slope) > 1e-6


def test_zero_centered_through_spectral_norm_is_that_of_the_formula():
    layer = norms.spectral_norm(nn.Linear(6, 4)).double().eval()
    head = draw(4, seed=3)
    images = draw(5, 6).requires_grad_()
    value = zero_centered((layer(images).tanh() * head).sum(1), images)
    original, state = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
    # The same with everything written out: D(x) = h tanh(Wx / s + b), s = u W v with u and v constant.
    normalized = original / (state._u @ original @ state._v)
    slopes = (1 - (images @ normalized.T + layer.bias).tanh().square()) * head @ normalized
    expected = slopes.square().sum(1).mean()
    torch.testing.assert_close(value, expected)
    for given, wanted in zip(
        torch.autograd.grad(value, (original, layer.bias)),
        torch.autograd.grad(expected, (original, layer.bias)),
        strict=True,
    ):
        torch.testing.assert_close(given, wanted)


@pytest.mark.parametrize("penalty", ["zero_centered", "wgan_gp", "orthogonal"])
def test_autocast_changes_nothing(penalty):
    network = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 1))
    real, fake, share = draw(3, 2, 4, 4).float(), draw(3, 2, 4, 4, seed=1).float(), torch.rand(3)
    images = real.clone().requires_grad_()
    scores = network(images)

    def value():
        if penalty == "orthogonal":
            return orthogonal(network)
        return gradient_penalty(network, real, fake, share) if penalty == "wgan_gp" else zero_centered(scores, images)

    expected = torch.autograd.grad(value(), network[1].weight, retain_graph=True)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = value()
    assert found.dtype == torch.float32
    assert torch.equal(torch.autograd.grad(found, network[1].weight)[0], expected)


def pairs(filters):
    """Add up the squared products of different filters, one by one."""
    return sum((filters[i] @ filters[j]) ** 2 for i in range(len(filters)) for j in range(len(filters)) if i != j)


def test_orthogonal_adds_up_pairs_of_filters():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 5, 2), nn.Linear(5, 6), nn.Embedding(7, 8))
    network.double()
    convolution, transposed, linear, _ = network
    expected = pairs(convolution.weight.reshape(4, -1))
    expected += pairs([transposed.weight[:, i].flatten() for i in range(5)])
    expected += pairs(linear.weight)
    torch.testing.assert_close(orthogonal(network), expected)


def test_orthogonal_does_not_compare_filters_of_different_groups():
    for layer in (nn.Conv2d(4, 6, 3, groups=2).double(), nn.ConvTranspose2d(4, 6, 3, groups=2).double()):
        parts = layer.weight.chunk(2)
        outputs = 0 if isinstance(layer, nn.Conv2d) else 1
        expected = sum(pairs([part.select(outputs, i).flatten() for i in range(3)]) for part in parts)
        torch.testing.assert_close(orthogonal(layer), expected)


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (4, 6), (5, 5)])
def test_orthogonal_gradient_closed_form(inputs, outputs):
    layer = nn.Linear(inputs, outputs).double()
    orthogonal(layer).backward()
    weight = layer.weight.detach()
    expected = 4 * ((weight @ weight.T) * (1 - torch.eye(outputs))) @ weight
    torch.testing.assert_close(layer.weight.grad, expected)


def test_orthogonal_filters_of_any_length_cost_nothing():
    layer = nn.Linear(6, 4).double()
    nn.init.orthogonal_(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    assert orthogonal(layer).item() < 1e-24
    assert orthogonal(nn.Linear(6, 1)) == 0


@pytest.mark.parametrize("wrap", [norms.spectral_norm, weight_norm])
def test_orthogonal_takes_a_normalized_weight_as_it_acts(wrap):
    layer = wrap(nn.Linear(6, 4).double())
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    value = orthogonal(layer)
    torch.testing.assert_close(value, pairs(layer.weight))
    value.backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    assert all(p.grad.isfinite().all() for p in layer.parameters() if p.ndim > 1)


def test_orthogonal_needs_filters():
    message = "^ReLU has no convolution or linear layer whose filters could be compared$"
    with pytest.raises(SettingError, match=message):
        orthogonal(nn.ReLU())


def test_settings():
    nothing = {"r1": 0.0, "r2": 0.0, "wgan_gp": 0.0, "orthogonal": 0.0}
    assert check_penalties(None) == check_penalties({}) == nothing
    assert check_penalties({"wgan_gp": 10, "r1": 0.5}) == {**nothing, "wgan_gp": 10.0, "r1": 0.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"R1": 1}, r"^unknown penalty 'R1', did you mean 'r1'\? \(known: r1, r2, wgan_gp, orthogonal\)$"),
        ({"r1": -1}, r"^the weight of penalty r1 must be at least 0 and below inf, got -1$"),
        ({"r2": math.nan}, r"^the weight of penalty r2 must be at least 0 and below inf, got nan$"),
        ({"r2": math.inf}, r"^the weight of penalty r2 must be at least 0 and below inf, got inf$"),
        ({"r1": "1e-4"}, r"^the weight of penalty r1 must be a number, got '1e-4'$"),
        ({"r1": True}, r"^the weight of penalty r1 must be a number, got True$"),
        ({"r1": None}, r"^the weight of penalty r1 must be a number, got None$"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(SettingError, match=message):
        check_penalties(settings)
