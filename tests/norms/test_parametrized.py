import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from norms import fold_, power_iterate_, sigmas, spectral_norm, weight_norm


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 4, 3)),
        weight_norm(nn.Conv2d(4, 6, 3, groups=2)),
        nn.ReLU(),
        weight_norm(nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)),
        spectral_norm(nn.ConvTranspose2d(4, 2, 3), update="step"),
        spectral_norm(nn.Conv2d(2, 2, 3, padding=1), input_size=(10, 10)),
        nn.Flatten(),
        weight_norm(nn.Linear(200, 3)),
    )


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2),
        nn.ConvTranspose2d(4, 2, 3),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Flatten(),
        nn.Linear(200, 3),
    )


def inputs():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def trained():
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model(inputs())
    return model.eval()


def test_folded_models_are_plain_and_the_same():
    model, x = trained(), inputs()
    before = model(x)
    assert fold_(model) is model
    assert torch.equal(model(x), before)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert [type(module) for module in model.modules()] == [type(module) for module in plain().modules()]
    other = plain()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), before)
    assert torch.equal(model.train()(x), before)
    assert sigmas(model) == {}


def test_folded_weights_are_parameters_that_train_as_before():
    model = trained()
    model[0].parametrizations.requires_grad_(False)
    model[1].parametrizations.requires_grad_(False)
    fold_(model)
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert set(trains) == {name for name, _ in plain().named_parameters()}
    assert [name for name, train in trains.items() if not train] == ["0.weight", "1.weight"]
    assert not list(model.buffers())


def test_folding_a_copy_leaves_the_model():
    model, x = trained(), inputs()
    before = model(x)
    file = io.BytesIO()
    torch.save(fold_(copy.deepcopy(model)), file)
    assert torch.equal(model(x), before)
    model.train()
    for _ in range(2):
        assert not torch.equal(model(x), before)
        power_iterate_(model)
    fold_(copy.deepcopy(copy.deepcopy(model)))
    model(x).sum().backward()


def test_folding_one_of_two_weights_of_a_module():
    torch.manual_seed(0)
    layer, x = nn.Bilinear(2, 3, 4), torch.randn(5, 2)
    layer.register_parameter("other", nn.Parameter(torch.randn(2, 2)))
    nn.utils.parametrizations.orthogonal(weight_norm(layer), "other")
    copied = copy.deepcopy(layer)
    weight, other = layer.weight.detach(), layer.other.detach()
    fold_(copied)
    for module in (copied, layer):
        assert torch.equal(module.weight, weight)
        assert torch.equal(module.other, other)
        module(x, torch.randn(5, 3)).sum().backward()
    assert list(copied.state_dict()) != list(layer.state_dict())
    assert not parametrize.is_parametrized(copied, "weight")
    assert parametrize.is_parametrized(copied, "other")
    assert parametrize.is_parametrized(layer, "weight")


def test_folding_a_layer_by_itself():
    torch.manual_seed(0)
    layer, x = weight_norm(nn.Linear(3, 2)), torch.randn(4, 3)
    before = layer(x)
    assert torch.equal(fold_(layer)(x), before)
    weight_norm(layer)
    torch.testing.assert_close(layer(x), before)


def test_parametrizations_of_others_are_left():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    fold_(layer)
    assert parametrize.is_parametrized(layer)


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
def test_onnx_export(folded, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, x = trained(), inputs()
    expected = model(x).detach()
    if folded:
        fold_(model)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-5, atol=1e-5)
