"""Compiled loops: which activations they take, and what surrounds them; what they compute is in ``test_engine.py``."""

import copy
import itertools
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numba
import pytest
import torch
import torch.utils.checkpoint
from oracles import Case, draw, run
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import norms
from norms import base, compiled
from norms.batch import BatchFormula
from norms.batch_instance import BatchInstanceFormula
from norms.loops import Loops
from norms.moments import modulate

ROOT = Path(norms.__file__).parents[1]
CASES = [
    Case(name, 2, options)
    for name, options in {
        "batch": {"sync": True},
        "mean_only_batch": {},
        "batch_renorm": {},
        "batch_instance": {},
        "switchable": {},
    }.items()
]
MEMORY = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

over = pytest.mark.parametrize


@pytest.fixture
def torch_threads():
    """Sets the number of torch's threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def find(x, per_sample=True, formula=None):
    return Loops.find(x, per_sample, formula or BatchInstanceFormula(), 1e-5, False)


def image(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


@over(
    ("x", "per_sample", "by_rows"),
    [
        (image(2, 3, 4, 5), True, False),
        (image(2, 3, 4, 5), False, False),
        (image(2, 3, 4, dtype=torch.float64), False, False),
        (image(2, 3, 4, 5, 6, dtype=torch.float64), True, False),
        (image(2, 3), True, False),
        (image(2, 3), False, True),
        (image(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), True, True),
        (image(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d), False, True),
        (image(2, 4, 3).transpose(1, 2), True, True),
        (nn.Parameter(image(2, 3, 4, 5)), True, False),
    ],
)
def test_the_order_in_memory_chooses_the_loops(x, per_sample, by_rows):
    found = find(x, per_sample)
    samples = 1 if by_rows and not per_sample else 2
    assert found.layout == (by_rows, (samples, 3), x.numel() // (samples * 3), x.dtype)


class Subclass(torch.Tensor):
    """A tensor that could be anything."""


@over(
    "x",
    [
        image(2, 3, 4, 5).transpose(2, 3),
        image(2, 3, 4, 5)[:, :, ::2],
        image(2, 6, 4, 5)[:, :3],
        image(3, 2, 4, 5).transpose(0, 1),
        image(1, 3, 1, 1).expand(2, 3, 4, 5),
        image(2, 3, 4, 5, dtype=torch.bfloat16),
        image(2, 3, 4, 5, dtype=torch.float16),
        image(0, 3, 4, 5),
        image(2, 3, 0, 5),
        image(2, 3, 4, 5).to("meta"),
        image(2, 3, 4, 5).as_subclass(Subclass),
        FakeTensorMode().from_tensor(image(2, 3, 4, 5)),
    ],
    ids=lambda x: f"{type(x).__name__}-{x.device.type}-{x.dtype}-{tuple(x.shape)}-{x.stride()}",
)
def test_there_are_no_loops_over_other_activations(x):
    assert find(x) is None


def test_there_are_no_loops_for_a_formula_without_any():
    class Plain(BatchFormula):
        loops = None

    x = draw((2, 3, 4, 5), seed=1)
    assert find(x, formula=Plain()) is None
    torch.testing.assert_close(modulate(x, Plain(), 1e-3)[0], modulate(x, BatchFormula(), 1e-3)[0])


def test_a_formula_derived_from_another_is_not_taken_for_it():
    class Shifted(BatchFormula):
        def coefficients(self, moments, *mixing):
            scale, offset = super().coefficients(moments, *mixing)
            return scale, offset + 1

    x = draw((2, 3, 4, 5), seed=1)
    torch.testing.assert_close(modulate(x, Shifted(), 1e-3)[0], modulate(x, BatchFormula(), 1e-3)[0] + 1)


class Operations(TorchDispatchMode):
    """Counts operators."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@over("mode", [lambda: FlopCounterMode(display=False), Operations, FakeTensorMode], ids=["flops", "dispatch", "fake"])
def test_who_watches_operators_sees_them(mode):
    x = image(2, 3, 4, 5)
    assert find(x) is not None
    with mode():
        assert find(x) is None
    assert find(x) is not None


