"""The mechanism that norms share: formulas and their gradients, and the map that they modulate."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import FAMILY, Case, derivatives, draw

import norms
from norms.adaptive import InstanceFormula
from norms.batch import BatchFormula
from norms.batch_instance import BatchInstanceFormula
from norms.formula import Formula, Gradients, Moments
from norms.moments import modulate, standardize

CASES = [
    Case(name, 2, options)
    for name in FAMILY
    if name != "decorrelated_batch"
    for options in FAMILY[name].variants
    if not {"affine", "track_running_stats"} & set(options)
    and isinstance(norms.build(name, 4, **options), norms.MomentNorm)
]
EPS = 1e-3

over = pytest.mark.parametrize


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def standard(x, dims, mean=None, var=None):
    mean = x.mean(dims, keepdim=True) if mean is None else mean[:, None, None]
    var = x.var(dims, correction=0, keepdim=True) if var is None else var[:, None, None]
    return (x - mean) / torch.sqrt(var + EPS)


def planes(values):
    return values[..., None, None]


class TestFormulas:
    def test_all_are_covered(self):
        def descendants(kind):
            return {kind}.union(*(descendants(child) for child in kind.__subclasses__())) if kind else set()

        covered = {type(case.build()._formula()) for case in CASES}
        others = {Formula, InstanceFormula}  # the latter is that of a layer with a second argument, tested by itself
        assert {kind for kind in descendants(Formula) if kind.__module__.startswith("norms.")} - covered == others

    @settings(deadline=None, max_examples=15)
    @given(n=st.integers(1, 4), channels=st.integers(1, 5), seed=st.integers(0, 2**31), eps=st.floats(-5, 0))
    @over("case", CASES, ids=str)
    def test_closed_form_gradients_are_those_of_differentiation(self, case, n, channels, seed, eps):
        layer = case.experienced(channels)
        formula = layer._formula()
        mixing = [tensor.detach().double().requires_grad_() for tensor in layer._mixing()]
        values = draw((9, n, channels), seed)
        power, batch_power = values[0].square() + 10**eps, values[1][0].square() + 10**eps
        small = [values[2], power, values[3][0], batch_power, values[4]]
        moments = Moments(*(tensor.clone().requires_grad_() for tensor in small))
        scale, offset = formula.coefficients(moments, *mixing)
        leaves = [*moments, *mixing]
        loss = (values[5] * scale.expand(n, channels)).sum() + (values[6] * offset.expand(n, channels)).sum()
        expected = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            found = formula.gradients(moments, values[5], values[6], *mixing)
        minus_two_times = {"power", "batch_power"}
        for name, gradient in zip(Moments._fields, expected, strict=False):
            if name == "batch_mean":
                assert not gradient.any()
                continue
            closed = getattr(found, name)
            closed = torch.zeros_like(gradient) if closed is None else closed.expand_as(gradient)
            assert_equal(closed, gradient * (-2 if name in minus_two_times else 1))
        assert len(found.mixing) == len(mixing)
        for closed, gradient in zip(found.mixing, expected[len(moments) :], strict=True):
            assert_equal(torch.zeros_like(gradient) if closed is None else closed, gradient)


class TestModulate:
    @over("per_sample", list(itertools.product([False, True], repeat=2)), ids=str)
    @over("population", [False, True])
    @over("channels_last", [False, True])
    @over("formula", [BatchFormula(), BatchInstanceFormula()], ids=lambda formula: type(formula).__name__)
    def test_takes_a_gamma_and_beta_for_each_sample(self, formula, channels_last, population, per_sample):
        x = draw((3, 4, 5, 2), seed=1)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        rho = torch.rand(4, dtype=torch.float64)
        weight, bias = (torch.rand((3, 4) if own else (4,), dtype=torch.float64) for own in per_sample)
        population = (torch.rand(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)) if population else None
        mixing = (rho,) if isinstance(formula, BatchInstanceFormula) else ()
        inputs = [tensor.requires_grad_() for tensor in (x, weight, bias, *mixing)]
        y, _ = modulate(x, formula, EPS, *mixing, weight=weight, bias=bias, population=population)
        expected = standard(x, (0, 2, 3), *(population or ()))
        if mixing:
            expected = planes(rho) * expected + planes(1 - rho) * standard(x, (2, 3))
        expected = expected * planes(weight) + planes(bias)
        assert_equal(y, expected)
        assert_equal(derivatives(y, inputs), derivatives(expected, inputs))

    @over("wanted", [wanted for wanted in itertools.product([False, True], repeat=4) if any(wanted)], ids=str)
    def test_differentiates_for_what_is_asked_and_nothing_else(self, wanted):
        tensors = [draw((3, 4, 5, 2), seed=1), *(torch.rand(4, dtype=torch.float64) for _ in range(3))]
        x, rho, weight, bias = (t.requires_grad_(want) for t, want in zip(tensors, wanted, strict=True))
        asked = [t for t in (x, rho, weight, bias) if t.requires_grad]

        def run():
            y, _ = modulate(x, BatchInstanceFormula(), EPS, rho, weight=weight, bias=bias)
            return (y * draw(y.shape, seed=2)).sum()

        mixed = planes(rho) * standard(x, (0, 2, 3)) + planes(1 - rho) * standard(x, (2, 3))
        expected_loss = ((mixed * planes(weight) + planes(bias)) * draw(x.shape, seed=2)).sum()
        expected = torch.autograd.grad(expected_loss, asked)
        assert_equal(torch.autograd.grad(run(), asked), expected)
        assert_equal(torch.autograd.grad(run(), asked, create_graph=True), expected)
        run().backward()
        assert [t.grad is not None for t in (x, rho, weight, bias)] == list(wanted)

    def test_can_be_differentiated_twice_by_the_same_graph(self):
        x = draw((3, 4, 5, 2), seed=1).requires_grad_()
        y, _ = modulate(x, BatchFormula(), EPS)
        grad = draw(x.shape, seed=2)
        (once,) = torch.autograd.grad(y, x, grad, retain_graph=True)
        (again,) = torch.autograd.grad(y, x, grad)
        assert torch.equal(once, again)

    def test_second_derivatives_take_each_input_apart_where_one_was_made_from_the_other(self):
        x = draw((2, 3, 4), seed=1).requires_grad_()

        def function(x):
            weight = 1 + x.mean((0, 2)) ** 2
            return modulate(x, BatchInstanceFormula(), EPS, weight / 4, weight=weight)[0]

        assert torch.autograd.gradcheck(function, (x,))
        assert torch.autograd.gradgradcheck(function, (x,))

    @over("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_returns_the_moments_of_the_batch_detached(self, dtype):
        x = draw((3, 4, 5, 2), seed=1).to(dtype).requires_grad_()
        _, batch = modulate(x, BatchFormula(), EPS)
        statistics = torch.promote_types(dtype, torch.float32)
        values = x.detach().to(statistics)
        mean, var = torch.as_tensor(batch.mean), torch.as_tensor(batch.var)
        torch.testing.assert_close(mean, values.mean((0, 2, 3)))
        torch.testing.assert_close(var, values.var((0, 2, 3), correction=0))
        assert batch.total == 30
        assert not mean.requires_grad
        assert not var.requires_grad

    def test_returns_no_moments_of_a_batch_that_did_not_enter(self):
        class Instance(Formula):
            per_sample = True

            def coefficients(self, moments, *mixing):
                return torch.rsqrt(moments.power), torch.zeros_like(moments.mean)

            def gradients(self, moments, grad_scale, grad_offset, *mixing):
                return Gradients(power=grad_scale * moments.power**-1.5)

        x = draw((3, 4, 5, 2), seed=1).requires_grad_()
        population = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
        assert modulate(x, BatchFormula(), EPS, population=population)[1] is None
        y, batch = modulate(x, Instance(uses_batch=False), EPS)
        assert batch is None
        assert_equal(derivatives(y, [x]), derivatives(standard(x, (2, 3)), [x]))


class TestStandardize:
    SHAPES = (None, (4,), (3, 4))

    @over("channels_last", [False, True])
    @over(("weight_shape", "bias_shape"), list(itertools.product(SHAPES, SHAPES)), ids=str)
    def test_is_the_formula_with_given_moments(self, weight_shape, bias_shape, channels_last):
        x = draw((3, 4, 5, 2), seed=1)
        x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        mean, var = torch.rand(2, 4, dtype=torch.float64)
        weight, bias = (
            None if shape is None else torch.rand(shape, dtype=torch.float64, requires_grad=True)
            for shape in (weight_shape, bias_shape)
        )
        inputs = [x.requires_grad_(), *(t for t in (weight, bias) if t is not None)]
        expected = standard(x, None, mean, var)
        expected = expected if weight is None else expected * planes(weight)
        expected = expected if bias is None else expected + planes(bias)
        y = standardize(x, mean, var, EPS, weight, bias)
        assert_equal(y, expected)
        assert y.stride() == x.stride()
        assert_equal(derivatives(y, inputs), derivatives(expected, inputs))

    @over("per_sample", [False, True])
    @over("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_keeps_half_precision_and_its_precision(self, dtype, per_sample):
        x = draw((3, 4, 5, 2), seed=1).to(dtype)
        mean, var = torch.rand(2, 4)
        weight = torch.rand((3, 4) if per_sample else (4,))
        y = standardize(x, mean, var, 0.0, weight, None)
        assert y.dtype == dtype
        expected = (x.double() - planes(mean.double())) / planes(var.double()).sqrt() * planes(weight.double())
        torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps / 2, atol=1e-5)
