import math
import shlex
from importlib import import_module
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import normlab
import norms
from lightning_modules.classifier import Classifier, warm_up_then_cosine
from norms.errors import SettingError

MEAN, STD = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

SMALL = {"widths": (8, 16), "depths": (1, 1), "num_classes": 4}


def labelled(count, channels=3):
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.rand(channels, 12, 12, generator=generator), "label": torch.tensor(index % 4)}
        for index in range(count)
    ]


def fit(module, examples, max_steps, validation=None):
    trainer = pl.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        module, DataLoader(examples, batch_size=len(examples)), validation and DataLoader(validation, batch_size=3)
    )
    return trainer


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("norm", norms.names())
def test_two_steps_with_every_norm(norm):
    pl.seed_everything(0)
    module = Classifier(norm=norm, **SMALL)
    before = module.head.weight.detach().clone()
    trainer = fit(module, labelled(8), max_steps=2)
    assert trainer.global_step == 2
    assert {"train/loss", "train/accuracy"} <= trainer.callback_metrics.keys()
    assert not torch.equal(module.head.weight, before)


def test_overfits_a_handful_of_images():
    pl.seed_everything(0)
    module = Classifier(lr=1e-2, label_smoothing=0.0, weight_decay=0.0, **SMALL)
    examples = labelled(32)
    trainer = fit(module, examples, max_steps=100)
    assert trainer.callback_metrics["train/accuracy"] == 1.0
    assert trainer.callback_metrics["train/loss"] < 0.1


def test_gray_images_are_classified_as_their_rgb_copies():
    module = Classifier(**SMALL).eval()
    gray = torch.stack([example["image"] for example in labelled(3, channels=1)])
    torch.testing.assert_close(module(gray), module(gray.expand(-1, 3, -1, -1)))


def test_validation_scores_every_image_once_and_without_smoothing():
    pl.seed_everything(0)
    module = Classifier(label_smoothing=0.5, **SMALL)
    validation = labelled(8)  # the last batch is smaller than the others
    metrics = fit(module, labelled(8), max_steps=1, validation=validation).callback_metrics
    image, label = (torch.stack([example[key] for example in validation]) for key in ("image", "label"))
    logits = module.eval()(image)
    assert metrics["val/accuracy"] == pytest.approx((logits.argmax(1) == label).float().mean().item())
    assert metrics["val/loss"] == pytest.approx(F.cross_entropy(logits, label).item(), rel=1e-5)


def test_training_loss_is_smoothed_cross_entropy():
    module = Classifier(label_smoothing=0.2, **SMALL)
    image, label = (torch.stack([example[key] for example in labelled(8)]) for key in ("image", "label"))
    log_probability = F.log_softmax(module(image), dim=1)
    hit = log_probability.gather(1, label[:, None]).mean()
    loss = module.training_step({"image": image, "label": label}, 0)
    torch.testing.assert_close(loss, -(0.8 * hit + 0.2 * log_probability.mean()))


def test_learning_rate_rises_to_its_maximum_then_falls_to_zero():
    rates = [warm_up_then_cosine(step, 100) for step in range(101)]
    assert rates[20] == max(rates) == 1
    assert all(low < high for low, high in pairwise(rates[:21]))
    assert all(high > low for high, low in pairwise(rates[20:]))
    assert 0 < rates[0] < 0.1
    assert rates[100] == pytest.approx(0)
    assert rates[60] == pytest.approx(0.5)
    assert all(math.isfinite(warm_up_then_cosine(step, 1)) for step in (0, 1))


def test_schedule_without_an_end_is_refused():
    with pytest.raises(SettingError, match=r"trainer\.max_steps"):
        fit(Classifier(**SMALL), labelled(4), max_steps=-1)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.1])
def test_label_smoothing_out_of_range_is_refused(label_smoothing):
    with pytest.raises(SettingError, match="label_smoothing"):
        Classifier(label_smoothing=label_smoothing, **SMALL)