def test_a_norm_that_is_watched_is_seen_whole():
    x = draw((2, 4, 5, 5), seed=1).float()
    layer = CASES[3].experienced(dtype=torch.float32)
    with Operations() as operations:
        watched = layer(x)
    assert operations.count > 10
    torch.testing.assert_close(watched, CASES[3].experienced(dtype=torch.float32)(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:FutureWarning")
def test_a_traced_norm_computes_and_does_not_recall():
    layer = CASES[3].experienced(dtype=torch.float32).eval().requires_grad_(False)
    # A trace that recalled what loops gave would give the same for anything.
    traced = torch.jit.trace(layer, (torch.randn(2, 4, 5, 5),), check_trace=False)
    x = torch.randn(3, 4, 6, 7)
    torch.testing.assert_close(traced(x), layer(x))


def test_a_norm_can_be_mapped_over_batches_and_over_parameters():
    layers = [CASES[3].experienced(dtype=torch.float32).eval() for _ in range(3)]
    for index, layer in enumerate(layers):
        nn.init.constant_(layer.rho, index / 2)
    x = torch.randn(3, 2, 4, 5, 5)
    state = torch.func.stack_module_state(layers)
    with torch.no_grad():
        mapped = torch.vmap(layers[0])(x)
        torch.testing.assert_close(mapped, torch.stack([layers[0](each) for each in x]))
        ensemble = torch.vmap(lambda *state: torch.func.functional_call(layers[0], state, (x[0],)))(*state)
        torch.testing.assert_close(ensemble, torch.stack([layer(x[0]) for layer in layers]))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@over("training", [True, False], ids=["training", "evaluation"])
@over("case", CASES, ids=str)
def test_a_norm_has_a_forward_derivative(case, training):
    layer = case.experienced().train(training).requires_grad_(False)
    x, direction = draw((2, 4, 5, 5), seed=1), draw((2, 4, 5, 5), seed=2)
    _, expected = torch.autograd.functional.jvp(copy.deepcopy(layer), x, direction)
    with forward_ad.dual_level():
        y = layer(forward_ad.make_dual(x, direction))
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, expected)


@over("memory", MEMORY)
def test_tensors_may_be_stored_as_the_negative_of_others_and_zeros_not_at_all(memory):
    layer = CASES[3].experienced()
    x, grad = (draw((2, 4, 5, 5), seed=seed).contiguous(memory_format=MEMORY[memory]) for seed in (1, 2))
    expected = run(layer, -x, -grad)
    actual = run(layer, torch._neg_view(x), torch._neg_view(grad))
    torch.testing.assert_close(actual, expected)
    assert not any(each.any() for each in run(layer, x, torch._efficientzerotensor(x.shape, dtype=x.dtype))[1:])


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@over("memory", MEMORY)
@over("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0)], ids=str)
@over("case", CASES, ids=str)
def test_hooks_may_bring_the_input_back_in_another_order(case, order, memory):
    x, grad = (draw((2, 4, 5, 6), seed).contiguous(memory_format=MEMORY[memory]) for seed in (1, 2))
    expected = run(case.experienced(), x, grad)
    inverse = [order.index(dim) for dim in range(4)]

    def reorder(kept):
        return kept.permute(order).contiguous().permute(inverse) if kept.ndim == 4 else kept

    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, reorder):
        torch.testing.assert_close(run(case.experienced(), x, grad), expected)


@over("reentrant", [True, False])
@over("case", CASES, ids=str)
def test_activations_can_be_computed_again(case, reentrant):
    x, grad = (draw((2, 4, 5, 6), seed) for seed in (1, 2))
    expected, layer = run(case.experienced(), x, grad), case.experienced()

    def computed_again(x):
        return torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)

    x = x.requires_grad_()
    computed_again(x).backward(grad)
    torch.testing.assert_close([x.grad, *(each.grad for each in layer.parameters())], expected[1:])


@over("case", CASES, ids=str)
def test_what_hooks_keep_is_asked_for_once(case):
    asked = []
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: asked.append(kept) or kept):
        y = case.experienced()(draw((2, 4, 5, 6), seed=1).requires_grad_())
    y.sum().backward()
    assert len({id(each) for each in asked}) == len(asked)


