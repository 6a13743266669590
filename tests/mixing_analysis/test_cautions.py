"""What is said of values that are no preference."""

import numpy as np
import pytest
import torch

import norms
from mixing_analysis.cautions import cautioned
from mixing_analysis.values import Run, frame

THIRD = np.full(3, 1 / 3, np.float32)


def run_of(values, config=None):
    return Run("run", "run", frame({40: values}), "run", config=config, notes=("a note",))


def cautions(values, config=None):
    first, *others = cautioned(run_of(values, config)).notes
    assert first == "a note"
    return others


def config(batch_size, **more):
    return {"data": {"class_path": "D", "init_args": {"batch_size": batch_size}}, **more}


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("00.n/rho", [0.99, 1, 0.96], "no preference yet: every rho is within 0.04 of 1, where training began"),
        ("00.n/rho", [1, 1], "every rho is exactly 1, where training began: nothing has moved it"),
        (
            "00.n/mean_weight",
            [0.34, 0.33, 0.33],
            "no preference yet: every mean_weight is within 0.0067 of 0.333, where training began",
        ),
        (
            "00.n/rho_summary",
            [0.99, 0.97, 1, 0.01, 0, 1],
            "no preference yet: every rho is within 0.03 of 1, where training began",
        ),
    ],
)
def test_what_has_not_left_its_start_is_no_preference(key, values, words):
    assert cautions({key: np.array(values, np.float32)}) == [words]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("00.n/rho", [0.99, 0.9]),
        ("00.n/var_weight", [0.4, 0.3, 0.3]),
        ("00.n/rho_summary", [0.99, 0.7, 1, 0.01, 0, 0.9]),
        ("00.n/gamma", [1, 1]),
    ],
)
def test_of_what_has_there_is_no_word(key, values):
    assert cautions({key: np.array(values, np.float32), "01.n/rho": np.zeros(2, np.float32)}) == []


SINGLE = "with one image a batch the statistics of the batch are those of the instance, so that "


@pytest.mark.parametrize(
    "settings",
    [
        config(1),
        config(64, model={"class_path": "lightning_modules.GAN", "init_args": {"generator_batch_size": 1}}),
        config(1, trainer={"sync_batchnorm": False}),
    ],
)
def test_batches_of_one_image_teach_no_gate_anything(settings):
    gates = {"00.n/rho": np.ones(4, np.float32)}
    assert cautions(gates, settings) == [f"{SINGLE}the gradient of rho is exactly 0: it cannot leave its start"]


@pytest.mark.parametrize(
    "settings",
    [
        config(2),
        config(1, trainer={"sync_batchnorm": True}),
        config(1, model={"class_path": "lightning_modules.GAN", "init_args": {"generator_batch_size": 8}}),
        None,
    ],
)
def test_other_batches_do(settings):
    assert cautions({"00.n/rho": np.full(4, 0.5, np.float32)}, settings) == []


def test_nor_do_they_tell_batch_from_instance_weights():
    weights = {f"00.n/{kind}": np.array([0.6, 0.2, 0.2], np.float32) for kind in ("mean_weight", "var_weight")}
    assert cautions(weights, config(1)) == [
        f"{SINGLE}of the weights of {words} only the sum of these two means something"
        for words in ("means", "variances")
    ]


@pytest.mark.filterwarnings("ignore:.*trains on a batch of one sample")
def test_which_is_so():
    torch.manual_seed(0)
    gate, switch = norms.BatchInstanceNorm2d(3), norms.SwitchableNorm2d(3)
    for layer in (gate, switch):
        layer(torch.randn(1, 3, 5, 5)).pow(3).sum().backward()
    assert gate.rho.grad.tolist() == [0, 0, 0]
    for parameter in (switch.mean_weight, switch.var_weight):
        instance, _, batch = parameter.grad.tolist()
        # Up to the factor of a softmax, which weighs each by itself.
        assert instance == pytest.approx(batch, rel=1e-4)
    gate.zero_grad()
    gate(torch.randn(2, 3, 5, 5)).pow(3).sum().backward()
    assert gate.rho.grad.abs().min() > 0
