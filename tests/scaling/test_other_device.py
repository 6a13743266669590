"""Everything runs on a device that is not the CPU, and no step outside those that log waits for it."""

import mimic
import mimic_runs
import pytest
import torch
from torchvision.models import squeezenet1_1

import norms

DIGITS = {"class_path": "data.BundledDigits", "init_args": {"image_size": 16, "batch_size": 2}}
UNSEEN = {"samples": {"every_n_steps": 1000}, "guard": {"every_n_steps": None}, "spectral": {"every_n_steps": None}}


def every(*names):
    """Let monitors look at each step that logs."""
    return {name: {"every_n_steps": mimic_runs.EVERY} for name in names}


def classifier(**options):
    fixed = {"network_options": {"input_shape": [1, 16, 16]}} if options.get("network") in ("mlp", "lenet") else {}
    small = {"widths": [4, 8], "depths": [1, 1], "norm": "batch_instance", **fixed}
    return {"model": {"class_path": "lightning_modules.Classifier", "init_args": small | options}, "data": DIGITS}


def gan(**options):
    small = {"architecture": "resnet16", "architecture_options": {"width": 0.125}, "latent_dim": 8, "n_dis": 1}
    data = {"class_path": "data.BundledDigits", "init_args": {"batch_size": 2 * options.get("accumulate", 1)}}
    return UNSEEN | {
        "model": {"class_path": "lightning_modules.GAN", "init_args": small | {"channels": 1} | options},
        "data": data,
    }


def style(**options):
    small = {"style_size": 32, "widths": [4, 8], "num_blocks": 1, "content_layers": ["relu1_2"]}
    return {
        "model": {
            "class_path": "lightning_modules.StyleTransfer",
            "init_args": small | {"style_layers": ["relu1_1", "relu2_1@2"]} | options,
        },
        "data": {"class_path": "data.BundledPhotos", "init_args": {"image_size": 16, "batch_size": 3}},
    }


def any_style(**options):
    small = {"layer": "relu2_1", "style_layers": ["relu1_1", "relu2_1"], "style_size": 32}
    return {
        "model": {"class_path": "lightning_modules.AnyStyle", "init_args": small | options},
        "data": {"class_path": "data.StyledPhotos", "init_args": {"image_size": 16, "batch_size": 2}},
    }


MIXED = {"class_path": "pytorch_lightning.plugins.MixedPrecision", "init_args": {"precision": "bf16-mixed"}}
MIXED["init_args"]["device"] = "mimic"

MONITORED = {
    "lipschitz": {"every_n_steps": mimic_runs.EVERY, "images": 2, "ascent": 1},
    "landscape": {"every_n_steps": mimic_runs.EVERY, "multiples": [1.0], "layers": 1},
}
LEARNED = {"activation": "sigmoid", "parametrization": "weight_norm", "data_init": True}
BF16 = {"trainer": {"plugins": [MIXED]}}

TRAININGS = {
    "classifier": classifier(dropout=0.1, schedule="steps") | MONITORED,
    "resnet": classifier(network="resnet", norm="switchable", optimizer="sgd", parametrization="spectral_norm"),
    "mlp": classifier(
        network="mlp",
        depths=None,
        norm="batch_renorm",
        activation="sigmoid",
        parametrization="weight_norm",
        data_init=True,
    )
    | every("activations"),
    "lenet": classifier(network="lenet", widths=None, depths=None, norm="decorrelated_batch"),
    "gan": gan(norm="switchable", augment="adaptive", ema_half_life=20)
    | every("guard", "samples", "spectral")
    | {"metrics": {"features": "digits", "val_images": 66}, "lipschitz": MONITORED["lipschitz"]},
    "cnn": gan(
        architecture="cnn28",
        loss="non_saturating",
        dequantize=True,
        shared_power_iteration=True,
        augment="diff",
        accumulate=2,
    ),
    "auxiliary": gan(
        num_classes=10,
        loss="wasserstein",
        penalties={"wgan_gp": 10.0},
        gradient_clip=1.0,
        architecture_options={"width": 0.125, "conditioning": "auxiliary"},
    ),
    "sagan": gan(
        architecture="sagan",
        architecture_options={"width": 0.01, "image_size": 32},
        num_classes=10,
        loss="least_squares",
        penalties={"orthogonal": 1e-4},
    ),
    "biggan": gan(
        architecture="biggan32",
        architecture_options={"width": 0.01},
        num_classes=10,
        norm="batch_instance",
        channels_last=True,
    )
    | BF16,
    "r3gan": gan(
        architecture="r3gan28",
        architecture_options={"width": 0.25},
        norm="none",
        loss="relativistic",
        penalties={"r1": 1.0, "r2": 1.0},
        penalty_every=2,
    ),
    "style": style(noise=0.1, jitter=0.2, schedule="cosine", stability_weight=1.0),
    "styles": style(styles=["night", "waves"], norm="switchable", separate_norms=True, stability_weight=1.0) | BF16,
    "distillation": {
        "model": {
            "class_path": "lightning_modules.distillation.Distillation",
            "init_args": {"weights": "teacher.pth", "first_width": 4, "depths": [1, 1, 1, 1]},
        },
        "data": {"class_path": "data.BundledPhotos", "init_args": {"image_size": 32, "batch_size": 2}},
    },
    "any_style": any_style(identity_weight=1.0, norm="batch_instance", schedule="inverse"),
}


SLOW = ("classifier", "gan", "sagan", "biggan")


@pytest.fixture(scope="module")
def on_mimic():
    """A process that has the device; runs a function of ``mimic_runs`` there."""
    with mimic_runs.pool() as pool:
        yield lambda function, *args, **options: pool.submit(function, *args, **options).result()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in TRAININGS]
)
def test_training_waits_in_no_step_and_resumes_bit_by_bit(name, on_mimic, tmp_path):
    if name == "distillation":
        torch.save(squeezenet1_1().state_dict(), tmp_path / "teacher.pth")
    found = on_mimic(mimic_runs.train, tmp_path, **TRAININGS[name])
    assert mimic.waits(found) == []
    # The next batch, image by image with its labels or style pictures, and nothing else.
    tensors = 2 if TRAININGS[name]["data"]["class_path"] in ("data.BundledDigits", "data.StyledPhotos") else 1
    steps = mimic_runs.STEPS // mimic_runs.EVERY * 2 - 1
    loads = [(event.kind, event.place.rpartition("/")[2].partition(":")[0]) for event in found]
    assert loads == [("load", "apply_func.py")] * (tensors * steps)  # which is Lightning's


def test_numbers_are_averaged_over_processes_without_a_wait(on_mimic):
    assert mimic.waits(on_mimic(mimic_runs.numbers_are_averaged)) == []


@pytest.mark.parametrize("name", norms.names())
def test_norms_do_as_on_the_cpu(name, on_mimic):
    for dims in (1, 2, 3):
        assert mimic.waits(on_mimic(mimic_runs.norm_trains, name, dims)) == []
    on_mimic(mimic_runs.norm_is_handled, name)


def test_normalized_weights_do_as_on_the_cpu(on_mimic):
    assert mimic.waits(on_mimic(mimic_runs.weights_are_normalized)) == []


@pytest.mark.parametrize("name", mimic_runs.MISTAKES)
def test_mistakes_are_found(name, on_mimic):
    assert on_mimic(mimic_runs.mistake, name) == mimic_runs.MISTAKES[name][1]
