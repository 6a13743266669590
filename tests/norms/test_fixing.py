"""Norms whose statistics are fixed compute parts of an image as the whole."""

import pytest
import torch
from torch import nn

import norms
from norms.errors import SettingError

over = pytest.mark.parametrize
NAMES = [name for name in norms.names() if name != "none"]
INSTANCE_LIKE = ["instance", "layer", "group", "batch_instance", "switchable"]


def trained(name, num_conditions=None, **options):
    """A norm of 8 channels that has seen data, and whose parameters are not those at the start."""
    torch.manual_seed(0)
    if name == "batch_renorm":
        options["momentum"] = 0.5  # which settles after few batches
    norm = norms.build(name, 8, num_conditions=num_conditions, **options)
    condition = () if num_conditions is None else (torch.tensor([0, 1]),)
    for _ in range(30):
        norm(torch.randn(2, 8, 6, 6) * 2 + 1, *condition)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.rand_like(parameter))
    return norm.eval()


def photo(mean=3.0):
    torch.manual_seed(1)
    return torch.randn(2, 8, 32, 24) * torch.linspace(0.1, 4, 8)[:, None, None] + mean


@over("name", NAMES)
@over("layout", [torch.contiguous_format, torch.channels_last])
def test_a_part_is_computed_as_the_whole(name, layout):
    norm, x = trained(name), photo().contiguous(memory_format=layout)
    expected = norm(x)
    with norms.fixed_statistics(norm, x):
        torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm(x[..., 5:14, 7:]), expected[..., 5:14, 7:], rtol=1e-4, atol=1e-5)
    assert torch.equal(norm(x), expected)
    assert (name in INSTANCE_LIKE) == (not torch.allclose(norm(x[..., 5:14, 7:]), expected[..., 5:14, 7:], atol=1e-3))


@over("name", NAMES)
def test_conditional_norms_are_fixed_for_the_condition_of_the_pass(name):
    norm, x, styles = trained(name, num_conditions=3), photo(), torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
    expected = norm(x, styles)
    with norms.fixed_statistics(norm, x, styles):
        torch.testing.assert_close(norm(x[..., :9], styles), expected[..., :9], rtol=1e-4, atol=1e-5)


def test_the_statistics_are_those_of_the_pass():
    norm, x, other = trained("instance"), photo(), torch.rand(2, 8, 5, 7)
    var, mean = torch.var_mean(x.double(), (2, 3), correction=0, keepdim=True)
    affine = [t[:, None, None].double() for t in (norm.weight, norm.bias)]
    with norms.fixed_statistics(norm, x):
        result = norm(other)
    expected = (other.double() - mean) / (var + 1e-5).sqrt() * affine[0] + affine[1]
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_planes_that_are_constant_stay_so():
    norm, x = trained("instance"), photo()
    x[:, 2] = 5
    with norms.fixed_statistics(norm, x):
        result = norm(photo())[:, 2]
    torch.testing.assert_close(result, norm.bias[2].expand_as(result), rtol=0, atol=1e-3)


def test_a_norm_that_is_called_twice_has_the_statistics_of_each_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = trained("instance")

        def forward(self, x):
            return self.norm(self.norm(x).relu() * 3 + 1)

    model, x = Twice().eval(), photo()
    expected = model(x)
    with norms.fixed_statistics(model, x):
        for _ in range(2):
            torch.testing.assert_close(model(x[..., 4:]), expected[..., 4:], rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_its_dtype():
    norm, x = trained("batch_instance"), photo().bfloat16()
    expected = norm(x)
    with norms.fixed_statistics(norm, x):
        result = norm(x[..., :7, :])
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, expected[..., :7, :], rtol=0.02, atol=0.02)


def test_nothing_stays_fixed_after_an_error():
    norm, x = trained("instance"), photo()
    expected = norm(x[..., :5])
    with pytest.raises(ZeroDivisionError), norms.fixed_statistics(norm, x):
        raise ZeroDivisionError
    with pytest.raises(TypeError), norms.fixed_statistics(norm):
        pass
    assert torch.equal(norm(x[..., :5]), expected)
    assert not norm._forward_hooks


def test_what_cannot_be_fixed_is_refused():
    norm, match = trained("instance").train(), r"evaluation mode: call model\.eval\(\) first"
    with pytest.raises(SettingError, match=match), norms.fixed_statistics(norm, photo()):
        pass
    norm, match = trained("decorrelated_batch", track_running_stats=False), "DecorrelatedBatchNorm2d cannot be fixed"
    with pytest.raises(SettingError, match=match), norms.fixed_statistics(norm, photo()):
        pass


def test_batch_statistics_that_are_not_tracked_are_those_of_the_instance():
    norm = trained("batch_instance", track_running_stats=False)
    one = photo()[:1]
    expected = norm(one)
    with norms.fixed_statistics(norm, one):
        torch.testing.assert_close(norm(one[..., :9]), expected[..., :9], rtol=1e-4, atol=1e-5)


@over("style", [torch.rand(2, 8, 9, 9) * 3, (torch.rand(8), torch.rand(8))], ids=["features", "statistics"])
def test_adaptive_norms_are_fixed_too(style):
    norm, x = norms.AdaptiveInstanceNorm().eval(), photo()
    expected = norm(x, style)
    with norms.fixed_statistics(norm, x, style):
        torch.testing.assert_close(norm(x[..., 5:], style), expected[..., 5:], rtol=1e-4, atol=1e-5)


def test_norms_of_each_condition_are_fixed():
    norm = norms.NormPerCondition({"a": trained("instance"), "b": trained("switchable"), "c": trained("group")}).eval()
    for condition in (1, torch.tensor([0, 2]), torch.tensor([0.2, 0.3, 0.5])):
        expected = norm(photo(), condition)
        with norms.fixed_statistics(norm, photo(), condition):
            torch.testing.assert_close(norm(photo()[..., 5:], condition), expected[..., 5:], rtol=1e-4, atol=1e-5)
