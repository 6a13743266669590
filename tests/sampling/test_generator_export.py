"""A generator in a file of its own draws what its run draws."""

import re
from pathlib import Path

import onnxruntime
import pytest
import torch
import yaml
from gan_runs import GARMENTS, make_gan, write_run
from PIL import Image
from safetensors import safe_open

from sampling.command import main as sample
from sampling.draw import draw
from sampling.export import main
from sampling.graphs import Drawing, trace
from sampling.trained import TrainedGenerator
from training.graphs import to_onnx


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret") / "version_0"
    return write_run(folder, make_gan(num_classes=10, norm="batch_instance"), "data.BundledGarments")


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "generator.safetensors"
    assert main([str(run), str(path), "--data", "garments", "--licence", "MIT"]) == 0
    return path


def test_the_file_draws_what_the_run_draws_and_settles_nothing(run, file, monkeypatch):
    expected = draw(run, 5, seed=3, labels=[2, 7], truncation=1.5)
    monkeypatch.setattr("lightning_modules.generation.recalibrate", None)
    assert torch.equal(draw(file, 5, seed=3, labels=[2, 7], truncation=1.5), expected)
    assert not torch.equal(draw(file, 5, seed=3, labels=[2, 7]), expected)


def test_the_header_tells_of_the_network_and_names_no_folder(file):
    with safe_open(file, "pt") as content:
        header = content.metadata()
    assert {key: header[key] for key in ("data", "licence")} == {"data": "garments", "licence": "MIT"}
    assert header["training"] == '{"image_size": 16, "steps": 0}'
    assert "secret" not in str(header)
    trained = TrainedGenerator.find(file)
    assert trained.class_names == list(GARMENTS)
    assert (trained.num_classes, trained.image_shape, trained.hparams["norm"]) == (10, (1, 16, 16), "batch_instance")
    assert not trained.training


def test_the_command_draws_by_class_names_and_walks(file, tmp_path, capsys):
    grid, walk = tmp_path / "a.png", tmp_path / "a.gif"
    assert sample([str(file), "-o", str(grid), "--count", "2", "--label", "Bag", "--scale", "1"]) == 0
    assert sample([str(file), "-o", str(walk), "--count", "2", "--interpolate", "2"]) == 0
    assert Image.open(walk).n_frames == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-ema"], "holds one generator alone; name the run that it was made of"),
        (["--neighbors", "2"], "--neighbors needs the run that"),
    ],
)
def test_what_a_file_cannot_do(options, message, file, tmp_path, capsys):
    assert sample([str(file), "-o", str(tmp_path / "a.png"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_file_can_be_exported_again(file, tmp_path):
    again = tmp_path / "again.safetensors"
    assert main([str(file), str(again)]) == 0
    with safe_open(file, "pt") as first, safe_open(again, "pt") as second:
        assert first.metadata() == second.metadata()
    assert torch.equal(draw(again, 2), draw(file, 2))


def test_the_live_generator_is_another(run, file, tmp_path):
    assert main([str(run), str(tmp_path / "live.safetensors"), "--no-ema"]) == 0
    assert torch.equal(draw(tmp_path / "live.safetensors", 2), draw(run, 2, averaged=False))
    assert not torch.equal(draw(tmp_path / "live.safetensors", 2), draw(file, 2))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("generator.bin", "ends in .safetensors, .onnx or .pt2"),
        ("full", "full exists: choose another name"),
        ("a.onnx", "a.onnx exists: choose another name"),
    ],
)
def test_nothing_is_replaced(name, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full" / "of things").mkdir(parents=True)
    (tmp_path / "a.onnx").touch()
    assert main([str(run), name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


FAMILIES = [
    {},
    {"num_classes": 3, "norm": "switchable"},
    {"architecture": "cnn28", "architecture_options": {"width": 0.25}},
    {"architecture": "biggan32", "architecture_options": {"width": 0.0625}, "num_classes": 3, "latent_dim": 20},
    {"architecture": "r3gan28", "architecture_options": {"width": 0.5}, "num_classes": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", FAMILIES, ids=lambda options: options.get("architecture", "resnet16"))
def test_graphs_draw_as_torch_does(options):
    trained = TrainedGenerator.of(make_gan(**options))
    graph = trace(trained)
    session = onnxruntime.InferenceSession(to_onnx(graph, {}), providers=["CPUExecutionProvider"])
    (made,) = session.get_outputs()
    assert made.name == "images"
    assert made.shape == ["batch", *trained.image_shape]
    for count in (1, 4):
        inputs = {"latents": torch.randn(count, trained.latent_dim)}
        if trained.num_classes:
            inputs["labels"] = torch.arange(count) % trained.num_classes
        expected = trained.draw(*inputs.values())
        torch.testing.assert_close(Drawing(trained)(*inputs.values()), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(graph.program.module()(*inputs.values()), expected, atol=1e-4, rtol=0)
        (by_onnx,) = session.run(["images"], {name: value.numpy() for name, value in inputs.items()})
        torch.testing.assert_close(torch.from_numpy(by_onnx), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_graph_is_written_by_the_command(run, file, tmp_path, capsys):
    assert main([str(file), str(tmp_path / "generator.pt2")]) == 0
    assert "generator.pt2 (" in capsys.readouterr().out
    said = {"network.json": ""}
    loaded = torch.export.load(tmp_path / "generator.pt2", extra_files=said).module()
    assert '"licence": "MIT"' in said["network.json"]
    latents, labels = torch.randn(2, 8), torch.tensor([1, 8])
    expected = TrainedGenerator.find(run).draw(latents, labels)
    torch.testing.assert_close(loaded(latents, labels), expected, atol=1e-4, rtol=0)


def test_a_folder_for_the_hub_has_a_card_whose_parts_are_there(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(run), "hub/", "--licence", "CC0"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "next: look at hub/README.md, then: hf upload YOU/NAME hub"
    _, matter, text = Path("hub/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(matter)["license"] == "cc0-1.0"
    assert yaml.safe_load(matter)["tags"][-1] == "batch-instance-normalization"
    assert re.findall(r"!\[[^]]*\]\(([^)]+)\)", text) == ["samples.png"]
    assert Image.open("hub/samples.png").size == (8 + 8 * 72, 8 + 10 * 72)
    assert "A row for each class: T-shirt/top, Trouser," in text
    assert "rho: mean=" in text
    monkeypatch.chdir("hub")
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    assert Image.open("image.png").size == (16, 16)
    command = re.search(r"^python sample.py (.*)$", text, re.MULTILINE)[1].split()
    assert sample([*command, "--overwrite", "--count", "1"]) == 0