@over("ndim", [1, 4])
def test_what_hooks_bring_back_in_another_dtype_is_not_read_as_what_it_was(ndim):
    x = draw((2, 4, 50, 60), seed=1).float().requires_grad_()

    def rounded(kept):
        return kept.bfloat16() if kept.ndim == ndim else kept

    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, rounded):
        y = CASES[3].experienced(dtype=torch.float32)(x)
    if ndim == 1:
        with pytest.raises(RuntimeError, match="dtype"):
            y.sum().backward()
    else:
        y.square().sum().backward()
        assert x.grad.isfinite().all()


def test_running_statistics_of_another_shape_are_refused_and_read_by_nobody():
    for shape in ((2,), (4000,)):
        layer = norms.BatchInstanceNorm2d(4)
        layer.running_mean = torch.zeros(shape)
        with pytest.raises(RuntimeError, match=r"size of tensor"):
            layer(draw((2, 4, 5, 6), seed=1).float())
        assert not layer.running_mean.any()


def test_a_channel_that_never_varied_ends_at_the_limits():
    layers = [norms.BatchRenorm2d(4, schedule_steps=0, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    x = draw((2, 4, 5, 6), seed=1)
    given = []
    for layer, dtype in zip(layers, (torch.float32, torch.bfloat16), strict=True):
        layer.running_std.zero_()
        given.append(layer(x.to(dtype)).float())
    assert given[0].isfinite().all()
    torch.testing.assert_close(*given, rtol=0.1, atol=0.1)


@over("memory", MEMORY)
@over("case", CASES, ids=str)
def test_gradients_can_be_asked_for_in_batches(case, memory):
    layer = case.experienced()
    x = draw((2, 4, 5, 6), seed=1).contiguous(memory_format=MEMORY[memory]).requires_grad_()
    inputs = [x, *layer.parameters()]
    y = layer(x)
    grads = torch.stack([draw(x.shape, seed) for seed in (2, 3)])
    batched = torch.autograd.grad(y, inputs, grads, retain_graph=True, is_grads_batched=True)
    single = [torch.autograd.grad(y, inputs, grad, retain_graph=True) for grad in grads]
    torch.testing.assert_close(batched, tuple(torch.stack(each) for each in zip(*single, strict=True)))
    assert not any(each.requires_grad for each in batched)


@over("memory", MEMORY)
def test_one_gate_for_all_channels_is_read_as_one(memory):
    layer = norms.BatchInstanceNorm2d(4, dtype=torch.float64)
    x = draw((2, 4, 5, 5), seed=1).contiguous(memory_format=MEMORY[memory])
    nn.init.constant_(layer.rho, 0.25)
    expected = layer(x)
    layer.rho = nn.Parameter(torch.tensor([0.25], dtype=torch.float64))
    torch.testing.assert_close(layer(x), expected)


@over("momentum", [0, 0.1, 0.5, 0.9, 1])
@over("kind", [norms.BatchNorm2d, norms.MeanOnlyBatchNorm2d, norms.BatchRenorm2d])
def test_loops_move_running_statistics_as_operators_do(kind, momentum, monkeypatch):
    taken = []
    layers = [kind(4, momentum=momentum) for _ in range(2)]
    x = draw((2, 3, 4, 5, 6), seed=1).float()
    for layer, loops in zip(layers, (True, False), strict=True):
        if not loops:
            monkeypatch.setattr(base, "track", lambda *given: taken.append(given))
        versions = {key: buffer._version for key, buffer in layer.named_buffers()}
        for batch in x:
            layer(batch)
        assert all(buffer._version > versions[key] for key, buffer in layer.named_buffers())
    assert len(taken) == 2
    torch.testing.assert_close(*(dict(layer.named_buffers()) for layer in layers), rtol=1e-6, atol=1e-7)
    assert layers[0].num_batches_tracked == 2
    if momentum == 1:
        # To the bit, as an average of nothing else.
        assert_same(layers[0].running_mean, torch.as_tensor(taken[-1][2][0]))


@over("change", ["half", "double", "spaced"])
def test_running_statistics_that_loops_cannot_read_move_all_the_same(change):
    layers = [norms.BatchInstanceNorm2d(4) for _ in range(2)]
    kept = {"half": torch.ones(4).half(), "double": torch.ones(4).double(), "spaced": torch.ones(8)[::2]}[change]
    layers[0].running_var = kept
    x = draw((3, 4, 5, 6), seed=1).float()
    for layer in layers:
        layer(x)
    assert layers[0].running_var is kept
    torch.testing.assert_close(kept.float(), layers[1].running_var, rtol=1e-3, atol=0)
    torch.testing.assert_close(layers[0].running_mean, layers[1].running_mean)
    assert layers[0].num_batches_tracked == 1


def test_a_gradient_says_that_the_running_statistics_it_needs_have_moved():
    layer = norms.BatchInstanceNorm2d(4).eval()
    y = layer(draw((3, 4, 5, 6), seed=1).float())
    layer.train()(draw((3, 4, 5, 6), seed=2).float())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@over("spaced", [False, True])
@over("memory", MEMORY)
def test_hooks_may_keep_running_statistics_elsewhere(memory, spaced):
    x, grad = (draw((2, 4, 5, 6), seed).contiguous(memory_format=MEMORY[memory]) for seed in (1, 2))
    layers = [Case("batch_instance", 2, {}).experienced().eval() for _ in range(2)]
    expected = run(layers[0], x, grad)
    layer, x = layers[1], x.requires_grad_()
    if spaced:
        layer.running_var = torch.stack([layer.running_var] * 2, 1)[:, 0]
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda kept: kept):
        y = layer(x)
    for buffer in layer.buffers():
        buffer.fill_(7)
    y.backward(grad)
    torch.testing.assert_close(x.grad, expected[1])


LARGE = (3, 7, 150, 170)


@over("memory", MEMORY)
@over("case", CASES, ids=str)
def test_the_number_of_threads_changes_no_bit(case, memory, torch_threads):
    x, grad = (draw(LARGE, seed).float().contiguous(memory_format=MEMORY[memory]) for seed in (1, 2))
    given = []
    for count in (1, 2, 3):
        torch_threads(count)
        layer = case.experienced(LARGE[1], dtype=torch.float32)
        given.append([run(layer, x, grad), copy.deepcopy(layer.state_dict())])
        if isinstance(layer, norms.MixingNorm):
            # Others are evaluated by torch.
            given[-1].append(run(layer.eval(), x, grad))
    assert_same(given[1], given[0])
    assert_same(given[2], given[0])


@over("memory", MEMORY)
@over("samples", [1, 2, 9])
@over("case", [case for case in CASES if isinstance(case.build(), norms.MixingNorm)], ids=str)
def test_the_number_of_threads_changes_no_bit_of_an_evaluation_without_gradients(case, samples, memory, torch_threads):
    x = draw((samples, *LARGE[1:]), seed=1).float().contiguous(memory_format=MEMORY[memory])
    layer = case.experienced(LARGE[1], dtype=torch.float32).eval()
    given = []
    for count in (1, 2, 3):
        torch_threads(count)
        with torch.no_grad():
            given.append(layer(x))
    assert_same(given[1:], given[:1] * 2)


@over("memory", MEMORY)
@over("numbers", [(1, 2), (2, 1), (2, 2)], ids=str)
def test_a_norm_leaves_the_numbers_of_threads_as_they_were(numbers, memory, torch_threads):
    before = numba.get_num_threads()
    try:
        torch_threads(numbers[0])
        numba.set_num_threads(numbers[1])
        for shape in (LARGE, (2, 7, 4, 5)):
            x = draw(shape, seed=1).float().contiguous(memory_format=MEMORY[memory])
            layer = Case("batch_instance", 2, {}).experienced(7, dtype=torch.float32)
            run(layer, x, x)
            with torch.no_grad():
                layer.eval()(x)
            assert (torch.get_num_threads(), numba.get_num_threads()) == numbers
    finally:
        numba.set_num_threads(before)


SIZES = {"small": (8, 5, 4), "of_a_group": (8, 100, 110), "beyond_a_group": (2, 257, 257)}


@over("own", [False, True], ids=["shared", "own"])
@over("samples", [1, 9])
@over("memory", MEMORY)
@over("size", SIZES)
@over("options", [{}, {"statistics": ("layer", "batch")}, None], ids=str)
def test_evaluation_in_one_pass_is_that_in_several(options, size, memory, samples, own, torch_threads):
    torch_threads(2)
    case = Case("batch_instance", 2, {}) if options is None else Case("switchable", 2, options)
    layer = case.experienced(SIZES[size][0]).eval()
    x = draw((samples, *SIZES[size]), seed=1).contiguous(memory_format=MEMORY[memory])
    x[-1, 1, 2, 3] = torch.nan
    affine = draw((2, *x.shape[:2]), seed=2) if own else (None, None)
    expected = layer(x, *affine)
    assert expected.requires_grad
    with torch.no_grad():
        y = layer(x, *affine)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10, equal_nan=True)
    assert y.stride() == x.stride()


