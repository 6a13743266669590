"""The engines against each other: each computes what the other does, which the family's tests prove of both."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import draw

import norms
from norms.batch import BatchFormula, MeanOnlyBatchFormula
from norms.batch_instance import BatchInstanceFormula
from norms.batch_renorm import BatchRenormFormula
from norms.formula import Formula
from norms.loops import Loops
from norms.operators import Operators
from norms.switchable import STATISTICS, SwitchableFormula

FORMULAS = {
    "batch": BatchFormula(),
    "mean_only_batch": MeanOnlyBatchFormula(),
    "batch_renorm": BatchRenormFormula(1.25, 0.25),
    "batch_instance": BatchInstanceFormula(),
    **{
        f"switchable-{'-'.join(statistics)}{'-of_logits' if of_logits else ''}": SwitchableFormula(
            statistics, of_logits
        )
        for count in (2, 3)
        for statistics in itertools.combinations(STATISTICS, count)
        for of_logits in (False, True)
    },
}
MEMORY = {
    "contiguous": torch.clone,
    "channels_last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
}

over = pytest.mark.parametrize


def test_every_formula_of_the_package_is_compared():
    def descendants(kind):
        return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))

    of_package = {kind for kind in descendants(Formula) if kind.__module__.startswith(f"{norms.__name__}.")}
    assert of_package - {Formula} == {type(formula) for formula in FORMULAS.values()}


def draw_mixing(formula, channels):
    """What a formula is given beside moments."""
    if isinstance(formula, BatchInstanceFormula):
        return (draw_values(channels, 5).sigmoid(),)
    if isinstance(formula, BatchRenormFormula):
        return draw_values(channels, 5), draw_values(channels, 6).exp()
    if isinstance(formula, SwitchableFormula):
        logits = draw_values((2, len(formula.statistics)), 5)
        # Of which the exponentials do not exist.
        return tuple(logits + 1000 if formula.of_logits else logits.softmax(1))
    return ()


def draw_population(formula, channels):
    return (draw_values(channels, 7), draw_values(channels, 8).exp()) if formula.uses_batch else None


def draw_values(shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def find_engines(x, formula, eps, *affine, population=None):
    """Loops, if they take ``x``, and operators."""
    per_sample = formula.per_sample or any(t is not None and t.ndim == 2 for t in affine)
    return Loops.find(x, per_sample, formula, eps, False, population or ()), Operators(formula, eps, False)


def results(engine, grad, x, *given):
    """All that an engine computes: output, moments, and gradients, those None that are 0."""
    population, mixing = given[2:]
    y = engine.normalize(x, *given)
    moments = tuple(map(torch.as_tensor, engine.batch)) if population is None and engine.formula.uses_batch else None
    *gradients, of_mixing = engine.differentiate(grad, x, *given, needs_x=True)
    of_mixing = [torch.zeros_like(t) if g is None else g for t, g in zip(mixing, of_mixing, strict=True)]
    return y, moments, gradients, of_mixing


def assert_equal(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@st.composite
def arranged(draw_from, shape, seed):
    """Values whose dimensions follow one another in memory in any order, with gaps or without."""
    dims = range(len(shape))
    usual = [tuple(dims), (0, *dims[2:], 1)]
    order = draw_from(st.one_of(st.sampled_from(usual), st.permutations(dims)))
    values = draw(shape, seed).permute(order).contiguous()
    gap = draw_from(st.one_of(st.none(), st.sampled_from(dims)))
    if gap is not None:
        values = torch.cat([values, values], gap).narrow(gap, 0, values.shape[gap])
    return values.permute([order.index(dim) for dim in dims])


@settings(deadline=None, max_examples=100)
@given(data=st.data())
@over("name", FORMULAS)
def test_loops_give_what_operators_give_for_any_shape_and_order_in_memory(name, data):
    formula = FORMULAS[name]
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5)))
    x, grad = (data.draw(arranged(shape, seed)) for seed in (1, 2))
    sizes = st.sampled_from([None, shape[1:2], shape[:2]])
    weight, bias = (None if size is None else draw_values(size, 3) for size in (data.draw(sizes), data.draw(sizes)))
    population = draw_population(formula, shape[1]) if data.draw(st.booleans()) else None
    given = weight, bias, population, draw_mixing(formula, shape[1])
    eps = 10 ** data.draw(st.floats(-2, 0))
    found, operators = find_engines(x, formula, eps, weight, bias, population=population)
    usual = x.is_contiguous() or x.movedim(1, -1).is_contiguous()
    assert (found is not None) == (usual and (population is None or formula.per_sample))
    if found is None:
        return
    expected = results(operators, grad, x, *given)
    assert_equal(results(found, grad, x, *given), expected)
    assert found.differentiate(grad, x, *given, needs_x=False)[0] is None
    for engine in find_engines(x, formula, eps, weight, bias, population=population):
        assert_equal(engine.normalize(x, *given, keep=False), expected[0])


# Planes of several blocks, and of channels few and many, whose rows are long and short; the last of some work for each
# thread is less than the others.
LARGE = [(1, 1, 270, 271), (2, 3, 170, 171), (2, 16, 100, 91), (1, 300, 61, 71)]


@over("own", [False, True], ids=["shared", "own"])
@over("memory", MEMORY)
@over("shape", LARGE, ids=str)
@over("name", ["batch", "batch_instance", "switchable-instance-layer-batch"])
def test_loops_give_what_operators_give_for_large_planes(name, shape, memory, own):
    formula = FORMULAS[name]
    x, grad = (MEMORY[memory](draw(shape, seed)) for seed in (1, 2))
    weight, bias = draw_values((2, *shape[:2]) if own else (2, shape[1]), 3)
    given = weight, bias, None, draw_mixing(formula, shape[1])
    found, operators = (results(engine, grad, x, *given) for engine in find_engines(x, formula, 1e-3, weight, bias))
    assert_equal(found, operators, tolerance=1e-8)


# Around the sizes of vectors, of the groups and blocks that they are summed in, and of rows laid side by side.
SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 1023, 1025, 4095, 4096, 4097, 8193]


@over("channels", [1, 3, 8, 100])
@over("size", SIZES)
@over("memory", MEMORY)
@over("dtype", [torch.float32, torch.float64], ids=str)
def test_loops_give_what_operators_give_for_planes_of_any_size(dtype, memory, size, channels):
    formula = FORMULAS["batch_instance"]
    x, grad = (MEMORY[memory](draw((3, channels, size), seed)).to(dtype) for seed in (1, 2))
    weight, bias, rho, mean, var = (draw_values(channels, seed).to(dtype) for seed in range(3, 8))
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    for population in (None, (mean, var.exp())):
        inputs = x, weight, bias, population, (rho.sigmoid(),)
        found, operators = find_engines(x, formula, 0.1, weight, bias, population=population)
        expected = results(operators, grad, *inputs)
        assert_equal(results(found, grad, *inputs), expected, tolerance)
        assert_equal(found.normalize(*inputs, keep=False), expected[0], tolerance)


@over("memory", MEMORY)
@over("name", ["batch", "batch_instance", "switchable-instance-layer-batch"])
def test_many_samples_cost_the_sums_over_them_little(name, memory):
    formula = FORMULAS[name]
    x, grad = (MEMORY[memory](draw((50_000, 4, 4), seed).float()) for seed in (1, 2))
    grad = grad.abs()
    inputs = [t.float() for t in (draw_values(4, 3), draw_values(4, 4))]
    mixing = tuple(t.float() for t in draw_mixing(formula, 4))
    found, _ = find_engines(x, formula, 0.1, *inputs)
    exact = [x.double(), *(t.double() for t in inputs), None, tuple(t.double() for t in mixing)]
    _, _, (grad_x, *affine), of_mixing = results(Operators(formula, 0.1, False), grad.double(), *exact)
    _, _, (actual_x, *actual_affine), actual_mixing = results(found, grad, x, *inputs, None, mixing)
    for actual, expected in zip((*actual_affine, *actual_mixing), (*affine, *of_mixing), strict=True):
        # The largest sums tell, since small ones cancel.
        assert (actual.double() - expected).abs().max() < 1e-6 * affine[1].abs().max()
    torch.testing.assert_close(actual_x.double(), grad_x, rtol=1e-4, atol=2e-6)


@over("engine", ["loops", "operators"])
@over("memory", MEMORY)
@over("shape", LARGE, ids=str)
@over("name", ["batch", "batch_instance"])
def test_a_large_mean_costs_the_moments_of_large_planes_little(name, shape, memory, engine):
    # Exact in float32, where numbers of this size lie 2**-10 apart.
    exact = draw_values(shape, 1).mul(1024).round().div(1024) + 1e4
    x = MEMORY[memory](exact.float())
    assert torch.equal(x.double(), exact)
    formula = FORMULAS[name]
    found = dict(zip(("loops", "operators"), find_engines(x, formula, 1e-5), strict=True))[engine]
    found.normalize(x, None, None, None, tuple(t.float() for t in draw_mixing(formula, shape[1])))
    dims = (0, 2, 3)
    torch.testing.assert_close(torch.as_tensor(found.batch.mean).double(), exact.mean(dims), rtol=1e-7, atol=0)
    torch.testing.assert_close(
        torch.as_tensor(found.batch.var).double(), exact.var(dims, correction=0), rtol=1e-4, atol=0
    )
