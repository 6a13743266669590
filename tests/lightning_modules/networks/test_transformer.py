import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import norms
from lightning_modules.networks.transformer import TransformerNet, convolve_doubled
from norms.errors import SettingError


def johnson(net, image):
    """The network written out, for widths of length 3, one residual block, instance norm, and even sizes."""
    weights = dict(net.named_parameters())

    def conv(x, name, stride=1):
        weight = weights[f"{name}.weight"]
        padded = F.pad(x, [weight.shape[-1] // 2] * 4, mode="reflect")
        return F.conv2d(padded, weight, weights[f"{name}.bias"], stride)

    def norm(x, name):
        centered = x - x.mean((2, 3), keepdim=True)
        x = centered / (centered.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        return x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]

    x = 4 * image - 2
    x = norm(conv(x, "first.conv"), "first.norm").clamp(min=0)
    x = norm(conv(x, "down1.conv", 2), "down1.norm").clamp(min=0)
    x = norm(conv(x, "down2.conv", 2), "down2.norm").clamp(min=0)
    y = norm(conv(x, "residual1.conv1"), "residual1.norm1").clamp(min=0)
    x = x + norm(conv(y, "residual1.conv2"), "residual1.norm2")
    for name in ("up1", "up2"):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = norm(conv(x, f"{name}.conv"), f"{name}.norm").clamp(min=0)
    return (torch.tanh(conv(x, "last") / 2) + 1) / 2


def small(**options):
    torch.manual_seed(0)
    return TransformerNet(**{"widths": (4, 6, 8), "num_blocks": 1, **options})


def test_published_number_of_parameters():
    # That of the fast_neural_style example of pytorch/examples.
    assert sum(p.numel() for p in TransformerNet((32, 64, 128), 5, "instance").parameters()) == 1_679_235


def test_computes_what_it_says():
    net, image = small().double(), torch.rand(2, 3, 16, 24, dtype=torch.double)
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    torch.testing.assert_close(net(image), johnson(net, image))


def test_other_sizes_are_filled_up_and_cut_off():
    net, image = small().double(), torch.rand(1, 3, 13, 10, dtype=torch.double)
    filled = torch.cat([image, image[..., -1:].expand(-1, -1, -1, 2)], dim=3)
    filled = torch.cat([filled, filled[:, :, -1:].expand(-1, -1, 3, -1)], dim=2)
    torch.testing.assert_close(net(image), johnson(net, filled)[..., :13, :10])


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    num_blocks=st.integers(0, 2),
    training=st.booleans(),
)
def test_any_size_keeps_its_size(height, width, widths, num_blocks, training):
    net = TransformerNet(widths, num_blocks, "batch_instance").train(training)
    y = net(torch.rand(2, 3, height, width))
    assert y.shape == (2, 3, height, width)
    assert y.isfinite().all()
    assert 0 <= y.min() <= y.max() <= 1


def test_output_is_a_sigmoid():
    net = small()
    torch.nn.init.zeros_(net.last.weight)
    net.last.bias.data = torch.tensor([0.0, 50.0, -50.0])
    torch.testing.assert_close(net(torch.rand(1, 3, 8, 8)).mean((0, 2, 3)), torch.tensor([0.5, 1.0, 0.0]))


def test_norms_are_named_in_order_of_depth():
    net = small(norm="batch_instance", num_blocks=2)
    assert [name for name, _ in norms.mixing_layers(net)] == [
        "first.norm",
        "down1.norm",
        "down2.norm",
        "residual1.norm1",
        "residual1.norm2",
        "residual2.norm1",
        "residual2.norm2",
        "up1.norm",
        "up2.norm",
    ]


def test_norm_options_reach_every_norm():
    net = small(norm="batch_instance", norm_options={"initial_rho": 0.25})
    assert {value.value for value in norms.mixing_values(net)} == {0.25}


@pytest.mark.parametrize("norm", norms.names())
def test_every_parameter_and_the_image_get_a_gradient(norm):
    net, image = small(norm=norm), torch.rand(2, 3, 12, 12, requires_grad=True)
    (net(image) * torch.randn(2, 3, 12, 12)).sum().backward()
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in net.named_parameters() if "weight" in name)


def test_channels_last():
    net, image = small(norm="batch_instance"), torch.rand(2, 3, 16, 16)
    expected = net(image)
    net, image = net.to(memory_format=torch.channels_last), image.contiguous(memory_format=torch.channels_last)
    y = net(image)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)


def test_autocast_keeps_the_tones_of_an_image():
    net, image = small(), torch.rand(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(image)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, net(image), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": []}, r"widths must be one or more positive numbers, got \[\]"),
        ({"widths": [8, 0]}, r"widths must be one or more positive numbers, got \[8, 0\]"),
        ({"num_blocks": -1}, "num_blocks must be at least 0 and at most 1000, got -1"),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        TransformerNet(**options)


def test_unknown_norms_are_refused():
    with pytest.raises(ValueError, match="did you mean 'instance'"):
        TransformerNet(norm="instence")


def test_styles_differ_by_gamma_and_beta_alone():
    net, image = small(num_styles=3, norm="instance"), torch.rand(3, 3, 12, 12)
    for norm in net.modules():
        if isinstance(norm, norms.ConditionalNorm):
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
    plain = small(norm="instance")
    for style in range(3):
        state = {name: value[style] if value.ndim == 2 else value for name, value in net.state_dict().items()}
        plain.load_state_dict(state)
        torch.testing.assert_close(net(image, style), plain(image))
    together = net(image, torch.tensor([2, 0, 1]))
    for row, style in enumerate([2, 0, 1]):
        torch.testing.assert_close(together[row], net(image, style)[row])


def test_several_styles_must_be_told_apart():
    with pytest.raises(SettingError, match="is told which one to paint in"):
        small(num_styles=2)(torch.rand(1, 3, 8, 8))
    with pytest.raises(SettingError, match="is told which one to paint in"):
        small()(torch.rand(1, 3, 8, 8), 0)


def test_bilinear_upsampling_leaves_an_even_picture_even():
    net = small(upsampling="bilinear")
    y = net(torch.full((1, 3, 32, 32), 0.3))
    assert (y - y.mean((2, 3), keepdim=True)).abs().max() < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (7, 5)])
def test_a_doubled_image_is_convolved_as_if_it_were_there(dtype, tolerance, size):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", dtype=dtype)
    x = torch.randn(2, 3, *size, dtype=dtype, requires_grad=True)
    expected, found = conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), convolve_doubled(x, conv)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    weights = torch.randn_like(expected)
    inputs = (x, conv.weight, conv.bias)
    gradients = [torch.autograd.grad((y * weights).sum(), inputs) for y in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=100 * tolerance, rtol=0)


def test_styles_may_have_any_names():
    torch.manual_seed(0)
    styles = ["a.b", "a_b", "clear", "type", "first+second", "training"]
    network = TransformerNet([2, 4], 1, "batch_instance", num_styles=len(styles), separate_norms=styles)
    assert list(network.first.norm.norms) == ["a_b", "a_b_", "clear_", "type_", "first+second", "training_"]
    assert network(torch.rand(2, 3, 8, 8), 5).shape == (2, 3, 8, 8)
