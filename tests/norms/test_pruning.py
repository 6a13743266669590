"""Networks whose mixtures have chosen, pruned and held against the formulas that they have chosen."""

import copy
import io

import pytest
import torch
from torch import nn

import norms
from norms.errors import SettingError

EPS = 1e-5

SIZES = {1: (40,), 2: (5, 6), 3: (3, 4, 5)}


def draw(layer, seed=0):
    """Give a layer parameters and running statistics of all sorts, in float64."""
    generator = torch.Generator().manual_seed(seed)
    layer = layer.double().eval()
    with torch.no_grad():
        for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
            if name in ("weight", "bias", "running_mean"):
                value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype))
            elif name == "running_var":
                value.copy_(torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.5)
            elif name == "num_batches_tracked":
                value.fill_(17)
    return layer


def set_(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values, dtype=parameter.dtype))
    return parameter


def images(dims=2, channels=4):
    return torch.randn(3, channels, *SIZES[dims], dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.3


def expected(x, layer, statistics):
    """Normalize each channel by the statistics that are named for it, in plain operations."""
    parts = []
    for c, statistic in enumerate(statistics):
        own = x[:, c]
        over = tuple(range(1, own.ndim))
        if statistic == "batch":
            mean, var = layer.running_mean[c], layer.running_var[c]
        elif statistic == "instance":
            mean, var = own.mean(over, keepdim=True), own.var(over, correction=0, keepdim=True)
        else:
            everything = x.flatten(1)
            shape = (-1, *(1,) * len(over))
            mean, var = everything.mean(1).view(shape), everything.var(1, correction=0).view(shape)
        parts.append(layer.weight[c] * (own - mean) / torch.sqrt(var + EPS) + layer.bias[c])
    return torch.stack(parts, 1)


def pruned(layer, within=0.05):
    """Prune a network of one layer; return what came of it, and how it is described."""
    network = nn.Sequential(layer)
    described = norms.prune(network, within)
    return network[0], described.get("0")


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    ("rho", "plain"),
    [
        ([0.96, 1.0, 0.97, 0.99], "batch"),
        ([0.04, 0.0, 0.01, 0.02], "instance"),
        ([0.96, 0.03, 1.0, 0.0], [1, 3]),
    ],
)
def test_gates_that_have_chosen(dims, rho, plain):
    layer = draw(norms.build("batch_instance", 4, dims))
    set_(layer.rho, rho)
    before = copy.deepcopy(layer)
    norm, described = pruned(layer)
    assert described == plain
    kinds = {
        "batch": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1],
        "instance": (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 1],
    }
    assert type(norm) is (norms.SplitNorm if isinstance(plain, list) else kinds[plain])
    x = images(dims)
    chosen = ["batch" if gate > 0.5 else "instance" for gate in rho]
    torch.testing.assert_close(norm(x), expected(x, before, chosen), rtol=1e-12, atol=1e-12)
    norms.binarize_(before)
    torch.testing.assert_close(norm(x), before(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("statistic", ["instance", "layer", "batch"])
def test_switches_that_have_chosen(dims, statistic):
    layer = draw(norms.build("switchable", 4, dims))
    index = norms.STATISTICS.index(statistic)
    for logits in (layer.mean_weight, layer.var_weight):
        set_(logits, [4.0 * (i == index) for i in range(3)])
    norm, described = pruned(layer)
    kind = {"instance": "InstanceNorm", "layer": "GroupNorm", "batch": "BatchNorm"}[statistic]
    assert described == statistic
    assert type(norm).__name__ == (kind if kind == "GroupNorm" else f"{kind}{dims}d")
    x = images(dims)
    torch.testing.assert_close(norm(x), expected(x, layer, [statistic] * 4), rtol=1e-12, atol=1e-12)


def test_gates_in_between_stay_and_those_near_an_end_move():
    layer = draw(norms.build("batch_instance", 4))
    set_(layer.rho, [0.96, 0.03, 0.5, 0.94])
    norm, described = pruned(layer)
    assert norm is layer
    assert described is None
    assert layer.rho.tolist() == [1, 0, 0.5, 0.94]


def test_means_and_variances_that_have_chosen_differently_stay_a_switch():
    layer = draw(norms.build("switchable", 4))
    set_(layer.mean_weight, [5.0, 0, 0])
    set_(layer.var_weight, [0, 0, 5.0])
    norm, described = pruned(layer)
    assert norm is layer
    assert described is None
    assert [values.tolist() for values in layer.mixing_values().values()] == [[1, 0, 0], [0, 0, 1]]


def test_weights_that_are_not_near_stay():
    layer = draw(norms.build("switchable", 4))
    set_(layer.mean_weight, [0, 0, 5.0])
    set_(layer.var_weight, [0, 0, 2.0])
    kept = layer.var_weight.detach().clone()
    assert pruned(layer)[1] is None
    assert layer.var_weight.equal(kept)
    assert layer.mixing_values()["mean_weight"].tolist() == [0, 0, 1]


def test_what_is_kept():
    layer = draw(norms.build("batch_instance", 4, momentum=0.03))
    set_(layer.rho, [1.0, 0, 1, 0])
    layer.weight.requires_grad_(False)
    before = copy.deepcopy(layer)
    norm, _ = pruned(layer)
    for part, channels in ((norm.batch, [0, 1, 2, 3]), (norm.instance, [1, 3])):
        assert part.weight.equal(before.weight[channels])
        assert part.bias.equal(before.bias[channels])
        assert not part.weight.requires_grad
        assert part.bias.requires_grad
        assert not part.training
    assert norm.batch.running_mean.equal(before.running_mean)
    assert norm.batch.running_var.equal(before.running_var)
    assert (norm.batch.momentum, norm.batch.num_batches_tracked) == (0.03, 17)


@pytest.mark.parametrize("rho", [[1.0, 1, 1, 1], [0.0, 0, 0, 0], [1.0, 0, 1, 0]])
def test_a_gamma_and_beta_of_conditions_stay_with_them(rho):
    torch.manual_seed(0)
    conditional = norms.build("batch_instance", 4, num_conditions=3).double().eval()
    nn.init.normal_(conditional.weight)
    nn.init.normal_(conditional.bias)
    set_(conditional.norm.rho, rho)
    set_(conditional.norm.running_mean, [0.1, 0.2, 0.3, 0.4])
    x, condition = images(), torch.tensor([2, 0, 1])
    before = conditional(x, condition)
    assert list(norms.prune(conditional)) == ["norm"]
    assert not list(norms.mixing_layers(conditional))
    torch.testing.assert_close(conditional(x, condition), before, rtol=1e-12, atol=1e-12)


def test_without_running_statistics_the_batch_is_the_one_at_hand():
    layer = norms.build("batch_instance", 4, track_running_stats=False).double().eval()
    set_(layer.rho, [1.0, 0, 1, 1])
    x = images()
    before = layer(x)
    norm, _ = pruned(layer)
    torch.testing.assert_close(norm(x), before, rtol=1e-12, atol=1e-12)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        shared = norms.build("batch_instance", 4)
        self.blocks = nn.ModuleList([norms.build("batch_instance", 4), shared, norms.build("switchable", 4), shared])
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in self.blocks])

    def forward(self, x):
        for conv, block in zip(self.convs, self.blocks, strict=True):
            x = torch.relu(block(conv(x)))
        return x