def test_next_command_exports_what_can_be_folded(tmp_path):
    command = Classifier(**SMALL).next_command(tmp_path / "my run") or ""
    _, _, module, *arguments = shlex.split(command)
    assert import_module(module)._parser().parse_args(arguments).run == tmp_path / "my run"
    assert module.partition(".")[0] in normlab.PACKAGES  # which are also there where no clone is
    assert Classifier(norm="instance", **SMALL).next_command(tmp_path) is None


def test_what_it_was_trained_on_is_in_its_checkpoint(tmp_path):
    module = Classifier(**SMALL)
    assert module.image_shape is None
    fit(module, labelled(4, channels=1), max_steps=1)
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    checkpoint["hyper_parameters"] = dict(module.hparams)
    loaded = Classifier(**SMALL)
    loaded.on_load_checkpoint(checkpoint)
    assert loaded.image_shape == (1, 12, 12)
    checkpoint["normlab"]["image_shape"] = "12"
    with pytest.raises(SettingError, match="image_shape is no list of three numbers: '12'"):
        loaded.on_load_checkpoint(checkpoint)
    # One of an earlier version does not tell.
    del checkpoint["normlab"]["image_shape"]
    Classifier(**SMALL).on_load_checkpoint(checkpoint)


def test_its_features_are_what_its_last_layer_sees():
    module = Classifier(**SMALL).eval()
    x = torch.rand(2, 1, 12, 12)
    expected = module.feature_net((x.expand(-1, 3, -1, -1) - MEAN) / STD).flatten(2).mean(2)
    torch.testing.assert_close(module.features(x), expected)
    torch.testing.assert_close(module(x), F.linear(expected, module.head.weight, module.head.bias))


NETWORKS = {
    "mlp": {"widths": (9, 7), "network_options": {"input_shape": [3, 12, 12]}},
    "lenet": {"network_options": {"input_shape": [3, 12, 12], "dense_norm": "batch"}},
    "resnet": {"widths": (4, 8), "depths": (1, 2)},
    "feature_net": {"widths": (8, 16), "depths": (1, 1)},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("parametrization", [None, "weight_norm", "spectral_norm"])
def test_each_network_learns_a_handful_of_images(network, parametrization):
    pl.seed_everything(0)
    module = Classifier(
        4, network, parametrization=parametrization, optimizer="sgd", lr=0.05, activation="tanh", **NETWORKS[network]
    )
    metrics = fit(module, labelled(8), max_steps=60).callback_metrics
    assert metrics["train/accuracy"] > 0.9


def test_depths_count_the_layers_of_published_resnets():
    for blocks, layers in ((3, 20), (9, 56), (18, 110)):
        module = Classifier(network="resnet", depths=(blocks,) * 3, widths=(2, 2, 2))
        weights = [each for each in module.modules() if isinstance(each, torch.nn.Conv2d | torch.nn.Linear)]
        assert len(weights) == layers
    counted = sum(parameter.numel() for parameter in Classifier(network="resnet").parameters())
    assert counted == pytest.approx(0.27e6, rel=0.02)  # table 6 of the paper


def test_a_resnet_block_adds_what_it_leaves_out():
    module = Classifier(network="resnet", widths=(4, 8), depths=(1, 1), norm="none").feature_net
    block = module.layers["block2_1"]
    torch.nn.init.zeros_(block.second.conv.weight)
    torch.nn.init.zeros_(block.second.conv.bias)
    x = torch.rand(2, 4, 5, 6)
    assert torch.equal(block(x), torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 4, 3, 3)], 1))


def test_weight_scale_multiplies_the_weights_that_the_seed_gives():
    pl.seed_everything(3)
    plain = Classifier(**SMALL)
    pl.seed_everything(3)
    scaled = Classifier(weight_scale=0.5, **SMALL)
    torch.testing.assert_close(scaled.head.weight, 0.5 * plain.head.weight)
    torch.testing.assert_close(scaled.head.bias, plain.head.bias)


