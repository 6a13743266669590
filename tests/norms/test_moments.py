"""The affine mechanism, against plain formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from norms.moments import modulate, pool_batch, pool_layer

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(2, 7))


def identity(mean, var):
    return torch.ones_like(mean), mean


def standardize(mean, var):
    return torch.rsqrt(var + 1e-5), torch.zeros_like(mean)


@settings(deadline=None, max_examples=30)
@given(shape=SHAPES, seed=st.integers(0, 2**31))
def test_pooled_moments_are_the_moments_of_the_pool(shape, seed):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 7
    _, mean, var = modulate(x, identity, 1e-5)
    for pool, dims in ((pool_batch, (0, 2, 3)), (pool_layer, (1, 2, 3))):
        pooled_mean, pooled_var = pool(mean, var)
        torch.testing.assert_close(pooled_mean.flatten(), x.mean(dims))
        torch.testing.assert_close(pooled_var.flatten(), x.var(dims, correction=0))


@settings(deadline=None, max_examples=30)
@given(shape=SHAPES, seed=st.integers(0, 2**31))
def test_offset_equal_to_the_mean_with_scale_one_is_the_identity(shape, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    y, _, _ = modulate(x, identity, 1e-5)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-5)


def test_a_large_mean_costs_no_precision_in_the_variance():
    # 1e4 and its neighbors are exact in float32 in steps of 2**-10, so the data itself loses nothing.
    steps = torch.randint(-2048, 2049, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    deviation = steps.double() / 1024
    x = deviation + 1e4
    y, _, var = modulate(x.float(), standardize, 1e-5)
    expected = (deviation - deviation.mean((2, 3), keepdim=True)) / deviation.std((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(var.double(), deviation.var((2, 3), correction=0), rtol=1e-3, atol=0)
    assert (y.double() - expected).abs().max() < 2e-3


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_and_memory_format_of_the_input_are_kept_forward_and_backward(dtype, memory_format):
    x = torch.randn(2, 3, 8, 8).to(dtype).to(memory_format=memory_format).requires_grad_()
    y, mean, _ = modulate(x, standardize, 1e-5)
    y.backward(torch.randn_like(y))
    assert y.dtype == x.grad.dtype == dtype
    assert mean.dtype == torch.float32
    assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_fused_and_the_elementary_kernels_agree(memory_format):
    x = (torch.randn(4, 3, 9, 7) * 2 + 5).to(memory_format=memory_format)
    grad = torch.randn_like(x)

    def run(values):
        leaf = values.clone().requires_grad_()
        y, _, _ = modulate(leaf, standardize, 1e-5)
        y.backward(grad.to(values.dtype))
        return y, leaf.grad

    for ours, exact in zip(run(x), run(x.double().contiguous()), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


def test_only_the_input_and_small_tensors_are_saved_for_backward():
    x = torch.randn(4, 8, 32, 32, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        modulate(x, standardize, 1e-5)
    large = {t.data_ptr() for t in saved if t.numel() > 4 * 8 * 4}
    assert large == {x.data_ptr()}


def test_second_derivatives_take_each_input_apart_where_one_was_made_from_the_other():
    def coefficients(mean, var, weight):
        return torch.rsqrt(var + 1e-5) * weight, torch.zeros_like(mean)

    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)

    def function(x):
        return modulate(x, coefficients, 1e-5, 1 + x.mean((0, 2)) ** 2)[0]

    assert torch.autograd.gradgradcheck(function, (x,))