def test_a_network_is_read_back_from_its_description_and_its_weights():
    torch.manual_seed(0)
    net = Net().eval()
    set_(net.blocks[0].rho, [0.0, 1, 0.2, 1])
    set_(net.blocks[1].rho, [0.0, 1, 1, 1])
    for logits in (net.blocks[2].mean_weight, net.blocks[2].var_weight):
        set_(logits, [0, 9.0, 0])
    binarized = copy.deepcopy(net)
    norms.binarize_(binarized, within=0.05)
    described = norms.prune(net)
    assert described == {"blocks.1": [0], "blocks.2": "layer"}
    assert net.blocks[1] is net.blocks[3]
    x = torch.randn(2, 4, 8, 9)
    torch.testing.assert_close(net(x), binarized(x), rtol=1e-5, atol=1e-5)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    fresh = Net()
    norms.prune_as(fresh, described)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert fresh.eval()(x).equal(net(x))


def test_recalibration_reaches_what_is_left_of_the_batch():
    layer = norms.build("batch_instance", 4)
    set_(layer.rho, [1.0, 0, 1, 0])
    norm, _ = pruned(layer)
    x = images().float()
    norms.recalibrate(norm, [x])
    torch.testing.assert_close(norm.batch.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.batch.running_var, x.var((0, 2, 3)))