def train(case, seed, start):
    """What a few steps make of a layer."""
    layer = case.experienced(dtype=torch.float32)
    steps = torch.optim.SGD(layer.parameters(), 1e-3)
    start.wait()
    for step in range(5):
        x = draw((2, 4, 70, 80), seed + step).float()
        loss = run(layer, x, x.cos())[0].square().mean()
        steps.step()
    with torch.no_grad():
        return [loss, layer.eval()(x), layer.state_dict()]


def test_layers_can_be_trained_in_several_threads_at_once(torch_threads):
    torch_threads(2)
    alone = [train(case, seed, threading.Barrier(1)) for seed, case in enumerate(CASES)]
    together = [None] * len(CASES)
    start = threading.Barrier(len(CASES))

    def work(index):
        together[index] = train(CASES[index], index, start)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(CASES))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(together, alone)


def of_new_process(code, folder=ROOT, **environment):
    """What code prints in a process of its own that imports the norms from a folder."""
    code = "import json, sys, warnings\nimport torch\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_first_norm_of_a_process_leaves_the_number_of_threads_as_it_was():
    code = """
    import norms
    before = torch.get_num_threads()
    x = torch.randn(3, 4, 5, 6)
    norms.BatchInstanceNorm2d(4)(x)
    print(json.dumps([before, torch.get_num_threads()]))
    """
    assert of_new_process(code, OMP_NUM_THREADS="1") == [1, 1]


