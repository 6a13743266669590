import json

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader
from torchvision.models import squeezenet1_1

from lightning_modules.classifier import Classifier
from lightning_modules.distillation import Distillation
from lightning_modules.networks.feature_net import FeatureNet
from training import export_features
from training.export_features import main


def trained_run(module, folder):
    generator = torch.Generator().manual_seed(0)
    items = [{"image": torch.rand(3, 32, 32, generator=generator), "label": index % 2} for index in range(4)]
    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(items, batch_size=4))
    (folder / "checkpoints").mkdir(parents=True)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    (folder / "metrics.csv").write_text("step,train/loss,val/loss\n1,0.5,\n1,,0.4\n2,0.3,\n2,,0.25\n")
    return folder


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "teacher.pth"
    torch.save(squeezenet1_1().state_dict(), path)
    return path


def test_exported_features_are_those_of_the_classifier(tmp_path, capsys):
    module = Classifier(num_classes=2, widths=(4, 6), depths=(1, 2))
    run, out = trained_run(module, tmp_path / "run"), tmp_path / "features.safetensors"
    assert main([str(run), str(out), "--data", "noise", "--licence", "MIT"]) == 0
    assert str(out) in capsys.readouterr().out
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module.feature_net.eval()(x)
    torch.testing.assert_close(FeatureNet.load(out)(x), expected, rtol=0, atol=2e-3 * float(expected.max()))
    with safe_open(out, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["data"] == "noise"
    assert metadata["licence"] == "MIT"
    assert metadata["recipe"].startswith("Classifier {")
    assert json.loads(metadata["scores"]) == {"val/loss": "0.25"}


def test_distillation_is_exported_without_the_folder_of_its_teacher(tmp_path, teacher):
    run = trained_run(Distillation(str(teacher), first_width=4, depths=(1, 1, 1, 1)), tmp_path / "run")
    out = tmp_path / "features.safetensors"
    assert main([str(run), str(out)]) == 0
    with safe_open(out, framework="pt") as file:
        recipe = file.metadata()["recipe"]
    assert "teacher.pth" in recipe
    assert str(tmp_path) not in recipe
    assert list(FeatureNet.load(out).layers) == ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]


def test_a_whole_classifier_keeps_its_last_layer_and_what_it_was_trained_on(tmp_path):
    module = Classifier(num_classes=2, norm="instance", widths=(4, 6), depths=(1, 2))
    run, out = trained_run(module, tmp_path / "run"), tmp_path / "classifier.safetensors"
    assert main([str(run), str(out), "--whole", "--data", "noise"]) == 0
    loaded = export_features.Run.find(out).load(Classifier)
    assert loaded.image_shape == (3, 32, 32)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module.eval()(x)
        torch.testing.assert_close(loaded(x), expected, rtol=0, atol=2e-3 * float(expected.abs().max()))
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["data"] == "noise"


def test_mistakes_are_one_line_and_status_2(tmp_path, capsys):
    run = trained_run(Classifier(num_classes=2, norm="instance", widths=(4,), depths=(1,)), tmp_path / "run")
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    new = tmp_path / "new.safetensors"
    for arguments, message in [
        ((run, there), "exists"),
        ((run, tmp_path / "nowhere" / "new.safetensors"), "no folder"),
        ((run, new), "norm 'instance'"),
        ((tmp_path / "missing", new), "no such run folder"),
    ]:
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert there.read_text() == "mine"
    assert not new.exists()


def test_ctrl_c_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    def load(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_features.Run, "find", load)
    assert main([str(tmp_path), str(tmp_path / "features.safetensors")]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert list(tmp_path.iterdir()) == []