def test_data_dependent_initialization_standardizes_the_outputs_of_the_first_batch():
    pl.seed_everything(0)
    module = Classifier(norm="none", parametrization="weight_norm", data_init=True, lr=0.0, **SMALL)
    examples = labelled(32)
    fit(module, examples, max_steps=1)
    logits = module(torch.stack([example["image"] for example in examples]))
    torch.testing.assert_close(logits.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.std(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    with pytest.raises(SettingError, match="data_init"):
        Classifier(data_init=True)


@pytest.mark.parametrize(
    ("norm", "options"),
    [("batch", {"momentum": 0.2}), ("decorrelated_batch", {"momentum": 0.2}), ("group", {"num_groups": 4})],
)
def test_norms_of_vectors_take_options(norm, options):
    module = Classifier(network="mlp", widths=(8,), norm=norm, norm_options=options)
    assert module(torch.rand(4, 1, 28, 28)).shape == (4, 10)
    (layer,) = (each for each in module.modules() if hasattr(each, next(iter(options))))
    assert getattr(layer, next(iter(options))) == next(iter(options.values()))


def test_dropout_depends_on_seed_and_step_alone():
    pl.seed_everything(0)
    batch = {key: torch.stack([torch.as_tensor(each[key]) for each in labelled(8)]) for key in ("image", "label")}
    module, other = Classifier(dropout=0.5, **SMALL), Classifier(dropout=0.5, seed=1, **SMALL)
    other.load_state_dict(module.state_dict())
    losses = [each.training_step(batch, 0) for each in (module, module, other)]
    assert losses[0] == losses[1] != losses[2]
    module.eval()
    assert torch.equal(module(batch["image"]), module(batch["image"]))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"network": "lenett"}, "lenet"),
        ({"network": "lenet", "widths": (1, 2)}, "four widths"),
        ({"network": "mlp", "depths": (1,)}, "has no option 'depths'"),
        ({"network": "resnet", "widths": (8, 4), "depths": (1, 1)}, "must not fall"),
        ({"network": "mlp", "network_options": {"input_shape": [1, 2]}}, "input_shape"),
        ({"network": "mlp", "network_options": {"input_shape": 5}}, "input_shape must be 1 or 3 channels"),
        ({"network": "mlp", "network_options": {"input_shape": "abc"}}, "input_shape must be .*got 'abc'"),
        ({"network": "mlp", "network_options": {"input_shape": [1, 28.5, 28]}}, "input_shape"),
        ({"network": "mlp", "network_options": {"input_shape": [2, 28, 28]}}, "input_shape must be 1 or 3 channels"),
        ({"network": "mlp", "network_options": {"norm": "layer"}}, "network_options.norm: give it as the option norm"),
        ({"network_options": {"widths": [3]}}, "network_options.widths: give it as the option widths"),
        ({"network": "mlp", "norm": "instance"}, "norm 'instance' does not normalize vectors"),
        ({"network": "mlp", "norm": "switchable", "widths": (2,)}, "norm 'switchable' does not normalize vectors"),
        (
            {"network": "mlp", "norm": "switchable", "norm_options": {"eps": 1e-3}},
            "norm 'switchable' does not normalize",
        ),
        ({"network": "mlp", "norm": "torch.nn.BatchNorm2d"}, "does not normalize vectors, as dense layers make them"),
        ({"network": "lenet", "network_options": {"dense_norm": "instance"}}, "norm 'instance' does not normalize"),
        ({"activation": "torch.relu"}, "activation relu cannot be made without arguments"),
        ({"activation": "torch.nn.Linear"}, "activation Linear cannot be made without arguments"),
        ({"activation": "builtins.int"}, "activation int makes no module"),
        ({"num_classes": 1}, "num_classes must be at least 2"),
        ({"optimizer": "sdg"}, "sgd"),
        ({"schedule": "cosin"}, "cosine"),
        ({"parametrization": "spectral"}, "spectral_norm"),
        ({"activation": "rellu"}, "relu"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_settings_of_networks_are_told_in_one_line(wrong, told):
    with pytest.raises(SettingError, match=told) as caught:
        Classifier(**wrong)
    assert "\n" not in str(caught.value)


def test_images_that_a_network_does_not_take_are_refused_before_training():
    class Colors:
        num_classes, channels, image_size = 10, 3, 32

        def take_shape(self, channels, image_size):
            pass

    with pytest.raises(SettingError, match=r"1x28x28 .* 3x32x32: .*input_shape: \[3, 32, 32\]"):
        Classifier(network="mlp").check_data(Colors())
