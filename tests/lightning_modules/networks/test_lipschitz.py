"""The bound on what a network makes of a difference, against a hand's product and against what is reached."""

import math

import pytest
import torch
from torch import nn

from lightning_modules.classifier import Classifier
from lightning_modules.networks.gan_networks import Discriminator
from lightning_modules.networks.lipschitz import classifier_bound, lipschitz_bound
from lightning_modules.networks.r3gan import R3GAN
from lightning_modules.networks.sngan import CNN, ResNet
from norms.spectra import input_sizes, linear_layers, spectra

RESNET, SMALL_CNN = ResNet(4, (4, 4), (4, 6, 6), 1), CNN(4, (4, 4), (4, 6), 1)
SMALL_R3GAN = R3GAN(4, (8, 8), (8, 8), 1, blocks=1, spectral="none", embedding=4)


def bound_of(network, size=8):
    network.eval()
    images = torch.zeros(1, 3, size, size)
    labels = torch.zeros(1, dtype=torch.int64) if network.num_classes else None
    found = spectra(network, input_sizes(network, lambda: network(images, labels)))
    return lipschitz_bound(network, {layer: found[name].operator for name, layer in linear_layers(network)}, images)


def test_a_residual_network_is_the_sum_of_branch_and_shortcut_times_the_pooling():
    torch.manual_seed(0)
    network = Discriminator(RESNET).eval()
    norm = {name: 0.5 + 0.1 * number for number, (name, _) in enumerate(linear_layers(network))}
    kinds = [block.shortcut is None for block in network.blocks]
    assert kinds == [False, False, True], "each kind of shortcut is meant to be there"
    expected = 0.5 * (norm["blocks.0.conv1"] * norm["blocks.0.conv2"] + norm["blocks.0.shortcut"])
    expected *= norm["blocks.1.conv1"] * norm["blocks.1.conv2"] + norm["blocks.1.shortcut"]
    expected *= norm["blocks.2.conv1"] * norm["blocks.2.conv2"] + 1
    expected *= math.sqrt(4 * 4) * norm["linear"]  # the sum over 4 x 4 positions
    layers = {layer: norm[name] for name, layer in linear_layers(network)}
    assert lipschitz_bound(network, layers, torch.zeros(1, 3, 8, 8)) == pytest.approx(expected)


def test_a_chain_of_convolutions_is_their_product():
    network = Discriminator(SMALL_CNN).eval()
    layers = {layer: 1.1 for _, layer in linear_layers(network)}
    assert lipschitz_bound(network, layers, torch.zeros(1, 3, 8, 8)) == pytest.approx(1.1 ** len(layers))


def test_a_block_without_norms_adds_its_branch_to_its_input():
    network = Discriminator(SMALL_R3GAN).eval()
    norm = {name: 0.5 + 0.1 * number for number, (name, _) in enumerate(linear_layers(network))}
    kinds = [type(block).__name__ for block in network.blocks]
    assert kinds == ["Conv2d", "ExpandingBlock", "AvgPool2d", "ExpandingBlock", "Conv2d"]
    expected = norm["blocks.0"] * 0.5 * norm["blocks.4"] * norm["linear"]
    for block in ("blocks.1", "blocks.3"):
        expected *= 1 + norm[f"{block}.expand"] * norm[f"{block}.group"] * norm[f"{block}.reduce"]
    layers = {layer: norm[name] for name, layer in linear_layers(network)}
    assert lipschitz_bound(network, layers, torch.zeros(1, 3, 8, 8)) == pytest.approx(expected)


def test_the_class_with_the_longest_vector_counts():
    torch.manual_seed(0)
    network = Discriminator(SMALL_CNN, num_classes=3).eval()
    layers = {layer: 1.0 for _, layer in linear_layers(network)}
    longest = max(float(vector.norm()) for vector in network.projection.weight.detach())
    assert lipschitz_bound(network, layers, torch.zeros(1, 3, 8, 8)) == pytest.approx(1 + longest)


