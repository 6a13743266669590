"""One class per norm takes any number of dimensions; the numbered ones take theirs alone."""

import inspect
import pickle

import pytest
import torch

import norms
from norms.batch import BatchNorm, MeanOnlyBatchNorm
from norms.batch_instance import BatchInstanceNorm
from norms.batch_renorm import BatchRenorm
from norms.decorrelated import DecorrelatedBatchNorm
from norms.switchable import SwitchableNorm

KINDS = [BatchNorm, MeanOnlyBatchNorm, BatchInstanceNorm, BatchRenorm, DecorrelatedBatchNorm, SwitchableNorm]
SHAPES = {1: (3, 16, 5), 2: (3, 16, 5, 4), 3: (3, 16, 5, 4, 2)}
PLACE = ["initial_gamma", "sync", "process_group", "device", "dtype"]
TORCH = ["num_features", "eps", "momentum", "affine", "track_running_stats"]

over = pytest.mark.parametrize


@over("dims", SHAPES)
@over("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_class_without_a_number_does_what_the_numbered_ones_do(kind, dims):
    x = torch.randn(SHAPES[dims], generator=torch.Generator().manual_seed(0))
    numbered = getattr(norms, f"{kind.__name__}{dims}d")
    assert torch.equal(kind(16)(x), numbered(16)(x))
    other = torch.randn(SHAPES[dims % 3 + 1])
    with pytest.raises(ValueError, match=rf"{kind.__name__}{dims}d needs {dims + 2}-dimensional input"):
        numbered(16)(other)
    assert kind(16)(other).shape == other.shape


@over("dims", SHAPES)
@over("kind", KINDS, ids=lambda kind: kind.__name__)
def test_numbered_classes_are_classes_of_their_module(kind, dims):
    numbered = getattr(norms, f"{kind.__name__}{dims}d")
    assert issubclass(numbered, kind)
    assert numbered.spatial_dims == dims
    assert pickle.loads(pickle.dumps(numbered)) is numbered
    assert inspect.getdoc(kind) in inspect.getdoc(numbered)


@over(
    ("kind", "expected"),
    [
        (norms.BatchNorm2d, [*TORCH, *PLACE]),
        (norms.BatchInstanceNorm2d, ["num_features", "initial_rho", *TORCH[1:], *PLACE]),
        (norms.SwitchableNorm2d, ["num_features", "statistics", "sparse_steps", *TORCH[1:], *PLACE]),
        (norms.BatchRenorm2d, [*TORCH[:4], "r_max", "d_max", "schedule_steps", *PLACE]),
        (norms.DecorrelatedBatchNorm2d, [TORCH[0], "group_size", "iterations", *TORCH[1:], *PLACE]),
        (norms.MeanOnlyBatchNorm2d, [TORCH[0], *TORCH[2:], *PLACE[1:]]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_signatures_name_every_argument(kind, expected):
    assert set(inspect.signature(kind).parameters) == set(expected)


def test_what_no_constructor_takes_is_refused():
    with pytest.raises(TypeError, match="banana"):
        norms.BatchInstanceNorm2d(16, banana=1)


@over(("options", "reason"), [({"eps": float("nan")}, "eps"), ({"momentum": 1.5}, "momentum"), ({"eps": 0.0}, "eps")])
def test_numbers_outside_their_range_are_refused(options, reason):
    with pytest.raises(norms.errors.SettingError, match=f"{reason} must be"):
        norms.BatchNorm2d(4, **options)
