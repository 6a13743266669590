"""Each family of networks against a formulation in plain tensor operations, with the same weights."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

from lightning_modules.networks.gan_networks import Discriminator, Generator
from lightning_modules.networks.sngan import CNN, ResNet

CLASSES, LATENTS = 3, 6


def weights_of(network):
    """Read every weight; of a spectrally normalized one W / (u^T W v), with the layer's u and v."""
    state, found = network.state_dict(), {}
    for key, value in state.items():
        if key.endswith(".parametrizations.weight.original"):
            layer = key.removesuffix(".parametrizations.weight.original")
            u, v = (state[f"{layer}.parametrizations.weight.0.{name}"] for name in ("_u", "_v"))
            rows = value.transpose(0, 1) if isinstance(network.get_submodule(layer), nn.ConvTranspose2d) else value
            found[f"{layer}.weight"] = value / (u @ rows.flatten(1) @ v)
        elif ".parametrizations." not in key:
            found[key] = value
    return found


def standardized(x):
    centered = x - x.mean((0, 2, 3), keepdim=True)
    return centered / (centered.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()


def modulated(x, gamma, beta):
    return standardized(x) * gamma[..., None, None] + beta[..., None, None]


def doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def relu(x):
    return x * (x > 0)


class Plain:
    """Read layers by their names."""

    def __init__(self, network):
        self.weights = weights_of(network)

    def conv(self, name, x):
        weight = self.weights[f"{name}.weight"]
        return conv2d(x, weight, self.weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def linear(self, name, x):
        y = x @ self.weights[f"{name}.weight"].T
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def seed(self, z, side):
        return self.linear("linear", z).reshape(len(z), -1, side, side)

    def class_norm(self, name, x, labels):
        return modulated(x, self.weights[f"{name}.weight"][labels], self.weights[f"{name}.bias"][labels])

    def vector_norm(self, name, x, vector):
        return modulated(x, 1 + self.linear(f"{name}.gain", vector), self.linear(f"{name}.offset", vector))

    def last(self, name, x):
        x = modulated(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        return torch.tanh(self.conv("to_image", relu(x)))

    def up(self, name, x, norm, condition):
        y = self.conv(f"{name}.conv1", doubled(relu(norm(f"{name}.norm1", x, condition))))
        y = self.conv(f"{name}.conv2", relu(norm(f"{name}.norm2", y, condition)))
        return y + self.conv(f"{name}.shortcut", doubled(x))

    def down(self, name, x, halves, first=False):
        y = self.conv(f"{name}.conv2", relu(self.conv(f"{name}.conv1", x if first else relu(x))))
        x = self.conv(f"{name}.shortcut", x) if f"{name}.shortcut.weight" in self.weights else x
        return halved(x + y) if halves else x + y

    def attention(self, name, x):
        n, _, h, w = x.shape
        largest = [
            self.conv(f"{name}.{part}", x).reshape(n, -1, h // 2, 2, w // 2, 2).amax((3, 5)).reshape(n, -1, h * w // 4)
            for part in ("key", "value")
        ]
        query = self.conv(f"{name}.query", x).reshape(n, -1, h * w)
        score = torch.einsum("ncq,nck->nqk", query, largest[0]).exp()
        found = torch.einsum("nqk,nck->ncq", score / score.sum(2, keepdim=True), largest[1])
        return x + self.weights[f"{name}.gamma"] * self.conv(f"{name}.output", found.reshape(n, -1, h, w))

    def projected(self, features, labels):
        return (self.linear("linear", features)[:, 0]) + (self.weights["projection.weight"][labels] * features).sum(1)


def built(architecture, **settings):
    torch.manual_seed(0)
    networks = Generator(architecture, 2, LATENTS, **settings), Discriminator(architecture, 2, CLASSES)
    for network in networks:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return [network.double() for network in networks]


def drawn(size):
    keyed = torch.Generator().manual_seed(1)
    z = torch.randn(4, LATENTS, generator=keyed, dtype=torch.float64)
    x = torch.randn(4, 2, size, size, generator=keyed, dtype=torch.float64)
    return z, x, torch.tensor([2, 0, 1, 2])


def compare(network, inputs, plain):
    with torch.no_grad():
        found = network(*inputs)
        torch.testing.assert_close(found, plain(Plain(network)), rtol=1e-9, atol=1e-9)
        assert found.std() > 1e-3


def test_resnet_with_classes():
    g, d = built(ResNet(4, (8, 6, 4), (4, 6, 6), 2), num_classes=CLASSES)
    z, x, y = drawn(16)

    def generate(p):
        h = p.up("blocks.block1", p.seed(z, 4), p.class_norm, y)
        return p.last("blocks.output.norm", p.up("blocks.block2", h, p.class_norm, y))

    def score(p):
        h = p.down("blocks.0", x, True, first=True)
        h = p.down("blocks.2", p.down("blocks.1", h, True), False)
        return p.projected(relu(h).sum((2, 3)), y)

    compare(g, (z, y), generate)
    compare(d, (x, y), score)


def test_cnn_with_classes():
    g, d = built(CNN(4, (8, 6, 4), (4, 6, 8), 2), num_classes=CLASSES)
    z, x, y = drawn(16)

    def generate(p):
        h = p.seed(z, 4)
        for i in (1, 2):
            name = f"blocks.block{i}.convolution"
            h = conv_transpose2d(h, p.weights[f"{name}.weight"], p.weights[f"{name}.bias"], stride=2, padding=1)
            h = relu(p.class_norm(f"blocks.block{i}.norm", h, y))
        return torch.tanh(p.conv("to_image", h))

    def score(p):
        h = x
        for i, stride in enumerate((1, 2, 1, 2, 1)):
            name = f"blocks.{2 * i}"
            h = conv2d(h, p.weights[f"{name}.weight"], p.weights[f"{name}.bias"], stride=stride, padding=1)
            h = torch.where(h > 0, h, 0.1 * h)
        return p.projected(h.reshape(len(x), -1), y)

    compare(g, (z, y), generate)
    compare(d, (x, y), score)


def test_sagan():
    g, d = built(
        ResNet(4, (8, 16, 8), (16, 8, 8), 2, spectral="both", attention=8, wide_discriminator=True),
        num_classes=CLASSES,
    )
    z, x, y = drawn(16)

    def generate(p):
        h = p.attention("blocks.attention", p.up("blocks.block1", p.seed(z, 4), p.class_norm, y))
        return p.last("blocks.output.norm", p.up("blocks.block2", h, p.class_norm, y))

    def score(p):
        h = p.attention("blocks.1", p.down("blocks.0", x, True, first=True))
        h = p.down("blocks.3", p.down("blocks.2", h, True), False)
        return p.projected(relu(h).sum((2, 3)), y)

    assert d.blocks[2].conv1.out_channels == 8
    compare(g, (z, y), generate)
    compare(d, (x, y), score)


@pytest.mark.parametrize("num_classes", [0, CLASSES])
def test_biggan(num_classes):
    architecture = ResNet(
        4, (8, 6, 4), (4, 6), 1, spectral="both", embedding=5, skip_latents=True, initialization="orthogonal"
    )
    g, _ = built(architecture, num_classes=num_classes)
    z, _, y = drawn(16)

    def generate(p):
        first, *parts = z.split(2, 1)
        if num_classes:
            parts = [torch.cat([part, p.weights["embedding.weight"][y]], 1) for part in parts]
        h = p.seed(first, 4)
        for i, part in enumerate(parts, 1):
            h = p.up(f"blocks.block{i}", h, p.vector_norm, part)
        return p.last("blocks.output.norm", h)

    compare(g, (z, y) if num_classes else (z,), generate)


def test_resnet_with_a_vector_of_the_class_beside_the_latents():
    g, _ = built(ResNet(4, (8, 6), (4, 6), 1, embedding=5), num_classes=CLASSES)
    z, _, y = drawn(8)

    def plain_norm(p):
        return lambda name, h, _: modulated(h, p.weights[f"{name}.weight"], p.weights[f"{name}.bias"])

    def generate(p):
        h = p.seed(torch.cat([z, p.weights["embedding.weight"][y]], 1), 4)
        return p.last("blocks.output.norm", p.up("blocks.block1", h, plain_norm(p), None))

    compare(g, (z, y), generate)