def test_threads_of_numba_that_serve_one_caller_at_a_time_have_several_from_the_start():
    code = """
    import threading
    import norms
    layers = [norms.BatchInstanceNorm2d(8) for _ in range(6)]
    start = threading.Barrier(len(layers))
    finished = []

    def work(layer):
        x = torch.randn(2, 8, 64, 64)
        start.wait()
        for _ in range(5):
            layer(x).sum().backward()
        finished.append(layer)

    threads = [threading.Thread(target=work, args=(layer,)) for layer in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    import numba
    print(json.dumps([numba.threading_layer(), len(finished)]))
    """
    assert of_new_process(code, NUMBA_THREADING_LAYER="workqueue") == ["workqueue", 6]


def test_a_forked_process_has_norms_too():
    code = """
    import multiprocessing
    import norms

    def work(results):
        torch.set_num_threads(1)
        results.put(layer(x).flatten().tolist())

    layer = norms.BatchInstanceNorm2d(4, initial_rho=0.25)
    x = torch.arange(480.0).cos().view(4, 4, 5, 6)
    own = layer(x)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    process = fork.Process(target=work, args=(results,))
    process.start()
    process.join(30)
    y = results.get(timeout=1) if process.exitcode == 0 else []
    print(json.dumps([process.exitcode, own.flatten().tolist(), y]))
    """
    status, expected, y = of_new_process(code)
    assert status == 0
    torch.testing.assert_close(torch.tensor(y), torch.tensor(expected))


def test_without_numba_norms_are_the_same_and_say_once_that_they_are_slower():
    code = """
    sys.modules["numba"] = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import norms
        given = []
        for channels in (4, 4):
            layer = norms.BatchInstanceNorm2d(channels, initial_rho=0.25)
            x = torch.arange(480.0).cos().view(4, 4, 5, 6).requires_grad_()
            y = layer(x)
            y.square().sum().backward()
            given.append([t.flatten().tolist() for t in (y, layer.rho.grad, layer.eval()(x.detach()))])
    messages = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
    print(json.dumps([messages, *given]))
    """
    messages, first, second = of_new_process(code)
    assert len(messages) == 1
    assert "slower" in messages[0]
    assert "numba" in messages[0]
    assert "\n" not in messages[0]
    layer = norms.BatchInstanceNorm2d(4, initial_rho=0.25)
    x = torch.arange(480.0).cos().view(4, 4, 5, 6)
    y = layer(x)
    y.square().sum().backward()
    expected = [t.flatten() for t in (y, layer.rho.grad, layer.eval()(x))]
    for found in (first, second):
        torch.testing.assert_close([torch.tensor(each) for each in found], expected, rtol=1e-4, atol=1e-4)


