"""Activation checkpointing: a pass that is repeated in the backward pass is the first one once more."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import norms

over = pytest.mark.parametrize


class Shared(nn.Module):
    """Calls one norm several times, on different activations."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(self.norm(x) * x + 1) + self.norm(x.square())


NETWORKS = {
    "batch_renorm": lambda: norms.BatchRenorm2d(8, schedule_steps=0, momentum=0.3),
    "batch_renorm in its schedule": lambda: norms.BatchRenorm2d(8, schedule_steps=6, momentum=None),
    "sparse switchable": lambda: norms.SwitchableNorm2d(8, sparse_steps=6),
    "sparse switchable without batch": lambda: norms.SwitchableNorm2d(
        8, sparse_steps=9, statistics=("instance", "layer")
    ),
    "shared": lambda: Shared(norms.BatchRenorm2d(8, schedule_steps=0, momentum=0.3)),
    "one after another": lambda: nn.Sequential(
        norms.BatchRenorm2d(8, schedule_steps=9, momentum=0.5),
        nn.Conv2d(8, 8, 1),
        norms.SwitchableNorm2d(8, sparse_steps=9),
    ),
    "batch": lambda: norms.BatchNorm2d(8, momentum=0.3),
    "decorrelated_batch": lambda: norms.DecorrelatedBatchNorm2d(8, group_size=4),
    "spectral_norm": lambda: norms.spectral_norm(nn.Conv2d(8, 8, 3)),
}


def build(name):
    torch.manual_seed(0)
    return NETWORKS[name]().double()


def batches(count):
    noise = torch.randn(count, 4, 8, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noise * torch.arange(1, count + 1).view(-1, 1, 1, 1, 1) + 1


def train(model, recompute):
    """Take two steps, each with two batches and one backward pass; return gradients and what has become of buffers."""
    found = []
    for pair in batches(4).chunk(2):
        xs = [x.clone().requires_grad_() for x in pair]
        total = sum(recompute(model, x).pow(3).mean() for x in xs)
        found.append(torch.autograd.grad(total, [*xs, *model.parameters()]))
    return found, dict(model.named_buffers())


@over("reentrant", [True, False])
@over("name", NETWORKS)
def test_a_repeated_pass_is_the_first_one_once_more(name, reentrant):
    if name == "spectral_norm":
        pytest.skip("moves its vectors at each of two passes before a backward pass, see update='step'")
    reference, model = build(name), build(name)
    # A reentrant checkpoint gives no gradients to autograd.grad.
    expected = train(reference, lambda model, x: model(x))
    if not reentrant:
        torch.testing.assert_close(train(model, lambda m, x: checkpoint(m, x, use_reentrant=False)), expected)
        return
    for index, pair in enumerate(batches(4).chunk(2)):
        model.zero_grad()
        xs = [x.clone().requires_grad_() for x in pair]
        sum(checkpoint(model, x, use_reentrant=True).pow(3).mean() for x in xs).backward()
        torch.testing.assert_close(tuple(t.grad for t in [*xs, *model.parameters()]), expected[0][index])
    torch.testing.assert_close(dict(model.named_buffers()), expected[1])


def test_the_vectors_of_spectral_normalization_move_once():
    reference, model = build("spectral_norm"), build("spectral_norm")
    for x in batches(3):
        for network, repeated in ((reference, False), (model, True)):
            network.zero_grad()
            y = checkpoint(network, x, use_reentrant=False) if repeated else network(x)
            y.pow(3).mean().backward()
        torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in reference.parameters()])
    torch.testing.assert_close(dict(model.named_buffers()), dict(reference.named_buffers()))


def test_passes_further_back_than_are_remembered_are_told_of_once():
    model = build("batch_renorm")
    first = [checkpoint(model, x.requires_grad_(), use_reentrant=False) for x in batches(3)]
    for x in batches(36)[3:]:
        model(x)
    with pytest.warns(UserWarning, match="not among the last 32") as told:
        sum(y.sum() for y in first).backward()
    assert len(told) == 1


def beside_one_without_gradient(model, x, recompute):
    y = recompute(model, x)
    with torch.no_grad():
        model(x)
    y.pow(3).mean().backward()


def in_one_backward_pass(model, x, recompute):
    first, second = recompute(model, x), recompute(model, x)
    (first.pow(3).mean() + second.abs().mean()).backward()


def in_a_second_derivative(model, x, recompute):
    x = x.clone().requires_grad_()
    y = recompute(model, x)
    with torch.no_grad():
        model(x)
    (slope,) = torch.autograd.grad(y.pow(3).mean(), x, create_graph=True)
    slope.square().sum().backward()


@over("passes", [beside_one_without_gradient, in_one_backward_pass, in_a_second_derivative])
@over("name", ["batch_renorm", "batch_renorm in its schedule", "sparse switchable", "one after another"])
def test_passes_over_equal_input_are_told_apart(name, passes):
    reference, model = build(name), build(name)
    (x,) = batches(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if passes is in_one_backward_pass else "error")
        for _ in range(3):
            passes(reference, x, lambda m, x: m(x))
            passes(model, x, lambda m, x: checkpoint(m, x, use_reentrant=False))
    torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in reference.parameters()])
    torch.testing.assert_close(dict(model.named_buffers()), dict(reference.named_buffers()))


@over("name", ["batch_renorm", "sparse switchable"])
def test_passes_over_equal_input_that_cannot_be_told_apart_are_told_of_once(name):
    model = build(name)
    (x,) = batches(1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            first, second = (checkpoint(model, x, use_reentrant=False) for _ in range(2))
            first.pow(3).mean().backward()
            second.pow(3).mean().backward()
    (warning,) = told
    assert "one of several passes of a norm over equal input" in str(warning.message)


@over("name", ["batch_renorm", "batch_renorm in its schedule", "sparse switchable without batch"])
def test_what_is_compiled_by_itself_tells_that_its_gradients_are_not_exact(name):
    torch.compiler.reset()
    model = nn.Sequential(torch.compile(build(name), fullgraph=True, backend="eager"), nn.Sigmoid())
    x = batches(1)[0].requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x).sum().backward()
    y = checkpoint(model, x, use_reentrant=False)
    with pytest.warns(UserWarning, match="compiled by itself, and finds its buffers moved"):
        y.sum().backward()


def test_a_copy_begins_without_memories():
    model = build("batch_renorm")
    model(batches(1)[0])
    copied = copy.deepcopy(model)
    assert not copied._passes._passes
    assert len(model._passes._passes) == 1
