"""The passes over a large tensor, against the formulas that document them."""

import itertools
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import draw

from norms import kernels

over = pytest.mark.parametrize


@st.composite
def activations(draw_from):
    """Activations of any shape whose dimensions follow one another in memory in any order, with gaps or without."""
    shape = draw_from(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    order = draw_from(st.permutations(range(len(shape))))
    inverse = [order.index(dim) for dim in range(len(shape))]
    x = draw(tuple(shape), draw_from(st.integers(0, 2**31))).permute(order).contiguous().permute(inverse)
    return torch.stack([x, x], -1)[..., 0] if draw_from(st.booleans()) else x


def spread(values, x):
    """Values of shape (samples, C) or (C,), for all that belongs to them in ``x``."""
    return values[(..., *(None,) * (x.ndim - 2))]


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=200)
@given(x=activations(), per_sample=st.booleans(), of_channels=st.booleans(), piece=st.integers(1, 60))
def test_the_passes_compute_what_they_document_for_any_shape_and_layout(x, per_sample, of_channels, piece):
    with patch.object(kernels, "_PIECE", piece):
        kernel = kernels.find(x, per_sample)
        together = kernel.shape[0] == 1
        assert kernel.shape in {(len(x), x.shape[1]), (1, x.shape[1])}
        assert kernel.size * kernel.shape[0] * kernel.shape[1] == x.numel()
        assert not (per_sample and together and len(x) > 1)

        def sums(values):
            planes = values.flatten(2).sum(2) if values.ndim > 2 else values
            return planes.sum(0, keepdim=True) if together else planes

        mean, power = kernel.moments(x, 0.01)
        expected_mean = sums(x) / kernel.size
        assert_equal(mean, expected_mean)
        assert_equal(power, sums((x - spread(expected_mean, x)).square()) / kernel.size + 0.01)

        small = torch.randn(3, *kernel.shape, dtype=x.dtype)
        weight, scale, offset = small[:, 0] if of_channels else small
        centered = x - spread(mean, x)
        y = kernel.affine(x, mean, scale, offset)
        assert_equal(y, centered * spread(scale, x) + spread(offset, x))

        grad = draw(x.shape, seed=7)
        of_scale, of_offset = kernel.sums(grad, x, mean)
        assert_equal(of_scale, sums(grad * centered))
        assert_equal(of_offset, sums(grad))

        combined = kernel.combine(grad, weight, x, mean, scale, offset)
        assert_equal(combined, grad * spread(weight, x) + centered * spread(scale, x) + spread(offset, x))
        if x.is_contiguous() or x.movedim(1, -1).is_contiguous():
            assert y.stride() == combined.stride() == torch.empty_like(x).stride()


def image(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


@over(
    ("x", "per_sample", "kind"),
    [
        (image(2, 3, 4, 5), True, "_Planes"),
        (image(2, 3, 4, 5), False, "_Planes"),
        (image(2, 3, 4, dtype=torch.float64), False, "_Planes"),
        (image(2, 3), True, "_Planes"),
        (image(2, 3), False, "_Rows"),
        (image(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), True, "_Rows"),
        (image(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d), False, "_Rows"),
        (image(2, 4, 3).transpose(1, 2), True, "_Rows"),
        (image(2, 3, 4, 5).transpose(2, 3), True, "_Strided"),
        (image(2, 3, 4, 5, dtype=torch.bfloat16), True, "_Strided"),
        (image(0, 3, 4, 5), True, "_Strided"),
        (image(2, 3, 4, 5).to("meta"), True, "_Strided"),
    ],
)
def test_the_layout_chooses_the_kernels(x, per_sample, kind):
    assert type(kernels.find(x, per_sample)).__name__ == kind


@over("per_sample", [True, False])
@over("layout", ["contiguous", "channels_last", "strided", "bfloat16"])
def test_a_large_mean_costs_the_moments_of_large_planes_little(layout, per_sample):
    dtype, step, scale = (torch.bfloat16, 64, 512) if layout == "bfloat16" else (torch.float32, 2**-10, 1)
    # Exact in the dtype, where numbers of this size lie a step apart.
    noise = torch.randn(2, 2, 512, 600, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = ((1e4 + scale * noise) / step).round() * step
    given_values = x.to(dtype)
    if layout == "channels_last":
        given_values = given_values.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        given_values = given_values.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(given_values.double(), x)
    kernel = kernels.find(given_values, per_sample)
    mean, power = kernel.moments(given_values, 1e-5)
    dims = (0, 2, 3) if kernel.shape[0] == 1 else (2, 3)
    assert mean.dtype == power.dtype == torch.float32
    torch.testing.assert_close(mean.double().flatten(), x.mean(dims).flatten(), rtol=1e-7, atol=0)
    torch.testing.assert_close(power.double().flatten(), x.var(dims, correction=0).flatten(), rtol=1e-4, atol=0)


@over(("dtype", "statistics"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)], ids=str)
def test_half_precision_is_summed_in_float32(dtype, statistics):
    # Ones whose sum half precision could not hold.
    x = torch.ones(1, 1, 300, 300, dtype=dtype)
    kernel = kernels.find(x, True)
    mean, power = kernel.moments(x, 0.5)
    total, count = kernel.sums(x, x, mean - 1)
    assert {t.dtype for t in (mean, power, total, count)} == {statistics}
    assert (mean.item(), power.item(), total.item(), count.item()) == (1, 0.5, 90_000, 90_000)
    assert kernel.affine(x, mean, power, power).dtype == kernel.combine(x, power, x, mean, power, power).dtype == dtype


@over("per_sample", [True, False])
@over("shape", [(0, 3, 4, 5), (0, 3)], ids=str)
def test_an_empty_batch_has_no_values_and_no_warnings(shape, per_sample):
    x = torch.empty(shape)
    kernel = kernels.find(x, per_sample)
    mean, power = kernel.moments(x, 1e-5)
    small = list(itertools.chain((mean, power), kernel.sums(x, x, mean)))
    assert all(values.shape == (0, 3) for values in small)
    assert kernel.affine(x, mean, power, mean).shape == kernel.combine(x, power, x, mean, power, mean).shape == shape