@pytest.mark.parametrize("architecture", [RESNET, SMALL_CNN, SMALL_R3GAN])
@pytest.mark.parametrize("classes", [0, 3])
def test_no_gradient_is_longer(architecture, classes):
    torch.manual_seed(1)
    network = Discriminator(architecture, num_classes=classes)
    bound = bound_of(network)
    images = torch.randn(256, 3, 8, 8, requires_grad=True)
    scores = network(images, torch.arange(256) % classes if classes else None)
    (slopes,) = torch.autograd.grad(scores.sum(), images)
    assert 0.001 * bound < slopes.flatten(1).norm(dim=1).max() <= bound


def test_attention_and_other_networks_have_none():
    network = Discriminator(ResNet(4, (8, 8, 8), (8, 8), 1, attention=8)).eval()
    layers = {layer: 1.0 for _, layer in linear_layers(network)}
    assert lipschitz_bound(network, layers, torch.zeros(1, 3, 16, 16)) is None
    assert lipschitz_bound(nn.Linear(2, 1), {}, torch.zeros(1, 3, 8, 8)) is None


def tuned(**options):
    """Return a classifier whose batch normalization has seen images, in evaluation mode."""
    torch.manual_seed(0)
    classifier = Classifier(**options)
    for _ in range(20):
        classifier(torch.rand(16, *(classifier.input_shape or (3, 12, 12))))
    return classifier.eval()


def bound_of_classifier(classifier, images):
    found = spectra(classifier, input_sizes(classifier, lambda: classifier(images[:1])))
    layers = {layer: found[name].operator for name, layer in linear_layers(classifier)}
    return classifier_bound(classifier.feature_net, classifier.head, layers, images)


CLASSIFIERS = [
    {"widths": (4, 6), "depths": (1, 1)},
    {"widths": (4, 6), "depths": (1, 1), "norm": "none", "activation": "elu"},
    {"widths": (4, 6), "depths": (1, 1), "norm": "mean_only_batch", "parametrization": "weight_norm"},
    {"network": "resnet", "widths": (4, 6), "depths": (1, 1)},
    {"network": "mlp", "widths": (8, 8), "network_options": {"input_shape": (1, 6, 6)}, "activation": "sigmoid"},
    {
        "network": "lenet",
        "widths": (2, 3, 8, 8),
        "network_options": {"input_shape": (1, 12, 12), "dense_norm": "batch"},
        "activation": "tanh",
    },
]


@pytest.mark.parametrize("options", CLASSIFIERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_pair_of_images_is_told_apart_more_by_a_classifier(options, channels):
    classifier = tuned(**options)
    shape = classifier.input_shape or (channels, 12, 12)
    images = torch.rand(64, *shape)
    bound = bound_of_classifier(classifier, images)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda image: classifier(image[None])[0]))(images)
    steepest = torch.linalg.matrix_norm(jacobians.flatten(2), 2).max()
    assert 0.001 * bound < steepest <= bound


def test_batch_normalization_counts_with_its_largest_scale():
    classifier = tuned(widths=(4,), depths=(1,))
    norm, layers = classifier.feature_net.layers["relu1_1"].norm, {"conv": 2.0, "head": 3.0}
    norm.running_var.copy_(torch.tensor([4.0, 1.0, 9.0, 0.25]))
    norm.weight.data.copy_(torch.tensor([1.0, -3.0, 2.0, 0.1]))
    named = {classifier.feature_net.layers["relu1_1"].conv: layers["conv"], classifier.head: layers["head"]}
    scale, color, mean = 3 / math.sqrt(1 + norm.eps), 1 / 0.224, 1 / math.sqrt(12 * 12)
    bound = classifier_bound(classifier.feature_net, classifier.head, named, torch.zeros(1, 3, 12, 12))
    assert bound == pytest.approx(color * 2 * scale * mean * 3)
    gray = classifier_bound(classifier.feature_net, classifier.head, named, torch.zeros(1, 1, 12, 12))
    assert gray == pytest.approx(bound / color * math.hypot(1 / 0.229, 1 / 0.224, 1 / 0.225))


def test_a_classifier_with_other_norms_or_windows_cut_off_has_none():
    assert bound_of_classifier(tuned(widths=(4,), depths=(1,), norm="layer"), torch.zeros(1, 3, 12, 12)) is None
    assert bound_of_classifier(tuned(widths=(4, 4), depths=(1, 1)), torch.zeros(1, 3, 13, 12)) is None