def test_a_split_norm_trains_as_the_mixture_with_the_same_gates():
    mixture = norms.build("batch_instance", 4).double()
    set_(mixture.rho, [1.0, 0, 1, 0])
    split, _ = pruned(copy.deepcopy(mixture))
    x = images()
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    found = []
    for norm in (split, mixture):
        leaf = x.clone().requires_grad_()
        y = norm(leaf)
        (y * direction).sum().backward()
        found.append((y.detach(), leaf.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(split.batch.running_mean, mixture.running_mean)
    torch.testing.assert_close(split.batch.running_var, mixture.running_var)
    weights = torch.where(torch.tensor([True, False, True, False]), split.batch.weight.grad, 0)
    torch.testing.assert_close(weights.index_add(0, split.channels, split.instance.weight.grad), mixture.weight.grad)


@pytest.mark.parametrize("within", [-0.01, 0.5, float("nan")])
def test_thresholds_out_of_range(within):
    with pytest.raises(SettingError, match="within must be"):
        norms.prune(Net(), within)


def test_with_nothing_near_the_nearest_is_told_and_nothing_changes():
    net = Net()
    for block, rho in ((net.blocks[0], 0.5), (net.blocks[1], 0.31)):
        nn.init.constant_(block.rho, rho)
    state = copy.deepcopy(net.state_dict())
    with pytest.raises(SettingError) as caught:
        norms.prune(net)
    assert str(caught.value) == (
        "there is nothing to prune: no gate is within 0.05 of an end; the nearest, of rho in blocks.1, is 0.31 away"
    )
    assert all(value.equal(state[name]) for name, value in net.state_dict().items())
    with pytest.raises(SettingError, match="no layer of the network learns how to normalize"):
        norms.prune(nn.Sequential(nn.Conv2d(1, 1, 1)))


def test_switches_that_are_not_near_are_told():
    net = nn.Sequential(norms.build("switchable", 4))
    with pytest.raises(SettingError, match=r"no switch is within 0.05 of one statistic; .* in 0, is 0.67 away"):
        norms.prune(net)


@pytest.mark.parametrize(
    "described",
    [
        {"blocks.9": "batch"},
        {"convs.0": "batch"},
        {"blocks.0": "layer"},
        {"blocks.0": "os.system"},
        {"blocks.0": {"batch": 1}},
        {"blocks.0": []},
        {"blocks.0": [0, 1, 2, 3]},
        {"blocks.0": [0, 0]},
        {"blocks.0": [4]},
        {"blocks.0": ["0"]},
        {"blocks.2": [0]},
    ],
)
def test_descriptions_that_fit_no_network(described):
    with pytest.raises(SettingError):
        norms.prune_as(Net(), described)


def test_norms_of_others_stay():
    class Mine(norms.BatchInstanceNorm2d):
        """A class derived from ours may do what it likes."""

    net = nn.Sequential(Mine(4), norms.build("batch_instance", 4))
    assert list(norms.prune(net)) == ["1"]
    assert type(net[0]) is Mine


def test_half_precision_and_devices_are_kept():
    layer = norms.build("batch_instance", 4, dtype=torch.bfloat16)
    set_(layer.rho, [1.0, 0, 1, 0])
    norm, _ = pruned(layer)
    assert norm.batch.weight.dtype == norm.instance.bias.dtype == torch.bfloat16
    assert norm(images().bfloat16()).dtype == torch.bfloat16
