"""Exported networks paint as the network does, in photos of any size and in any mixture of its styles."""

import io

import onnxruntime
import pytest
import torch

import norms
import training.graphs
from lightning_modules.style_transfer import StyleTransfer
from norms.errors import SettingError
from stylizing import graphs
from training.graphs import HEADER, check_packages, to_onnx, write_graph

SIZES = [(1, 3, 32, 48), (2, 3, 37, 21), (1, 3, 5, 3)]


def make(**options):
    torch.manual_seed(0)
    model = StyleTransfer(**{"widths": [4, 8], "num_blocks": 1, **options}).eval()
    for parameter in model.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    norms.project_(model)
    for name, statistic in model.transformer.named_buffers():
        if name.endswith("running_mean"):
            torch.nn.init.normal_(statistic)
        if name.endswith("running_var"):
            torch.nn.init.uniform_(statistic, 0.5, 2)
    return model


def runners(model):
    """Paint by torch.export and by onnxruntime, from one trace."""
    graph = graphs.trace(model)
    session = onnxruntime.InferenceSession(to_onnx(graph, {}), providers=["CPUExecutionProvider"])
    given, (made,) = session.get_inputs(), session.get_outputs()
    assert given[0].shape == made.shape == ["batch", 3, "height", "width"]
    names = [each.name for each in given]

    def by_onnx(*inputs):
        fed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(["painting"], fed)[0])

    return graph.program.module(), by_onnx


@pytest.mark.slow
@pytest.mark.parametrize("norm", norms.names())
def test_every_norm_paints_alike_in_mixtures_of_styles(norm):
    model = make(norm=norm, styles=["night", "waves", "glass"])
    for run in runners(model):
        for size, shares in zip(SIZES, ([0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]), strict=True):
            photo, style = torch.rand(size), torch.tensor(shares)
            torch.testing.assert_close(run(photo, style), model(photo, style).detach(), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"upsampling": "bilinear"}, {"channels_last": True, "widths": [4, 4, 8]}])
def test_networks_of_one_style_and_with_noise(options):
    model = make(noise=0.2, **options)
    painter = graphs.PhotoPainter(model)
    for run in runners(model):
        for size in SIZES:
            photo = torch.rand(size)
            torch.testing.assert_close(run(photo), painter(photo), atol=1e-4, rtol=0)


def test_noise_is_a_square_that_is_repeated(monkeypatch):
    monkeypatch.setattr(graphs, "TILE", 16)
    model = make(noise=0.3)
    painter = graphs.PhotoPainter(model)
    assert painter.noise.shape == (1, 3, 16, 16)
    assert painter.noise.std().item() == pytest.approx(0.3, rel=0.1)
    assert torch.equal(painter.noise, graphs.PhotoPainter(model).noise)
    photo = torch.rand(2, 3, 32, 24)
    expected = model.transformer(photo + painter.noise.repeat(1, 1, 2, 2)[..., :24])
    torch.testing.assert_close(painter(photo), expected, atol=1e-6, rtol=0)
    assert painter(photo).sub(model.transformer(photo)).abs().max() > 1e-3


@pytest.mark.slow
def test_an_archive_holds_the_header_and_no_folder_of_its_writer(tmp_path):
    model, photo = make(noise=0.1, num_blocks=0), torch.rand(1, 3, 20, 18)
    write_graph(graphs.trace(model), tmp_path / "net.pt2", {"licence": "CC0"})
    said = {HEADER: ""}
    loaded = torch.export.load(tmp_path / "net.pt2", extra_files=said).module()
    assert said[HEADER] == '{\n "licence": "CC0"\n}'
    torch.testing.assert_close(loaded(photo), graphs.PhotoPainter(model)(photo), atol=1e-5, rtol=0)
    assert str(graphs.__file__).encode() not in (tmp_path / "net.pt2").read_bytes()


@pytest.mark.slow
def test_onnx_files_hold_the_header_and_no_folder_of_their_writer():
    onnx = pytest.importorskip("onnx")
    content = to_onnx(graphs.trace(make(num_blocks=0, widths=[4])), {"licence": "CC0"})
    model = onnx.load(io.BytesIO(content))
    onnx.checker.check_model(model)
    assert {each.key: each.value for each in model.metadata_props} == {"licence": "CC0"}
    assert str(graphs.__file__).encode() not in content


def test_a_missing_package_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(training.graphs, "find_spec", lambda name: None)
    with pytest.raises(
        SettingError, match=r"^an ONNX file is written with onnx and onnxscript: pip install '.*onnx\]'$"
    ):
        check_packages(".onnx")