def test_numba_that_may_not_compile_is_as_none():
    code = """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import norms
        y = norms.MeanOnlyBatchNorm2d(3)(torch.arange(120.0).view(2, 3, 4, 5))
    messages = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
    print(json.dumps([messages, y.mean().abs().item() < 1e-4]))
    """
    [message], right = of_new_process(code, NUMBA_DISABLE_JIT="1")
    assert "NUMBA_DISABLE_JIT" in message
    assert right


def test_loops_need_no_folder_to_be_kept_in(tmp_path):
    shutil.copytree(ROOT / "norms", tmp_path / "norms", ignore=shutil.ignore_patterns("__pycache__"))
    # A file where a folder would be made stops even a user whom permissions do not.
    (tmp_path / "norms" / "__pycache__").touch()
    nowhere = str(tmp_path / "norms" / "py.typed")
    code = """
    import norms
    from norms import compiled
    import numba
    try:
        numba.njit(cache=True)(compiled._affine.py_func)
        refused = False
    except RuntimeError:
        refused = True
    x = torch.arange(120.0).view(2, 3, 4, 5)
    layer = norms.MeanOnlyBatchNorm2d(3)
    found = norms.loops.Loops.find(x, False, layer._formula(), 1e-5, False)
    print(json.dumps([refused, found is not None, norms.__file__, layer(x).flatten().tolist()]))
    """
    environment = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), nowhere)
    refused, has_loops, imported, y = of_new_process(code, tmp_path, **environment, PYTHONDONTWRITEBYTECODE="1")
    assert refused
    assert has_loops
    assert Path(imported).is_relative_to(tmp_path)
    x = torch.arange(120.0).view(2, 3, 4, 5)
    torch.testing.assert_close(torch.tensor(y).view(x.shape), x - x.mean((0, 2, 3), keepdim=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on the size of files")
def test_a_full_disk_costs_the_next_process_time_and_this_one_nothing(tmp_path):
    code = """
    import logging, resource
    import norms
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("norms").addHandler(handler)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    layer = norms.MeanOnlyBatchNorm2d(3)
    x = torch.arange(120.0).view(2, 3, 4, 5)
    with torch.no_grad():
        y = [layer(x) for _ in range(2)]
    right = torch.allclose(y[1], x - x.mean((0, 2, 3), keepdim=True), atol=1e-4)
    print(json.dumps([records, right]))
    """
    messages, right = of_new_process(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert right
    assert sum("cannot be kept" in message for message in messages) == 1
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_who_waits_for_loops_to_be_compiled_is_told_why_and_only_then(tmp_path):
    code = """
    import logging
    import norms
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("norms").addHandler(handler)
    layer = norms.MeanOnlyBatchNorm2d(3)
    with torch.no_grad():
        for _ in range(2):
            layer(torch.zeros(2, 3, 4, 5))
    print(json.dumps(records))
    """
    [message] = of_new_process(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert "compiling" in message
    assert "\n" not in message
    assert of_new_process(code, NUMBA_CACHE_DIR=str(tmp_path)) == []


def test_a_loop_is_in_the_file_of_all_that_it_calls():
    # That file is what tells whether a loop that was kept is still the same.
    formulas = [case.build()._formula().loops for case in CASES]
    bound = [
        each
        for by_rows in (False, True)
        for each in (compiled.of_layout(by_rows), *(compiled.of_formula(name, by_rows) for name in formulas))
    ]
    everything = [*vars(compiled).values(), *itertools.chain(*bound)]
    for loop in (each for each in everything if hasattr(each, "py_func")):
        code = loop.py_func.__code__
        called = [loop.py_func.__globals__.get(name) for name in code.co_names]
        files = {each.py_func.__code__.co_filename for each in called if hasattr(each, "py_func")}
        assert files <= {code.co_filename}, loop
