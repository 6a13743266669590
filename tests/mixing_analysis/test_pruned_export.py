"""Networks written with plain norms in the place of nearly binary gates, and read as users read them."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_binarized import gan_of, run_of

import norms
import sample
import stylize
from data.styles import scaled_style
from lightning_modules.classifier import Classifier
from lightning_modules.style_transfer import StyleTransfer
from mixing_analysis import binarized, pruning
from mixing_analysis.folder import renewed
from norms.errors import SettingError
from sampling.trained import TrainedGenerator
from training.images import write_image
from training.run import Run


def gates(module, *values):
    """Set the gates of the layers in turn to one of several patterns."""
    for number, (_, layer) in enumerate(norms.mixing_layers(module)):
        layer.rho.data = torch.from_numpy(np.resize(values[number % len(values)], layer.num_features)).float()
    return module.eval()


def classifier():
    torch.manual_seed(0)
    return gates(Classifier(norm="batch_instance", widths=(4, 4), depths=(1, 1)), [0.98], [0.02, 0.99], [0.5, 0.01])


DIGITS = "data.BundledDigits", {"image_size": 8, "batch_size": 64}


def test_what_is_measured_is_what_is_there(tmp_path):
    module = classifier()
    run = run_of(module, tmp_path, *DIGITS)
    pruned = pruning.export(run, 0.05, tmp_path, batches=2)
    layers = [name for name, _ in norms.mixing_layers(module)]
    kinds = ["batch", [0, 2], None]
    expected = {name: kinds[i % 3] for i, name in enumerate(layers)}
    assert pruned.layers == {name: kind for name, kind in expected.items() if kind is not None}
    assert pruned.mixing == [name for name, kind in expected.items() if kind is None]
    assert pruned.next_layer == pytest.approx(0.5) if pruned.mixing else pruned.next_layer is None
    file = tmp_path / pruning.NETWORK
    assert pruned.bytes[1] == file.stat().st_size
    weights = load_file(file)
    buffers = ("running_mean", "running_var", "num_batches_tracked", "style_image")
    assert pruned.parameters[1] == sum(v.numel() for name, v in weights.items() if not name.endswith(buffers))
    assert pruned.parameters[0] == sum(parameter.numel() for parameter in module.parameters())
    read = Run.find(file).load(Classifier)
    by_hand = copy.deepcopy(module)
    norms.binarize_(by_hand, within=0.05)
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(read(images), by_hand(images), rtol=1e-5, atol=1e-5)
    noted = json.loads((tmp_path / pruning.RECORD).read_text())
    assert noted["layers"] == pruned.layers
    assert noted["bytes"] == {"before": pruned.bytes[0], "after": pruned.bytes[1]}
    assert noted["speed"] == noted["milliseconds"]["before"] / noted["milliseconds"]["after"] > 0
    assert noted["timed"] == {"images": 64, "height": 8, "width": 8, "threads": torch.get_num_threads()}


def test_the_scores_are_those_of_the_binarized_network(tmp_path):
    module = gates(classifier(), [0.02, 0.99])
    run = run_of(module, tmp_path, *DIGITS)
    scores = pruning.export(run, 0.05, tmp_path, batches=2).scores
    rows = binarized.evaluate(run, batches=2)
    assert [score.metric for score in scores] == rows["metric"].tolist()
    assert [score.before for score in scores] == pytest.approx(rows["learned"].tolist(), rel=1e-6)
    assert [score.after for score in scores] == pytest.approx(rows["binarized"].tolist(), rel=1e-4)
    assert scores[0].before != scores[0].after


@pytest.mark.slow
def test_stylize_takes_a_pruned_network_and_paints_as_the_binarized_one(tmp_path, capsys):
    torch.manual_seed(0)
    module = StyleTransfer(widths=(4, 4, 4), num_blocks=1, style_size=64, styles=["night", "waves"], noise=0.1)
    for number, name in enumerate(module._picture_names()):
        setattr(module, name, scaled_style(module.styles[number], 64))
    gates(module, [0.98], [0.01], [0.02, 0.99])
    pruned = pruning.export(
        run_of(module, tmp_path, "data.BundledPhotos", {"image_size": 32, "batch_size": 2}), 0.05, tmp_path, 1
    )
    assert len(pruned.layers) == 7
    file = tmp_path / pruning.NETWORK
    assert pruning.next_command(pruned, tmp_path) == f"python stylize.py {file} photo.jpg -o out/"
    read = Run.find(file).load(StyleTransfer)
    assert not list(norms.mixing_layers(read))
    norms.binarize_(module, within=0.05)
    for weight in module.parameters():  # as files of style networks round them
        if weight.ndim == 4:
            weight.data = weight.data.half().float()
    photo = torch.rand(2, 3, 20, 24)
    with torch.no_grad():
        for style in (0, 1):
            torch.testing.assert_close(read(photo, style), module(photo, style), rtol=1e-5, atol=1e-5)
    write_image(photo[0], tmp_path / "photo.png")
    status = stylize.main([str(file), str(tmp_path / "photo.png"), "-o", str(tmp_path / "out"), "--style", "waves"])
    assert status == 0, capsys.readouterr().err


@pytest.mark.slow
def test_sample_takes_a_pruned_generator_and_draws_as_the_binarized_one(tmp_path, capsys):
    gan = gan_of([0.02, 0.99])
    gan.generator_ema.load_state_dict(gan.generator.state_dict())
    pruned = pruning.export(run_of(gan, tmp_path), 0.05, tmp_path)
    file = tmp_path / pruning.NETWORK
    assert pruning.next_command(pruned, tmp_path) == f"python sample.py {file} -o samples.png"
    trained = TrainedGenerator.of(gan).settled()
    norms.binarize_(trained, within=0.05)
    latents = torch.randn(4, 4)
    read = TrainedGenerator.find(file)
    assert not list(norms.mixing_layers(read))
    torch.testing.assert_close(read.draw(latents), trained.draw(latents), rtol=1e-5, atol=1e-5)
    assert sample.main([str(file), "-o", str(tmp_path / "samples.png")]) == 0, capsys.readouterr().err
    scores = {(score.metric, score.statistics): score.after for score in pruned.scores}
    assert scores["rms_change", "as trained"] > 0


def test_a_header_that_does_not_fit_is_told_in_a_line(tmp_path):
    module = classifier()
    run = run_of(module, tmp_path, *DIGITS)
    state = torch.load(run.checkpoint, weights_only=True)
    for pruned in ({"no.such.layer": "batch"}, {next(norms.mixing_layers(module))[0]: "os.system"}, ["batch"]):
        state["normlab"]["pruned"] = pruned
        torch.save(state, run.checkpoint)
        with pytest.raises(SettingError, match="pruned") as caught:
            Run.find(run.checkpoint).load(Classifier)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_pruned(tmp_path):
    run = run_of(gates(classifier(), [0.5, 0.3]), tmp_path, *DIGITS)
    with pytest.raises(SettingError, match=r"no gate is within 0.05 of an end; the nearest, of rho in .* is 0.3 away"):
        pruning.export(run, 0.05, tmp_path)
    for within in (0.5, -0.1):
        with pytest.raises(SettingError, match="--export-pruned must be"):
            pruning.check_within(within)
    with pytest.raises(SettingError, match="takes one run, got 3"):
        pruning.check_runs(3)
    assert not list(tmp_path.glob("pruned*"))


def test_an_export_stays_when_the_next_report_is_written(tmp_path):
    folder = tmp_path / "report"
    for outputs in (("page", "network"), ("page",), ("page", "network")):
        with renewed(folder, outputs) as staging:
            for name in outputs:
                (staging / name).write_text(f"{len(outputs)}")
        assert (folder / "network").read_text() == "2"
    (folder / "network").unlink()
    with renewed(folder, ("page",)) as staging:
        (staging / "page").write_text("")
    (folder / "network").write_text("somebody's")
    with pytest.raises(SettingError, match="not of a report"), renewed(folder, ("network",)):
        pass


def test_lines_say_what_was_measured(tmp_path):
    module = classifier()
    pruned = pruning.export(run_of(module, tmp_path, *DIGITS), 0.05, tmp_path, batches=1)
    text = "\n".join(pruning.lines(pruned, tmp_path))
    assert f"{len(pruned.layers)} of {len(pruned.layers) + len(pruned.mixing)} layers are plain norms now" in text
    assert f"{pruned.bytes[0]:,} bytes before, {pruned.bytes[1]:,}" in text
    assert f"{pruned.speed:.2f} times as fast" in text
    for score in pruned.scores:
        assert f"{score.metric}, statistics {score.statistics}: {score.before:.4g} before, {score.after:.4g}" in text
