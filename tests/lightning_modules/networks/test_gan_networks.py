"""What holds for generators and discriminators of every family: labels, spectral norms, precision, compilation."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.autograd import gradgradcheck

import norms
from lightning_modules.networks.gan_networks import Discriminator, Generator
from lightning_modules.networks.r3gan import R3GAN
from lightning_modules.networks.sngan import CNN, ResNet
from norms.errors import SettingError

CLASSES, LATENTS = 3, 6
BIG = {"embedding": 5, "skip_latents": True, "attention": 8, "wide_discriminator": True, "spectral": "both"}
FAMILIES = {
    "resnet": ResNet(4, (8, 6, 4), (4, 6), 1),
    "cnn": CNN(4, (8, 6, 4), (4, 6), 2),
    "sagan": ResNet(4, (8, 6, 4), (4, 6), 1, spectral="both", attention=8),
    "biggan": ResNet(4, (8, 6, 4), (4, 6), 1, initialization="orthogonal", **BIG),
    "r3gan": R3GAN(4, (8, 8, 4), (4, 8, 8), 2, spectral="none", embedding=5, blocks=1, group_width=4),
}
TABLES = ("resnet", "cnn", "sagan")
"""Families whose norms have a gamma and beta of each class."""


def built(family, num_classes=CLASSES, norm="batch", norm_options=None, **changed):
    torch.manual_seed(0)
    architecture = FAMILIES[family]
    if changed:
        fields = {name: getattr(architecture, name) for name in architecture.__dataclass_fields__}
        architecture = type(architecture)(**{**fields, **changed})
    g = Generator(architecture, 1, LATENTS, norm, norm_options, num_classes)
    return g, Discriminator(architecture, 1, num_classes)


def scrambled(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def drawn():
    return torch.randn(4, LATENTS), torch.randn(4, 1, 16, 16), torch.tensor([2, 0, 1, 2])


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("norm", ["batch", "batch_instance", "switchable", "instance", "group", "layer_pixel", "none"])
def test_images_of_one_class_are_those_of_a_network_with_its_gamma_and_beta(family, norm):
    g = scrambled(built(family, norm=norm)[0])
    plain = built(family, 0, norm=norm if norm != "none" else "torch.nn.Identity")[0]
    z, _, _ = drawn()
    for shares in (torch.eye(CLASSES)[1], torch.tensor([0.5, 0.2, 0.3])):
        state = {}
        conditional = {name for name, m in g.named_modules() if isinstance(m, norms.ConditionalNorm)}
        for key, value in g.state_dict().items():
            owner, _, last = key.rpartition(".")
            if owner in conditional:
                state[key] = shares @ value
            else:
                outer = owner.removesuffix(".norm")
                state[f"{outer if outer in conditional else owner}.{last}"] = value
        if norm == "none":
            modulated = {name: (state.pop(f"{name}.weight"), state.pop(f"{name}.bias")) for name in conditional}
            for name, (gamma, beta) in modulated.items():
                plain.get_submodule(name).register_forward_hook(
                    lambda m, x, y, a=gamma, b=beta: y * a[:, None, None] + b[:, None, None]
                )
        plain.load_state_dict(state)
        labels = torch.full((4,), 1) if shares.max() == 1 else shares.expand(4, -1)
        torch.testing.assert_close(copy.deepcopy(g)(z, labels), plain(z))
        if norm == "none":
            break


@pytest.mark.parametrize("family", ["resnet", "cnn", "biggan"])
@pytest.mark.parametrize("norm", norms.names())
def test_classes_around_any_norm(family, norm):
    options = {} if norm in ("none", "mean_only_batch") else {"eps": 1e-3}
    g = built(family, norm=norm, norm_options=options)[0]
    z, _, y = drawn()
    images = g(z, y)
    assert images.shape == (4, 1, 16, 16)
    images.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in g.parameters())
    assert not torch.allclose(scrambled(g)(z, y), g(z, y.flip(0)))
    if options:
        layers = [m for m in g.modules() if getattr(m, "eps", None) == 1e-3]
        assert len(layers) == {"resnet": 5, "cnn": 2, "biggan": 5}[family]


@pytest.mark.parametrize("norm", ["batch_instance", "switchable"])
def test_separate_norms_learn_how_to_normalize_for_each_class(norm):
    g = scrambled(built("resnet", norm=norm, separate_norms=True)[0])
    norms.project_(g)
    plain = built("resnet", 0, norm=norm)[0]
    plain.load_state_dict(
        {
            k.replace(".norms.class1", ""): v
            for k, v in g.state_dict().items()
            if "class0" not in k and "class2" not in k
        }
    )
    z, _, _ = drawn()
    torch.testing.assert_close(g(z, torch.full((4,), 1)), plain(z))
    layers = [name for name, _ in norms.mixing_layers(g)]
    expected = [
        f"blocks.block{b}.norm{n}.norms.class{k}" for b, n, k in itertools.product((1, 2), (1, 2), range(CLASSES))
    ]
    assert layers == [*expected, "blocks.output.norm"]


@pytest.mark.parametrize(("norm", "options"), [("none", None), ("instance", {"affine": False})])
def test_separate_norms_that_learn_nothing(norm, options):
    with pytest.raises(SettingError, match=r"set separate_norms: false$"):
        built("resnet", norm=norm, norm_options=options, separate_norms=True)
    built("resnet", norm=norm, norm_options=options, separate_norms=False)
    built("resnet", 0, norm=norm, norm_options=options, separate_norms=True)


def test_shared_norms_have_one_rho_for_all_classes():
    g = built("resnet", norm="batch_instance")[0]
    assert [name for name, _ in norms.mixing_layers(g)] == [
        *(f"blocks.block{b}.norm{n}.norm" for b, n in itertools.product((1, 2), (1, 2))),
        "blocks.output.norm",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_mix_classes(family):
    g, d = (scrambled(network).eval() for network in built(family))
    z, x, y = drawn()
    one_hot = nn.functional.one_hot(y, CLASSES).float()
    torch.testing.assert_close(g(z, one_hot), g(z, y))
    torch.testing.assert_close(d(x, one_hot), d(x, y))
    shares = torch.rand(4, CLASSES).softmax(1)
    of_each = torch.stack([d(x, torch.full((4,), k)) for k in range(CLASSES)], 1)
    torch.testing.assert_close(d(x, shares), (shares * of_each).sum(1))
    assert not torch.allclose(g(z, shares), g(z, y))


@pytest.mark.parametrize("family", ["biggan", "r3gan"])
def test_classes_reach_the_images_through_the_embedding_alone(family):
    g = scrambled(built(family, spectral="none")[0]).eval()
    z, _, y = drawn()
    shares = torch.tensor([0.5, 0.25, 0.25])
    mixed = g(z, shares.expand(4, -1))
    with torch.no_grad():
        g.embedding.weight[1] = shares @ g.embedding.weight
    torch.testing.assert_close(g(z, torch.full((4,), 1)), mixed)
    with torch.no_grad():
        g.embedding.weight.zero_()
    assert torch.equal(g(z, y), g(z, torch.zeros_like(y)))


@pytest.mark.parametrize("family", FAMILIES)
def test_auxiliary_classifier(family):
    _, d = built(family, conditioning="auxiliary")
    _, x, y = drawn()
    d.eval()
    scores, logits = d(x)
    features = d.features(x)
    assert d.auxiliary
    assert scores.shape == (4,)
    torch.testing.assert_close(scores, features @ d.linear.weight[0] + d.linear.bias)
    torch.testing.assert_close(logits, features @ d.classifier.weight.T + d.classifier.bias)
    with pytest.raises(SettingError, match="takes no labels"):
        d(x, y)
    assert not built(family, 0, conditioning="auxiliary")[1].auxiliary
    assert not built(family)[1].auxiliary


LABELS = [
    (None, r"labels are missing: the network has 3 classes"),
    (
        torch.tensor([0, 1, 2]),
        r"labels must be integers of shape \(4,\) or shares of shape \(4, 3\), got int64 of shape",
    ),
    (torch.ones(4, 2), r"labels must be .* got float32 of shape \(4, 2\)"),
    (torch.ones(4), "labels must be .* got float32 of shape"),
    (torch.ones(4, dtype=torch.bool), "labels must be .* got bool of shape"),
    (torch.tensor([0, 1, 2, 3]), "a label must be at least 0 and at most 2, got 3"),
    (torch.tensor([0, 1, 2, -1]), "a label must be at least 0 and at most 2, got -1"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("labels", "message"), LABELS)
def test_labels_that_do_not_fit(family, labels, message):
    z, x, _ = drawn()
    for network, inputs in zip(built(family), (z, x), strict=True):
        with pytest.raises(SettingError, match=message) as caught:
            network(inputs, labels)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_without_classes_take_no_labels(family):
    z, x, y = drawn()
    for network, inputs in zip(built(family, 0), (z, x), strict=True):
        network(inputs)
        with pytest.raises(SettingError, match="has no classes, so it takes no labels: build it with num_classes"):
            network(inputs, y)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spectral", ["none", "discriminator", "both"])
def test_spectral_normalization_of_every_layer_of_the_networks_that_are_named(family, spectral):
    expected = {"none": (False, False), "discriminator": (False, True), "both": (True, True)}[spectral]
    for network, normalized in zip(built(family, spectral=spectral), expected, strict=True):
        kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
        if isinstance(network, Discriminator):
            kinds |= nn.Embedding
        layers = [name for name, m in network.named_modules() if isinstance(m, kinds)]
        assert list(norms.sigmas(network)) == (layers if normalized else [])
        if not normalized:
            continue
        scrambled(network)
        for _ in range(300):
            norms.power_iterate_(network)
        for name in layers:
            layer = network.get_submodule(name)
            weight = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
            assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.01), name


@pytest.mark.parametrize("family", FAMILIES)
def test_one_power_iteration_for_each_pass_in_training(family):
    networks = built(family, spectral="both")
    z, x, y = drawn()
    for network, inputs in zip(networks, (z, x), strict=True):
        expected = copy.deepcopy(network)
        network(inputs, y)
        norms.power_iterate_(expected)
        for (name, buffer), moved in zip(network.named_buffers(), expected.buffers(), strict=True):
            assert torch.equal(buffer, moved) or not name.endswith(("_u", "_v")), name


@pytest.mark.parametrize("family", FAMILIES)
def test_images_and_scores_are_float32_under_autocast(family):
    g, d = built(family)
    z, x, y = drawn()
    for labels in (y, nn.functional.one_hot(y, CLASSES).float()):
        with torch.autocast("cpu", torch.bfloat16):
            assert d.blocks(x).dtype == torch.bfloat16
            images = g(z, labels)
            scores = d(images, labels)
            assert d.features(images).dtype == torch.float32
        assert images.dtype == scores.dtype == torch.float32
    scores.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in itertools.chain(g.parameters(), d.parameters()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_classes", [0, CLASSES])
def test_copies_compute_the_same(family, num_classes):
    z, x, y = drawn()
    labels = (y,) if num_classes else ()
    for network, inputs in zip(built(family, num_classes), (z, x), strict=True):
        network(inputs, *labels).sum().backward()
        copied = copy.deepcopy(network)
        network, copied = network.eval(), copied.eval()
        assert torch.equal(network(inputs, *labels), copied(inputs, *labels))
        scrambled(copied)
        assert not torch.equal(network(inputs, *labels), copied(inputs, *labels))


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_last_computes_the_same(family):
    z, x, y = drawn()
    for network, inputs in zip(built(family), (z, x), strict=True):
        network = scrambled(network).eval()
        other = copy.deepcopy(network).to(memory_format=torch.channels_last)
        if inputs.ndim == 4:
            inputs = inputs.to(memory_format=torch.channels_last)
        torch.testing.assert_close(other(inputs, y), network(inputs, y), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_second_derivatives_of_the_discriminator(family):
    _, d = built(family)
    d = scrambled(d).double().eval()
    x = torch.randn(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)
    step = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def score(step):
        return d(x.detach() + step * direction, torch.tensor([1]))

    assert gradgradcheck(score, (step,), eps=1e-6, atol=1e-5)
    (gradient,) = torch.autograd.grad(d(x, torch.tensor([1])).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    weights = [p for name, p in d.named_parameters() if "blocks" in name and p.ndim > 1]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in weights)
    assert any(p.grad.any() for p in weights)


@pytest.mark.parametrize(
    ("family", "labels"),
    [*itertools.product(FAMILIES, ["none", "integers"]), ("resnet", "shares")],
)
def test_generators_export_for_any_batch(family, labels):
    g = scrambled(built(family, 0 if labels == "none" else CLASSES, norm="batch_instance")[0]).eval()

    def inputs(count):
        y = torch.arange(count) % CLASSES
        given = {"none": (), "integers": (y,), "shares": (nn.functional.one_hot(y, CLASSES).float(),)}
        return torch.randn(count, LATENTS), *given[labels]

    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(g, inputs(4), dynamic_shapes=({0: batch},) * len(inputs(4)))
    other = inputs(7)
    torch.testing.assert_close(program.module()(*other), g(*other))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_both_networks_compile_as_one_graph(family):
    torch.compiler.reset()
    z, x, y = drawn()
    for network, inputs in zip(built(family, spectral="both"), (z, x), strict=True):
        compiled = torch.compile(copy.deepcopy(network), backend="aot_eager", fullgraph=True)
        found, expected = compiled(inputs, y), network(inputs, y)
        torch.testing.assert_close(found, expected)
        found.sum().backward()
        expected.sum().backward()
        for after, before in zip(compiled.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(after.grad, before.grad, rtol=1e-3, atol=1e-4)
